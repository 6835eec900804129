"""Augmentation of sound as it is, for networks that take no image: on arrays, in the threads that load batches."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RotateInTime:
    """Rotates clips in time: what leaves at one end comes in at the other; `probability` is that a clip is changed."""

    probability: float

    def augment_arrays(self, clips: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Rotates some of float32 `[batch, samples]`, left as they are."""
        chosen = np.flatnonzero(rng.random(len(clips)) < self.probability)
        out = clips.copy()
        for row, shift in zip(chosen, rng.integers(clips.shape[1], size=len(chosen)), strict=True):
            out[row] = np.roll(clips[row], shift)
        return out


@dataclass(frozen=True)
class AddBackground:
    """Adds a background clip's sound to a clip's, its mean power so many dB below it. The labels stay.

    Args:
        clips_of: gives float32 `[n, samples]` of backgrounds by number, from several threads.
        number: of backgrounds.
        snr_db: lowest and highest distance between the mean powers of clip and background.
        probability: that a clip is changed.
    """

    clips_of: Callable[[np.ndarray], np.ndarray]
    number: int
    snr_db: tuple[float, float]
    probability: float

    def augment_arrays(self, clips: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Changes some of float32 `[batch, samples]`, left as they are; a silent clip or background changes nothing."""
        chosen = np.flatnonzero(rng.random(len(clips)) < self.probability)
        if not len(chosen):
            return clips
        snr_db = rng.uniform(*self.snr_db, len(chosen)).astype(np.float32)
        backgrounds = self.clips_of(rng.integers(self.number, size=len(chosen)))
        level, noise = (np.sqrt(np.mean(np.square(x), axis=1)) for x in (clips[chosen], backgrounds))
        factor = np.where(noise > 0, level * 10 ** (-snr_db / 20) / np.maximum(noise, 1e-12), 0)
        out = clips.copy()
        out[chosen] += factor.astype(np.float32)[:, None] * backgrounds
        return out
