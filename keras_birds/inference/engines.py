"""What computes a model's logits: ONNX Runtime, or Keras where it is asked for."""

from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np

from keras_birds.errors import ModelError
from keras_birds.export.metadata import ModelMetadata, open_session


class Engine(Protocol):
    """One loaded model."""

    path: Path
    metadata: ModelMetadata

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Float32 `[n, height, width, 1]` in [0, 1] to float32 `[n, label]`."""


class OnnxEngine:
    """A `model.onnx` in ONNX Runtime on the CPU.

    Args:
        path: the file.

    Raises:
        ModelError: if the file is damaged, without metadata, or its graph isn't what its metadata says.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._session = open_session(path)
        self.metadata = ModelMetadata.of_session(self._session, path)
        self._check_graph()

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Scores images.

        Args:
            images: float32 `[n, height, width, 1]` in [0, 1].

        Returns:
            float32 `[n, label]`.
        """
        logits: np.ndarray = self._session.run(["logits"], {"mel": images})[0]
        return logits

    def _check_graph(self) -> None:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        names = [x.name for x in inputs], [x.name for x in outputs]
        if names != (["mel"], ["logits"]):
            received = f"{', '.join(names[0])} -> {', '.join(names[1])}"
            raise ModelError(f"{self.path}: the graph must take mel and give logits. Received: {received}")
        self.metadata.check_shapes(self.path, inputs[0].shape, outputs[0].shape)


def load_engine(path: str | Path) -> Engine:
    """Loads one model file.

    Args:
        path: `.onnx`, or `.keras`, which imports keras on the backend that `KERAS_BACKEND` names.

    Raises:
        ModelError: if the file can't be used.
    """
    if Path(path).suffix.lower() != ".keras":
        return OnnxEngine(path)
    # By name: nothing here may import keras unless it is asked for.
    loaded: Engine = import_module("keras_birds.export.keras_engine").KerasEngine(path)
    return loaded


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities in float32, without overflow at either end."""
    logits = np.asarray(logits, np.float32)
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1, small) / (1 + small)
