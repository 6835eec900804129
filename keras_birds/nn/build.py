"""From settings to a model, whole or pruned."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from keras_birds.config import Config, ModelConfig
from keras_birds.nn.birdnet import EMBEDDING_SIZE, birdnet_backbone
from keras_birds.nn.efficientnet import BACKBONE, EfficientNetB0
from keras_birds.nn.embedding_heads import embedding_head, prototype_head
from keras_birds.nn.heads import attention_logits, pooled_logits

_MULTIPLE = 8  # Of pruned channels: vector instructions take so many at a time.


@contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Sets Keras' global dtype policy inside a `with` block, for instance `"mixed_bfloat16"`."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def build_model(
    config: Config,
    num_labels: int,
    block_widths: Mapping[str, int] | None = None,
    embedding_size: int = EMBEDDING_SIZE,
) -> keras.Model:
    """Builds what is trained, uncompiled and with random weights.

    Args:
        config: its `mel` section gives the input's size, its `model` section the network and the regularisation.
        num_labels: number of outputs.
        block_widths: of a pruned network, as for `EfficientNetB0`.
        embedding_size: of what a head on a frozen backbone takes.

    Returns:
        A model from what `config.model.input_kind` says to logits `[batch, label]`: from images `[batch, height,
        width, 1]` in [0, 1], sound `[batch, 144000]` at 48 kHz, or embeddings `[batch, size]` of a frozen backbone.

    Raises:
        ValueError: if `num_labels` isn't a number of labels.
    """
    if not isinstance(num_labels, int | np.integer) or num_labels < 1:
        raise ValueError(
            f"`num_labels` must be a whole number from 1, such as len(labels). Received: num_labels={num_labels!r}"
        )
    settings = config.model
    if settings.backbone != "efficientnet_b0":
        if settings.frozen:
            inputs = features = keras.Input((embedding_size,), name="frozen_embedding")
        else:
            backbone = birdnet_backbone(settings.drop_path)
            inputs, features = backbone.input, backbone.output
        logits = head_of(settings, features, num_labels)
        return keras.Model(inputs, logits, name="keras_birds")
    shape = (config.mel.height, config.mel.width, 1)
    network = EfficientNetB0(shape, drop_path=settings.drop_path, block_widths=block_widths)
    inputs = keras.Input(shape, name="mel")
    head = {"pool": pooled_logits, "attention": attention_logits}[settings.head]
    logits = head(network(inputs), num_labels, settings.dropout)
    return keras.Model(inputs, logits, name="keras_birds")


def head_of(settings: ModelConfig, embedding: Any, num_labels: int) -> Any:
    """A head's logits `[batch, label]` of a symbolic embedding `[batch, size]`."""
    if settings.head == "prototypes":
        return prototype_head(embedding, num_labels, settings.dropout)
    return embedding_head(embedding, num_labels, settings.hidden_units, settings.dropout)


def prune(model: keras.Model, config: Config, ratio: float) -> keras.Model:
    """Leaves out a share of the channels between each block's expansion and its projection.

    These channels are the block's own: no other block sees them. A channel matters by the size of what it adds at most:
    the scale of its batch normalisation times the norm of its row of the projection (after Liu et al. 2017,
    arXiv:1708.06519, and Li et al. 2017, arXiv:1608.08710). Scores change until the network is trained further.

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
        stage, block, part = (*layer.name.split("_", 2), "", "")[:3]
        if (channels := kept.get(f"{stage}_{block}")) is not None:
            weights = [_kept(x, part, channels) for x in weights]
        layer.set_weights(weights)
    return smaller


def _kept(values: np.ndarray, part: str, channels: np.ndarray) -> np.ndarray:
    """A weight of a block's layer without the channels that go."""
    if part in ("project_conv", "squeeze_reduce", "depthwise_conv") and values.ndim == 4:
        return values[:, :, channels]
    return values if part in ("project_bn", "squeeze_reduce") else values[..., channels]
