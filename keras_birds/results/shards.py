"""Parquet files of whole recordings, written and read a piece at a time."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_birds.atomic import resumable
from keras_birds.errors import DataError
from keras_birds.inference.scorer import RecordingScores
from keras_birds.text import storable

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_GROUP_ROWS, _GROUP_BYTES = 1 << 16, 1 << 25
_TABLES_AT_ONCE = 1024  # one of a few rows takes kilobytes of its own
_BATCH_ROWS = 1024  # few enough to be turned into Python objects at once


def shard_path(folder: Path, kind: str, number: int, suffix: str = ".parquet") -> Path:
    """Where a shard's rows of one kind lie."""
    return folder / kind / f"{number:06d}{suffix}"


@contextmanager
def readable(folder: Path, command: str) -> Iterator[None]:
    """Says of a shard that is damaged or gone which command of keras-birds wrote it: a `DataError`."""
    import pyarrow as pa

    try:
        yield
    except (OSError, ValueError, KeyError, pa.ArrowInvalid) as error:
        raise DataError(
            f"{folder} must hold the shards that its journal names. Received: {error}. If `keras-birds {command}` is "
            "at work in it, wait for its end"
        ) from None


class ShardWriter:
    """A shard on its way to the disk; it appears, whole, when it is finished, and must be discarded after an error."""

    def __init__(self, path: Path):
        self._path = path
        self._temporary = path.with_name(f".{path.name}.tmp")
        self._writer: Any = None
        self._waiting: list[pa.Table] = []
        self._plain: list[pa.Table] = []
        self._rows = self._bytes = 0

    def write(self, table: "pa.Table") -> None:
        """Adds rows; texts may be dictionaries, the file has plain columns, which every reader knows."""
        self._waiting.append(table)
        self._rows += len(table)
        self._bytes += table.nbytes
        if len(self._waiting) == _TABLES_AT_ONCE:
            self._combine()
        if self._rows >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            with resumable(self._path):
                self._write_waiting()

    def _combine(self) -> None:
        import pyarrow as pa

        table = pa.concat_tables(self._waiting)
        plain = [x.with_type(pa.string()) if pa.types.is_dictionary(x.type) else x for x in table.schema]
        self._plain.append(table.cast(pa.schema(plain)).combine_chunks())
        self._waiting = []

    def _write_waiting(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._waiting:
            self._combine()
        table = pa.concat_tables(self._plain)
        if self._writer is None:
            self._path.parent.mkdir(exist_ok=True)
            self._writer = pq.ParquetWriter(self._temporary, table.schema, compression="zstd")
        self._writer.write_table(table, _GROUP_ROWS)
        self._plain, self._rows, self._bytes = [], 0, 0

    def finish(self) -> None:
        """Writes what is left, on the disk when this returns. A shard without a table isn't written."""
        with resumable(self._path):
            if self._waiting or self._plain:
                self._write_waiting()
            if self._writer is not None:
                self._writer.close()
                with self._temporary.open("r+b") as file:  # Windows writes to the disk what may be written
                    os.fsync(file.fileno())
                self._temporary.replace(self._path)

    def discard(self) -> None:
        """Leaves nothing of a shard that isn't finished."""
        with suppress(OSError):
            if self._writer is not None:
                self._writer.close()
            self._temporary.unlink(missing_ok=True)


def open_shard(path: Path) -> "pq.ParquetFile":
    """A shard to be read, its texts as dictionaries, which take a tenth of their memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [x.name for x in pq.read_schema(path) if pa.types.is_string(x.type)]
    return pq.ParquetFile(path, read_dictionary=texts)


class ShardReader:
    """Reads a shard from its beginning, a recording at a time, all columns or some; an `OSError` where it can't."""

    def __init__(self, path: Path, columns: Sequence[str] | None = None):
        file = open_shard(path)
        self._batches = file.iter_batches(_BATCH_ROWS, columns=None if columns is None else list(columns))
        self._held: pa.RecordBatch | None = None

    def take(self, num_rows: int) -> "Iterator[pa.RecordBatch]":
        """The next rows, which must be taken before those that follow."""
        while num_rows:
            if not self._held:
                self._held = next(self._batches)
            batch = self._held.slice(0, num_rows)
            self._held = self._held.slice(len(batch))
            num_rows -= len(batch)
            yield batch


def place_columns(part: RecordingScores) -> "dict[str, pa.Array]":
    """Columns file, channel, start_s and end_s of a recording's windows, or of a part of them."""
    import pyarrow as pa

    name = pa.array([storable(part.recording.file)])
    return {
        "file": pa.DictionaryArray.from_arrays(np.zeros(len(part.scores), np.int32), name),
        "channel": pa.array(part.channel, pa.int16()),
        "start_s": pa.array(part.start_s, pa.float64()),
        "end_s": pa.array(part.end_s, pa.float64()),
    }
