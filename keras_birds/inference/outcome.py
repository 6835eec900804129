"""What became of each recording, and the columns of what was found in it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

SCORED = frozenset({"ok", "partial", "silent"})
"""Statuses of recordings that have scores."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one recording: a row of `manifest.csv`.

    Args:
        file: the path or URL as it was given or found.
        status: `ok`, `partial` or `silent` where there are scores; `corrupt`, `empty`, `too short`, `missing` or
            `unreadable` where there are none.
        reason: why the status isn't ok.
        seconds: how much decoded; 0 where nothing did.
        seconds_expected: what the header promises; NaN where it doesn't say.
        sample_rate_hz: as recorded; 0 where unknown.
        channels: as recorded; 0 where unknown.
        windows: how many were scored, over all channels.
        unscored_s: length of a last partial window under 1 s that was dropped.
        detections: rows that it has in the tables.
        size_bytes: of the file when it was read; -1 where unknown.
        mtime_ns: of the file when it was read; -1 where unknown.
    """

    file: str
    status: str
    reason: str = ""
    seconds: float = 0.0
    seconds_expected: float = float("nan")
    sample_rate_hz: int = 0
    channels: int = 0
    windows: int = 0
    unscored_s: float = 0.0
    detections: int = 0
    size_bytes: int = -1
    mtime_ns: int = -1

    @property
    def failed(self) -> bool:
        """Whether there are no scores."""
        return self.status not in SCORED


def detection_schema() -> "pa.Schema":
    """Columns of every table of detections, in order, one row a detection.

    file            the path or URL as in `manifest.csv`; bytes that aren't UTF-8 as `\\udcXX`
    channel         from 1; 0 for the mean over channels
    start_s, end_s  in the recording; seconds
    start_time      date and time of day of `start_s`, where the file's name tells when it began
    label           as the model names it
    scientific_name, common_name   empty where the model doesn't know
    score           probability
    model_id        which model
    """
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("file", pa.string(), nullable=False),
            pa.field("channel", pa.int16(), nullable=False),
            pa.field("start_s", pa.float64(), nullable=False),
            pa.field("end_s", pa.float64(), nullable=False),
            pa.field("start_time", pa.timestamp("ms")),
            pa.field("label", pa.string(), nullable=False),
            pa.field("scientific_name", pa.string(), nullable=False),
            pa.field("common_name", pa.string(), nullable=False),
            pa.field("score", pa.float32(), nullable=False),
            pa.field("model_id", pa.string(), nullable=False),
        ]
    )
