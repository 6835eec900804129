"""Our own tables: CSV, JSON and Parquet, with the columns of `detection_schema()`."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, BinaryIO, TextIO

from keras_birds.inference.recording_status import RecordingStatus
from keras_birds.results.detections import detection_schema
from keras_birds.results.writers.rows import Detection, decimal, detections, six_digits
from keras_birds.text import csv_writer

if TYPE_CHECKING:
    import pyarrow as pa

# Row groups of a size that readers like; recordings with few rows each are first put together.
_GROUP_ROWS = 65_536
_TABLES_AT_ONCE = 1024


def write_csv(recordings: Iterable[tuple[RecordingStatus, "pa.Table"]], stream: TextIO) -> None:
    """Comma-separated, with a header; quoted where a name needs it.

    Seconds have at most 6 decimals, scores 6 significant digits; `start_time` is like `2025-06-01T05:30:00.000`,
    or empty.
    """
    writer = csv_writer(stream)
    writer.writerow(Detection._fields)
    for recording, table in recordings:
        for x in detections(recording, table):
            times = (decimal(x.start_s), decimal(x.end_s), _iso(x) or "")
            names = (x.label, x.scientific_name, x.common_name)
            writer.writerow((x.file, x.channel, *times, *names, six_digits(x.score), x.model_id))


def write_json(recordings: Iterable[tuple[RecordingStatus, "pa.Table"]], stream: TextIO) -> None:
    """One list, an object a line; values as in CSV, but `start_time` is null where it isn't known."""
    before = "[\n"
    for recording, table in recordings:
        for x in detections(recording, table):
            row = x._asdict() | {
                "start_s": round(x.start_s, 6),
                "end_s": round(x.end_s, 6),
                "start_time": _iso(x),
                "score": float(six_digits(x.score)),
            }
            stream.write(before + json.dumps(row, ensure_ascii=False))
            before = ",\n"
    stream.write("[]\n" if before == "[\n" else "\n]\n")


def write_parquet(recordings: Iterable[tuple[RecordingStatus, "pa.Table"]], file: BinaryIO) -> None:
    """The tables as they are, in row groups of about 65,536 rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = detection_schema()
    waiting: list[pa.Table] = []
    rows = 0
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for _, table in recordings:
            for batch in table.to_batches(max_chunksize=_GROUP_ROWS):
                waiting.append(pa.Table.from_batches([batch]).cast(schema))
                rows += len(batch)
                if rows >= _GROUP_ROWS:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting, rows = [], 0
                elif len(waiting) == _TABLES_AT_ONCE:
                    # A table of a few rows takes kilobytes of its own.
                    waiting = [pa.concat_tables(waiting).combine_chunks()]
        if waiting:
            writer.write_table(pa.concat_tables(waiting))


def _iso(x: Detection) -> str | None:
    return x.start_time.isoformat(timespec="milliseconds") if x.start_time else None
