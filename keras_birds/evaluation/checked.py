"""What people said of windows, found again in a folder of results: by clips, by tables, by recordings."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np

from keras_birds.audio.remote import is_url
from keras_birds.csv_table import read_records
from keras_birds.data.reviews import Review, Verdict, find_reviews
from keras_birds.errors import DataError
from keras_birds.results.segments import SEGMENT_COLUMNS
from keras_birds.results.strata import STRATA, WindowScores, read_strata

SEGMENTS = "segments.csv"


class Mark(NamedTuple):
    """What somebody said of a label in a window: 1 there, 0 not, NaN if unsure; channel -1 where it isn't told."""

    label: str
    file: str
    channel: int
    start_s: float
    end_s: float
    target: float


@dataclass(frozen=True, eq=False)
class Checked:
    """A folder of reviews.

    Attributes:
        marks: one for each person and window.
        strata: edges and numbers of windows by label, where the clips were drawn from bins; else empty.
        drawn: how many clips of each label there are, where there is a table of them.
        left_out: how many reviews say nothing of a window that was drawn, by the reason.
    """

    marks: list[Mark]
    strata: dict[str, tuple[np.ndarray, np.ndarray]]
    drawn: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)


def read_checked(folder: Path) -> Checked:
    """Reads what was said of the clips of `segments` below a folder, in `segments.csv` or in the app, or of recordings.

    With a table of clips only these count: what people look at of their own choice is no random draw.

    Raises:
        DataError: if a table can't be used, or nothing is reviewed.
    """
    table = folder / SEGMENTS
    strata = read_strata(folder / STRATA) if (folder / STRATA).is_file() else {}
    found = Checked([], strata)
    clips: dict[str, tuple[Mark, float]] = {}
    for row, cells in read_records(table, SEGMENT_COLUMNS, "segments") if table.is_file() else ():
        mark, is_said, begin_s = _segment(table, row, cells)
        found.drawn[mark.label] += 1
        clips[str((folder / cells["clip"]).resolve())] = mark, begin_s
        if is_said:
            found.marks.append(mark)
    for review in find_reviews(folder):
        target = review.targets.get(review.label, np.nan)
        if not clips:
            place = review.label, review.file, -1, review.start_s, review.end_s
            found.marks.append(Mark(*place, target))
        elif review.file not in clips:
            found.left_out["of what wasn't drawn"] += 1
        elif reason := _misses(review, *clips[review.file]):
            found.left_out[reason] += 1
        else:
            found.marks.append(clips[review.file][0]._replace(target=target))
    if not found.marks:
        rule = (
            f"--reviews must be a folder with reviews: marks of the app, or the column review of {SEGMENTS}"
        )
        others = "".join(f"; {count} {reason}" for reason, count in found.left_out.items())
        raise DataError(f"{rule}. Received: {folder}, without any{others}")
    return found


def _segment(table: Path, row: int, cells: dict[str, str]) -> tuple[Mark, bool, float]:
    """A row's window, whether something is said of it, and where the clip begins in the recording."""
    said = cells["review"].strip().lower()
    if said and said not in get_args(Verdict):
        rule = f"review must be empty or one of {', '.join(get_args(Verdict))}"
        raise DataError(f"{table}: row {row}: {rule}. Received: {cells['review']!r}")
    try:
        times = [float(cells[x]) for x in ("start_s", "end_s", "clip_start_s")]
        channel = int(cells["channel"])
    except ValueError as error:
        raise DataError(
            f"{table}: row {row}: times and channels must be numbers. Received: {error}"
        ) from None
    target = {"right": 1.0, "unsure": np.nan}.get(said, 0.0)
    start_s, end_s, clip_begin_s = times
    return Mark(cells["label"], cells["file"], channel, start_s, end_s, target), bool(said), clip_begin_s


def _misses(review: Review, mark: Mark, clip_begin_s: float) -> str:
    """Why a review of a clip says nothing of the window for which it was cut; empty if it does."""
    middle_s = (mark.start_s + mark.end_s) / 2 - clip_begin_s
    if review.label != mark.label:
        return "of another label than the clip's"
    return "" if review.start_s <= middle_s <= review.end_s else "of another part of the clip"


@dataclass(frozen=True, eq=False)
class Answers:
    """Of one label: rows of the windows that people could tell, whether each holds the call, and how many couldn't."""

    rows: np.ndarray
    target: np.ndarray
    unsure: int
    disagreements: int
    elsewhere: int
    """Reviews of windows that the results don't have."""


def answers(marks: Sequence[Mark], label: str, found: WindowScores) -> Answers:
    """Finds the windows of a label's marks, and what everybody who could tell says alike."""
    mine = [x for x in marks if x.label == label]
    windows = _windows(mine, found)
    said: dict[int, set[float]] = defaultdict(set)
    elsewhere = 0
    for mark in mine:
        times = round(1000 * mark.start_s), round(1000 * mark.end_s)
        in_file = windows.get(mark.file, {}).get(times, ())
        heard = [k for k in in_file if mark.channel in (-1, found.channel[k])]
        elsewhere += not heard
        for row in heard:
            said[row] |= set() if np.isnan(mark.target) else {mark.target}
    settled = {row: min(x) for row, x in said.items() if len(x) == 1}
    unsure, contested = (sum(len(x) == n for x in said.values()) for n in (0, 2))
    rows = np.array(sorted(settled), int)
    return Answers(rows, np.array([settled[x] for x in rows.tolist()]), unsure, contested, elsewhere)


def _windows(marks: Sequence[Mark], found: WindowScores) -> dict[str, dict[tuple[int, int], list[int]]]:
    """Rows of the windows of marked recordings, by what marks call these and by times in milliseconds."""
    wanted, numbers = {x.file for x in marks}, {}
    for number, recording in enumerate(found.recordings):
        for name in _names(recording.file):
            if name in wanted:
                numbers[name] = number
    by_number: dict[int, dict[tuple[int, int], list[int]]] = {x: defaultdict(list) for x in numbers.values()}
    for row in np.flatnonzero(np.isin(found.recording, list(by_number))).tolist():
        times = round(1000 * found.start_s[row]), round(1000 * found.end_s[row])
        by_number[int(found.recording[row])][times].append(row)
    return {name: by_number[number] for name, number in numbers.items()}


def _names(file: str) -> Iterator[str]:
    """What a recording of results may be called: as there, or where it lies from here."""
    yield file
    if not is_url(file):
        yield str(Path(file).resolve())
