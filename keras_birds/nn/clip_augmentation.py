"""What augmentations of single clips share: they run on tensors as Keras layers and on arrays in threads."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

Range = tuple[float, float]
Uniform = Callable[..., Any]


class ClipAugmentation(keras.layers.Layer):
    """Changes each image of a batch with a probability, while training.

    Args:
        probability: that a clip is changed.
        seed: of the draws when called as a layer.
        kwargs: as for `keras.layers.Layer`.
    """

    def __init__(self, probability: float, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        require_probability("probability", probability)
        self.probability = probability
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def _transform(self, xp: Any, images: Any, uniform: Uniform) -> Any:
        """Changes all images.

        Args:
            xp: `numpy` or `keras.ops`.
            images: `[batch, height, width, channels]`.
            uniform: draws float32 in [0, 1) of a shape.
        """
        raise NotImplementedError

    def build(self, input_shape: Any) -> None:
        """Holds no weights; height and width must be known."""
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
        """The same for arrays, without the backend.

        Args:
            images: float32 `[batch, height, width, channels]` in [0, 1], left as they are.
            rng: source of the draws.
        """
        chosen = np.flatnonzero(rng.random(len(images)) < self.probability)
        if not len(chosen):
            return images
        out = images.copy()
        out[chosen] = self._transform(np, images[chosen], lambda *shape: rng.random(shape, np.float32))
        return out

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Arguments to make an equal one with."""
        return {**super().get_config(), "probability": self.probability, "seed": self.seed}


def num_clips(xp: Any, images: Any) -> Any:
    """Images in a batch, an int where it is known."""
    return len(images) if xp is np else ops.shape(images)[0]


def to_float(xp: Any, values: Any) -> Any:
    """Casts to float32."""
    return values.astype(np.float32) if xp is np else ops.cast(values, "float32")


def between(uniform: Any, bounds: Range) -> Any:
    """Takes draws from [0, 1) to a range."""
    return bounds[0] + uniform * (bounds[1] - bounds[0])


def whole(xp: Any, uniform: Any, bounds: tuple[int, int]) -> Any:
    """Takes draws from [0, 1) to the whole numbers of a closed range, as floats."""
    return xp.minimum(xp.floor(uniform * (bounds[1] - bounds[0] + 1)) + bounds[0], float(bounds[1]))


def gather(xp: Any, images: Any, places: Any, axis: int) -> Any:
    """Takes rows (axis 1) or columns (axis 2) of each image by number.

    Args:
        xp: `numpy` or `keras.ops`.
        images: `[batch, height, width, channels]`.
        places: whole numbers as floats, of size 1 along the other axes but the first.
        axis: 1 or 2.
    """
    if xp is ops:
        return ops.take_along_axis(images, ops.cast(places, "int32"), axis)
    # take_along_axis would look up every pixel by itself.
    chosen = places.astype(np.intp)
    return np.stack([image.take(p.ravel(), axis - 1) for image, p in zip(images, chosen, strict=True)])


def require_probability(name: str, value: float) -> None:
    """Raises ValueError for an argument outside [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be in [0, 1]. Received: {name}={value}")


def require_range(name: str, bounds: Any, least: float | None) -> None:
    """Raises ValueError for a range whose ends are swapped, or that starts below `least`."""
    low, high = bounds
    if low > high or (least is not None and low < least):
        rule = "(low, high), low <= high" + ("" if least is None else f", low >= {least:g}")
        raise ValueError(f"`{name}` must be {rule}. Received: {name}={tuple(bounds)}")
