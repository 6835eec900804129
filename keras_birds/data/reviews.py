"""What people said of detections: a CSV beside each recording, and the material for training that it makes."""

import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TextIO, get_args

import numpy as np

from keras_birds.atomic import atomic_path
from keras_birds.config import AudioConfig, MelConfig
from keras_birds.csv_table import read_records
from keras_birds.data.tables import number
from keras_birds.data.windows import Window, WindowSource
from keras_birds.errors import DataError
from keras_birds.labels import LabelSet
from keras_birds.text import csv_writer

Verdict = Literal["right", "wrong", "other"]
"""The label is there; it isn't; it isn't, but `true_label` is."""
SUFFIX = ".reviews.csv"

# What tables and decoders of lossy files may differ by in a recording's end, and the rate to look for it at.
_ROUNDING_S, _CHECK_HZ = 0.05, 8000
_saving = threading.Lock()


@dataclass(frozen=True)
class Review:
    """What was said of one detection: a row of the CSV, whose columns are these fields."""

    file: str
    """The recording's name, without folders."""
    start_s: float
    end_s: float
    label: str
    score: float
    """Not calibrated."""
    model_id: str
    verdict: Verdict
    true_label: str = ""
    """What it is, with `other`; else empty."""
    reviewed_at: str = ""
    """UTC, for instance `2025-06-01T05:30:00Z`."""

    @property
    def place(self) -> tuple[float, float, str]:
        """What it speaks of: one review each."""
        return round(self.start_s, 3), round(self.end_s, 3), self.label

    @property
    def targets(self) -> dict[str, float]:
        """What is known of labels: 1 there, 0 not there."""
        known = {self.label: float(self.verdict == "right")}
        return known | ({self.true_label: 1.0} if self.verdict == "other" else {})


COLUMNS = tuple(x.name for x in fields(Review))


def reviews_path(recording: str | Path) -> Path:
    """The CSV of a recording's reviews: beside it, `NAME.ogg.reviews.csv`."""
    path = Path(recording)
    return path.with_name(path.name + SUFFIX)


def now() -> str:
    """The time for `reviewed_at`."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_reviews(path: Path) -> list[Review]:
    """Reads a CSV of reviews, none where there is no file; raises `DataError` if it can't be used."""
    return [review for _, review in _numbered(path)]


def _numbered(path: Path) -> list[tuple[int, Review]]:
    """Reviews with the lines of the file on which they begin."""
    if not path.exists():
        return []
    found: dict[tuple[float, float, str], tuple[int, Review]] = {}
    for row, cells in read_records(path, COLUMNS, "reviews"):
        review = _review(path, row, cells)
        before, earlier = found.setdefault(review.place, (row, review))
        if earlier.targets != review.targets:
            told = f"rows {before} and {row} contradict each other on {review.label} at {review.start_s:g} s"
            raise DataError(f"{path}: a detection must have one review. Received: {told}; keep the right one")
    return list(found.values())


def save_review(path: Path, review: Review) -> None:
    """Adds a review, in place of one of the same detection. Several threads may, not several processes.

    Raises:
        KerasBirdsError: if what is there can't be read, or it can't be written; what was there stays.
    """
    _change(path, review.place, review)


def remove_review(path: Path, place: tuple[float, float, str]) -> None:
    """Takes a review back; with the last one the file goes. Errors are those of `save_review`."""
    _change(path, place, None)


def _change(path: Path, place: tuple[float, float, str], review: Review | None) -> None:
    with _saving:
        found = [x for x in read_reviews(path) if x.place != place] + ([review] if review else [])
        if not found:
            path.unlink(missing_ok=True)
            return
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
            write_reviews(stream, sorted(found, key=lambda x: x.place))


def find_reviews(folder: Path) -> Iterator[tuple[Path, Review]]:
    """All reviews below a folder, each with its recording.

    Raises:
        DataError: if a CSV can't be used, or speaks of a recording that isn't beside it, can't be read or ends before.
    """
    for path in sorted(folder.rglob(f"*{SUFFIX}")):
        recording = path.with_name(path.name.removesuffix(SUFFIX))
        if not (found := _numbered(path)):
            continue
        for row, review in found:
            if review.file != recording.name:
                raise DataError(f"{path}: row {row}: file must be {recording.name}. Received: {review.file}")
        if not recording.is_file():
            rule = "the recording must lie beside its reviews"
            raise DataError(f"{path}: {rule}. Received: no {recording.name}")
        row, last = max(found, key=lambda x: x[1].end_s)
        if not len(Window(recording, max(0.0, last.end_s - _ROUNDING_S), last.end_s).read(_CHECK_HZ)):
            rule = f"{path}: row {row}: reviews must lie in the recording"
            raise DataError(f"{rule}. Received: {last.start_s:g} to {last.end_s:g} s, after its end")
        yield from ((recording, review) for _, review in found)


def write_reviews(stream: TextIO, reviews: Iterable[Review]) -> None:
    """Writes the CSV."""
    writer = csv_writer(stream)
    writer.writerow(COLUMNS)
    for x in reviews:
        numbers = {"start_s": f"{x.start_s:.3f}", "end_s": f"{x.end_s:.3f}", "score": f"{x.score:.6g}"}
        writer.writerow((asdict(x) | numbers).values())


def _review(path: Path, line: int, row: dict[str, str]) -> Review:
    def refuse(rule: str, received: object) -> DataError:
        return DataError(f"{path}: row {line}: {rule}. Received: {received}")

    numbers = {}
    for name in ("start_s", "end_s", "score"):
        numbers[name], _ = number(row[name])
        if math.isnan(numbers[name]):
            raise refuse(f"{name} must be a number", repr(row[name]))
    verdict = row["verdict"]
    if verdict not in get_args(Verdict):
        raise refuse(f"verdict must be one of {', '.join(get_args(Verdict))}", repr(verdict))
    if (verdict == "other") != bool(row["true_label"]):
        rule = "there must be a true_label with the verdict other, and only then"
        raise refuse(rule, f"{row['true_label']!r} with {verdict}")
    if not 0 <= numbers["start_s"] < numbers["end_s"]:
        raise refuse("a detection must end after it begins", f"{row['start_s']} to {row['end_s']}")
    return Review(**{x: row[x] for x in COLUMNS} | numbers)  # type: ignore[arg-type]


class ReviewedSource(WindowSource):
    """Images of reviewed windows, a `MelSource`.

    Attributes:
        targets: float32 `[window, label]`: 1 and 0 where the review says so, -1 for labels of which it says nothing.
    """

    def __init__(
        self,
        windows: Sequence[tuple[Path, Review]],
        audio: AudioConfig,
        mel: MelConfig | None,
        labels: LabelSet,
    ):
        super().__init__([Window(path, x.start_s, x.end_s) for path, x in windows], audio, mel)
        self.targets = np.full((len(windows), len(labels)), -1, np.float32)
        rule = "reviews must name labels of the data set"
        for row, (path, review) in enumerate(windows):
            for label, target in review.targets.items():
                if label not in labels:
                    raise DataError(f"{path}: {rule}. Received: {label} at {review.start_s:g} s")
                self.targets[row, labels.index(label)] = target


def read_reviewed(folder: str, audio: AudioConfig, mel: MelConfig | None, labels: LabelSet) -> ReviewedSource:
    """All reviewed windows below a folder; raises `DataError` if there are none, or one can't be used."""
    if not (found := list(find_reviews(Path(folder)))):
        rule = "data.reviews must be a folder with reviews"
        raise DataError(f"{rule}. Received: {folder}, without any *{SUFFIX}")
    source = ReviewedSource(found, audio, mel, labels)
    for row in range(len(source)):
        source.samples(row)  # now, not in the middle of an epoch
    return source
