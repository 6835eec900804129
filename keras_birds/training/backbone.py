"""A backbone from a model that was added: its weights to begin with, or frozen under a head of one's own."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import keras
import numpy as np

from keras_birds.config import ModelConfig
from keras_birds.errors import ConfigError, ModelError
from keras_birds.models.find import resolve_model
from keras_birds.models.keras_engine import load_keras_model
from keras_birds.models.metadata import ModelMetadata
from keras_birds.nn.birdnet import birdnet_backbone, embedding_head
from keras_birds.run_layout import KERAS


@dataclass(frozen=True)
class AddedBackbone:
    """BirdNET's backbone as `model.pretrained` names it.

    Args:
        path: `model.onnx` of the model, with `model.keras` beside.
    """

    path: Path

    @cached_property
    def metadata(self) -> ModelMetadata:
        """Of the model that it is from, whose licence also covers what is made of it."""
        return ModelMetadata.read_onnx(self.path)

    def apply(self, model: keras.Model) -> None:
        """Copies the backbone's weights into a model of `birdnet_backbone`'s layers; the others stay as they are.

        Raises:
            ModelError: if it has no `model.keras`, or another network's.
        """
        source = load_keras_model(self.path.with_name(KERAS))
        for name in [x.name for x in birdnet_backbone().layers if x.weights]:
            try:
                model.get_layer(name).set_weights(source.get_layer(name).get_weights())
            except ValueError as error:
                raise ModelError(
                    f"{self.path.parent}: model.pretrained must be BirdNET or a model on it. Received: {error}"
                ) from None

    def join(self, head: keras.Model, settings: ModelConfig) -> keras.Model:
        """The whole network: this backbone, then a head that was trained on its embeddings."""
        backbone = birdnet_backbone()
        self.apply(backbone)
        logits = embedding_head(
            backbone.output, head.output_shape[-1], settings.hidden_units, settings.dropout
        )
        whole = keras.Model(backbone.input, logits, name=head.name)
        copy_weights(head, whole)
        return whole


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copies the weights of one network, or of its head alone, into another's layers of the same names."""
    for layer in source.layers:
        if layer.weights:
            target.get_layer(layer.name).set_weights(layer.get_weights())


def set_scale(model: keras.Model, embeddings: np.ndarray) -> None:
    """Makes a head see embeddings `[window, size]` with mean 0 and deviation 1, each cut to length 1 before."""
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-6)
    deviation = np.maximum(unit.std(axis=0), 1e-4)
    model.get_layer("embedding_scale").set_weights([1 / deviation, -unit.mean(axis=0) / deviation])


def added_backbone(name: str, setting: str = "model.pretrained") -> AddedBackbone:
    """The model that a setting names: an added one, or a folder with `model.onnx` and `model.keras`.

    Raises:
        ConfigError: if there is none.
    """
    try:
        (path,) = resolve_model(name)
    except ModelError:
        path = None
    if path is None or not path.with_name(KERAS).is_file():
        raise ConfigError(
            f"{setting} must name a model with BirdNET's backbone. Received: {name}, which isn't here. Add it with "
            "`keras-birds models add birdnet`"
        )
    return AddedBackbone(path)
