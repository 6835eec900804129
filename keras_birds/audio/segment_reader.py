"""Parts of a recording, without decoding what lies before them where the format allows."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import soxr

from keras_birds.audio import ffmpeg
from keras_birds.audio.reader import NeedsFfmpeg, Reader, mix


class Parts(Protocol):
    """An open recording, whose parts are asked for from the first to the last."""

    rate_hz: int
    subtype: str

    def read(self, first: int, last: int) -> np.ndarray:
        """Float32 frames `[n, channels]` from `first` to before `last`, fewer at the end."""


@contextmanager
def open_parts(name: str | Path) -> Iterator[Parts]:
    """Opens a recording to read parts of it.

    Args:
        name: a path or a URL.

    Raises:
        AudioError: when it is opened or while it is read, if it can't be.
        ConfigError: if a package that a URL needs isn't installed.
    """
    try:
        reader = Reader(name)
    except NeedsFfmpeg:
        with ffmpeg.stream(Path(name)) as (blocks, rate_hz, channels, _):
            yield _Forward(blocks, rate_hz, channels)
        return
    with reader:
        yield _Sought(reader)


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
    with open_parts(name) as parts:
        frames = parts.read(round(begin_s * parts.rate_hz), round(end_s * parts.rate_hz))
        samples = mix(frames)[:, 0]
        if parts.rate_hz == sample_rate_hz or not len(samples):
            return samples
        resampled: np.ndarray = soxr.resample(samples, parts.rate_hz, sample_rate_hz, quality="HQ")
        return resampled


class _Sought:
    """A recording that libsndfile reads."""

    def __init__(self, reader: Reader):
        self.rate_hz, self.subtype = reader.rate_hz, reader.subtype
        self._reader = reader
        self._first, self._last, self._frames = -1, -1, np.zeros((0, reader.channels), np.float32)

    def read(self, first: int, last: int) -> np.ndarray:
        # Several labels of one place need one reading. Of parts with one start the longest comes first.
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
