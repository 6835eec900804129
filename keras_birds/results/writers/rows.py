"""Detections one by one, and how their numbers and names are written."""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from keras_birds.inference.scorer import RecordingStatus

if TYPE_CHECKING:
    import pyarrow as pa


class Detection(NamedTuple):
    """A row of a table of `detection_schema()`, with the same fields in the same order."""

    file: str
    channel: int
    start_s: float
    end_s: float
    start_time: datetime | None
    start_time_utc: datetime | None
    label: str
    scientific_name: str
    common_name: str
    score: float
    model_id: str
    occurrence: float | None

    @property
    def scientific(self) -> str:
        """The scientific name, or the label of what has none."""
        return self.scientific_name or self.label

    @property
    def common(self) -> str:
        """The common name, or the scientific name, or the label."""
        return self.common_name or self.scientific


def detections(recording: RecordingStatus, batches: "Iterable[pa.RecordBatch]") -> Iterator[Detection]:
    """Rows of one recording's batches. `file` is the recording's, which holds bytes that no column can."""
    for batch in batches:
        columns = [batch.column(name).to_pylist() for name in Detection._fields[1:]]
        for row in zip(*columns, strict=True):
            yield Detection(recording.file, *row)


def wide_detections(
    recording: RecordingStatus, batches: "Iterable[pa.RecordBatch]", more: Sequence[str]
) -> Iterator[tuple[Detection, dict[str, float | None]]]:
    """As `detections`, each with the numbers in some more columns."""
    for batch in batches:
        numbers = {name: batch.column(name).to_pylist() for name in more}
        for k, x in enumerate(detections(recording, [batch])):
            yield x, {name: column[k] for name, column in numbers.items()}


def on_one_time_line(
    recordings: "Iterable[tuple[RecordingStatus, Iterable[pa.RecordBatch]]]",
) -> Iterator[tuple[float, RecordingStatus, Detection]]:
    """Every detection, with when its recording begins if each begins where the one before ends; seconds."""
    begin_s = 0.0
    for recording, batches in recordings:
        for x in detections(recording, batches):
            yield begin_s, recording, x
        begin_s += recording.seconds


def decimal(value: float) -> str:
    """With a point and without an exponent, to the sixth decimal: 0.0, 2.5, 0.333333."""
    text = f"{value:.6f}".rstrip("0")
    return text + "0" if text.endswith(".") else text


def six_digits(value: float | None) -> str:
    """A score to 6 significant digits; empty where there is none."""
    return "" if value is None else f"{value:.6g}"


def one_line(text: str) -> str:
    """For formats that have no way to quote: a tab or line break becomes a space."""
    return re.sub(r"[\t\n\v\f\r\x85\u2028\u2029]", " ", text)
