"""Tables that other programs open: Raven, Audacity, Kaleidoscope, BirdNET-Analyzer."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

from keras_birds.inference.recording_status import RecordingStatus
from keras_birds.results.writers.rows import decimal, detections, on_one_time_line, one_line, six_digits
from keras_birds.text import csv_writer

if TYPE_CHECKING:
    import pyarrow as pa

RAVEN_COLUMNS = (
    "Selection",
    "View",
    "Channel",
    "Begin Time (s)",
    "End Time (s)",
    "Low Freq (Hz)",
    "High Freq (Hz)",
    "Begin Path",
    "File Offset (s)",
    "Common Name",
    "Scientific Name",
    "Species Code",
    "Confidence",
)
KALEIDOSCOPE_COLUMNS = (
    "INDIR",
    "FOLDER",
    "IN FILE",
    "CHANNEL",
    "OFFSET",
    "DURATION",
    "TOP1MATCH",
    "TOP1DIST",
    "MANUAL ID",
)
BIRDNET_COLUMNS = ("Start (s)", "End (s)", "Scientific name", "Common name", "Confidence", "File")


def write_raven(
    recordings: Iterable[tuple[RecordingStatus, "pa.Table"]], stream: TextIO, f_min_hz: float, f_max_hz: float
) -> None:
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
        cells = (
            str(number),
            "Spectrogram 1",
            str(max(x.channel, 1)),
            decimal(begin_s + x.start_s),
            decimal(begin_s + x.end_s),
            decimal(low_hz),
            decimal(high_hz),
            one_line(x.file),
            decimal(x.start_s),
            one_line(x.common),
            one_line(x.scientific),
            one_line(x.label),
            six_digits(x.score),
        )
        stream.write("\t".join(cells) + "\n")


def write_audacity(recordings: Iterable[tuple[RecordingStatus, "pa.Table"]], stream: TextIO) -> None:
    """An Audacity label track: start, end and text, tab-separated, without a header.

    Seconds with 6 decimals, as Audacity exports them (https://manual.audacityteam.org/man/
    importing_and_exporting_labels.html). The text is name and score, since Audacity reads no fourth column. Labels
    name no file: with several recordings the times run on over their durations, as after importing the recordings
    with scores in this order and aligning them end to end. A tab or line break in a name becomes a space.
    """
    for begin_s, _, x in on_one_time_line(recordings):
        text = one_line(f"{x.common} {x.score:.2f}")
        stream.write(f"{begin_s + x.start_s:.6f}\t{begin_s + x.end_s:.6f}\t{text}\n")


def write_kaleidoscope(recordings: Iterable[tuple[RecordingStatus, "pa.Table"]], stream: TextIO) -> None:
    """The columns of Kaleidoscope Pro's CSV of a cluster analysis that place and name a sound.

    INDIR and FOLDER are the folder above the recording's and the recording's, as BirdNET-Analyzer splits them in
    its `generate_kaleidoscope`. CHANNEL counts from 0, as in the tables that Kaleidoscope's users publish and in
    PyHa's `kaleidoscope_conversion`; the mean over channels goes on 0. TOP1DIST is a distance to the centre of a
    cluster there, small for a sure match: here it is 1 - score. MANUAL ID is left to the reviewer. A window with
    two labels has two rows.
    """
    writer = csv_writer(stream)
    writer.writerow(KALEIDOSCOPE_COLUMNS)
    for recording, table in recordings:
        folder, name = os.path.split(recording.file)
        above, folder = os.path.split(folder)
        for x in detections(recording, table):
            channel = max(x.channel, 1) - 1
            times = (decimal(x.start_s), decimal(x.end_s - x.start_s))
            writer.writerow((above, folder, name, channel, *times, x.common, six_digits(1 - x.score), ""))


def write_birdnet(recordings: Iterable[tuple[RecordingStatus, "pa.Table"]], stream: TextIO) -> None:
    """The CSV of BirdNET-Analyzer 2 (`CSV_HEADER` and `generate_csv` of `birdnet_analyzer/analyze/utils.py`).

    Seconds are Python floats there (`3.0`), so here with at least one decimal; Confidence has 4. It knows no
    channel. BirdNET-Analyzer never quotes; here a name with a comma, quote or line break is.
    """
    writer = csv_writer(stream)
    writer.writerow(BIRDNET_COLUMNS)
    for recording, table in recordings:
        for x in detections(recording, table):
            times = (decimal(x.start_s), decimal(x.end_s))
            writer.writerow((*times, x.scientific, x.common, f"{x.score:.4f}", x.file))
