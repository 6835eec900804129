"""Folders with a row of numbers of each window, as float16 `.npy` beside Parquet: written, and where their rows lie."""

import os
from abc import abstractmethod
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

import numpy as np

from keras_birds.atomic import resumable
from keras_birds.inference.scorer import RecordingScores, RecordingStatus
from keras_birds.results.journal import Entry, Journal
from keras_birds.results.shards import ShardReader, ShardWriter, place_columns, readable, shard_path
from keras_birds.results.sink import SHARD_BYTES, RecordingSink, Writer

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST_COLUMNS = (
    *("file", "status", "reason", "seconds", "seconds_expected", "sample_rate_hz", "channels"),
    *("windows", "unscored_s", "not_seen"),
)
_SUFFIX = ".npy"


def array_kinds(array: str) -> dict[str, str]:
    """Folders of a shard's files, and how the names of these end; `array` is that of the numbers."""
    return {array: _SUFFIX, "windows": ".parquet"}


class ArraySink(RecordingSink):
    """An open folder: takes recordings with a row of numbers a window as scores, and knows which are still to do.

    Args:
        folder: new, empty, or one to go on with.
        settings: what the numbers depend on, as plain data.
        width: numbers in a row.

    Raises:
        ConfigError: if the folder belongs to another model or other settings, or holds something else.
        KerasBirdsError: if it can't be written.
    """

    array: ClassVar[str]
    manifest_columns = MANIFEST_COLUMNS

    def __init__(self, folder: Path, settings: dict[str, Any], width: int):
        self._width = width
        super().__init__(folder, settings)

    @abstractmethod
    def _numbers(self, part: RecordingScores) -> np.ndarray:
        """Float16 `[window, width]` of a recording, or of a part of it."""

    def _more_columns(self, numbers: np.ndarray) -> "dict[str, pa.Array]":
        """What the table of windows has beside `file`, `channel`, `start_s` and `end_s`."""
        return {}

    def _writer(self, kind: str, path: Path) -> Writer:
        return ArrayWriter(path, self._width) if kind == self.array else ShardWriter(path)

    def _write_part(self, part: RecordingScores) -> None:
        if not len(part.scores):
            return
        numbers = self._numbers(part)
        self._write(self.array, numbers)
        self._write("windows", _window_table(part, self._more_columns(numbers)))

    def _entry(self, recording: RecordingStatus, rows: Mapping[str, int]) -> Entry:
        return Entry(recording, score_rows=rows[self.array])

    def _to_rewrite(self) -> list[int]:
        """Small shards as well, as they are written every few seconds: reading opens each of them."""
        half_full = SHARD_BYTES / 2 / (2 * self._width)
        small = [
            x for x, entries in self._journal.shards() if sum(y.score_rows for y, _ in entries) < half_full
        ]
        return sorted({*super()._to_rewrite(), *(small if len(small) > 1 else ())})

    def _copy(self, number: int) -> Iterator[Entry]:
        import pyarrow as pa

        numbers, windows, at = None, None, 0
        for entry, run in current_runs(self._journal, {number}):
            if run.count:
                if numbers is None or windows is None:
                    numbers = open_array(self.folder, self.array, number, self.contents.command)
                    windows = ShardReader(shard_path(self.folder, "windows", number))
                self._put(self.array, numbers[run.offset : run.offset + run.count])
                for _ in windows.take(run.offset - at):  # of recordings that don't count
                    pass
                for batch in windows.take(run.count):
                    self._put("windows", pa.Table.from_batches([batch]))
                at = run.offset + run.count
            yield entry


class ArrayWriter:
    """A `.npy` file of float16 `[n, width]` on its way to the disk, written as the rows come, as `ShardWriter`."""

    _HEADER_BYTES = 128

    def __init__(self, path: Path, width: int):
        self._path, self._width, self._rows = path, width, 0
        self._temporary = path.with_name(f".{path.name}.tmp")
        self._file: BinaryIO | None = None

    def write(self, rows: np.ndarray) -> None:
        """Adds rows."""
        with resumable(self._path):
            if self._file is None:
                self._path.parent.mkdir(exist_ok=True)
                self._file = self._temporary.open("wb")
                self._file.write(bytes(self._HEADER_BYTES))
            self._file.write(np.ascontiguousarray(rows, np.dtype("<f2")).data)
        self._rows += len(rows)

    def finish(self) -> None:
        """Writes how many there are, all on the disk when this returns; without any no file."""
        if self._file is None:
            return
        with resumable(self._path):
            self._file.seek(0)
            self._file.write(self._header())
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self._path)

    def _header(self) -> bytes:
        """NumPy's format 1.0, with room for any number of rows."""
        shape = f"{{'descr': '<f2', 'fortran_order': False, 'shape': ({self._rows}, {self._width}), }}"
        text = shape.ljust(self._HEADER_BYTES - 11) + "\n"
        return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()

    def discard(self) -> None:
        """Leaves nothing of a file that isn't finished."""
        with suppress(OSError):
            if self._file is not None:
                self._file.close()
            self._temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Run:
    """Windows that count and follow each other in a shard."""

    shard: int
    offset: int
    count: int


def current_runs(journal: Journal, shards: Container[int] | None = None) -> Iterator[tuple[Entry, Run]]:
    """Recordings whose windows count, with where these lie; of all shards, or of those with one of some numbers."""
    for number, entries in journal.shards():
        if shards is not None and number not in shards:
            continue
        counts = [x.score_rows for x, _ in entries]
        offsets = accumulate(counts, initial=0)
        for (entry, is_current), offset, count in zip(entries, offsets, counts, strict=False):
            if is_current:
                yield entry, Run(number, offset, count)


def open_array(folder: Path, array: str, number: int, command: str) -> np.ndarray:
    """A shard's numbers, float16 `[n, width]`, as they lie on the disk; a `DataError` if they can't be read."""
    with readable(folder, command):
        numbers: np.ndarray = np.load(shard_path(folder, array, number, _SUFFIX), mmap_mode="r")
    return numbers


def read_columns(folder: Path, number: int, names: tuple[str, ...], command: str) -> "pa.Table":
    """Columns of a shard's table of windows; a `DataError` if they can't be read."""
    import pyarrow.parquet as pq

    with readable(folder, command):
        return pq.read_table(shard_path(folder, "windows", number), columns=list(names))


def _window_table(part: RecordingScores, more: "Mapping[str, pa.Array]") -> "pa.Table":
    import pyarrow as pa

    return pa.table({**place_columns(part), **more})
