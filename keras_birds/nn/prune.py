"""Makes the network really smaller: channels inside its blocks that matter least are left out."""

from typing import TYPE_CHECKING

import numpy as np

from keras_birds.config import Config
from keras_birds.nn.build import build_model
from keras_birds.nn.efficientnet import BACKBONE

if TYPE_CHECKING:
    from keras import Model

_MULTIPLE = 8
"""Channels stay multiples of eight: vector instructions take so many at a time."""


def prune(model: "Model", config: Config, ratio: float) -> "Model":
    """Leaves out a share of the channels between each block's expansion and its projection.

    These channels are the block's own: no other block sees them, and the expansion, the depthwise convolution, the
    gate and the projection all become smaller. A channel matters by the size of what it adds at most: the scale of its
    batch normalisation times the norm of its row of the projection (after Liu et al. 2017, arXiv:1708.06519, and Li et
    al. 2017, arXiv:1608.08710). Scores change until the network is trained a little further.

    Args:
        model: from `build_model`; left as it is.
        config: that it was built with.
        ratio: of the channels to leave out, 0 to below 1; each block keeps a multiple of 8.

    Returns:
        A new uncompiled model with the kept weights.

    Raises:
        ValueError: if the ratio is out of range.
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"`ratio` must be from 0 to below 1. Received: ratio={ratio}")
    backbone = model.get_layer(BACKBONE)
    kept: dict[str, np.ndarray] = {}
    for expand in backbone.layers:
        if expand.name.endswith("_expand_conv"):
            name = expand.name.removesuffix("_expand_conv")
            gamma = backbone.get_layer(f"{name}_depthwise_bn").get_weights()[0]
            (project,) = backbone.get_layer(f"{name}_project_conv").get_weights()
            matters = np.abs(gamma) * np.linalg.norm(project[0, 0], axis=1)
            count = max(_MULTIPLE, round(len(matters) * (1 - ratio) / _MULTIPLE) * _MULTIPLE)
            kept[name] = np.sort(np.argsort(-matters, kind="stable")[:count])
    smaller = build_model(config, model.output_shape[-1], {name: len(x) for name, x in kept.items()})
    for layer in smaller.layers:
        if layer.name != backbone.name:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    for layer in smaller.get_layer(backbone.name).layers:
        weights = backbone.get_layer(layer.name).get_weights()
        inside = "_".join(layer.name.split("_")[:2])
        layer.set_weights(
            [_kept(x, layer.name, kept[inside]) for x in weights] if inside in kept else weights
        )
    return smaller


def _kept(values: np.ndarray, layer: str, channels: np.ndarray) -> np.ndarray:
    """A weight of a block's layer without the channels that go."""
    part = layer.split("_", 2)[2]
    if part in ("project_conv", "squeeze_reduce") and values.ndim == 4:
        return values[:, :, channels]
    if part in ("project_bn", "squeeze_reduce"):
        return values
    if part == "depthwise_conv":
        return values[:, :, channels]
    return values[..., channels]
