"""Augmentations of single clips, of their levels and in time and pitch: Keras layers that also run on arrays."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_birds.audio.mel import LINEAR_HZ_PER_MEL, LOG_START_HZ, LOG_START_MEL, LOG_STEP, mel_to_hz

Range = tuple[float, float]
Uniform = Callable[..., Any]
Masks = tuple[float, tuple[int, int], tuple[int, int]]
"""Probability of masks, least and most of them, least and most of the size of each."""


class ClipAugmentation(keras.layers.Layer):
    """Changes each image of a batch with a probability, while training.

    Input and output `[batch, height, width, channels]` in [0, 1], frequency along the height, time along the width.

    Args:
        probability: that a clip is changed.
        seed: of the draws when called as a layer.
        kwargs: as for `keras.layers.Layer`.

    Raises:
        ValueError: if an argument is out of range; so do all that extend it.
    """

    _settings: tuple[str, ...] = ()
    """Attributes that are arguments of the constructor too."""

    def __init__(self, probability: float, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.probability = _checked_probability("probability", probability)
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def _transform(self, xp: Any, images: Any, uniform: Uniform) -> Any:
        """Changes all images with `xp`, which is `numpy` or `keras.ops`; `uniform(*shape)` draws in [0, 1)."""
        raise NotImplementedError

    def build(self, input_shape: Any) -> None:
        """Height and width must be known."""
        if len(input_shape) != 4 or None in input_shape[1:3]:
            raise ValueError(
                "Images must be [batch, height, width, channels] of known height and width. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        self.built = True

    def call(self, images: Any, training: bool | None = True) -> Any:
        """Augments `images` `[batch, height, width, channels]` in [0, 1] if `training`."""
        if not training or not self.probability:
            return images

        def uniform(*shape: Any) -> Any:
            return keras.random.uniform(shape, seed=self.generator, dtype="float32")

        chosen = uniform(ops.shape(images)[0], 1, 1, 1) < self.probability
        changed = self._transform(ops, ops.cast(images, "float32"), uniform)
        return ops.where(chosen, ops.cast(changed, images.dtype), images)

    def augment_arrays(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The same without the backend, for float32 `[batch, height, width, channels]`, left as they are."""
        chosen = np.flatnonzero(rng.random(len(images)) < self.probability)
        if not len(chosen):
            return images
        out = images.copy()
        out[chosen] = self._transform(np, images[chosen], lambda *shape: rng.random(shape, np.float32))
        return out

    def get_config(self) -> dict[str, Any]:
        """Arguments to make an equal one with."""
        names = ("probability", "seed", *self._settings)
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="keras_birds")
class SpecAugment(ClipAugmentation):
    """Blanks bands of time and of frequency, then changes gain and bias, each with its own probability.

    Masks are set to 0, the floor. Gain and bias give `image * U(gain) + U(bias)`, kept in [0, 1].

    Args:
        probability: that a clip is changed; the others apply among those.
        time_masks: their probability, least and most of them, least and most columns of each.
        frequency_masks: the same of rows.
        gain_probability: of gain and bias, together.
        gain: lowest and highest factor.
        bias: lowest and highest summand.
        seed: as for `ClipAugmentation`.
        kwargs: as for `keras.layers.Layer`.

    Source: Park et al. 2019, "SpecAugment", arXiv:1904.08779.
    """

    _settings = ("time_masks", "frequency_masks", "gain_probability", "gain", "bias")

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
        self.time_masks = _checked_masks("time_masks", time_masks)
        self.frequency_masks = _checked_masks("frequency_masks", frequency_masks)
        self.gain_probability = _checked_probability("gain_probability", gain_probability)
        self.gain = _checked_range("gain", gain)
        self.bias = _checked_range("bias", bias)

    def _transform(self, xp: Any, images: Any, uniform: Uniform) -> Any:
        batch, height, width = _num_clips(xp, images), images.shape[1], images.shape[2]
        rows = self._keep(xp, uniform, batch, height, self.frequency_masks)
        columns = self._keep(xp, uniform, batch, width, self.time_masks)
        keep = _along(xp, rows, 1) & _along(xp, columns, 2)
        on = _to_float(xp, uniform(batch, 1, 1, 1) < self.gain_probability)
        gain = 1 + on * (_between(uniform(batch, 1, 1, 1), self.gain) - 1)
        bias = on * _between(uniform(batch, 1, 1, 1), self.bias)
        return xp.clip(images * _to_float(xp, keep) * gain + bias, 0.0, 1.0)

    def _keep(self, xp: Any, uniform: Uniform, batch: Any, size: int, masks: Masks) -> Any:
        """Whether each place of `size` lies outside the masks, bool `[batch, size]`."""
        probability, count, length = masks
        lengths = xp.minimum(_whole(xp, uniform(batch, count[1], 1), length), float(size))
        starts = xp.floor(uniform(batch, count[1], 1) * (size + 1 - lengths))
        places = xp.array(np.arange(size, dtype=np.float32)[None, None])
        numbers = xp.array(np.arange(count[1], dtype=np.float32)[None, :, None])
        hit = (places >= starts) & (places < starts + lengths)
        hit = hit & (numbers < _whole(xp, uniform(batch, 1, 1), count))
        return ~(xp.any(hit, axis=1) & (uniform(batch, 1) < probability))


@keras.saving.register_keras_serializable(package="keras_birds")
class Volume(ClipAugmentation):
    """Changes the level: adds `gain_db / top_db` to images, kept in [0, 1].

    Louder, quiet sound comes nearer to the loudest, which stays at 1; quieter, it sinks into the floor.

    Args:
        gain_db: lowest and highest gain.
        top_db: decibels from an image's 0 to its 1.
        probability: that a clip is changed.
        seed: as for `ClipAugmentation`.
        kwargs: as for `keras.layers.Layer`.
    """

    _settings = ("gain_db", "top_db")

    def __init__(
        self,
        gain_db: Range = (-12.0, 6.0),
        top_db: float = 80.0,
        probability: float = 0.5,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(probability, seed, **kwargs)
        if top_db <= 0:
            raise ValueError(f"`top_db` must be above 0. Received: top_db={top_db}")
        self.gain_db = _checked_range("gain_db", gain_db)
        self.top_db = top_db

    def _transform(self, xp: Any, images: Any, uniform: Uniform) -> Any:
        batch = _num_clips(xp, images)
        return xp.clip(images + _between(uniform(batch, 1, 1, 1), self.gain_db) / self.top_db, 0.0, 1.0)


@keras.saving.register_keras_serializable(package="keras_birds")
class TimeShift(ClipAugmentation):
    """Rotates clips in time by any number of columns, all equally likely."""

    def _transform(self, xp: Any, images: Any, uniform: Uniform) -> Any:
        batch, width = _num_clips(xp, images), images.shape[2]
        shift = _whole(xp, uniform(batch, 1), (0, width - 1))
        places = xp.mod(xp.array(np.arange(width, dtype=np.float32)[None]) + shift, float(width))
        return _gather(xp, images, places, 2)


@keras.saving.register_keras_serializable(package="keras_birds")
class TimeStretch(ClipAugmentation):
    """Plays clips faster or slower about their middle, at the same pitch.

    Columns are resampled linearly. A faster clip is repeated to fill its image, as short recordings are.

    Args:
        rate: lowest and highest speed; above 1 is faster.
        probability: that a clip is changed.
        seed: as for `ClipAugmentation`.
        kwargs: as for `keras.layers.Layer`.
    """

    _settings = ("rate",)

    def __init__(
        self, rate: Range = (0.8, 1.25), probability: float = 0.5, seed: int | None = None, **kwargs: Any
    ):
        super().__init__(probability, seed, **kwargs)
        self.rate = _checked_range("rate", rate, 1e-3)

    def _transform(self, xp: Any, images: Any, uniform: Uniform) -> Any:
        batch, width = _num_clips(xp, images), images.shape[2]
        rate = _between(uniform(batch, 1), self.rate)
        middle = (width - 1) / 2
        offsets = xp.array(np.arange(width, dtype=np.float32)[None] - middle)
        places = xp.mod(offsets * rate + middle, float(width))
        return _interpolate(xp, images, places, 2, lambda x: xp.mod(x, float(width)))


@keras.saving.register_keras_serializable(package="keras_birds")
class PitchShift(ClipAugmentation):
    """Moves sound up or down in frequency by moving the rows of a mel image.

    Each row takes what lay at its centre frequency divided by the interval, interpolated. From beyond the mel range
    comes 0, the floor.

    Args:
        semitones: lowest and highest interval; above 0 is up.
        n_mels: bands of the (Slaney) mel scale that the image's rows were resized from, lowest first.
        f_min_hz: lower end of the lowest band.
        f_max_hz: upper end of the highest band.
        probability: that a clip is changed.
        seed: as for `ClipAugmentation`.
        kwargs: as for `keras.layers.Layer`.
    """

    _settings = ("semitones", "n_mels", "f_min_hz", "f_max_hz")

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
        if not 0 <= f_min_hz < f_max_hz or n_mels < 1:
            raise ValueError(
                "`n_mels` must be at least 1 and 0 <= `f_min_hz` < `f_max_hz`. "
                f"Received: n_mels={n_mels}, f_min_hz={f_min_hz}, f_max_hz={f_max_hz}"
            )
        self.semitones = _checked_range("semitones", semitones)
        self.n_mels, self.f_min_hz, self.f_max_hz = n_mels, f_min_hz, f_max_hz

    def _transform(self, xp: Any, images: Any, uniform: Uniform) -> Any:
        batch, height = _num_clips(xp, images), images.shape[1]
        semitones = _between(uniform(batch, 1), self.semitones)
        source_hz = xp.array(self.row_hz(height)[None]) * xp.exp(semitones * (-math.log(2) / 12))
        low_mel, high_mel = (_mel(np, np.float32(hz)) for hz in (self.f_min_hz, self.f_max_hz))
        bands = (_mel(xp, source_hz) - float(low_mel)) * float((self.n_mels + 1) / (high_mel - low_mel)) - 1
        rows = (bands + 0.5) * (height / self.n_mels) - 0.5
        inside = _to_float(xp, (rows >= -0.5) & (rows <= height - 0.5))
        rows = xp.clip(rows, 0.0, float(height - 1))
        moved = _interpolate(xp, images, rows, 1, lambda x: xp.minimum(x, float(height - 1)))
        return moved * _along(xp, inside, 1)

    def row_hz(self, height: int) -> np.ndarray:
        """Centre frequency of each row in Hz, float32 `[height]`."""
        low_mel, high_mel = (_mel(np, np.float64(hz)) for hz in (self.f_min_hz, self.f_max_hz))
        bands = (np.arange(height) + 0.5) * (self.n_mels / height) - 0.5
        mel = low_mel + (bands + 1) * (high_mel - low_mel) / (self.n_mels + 1)
        return mel_to_hz(mel).astype(np.float32)


def _mel(xp: Any, hz: Any) -> Any:
    logarithmic = xp.log(xp.maximum(hz, LOG_START_HZ) / LOG_START_HZ) / LOG_STEP + LOG_START_MEL
    return xp.where(hz < LOG_START_HZ, hz / LINEAR_HZ_PER_MEL, logarithmic)


def _num_clips(xp: Any, images: Any) -> Any:
    """Images in a batch, an int where it is known."""
    return len(images) if xp is np else ops.shape(images)[0]


def _to_float(xp: Any, values: Any) -> Any:
    return values.astype(np.float32) if xp is np else ops.cast(values, "float32")


def _between(uniform: Any, bounds: Range) -> Any:
    return bounds[0] + uniform * (bounds[1] - bounds[0])


def _whole(xp: Any, uniform: Any, bounds: tuple[int, int]) -> Any:
    """Takes draws from [0, 1) to the whole numbers of a closed range, as floats."""
    return xp.minimum(xp.floor(uniform * (bounds[1] - bounds[0] + 1)) + bounds[0], float(bounds[1]))


def _along(xp: Any, values: Any, axis: int) -> Any:
    """`[batch, place]` beside images: `[batch, place, 1, 1]` for axis 1, `[batch, 1, place, 1]` for axis 2."""
    return xp.expand_dims(values, (2, 3) if axis == 1 else (1, 3))


def _gather(xp: Any, images: Any, places: Any, axis: int) -> Any:
    """Takes rows (axis 1) or columns (axis 2) of each image by `places`, whole numbers as floats `[batch, place]`."""
    if xp is ops:
        return ops.take_along_axis(images, _along(xp, ops.cast(places, "int32"), axis), axis)
    # take_along_axis would look up every pixel by itself.
    chosen = places.astype(np.intp)
    return np.stack([image.take(p, axis - 1) for image, p in zip(images, chosen, strict=True)])


def _interpolate(xp: Any, images: Any, places: Any, axis: int, existing: Callable[[Any], Any]) -> Any:
    """As `_gather` at places between two, linearly; `existing` takes a neighbour beyond the end to one there is."""
    low = xp.floor(places)
    first, second = (_gather(xp, images, existing(x), axis) for x in (low, low + 1))
    return first + (second - first) * _along(xp, places - low, axis)


def _checked_probability(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be in [0, 1]. Received: {name}={value}")
    return value


def _checked_range(name: str, bounds: Any, least: float = -math.inf) -> tuple[Any, Any]:
    low, high = bounds
    if not least <= low <= high:
        rule = "(low, high), low <= high" + (f", low >= {least:g}" if math.isfinite(least) else "")
        raise ValueError(f"`{name}` must be {rule}. Received: {name}={tuple(bounds)}")
    return low, high


def _checked_masks(name: str, masks: Any) -> Masks:
    return (
        _checked_probability(f"{name}[0]", masks[0]),
        _checked_range(f"{name}[1]", masks[1], 0),
        _checked_range(f"{name}[2]", masks[2], 0),
    )
