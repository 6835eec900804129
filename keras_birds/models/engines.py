"""What computes a model's probabilities: ONNX Runtime, or Keras where it is asked for."""

from importlib import import_module
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from keras_birds.errors import ConfigError, ModelError
from keras_birds.models.logits import sigmoid
from keras_birds.models.metadata import FRAME_LOGITS, ModelMetadata
from keras_birds.models.session import SessionEngine


class Engine(Protocol):
    """One loaded model.

    Args:
        path: the file.
        metadata: labels, audio and mel settings.
        input_kind: `"mel"`, images `[n, height, width, 1]` in [0, 1], or `"waveform"`, clips `[n, samples]`.
        batch_size: how many inputs at a time it is fastest with.
        workers: threads that may ask it at the same time; `None` for as many as there are processors.
    """

    path: Path
    metadata: ModelMetadata
    input_kind: str
    batch_size: int
    workers: int | None

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """Float32 inputs to float32 `[n, label]`."""


@runtime_checkable
class FrameEngine(Engine, Protocol):
    """A model that may score the frames of a clip, its parts of equal length, as well.

    Args:
        num_frames: how many they are; 0 where it has no attention head.
    """

    num_frames: int

    def frame_logits(self, inputs: np.ndarray) -> np.ndarray:
        """Float32 inputs to float32 `[n, frame, label]`, where `num_frames` isn't 0."""


_GRAPHS = (
    (["mel"], ["logits"]),
    (["mel"], ["logits", FRAME_LOGITS]),
    (["waveform"], ["probabilities"]),
)
"""Inputs and outputs of the graphs that keras-birds writes."""


class OnnxEngine(SessionEngine):
    """A `model.onnx` in ONNX Runtime, from images to logits, or from sound to probabilities (`keras-birds export`).

    Args:
        path: the file.
        provider: as for `SessionEngine`.

    Raises:
        ModelError: if the file is damaged, without metadata, or its graph isn't what its metadata says.
        ConfigError: if ONNX Runtime has no such provider here.
    """

    def __init__(self, path: str | Path, provider: str | None = None):
        super().__init__(path, provider)
        self.metadata = ModelMetadata.of_session(self._session, path)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        names = [x.name for x in inputs], [x.name for x in outputs]
        if names not in _GRAPHS:
            raise ModelError(
                f"{path}: the graph must take mel and give logits, or waveform and probabilities. Received: "
                f"{', '.join(names[0])} -> {', '.join(names[1])}"
            )
        self.metadata.check_shapes(path, inputs[0].shape, outputs[0].shape)
        self.input_kind = inputs[0].name
        self.num_frames = sum(int(x.shape[1]) for x in outputs[1:])

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """Scores images `[n, height, width, 1]`, or clips `[n, samples]` of sound; float32 `[n, label]`."""
        if self.input_kind == "mel":
            return sigmoid(self.logits(inputs))
        found: np.ndarray = self._session.run(None, {self.input_kind: inputs})[0]
        return found

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Scores images `[n, height, width, 1]`; float32 `[n, label]`."""
        found: np.ndarray = self._session.run(None, {"mel": images})[0]
        return found

    def frame_logits(self, inputs: np.ndarray) -> np.ndarray:
        """Scores the frames of images `[n, height, width, 1]`; float32 `[n, frame, label]`."""
        logits: np.ndarray = self._session.run([FRAME_LOGITS], {"mel": inputs})[0]
        return logits


def load_engine(path: str | Path, provider: str | None = None) -> Engine:
    """Loads one model file.

    Args:
        path: `.onnx`, or `.keras`, which imports keras on the backend that `KERAS_BACKEND` names.
        provider: as for `OnnxEngine`.

    Raises:
        ModelError: if the file can't be used.
        ConfigError: if the provider can't be had.
    """
    if Path(path).suffix.lower() != ".keras":
        return OnnxEngine(path, provider)
    if provider is not None:
        raise ConfigError(
            f"--provider is for ONNX models. Received: {provider} with {path}; KERAS_BACKEND chooses what computes"
        )
    # By name: nothing here may import keras unless it is asked for.
    loaded: Engine = import_module("keras_birds.models.keras_engine").KerasEngine(path)
    return loaded
