"""Scores recordings one after the other, with every processor busy and memory flat."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from keras_birds.audio.clips import window_hop_samples
from keras_birds.audio.metadata import read_recorder_metadata
from keras_birds.audio.recorder import UNKNOWN, UNTOLD, Origin, RecorderMetadata
from keras_birds.audio.remote import file_fingerprint
from keras_birds.audio.stream import Channel, open_stream
from keras_birds.config import AudioConfig
from keras_birds.errors import AudioError, ConfigError, KerasBirdsError
from keras_birds.inference.plan import SKIPPED, Plan, chosen_windows
from keras_birds.parallel import map_in_order
from keras_birds.threads import available_cpus

PART_WINDOWS = 1024
"""Of a long recording that are in memory at once where that is enough: 27 MB of the scores of 6,522 labels."""

_RECORDINGS_IN_FLIGHT = 64
_THREADS_A_PRODUCER = 4  # decoding and resampling take a third of what mel and model take, at most
# Mel and model in turns push each other out of the cache: 3 % slower if they change more often.
_CLIPS_A_BATCH = 4


@dataclass(frozen=True, slots=True)
class RecordingStatus:
    """What became of one recording: a row of `manifest.csv`.

    Args:
        file: the path or URL as it was given or found.
        status: `ok`, `partial` or `silent` where there are scores; `skipped` where a schedule wants nothing of it;
            `corrupt`, `empty`, `too short`, `missing`, `unreadable` or, with a schedule, `no time or place` where
            there are none.
        reason: why the status isn't ok.
        seconds: how much decoded, 0 where nothing did; with a schedule, which decodes less, how long it is.
        seconds_expected: what the header promises; NaN where it doesn't say.
        sample_rate_hz: as recorded; 0 where unknown.
        channels: as recorded; 0 where unknown.
        windows: how many were scored, over all channels.
        unscored_s: length of a last partial window under 1 s that was dropped; 0 with a schedule.
        chosen_s: begin and end of the parts that a schedule chose, as windows lie; `None` without a schedule.
        detections: rows that it has in the tables.
        week: of the 48 in which it was made; -1 for the whole year, 0 where nobody asked or no place is known.
        unlikely: scores that are no detections since the label is unlikely where and when it was made.
        voices: windows that were left out of the results because of a voice in or beside them.
        left_out_s: begin and end of what these hold; seconds.
        size_bytes: of the file when it was read; -1 where unknown.
        mtime_ns: of the file when it was read; -1 where unknown.
        not_seen: why the last run over a folder of results didn't see it; what an earlier one found in it stays.
        recorder: what the file itself tells of where, when and with what it was made.
        origin: where and when it was made, by that and by all else that tells it.
    """

    file: str
    status: str
    reason: str = ""
    seconds: float = 0.0
    seconds_expected: float = float("nan")
    sample_rate_hz: int = 0
    channels: int = 0
    windows: int = 0
    unscored_s: float = 0.0
    chosen_s: Sequence[tuple[float, float]] | None = None
    detections: int = 0
    week: int = 0
    unlikely: int = 0
    voices: int = 0
    left_out_s: Sequence[tuple[float, float]] = ()
    size_bytes: int = -1
    mtime_ns: int = -1
    not_seen: str = ""
    recorder: RecorderMetadata = UNTOLD
    origin: Origin = UNKNOWN

    @property
    def failed(self) -> bool:
        """Whether it couldn't be scored."""
        return not self.has_scores and self.status != SKIPPED

    @property
    def has_scores(self) -> bool:
        """Whether it was scored, if only in parts."""
        return self.status in ("ok", "partial", "silent")

    @property
    def scored_parts_s(self) -> Sequence[tuple[float, float]]:
        """Begin and end of what was scored, in seconds from its beginning: what counts as effort."""
        if not self.has_scores:
            return ()
        return [(0.0, self.seconds - self.unscored_s)] if self.chosen_s is None else self.chosen_s

    @property
    def scored_s(self) -> float:
        """How much was scored."""
        return sum((end - begin for begin, end in self.scored_parts_s), 0.0)

    @property
    def fingerprint(self) -> tuple[int, int]:
        """By which a changed file is known: size in bytes and time in nanoseconds."""
        return self.size_bytes, self.mtime_ns


@dataclass(frozen=True)
class ScoreOptions:
    """How recordings are cut and on how many processors they are scored.

    Args:
        overlap_s: how much each window shares with the one before.
        channel: `"mix"`, `"all"` or a number from 1.
        workers: threads that compute; `None` for the processors that this process may use.
        batch_size: windows at a time; `None` for what the model is fastest with.
        part_windows: a longer recording is given in parts of as many windows, as they are scored; `None` for in one.
        plan: which windows of which recordings are scored; `None` for all.
    """

    overlap_s: float = 0.0
    channel: Channel = "mix"
    workers: int | None = None
    batch_size: int | None = None
    part_windows: int | None = None
    plan: Plan | None = None


DEFAULT_OPTIONS = ScoreOptions()


@dataclass(frozen=True)
class RecordingScores:
    """One recording's scores, or a part of them, by window and then by channel.

    Args:
        recording: what became of it; of a part that isn't the last, only its name and `recorder`.
        start_s: float64 `[window]`, where each begins.
        end_s: float64 `[window]`, where each ends, not beyond the recording.
        channel: int16 `[window]`, from 1; 0 for the mean over channels.
        scores: float32 probabilities `[window, label]`; no row where the recording failed.
        is_last: whether no further part follows.
    """

    recording: RecordingStatus
    start_s: np.ndarray
    end_s: np.ndarray
    channel: np.ndarray
    scores: np.ndarray
    is_last: bool = True


class WindowScorer(Protocol):
    """What scores windows: an `Ensemble`, or another that gives as many numbers a window as it has labels."""

    @property
    def audio(self) -> AudioConfig:
        """How recordings are cut."""

    @property
    def batch_size(self) -> int:
        """Windows at a time that it is fastest with."""

    @property
    def labels(self) -> Sequence[Any]:
        """One for each number that it gives a window."""

    def score_clips(self, clips: Sequence[np.ndarray], batch_size: int | None = None) -> np.ndarray:
        """Float32 `[n, label]` of clips `[n, clip_samples]`, so many at a time; threads may ask at the same time."""
        ...


def score_recordings(
    ensemble: WindowScorer,
    files: Iterable[str | Path],
    options: ScoreOptions = DEFAULT_OPTIONS,
    on_scored: Callable[[float], None] = lambda _: None,
) -> Iterator[RecordingScores]:
    """Scores recordings, in order. One that can't be read gets a status that says why.

    Args:
        ensemble: the model.
        files: paths or URLs, taken as they are needed.
        options: how.
        on_scored: told how many more seconds of sound were scored, whatever the overlap and the channels.

    Raises:
        ConfigError: at once, if the options can't be used.
        KerasBirdsError: on the way, if the model gives no numbers or a package is missing.
    """
    window_hop_samples(ensemble.audio, options.overlap_s)
    for name in ("workers", "batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1. Received: {value}")
    return _score(ensemble, _Recordings(files), options, on_scored)


def _score(
    ensemble: WindowScorer,
    recordings: "_Recordings",
    options: ScoreOptions,
    on_scored: Callable[[float], None],
) -> Iterator[RecordingScores]:
    threads = options.workers or available_cpus()
    producers = [_batches(ensemble, recordings, options) for _ in range(-(-threads // _THREADS_A_PRODUCER))]

    def score(batch: list[_WindowTask]) -> np.ndarray | list[np.ndarray]:
        return ensemble.score_clips([x.clip for x in batch], options.batch_size) if batch else []

    # A producer that waits for room must hear that nobody takes recordings any more.
    with closing(map_in_order(score, producers, threads, recordings.close)) as scored:
        for batch, rows in scored:
            for task, row in zip(batch, rows, strict=True):
                task.recording.rows[task.index] = row
            on_scored(sum(x.new_s for x in batch))
            yield from recordings.results(ensemble, options.part_windows)
        yield from recordings.results(ensemble, options.part_windows)


@dataclass(eq=False)
class _Recording:
    """A recording on its way: windows are start, length (samples) and channel; rows their scores, from `given` on."""

    file: str | Path
    windows: list[tuple[int, int, int]] = field(default_factory=list)
    rows: dict[int, np.ndarray] = field(default_factory=dict)
    given: int = 0
    recorder: RecorderMetadata = UNTOLD
    status: RecordingStatus | None = None  # until it is decoded

    @property
    def is_complete(self) -> bool:
        missing = len(self.windows) - self.given - len(self.rows)
        return self.status is not None and (self.status.failed or not missing)

    def result(self, ensemble: WindowScorer, is_last: bool) -> RecordingScores:
        """What is scored of it and wasn't given yet."""
        status = self.status if is_last else None
        status = status or RecordingStatus(str(self.file), "ok", recorder=self.recorder)
        end = self.given + (0 if status.failed else len(self.rows))
        starts, counts, channels = np.array(self.windows[self.given : end], np.int64).reshape(-1, 3).T
        rows = [self.rows.pop(k) for k in range(self.given, end)]
        scores = np.array(rows, np.float32).reshape(-1, len(ensemble.labels))
        self.given, rate_hz = end, ensemble.audio.resample_hz
        ends = (starts + counts) / rate_hz
        return RecordingScores(status, starts / rate_hz, ends, channels.astype(np.int16), scores, is_last)


class _Recordings:
    """Recordings on their way, in order; each must first acquire `room`. Threads share it."""

    def __init__(self, files: Iterable[str | Path]):
        self._files = iter(files)
        self._lock = threading.Lock()
        self.room = threading.Semaphore(_RECORDINGS_IN_FLIGHT)
        self._order: deque[_Recording] = deque()
        self._is_closed = False

    def next(self) -> _Recording | None:
        """Begins another recording, for which there is room; `None` where no more are wanted."""
        with self._lock:
            for file in () if self._is_closed else self._files:
                self._order.append(_Recording(file))
                return self._order[-1]
        return None

    def results(self, ensemble: WindowScorer, part_windows: int | None) -> Iterator[RecordingScores]:
        """Those that are scored and before which none is left; of the next one a part, if it is large enough."""
        while self._order and self._order[0].is_complete:
            self.room.release()
            yield self._order.popleft().result(ensemble, is_last=True)
        if part_windows and self._order and len(self._order[0].rows) >= part_windows:
            yield self._order[0].result(ensemble, is_last=False)

    def close(self) -> None:
        """Lets nothing begin any more, and nobody wait."""
        self._is_closed = True
        self.room.release(1 << 16)


@dataclass(frozen=True, slots=True)
class _WindowTask:
    """A window that waits for its scores: the recording's `index`th, with `new_s` seconds that no task before holds."""

    recording: _Recording
    index: int
    clip: np.ndarray
    new_s: float


def _batches(
    ensemble: WindowScorer, recordings: _Recordings, options: ScoreOptions
) -> Iterator[list[_WindowTask]]:
    """Windows of one or several recordings; a batch is smaller only if more recordings can't begin yet."""
    batch_size = max(options.batch_size or ensemble.batch_size, _CLIPS_A_BATCH)
    batch: list[_WindowTask] = []
    while True:
        if not recordings.room.acquire(blocking=False):
            yield batch  # what the caller waits for may lie in it
            batch = []
            recordings.room.acquire()
        recording = recordings.next()
        if recording is None:
            break
        for task in _cut(recording, ensemble.audio, options):
            batch.append(task)
            if len(batch) == batch_size:
                yield batch
                batch = []
    if batch:
        yield batch


def _cut(recording: _Recording, audio: AudioConfig, options: ScoreOptions) -> Iterator[_WindowTask]:
    size, mtime_ns = file_fingerprint(recording.file)
    recording.recorder = recorder = read_recorder_metadata(recording.file)
    file, rate_hz = str(recording.file), audio.resample_hz
    status = RecordingStatus(file, "corrupt", size_bytes=size, mtime_ns=mtime_ns, recorder=recorder)
    end = 0
    try:
        choice = options.plan.choice(file, recorder) if options.plan else None
        with open_stream(recording.file, audio, options.channel) as stream:
            for window in chosen_windows(stream, audio, options.overlap_s, choice):
                index, window_end = len(recording.windows), window.start_samples + window.n_samples
                recording.windows.append((window.start_samples, window.n_samples, window.channel))
                new_s = max(0, window_end - max(end, window.start_samples)) / rate_hz
                yield _WindowTask(recording, index, window.clip, new_s)
                end = max(end, window_end)
            status = replace(
                status,
                status=stream.status,
                reason=stream.reason,
                seconds=stream.seconds_read,
                seconds_expected=stream.seconds_expected,
                sample_rate_hz=stream.sample_rate_hz,
                channels=stream.channels,
                unscored_s=max(0.0, stream.seconds_read - end / rate_hz),
            )
        if choice:
            starts, counts, _ = np.array(recording.windows, np.int64).reshape(-1, 3).T
            status = replace(status, **choice.outcome(starts / rate_hz, (starts + counts) / rate_hz))
    except AudioError as error:
        status = replace(status, status=error.status, reason=error.reason)
    except KerasBirdsError:
        raise
    except Exception as error:  # whatever a damaged file sets off in a decoder: the others go on
        detail = " ".join(str(error).split())[:200]
        kind = "unreadable" if isinstance(error, OSError) else "corrupt"
        status = replace(status, status=kind, reason=f"{type(error).__name__}: {detail}")
    recording.status = replace(status, windows=0 if status.failed else len(recording.windows))
