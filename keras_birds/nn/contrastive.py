"""Learning without labels: two views of a clip shall lie closer than those of two clips.

A batch holds 2 n views: rows k and k + n are views of one clip. A projection head, thrown away in the end, makes of
each what is compared; of similarities `[2 n, 2 n]` cross-entropy tells which is the other view.
"""

from typing import Any

import keras
from keras import layers, ops

from keras_birds.config import Config
from keras_birds.nn.efficientnet import EfficientNetB0
from keras_birds.nn.heads import POOLED
from keras_birds.nn.views import view_columns

_PACKAGE = "keras_birds"
_NEVER = -1e9
SIMILARITIES = ("cosine", "bilinear")


@keras.saving.register_keras_serializable(package=_PACKAGE)
class ProjectionHead(layers.Layer):
    """Embeddings `[batch, size]` to what is compared, `[batch, units]`.

    For cosine similarity SimCLR's: a hidden layer as wide as the embedding with batch normalisation and ReLU, then a
    linear one (Chen et al. 2020, arXiv:2002.05709, 4.2). For bilinear similarity COLA's: a linear layer, layer
    normalisation and tanh (Saeed et al. 2020, arXiv:2010.10915, 2).

    Args:
        units: numbers of what is compared, at least 1.
        similarity: `"cosine"` or `"bilinear"`.
        kwargs: as for `keras.layers.Layer`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, units: int, similarity: str = "cosine", **kwargs: Any):
        super().__init__(**kwargs)
        if units < 1:
            raise ValueError(f"`units` must be at least 1. Received: units={units}")
        if similarity not in SIMILARITIES:
            raise ValueError(f"`similarity` must be in {SIMILARITIES}. Received: similarity={similarity!r}")
        self.units, self.similarity = units, similarity

    def build(self, input_shape: Any) -> None:
        """Makes the layers inside."""
        policy: Any = {"dtype": self.dtype_policy}
        if self.similarity == "cosine":
            self.parts = [
                layers.Dense(input_shape[-1], use_bias=False, name="hidden", **policy),
                layers.BatchNormalization(name="norm", **policy),
                layers.Activation("relu", name="relu", **policy),
                layers.Dense(self.units, name="projection", **policy),
            ]
        else:
            self.parts = [
                layers.Dense(self.units, name="projection", **policy),
                layers.LayerNormalization(name="norm", **policy),
                layers.Activation("tanh", name="tanh", **policy),
            ]
        shape = tuple(input_shape)
        for part in self.parts:
            part.build(shape)
            shape = part.compute_output_shape(shape)
        super().build(input_shape)

    def call(self, embeddings: Any, training: bool | None = None) -> Any:
        """Projects."""
        x = embeddings
        for part in self.parts:
            x = part(x, training=training) if isinstance(part, layers.BatchNormalization) else part(x)
        return x

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """`[batch, units]`."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """Arguments to make an equal one with."""
        return {**super().get_config(), "units": self.units, "similarity": self.similarity}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class CosineSimilarity(layers.Layer):
    """Logits `[n, n]` of `[n, size]`: the cosine of each with each, divided by a temperature.

    Args:
        temperature: above 0; the lower, the more the views of other clips count that are most alike.
        kwargs: as for `keras.layers.Layer`.

    Raises:
        ValueError: if the temperature is out of range.

    Source: Chen et al. 2020, "A simple framework for contrastive learning of visual representations",
    arXiv:2002.05709, equation 1.
    """

    def __init__(self, temperature: float = 0.1, **kwargs: Any):
        super().__init__(**kwargs)
        if temperature <= 0:
            raise ValueError(f"`temperature` must be above 0. Received: temperature={temperature}")
        self.temperature = temperature

    def call(self, inputs: Any) -> Any:
        """Compares."""
        unit = ops.normalize(inputs, axis=-1, epsilon=1e-6)
        return ops.matmul(unit, ops.transpose(unit)) / self.temperature

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """`[n, n]`."""
        return (input_shape[0], input_shape[0])

    def get_config(self) -> dict[str, Any]:
        """Arguments to make an equal one with."""
        return {**super().get_config(), "temperature": self.temperature}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class BilinearSimilarity(layers.Layer):
    """Logits `[n, n]` of `[n, size]`: `x W y` of each with each, `W` `[size, size]` learned.

    Source: Saeed et al. 2020, "Contrastive learning of general-purpose audio representations", arXiv:2010.10915.
    """

    def build(self, input_shape: Any) -> None:
        """Makes `W`."""
        size = input_shape[-1]
        self.kernel = self.add_weight(shape=(size, size), initializer="glorot_uniform", name="kernel")
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """Compares."""
        return ops.matmul(ops.matmul(inputs, self.kernel), ops.transpose(inputs))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """`[n, n]`."""
        return (input_shape[0], input_shape[0])


@keras.saving.register_keras_serializable(package=_PACKAGE)
class ContrastiveCrossentropy(keras.losses.Loss):
    """Cross-entropy of which other row of a batch belongs to each row: the other view of its clip.

    Called on targets `[2 n, label]` and logits `[2 n, 2 n]` by views; a row isn't compared with itself. Without labels
    it is SimCLR's NT-Xent of cosines (arXiv:2002.05709), and of bilinear similarities COLA's loss (arXiv:2010.10915) in
    both directions and with all other views of the batch as wrong ones, where COLA has one view of each clip. With
    labels all rows that share one belong together, and the mean over them is taken of the logarithms (Khosla et al.
    2020, "Supervised contrastive learning", arXiv:2004.11362, equation 2). A logit that is not a number makes the loss
    not a number.

    Args:
        use_labels: whether targets from 0.5 up are labels; -1, as what is below 0.5, is none.
        kwargs: as for `keras.losses.Loss`.
    """

    def __init__(self, use_labels: bool = False, **kwargs: Any):
        super().__init__(**{"name": "contrastive_crossentropy", **kwargs})
        self.use_labels = use_labels

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Losses `[2 n]`."""
        dtype = y_pred.dtype
        itself, other = _pairs(y_pred)
        belongs = ops.cast(other, dtype)
        if self.use_labels:
            labels = ops.cast(y_true >= 0.5, dtype)
            shared = ops.matmul(labels, ops.transpose(labels)) > 0
            belongs = ops.maximum(belongs, ops.cast(shared, dtype))
        itself = ops.cast(itself, dtype)
        belongs = belongs * (1 - itself)
        likely = ops.log_softmax(y_pred + itself * _NEVER, axis=-1)
        return -ops.sum(belongs * likely, axis=-1) / ops.sum(belongs, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Arguments to make an equal one with."""
        return {**super().get_config(), "use_labels": self.use_labels, "dtype": self.dtype}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class MatchedViews(keras.metrics.Mean):
    """Share of views whose most similar one of a batch is the other view of their clip.

    Updated with targets and logits as `ContrastiveCrossentropy` takes them.
    """

    def __init__(self, name: str = "matched_views", **kwargs: Any):
        super().__init__(name=name, **kwargs)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Counts a batch's views, by weights `[2 n]`."""
        logits = ops.cast(y_pred, self.dtype)
        itself, other = _pairs(logits)
        nearest = ops.argmax(logits + ops.cast(itself, self.dtype) * _NEVER, axis=-1)
        wanted = ops.argmax(ops.cast(other, "int32"), axis=-1)
        super().update_state(ops.cast(nearest == wanted, self.dtype), sample_weight)


def _pairs(logits: Any) -> tuple[Any, Any]:
    """Bool `[2 n, 2 n]`: which rows are the same, and which are the two views of a clip."""
    count = ops.shape(logits)[0]
    rows = ops.arange(count, dtype="int32")
    distance = ops.abs(ops.expand_dims(rows, 1) - ops.expand_dims(rows, 0))
    return distance == 0, distance == count // 2


def contrastive_model(config: Config) -> keras.Model:
    """Builds what is pretrained, uncompiled and with random weights: the backbone and a head to throw away.

    Takes views `[2 n, height, columns, 1]`, gives logits `[2 n, 2 n]`, float32 under every dtype policy. The backbone's
    images may have any width.
    """
    settings, height = config.contrastive, config.mel.height
    backbone = EfficientNetB0((height, None, 1), drop_path=config.model.drop_path)
    inputs = keras.Input((height, view_columns(config), 1), name="mel")
    x = layers.GlobalAveragePooling2D(name=POOLED)(backbone(inputs))
    head = ProjectionHead(settings.projection_units, settings.similarity, dtype="float32", name="projection")
    similarity = (
        CosineSimilarity(settings.temperature, dtype="float32", name="logits")
        if settings.similarity == "cosine"
        else BilinearSimilarity(dtype="float32", name="logits")
    )
    return keras.Model(inputs, similarity(head(x)), name="keras_birds_contrastive")
