"""A store of embeddings as it is written: the sink of `keras-birds embed`."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from keras_birds.atomic import resumable
from keras_birds.audio.clips import window_hop_samples
from keras_birds.checksum import sha256_of
from keras_birds.embeddings.store import EMBEDDINGS, KINDS, current_runs, open_vectors
from keras_birds.errors import ModelError
from keras_birds.inference.scorer import RecordingScores, RecordingStatus, ScoreOptions
from keras_birds.models.ensemble import Ensemble
from keras_birds.models.find import bundled_name
from keras_birds.models.library import added_name
from keras_birds.results.journal import Entry
from keras_birds.results.shards import ShardReader, ShardWriter, shard_path
from keras_birds.results.sink import SHARD_BYTES, RecordingSink, Writer
from keras_birds.text import storable

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST_COLUMNS = (
    *("file", "status", "reason", "seconds", "seconds_expected", "sample_rate_hz", "channels"),
    *("windows", "unscored_s", "not_seen"),
)


class StoreWriter(RecordingSink):
    """An open store: takes recordings with their embeddings as scores, and knows which are still to do.

    Args:
        folder: new, empty, or a store to go on with.
        settings: what the embeddings depend on, as plain data; see `store_settings`.

    Raises:
        ConfigError: if the folder belongs to another model or other settings, or holds something else.
        KerasBirdsError: if it can't be written.
    """

    contents, kinds, manifest_columns = EMBEDDINGS, KINDS, MANIFEST_COLUMNS

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self._size = int(settings["size"])
        super().__init__(folder, settings)

    def _writer(self, kind: str, path: Path) -> Writer:
        return VectorWriter(path, self._size) if kind == "vectors" else ShardWriter(path)

    def _write_part(self, part: RecordingScores) -> None:
        if not len(part.scores):
            return
        with np.errstate(over="ignore"):
            vectors = part.scores.astype(np.float16)
        if not np.isfinite(vectors).all():
            raise ModelError(
                f"Embeddings must be numbers up to {np.finfo(np.float16).max:g}. Received: "
                f"{np.abs(part.scores).max():g} in {part.recording.file}. Choose another --model"
            )
        self._write("vectors", vectors)
        self._write("windows", _window_table(part, vectors))

    def _entry(self, recording: RecordingStatus, rows: Mapping[str, int]) -> Entry:
        return Entry(recording, score_rows=rows["vectors"])

    def _to_rewrite(self) -> list[int]:
        """Small shards as well, as they are written every few seconds: searching opens each of them."""
        half_full = SHARD_BYTES / 2 / (2 * self._size)
        small = [
            x for x, entries in self._journal.shards() if sum(y.score_rows for y, _ in entries) < half_full
        ]
        return sorted({*super()._to_rewrite(), *(small if len(small) > 1 else ())})

    def _copy(self, number: int) -> Iterator[Entry]:
        import pyarrow as pa

        vectors, windows, at = None, None, 0
        for entry, run in current_runs(self._journal, {number}):
            if run.count:
                if vectors is None or windows is None:
                    vectors = open_vectors(self.folder, number)
                    windows = ShardReader(shard_path(self.folder, "windows", number))
                self._put("vectors", vectors[run.offset : run.offset + run.count])
                for _ in windows.take(run.offset - at):  # of recordings that don't count
                    pass
                for batch in windows.take(run.count):
                    self._put("windows", pa.Table.from_batches([batch]))
                at = run.offset + run.count
            yield entry


def store_settings(ensemble: Ensemble, options: ScoreOptions) -> dict[str, Any]:
    """All that a store's embeddings depend on, as plain data: those of other settings aren't mixed with these.

    Raises:
        ConfigError: if the overlap can't be used.
        ModelError: if the model gives no embeddings, or each of several members its own.
    """
    window_hop_samples(ensemble.audio, options.overlap_s)  # before a folder is made
    engine = ensemble.embedding_engine()
    path = engine.path.resolve()
    name = added_name(engine.path) or bundled_name(engine.path) if path.suffix == ".onnx" else ""
    audio = ensemble.audio.model_dump(mode="json")
    return {
        "model_id": engine.metadata.model_id,
        "model_sha256": sha256_of(path),
        "model": name or str(path),
        "size": ensemble.embedding_size,
        "decoder": audio.pop("decoder"),
        "overlap_s": options.overlap_s,
        "channel": options.channel,
        "audio": audio,
    }


class VectorWriter:
    """A `.npy` file of float16 `[n, size]` on its way to the disk, written as the rows come, as `ShardWriter`."""

    _HEADER_BYTES = 128

    def __init__(self, path: Path, size: int):
        self._path, self._size, self._rows = path, size, 0
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
        shape = f"{{'descr': '<f2', 'fortran_order': False, 'shape': ({self._rows}, {self._size}), }}"
        text = shape.ljust(self._HEADER_BYTES - 11) + "\n"
        return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()

    def discard(self) -> None:
        """Leaves nothing of a file that isn't finished."""
        with suppress(OSError):
            if self._file is not None:
                self._file.close()
            self._temporary.unlink(missing_ok=True)


def _window_table(part: RecordingScores, vectors: np.ndarray) -> "pa.Table":
    """Columns file, channel, start_s, end_s, norm."""
    import pyarrow as pa

    name = pa.array([storable(part.recording.file)])
    columns = {
        "file": pa.DictionaryArray.from_arrays(np.zeros(len(vectors), np.int32), name),
        "channel": pa.array(part.channel, pa.int16()),
        "start_s": pa.array(part.start_s, pa.float64()),
        "end_s": pa.array(part.end_s, pa.float64()),
        "norm": pa.array(np.linalg.norm(vectors.astype(np.float32), axis=1), pa.float32()),
    }
    return pa.table(columns)
