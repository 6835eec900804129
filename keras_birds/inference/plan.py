"""Which windows of a recording a schedule wants scored, by where and when it was made."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from keras_birds.audio.clips import Window, sliding_windows, united, window_spans
from keras_birds.audio.recorder import Origin, RecorderMetadata
from keras_birds.audio.schedule import Schedule
from keras_birds.audio.stream import RecordingStream
from keras_birds.config import AudioConfig
from keras_birds.errors import AudioError

SKIPPED, NO_ORIGIN = "skipped", "no time or place"
"""Status of a recording of which a schedule wants nothing, and of one of which it can't be told."""


@dataclass(frozen=True)
class Plan:
    """A schedule, and who knows where and when recordings were made.

    Args:
        schedule: when recordings are heard.
        origin_of: tells it by a recording's name and what the file itself tells.
        names: of recordings that are read elsewhere, by where they are read.
    """

    schedule: Schedule
    origin_of: Callable[[str, RecorderMetadata], Origin]
    names: Mapping[str, str] = field(default_factory=dict)

    def choice(self, file: str, recorder: RecorderMetadata) -> "Choice":
        """What is wanted of a recording; an `AudioError` where what must be known of it isn't."""
        origin = self.origin_of(self.names.get(file, file), recorder)
        if lacks := self.schedule.lacks(origin):
            raise AudioError(file, lacks, NO_ORIGIN)
        return Choice(self.schedule, origin)


@dataclass(frozen=True)
class Choice:
    """What a schedule wants of a recording."""

    schedule: Schedule
    origin: Origin

    def wants(self, start_s: np.ndarray, end_s: np.ndarray) -> np.ndarray:
        """Of windows, bool `[n]`: those whose middle it wants."""
        return self.schedule.wants(self.origin, (start_s + end_s) / 2)

    def outcome(self, start_s: np.ndarray, end_s: np.ndarray) -> dict[str, Any]:
        """What becomes of the recording of which these windows, by start, were wanted: fields of its status."""
        found: dict[str, Any] = {"chosen_s": united(start_s, end_s), "unscored_s": 0.0}
        if len(start_s):
            return found
        return found | {"status": SKIPPED, "reason": self.schedule.outside(self.origin)}


def chosen_windows(
    stream: RecordingStream, audio: AudioConfig, overlap_s: float, choice: Choice | None
) -> Iterator[Window]:
    """Those that are to be scored; what lies between them is not decoded where the file can be entered there."""
    if choice is None:
        yield from sliding_windows(stream.blocks, audio, overlap_s, stream.channel_ids)
        return
    rate_hz = audio.resample_hz
    if stream.n_samples is not None:
        starts, counts = np.array(window_spans(stream.n_samples, audio, overlap_s), np.int64).reshape(-1, 2).T
        wanted = choice.wants(starts / rate_hz, (starts + counts) / rate_hz)
        if not wanted.any():
            stream.seconds_read = stream.n_samples / rate_hz
            return
        if stream.parts is not None:
            edges = np.flatnonzero(np.diff(wanted, prepend=False, append=False))
            spans = [(int(starts[a]), int(starts[b - 1] + counts[b - 1])) for a, b in edges.reshape(-1, 2)]
            # The parts first, so that they are asked for once more and tell what became of the recording.
            for blocks, (begin, _) in zip(stream.parts(spans), spans, strict=False):
                for window in sliding_windows(blocks, audio, overlap_s, stream.channel_ids):
                    yield replace(window, start_samples=begin + window.start_samples)
            return
    for window in sliding_windows(stream.blocks, audio, overlap_s, stream.channel_ids):
        bounds = np.array([[window.start_samples], [window.start_samples + window.n_samples]])
        if choice.wants(*bounds / rate_hz)[0]:
            yield window
