"""Picks detections of each label for people to listen to; `segment_clips` cuts them out of the recordings."""

import hashlib
import heapq
from bisect import bisect, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from keras_birds.errors import ConfigError
from keras_birds.inference.recording_status import RecordingStatus

if TYPE_CHECKING:
    import pyarrow as pa

    from keras_birds.results.shards import StoredRows

PICKS = ("best", "random", "balanced")
MIN_CLIP_S, MAX_CLIP_S = 0.1, 600.0
"""The longest is what may be in memory at once."""

_BINS = 10
# Of one recording at a time: seconds of work, tens of MB. Each label's best are exact within a block.
_BLOCK_ROWS = 1 << 19
_OVERLAP_S = 1e-6
_NAMES = ("scientific_name", "common_name")


@dataclass(frozen=True, slots=True)
class Segment:
    """A detection to be cut out.

    Args:
        recording: of its recording.
        channel: where it was detected, from 1; 0 for the mean over channels.
        start_s: where the detection begins.
        end_s: where it ends.
        label: as the model names it.
        scientific_name: empty where the model doesn't know.
        common_name: empty where the model doesn't know.
        score: probability.
    """

    recording: RecordingStatus
    channel: int
    start_s: float
    end_s: float
    label: str
    scientific_name: str
    common_name: str
    score: float

    def clip_span_s(self, seconds: float) -> tuple[float, float]:
        """Begin and end of a clip of that length around the detection's middle, from the recording's start on."""
        middle_s = (self.start_s + self.end_s) / 2
        return max(0.0, middle_s - seconds / 2), middle_s + seconds / 2


_Item = tuple[float, float, int, Segment]  # rank, what decides between equal ranks, a serial number
_Spans = list[tuple[float, float]]


class SegmentPicker:
    """Picks detections of each label from a stream of recordings, in memory that doesn't grow with it.

    - `best`: those with the highest scores;
    - `random`: any, whatever their scores;
    - `balanced`: as many from each tenth of the scores (0.2 to 0.3, 0.3 to 0.4, ...), random within it, and more from
      the others where one has too few: what choosing a threshold or a calibration curve needs, which by chance would
      get few of the rare scores.

    Detections of a label that share a part of a recording, or whose clips do, on any channel, are one spot, of which
    one is picked. The pick depends on the detections and the seed alone, not on the order of the recordings.

    Args:
        per_label: how many at most.
        pick: one of `PICKS`.
        seconds: length of the clips.
        labels: only these labels, scientific or common names; empty for all.
        min_score: leaves out lower scores.
        seed: of what is random.

    Raises:
        ConfigError: if an option can't be used.
    """

    def __init__(
        self,
        per_label: int = 20,
        pick: str = "best",
        seconds: float = 5.0,
        labels: Sequence[str] = (),
        min_score: float = 0.0,
        seed: int = 42,
    ):
        if pick not in PICKS:
            raise ConfigError(f"--pick must be one of {', '.join(PICKS)}. Received: {pick}")
        if per_label < 1:
            raise ConfigError(f"--per-label must be at least 1. Received: {per_label}")
        # Written so that NaN is refused as well.
        if not MIN_CLIP_S <= seconds <= MAX_CLIP_S:
            raise ConfigError(f"--seconds must be from {MIN_CLIP_S} to {MAX_CLIP_S:g}. Received: {seconds:g}")
        if not 0 <= min_score <= 1:
            raise ConfigError(f"--min-score must be from 0 to 1. Received: {min_score:g}")
        self._per_label, self._pick, self._seconds = per_label, pick, seconds
        self._min_score, self._seed = np.float32(min_score), seed
        self._wanted = {x.casefold(): x for x in labels}
        self._found: set[str] = set()
        self._names: list[tuple[str, str, str]] = []
        self._codes: dict[str, int] = {}
        self._is_wanted: list[bool] = []
        self._heaps: dict[str, list[list[_Item]]] = {}
        self._pushed = 0

    @property
    def not_found(self) -> list[str]:
        """Which of `labels` no detection had so far."""
        return [x for key, x in self._wanted.items() if key not in self._found]

    def add(self, recording: RecordingStatus, table: "pa.Table | StoredRows") -> None:
        """Takes one recording's detections, of `detection_schema()`, by start."""
        taken: dict[int, _Spans] = {}
        for number, columns in enumerate(_blocks(self._columns(x) for x in table.to_batches())):
            codes = columns[0]
            order = np.argsort(codes, kind="stable")
            for rows in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
                code = int(codes[rows[0]])
                spans = taken.setdefault(code, [])
                self._add_label(recording, number, code, spans, *(x[rows] for x in columns[1:]))
            # Of no use to what begins later.
            reach_s = float(columns[2][-1]) - self._seconds
            taken = {code: [x for x in spans if x[1] > reach_s] for code, spans in taken.items()}

    def _columns(self, batch: "pa.RecordBatch") -> list[np.ndarray]:
        """Number of the label, score, start, end and channel of the rows that may be picked."""
        encoded = batch.column("label").dictionary_encode()
        local = encoded.indices.to_numpy()
        labels = encoded.dictionary.to_pylist()
        codes = np.zeros(len(labels), np.int32)
        for k, row in zip(*np.unique(local, return_index=True), strict=True):
            if labels[k] not in self._codes:
                scientific, common = (batch.column(x)[int(row)].as_py() for x in _NAMES)
                self._add_names((labels[k], scientific, common))
            codes[k] = self._codes[labels[k]]
        columns = [batch.column(x).to_numpy() for x in ("score", "start_s", "end_s", "channel")]
        kept = (
            np.array(self._is_wanted)[codes[local]] & (columns[0] >= self._min_score) if len(local) else local
        )
        return [x[kept] for x in (codes[local], *columns)]

    def _add_names(self, names: tuple[str, str, str]) -> None:
        self._codes[names[0]] = len(self._names)
        self._names.append(names)
        matching = {x.casefold() for x in names} & self._wanted.keys()
        self._found |= matching
        self._is_wanted.append(bool(matching) or not self._wanted)

    def _add_label(
        self,
        recording: RecordingStatus,
        block: int,
        code: int,
        taken: _Spans,
        score: np.ndarray,
        start_s: np.ndarray,
        end_s: np.ndarray,
        channel: np.ndarray,
    ) -> None:
        label = self._names[code][0]
        key = f"{self._seed}\0{label}\0{block}\0{recording.file}".encode("utf-8", "surrogateescape")
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=16).digest())
        chance = np.random.default_rng(seed).random(len(score))
        rank = score.astype(np.float64) if self._pick == "best" else chance
        is_balanced = self._pick == "balanced"
        place = np.zeros(len(score), int)
        if is_balanced:
            place = np.minimum(_BINS - 1, score * _BINS + 1e-5).astype(int)
        heaps = self._heaps.setdefault(label, [[] for _ in range(_BINS if is_balanced else 1)])
        middle_s = (start_s + end_s) / 2
        begins = np.minimum(start_s, middle_s - self._seconds / 2)
        ends = np.maximum(end_s, middle_s + self._seconds / 2)
        order = np.lexsort((-chance, -rank))
        if not is_balanced and len(heaps[0]) == self._per_label:
            order = order[rank[order] >= heaps[0][0][0]]
        for i in order.tolist():
            heap = heaps[place[i]]
            is_in = len(heap) < self._per_label or (rank[i], chance[i]) > heap[0][:2]
            if not is_in and not is_balanced:
                break
            if not _take(taken, float(begins[i]), float(ends[i])) or not is_in:
                continue
            segment = Segment(
                recording,
                int(channel[i]),
                float(start_s[i]),
                float(end_s[i]),
                *self._names[code],
                float(score[i]),
            )
            self._pushed += 1
            item = (float(rank[i]), float(chance[i]), self._pushed, segment)
            (heapq.heappush if len(heap) < self._per_label else heapq.heappushpop)(heap, item)

    def picked(self) -> list[Segment]:
        """What is picked so far, by label, then by score from the highest."""
        chosen: list[Segment] = []
        for _, heaps in sorted(self._heaps.items()):
            picked = _spread([sorted(x, reverse=True) for x in heaps if x], self._per_label)
            chosen += sorted(
                (x[-1] for x in picked), key=lambda x: (-x.score, x.recording.file, x.start_s, x.channel)
            )
        return chosen


def _blocks(pieces: Iterable[list[np.ndarray]]) -> Iterator[list[np.ndarray]]:
    """Joins columns to blocks of `_BLOCK_ROWS`, however they come: the pick must not depend on that."""
    held: list[list[np.ndarray]] = []
    rows = 0
    for piece in pieces:
        held.append(piece)
        rows += len(piece[0])
        while rows >= _BLOCK_ROWS:
            joined = [np.concatenate(x) for x in zip(*held, strict=True)]
            yield [x[:_BLOCK_ROWS] for x in joined]
            held, rows = [[x[_BLOCK_ROWS:] for x in joined]], rows - _BLOCK_ROWS
    if rows:
        yield [np.concatenate(x) for x in zip(*held, strict=True)]


def _take(taken: _Spans, begin_s: float, end_s: float) -> bool:
    """Takes a span, unless it overlaps one that is taken; `taken` stays in order."""
    after = bisect(taken, (begin_s, end_s))
    if after and taken[after - 1][1] > begin_s + _OVERLAP_S:
        return False
    if after < len(taken) and taken[after][0] < end_s - _OVERLAP_S:
        return False
    insort(taken, (begin_s, end_s))
    return True


def _spread(bins: list[list[_Item]], count: int) -> list[_Item]:
    """The first of each list, then the second, and so on; of what is one too many, evenly spaced lists."""
    chosen: list[_Item] = []
    for depth in range(max(map(len, bins), default=0)):
        layer = [x[depth] for x in bins if len(x) > depth]
        left = count - len(chosen)
        if len(layer) > left:
            layer = [layer[int((k + 0.5) * len(layer) / left)] for k in range(left)]
        chosen += layer
    return chosen
