"""From settings to a model."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import keras

from keras_birds.config import Config
from keras_birds.nn.efficientnet import EfficientNetB0
from keras_birds.nn.heads import attention_logits, pooled_logits

if TYPE_CHECKING:
    from keras import Model


def build_model(config: Config, num_labels: int, block_widths: Mapping[str, int] | None = None) -> "Model":
    """Builds the uncompiled network with random weights.

    Args:
        config: its `mel` section gives the input's size, its `model` section the head and the regularisation.
        num_labels: number of outputs.
        block_widths: of a pruned network, as for `EfficientNetB0`.

    Returns:
        A model from images `[batch, height, width, 1]` in [0, 1] to logits `[batch, label]`.
    """
    shape = (config.mel.height, config.mel.width, 1)
    backbone = EfficientNetB0(shape, drop_path=config.model.drop_path, block_widths=block_widths)
    inputs = keras.Input(shape, name="mel")
    head = {"pool": pooled_logits, "attention": attention_logits}[config.model.head]
    logits = head(backbone(inputs), num_labels, config.model.dropout)
    return keras.Model(inputs, logits, name="keras_birds")
