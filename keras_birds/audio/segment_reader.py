"""Parts of a recording, without decoding what lies before them where the format allows."""

from pathlib import Path

import numpy as np
import soxr

from keras_birds.audio.chain import mix
from keras_birds.audio.reader import Reader


class SegmentReader(Reader):
    """An open recording, whose parts are best asked for from the first to the last: what was read last is kept."""

    def __init__(self, name: str | Path):
        super().__init__(name)
        self._first, self._held = 0, np.zeros((0, self.channels), np.float32)

    def segment(self, first: int, last: int) -> np.ndarray:
        """Float32 frames `[n, channels]` from `first` to before `last`, fewer at the end."""
        end = self._first + len(self._held)
        if not self._first <= first <= end:
            self._first, self._held, end = first, self._held[:0], first
        if last > end:
            kept = self._held[first - self._first :]
            self._held = np.concatenate([kept, *self.blocks(end, last - end)])
            self._first = first
        return self._held[first - self._first : last - self._first]


def read_part(name: str | Path, begin_s: float, end_s: float, sample_rate_hz: int) -> np.ndarray:
    """One part of a recording, the mean over channels, resampled by soxr (HQ).

    Args:
        name: a path or a URL.
        begin_s: where it begins.
        end_s: where it ends.
        sample_rate_hz: rate of the samples.

    Returns:
        float32 `[n]`, shorter where the recording ends before; none where it ends before the part begins.

    Raises:
        AudioError: if it can't be read.
        ConfigError: if a package that a URL needs isn't installed.
    """
    with SegmentReader(name) as reader:
        frames = reader.segment(round(begin_s * reader.rate_hz), round(end_s * reader.rate_hz))
        samples = mix(frames)[:, 0]
        if reader.rate_hz == sample_rate_hz or not len(samples):
            return samples
        resampled: np.ndarray = soxr.resample(samples, reader.rate_hz, sample_rate_hz, quality="HQ")
        return resampled
