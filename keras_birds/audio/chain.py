"""Several sounds as one, for files that hold one after the other."""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Generator, Iterable, Sequence
from itertools import accumulate, chain, count, takewhile

import numpy as np
import soundfile
import soxr

BLOCK_FRAMES = 1 << 15


class SndFile(soundfile.SoundFile):
    """A sound that libsndfile reads, of a length that may be unknown."""

    def seekable(self) -> bool:
        """Whether places are known: `read` would seek behind the last frame, where libsndfile can't if they aren't."""
        return super().seekable() and self.frames < 1 << 36


class ForwardSound(ABC):
    """A sound that is read forwards, as a `soundfile.SoundFile`: seeking reads what lies between, back from the start.

    Args:
        samplerate: in Hz.
        frames: how many there are.
    """

    subtype = "PCM_16"

    def __init__(self, samplerate: int, channels: int, frames: int):
        self.samplerate, self.channels, self.frames = samplerate, channels, frames
        self._begin()

    @abstractmethod
    def _from_start(self) -> Generator[np.ndarray]:
        """Float32 blocks `[n, channels]` of all of it."""

    def _begin(self) -> None:
        self._blocks, self._place = self._from_start(), 0
        self._held = np.zeros((0, self.channels), np.float32)

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """At most so many frames, float32 `[n, channels]`; fewer only at the end."""
        parts, held = [self._held], len(self._held)
        while held < frames and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            held += len(block)
        found = np.concatenate(parts)
        self._held = found[frames:]
        self._place += len(found) - len(self._held)
        return found[:frames]

    def seek(self, frames: int) -> int:
        """Goes to a frame, or to the end."""
        if frames < self._place:
            self._blocks.close()
            self._begin()
        while self._place < frames and len(self.read(min(BLOCK_FRAMES, frames - self._place))):
            pass
        return self._place

    def tell(self) -> int:
        """The next frame."""
        return self._place

    def close(self) -> None:
        """Ends the reading."""
        self._blocks.close()


class Chain:
    """Sounds that follow each other, at the first one's rate and channels.

    A sound of another rate is resampled by soxr (HQ), of another number of channels mixed, and the mean stands in each
    channel. There is one at least, and lengths are known.
    """

    def __init__(self, sounds: Sequence[SndFile]):
        first = sounds[0]
        self.samplerate, self.channels, self.subtype = first.samplerate, first.channels, first.subtype
        self._sounds = [
            x if x.samplerate == first.samplerate else _Resampled(x, first.samplerate) for x in sounds
        ]
        self._starts = [0, *accumulate(x.frames for x in self._sounds)]
        self.frames = self._starts.pop()
        self._current = self._place = 0

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """As `SoundFile.read`."""
        blocks = [np.zeros((0, self.channels), np.float32)]
        while frames > 0 and self._current < len(self._sounds):
            block = self._sounds[self._current].read(frames, dtype, always_2d)
            if not len(block):
                self.seek([*self._starts, self.frames][self._current + 1])
                continue
            frames -= len(block)
            self._place += len(block)
            blocks.append(
                block if block.shape[1] == self.channels else np.repeat(mix(block), self.channels, 1)
            )
        return np.concatenate(blocks)

    def seek(self, frames: int) -> int:
        """As `SoundFile.seek`."""
        self._place = frames
        self._current = len(self._sounds)
        if frames < self.frames:
            self._current = bisect_right(self._starts, frames) - 1
            self._sounds[self._current].seek(frames - self._starts[self._current])
        return frames

    def tell(self) -> int:
        """As `SoundFile.tell`."""
        return self._place

    def close(self) -> None:
        """As `SoundFile.close`."""
        for x in self._sounds:
            x.close()


class _Resampled(ForwardSound):
    """A sound at another rate."""

    def __init__(self, sound: SndFile, rate_hz: int):
        self._sound = sound
        super().__init__(rate_hz, sound.channels, resampled_length(sound.frames, sound.samplerate, rate_hz))

    def _from_start(self) -> Generator[np.ndarray]:
        self._sound.seek(0)
        native = takewhile(len, (self._sound.read(BLOCK_FRAMES, "float32", True) for _ in count()))
        return resampled(native, self._sound.samplerate, self.samplerate, self.channels)

    def close(self) -> None:
        self._sound.close()


def mix(frames: np.ndarray) -> np.ndarray:
    """The mean over channels, `[n, channels]` to `[n, 1]`."""
    return frames if frames.shape[1] == 1 else frames.mean(axis=1, dtype=np.float32, keepdims=True)


def resampled_length(frames: int, rate_hz: int, target_hz: int) -> int:
    """Samples that `frames` become at another rate."""
    return (2 * frames * target_hz + rate_hz) // (2 * rate_hz)


def resampled(
    blocks: Iterable[np.ndarray], rate_hz: int, target_hz: int, channels: int
) -> Generator[np.ndarray]:
    """Blocks `[n, channels]` at another rate (soxr HQ), each as soon as it can be."""
    if rate_hz == target_hz:
        yield from blocks
        return
    resampler = soxr.ResampleStream(rate_hz, target_hz, channels, dtype="float32", quality="HQ")
    for block in chain(blocks, [None]):
        frames = np.zeros((0, channels), np.float32) if block is None else block
        # soxr wants vectors of one channel.
        chunk = np.ascontiguousarray(frames[:, 0] if channels == 1 else frames)
        found = resampler.resample_chunk(chunk, last=block is None)
        if len(found):
            yield found.reshape(-1, channels)
