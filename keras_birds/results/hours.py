"""Counts recorded time and detections by place and hour: of millions of rows, in memory for those that differ."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from keras_birds.inference.scorer import RecordingStatus
from keras_birds.labels import Label
from keras_birds.results.journal import Entry
from keras_birds.results.shards import readable, shard_path

HOUR_MS = 3_600_000

Where = Callable[[RecordingStatus], tuple[int, datetime] | None]
"""Tells of a recording the number of its place and when it began, local time; `None` where it doesn't count."""
Shards = Iterable[tuple[int, list[tuple[Entry, bool]]]]
"""Numbers of shards, each with its entries and whether they count, as of `Journal.shards`."""
Least = Callable[[Label], float | None]
"""Tells the score from which a label counts; `None` where it never does."""

_NAMES = ("label", "scientific_name", "common_name")
_ROWS_AT_ONCE, _WAITING_ROWS = 1 << 16, 1 << 18
_BITS = 20  # of a number: hours reach to the year 2089


class Recorded(NamedTuple):
    """Recorded time, a row for each place and hour of local time since 1970 in which there is some, `[row]` each."""

    place: np.ndarray
    hour: np.ndarray
    seconds: np.ndarray


class Detected(NamedTuple):
    """Detections, a row for each label, place and hour as in `Recorded` with some, `[row]` each."""

    label: np.ndarray
    place: np.ndarray
    hour: np.ndarray
    number: np.ndarray


@dataclass(frozen=True, eq=False)
class HourlyCounts:
    """What was recorded and detected where and when.

    Args:
        labels: that count and have a detection of any score, by name.
        recorded: by place and hour, what was scored, without what was left out because of voices.
        begun: recordings by place and hour in which they began; `seconds` counts them.
        detected: by label, its number in `labels`, place and hour.
    """

    labels: Sequence[Label]
    recorded: Recorded
    begun: Recorded
    detected: Detected


@dataclass(frozen=True, eq=False)
class Activity:
    """Detections by label and hour of day, int64 `[label, 24]`, and seconds recorded in each hour, `[24]`."""

    labels: Sequence[Label]
    detections: np.ndarray
    recorded_s: np.ndarray

    @classmethod
    def of(cls, counts: HourlyCounts) -> Self:
        """Sums over places and days."""
        detections, recorded_s = np.zeros((len(counts.labels), 24), np.int64), np.zeros(24)
        np.add.at(recorded_s, counts.recorded.hour % 24, counts.recorded.seconds)
        np.add.at(detections, (counts.detected.label, counts.detected.hour % 24), counts.detected.number)
        return cls(counts.labels, detections, recorded_s)


def count_by_hour(folder: Path, shards: Shards, where: Where, least: Least | None = None) -> HourlyCounts:
    """Counts a folder of results, one shard after the other.

    Args:
        folder: of the results.
        shards: of its `Journal`, which is needed no longer once they are read.
        where: asked once of each scored recording.
        least: asked once of each detected label; `None` counts every detection there is.

    Raises:
        DataError: if tables are damaged or vanish, as when another process goes on.
    """
    recorded, begun, detected = Tally(2), Tally(2), Tally(3)
    labels = _Labels(least)
    with readable(folder, "detect"):
        for number, entries in shards:
            place, begin_ms = _places([x for x, _ in entries], [x for _, x in entries], where)
            _add_recorded(recorded, entries, place, begin_ms)
            counts = place >= 0
            begun.add((place[counts], begin_ms[counts] // HOUR_MS), np.ones(counts.sum(), np.int32))
            num_rows = [x.recording.detections for x, _ in entries]
            _add_detected(
                detected, labels, shard_path(folder, "detections", number), num_rows, place, begin_ms
            )
    order = sorted(range(len(labels.known)), key=lambda k: labels.known[k].name)
    return HourlyCounts(
        [labels.known[k] for k in order], _recorded(recorded), _recorded(begun), _detected(detected, order)
    )


def _recorded(tally: "Tally") -> Recorded:
    (place, hour), seconds = tally.sums()
    is_some = seconds > 1e-6  # of an hour that was left out, rounding may remain
    return Recorded(place[is_some], hour[is_some], seconds[is_some])


def _detected(tally: "Tally", order: Sequence[int]) -> Detected:
    """Rows by label in a new order."""
    numbers, sums = tally.sums()
    first, end = (np.searchsorted(numbers[0], order, side) for side in ("left", "right"))
    label = np.repeat(np.arange(len(order), dtype=np.int32), end - first)
    place, hour, number = (
        np.concatenate([x[:0], *(x[y:z] for y, z in zip(first, end, strict=True))])
        for x in (*numbers[1:], sums.astype(np.int32))
    )
    return Detected(label, place, hour, number)


def _places(
    entries: Sequence[Entry], is_current: Sequence[bool], where: Where
) -> tuple[np.ndarray, np.ndarray]:
    """Of each entry the number of its place, -1 where it doesn't count, and when it began; ms since 1970."""
    place, begin_ms = np.full(len(entries), -1), np.zeros(len(entries), np.int64)
    for k, (entry, counts) in enumerate(zip(entries, is_current, strict=True)):
        found = where(entry.recording) if counts and entry.recording.has_scores else None
        if found is not None:
            place[k], begin_ms[k] = found[0], np.datetime64(found[1], "ms").astype(np.int64)
    return place, begin_ms


def _add_recorded(
    tally: "Tally", entries: Sequence[tuple[Entry, bool]], place: np.ndarray, begin_ms: np.ndarray
) -> None:
    parts: list[tuple[int, float, float, int]] = []
    for k in np.flatnonzero(place >= 0).tolist():
        recording = entries[k][0].recording
        parts += [(k, begin_s, end_s, 1) for begin_s, end_s in recording.scored_parts_s]
        parts += [(k, begin_s, end_s, -1) for begin_s, end_s in recording.left_out_s]
    of, first_s, last_s, sign = np.array(parts).reshape(-1, 4).T
    of = of.astype(np.int64)
    first, last = (begin_ms[of] + np.round(x * 1000).astype(np.int64) for x in (first_s, last_s))
    row, hour, seconds = split_hours(first, last)
    tally.add((place[of[row]], hour), seconds * sign[row])


def split_hours(begin_ms: np.ndarray, end_ms: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Splits spans of time at whole hours.

    Args:
        begin_ms, end_ms: int64 `[span]`, since 1970.

    Returns:
        The span, the hour since 1970 and the seconds of each piece, `[piece]`.
    """
    first, last = begin_ms // HOUR_MS, -(-end_ms // HOUR_MS)
    pieces = np.where(end_ms > begin_ms, last - first, 0)
    span = np.repeat(np.arange(len(begin_ms)), pieces)
    hour = first[span] + np.arange(len(span)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    from_ms, until_ms = (
        np.maximum(begin_ms[span], hour * HOUR_MS),
        np.minimum(end_ms[span], (hour + 1) * HOUR_MS),
    )
    return span, hour, (until_ms - from_ms) / 1000


def _add_detected(
    tally: "Tally",
    labels: "_Labels",
    path: Path,
    num_rows: Sequence[int],
    place: np.ndarray,
    begin_ms: np.ndarray,
) -> None:
    """Counts a shard's detections; its rows are those of its recordings, in order."""
    if not sum(num_rows):
        return
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path, read_dictionary=list(_NAMES))
    recording = np.repeat(np.arange(len(place), dtype=np.int32), num_rows)
    at = 0
    for batch in file.iter_batches(_ROWS_AT_ONCE, columns=["start_s", "score", *_NAMES]):
        of = recording[at : at + len(batch)]
        at += len(batch)
        number, least = labels.of(batch)
        counts = (place[of] >= 0) & (batch["score"].to_numpy() >= least)
        of = of[counts]
        start_ms = np.round(batch["start_s"].to_numpy()[counts] * 1000).astype(np.int64)
        tally.add(
            (number[counts], place[of], (begin_ms[of] + start_ms) // HOUR_MS), np.ones(len(of), np.int32)
        )


class _Labels:
    """Numbers labels that count as they come, with the least score of each."""

    def __init__(self, least: Least | None):
        self._least_of = least
        self._number: dict[str, int] = {}
        self.known: list[Label] = []
        self._least: list[float] = []

    def of(self, batch) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[no-untyped-def]
        """The label of each row of a `pyarrow.RecordBatch`, -1 where it never counts; its least score, float32."""
        indices, names = batch["label"].indices.to_numpy(), batch["label"].dictionary.to_pylist()
        if not self._number.keys() >= set(names):
            for code, row in zip(*np.unique(indices, return_index=True), strict=True):
                if names[code] not in self._number:
                    self._add(Label(*(batch[x][int(row)].as_py() for x in _NAMES)))
        numbers = np.array([self._number.get(x, -1) for x in names], np.int64)[indices]
        return numbers, np.array([*self._least, np.inf], np.float32)[numbers]

    def _add(self, label: Label) -> None:
        least = 0.0 if self._least_of is None else self._least_of(label)
        self._number[label.name] = -1 if least is None else len(self.known)
        if least is not None:
            self.known.append(label)
            self._least.append(least)


class Tally:
    """Sums by some whole numbers from 0 to 1,048,575, in memory for the combinations that occur."""

    def __init__(self, columns: int):
        self._columns = columns
        self._keys, self._sums = np.zeros(0, np.int64), np.zeros(0)
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._num_waiting = 0

    def add(self, numbers: Sequence[np.ndarray], weights: np.ndarray) -> None:
        """Adds weights, `[row]`, to the sums of the numbers of each row."""
        key = np.zeros(len(weights), np.int64)
        for column in numbers:
            key <<= _BITS
            key |= column
        self._waiting.append((key, weights))
        self._num_waiting += len(key)
        if self._num_waiting > max(_WAITING_ROWS, len(self._keys) // 8):
            self._merge()

    def _merge(self) -> None:
        """Puts what waits into its places, without sorting the rest again."""
        if not self._num_waiting:
            return
        keys, weights = map(np.concatenate, zip(*self._waiting, strict=True))
        self._waiting, self._num_waiting = [], 0
        keys, place = np.unique(keys, return_inverse=True)
        sums = np.bincount(place, weights)
        at = np.searchsorted(self._keys, keys)
        is_new = np.searchsorted(self._keys, keys, side="right") == at
        self._sums[at[~is_new]] += sums[~is_new]
        self._keys = np.insert(self._keys, at[is_new], keys[is_new])
        self._sums = np.insert(self._sums, at[is_new], sums[is_new])

    def sums(self) -> tuple[list[np.ndarray], np.ndarray]:
        """The numbers of each combination, by these in order, and its sum."""
        self._merge()
        shifts = range(_BITS * (self._columns - 1), -1, -_BITS)
        numbers = [(self._keys >> x & (1 << _BITS) - 1).astype(np.int32) for x in shifts]
        return numbers, self._sums
