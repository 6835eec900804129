"""Picks detections of each label, and cuts them out of their recordings: audio files and a table for reviewers."""

import hashlib
from bisect import bisect, insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from keras_birds.errors import ConfigError
from keras_birds.inference.scorer import RecordingStatus
from keras_birds.results.clips import CLIP_FORMATS, Clip, check_new_folder, clip_stem, cut_clips
from keras_birds.results.voices import outside
from keras_birds.results.writers.files import new_text, safe_name
from keras_birds.results.writers.rows import decimal, six_digits
from keras_birds.text import csv_writer

if TYPE_CHECKING:
    import pyarrow as pa

PICKS = ("best", "random", "balanced")

_MIN_CLIP_S, _MAX_CLIP_S = 0.1, 600.0  # the longest is what may be in memory at once
_BINS = 10
_OVERLAP_S = 1e-6
NAMES = ("label", "scientific_name", "common_name")
_NUMBERS = ("score", "start_s", "end_s", "channel")

SEGMENT_COLUMNS = (
    *("clip", "label", "scientific_name", "common_name", "score"),
    *("file", "channel", "start_s", "end_s", "clip_start_s", "clip_end_s", "review"),
)
"""Of `segments.csv`, a row for each clip. `file` to `end_s` are the detection's, as in the other tables; `clip` is the
path below the folder of the table; `review` is empty, for the reviewer."""


class Segment(NamedTuple):
    """A detection to be cut out, with fields as in `detection_schema()`."""

    recording: RecordingStatus
    score: float
    start_s: float
    end_s: float
    channel: int
    label: str
    scientific_name: str
    common_name: str


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
        length = f"--seconds must be {_MIN_CLIP_S} to {_MAX_CLIP_S:g}"
        for is_right, wanted, value in (  # NaN is in no range
            (pick in PICKS, f"--pick must be one of {', '.join(PICKS)}", pick),
            (per_label >= 1, "--per-label must be at least 1", per_label),
            (_MIN_CLIP_S <= seconds <= _MAX_CLIP_S, length, seconds),
            (0 <= min_score <= 1, "--min-score must be from 0 to 1", min_score),
        ):
            if not is_right:
                raise ConfigError(f"{wanted}. Received: {value}")
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

    def add(self, recording: RecordingStatus, batches: "Iterable[pa.RecordBatch]") -> None:
        """Takes one recording's detections, in batches of `detection_schema()`."""
        import pyarrow as pa
        import pyarrow.compute as pc

        columns = [*NAMES, *_NUMBERS]
        kept = [x.select(columns).filter(pc.greater_equal(x["score"], self._min_score)) for x in batches]
        if not kept:
            return
        rows = pa.Table.from_batches(kept).unify_dictionaries().combine_chunks()
        codes = pc.dictionary_encode(rows["label"]).combine_chunks().indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        numbers = [rows[x].to_numpy() for x in _NUMBERS]
        for places in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
            if len(places):
                names = [rows[x][int(places[0])].as_py() for x in NAMES]
                self._add_label(recording, names, [x[places] for x in numbers])

    def _add_label(self, recording: RecordingStatus, names: list[str], numbers: list[np.ndarray]) -> None:
        matching = {x.casefold() for x in names} & self._wanted.keys()
        if self._wanted and not matching:
            return
        self._found |= matching
        score, start_s, end_s, _ = numbers
        key = f"{self._seed}\0{names[0]}\0{recording.file}".encode("utf-8", "surrogateescape")
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
            kept = self._kept[names[0]][tenth[i]]
            is_in = len(kept) < self._per_label or (rank[i], chance[i]) > kept[0][:2]
            if not is_in and not is_balanced:
                break  # all that follow are worse
            if not _take(taken, float(begin_s[i]), float(stop_s[i])) or not is_in:
                continue
            segment = Segment(recording, *(x[i].item() for x in numbers), *names)
            self._count += 1
            insort(kept, (float(rank[i]), float(chance[i]), self._count, segment))
            del kept[: -self._per_label]

    def picked(self) -> list[Segment]:
        """What is picked so far, by label, then by score from the highest."""
        chosen = [
            item[-1]
            for tenths in self._kept.values()
            for item in _spread([x[::-1] for x in tenths if x], self._per_label)
        ]
        return sorted(chosen, key=lambda x: (x.label, -x.score, x.recording.file, x.start_s, x.channel))


def _take(taken: _Spans, begin_s: float, end_s: float) -> bool:
    """Takes a span, unless it overlaps one that is taken; `taken` stays in order."""
    after = bisect(taken, (begin_s, end_s))
    neighbours = taken[max(0, after - 1) : after + 1]
    if any(x < end_s - _OVERLAP_S and y > begin_s + _OVERLAP_S for x, y in neighbours):
        return False
    taken.insert(after, (begin_s, end_s))
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


def cut_segments(
    segments: Sequence[Segment],
    out: Path,
    seconds: float = 5.0,
    fmt: str = "flac",
    on_problem: Callable[[str, str, int], None] = lambda *_: None,
    on_done: Callable[[int], None] = lambda _: None,
) -> Path:
    """Writes `out/<label>/<score>_<recording>_<start>s.flac` for each segment, and `out/segments.csv`.

    A clip has `seconds` around the detection's middle, fewer at the recording's ends and beside voices that were left
    out, with the recording's rate and channels. Samples stay as they are: 16 bits, or 24 of recordings that have more;
    floating-point numbers in `wav`. Recordings are sought, not decoded up to the place, where the format allows.

    Args:
        segments: what to cut, in the order of the table.
        out: a new or empty folder; names of labels and recordings are written as in `recording_path`.
        seconds, fmt: length of the clips, and one of `CLIP_FORMATS`.
        on_problem: is told of a recording that is gone, has changed or can't be read: its name, why, and how many
            clips are lost. The others go on.
        on_done: is told how many clips more are done or lost.

    Returns:
        The table.

    Raises:
        ConfigError: if `out` holds something, the format is unknown, or a package that a URL needs isn't installed.
        KerasBirdsError: if a file can't be written. The table holds what was cut until then.
    """
    if fmt not in CLIP_FORMATS:
        raise ConfigError(f"--format must be one of {', '.join(CLIP_FORMATS)}. Received: {fmt}")
    check_new_folder(out)
    names = _clip_names(segments, fmt)
    clips = [
        Clip(x.recording, *_clip_span_s(x, seconds), name) for x, name in zip(segments, names, strict=True)
    ]
    spans_s: dict[int, tuple[float, float]] = {}
    table = out / "segments.csv"
    try:
        for k, span_s in cut_clips(clips, out, fmt, on_problem, on_done):
            spans_s[k] = span_s
    finally:
        with new_text(table) as stream:
            rows = csv_writer(stream)
            rows.writerow(SEGMENT_COLUMNS)
            for k in sorted(spans_s):
                x = segments[k]
                about = (x.label, x.scientific_name, x.common_name, six_digits(x.score))
                times = (decimal(t) for t in (x.start_s, x.end_s, *spans_s[k]))
                rows.writerow((names[k].as_posix(), *about, x.recording.file, x.channel, *times, ""))
    return table


def _clip_span_s(segment: Segment, seconds: float) -> tuple[float, float]:
    middle_s = (segment.start_s + segment.end_s) / 2
    around_s = max(0.0, middle_s - seconds / 2), middle_s + seconds / 2
    return outside(segment.recording.left_out_s, around_s, (segment.start_s, segment.end_s))


def _clip_names(segments: Sequence[Segment], fmt: str) -> list[PurePath]:
    """Below the folder, each once, also where a file system doesn't tell capitals."""
    names: list[PurePath] = []
    known: set[str] = set()
    for x in segments:
        stem = clip_stem(x.score, x.recording.file, x.start_s)
        name, count = PurePath(safe_name(x.label), f"{stem}.{fmt}"), 1
        while str(name).casefold() in known:
            count += 1
            name = name.with_name(f"{stem}_{count}.{fmt}")
        known.add(str(name).casefold())
        names.append(name)
    return names
