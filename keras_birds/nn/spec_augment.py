"""Layers that change a mel image in place: masks, gain and volume."""

from typing import Any

import keras
import numpy as np

from keras_birds.nn.clip_augmentation import (
    ClipAugmentation,
    Range,
    Uniform,
    between,
    num_clips,
    require_probability,
    require_range,
    to_float,
    whole,
)

Masks = tuple[float, tuple[int, int], tuple[int, int]]
"""Probability of masks, least and most of them, least and most of the size of each."""


@keras.saving.register_keras_serializable(package="keras_birds")
class SpecAugment(ClipAugmentation):
    """Blanks bands of time and of frequency, then changes gain and bias, each with its own probability.

    Masks are set to 0, the floor. Gain and bias give `image * U(gain) + U(bias)`, kept in [0, 1].

    Args:
        probability: that a clip is changed; the others apply among those.
        time_masks: their probability, least and most of them, least and most columns of each.
        frequency_masks: their probability, least and most of them, least and most rows of each.
        gain_probability: of gain and bias, together.
        gain: lowest and highest factor.
        bias: lowest and highest summand.
        seed: of the draws when called as a layer.
        kwargs: as for `keras.layers.Layer`.

    Input and output `[batch, height, width, channels]` in [0, 1].

    Raises:
        ValueError: if an argument is out of range.

    Source: Park et al. 2019, "SpecAugment", arXiv:1904.08779.
    """

    def __init__(
        self,
        probability: float = 0.5,
        time_masks: Masks = (0.5, (1, 3), (5, 20)),
        frequency_masks: Masks = (0.5, (1, 3), (5, 20)),
        gain_probability: float = 0.5,
        gain: Range = (0.8, 1.2),
        bias: Range = (-0.1, 0.1),
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(probability, seed, **kwargs)
        self.time_masks = _checked("time_masks", time_masks)
        self.frequency_masks = _checked("frequency_masks", frequency_masks)
        require_probability("gain_probability", gain_probability)
        require_range("gain", gain, None)
        require_range("bias", bias, None)
        self.gain_probability = gain_probability
        self.gain: Range = (gain[0], gain[1])
        self.bias: Range = (bias[0], bias[1])

    def _transform(self, xp: Any, images: Any, uniform: Uniform) -> Any:
        batch, height, width = num_clips(xp, images), images.shape[1], images.shape[2]
        rows = self._keep(xp, uniform, batch, height, self.frequency_masks)
        columns = self._keep(xp, uniform, batch, width, self.time_masks)
        keep = xp.reshape(rows, (-1, height, 1, 1)) & xp.reshape(columns, (-1, 1, width, 1))
        on = to_float(xp, uniform(batch, 1, 1, 1) < self.gain_probability)
        gain = 1 + on * (between(uniform(batch, 1, 1, 1), self.gain) - 1)
        bias = on * between(uniform(batch, 1, 1, 1), self.bias)
        return xp.clip(images * to_float(xp, keep) * gain + bias, 0.0, 1.0)

    def _keep(self, xp: Any, uniform: Uniform, batch: Any, size: int, masks: Masks) -> Any:
        """Whether each place of `size` lies outside the masks, bool `[batch, size]`."""
        probability, count, length = masks
        lengths = xp.minimum(whole(xp, uniform(batch, count[1], 1), length), float(size))
        starts = xp.floor(uniform(batch, count[1], 1) * (size + 1 - lengths))
        places = xp.array(np.arange(size, dtype=np.float32)[None, None])
        numbers = xp.array(np.arange(count[1], dtype=np.float32)[None, :, None])
        hit = (places >= starts) & (places < starts + lengths)
        hit = hit & (numbers < whole(xp, uniform(batch, 1, 1), count))
        return ~(xp.any(hit, axis=1) & (uniform(batch, 1) < probability))

    def get_config(self) -> dict[str, Any]:
        """Arguments to make an equal one with."""
        return {
            **super().get_config(),
            "time_masks": self.time_masks,
            "frequency_masks": self.frequency_masks,
            "gain_probability": self.gain_probability,
            "gain": self.gain,
            "bias": self.bias,
        }


def _checked(name: str, masks: Any) -> Masks:
    probability, count, size = masks
    require_probability(f"{name}[0]", probability)
    require_range(f"{name}[1]", count, 0)
    require_range(f"{name}[2]", size, 0)
    return probability, (count[0], count[1]), (size[0], size[1])


@keras.saving.register_keras_serializable(package="keras_birds")
class Volume(ClipAugmentation):
    """Changes the level: adds `gain_db / top_db` to images, kept in [0, 1].

    An image spans `top_db` decibels where the clip does, so that a gain of 6 dB raises all of it by 6 / top_db:
    louder, quiet sound comes nearer to the loudest, which stays at 1; quieter, it sinks into the floor.

    Args:
        gain_db: lowest and highest gain.
        top_db: decibels from an image's 0 to its 1.
        probability: that a clip is changed.
        seed: of the draws when called as a layer.
        kwargs: as for `keras.layers.Layer`.

    Input and output `[batch, height, width, channels]` in [0, 1].

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        gain_db: Range = (-12.0, 6.0),
        top_db: float = 80.0,
        probability: float = 0.5,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(probability, seed, **kwargs)
        require_range("gain_db", gain_db, None)
        if top_db <= 0:
            raise ValueError(f"`top_db` must be above 0. Received: top_db={top_db}")
        self.gain_db: Range = (gain_db[0], gain_db[1])
        self.top_db = top_db

    def _transform(self, xp: Any, images: Any, uniform: Uniform) -> Any:
        batch = num_clips(xp, images)
        return xp.clip(images + between(uniform(batch, 1, 1, 1), self.gain_db) / self.top_db, 0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Arguments to make an equal one with."""
        return {**super().get_config(), "gain_db": self.gain_db, "top_db": self.top_db}
