"""Heads on embeddings that a frozen backbone gave: linear, with a hidden layer, or prototypes."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_birds.nn.birdnet import LOGITS, ChannelScale
from keras_birds.nn.heads import Rivalry


def embedding_head(embedding: Any, num_labels: int, hidden_units: int = 0, dropout: float = 0.0) -> Any:
    """Embeddings `[batch, size]` to logits `[batch, label]`, float32 under every policy.

    Embeddings are first cut to length 1, which takes out how loud and how full a window is, then scaled to mean 0 and
    deviation 1 by a layer that training sets from the recordings: with few of them both help.

    Args:
        embedding: a symbolic tensor.
        num_labels: number of outputs.
        hidden_units: of a hidden layer (ReLU) between embedding and logits; 0 for none.
        dropout: of the embedding, and of the hidden layer.
    """
    x = _normed(embedding, dropout)
    if hidden_units:
        limit = x.shape[-1] ** -0.5
        initializer = keras.initializers.RandomUniform(-limit, limit)
        hidden = layers.Dense(
            hidden_units, "relu", dtype="float32", kernel_initializer=initializer, name="hidden"
        )
        x = hidden(x)
        x = layers.Dropout(dropout, name="hidden_dropout")(x)
    # At first every label is as rare as if one of them were there (Lin et al. 2017, arXiv:1708.02002, 4.1), whatever
    # the embedding: with few recordings random weights would stay.
    prior = keras.initializers.Constant(-float(np.log(max(num_labels - 1, 1))))
    logits = layers.Dense(
        num_labels, dtype="float32", kernel_initializer="zeros", bias_initializer=prior, name="scores"
    )
    return Rivalry(dtype="float32", name=LOGITS)(logits(x))


def _normed(embedding: Any, dropout: float) -> Any:
    x = layers.UnitNormalization(dtype="float32", name="embedding_norm")(embedding)
    x = ChannelScale(trainable=False, dtype="float32", name="embedding_scale")(x)
    return layers.Dropout(dropout, name="dropout")(x)


def prototype_head(embedding: Any, num_labels: int, dropout: float = 0.0) -> Any:
    """Embeddings `[batch, size]`, normed as in `embedding_head`, to logits `[batch, label]` by `Prototypes`."""
    return Prototypes(num_labels, dtype="float32", name=LOGITS)(_normed(embedding, dropout))


@keras.saving.register_keras_serializable(package="keras_birds")
class Prototypes(layers.Layer):
    """Logits `[batch, label]` by how like an embedding `[batch, size]` is to the mean one of each label.

    Cosine times a scale, plus an offset; both are each label's own and learned, the prototypes aren't. After Snell et
    al. 2017, "Prototypical networks for few-shot learning", arXiv:1703.05175, with the cosine and labels that may occur
    together.

    Args:
        num_labels: number of outputs.
        kwargs: as for `keras.layers.Layer`.

    Raises:
        ValueError: if there are no labels.
    """

    def __init__(self, num_labels: int, **kwargs: Any):
        super().__init__(**kwargs)
        if num_labels < 1:
            raise ValueError(f"`num_labels` must be at least 1. Received: num_labels={num_labels}")
        self.num_labels = num_labels

    def build(self, input_shape: Any) -> None:
        """Makes prototypes `[size, label]`, and scale and offset `[label]`."""
        shape = (input_shape[-1], self.num_labels)
        self.prototypes = self.add_weight(shape=shape, trainable=False, name="prototypes")
        self.scale = self.add_weight(shape=shape[1:], initializer="ones", name="scale")
        self.offset = self.add_weight(shape=shape[1:], initializer="zeros", name="offset")
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """Compares."""
        unit = ops.normalize(inputs, axis=-1, epsilon=1e-6)
        return (
            ops.matmul(unit, ops.normalize(self.prototypes, axis=0, epsilon=1e-6)) * self.scale + self.offset
        )

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """`[batch, label]`."""
        return (*input_shape[:-1], self.num_labels)

    def get_config(self) -> dict[str, Any]:
        """Arguments to make an equal one with."""
        return {**super().get_config(), "num_labels": self.num_labels}
