"""Picks detections of each label for people to listen to; `segment_clips` cuts them out of the recordings."""

import hashlib
from bisect import bisect, insort
from collections import defaultdict
from collections.abc import Sequence
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
_OVERLAP_S = 1e-6
_COLUMNS = ("label", "scientific_name", "common_name", "score", "start_s", "end_s", "channel")


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
    """Picks detections of each label from a stream of recordings, in the memory that one of them takes.

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
        # Of each label, and of each tenth of its scores, the best so far, the worst of them first.
        self._kept: dict[str, list[list[_Item]]] = defaultdict(lambda: [[] for _ in range(_BINS)])
        self._count = 0

    @property
    def not_found(self) -> list[str]:
        """Which of `labels` no detection had so far."""
        return [x for key, x in self._wanted.items() if key not in self._found]

    def add(self, recording: RecordingStatus, table: "pa.Table | StoredRows") -> None:
        """Takes one recording's detections, of `detection_schema()`."""
        import pyarrow as pa
        import pyarrow.compute as pc

        batches = [
            x.select(_COLUMNS).filter(pc.greater_equal(x["score"], self._min_score))
            for x in table.to_batches()
        ]
        if not batches:
            return
        rows = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()
        labels = pc.dictionary_encode(rows["label"]).combine_chunks()
        codes = labels.indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        columns = [rows[x].to_numpy() for x in _COLUMNS[3:]]
        for places in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
            if len(places):
                names = [rows[x][int(places[0])].as_py() for x in _COLUMNS[:3]]
                self._add_label(recording, names, *(x[places] for x in columns))

    def _add_label(
        self,
        recording: RecordingStatus,
        names: list[str],
        score: np.ndarray,
        start_s: np.ndarray,
        end_s: np.ndarray,
        channel: np.ndarray,
    ) -> None:
        label, scientific, common = names
        matching = {x.casefold() for x in names} & self._wanted.keys()
        if self._wanted and not matching:
            return
        self._found |= matching
        key = f"{self._seed}\0{label}\0{recording.file}".encode("utf-8", "surrogateescape")
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=16).digest())
        chance = np.random.default_rng(seed).random(len(score))
        rank = score.astype(np.float64) if self._pick == "best" else chance
        is_balanced = self._pick == "balanced"
        tenth = np.minimum(_BINS - 1, score * _BINS + 1e-5).astype(int) * is_balanced
        middle_s = (start_s + end_s) / 2
        begin_s = np.minimum(start_s, middle_s - self._seconds / 2)
        stop_s = np.maximum(end_s, middle_s + self._seconds / 2)
        taken: _Spans = []
        for i in np.lexsort((-chance, -rank)).tolist():
            kept = self._kept[label][tenth[i]]
            is_in = len(kept) < self._per_label or (rank[i], chance[i]) > kept[0][:2]
            if not is_in and not is_balanced:
                break  # all that follow are worse
            if not _take(taken, float(begin_s[i]), float(stop_s[i])) or not is_in:
                continue
            place = (int(channel[i]), float(start_s[i]), float(end_s[i]))
            segment = Segment(recording, *place, label, scientific, common, float(score[i]))
            self._count += 1
            insort(kept, (float(rank[i]), float(chance[i]), self._count, segment))
            del kept[: -self._per_label]

    def picked(self) -> list[Segment]:
        """What is picked so far, by label, then by score from the highest."""
        chosen: list[Segment] = []
        for _, tenths in sorted(self._kept.items()):
            picked = _spread([x[::-1] for x in tenths if x], self._per_label)
            chosen += sorted(
                (x[-1] for x in picked), key=lambda x: (-x.score, x.recording.file, x.start_s, x.channel)
            )
        return chosen


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
