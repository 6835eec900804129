"""What turns feature maps into one logit per label."""

from typing import Any

import keras
from keras import layers


def pooled_logits(features: Any, num_labels: int, dropout: float) -> Any:
    """Global average pooling, dropout and a dense layer.

    Args:
        features: `[batch, height, width, channels]`.
        num_labels: number of outputs.
        dropout: rate.

    Returns:
        Logits `[batch, label]`, float32 under every dtype policy: probabilities near 0 and 1 need it.
    """
    x = layers.GlobalAveragePooling2D(name="pool")(features)
    x = layers.Dropout(dropout, name="dropout")(x)
    return layers.Dense(
        num_labels,
        dtype="float32",
        kernel_initializer=keras.initializers.RandomUniform(
            -(features.shape[-1] ** -0.5), features.shape[-1] ** -0.5
        ),
        name="logits",
    )(x)
