"""A store of embeddings as it is read: a folder that `keras-birds embed` writes.

STORE/journal.jsonl       the model and how recordings were cut, then which are done, as of a folder of results
STORE/manifest.csv        what became of every recording
STORE/vectors/N.npy       float16 [window, size]
STORE/windows/N.parquet   file, channel, start_s, end_s and norm, the vector's length, of the same windows
"""

import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_birds.config import AudioConfig
from keras_birds.errors import DataError
from keras_birds.inference.scorer import RecordingStatus
from keras_birds.results.arrays import Run, array_kinds, current_runs, open_array, read_columns
from keras_birds.results.journal import JOURNAL, Contents, Journal
from keras_birds.results.shards import readable

if TYPE_CHECKING:
    import pandas as pd

# A model of the same SHA-256 may be named otherwise, and has the same size and audio settings.
EMBEDDINGS = Contents("embeddings", "embed", 1, may_differ=frozenset({"model", "size", "audio"}))
VECTORS = "vectors"
KINDS = array_kinds(VECTORS)
BLOCK_ROWS = 1 << 14


@dataclass(frozen=True)
class Block:
    """Windows that follow each other.

    Args:
        first_row: the row of the first; see `EmbeddingStore`.
        vectors: float16 `[n, size]`, a view of the file.
        norms: float32 `[n]`, the vectors' lengths.
    """

    first_row: int
    vectors: np.ndarray
    norms: np.ndarray


class EmbeddingStore:
    """Embeddings of many recordings' windows, read-only and in flat memory; nothing in the folder changes.

    A window's row is its number among all that count, in the order of the shards. Of a store that is being written,
    what is whole when it is opened is there.

    Args:
        folder: of the store.

    Attributes:
        size: numbers of an embedding.
        model: what gave them, a name or a path that `keras_birds.load` takes.
        model_id: of this model.
        model_sha256: of its files.
        audio: how recordings were read and cut.
        settings: all that the embeddings depend on, as plain data; among them `overlap_s` and `channel`.

    Raises:
        DataError: if it is no store, or its journal can't be read.
    """

    def __init__(self, folder: str | Path):
        self.folder = folder = Path(folder)
        self._journal = Journal(folder, None, EMBEDDINGS)
        self.settings = self._journal.settings
        with readable(folder, EMBEDDINGS.command):
            self.size, self.model = int(self.settings["size"]), str(self.settings["model"])
            self.model_id = str(self.settings["model_id"])
            self.model_sha256 = str(self.settings["model_sha256"])
            audio = {**self.settings["audio"], "decoder": self.settings["decoder"]}
            self.audio = AudioConfig.model_validate(audio)
        self._files: list[str] = []
        self._runs: list[Run] = []
        counts = []
        for entry, run in current_runs(self._journal):
            self._files.append(entry.recording.file)
            counts.append(run.count)
            last = self._runs[-1] if self._runs else None
            if last and (last.shard, last.offset + last.count) == (run.shard, run.offset):
                self._runs[-1] = Run(run.shard, last.offset, last.count + run.count)
            else:
                self._runs.append(run)
        self._file_ends = np.cumsum(counts, dtype=np.int64)
        self._run_ends = np.cumsum([x.count for x in self._runs], dtype=np.int64)
        # Each keeps a file open, of which a process may have a thousand.
        command = EMBEDDINGS.command
        self._shard = lru_cache(64)(partial(open_array, folder, VECTORS, command=command))
        self._columns = lru_cache(256)(partial(read_columns, folder, command=command))

    def __len__(self) -> int:
        """How many windows count."""
        return int(self._run_ends[-1]) if self._runs else 0

    def rows_of(self, file: str) -> range:
        """The rows of a recording's windows; none of one that isn't there, or failed."""
        number = self._numbers.get(file)
        if number is None:
            return range(0)
        return range(int(self._file_ends[number - 1]) if number else 0, int(self._file_ends[number]))

    def recordings_of(self, rows: np.ndarray) -> np.ndarray:
        """Of each row a number of its recording."""
        return np.searchsorted(self._file_ends, rows, "right")

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {x: k for k, x in enumerate(self._files)}

    @property
    def recordings(self) -> list[RecordingStatus]:
        """What became of every recording, in the order in which they were first done."""
        return [x.recording for x in self._journal.by_file.values()]

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[Block]:
        """All windows, at most so many at a time; a `DataError` if a shard is damaged or gone."""
        for run, end in zip(self._runs, self._run_ends, strict=True):
            vectors = self._shard(run.shard)
            norms = self._columns(run.shard, ("norm",))["norm"].to_numpy()
            for at in range(0, run.count, rows):
                part = slice(run.offset + at, run.offset + min(at + rows, run.count))
                yield Block(int(end) - run.count + at, vectors[part], norms[part])

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Embeddings of some windows, float32 `[n, size]`, in the order of `rows`; a `DataError` for rows not there."""
        found = np.empty((len(rows), self.size), np.float32)
        for shard, chosen, positions in self._places(np.asarray(rows)):
            found[chosen] = self._shard(shard)[positions]
            let_go(self._shard(shard))
        return found

    def windows(self, rows: np.ndarray | None = None) -> "pd.DataFrame":
        """What windows are of: `row`, `file`, `channel`, `start_s`, `end_s`, in the order of `rows`.

        Args:
            rows: which; `None` for all.

        Raises:
            DataError: for rows that aren't there, or if a shard is damaged or gone.
        """
        import pandas as pd

        rows = np.arange(len(self)) if rows is None else np.asarray(rows, np.int64)
        channel = np.zeros(len(rows), np.int16)
        spans = np.zeros((2, len(rows)))
        for shard, chosen, positions in self._places(rows):
            table = self._columns(shard, ("channel", "start_s", "end_s"))
            channel[chosen] = table["channel"].to_numpy()[positions]
            for span, name in zip(spans, ("start_s", "end_s"), strict=True):
                span[chosen] = table[name].to_numpy()[positions]
        file = np.array(self._files, object)[self.recordings_of(rows)]
        columns = {
            "row": rows,
            "file": pd.Series(file, dtype=object),
            "channel": channel,
            "start_s": spans[0],
            "end_s": spans[1],
        }
        return pd.DataFrame(columns)

    def _places(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Shards, which of `rows` each holds, and at which of its positions."""
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            wrong = rows.min() if rows.min() < 0 else rows.max()
            raise DataError(
                f"{self.folder}: a row must be one of its {len(self)} windows, from 0. Received: {wrong}"
            )
        runs = np.searchsorted(self._run_ends, rows, "right")
        for k in np.unique(runs):
            run, chosen = self._runs[k], np.flatnonzero(runs == k)
            yield run.shard, chosen, rows[chosen] - int(self._run_ends[k]) + run.count + run.offset


def is_store(path: Path) -> bool:
    """Whether a path is a folder that `keras-birds embed` writes."""
    try:
        with (path / JOURNAL).open("rb") as file:
            header = json.loads(file.readline())
    except (OSError, ValueError):
        return False
    return isinstance(header, dict) and header.get("contents") == EMBEDDINGS.name


def let_go(vectors: np.ndarray) -> None:
    """Takes the pages of a shard that is read out of this process' memory.

    In the system's they stay, from where they come back when they are read again.
    """
    file: Any = vectors
    while file is not None and not isinstance(file, mmap.mmap):
        file = getattr(file, "base", None)
    if file is not None and hasattr(mmap, "MADV_DONTNEED"):
        file.madvise(mmap.MADV_DONTNEED)
