"""Clips of detections for people to listen to: picks them by label and cuts them out of the recordings."""

import hashlib
import heapq
from bisect import bisect, insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Protocol

import numpy as np
import soundfile

from keras_birds.audio import ffmpeg
from keras_birds.audio.reader import MIN_SECONDS, NeedsFfmpeg, Reader
from keras_birds.audio.remote import is_url, stamp, url_path
from keras_birds.errors import AudioError, ConfigError, KerasBirdsError
from keras_birds.inference.outcome import Outcome
from keras_birds.inference.text import csv_writer
from keras_birds.inference.writers.files import new_file, new_text, safe_name
from keras_birds.inference.writers.rows import decimal, six_digits

if TYPE_CHECKING:
    import pyarrow as pa

    from keras_birds.inference.shards import StoredRows

PICKS = ("best", "random", "balanced")
CLIP_FORMATS = ("flac", "wav")
SEGMENT_COLUMNS = (
    *("clip", "label", "scientific_name", "common_name", "score"),
    *("file", "channel", "start_s", "end_s", "clip_start_s", "clip_end_s", "review"),
)
"""Of `segments.csv`, a row for each clip. `file` to `end_s` are the detection's, as in the other tables; `clip` is the
path below the folder of the table; `review` is empty, for the reviewer."""

MIN_CLIP_S, MAX_CLIP_S = 0.1, 600.0
"""The longest is what may be in memory at once."""

_BINS = 10
_OVERLAP_S = 1e-6
_DEEP = frozenset({"PCM_24", "PCM_32", "FLOAT", "DOUBLE"})
_FLOAT = frozenset({"FLOAT", "DOUBLE"})


@dataclass(frozen=True, slots=True)
class Segment:
    """A detection to be cut out.

    Args:
        outcome: of its recording.
        channel: where it was detected, from 1; 0 for the mean over channels.
        start_s: where the detection begins.
        end_s: where it ends.
        label: as the model names it.
        scientific_name: empty where the model doesn't know.
        common_name: empty where the model doesn't know.
        score: probability.
    """

    outcome: Outcome
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
        self._heaps: dict[str, list[list[_Item]]] = {}
        self._pushed = 0

    @property
    def not_found(self) -> list[str]:
        """Which of `labels` no detection had so far."""
        return [x for key, x in self._wanted.items() if key not in self._found]

    def add(self, outcome: Outcome, table: "pa.Table | StoredRows") -> None:
        """Takes one recording's detections, of `detection_schema()`."""
        import pyarrow as pa

        for batch in table.to_batches():
            self._add_batch(outcome, pa.Table.from_batches([batch]))

    def _add_batch(self, outcome: Outcome, table: "pa.Table") -> None:
        encoded = table["label"].combine_chunks().dictionary_encode()
        codes, labels = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
        columns = [table[x].to_numpy() for x in ("score", "start_s", "end_s", "channel")]
        order = np.argsort(codes, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
            row = int(rows[0])
            label = labels[codes[row]]
            names = (label, table["scientific_name"][row].as_py(), table["common_name"][row].as_py())
            if self._is_wanted(names):
                kept = rows[columns[0][rows] >= self._min_score]
                self._add_label(outcome, names, *(x[kept] for x in columns))

    def _is_wanted(self, names: tuple[str, str, str]) -> bool:
        matching = {x.casefold() for x in names} & self._wanted.keys()
        self._found |= matching
        return bool(matching) or not self._wanted

    def _add_label(
        self,
        outcome: Outcome,
        names: tuple[str, str, str],
        score: np.ndarray,
        start_s: np.ndarray,
        end_s: np.ndarray,
        channel: np.ndarray,
    ) -> None:
        key = f"{self._seed}\0{names[0]}\0{outcome.file}".encode("utf-8", "surrogateescape")
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=16).digest())
        chance = np.random.default_rng(seed).random(len(score))
        rank = score.astype(np.float64) if self._pick == "best" else chance
        is_balanced = self._pick == "balanced"
        place = (
            np.minimum(_BINS - 1, score * _BINS + 1e-5).astype(int)
            if is_balanced
            else np.zeros(len(score), int)
        )
        heaps = self._heaps.setdefault(names[0], [[] for _ in range(_BINS if is_balanced else 1)])
        middle_s = (start_s + end_s) / 2
        begins = np.minimum(start_s, middle_s - self._seconds / 2)
        ends = np.maximum(end_s, middle_s + self._seconds / 2)
        order = np.lexsort((-chance, -rank))
        if not is_balanced and len(heaps[0]) == self._per_label:
            order = order[rank[order] >= heaps[0][0][0]]
        taken: list[tuple[float, float]] = []
        for i in order.tolist():
            heap = heaps[place[i]]
            is_in = len(heap) < self._per_label or (rank[i], chance[i]) > heap[0][:2]
            if not is_in and not is_balanced:
                break
            if not _take(taken, float(begins[i]), float(ends[i])) or not is_in:
                continue
            times = float(start_s[i]), float(end_s[i])
            segment = Segment(outcome, int(channel[i]), *times, *names, float(score[i]))
            self._pushed += 1
            item = (float(rank[i]), float(chance[i]), self._pushed, segment)
            (heapq.heappush if len(heap) < self._per_label else heapq.heappushpop)(heap, item)

    def picked(self) -> list[Segment]:
        """What is picked so far, by label, then by score from the highest."""
        chosen: list[Segment] = []
        for _, heaps in sorted(self._heaps.items()):
            picked = _spread([sorted(x, reverse=True) for x in heaps if x], self._per_label)
            chosen += sorted(
                (x[-1] for x in picked), key=lambda x: (-x.score, x.outcome.file, x.start_s, x.channel)
            )
        return chosen


def _take(taken: list[tuple[float, float]], begin_s: float, end_s: float) -> bool:
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


@dataclass(frozen=True)
class Cut:
    """What `cut_segments` did.

    Args:
        clips: how many are written.
        failed_clips: how many aren't.
        failed_files: of so many recordings.
        table: the CSV.
    """

    clips: int
    failed_clips: int
    failed_files: int
    table: Path


def check_new_folder(out: Path) -> None:
    """Checks that clips may be written there.

    Raises:
        ConfigError: if it is a file, or a folder that holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out must be a new or an empty folder. Received: {out}, which holds something")


def cut_segments(
    segments: Sequence[Segment],
    out: Path,
    seconds: float = 5.0,
    form: str = "flac",
    on_problem: Callable[[str, str, int], None] = lambda *_: None,
    on_done: Callable[[int], None] = lambda _: None,
) -> Cut:
    """Writes `out/<label>/<score>_<recording>_<start>s.flac` for each segment, and `out/segments.csv`.

    A clip has `seconds` around the detection's middle, fewer at the recording's ends, with the recording's rate and
    channels. Samples stay as they are: 16 bits, or 24 of recordings that have more; floating-point numbers in `wav`.
    Recordings are sought, not decoded up to the place, where the format allows.

    Args:
        segments: what to cut, in the order of the table.
        out: a new or empty folder; names of labels and recordings are written as in `recording_path`.
        seconds: length of the clips.
        form: one of `CLIP_FORMATS`.
        on_problem: is told of a recording that is gone, has changed or can't be read: its name, why, and how many
            clips are lost. The others go on.
        on_done: is told how many clips more are done or lost.

    Raises:
        ConfigError: if `out` holds something, or a package that a URL needs isn't installed.
        KerasBirdsError: if a file can't be written. The table holds what was cut until then.
    """
    check_new_folder(out)
    names = _clip_names(segments, form)
    by_file: dict[str, list[int]] = {}
    for k, segment in enumerate(segments):
        by_file.setdefault(segment.outcome.file, []).append(k)
    spans_s: dict[int, tuple[float, float]] = {}
    failed_files = 0
    try:
        for file, places in sorted(by_file.items()):
            done = 0
            reason = ""
            try:
                _check_unchanged(segments[places[0]].outcome)
                for k, span_s, data in _cut_recording(
                    file, [(k, segments[k]) for k in places], seconds, form
                ):
                    with new_file(out / names[k]) as stream:
                        stream.write(data)
                    spans_s[k] = span_s
                    done += 1
                    on_done(1)
            except AudioError as error:
                reason = error.reason
                if error.status == "missing" and not is_url(file) and not Path(file).is_absolute():
                    reason += ": relative names count from the folder in which predict ran"
            except KerasBirdsError:
                raise
            except Exception as error:  # whatever a damaged file sets off in a decoder: the others go on
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            if reason:
                failed_files += 1
                on_problem(file, reason, len(places) - done)
                on_done(len(places) - done)
    finally:
        table = out / "segments.csv"
        _write_table(table, [(segments[k], names[k], *spans_s[k]) for k in sorted(spans_s)])
    return Cut(len(spans_s), len(segments) - len(spans_s), failed_files, table)


def _clip_names(segments: Sequence[Segment], form: str) -> list[PurePath]:
    """Below the folder, each once, also where a file system doesn't tell capitals."""
    names: list[PurePath] = []
    known: set[str] = set()
    for x in segments:
        path = url_path(x.outcome.file) if is_url(x.outcome.file) else x.outcome.file
        start = f"_{decimal(round(x.start_s, 3)).removesuffix('.0')}s"
        stem = f"{x.score:.3f}_{safe_name(PurePath(path).stem)}{start}"
        name, count = PurePath(safe_name(x.label), f"{stem}.{form}"), 1
        while str(name).casefold() in known:
            count += 1
            name = name.with_name(f"{stem}_{count}.{form}")
        known.add(str(name).casefold())
        names.append(name)
    return names


def _check_unchanged(outcome: Outcome) -> None:
    """Raises AudioError if the recording isn't the one that was scored; whether it is there is for the reader."""
    now = stamp(outcome.file)
    if now != (-1, -1) and now != (outcome.size_bytes, outcome.mtime_ns):
        raise AudioError(
            outcome.file,
            "has changed since it was scored: run the same `keras-birds predict` again",
            "changed",
        )


class _Source(Protocol):
    """An open recording, whose parts are asked for from the first to the last."""

    rate_hz: int
    subtype: str

    def read(self, first: int, last: int) -> np.ndarray:
        """Frames `[n, channels]` from `first` to before `last`, fewer at the end."""


class _Sought:
    """A recording that libsndfile reads."""

    def __init__(self, reader: Reader):
        self.rate_hz, self.subtype = reader.rate_hz, reader.subtype
        self._reader = reader
        self._first, self._last, self._frames = -1, -1, np.zeros((0, reader.channels), np.float32)

    def read(self, first: int, last: int) -> np.ndarray:
        # Several labels of one place need one reading. Of clips with one start the longest comes first.
        if first != self._first or last > self._last:
            blocks = list(self._reader.blocks(first, last - first))
            self._frames = np.concatenate(blocks) if blocks else self._frames[:0]
            self._first, self._last = first, last
        return self._frames[: last - first]


class _Forward:
    """A recording that ffmpeg reads, block by block."""

    def __init__(self, blocks: Iterator[np.ndarray], rate_hz: int, channels: int):
        self.rate_hz, self.subtype = rate_hz, "PCM_16"
        self._blocks = blocks
        self._first, self._held = 0, np.zeros((0, channels), np.float32)

    def read(self, first: int, last: int) -> np.ndarray:
        while self._first + len(self._held) < last and (block := next(self._blocks, None)) is not None:
            passed = min(len(self._held), max(0, first - self._first))
            self._first += passed
            self._held = np.concatenate([self._held[passed:], block])
        return self._held[max(0, first - self._first) : max(0, last - self._first)]


@contextmanager
def _open(file: str) -> Iterator[_Source]:
    try:
        reader = Reader(file)
    except NeedsFfmpeg:
        with ffmpeg.stream(Path(file)) as (blocks, rate_hz, channels, _):
            yield _Forward(blocks, rate_hz, channels)
        return
    with reader:
        yield _Sought(reader)


def _cut_recording(
    file: str, wanted: Sequence[tuple[int, Segment]], seconds: float, form: str
) -> Iterator[tuple[int, tuple[float, float], bytes]]:
    """Gives number, begin and end in seconds, and the file's bytes of each clip of a recording."""
    with _open(file) as source:
        places = []
        for k, segment in wanted:
            begin_s, end_s = segment.clip_span_s(seconds)
            places.append((round(begin_s * source.rate_hz), -round(end_s * source.rate_hz), k))
        for first, minus_last, k in sorted(places):
            frames = source.read(first, -minus_last)
            if len(frames) < MIN_SECONDS * source.rate_hz:
                raise AudioError(file, f"nothing decodes at {first / source.rate_hz:.1f} s", "corrupt")
            span_s = first / source.rate_hz, (first + len(frames)) / source.rate_hz
            yield k, span_s, _encode(file, frames, source, form)


def _encode(file: str, frames: np.ndarray, source: _Source, form: str) -> bytes:
    subtype = "PCM_24" if source.subtype in _DEEP else "PCM_16"
    if form == "wav" and source.subtype in _FLOAT:
        subtype, samples = "FLOAT", frames
    else:
        # By ourselves: libsndfile reads a 16-bit sample as x / 32768 but writes x * 32767.
        scale = float(1 << (23 if subtype == "PCM_24" else 15))
        whole = np.clip(np.rint(frames * np.float64(scale)), -scale, scale - 1)
        samples = whole.astype(np.int32) << 8 if subtype == "PCM_24" else whole.astype(np.int16)
    buffer = BytesIO()
    try:
        options = {"subtype": subtype, "format": form.upper()}
        with soundfile.SoundFile(buffer, "w", source.rate_hz, frames.shape[1], **options) as clip:
            clip.write(samples)
    except soundfile.LibsndfileError:
        what = f"{frames.shape[1]} channels at {source.rate_hz} Hz"
        raise AudioError(
            file, f"{what} can't be written as {form}: pass --format wav", "unreadable"
        ) from None
    return buffer.getvalue()


def _write_table(path: Path, clips: Sequence[tuple[Segment, PurePath, float, float]]) -> None:
    with new_text(path) as stream:
        rows = csv_writer(stream)
        rows.writerow(SEGMENT_COLUMNS)
        for x, name, begin_s, end_s in clips:
            names = (x.label, x.scientific_name, x.common_name, six_digits(x.score))
            place = (x.outcome.file, x.channel, *(decimal(t) for t in (x.start_s, x.end_s, begin_s, end_s)))
            rows.writerow((name.as_posix(), *names, *place, ""))
