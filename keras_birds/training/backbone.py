"""A backbone from a model that was added: its weights to begin with, or frozen under a head of one's own."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import keras
import numpy as np

from keras_birds.config import ModelConfig
from keras_birds.embeddings.search import unit
from keras_birds.errors import ConfigError, ModelError
from keras_birds.models.find import resolve_model
from keras_birds.models.keras_engine import embedding_of, load_keras_model
from keras_birds.models.metadata import ModelMetadata
from keras_birds.nn.birdnet import birdnet_backbone
from keras_birds.nn.build import head_of
from keras_birds.run_layout import KERAS


@dataclass(frozen=True)
class AddedBackbone:
    """The backbone of another model: BirdNET as `model.pretrained` names it, or the model of a store of embeddings.

    Args:
        path: the file that gives embeddings: `model.onnx`, or `model.keras`. Where there is both, they are one model.
    """

    path: Path

    @cached_property
    def metadata(self) -> ModelMetadata:
        """Of the model that it is from, whose licence also covers what is made of it."""
        path = self.path.with_suffix(".onnx")
        return (
            ModelMetadata.read_onnx(path)
            if path.is_file()
            else ModelMetadata.read_json(path.with_suffix(".json"))
        )

    @property
    def keras_path(self) -> Path:
        """Where its Keras model lies, if there is one."""
        return self.path.with_suffix(".keras")

    def apply(self, model: keras.Model) -> None:
        """Copies the backbone's weights into a model of `birdnet_backbone`'s layers; the others stay as they are.

        Raises:
            ModelError: if it has no `model.keras`, or another network's.
        """
        source = load_keras_model(self.keras_path)
        for name in [x.name for x in birdnet_backbone().layers if x.weights]:
            try:
                model.get_layer(name).set_weights(source.get_layer(name).get_weights())
            except ValueError as error:
                raise ModelError(
                    f"{self.path.parent}: model.pretrained must be BirdNET or a model on it. Received: {error}"
                ) from None

    def join(self, head: keras.Model, settings: ModelConfig) -> keras.Model:
        """The whole network: its Keras model up to the embedding, then a head that was trained on its embeddings."""
        backbone = load_keras_model(self.keras_path)
        logits = head_of(settings, embedding_of(backbone), head.output_shape[-1])
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
    directions = unit(embeddings)
    deviation = np.maximum(directions.std(axis=0), 1e-4)
    model.get_layer("embedding_scale").set_weights([1 / deviation, -directions.mean(axis=0) / deviation])


def set_prototypes(model: keras.Model, embeddings: np.ndarray, targets: np.ndarray) -> None:
    """Makes each label's prototype the mean of its embeddings, after `set_scale`; targets `[window, label]`.

    Scale and offset begin where the mean window with a label has a logit of 2, and the mean one without -2.
    """
    scale, offset = model.get_layer("embedding_scale").get_weights()
    scaled = unit(embeddings) * scale + offset
    present, absent = ((targets == x).astype(np.float32) for x in (1, 0))
    prototypes = scaled.T @ present / np.maximum(present.sum(axis=0), 1)
    cosines = unit(scaled) @ unit(prototypes.T).T
    high, low = ((cosines * x).sum(axis=0) / np.maximum(x.sum(axis=0), 1) for x in (present, absent))
    slope = 4 / np.maximum(high - low, 0.1)
    model.get_layer("logits").set_weights([slope, -slope * (high + low) / 2, prototypes])


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
