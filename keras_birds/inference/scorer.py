"""Scores recordings one after the other, with every processor busy and memory flat.

Each thread turns batches of windows into scores; when few batches wait, one of them first cuts the next ones from a
recording. That is 3 % faster than decoding in threads of its own, which drive out of the processors' caches what the
model needs there. The caller takes whole recordings in the order in which they were named. What waits is bounded.
Threads serve because libsndfile, soxr, NumPy, SciPy and ONNX Runtime all let go of Python's lock while they compute.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING

import numpy as np

from keras_birds.audio.clips import sliding_windows, window_hop_samples
from keras_birds.audio.remote import stamp
from keras_birds.audio.stream import Channel, RecordingStream, open_stream
from keras_birds.errors import AudioError, ConfigError, KerasBirdsError
from keras_birds.inference.recording_status import RecordingStatus
from keras_birds.threads import available_cpus

if TYPE_CHECKING:
    from keras_birds.inference.classifier import Classifier

_RECORDINGS_IN_FLIGHT = 64
_THREADS_PER_CUTTER = 4  # decoding and resampling take a third of what mel and model take, at most
# Mel and model in turns push each other out of the cache: 3 % slower if they change more often.
_CLIPS_A_JOB = 4


@dataclass(frozen=True)
class ScoreOptions:
    """How recordings are cut and on how many processors they are scored.

    Args:
        overlap_s: how much each window shares with the one before.
        channel: `"mix"`, `"all"` or a number from 1.
        workers: threads that compute; `None` for the processors that this process may use.
        batch_size: windows at a time; `None` for what the model is fastest with.
    """

    overlap_s: float = 0.0
    channel: Channel = "mix"
    workers: int | None = None
    batch_size: int | None = None


DEFAULT_OPTIONS = ScoreOptions()


@dataclass(frozen=True)
class RecordingScores:
    """One recording's scores, by window and then by channel.

    Args:
        recording: what became of it.
        start_s: float64 `[window]`, where each begins.
        end_s: float64 `[window]`, where each ends, not beyond the recording.
        channel: int16 `[window]`, from 1; 0 for the mean over channels.
        scores: float32 probabilities `[window, label]`; no row where the recording failed.
    """

    recording: RecordingStatus
    start_s: np.ndarray
    end_s: np.ndarray
    channel: np.ndarray
    scores: np.ndarray


def score_recordings(
    classifier: "Classifier",
    names: Iterable[str | Path],
    options: ScoreOptions = DEFAULT_OPTIONS,
    on_scored: Callable[[float], None] = lambda _: None,
) -> Iterator[RecordingScores]:
    """Scores recordings. One that can't be read gets a status that says why.

    Args:
        classifier: the model.
        names: paths or URLs, read as they are needed.
        options: how.
        on_scored: told how many seconds of audio were scored since it was last told; called by several threads.

    Yields:
        One for each name, in order.

    Raises:
        ConfigError: at once, if the options can't be used.
        KerasBirdsError: on the way, if the model gives no numbers or a package is missing.
    """
    window_hop_samples(classifier.audio, options.overlap_s)
    for name in ("workers", "batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1. Received: {value}")
    return iter(_Pipeline(classifier, iter(names), options, on_scored))


class _Pending:
    """A recording on its way."""

    def __init__(self, name: str | Path):
        self.name = name
        self.windows: list[tuple[int, int, int]] = []
        self.scores: dict[int, np.ndarray] = {}
        self.recording = RecordingStatus(str(name), "corrupt")
        self.is_decoded = False

    @property
    def is_complete(self) -> bool:
        return self.is_decoded and (self.recording.failed or len(self.scores) == len(self.windows))


@dataclass(frozen=True)
class _Item:
    pending: _Pending
    index: int
    clip: np.ndarray


class _Cutter:
    """What cuts one recording after the other into batches, for one thread at a time."""

    def __init__(self, batches: Iterator[list[_Item]]):
        self.batches = batches
        self.needs_room = False


class _Pipeline:
    def __init__(
        self,
        classifier: "Classifier",
        names: Iterator[str | Path],
        options: ScoreOptions,
        on_scored: Callable[[float], None],
    ):
        self._classifier = classifier
        self._names = names
        self._options = options
        self._on_scored = on_scored
        self._threads = options.workers or available_cpus()
        self._slots = threading.Semaphore(classifier.workers or self._threads)
        self._batch_size = options.batch_size or classifier.batch_size
        self._job_size = max(self._batch_size, _CLIPS_A_JOB)
        self._hop_s = classifier.audio.clip_s - options.overlap_s
        self._take = threading.Lock()
        self._order: Queue[_Pending | None] = Queue()
        # All below is read and changed under this lock only.
        self._changed = threading.Condition()
        self._cutters = [_Cutter(self._cut()) for _ in range(-(-self._threads // _THREADS_PER_CUTTER))]
        self._cutting = 0
        self._jobs: deque[list[_Item]] = deque()
        self._in_flight = 0
        self._error: BaseException | None = None
        self._stopped = False

    def __iter__(self) -> Iterator[RecordingScores]:
        threads = [
            threading.Thread(target=self._work, daemon=True, name="keras-birds") for _ in range(self._threads)
        ]
        for thread in threads:
            thread.start()
        try:
            while (pending := self._order.get()) is not None:
                with self._changed:
                    while not pending.is_complete and self._error is None:
                        self._changed.wait()
                    self._in_flight -= 1
                    self._changed.notify_all()
                if self._error is not None:
                    break
                yield self._result(pending)
        finally:
            self._stop()
            for thread in threads:
                thread.join(timeout=30)
        if self._error is not None:
            raise self._error

    def _stop(self, error: BaseException | None = None) -> None:
        with self._changed:
            self._error = self._error or error
            self._stopped = True
            self._changed.notify_all()
        self._order.put(None)

    def _result(self, pending: _Pending) -> RecordingScores:
        windows = [] if pending.recording.failed else pending.windows
        starts, counts, channels = np.array(windows, np.int64).reshape(-1, 3).T
        rate_hz = self._classifier.audio.sample_rate_hz
        scores = np.zeros((len(windows), len(self._classifier.labels)), np.float32)
        for index in range(len(windows)):
            scores[index] = pending.scores[index]
        return RecordingScores(
            replace(pending.recording, windows=len(windows)),
            starts / rate_hz,
            (starts + counts) / rate_hz,
            channels.astype(np.int16),
            scores,
        )

    def _work(self) -> None:
        """Runs in each thread: cuts recordings while few batches wait, else turns a batch into scores."""
        try:
            while (task := self._next_task()) is not None:
                if isinstance(task, _Cutter):
                    self._advance(task)
                else:
                    self._compute(task)
        except BaseException as error:
            self._stop(error)

    def _next_task(self) -> "_Cutter | list[_Item] | None":
        with self._changed:
            while not self._stopped:
                has_room = self._in_flight < _RECORDINGS_IN_FLIGHT
                ready = [x for x in self._cutters if has_room or not x.needs_room]
                if ready and len(self._jobs) < self._threads:
                    self._cutters.remove(ready[0])
                    self._cutting += 1
                    return ready[0]
                if self._jobs:
                    return self._jobs.popleft()
                if not self._cutters and not self._cutting:
                    return None
                self._changed.wait()
            return None

    def _advance(self, cutter: _Cutter) -> None:
        """Cuts until enough batches wait."""
        is_over = False
        while not is_over:
            batch = next(cutter.batches, None)
            is_over = batch is None
            with self._changed:
                cutter.needs_room = batch == []
                if batch:
                    self._jobs.append(batch)
                    self._changed.notify_all()
                if cutter.needs_room or len(self._jobs) >= 2 * self._threads or self._stopped:
                    break
        with self._changed:
            self._cutting -= 1
            if not is_over:
                self._cutters.append(cutter)
            elif not self._cutters and not self._cutting:
                self._order.put(None)
            self._changed.notify_all()

    def _cut(self) -> Iterator[list[_Item]]:
        """Recordings become batches of windows; an empty batch says that there is no room for another recording."""
        batch: list[_Item] = []
        while True:
            with self._changed:
                has_room = self._in_flight < _RECORDINGS_IN_FLIGHT
            if not has_room:
                # What the caller waits for may lie in this batch.
                yield batch
                batch = []
                continue
            with self._take:
                name = next(self._names, None)
                if name is None:
                    break
                pending = _Pending(name)
                with self._changed:
                    self._in_flight += 1
                self._order.put(pending)
            batch = yield from self._cut_one(pending, batch)
        if batch:
            yield batch

    def _cut_one(self, pending: _Pending, batch: list[_Item]) -> Generator[list[_Item], None, list[_Item]]:
        """Yields full batches and returns the last, begun one."""
        audio, options = self._classifier.audio, self._options
        size, mtime_ns = stamp(pending.name)
        recording = RecordingStatus(str(pending.name), "corrupt", size_bytes=size, mtime_ns=mtime_ns)
        try:
            with open_stream(pending.name, audio.sample_rate_hz, audio.decoder, options.channel) as stream:
                for window in sliding_windows(stream.blocks, audio, options.overlap_s, stream.numbers):
                    pending.windows.append((window.start_samples, window.n_samples, window.channel))
                    batch.append(_Item(pending, len(pending.windows) - 1, window.clip))
                    if len(batch) >= self._job_size:
                        yield batch
                        batch = []
                recording = _recording_status(recording, stream, pending, audio.sample_rate_hz)
        except AudioError as error:
            recording = replace(recording, status=error.status, reason=error.reason)
        except KerasBirdsError:
            raise
        except Exception as error:  # whatever a damaged file sets off in a decoder: the others go on
            detail = " ".join(str(error).split())[:200]
            status = "unreadable" if isinstance(error, OSError) else "corrupt"
            recording = replace(recording, status=status, reason=f"{type(error).__name__}: {detail}")
        with self._changed:
            pending.recording, pending.is_decoded = recording, True
            if pending.is_complete:
                self._changed.notify_all()
        return batch

    def _compute(self, batch: list[_Item]) -> None:
        inputs = self._classifier.inputs([x.clip for x in batch])
        with self._slots:
            scores = np.concatenate(
                [
                    self._classifier.probabilities(inputs[x : x + self._batch_size])
                    for x in range(0, len(inputs), self._batch_size)
                ]
            )
        self._on_scored(len(batch) * self._hop_s)
        with self._changed:
            for item, row in zip(batch, scores, strict=True):
                item.pending.scores[item.index] = row
            if any(x.pending.is_complete for x in batch):
                self._changed.notify_all()


def _recording_status(
    recording: RecordingStatus, stream: RecordingStream, pending: _Pending, rate_hz: int
) -> RecordingStatus:
    end_s = max((start + n) / rate_hz for start, n, _ in pending.windows)
    return replace(
        recording,
        status=stream.status,
        reason=stream.reason,
        seconds=stream.seconds_read,
        seconds_expected=stream.seconds_expected,
        sample_rate_hz=stream.sample_rate_hz,
        channels=stream.channels,
        unscored_s=max(0.0, stream.seconds_read - end_s),
    )
