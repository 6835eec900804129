"""Several sounds as one, for files that hold one after the other."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

import numpy as np
import soundfile
import soxr

_BLOCK_FRAMES = 1 << 15


class Sound(Protocol):
    """What is read block by block: a `soundfile.SoundFile`, or what behaves as one."""

    samplerate: int
    channels: int
    subtype: str
    format: str
    frames: int

    def read(self, frames: int, dtype: str, always_2d: bool) -> np.ndarray:
        """At most so many frames, `[n, channels]`; fewer only at the end."""

    def seek(self, frames: int) -> int:
        """The new place."""

    def tell(self) -> int:
        """The next frame."""

    def close(self) -> None:
        """Ends the reading."""


class SndFile(soundfile.SoundFile):
    """A sound that libsndfile reads, of a length that may be unknown."""

    def seekable(self) -> bool:
        """Whether places are known: `read` would seek behind the last frame, where libsndfile can't if they aren't."""
        return super().seekable() and self.frames < 1 << 36


class Chain:
    """Sounds that follow each other, at the first one's rate and channels.

    A sound of another rate is resampled by soxr (HQ), of another number of channels mixed, and the mean stands in each
    channel.

    Args:
        sounds: one at least, of known lengths.
    """

    def __init__(self, sounds: Sequence[Sound]):
        first = sounds[0]
        self.samplerate, self.channels = first.samplerate, first.channels
        self.subtype, self.format = first.subtype, first.format
        self._sounds = [
            x if x.samplerate == first.samplerate else _Resampled(x, first.samplerate) for x in sounds
        ]
        self._starts = [0, *accumulate(x.frames for x in self._sounds)]
        self.frames = self._starts.pop()
        self._current = self._place = 0

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """As `Sound.read`."""
        blocks = [np.zeros((0, self.channels), np.float32)]
        while frames > 0 and self._current < len(self._sounds):
            block = self._sounds[self._current].read(frames, dtype, always_2d)
            if not len(block):
                self.seek(
                    self._starts[self._current + 1] if self._current + 1 < len(self._starts) else self.frames
                )
                continue
            frames -= len(block)
            self._place += len(block)
            blocks.append(
                block if block.shape[1] == self.channels else np.repeat(mix(block), self.channels, 1)
            )
        return np.concatenate(blocks)

    def seek(self, frames: int) -> int:
        """As `Sound.seek`."""
        self._place = frames
        self._current = (
            sum(x <= frames for x in self._starts) - 1 if frames < self.frames else len(self._sounds)
        )
        if self._current < len(self._sounds):
            self._sounds[self._current].seek(frames - self._starts[self._current])
        return frames

    def tell(self) -> int:
        """As `Sound.tell`."""
        return self._place

    def close(self) -> None:
        """As `Sound.close`."""
        for x in self._sounds:
            x.close()


class _Resampled:
    """A sound at another rate."""

    def __init__(self, sound: Sound, rate_hz: int):
        self.samplerate, self.channels = rate_hz, sound.channels
        self.subtype, self.format = sound.subtype, sound.format
        self.frames = resampled_length(sound.frames, sound.samplerate, rate_hz)
        self._sound = sound
        self._start()

    def _start(self) -> None:
        rates_hz = self._sound.samplerate, self.samplerate
        self._resampler = soxr.ResampleStream(*rates_hz, self.channels, dtype="float32", quality="HQ")
        self._held = np.zeros((0, self.channels), np.float32)
        self._is_over, self._place = False, 0

    def read(self, frames: int, dtype: str, always_2d: bool) -> np.ndarray:
        while len(self._held) < frames and not self._is_over:
            block = self._sound.read(_BLOCK_FRAMES, dtype, always_2d)
            self._is_over = not len(block)
            self._held = np.concatenate([self._held, resample_chunk(self._resampler, block, self._is_over)])
        taken, self._held = self._held[:frames], self._held[frames:]
        self._place += len(taken)
        return taken

    def seek(self, frames: int) -> int:
        self._sound.seek(0)
        self._start()
        while self._place < frames and len(
            self.read(min(_BLOCK_FRAMES, frames - self._place), "float32", True)
        ):
            pass
        return self._place

    def tell(self) -> int:
        return self._place

    def close(self) -> None:
        self._sound.close()


def mix(frames: np.ndarray) -> np.ndarray:
    """The mean over channels, `[n, channels]` to `[n, 1]`."""
    return frames if frames.shape[1] == 1 else frames.mean(axis=1, dtype=np.float32, keepdims=True)


def resampled_length(frames: int, rate_hz: int, target_hz: int) -> int:
    """Samples that `frames` become at another rate."""
    return (2 * frames * target_hz + rate_hz) // (2 * rate_hz)


def resample_chunk(resampler: soxr.ResampleStream, frames: np.ndarray, is_last: bool) -> np.ndarray:
    """What comes out when `[n, channels]` go in; soxr wants vectors of one channel."""
    is_mono = frames.shape[1] == 1
    chunk = np.ascontiguousarray(frames[:, 0] if is_mono else frames)
    found: np.ndarray = resampler.resample_chunk(chunk, last=is_last)
    return found[:, None] if is_mono else found
