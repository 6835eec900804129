"""What people said of windows of recordings: CSV tables, what is settled by them, and material for training.

A table `NAME.ogg.reviews.csv` speaks of the recording beside it, and `file` is its name. Any other `*.reviews.csv`
speaks of recordings by path: absolute, relative to the table's folder, or a URL.
"""

import math
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TextIO, get_args

import numpy as np

from keras_birds.atomic import atomic_path
from keras_birds.audio.listing import AUDIO_SUFFIXES
from keras_birds.audio.remote import is_url
from keras_birds.config import AudioConfig, MelConfig
from keras_birds.csv_table import read_records
from keras_birds.data.tables import number
from keras_birds.data.windows import Window, WindowSource
from keras_birds.errors import DataError
from keras_birds.labels import LabelSet
from keras_birds.text import csv_writer

Verdict = Literal["right", "wrong", "other", "unsure"]
"""The label is there; it isn't; it isn't, but `true_label` is; nobody could tell, so that nothing is known."""
SUFFIX = ".reviews.csv"

Place = tuple[float, float, str]
"""Start and end in seconds, and a label."""
Key = tuple[str, float, float, str, str]
Claim = tuple[str, float, float, str]
"""A recording, start and end in seconds, and a label that is there or not."""

# What tables and decoders of lossy files may differ by in a recording's end, and the rate to look for it at.
_ROUNDING_S, _ROUGH = 0.05, AudioConfig(sample_rate_hz=8000)
_saving = threading.Lock()


@dataclass(frozen=True)
class Review:
    """What somebody said of one label in one window: a row of the CSV, whose columns are these fields."""

    file: str
    """The recording: in a table of its own its name without folders, elsewhere a path or a URL."""
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
    reviewer: str = ""
    """Who said so; empty where nobody gave a name."""

    @property
    def place(self) -> Place:
        """What it speaks of, within its recording."""
        return round(self.start_s, 3), round(self.end_s, 3), self.label

    @property
    def key(self) -> Key:
        """One review each."""
        return self.file, *self.place, self.reviewer

    @property
    def targets(self) -> dict[str, float]:
        """What is known of labels: 1 there, 0 not there."""
        if self.verdict == "unsure":
            return {}
        known = {self.label: float(self.verdict == "right")}
        return known | ({self.true_label: 1.0} if self.verdict == "other" else {})


COLUMNS = tuple(x.name for x in fields(Review))
_REQUIRED = COLUMNS[: COLUMNS.index("reviewer")]  # tables of older versions don't have the others


def reviews_path(recording: str | Path) -> Path:
    """The CSV of one recording's reviews: beside it, `NAME.ogg.reviews.csv`."""
    path = Path(recording)
    return path.with_name(path.name + SUFFIX)


def file_in(path: Path, recording: str | Path) -> str:
    """What `file` must be in a table of reviews so that it speaks of a recording."""
    if is_url(recording):
        return str(recording)
    return Path(recording).name if path == reviews_path(recording) else str(Path(recording).absolute())


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
    found: dict[Key, tuple[int, Review]] = {}
    for row, cells in read_records(path, _REQUIRED, "reviews"):
        review = _review(path, row, cells)
        before, earlier = found.setdefault(review.key, (row, review))
        if earlier.targets != review.targets:
            told = f"rows {before} and {row} contradict each other on {review.label} at {review.start_s:g} s"
            raise DataError(
                f"{path}: a reviewer must have one review of a detection. Received: {told}; keep the right one"
            )
    return list(found.values())


def save_review(path: Path, review: Review) -> None:
    """Adds a review, in place of the same reviewer's of the same. Several threads may, not several processes.

    Raises:
        KerasBirdsError: if what is there can't be read, or it can't be written; what was there stays.
    """
    _change(path, review.key, review)


def remove_review(path: Path, key: Key) -> None:
    """Takes a review back; with the last one the file goes. Errors are those of `save_review`."""
    _change(path, key, None)


def _change(path: Path, key: Key, review: Review | None) -> None:
    with _saving:
        found = [x for x in read_reviews(path) if x.key != key] + ([review] if review else [])
        if not found:
            path.unlink(missing_ok=True)
            return
        with (
            atomic_path(path) as temporary,
            temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
        ):
            write_reviews(stream, sorted(found, key=lambda x: x.key))


def find_reviews(folder: Path, must_exist: bool = True) -> Iterator[Review]:
    """All reviews below a folder; `file` is where the recording is, a path or a URL.

    Raises:
        DataError: if a CSV can't be used, or if it must exist, speaks of a recording that isn't there, can't be read or
            ends before.
    """
    for path in sorted(folder.rglob(f"*{SUFFIX}")):
        by_recording: dict[str, list[tuple[int, Review]]] = defaultdict(list)
        for row, review in _numbered(path):
            recording = _recording(path, row, review.file)
            by_recording[recording].append((row, replace(review, file=recording)))
        for recording, found in by_recording.items():
            if not must_exist:
                yield from (review for _, review in found)
                continue
            row, last = max(found, key=lambda x: x[1].end_s)
            if not is_url(recording) and not Path(recording).is_file():
                rule = f"{path}: row {row}: the recording must lie where file says"
                raise DataError(f"{rule}. Received: no {recording}")
            if not len(Window(recording, max(0.0, last.end_s - _ROUNDING_S), last.end_s).read(_ROUGH)):
                rule = f"{path}: row {row}: reviews must lie in the recording"
                raise DataError(f"{rule}. Received: {last.start_s:g} to {last.end_s:g} s, after its end")
            yield from (review for _, review in found)


def _recording(path: Path, row: int, file: str) -> str:
    """Of which recording a row of a table speaks."""
    own = path.with_name(path.name.removesuffix(SUFFIX))
    if (own.is_file() or own.suffix.lower() in AUDIO_SUFFIXES) and file != own.name:
        raise DataError(f"{path}: row {row}: file must be {own.name}. Received: {file}")
    return file if is_url(file) else str((path.parent / file).resolve())


def _claims(reviews: Iterable[Review]) -> dict[Claim, list[tuple[float, Review]]]:
    claims: dict[Claim, list[tuple[float, Review]]] = defaultdict(list)
    for x in reviews:
        for label, target in x.targets.items():
            claims[x.file, *x.place[:2], label].append((target, x))
    return claims


def settled(reviews: Iterable[Review]) -> dict[Claim, float]:
    """What everybody who could tell says alike: 1 there, 0 not there."""
    return {x: said[0][0] for x, said in _claims(reviews).items() if len({y for y, _ in said}) == 1}


def disagreements(reviews: Iterable[Review]) -> dict[Claim, list[Review]]:
    """What some say is there and others that it isn't, with their reviews."""
    return {x: [y for _, y in said] for x, said in _claims(reviews).items() if len({y for y, _ in said}) > 1}


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
    return Review(**{x: row.get(x, "") for x in COLUMNS} | numbers)  # type: ignore[arg-type]


class ReviewedSource(WindowSource):
    """Images of reviewed windows, a `MelSource`.

    Attributes:
        targets: float32 `[window, label]`: 1 and 0 where reviewers say so, -1 for labels of which they say nothing or
            not the same. Windows of which nothing is settled are left out.
        unsure: number of reviews whose verdict that is.
        disagreements: number of windows and labels on which reviewers disagree.
    """

    def __init__(
        self, reviews: Iterable[Review], audio: AudioConfig, mel: MelConfig | None, labels: LabelSet
    ):
        found = list(reviews)
        windows: dict[Window, dict[str, float]] = defaultdict(dict)
        for (file, start_s, end_s, label), target in settled(found).items():
            if label not in labels:
                rule = f"{file}: reviews must name labels of the data set"
                raise DataError(f"{rule}. Received: {label} at {start_s:g} s")
            windows[Window(file, start_s, end_s)][label] = target
        super().__init__(list(windows), audio, mel)
        self.unsure = sum(x.verdict == "unsure" for x in found)
        self.disagreements = len(disagreements(found))
        self.targets = np.full((len(windows), len(labels)), -1, np.float32)
        for row, known in enumerate(windows.values()):
            for label, target in known.items():
                self.targets[row, labels.index(label)] = target


def read_reviewed(folder: str, audio: AudioConfig, mel: MelConfig | None, labels: LabelSet) -> ReviewedSource:
    """All reviewed windows below a folder; raises `DataError` if there are none, or one can't be used."""
    if not (found := list(find_reviews(Path(folder)))):
        rule = "data.reviews must be a folder with reviews"
        raise DataError(f"{rule}. Received: {folder}, without any *{SUFFIX}")
    source = ReviewedSource(found, audio, mel, labels)
    if not len(source):
        rule = "data.reviews must tell what is in some window"
        raise DataError(f"{rule}. Received: {folder}, where reviewers are unsure or disagree everywhere")
    for row in range(len(source)):
        source.samples(row)  # now, not in the middle of an epoch
    return source
