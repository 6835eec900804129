"""Mixes the sound of recordings without animals under clips."""

from collections.abc import Callable

import numpy as np

_NEPER_PER_DB = np.float32(np.log(10) / 10)
# Finite, so that two silences have a difference.
_NOTHING = np.float32(-1e4)


class BackgroundMix:
    """Adds a background clip's power to a clip's, so many dB below it, and takes the sum to [0, 1] again.

    Images are taken as decibels under a clip's maximum, `top_db` below which lies 0. The labels stay: a background
    holds none of them. It draws from recordings, so it works on arrays only and is no Keras layer.

    Args:
        images_of: gives images float32 `[n, height, width, 1]` of backgrounds by number, from several threads.
        number: of backgrounds.
        snr_db: lowest and highest distance between the maxima of clip and background.
        top_db: decibels from 0 to 1 in an image.
        probability: that a clip is changed.

    Raises:
        ValueError: if there is no background.
    """

    def __init__(
        self,
        images_of: Callable[[np.ndarray], np.ndarray],
        number: int,
        snr_db: tuple[float, float],
        top_db: float,
        probability: float,
    ):
        if number < 1:
            raise ValueError(f"`number` must be at least 1. Received: number={number}")
        self.images_of = images_of
        self.number = number
        self.snr_db = snr_db
        self.top_db = top_db
        self.probability = probability

    def augment_arrays(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Mixes backgrounds under some clips.

        Args:
            images: float32 `[batch, height, width, 1]` in [0, 1], left as they are.
            rng: source of the draws.
        """
        chosen = np.flatnonzero(rng.random(len(images)) < self.probability)
        if not len(chosen):
            return images
        snr_db = rng.uniform(*self.snr_db, len(chosen)).astype(np.float32)
        backgrounds = self.images_of(rng.integers(self.number, size=len(chosen)))
        out = images.copy()
        out[chosen] = mix_power(images[chosen], backgrounds, snr_db, self.top_db)
        return out


def mix_power(images: np.ndarray, backgrounds: np.ndarray, snr_db: np.ndarray, top_db: float) -> np.ndarray:
    """Adds powers of images that are in decibels.

    Args:
        images: float32 `[n, height, width, 1]` in [0, 1].
        backgrounds: of the same shape.
        snr_db: `[n]`, how far the background's maximum lies below the image's.
        top_db: decibels from 0 to 1.

    Returns:
        float32 of the same shape, each image from 0 to 1. A sum without contrast gives zeros.
    """
    scale = np.float32(top_db) * _NEPER_PER_DB
    quieter = snr_db[:, None, None, None].astype(np.float32) * _NEPER_PER_DB
    # 0 is the floor or anything below it: taken as no power, floors don't add up.
    clips, noises = (np.where(x > 0, (x - 1) * scale, _NOTHING) for x in (images, backgrounds))
    power = np.logaddexp(clips, noises - quieter)
    power -= power.max(axis=(1, 2, 3), keepdims=True)
    np.maximum(power, -scale, out=power)
    low = power.min(axis=(1, 2, 3), keepdims=True)
    # The maximum is 0: where the minimum is too, the image has no contrast.
    return np.where(low < 0, 1 - power / np.minimum(low, -1e-12), np.float32(0)).astype(np.float32)
