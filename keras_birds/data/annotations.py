"""What people marked in recordings, with times: selection tables and labels of several programs, and plain CSV."""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

import numpy as np

from keras_birds.audio.decode import decode, header_seconds
from keras_birds.config import AudioConfig
from keras_birds.data.annotation_tables import SUFFIXES, Row, read_rows
from keras_birds.data.names import match_labels
from keras_birds.data.reviews import SUFFIX as REVIEWS
from keras_birds.data.tables import Problems, first_of, require_none
from keras_birds.errors import AudioError, DataError
from keras_birds.labels import Label, LabelSet, near_duplicates
from keras_birds.text import printable

ROUNDING_S, OVERHANG_S = 0.05, 3.0
"""What ends later than its recording by as much is rounded, or BirdNET's last window, which is 3 s whatever is left."""

_POINT_S, _ROUNDED = 1e-3, 1e-6
_ROUGH = AudioConfig(sample_rate_hz=8000)
# Metadata of a recording may lie in JSON.
_LABELS_LIE_IN = frozenset({".txt", ".csv", ".tsv"})


@dataclass(frozen=True)
class Annotation:
    """A sound that is there from `start_s` to `end_s`, seconds in the recording; both are the same for a point.

    Frequencies and the score of a detection are NaN where the table has none; `source` and `line` say where it stands.
    """

    file: str
    start_s: float
    end_s: float
    label: str
    low_hz: float = math.nan
    high_hz: float = math.nan
    score: float = math.nan
    line: int = 0
    source: Path = Path()


@dataclass(frozen=True, eq=False)
class Annotations:
    """What tables say of recordings.

    Args:
        rows: by recording, start, end and label.
        recordings: those that somebody annotated, in the order given: tables name them, or are named after them.
        labels: of the rows, with the other names that tables have for them; in the order of their names.
        problems: all that is wrong, a line each.
        notes: what isn't wrong and was not taken as it stands: repeated rows, files that are no tables of annotations.
    """

    rows: list[Annotation]
    recordings: list[str]
    labels: LabelSet
    problems: list[str]
    notes: list[str]

    def require_clean(self) -> None:
        """Raises `DataError` if there are problems, naming the first 20 and how many more there are."""
        require_none(self.problems, "annotations")


def read_annotations(
    path: Path,
    recordings: Sequence[str | Path],
    known: LabelSet | None = None,
    seconds: Mapping[str, float] | None = None,
) -> Annotations:
    """Reads tables of annotations: Raven, Audacity, Kaleidoscope, BirdNET-Analyzer, and what `detect` writes.

    A table names its recordings, or speaks of the one that it is named after: `X.txt`, `X.Table.1.selections.txt` or
    `X.BirdNET.results.csv` of `X.wav`. Folders, the case and the ending of a recording's name may differ, as long as
    one recording fits best. A table without rows, or a row with a file and nothing else, says that there is nothing.

    Args:
        path: a table, or a folder of tables at any depth.
        recordings: that may be meant; their paths stand in `file` as they are here.
        known: labels; names that tables have for them, as `match_labels` finds them, become these. Others are a
            problem. `None` takes labels as they stand.
        seconds: lengths of recordings; those of others are read from them.

    Raises:
        DataError: if there is no table of annotations, or one can't be read.
    """
    reading = _Reading(_Recordings([str(x) for x in recordings]), known, seconds=dict(seconds or {}))
    tables = _tables_in(path)
    for table in tables:
        reading.add_table(table, table.name if path.is_file() else str(table.relative_to(path)))
    if not (reading.annotated or reading.rows or reading.problems.lines()):
        what = (
            f"without the columns of one: {tables[0].name}"
            if tables
            else "no .txt, .csv, .tsv, .json or .parquet"
        )
        more = f" and {len(tables) - 1} more" * (len(tables) > 1)
        rule = f"{path}: there must be a table of annotations of the recordings"
        raise DataError(f"{rule}. Received: {what}{more}; docs/annotations.md has those that are read")
    return reading.done()


def _tables_in(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(
            f"annotations must be a table or a folder of tables. Received: {path}, which isn't there"
        )
    found = (
        x for x in sorted(path.rglob("*")) if x.suffix.lower() in SUFFIXES and not x.name.endswith(REVIEWS)
    )
    return [x for x in found if x.is_file() and not any(y.startswith(".") for y in x.relative_to(path).parts)]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


class _Recordings:
    """Finds the recording that a name means, on whatever system the name was written."""

    def __init__(self, recordings: Sequence[str]):
        self.order = {x: i for i, x in enumerate(recordings)}
        self._by_name: dict[str, list[str]] = {}
        for x in recordings:
            name = _folded(PureWindowsPath(x).name)
            for key in {name, PureWindowsPath(name).stem}:
                self._by_name.setdefault(key, []).append(x)

    def find(self, name: str) -> list[str]:
        """Those that fit best: one where it is clear which is meant, none where none has this name."""
        parts = [_folded(x) for x in PureWindowsPath(name).parts]
        if not parts:
            return []
        last = parts[-1]
        found = self._by_name.get(last) or self._by_name.get(PureWindowsPath(last).stem, [])
        alike = [self._alike(parts[:-1], x) for x in found]
        return [x for x, n in zip(found, alike, strict=True) if n == max(alike)]

    @staticmethod
    def _alike(folders: Sequence[str], recording: str) -> int:
        """How many folders above both have the same name."""
        others = [_folded(x) for x in PureWindowsPath(recording).parts[:-1]]
        n = 0
        while n < min(len(folders), len(others)) and folders[-1 - n] == others[-1 - n]:
            n += 1
        return n

    def of_table(self, table: Path) -> list[str]:
        """Those that a table may be named after: `X.Table.1.selections.txt` after `X.wav`."""
        name = table.name
        while "." in name:
            name = name.rpartition(".")[0]
            found = self._by_name.get(_folded(name), [])
            if found:
                return self.find(str(table.with_name(PureWindowsPath(found[0]).name)))
        return []


@dataclass
class _Reading:
    """Annotations as they are found."""

    recordings: _Recordings
    known: LabelSet | None
    problems: Problems = field(default_factory=Problems)
    notes: Problems = field(default_factory=Problems)
    rows: dict[tuple[str, float, float, str], Annotation] = field(default_factory=dict)
    annotated: set[str] = field(default_factory=set)
    labels: dict[str, Label] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    matches: dict[Label, str] = field(default_factory=dict)

    def add_table(self, table: Path, name: str) -> None:
        """Reads a table, which problems call `name`."""
        name = printable(name)
        own = self.recordings.of_table(table)
        try:
            rows = read_rows(table, name, self.problems)
        except DataError as error:
            self.problems.add(str(error))
            return
        if rows is None and own and table.suffix.lower() in _LABELS_LIE_IN:
            rule = "what is named after a recording must be a table of annotations, with start, end and label"
            self.problems.add(f"{name}: {rule}. Received: something else; mend it or move it away")
            return
        if rows is None:
            self.notes.add(f"{name}: is no table of annotations, left out")
            return
        if len(own) > 1:
            rule = "a table without names of files must have the name of one recording"
            self.problems.add(
                f"{name}: {rule}. Received: {len(own)}, {first_of([printable(x) for x in own])}"
            )
            return
        if own:
            self.annotated.add(own[0])
        elif not rows:
            self.notes.add(f"{name}: has no rows and the name of no recording, left out")
        files = {row.file: self._recording(row, name, own) for row in rows}
        for row in rows:
            if file := files[row.file]:
                self.annotated.add(file)
                if not row.is_empty:
                    self._add(row, file, table, name)

    def _recording(self, row: Row, name: str, own: Sequence[str]) -> str:
        """The recording of a row; a problem and an empty text where that isn't clear."""
        found = self.recordings.find(row.file) if row.file else list(own)
        if row.file and not found and own:
            found = list(own)  # the recording had another name when it was annotated
        if len(found) == 1:
            return found[0]
        if not row.file:
            rule = "a table must name its recordings, or have the name of one: X.txt for X.wav"
            self.problems.add(f"{name}: {rule}. Received: neither")
        elif found:
            rule = "it must be clear which recording is meant"
            told = f"{printable(row.file)}, which may be {first_of([printable(x) for x in found])}"
            self.problems.add(f"{rule}. Received: {told}", row.line, name)
        else:
            rule = "the recording must be one of the data set's"
            self.problems.add(f"{rule}. Received: {printable(row.file)}", row.line, name)
        return ""

    def _add(self, row: Row, file: str, table: Path, name: str) -> None:
        if math.isnan(row.start_s) or math.isnan(row.end_s):
            return  # told when it was read
        label = self._label(row, name)
        if not label or not (end_s := self._end(row, file, name)) >= 0:
            return
        key = file, round(row.start_s, 6), round(end_s, 6), label
        if key in self.rows:
            first = self.rows[key]
            there = f"row {first.line}" + (f" of {first.source.name}" if first.source != table else "")
            self.notes.add(f"is the same as {printable(there)}, counted once", row.line, name)
            return
        about = label, row.low_hz, row.high_hz, row.score, row.line, table
        self.rows[key] = Annotation(file, row.start_s, end_s, *about)

    def _label(self, row: Row, name: str) -> str:
        """The label as it is known; a problem and an empty text where it isn't."""
        if not row.label:
            self.problems.add("an annotation must have a label", row.line, name)
            return ""
        if printable(row.label) != row.label:
            self.problems.add("a label must be UTF-8; save the table in UTF-8", row.line, name)
            return ""
        found = Label(row.label, row.scientific_name, row.common_name)
        if found not in self.matches:
            self.matches[found] = found.name
            if self.known is not None and found.name not in self.known:
                place = int(match_labels(LabelSet([found]), self.known)[0])
                self.matches[found] = self.known[place] if place >= 0 else ""
        label = self.matches[found]
        if not label:
            rule = "a label must be one of the data set's"
            self.problems.add(f"{rule}. Received: {row.label!r}", row.line, name)
            return ""
        self.labels.setdefault(label, Label(label, row.scientific_name, row.common_name))
        return label

    def _end(self, row: Row, file: str, name: str) -> float:
        """Where an annotation ends in its recording; a problem and NaN where it doesn't lie in it."""
        told = f"{row.start_s:g} to {row.end_s:g} s"
        if not 0 <= row.start_s <= row.end_s:
            self.problems.add(f"an annotation must end after it begins. Received: {told}", row.line, name)
            return math.nan
        if file not in self.seconds:
            self.seconds[file] = recording_seconds(file)
        seconds = self.seconds[file]
        if row.start_s >= seconds or row.end_s > seconds + OVERHANG_S:
            rule = f"an annotation must lie in its recording, {printable(Path(file).name)} of {seconds:.2f} s"
            hint = (
                "; a table of several recordings needs the column File Offset (s)"
                if row.file and name.endswith(".txt")
                else ""
            )
            self.problems.add(f"{rule}. Received: {told}{hint}", row.line, name)
            return math.nan
        if row.end_s > seconds + ROUNDING_S:
            over = f"{row.end_s - seconds:.2f} s after its recording, cut there"
            self.notes.add(f"ends {over}", row.line, name)
        return min(row.end_s, seconds)

    def done(self) -> Annotations:
        """What was found."""
        problems = self.problems
        if self.known is None:
            rule = (
                "labels must differ by more than case, spaces or Unicode form. Received: {}; spell them alike"
            )
            for names in near_duplicates(self.labels):
                problems.add(rule.format(" and ".join(map(repr, names))))
            labels = LabelSet(self.labels[x] for x in sorted(self.labels))
        else:
            labels = self.known
        order = self.recordings.order
        rows = sorted(self.rows.values(), key=lambda x: (order[x.file], x.start_s, x.end_s, x.label))
        annotated = sorted(self.annotated, key=lambda x: order[x])
        return Annotations(rows, annotated, labels, problems.lines(), self.notes.lines())


def recording_seconds(path: str | Path) -> float:
    """Length of a recording, by its header or else by decoding it; a recording that can't be read has none, infinity.

    What can't be read is told when recordings are checked, not as a fault of its annotations.
    """
    try:
        seconds = header_seconds(path)
        return (
            seconds if math.isfinite(seconds) else len(decode(path, _ROUGH).samples) / _ROUGH.sample_rate_hz
        )
    except AudioError:
        return math.inf


def holds(
    start_s: np.ndarray, end_s: np.ndarray, rows: Sequence[Annotation], share: float, tolerance_s: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Which stretches of a recording hold which annotations, and which they touch, both bool `[stretch, annotation]`.

    One holds an annotation if both overlap by at least `share` of the shorter of them, so that a call of 0.2 s counts
    in a window of 5 s, and a window within a song of a minute. An annotation that none holds so counts for the one that
    has most of it, as in https://github.com/birdnet-team/BirdNET-Analyzer/issues/463.

    Args:
        start_s, end_s: of stretches, `[stretch]`.
        rows: annotations of the same recording.
        share: above 0 up to 1.
        tolerance_s: so much is added to each overlap, also to one of less than nothing.
    """
    begin = np.array([x.start_s for x in rows], float)
    # A point is as short as anything that a table can tell.
    end, end_s = np.maximum([x.end_s for x in rows], begin + _POINT_S), np.maximum(end_s, start_s + _POINT_S)
    overlap_s = np.minimum(end_s[:, None], end) - np.maximum(start_s[:, None], begin) + tolerance_s
    shares = overlap_s / np.minimum((end_s - start_s)[:, None], end - begin)
    touched = shares > _ROUNDED
    # Windows are whole samples, tables have few decimals.
    held = touched & (shares >= share - _ROUNDED)
    if len(shares) and len(rows):
        held |= touched & ~held.any(axis=0) & (shares == shares.max(axis=0))
    return held, touched


def covered(
    rows: Sequence[Annotation], start_s: np.ndarray, end_s: np.ndarray, labels: LabelSet, share: float
) -> np.ndarray:
    """What is known of windows of one recording, float32 `[window, label]`: 1 there, 0 not there, -1 neither.

    A label is there in windows that hold an annotation of it (`holds`). Where a window touches one and holds none,
    nothing is known.
    """
    targets = np.zeros((len(start_s), len(labels)), np.float32)
    for label in {x.label for x in rows}:
        held, touched = holds(start_s, end_s, [x for x in rows if x.label == label], share)
        targets[touched.any(axis=1), labels.index(label)] = -1
        targets[held.any(axis=1), labels.index(label)] = 1
    return targets
