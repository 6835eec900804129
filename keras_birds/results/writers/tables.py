"""Our own tables: CSV, JSON and Parquet, with the columns of `detection_schema()`."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from keras_birds.inference.recording_status import RecordingStatus
from keras_birds.results.detections import detection_schema
from keras_birds.results.shards import ShardWriter
from keras_birds.results.writers.rows import Detection, decimal, detections, six_digits
from keras_birds.text import csv_writer

if TYPE_CHECKING:
    import pyarrow as pa


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


def write_parquet(recordings: Iterable[tuple[RecordingStatus, "pa.Table"]], path: Path) -> None:
    """The tables as they are, in row groups of about 65,536 rows."""
    import pyarrow as pa

    schema = detection_schema()
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = ShardWriter(path)
    try:
        writer.write(schema.empty_table())
        for _, table in recordings:
            for batch in table.to_batches():
                writer.write(pa.Table.from_batches([batch]).cast(schema))
        writer.finish()
    finally:
        writer.discard()


def _iso(x: Detection) -> str | None:
    return x.start_time.isoformat(timespec="milliseconds") if x.start_time else None
