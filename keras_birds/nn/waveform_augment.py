"""Augmentation of sound as it is, for networks that take no image: on arrays, in the threads that load batches."""

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


def add_sound(clips: np.ndarray, backgrounds: np.ndarray, snr_db: np.ndarray) -> np.ndarray:
    """Adds backgrounds to clips, float32 `[n, samples]`; a silent clip or background changes nothing.

    Args:
        clips, backgrounds: to add.
        snr_db: `[n]`, how far the background's mean power lies below the clip's.
    """
    level, noise = (np.sqrt(np.mean(np.square(x), axis=1)) for x in (clips, backgrounds))
    factor = np.where(noise > 0, level * 10 ** (-snr_db / 20) / np.maximum(noise, 1e-12), 0)
    return np.asarray(clips + factor.astype(np.float32)[:, None] * backgrounds)
