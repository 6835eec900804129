"""What people said of a store's windows: `marks.reviews.csv`, by the store's rows."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from keras_birds.audio.remote import is_url
from keras_birds.data import reviews as kept
from keras_birds.data.reviews import Review, Verdict, disagreements, settled
from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.errors import KerasBirdsError

MARKS = "marks.reviews.csv"
WORDS: dict[Verdict, str] = {"right": "✓ yes", "wrong": "✗ no", "unsure": "? unsure", "other": "✗ another"}


@dataclass(frozen=True)
class Mark:
    """What somebody says of a label in a window of a store; no verdict takes back what they said.

    The score is why the window was shown: its similarity to what was searched for, or a quick head's.
    """

    row: int
    label: str
    verdict: Verdict | None
    reviewer: str
    score: float


@dataclass(frozen=True)
class Marks:
    """Reviews of one label in windows of a store.

    Args:
        by_row: of each row, what was said.
        labels: of which there are marks at all.
        elsewhere: how many of this label's marks are of no window of the store.
    """

    by_row: Mapping[int, Sequence[Review]]
    labels: tuple[str, ...]
    elsewhere: int

    def of(self, reviewer: str) -> dict[int, Review]:
        """What one of them said."""
        return {row: x for row, said in self.by_row.items() for x in said if x.reviewer == reviewer}

    def of_others(self, row: int, reviewer: str) -> str:
        """What the others said of a window; where people disagree, that comes first."""
        said = self.by_row.get(row, ())
        others = ", ".join(
            f"{x.reviewer or 'somebody'} {WORDS[x.verdict]}" for x in said if x.reviewer != reviewer
        )
        return ("≠ " if disagreements(said) else "") + others

    @property
    def settled(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of which everybody who could tell says the same of the label, and that: 1 there, 0 not there."""
        found = {
            row: target
            for row, said in self.by_row.items()
            for (_, _, _, label), target in settled(said).items()
            if label == said[0].label
        }
        return np.array(list(found), np.int64), np.array(list(found.values()), np.float32)

    @property
    def disputed(self) -> list[int]:
        """Rows of which people disagree."""
        return [row for row, said in self.by_row.items() if disagreements(said)]


def read_marks(path: Path, store: EmbeddingStore, label: str) -> Marks:
    """Reads what was said of a label; a `DataError` if the table can't be used."""
    found: dict[int, list[Review]] = defaultdict(list)
    labels: dict[str, None] = {}
    elsewhere = 0
    names = _names(store)
    for x in _reviews(path):
        labels[x.label] = None
        if x.label != label:
            continue
        file = names.get(_absolute(x.file, path.parent), "")
        row = _rows_by_time(store, file).get(x.place[:2])
        if row is None:
            elsewhere += 1
        else:
            found[row].append(x)
    return Marks(found, tuple(labels), elsewhere)


def save_mark(path: Path, store: EmbeddingStore, mark: Mark) -> None:
    """Keeps a mark in place of the same reviewer's of the same, or takes that back.

    Raises:
        KerasBirdsError: if what is there can't be read, or it can't be written; what was there stays.
    """
    window = store.windows(np.array([mark.row])).iloc[0]
    mine = read_marks(path, store, mark.label).of(mark.reviewer).get(mark.row)
    if mark.verdict is None:
        if mine:
            kept.remove_review(path, mine.key)
        return
    file = mine.file if mine else kept.file_in(path, str(window["file"]))
    place = file, float(window["start_s"]), float(window["end_s"]), mark.label
    # `calibrate` takes reviews of a run's own scores by their model, and these are none.
    by = f"find:{store.model_id}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KerasBirdsError(f"{path.parent} must be a folder for marks. Received: {error}") from None
    said = Review(*place, mark.score, by, mark.verdict, reviewed_at=kept.now(), reviewer=mark.reviewer)
    kept.save_review(path, said)


def _reviews(path: Path) -> list[Review]:
    try:
        state = path.stat()
    except FileNotFoundError:
        return []
    return _reviews_as_of(path, state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(8)
def _reviews_as_of(path: Path, *state: int) -> list[Review]:  # noqa: ARG001 - of the cache
    return kept.read_reviews(path)


@lru_cache(8)
def _names(store: EmbeddingStore) -> dict[str, str]:
    """The store's recordings by where they lie."""
    return {_absolute(x.file, Path()): x.file for x in store.recordings}


@lru_cache(4096)
def _rows_by_time(store: EmbeddingStore, file: str) -> dict[tuple[float, float], int]:
    """A recording's rows by start and end; of several channels' the first."""
    windows = store.windows(np.array(store.rows_of(file), np.int64))
    times = zip(windows["start_s"].round(3), windows["end_s"].round(3), strict=True)
    return {time: int(row) for time, row in reversed(list(zip(times, windows["row"], strict=True)))}


def _absolute(file: str, folder: Path) -> str:
    return file if is_url(file) else os.path.normpath((folder / file).absolute())
