"""Scores with a `.keras` file on the current Keras backend."""

import os

# Without it TensorFlow writes notes on its own build to stderr while it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pathlib import Path
from typing import Any

import keras
import numpy as np

# Registers the layers that a .keras file names.
import keras_birds.nn.build  # noqa: F401
from keras_birds.errors import ModelError, as_model_error
from keras_birds.models.calibration import sigmoid
from keras_birds.models.metadata import EMBEDDING, FRAME_LOGITS, ModelMetadata
from keras_birds.nn.heads import POOLED, POOLED_FRAMES
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
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.inputs[0].shape) not in (2, 4):
        raise ModelError(
            f"{path}: the model must take one [batch, height, width, 1] or [batch, clip_samples] and give one "
            f"[batch, label]. Received: {len(model.inputs)} inputs, {len(model.outputs)} outputs"
        )
    return model


def input_kind_of(model: keras.Model) -> str:
    """`"mel"` for a model of images, `"waveform"` for one of sound."""
    return "mel" if len(model.inputs[0].shape) == 4 else "waveform"


def with_all_outputs(model: keras.Model) -> tuple[keras.Model, list[str]]:
    """A model that gives, beside its logits, those of its frames and its embedding where it has them; their names.

    The embedding is what the head takes of a clip: an attention head's is the mean over frames.
    """
    layers = {x.name: x.output for x in model.layers}
    more = {FRAME_LOGITS: layers[FRAME_LOGITS]} if FRAME_LOGITS in layers else {}
    if (embedding := embedding_of(model)) is not None:
        more[EMBEDDING] = embedding
    return keras.Model(model.inputs[0], [model.outputs[0], *more.values()]), ["logits", *more]


def embedding_of(model: keras.Model) -> Any:
    """What the head takes of a clip, symbolic `[batch, size]`; `None` where a model has nothing of the kind."""
    layers = {x.name: x.output for x in model.layers}
    if POOLED_FRAMES in layers:
        return keras.ops.mean(layers[POOLED_FRAMES], axis=1)
    return next((layers[x] for x in (EMBEDDING, POOLED) if x in layers), None)


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

    batch_size, workers, fixed_batch = 16, 1, None

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
        self.input_kind = input_kind_of(self.model)
        self._all, self._names = with_all_outputs(self.model)
        shapes = {name: x.shape for name, x in zip(self._names, self._all.outputs, strict=True)}
        self.num_frames = int(shapes[FRAME_LOGITS][1]) if FRAME_LOGITS in shapes else 0
        self.embedding_size = int(shapes[EMBEDDING][1]) if EMBEDDING in shapes else 0
        self._threads = TorchThreads() if keras.config.backend() == "torch" else None

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """Scores images `[n, height, width, 1]`, or clips `[n, samples]`; float32 `[n, label]`."""
        return sigmoid(self.logits(inputs))

    def logits(self, inputs: np.ndarray) -> np.ndarray:
        """Float32 `[n, label]`."""
        return self._run(inputs)["logits"]

    def frame_logits(self, inputs: np.ndarray) -> np.ndarray:
        """Scores the frames of images; float32 `[n, frame, label]`."""
        return self._run(inputs)[FRAME_LOGITS]

    def embeddings(self, inputs: np.ndarray) -> np.ndarray:
        """What the head takes of images or clips; float32 `[n, embedding_size]`, of a model that has it."""
        return self._run(inputs)[EMBEDDING]

    def _run(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        n = len(inputs)
        if self._threads:
            self._threads.adjust()
        else:
            # jax and tensorflow compile anew for every batch size: powers of two keep that to a few.
            more = (1 << (n - 1).bit_length()) - n
            inputs = np.pad(inputs, [(0, more), *[(0, 0)] * (inputs.ndim - 1)])
        found = predict_batch(self._all, inputs)
        return {name: x[:n] for name, x in zip(self._names, found, strict=True)}
