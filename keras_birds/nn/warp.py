"""Layers that move the content of a mel image: time shift, time stretch and pitch shift."""

import math
from typing import Any

import keras
import numpy as np

from keras_birds.audio.mel import LINEAR_HZ_PER_MEL, LOG_START_HZ, LOG_START_MEL, LOG_STEP, mel_to_hz
from keras_birds.nn.clip_augmentation import (
    ClipAugmentation,
    Range,
    Uniform,
    between,
    gather,
    num_clips,
    require_range,
    to_float,
    whole,
)


def _mel(xp: Any, hz: Any) -> Any:
    logarithmic = xp.log(xp.maximum(hz, LOG_START_HZ) / LOG_START_HZ) / LOG_STEP + LOG_START_MEL
    return xp.where(hz < LOG_START_HZ, hz / LINEAR_HZ_PER_MEL, logarithmic)


@keras.saving.register_keras_serializable(package="keras_birds")
class TimeShift(ClipAugmentation):
    """Rotates clips in time by any number of columns, all equally likely.

    A sound may lie anywhere in a clip, so a clip that begins elsewhere has the same labels.

    Args:
        probability: that a clip is changed.
        seed: of the draws when called as a layer.
        kwargs: as for `keras.layers.Layer`.

    Input and output `[batch, height, width, channels]`, time along the width.

    Raises:
        ValueError: if an argument is out of range.
    """

    def _transform(self, xp: Any, images: Any, uniform: Uniform) -> Any:
        batch, width = num_clips(xp, images), images.shape[2]
        shift = whole(xp, uniform(batch, 1), (0, width - 1))
        places = xp.mod(xp.array(np.arange(width, dtype=np.float32)[None]) + shift, float(width))
        return gather(xp, images, xp.reshape(places, (-1, 1, width, 1)), 2)


@keras.saving.register_keras_serializable(package="keras_birds")
class TimeStretch(ClipAugmentation):
    """Plays clips faster or slower about their middle, at the same pitch.

    Columns are resampled linearly. A faster clip is repeated to fill its image, as short recordings are.

    Args:
        rate: lowest and highest speed; above 1 is faster.
        probability: that a clip is changed.
        seed: of the draws when called as a layer.
        kwargs: as for `keras.layers.Layer`.

    Input and output `[batch, height, width, channels]`, time along the width.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        rate: Range = (0.8, 1.25),
        probability: float = 0.5,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(probability, seed, **kwargs)
        require_range("rate", rate, 1e-3)
        self.rate: Range = (rate[0], rate[1])

    def _transform(self, xp: Any, images: Any, uniform: Uniform) -> Any:
        batch, width = num_clips(xp, images), images.shape[2]
        rate = between(uniform(batch, 1), self.rate)
        middle = (width - 1) / 2
        offsets = xp.array(np.arange(width, dtype=np.float32)[None] - middle)
        places = xp.mod(offsets * rate + middle, float(width))
        left = xp.floor(places)
        shape = (-1, 1, width, 1)
        first = gather(xp, images, xp.reshape(xp.mod(left, float(width)), shape), 2)
        second = gather(xp, images, xp.reshape(xp.mod(left + 1, float(width)), shape), 2)
        return first + (second - first) * xp.reshape(places - left, shape)

    def get_config(self) -> dict[str, Any]:
        """Arguments to make an equal one with."""
        return {**super().get_config(), "rate": self.rate}


@keras.saving.register_keras_serializable(package="keras_birds")
class PitchShift(ClipAugmentation):
    """Moves sound up or down in frequency by moving the rows of a mel image.

    Each row takes what lay at its centre frequency divided by the interval, by linear interpolation. What
    comes from beyond the mel range is 0, the floor.

    Args:
        semitones: lowest and highest interval; above 0 is up.
        n_mels: bands of the (Slaney) mel scale that the image's rows were resized from, lowest first.
        f_min_hz: lower end of the lowest band.
        f_max_hz: upper end of the highest band.
        probability: that a clip is changed.
        seed: of the draws when called as a layer.
        kwargs: as for `keras.layers.Layer`.

    Input and output `[batch, height, width, channels]`, frequency along the height.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        semitones: Range = (-2.0, 2.0),
        n_mels: int = 128,
        f_min_hz: float = 50.0,
        f_max_hz: float = 14_000.0,
        probability: float = 0.5,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(probability, seed, **kwargs)
        require_range("semitones", semitones, None)
        if not 0 <= f_min_hz < f_max_hz or n_mels < 1:
            raise ValueError(
                "`n_mels` must be at least 1 and 0 <= `f_min_hz` < `f_max_hz`. "
                f"Received: n_mels={n_mels}, f_min_hz={f_min_hz}, f_max_hz={f_max_hz}"
            )
        self.semitones: Range = (semitones[0], semitones[1])
        self.n_mels = n_mels
        self.f_min_hz = f_min_hz
        self.f_max_hz = f_max_hz

    def _transform(self, xp: Any, images: Any, uniform: Uniform) -> Any:
        batch, height = num_clips(xp, images), images.shape[1]
        semitones = between(uniform(batch, 1), self.semitones)
        source_hz = xp.array(self.row_hz(height)[None]) * xp.exp(semitones * (-math.log(2) / 12))
        low_mel, high_mel = (_mel(np, np.float32(hz)) for hz in (self.f_min_hz, self.f_max_hz))
        bands = (_mel(xp, source_hz) - float(low_mel)) * float((self.n_mels + 1) / (high_mel - low_mel)) - 1
        rows = (bands + 0.5) * (height / self.n_mels) - 0.5
        inside = to_float(xp, (rows >= -0.5) & (rows <= height - 0.5))
        rows = xp.clip(rows, 0.0, float(height - 1))
        low = xp.floor(rows)
        shape = (-1, height, 1, 1)
        first = gather(xp, images, xp.reshape(low, shape), 1)
        second = gather(xp, images, xp.reshape(xp.minimum(low + 1, float(height - 1)), shape), 1)
        return (first + (second - first) * xp.reshape(rows - low, shape)) * xp.reshape(inside, shape)

    def row_hz(self, height: int) -> np.ndarray:
        """Centre frequency of each row in Hz, float32 `[height]`."""
        low_mel, high_mel = (_mel(np, np.float64(hz)) for hz in (self.f_min_hz, self.f_max_hz))
        bands = (np.arange(height) + 0.5) * (self.n_mels / height) - 0.5
        mel = low_mel + (bands + 1) * (high_mel - low_mel) / (self.n_mels + 1)
        return mel_to_hz(mel).astype(np.float32)

    def get_config(self) -> dict[str, Any]:
        """Arguments to make an equal one with."""
        return {
            **super().get_config(),
            "semitones": self.semitones,
            "n_mels": self.n_mels,
            "f_min_hz": self.f_min_hz,
            "f_max_hz": self.f_max_hz,
        }
