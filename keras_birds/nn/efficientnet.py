"""EfficientNet-B0 for one-channel images.

Source: Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
arXiv:1905.11946, Table 1. Padding is symmetric, as in timm's `efficientnet_b0`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras

from keras_birds.nn.layers import (
    BatchNorm,
    GlobalMean,
    ScaleChannels,
    StochasticDepthAdd,
    SymmetricConv2D,
    SymmetricDepthwiseConv2D,
)


class Stage(NamedTuple):
    """One row of the paper's Table 1 between the stem and the top."""

    expansion: int
    kernel_size: int
    channels: int
    num_blocks: int
    stride: int


STAGES = (
    Stage(1, 3, 16, 1, 1),
    Stage(6, 3, 24, 2, 2),
    Stage(6, 5, 40, 2, 2),
    Stage(6, 3, 80, 3, 2),
    Stage(6, 5, 112, 3, 1),
    Stage(6, 5, 192, 4, 2),
    Stage(6, 3, 320, 1, 1),
)
STEM_CHANNELS = 32
TOP_CHANNELS = 1280
BACKBONE = "efficientnet_b0"
"""Name of the layer in a whole model."""

SQUEEZE_RATIO = 0.25


def _plain_conv(filters: int, kernel_size: int = 1, stride: int = 1, **settings: Any) -> SymmetricConv2D:
    # Fan-out scaled normal, as in the paper's reference code.
    initializer = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
    return SymmetricConv2D(filters, kernel_size, stride, kernel_initializer=initializer, **settings)


def _conv(
    x: Any, filters: int, name: str, kernel_size: int = 1, stride: int = 1, activation: str | None = "silu"
) -> Any:
    x = _plain_conv(filters, kernel_size, stride, name=f"{name}_conv")(x)
    return BatchNorm(activation=activation, name=f"{name}_bn")(x)


def _squeeze_excite(x: Any, squeezed: int, name: str) -> Any:
    """Scales channels by a gate computed from their means (Hu et al. 2018, arXiv:1709.01507)."""
    gate = GlobalMean(keepdims=True, name=f"{name}_mean")(x)
    for part, filters, activation in (("reduce", squeezed, "silu"), ("expand", x.shape[-1], "sigmoid")):
        gate = _plain_conv(filters, use_bias=True, activation=activation, name=f"{name}_{part}")(gate)
    return ScaleChannels(name=f"{name}_scale")([x, gate])


def _mbconv(x: Any, stage: Stage, stride: int, drop_path: float, name: str, width: int | None) -> Any:
    shortcut, channels = x, x.shape[-1]
    if stage.expansion != 1:
        x = _conv(x, width or channels * stage.expansion, f"{name}_expand")
    # One input and one output channel a group: the fan-out of the group is the kernel's area.
    deviation = (2.0 / stage.kernel_size**2) ** 0.5
    x = SymmetricDepthwiseConv2D(
        stage.kernel_size,
        stride,
        depthwise_initializer=keras.initializers.RandomNormal(stddev=deviation),
        name=f"{name}_depthwise_conv",
    )(x)
    x = BatchNorm(activation="silu", name=f"{name}_depthwise_bn")(x)
    x = _squeeze_excite(x, max(1, int(channels * SQUEEZE_RATIO)), f"{name}_squeeze")
    x = _conv(x, stage.channels, f"{name}_project", activation=None)
    if stride != 1 or channels != stage.channels:
        return x
    return StochasticDepthAdd(drop_path, name=f"{name}_add")([shortcut, x])


@keras.saving.register_keras_serializable(package="keras_birds")
class EfficientNetB0(keras.Model):
    """The convolutional part of EfficientNet-B0: images in, feature maps out.

    Args:
        input_shape: `(height, width, channels)`; height and width may be None. Images are expected in
            [0, 1]: nothing is rescaled inside.
        drop_path: rate of stochastic depth at the last block; it grows linearly from 0 at the first.
        block_widths: channels inside blocks that have fewer than the paper's, by the block's name
            (`stage3_block1`): what pruning leaves.
        kwargs: as for `keras.Model`.

    Input `[batch, height, width, channels]`, output `[batch, height / 32, width / 32, 1280]`, rounded up.
    """

    def __init__(
        self,
        input_shape: tuple[int | None, int | None, int] = (None, None, 1),
        drop_path: float = 0.2,
        block_widths: Mapping[str, int] | None = None,
        **kwargs: Any,
    ):
        inputs = keras.Input(tuple(input_shape), name="mel")
        x = _conv(inputs, STEM_CHANNELS, "stem", kernel_size=3, stride=2)
        blocks = [(row, x, block) for row, x in enumerate(STAGES, start=2) for block in range(x.num_blocks)]
        for index, (row, stage, block) in enumerate(blocks):
            name, stride = f"stage{row}_block{block + 1}", 1 if block else stage.stride
            width = (block_widths or {}).get(name)
            x = _mbconv(x, stage, stride, drop_path * index / len(blocks), name, width)
        x = _conv(x, TOP_CHANNELS, "top")
        kwargs.setdefault("name", BACKBONE)
        super().__init__(inputs=inputs, outputs=x, **kwargs)
        self._settings = {"input_shape": tuple(input_shape), "drop_path": drop_path}
        self.block_widths = dict(block_widths) if block_widths else None

    def get_config(self) -> dict[str, Any]:
        """Arguments to make an equal one with."""
        return {**self._settings, "block_widths": self.block_widths, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "EfficientNetB0":
        """The inverse of `get_config`."""
        return cls(**config)
