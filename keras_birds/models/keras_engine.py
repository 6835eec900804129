"""Scores with a `.keras` file on the current Keras backend."""

import os

# Without it TensorFlow writes notes on its own build to stderr while it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pathlib import Path

import keras
import numpy as np

import keras_birds.nn.build  # noqa: F401  registers the layers that a .keras file names
from keras_birds.errors import ModelError, as_model_error
from keras_birds.models.calibration import sigmoid
from keras_birds.models.metadata import ModelMetadata
from keras_birds.nn.heads import FRAME_LOGITS
from keras_birds.threads import TorchThreads


def load_keras_model(path: str | Path) -> keras.Model:
    """Loads an uncompiled model in safe mode.

    Raises:
        ModelError: if the file is missing, damaged, or names a layer that isn't known.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"The model must be an existing file. Received: {path}")
    with as_model_error(f"{path}: must be a whole .keras file"):
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.inputs[0].shape) != 4:
        raise ModelError(
            f"{path}: the model must take one [batch, height, width, 1] and give one [batch, label]. "
            f"Received: {len(model.inputs)} inputs, {len(model.outputs)} outputs"
        )
    return model


def with_frames(model: keras.Model) -> keras.Model:
    """A model of an attention head as one with two outputs, clip and frame logits; another has one still."""
    frames = [x.output for x in model.layers if x.name == FRAME_LOGITS]
    return keras.Model(model.inputs[0], [model.outputs[0], *frames])


def predict_batch(model: keras.Model, images: np.ndarray) -> list[np.ndarray]:
    """Float32 outputs, of a model with one output as well."""
    outputs = model.predict_on_batch(images)
    return [np.asarray(x, np.float32) for x in (outputs if isinstance(outputs, list) else [outputs])]


class KerasEngine:
    """A `model.keras` on the current backend, with the metadata beside it.

    Args:
        path: the file; `model.onnx` of the same name gives the metadata, or `model.json` where that is absent.

    Raises:
        ModelError: if the file can't be loaded, or is not what its metadata says.
    """

    input_kind, batch_size, workers = "mel", 16, 1

    def __init__(self, path: str | Path):
        self.path = Path(path)
        onnx_path, json_path = self.path.with_suffix(".onnx"), self.path.with_suffix(".json")
        if onnx_path.is_file():
            self.metadata = ModelMetadata.read_onnx(onnx_path)
        elif json_path.is_file():
            self.metadata = ModelMetadata.read_json(json_path)
        else:
            raise ModelError(
                f"{path}: a .keras model must have its metadata beside it. Received: neither {onnx_path.name} nor "
                f"{json_path.name}. Copy the fold's whole folder"
            )
        self.model = load_keras_model(path)
        self.metadata.check_shapes(path, self.model.inputs[0].shape, self.model.outputs[0].shape)
        self._with_frames = with_frames(self.model)
        self.num_frames = sum(int(x.shape[1]) for x in self._with_frames.outputs[1:])
        self._threads = TorchThreads() if keras.config.backend() == "torch" else None

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """Scores images `[n, height, width, 1]`; float32 `[n, label]`."""
        return sigmoid(self.logits(inputs))

    def logits(self, inputs: np.ndarray) -> np.ndarray:
        """Float32 `[n, label]`."""
        return self._run(inputs)[0]

    def frame_logits(self, inputs: np.ndarray) -> np.ndarray:
        """Scores the frames of images; float32 `[n, frame, label]`."""
        return self._run(inputs)[1]

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        n = len(images)
        if self._threads:
            self._threads.adjust()
        else:
            # jax and tensorflow compile anew for every batch size: powers of two keep that to a few.
            images = np.pad(images, [(0, (1 << (n - 1).bit_length()) - n), (0, 0), (0, 0), (0, 0)])
        return [x[:n] for x in predict_batch(self._with_frames, images)]
