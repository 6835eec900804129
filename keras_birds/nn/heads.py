"""What turns feature maps into one logit per label."""

from typing import Any

import keras
from keras import layers, ops

FRAME_LOGITS = "frame_logits"
"""Name of the layer with a logit for each frame and label."""
POOLED, POOLED_FRAMES = "pool", "frames"
"""Names of the layers with what a head takes: `[batch, channels]`, an attention head `[batch, frame, channels]`."""


def pooled_logits(features: Any, num_labels: int, dropout: float) -> Any:
    """Global average pooling, dropout and a dense layer: features `[batch, height, width, channels]` to logits.

    Logits `[batch, label]` are float32 under every dtype policy: probabilities near 0 and 1 need it.
    """
    x = layers.GlobalAveragePooling2D(name=POOLED)(features)
    return _dense(layers.Dropout(dropout, name="dropout")(x), num_labels, "logits")


def attention_logits(features: Any, num_labels: int, dropout: float) -> Any:
    """A logit for each frame of a clip, and their mean weighted by an attention of each label's own.

    Frames are the feature map's columns, averaged over frequency. At first all weigh the same: then the
    answer is that of `pooled_logits`. The layer `frame_logits` gives the frames' logits `[batch, frame, label]`.
    After Kong et al. 2020, "PANNs", arXiv:1912.10211 (decision-level attention), with the mean taken of logits.

    Takes features `[batch, height, width, channels]`, time along the width; `dropout` drops a channel in all frames of
    a clip. Gives logits `[batch, label]`, float32 under every dtype policy.
    """
    x = FrequencyMean(name=POOLED_FRAMES)(features)
    x = layers.Dropout(dropout, noise_shape=(None, 1, None), name="dropout")(x)
    frames = _dense(x, num_labels, FRAME_LOGITS)
    attention = layers.Dense(num_labels, dtype="float32", kernel_initializer="zeros", name="attention")(x)
    return AttentionMean(dtype="float32", name="logits")([frames, attention])


def _dense(x: Any, num_labels: int, name: str) -> Any:
    limit = x.shape[-1] ** -0.5
    initializer = keras.initializers.RandomUniform(-limit, limit)
    return layers.Dense(num_labels, dtype="float32", kernel_initializer=initializer, name=name)(x)


@keras.saving.register_keras_serializable(package="keras_birds")
class FrequencyMean(layers.Layer):
    """Averages feature maps `[batch, height, width, channels]` over the height, to `[batch, width, channels]`."""

    def call(self, features: Any) -> Any:
        """Averages over axis 1."""
        return ops.mean(features, axis=1)


@keras.saving.register_keras_serializable(package="keras_birds")
class AttentionMean(layers.Layer):
    """Averages values `[batch, frame, label]` over frames, weighted by the softmax of attentions of that shape."""

    def call(self, inputs: Any) -> Any:
        """Takes `[values, attentions]`, returns `[batch, label]`."""
        values, attentions = inputs
        return ops.sum(values * ops.softmax(attentions, axis=1), axis=1)


@keras.saving.register_keras_serializable(package="keras_birds")
class Rivalry(layers.Layer):
    """Scores `[batch, label]` less a share of their common level: what surely is one label is less likely another.

    The level is `log(1 + sum(exp(scores)))`: near 0 where nothing is heard. A share of 0 gives independent labels, of 1
    a softmax with a class for none of them, which could not tell two that call at once.

    Args:
        share: from 0 to 1.
        kwargs: as for `keras.layers.Layer`.

    Raises:
        ValueError: if the share is out of range.
    """

    def __init__(self, share: float = 0.5, **kwargs: Any):
        super().__init__(**kwargs)
        if not 0 <= share <= 1:
            raise ValueError(f"`share` must be from 0 to 1. Received: share={share}")
        self.share = share

    def call(self, scores: Any) -> Any:
        """Logits `[batch, label]`."""
        return scores - self.share * ops.softplus(ops.logsumexp(scores, axis=-1, keepdims=True))

    def get_config(self) -> dict[str, Any]:
        """Arguments to make an equal one with."""
        return {**super().get_config(), "share": self.share}
