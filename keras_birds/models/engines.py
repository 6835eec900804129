"""What computes a model's probabilities: ONNX Runtime, or Keras where it is asked for."""

from importlib import import_module
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from keras_birds.errors import ConfigError, ModelError
from keras_birds.models.logits import logit
from keras_birds.models.metadata import FRAME_LOGITS, ModelMetadata
from keras_birds.models.session import SessionEngine


class Engine(Protocol):
    """One loaded model.

    Args:
        path: the file.
        metadata: labels, audio and mel settings.
        takes: `"mel"`, images `[n, height, width, 1]` in [0, 1], or `"waveform"`, clips `[n, samples]`.
        batch_size: how many inputs at a time it is fastest with.
        workers: threads that may ask it at the same time; `None` for as many as there are processors.
    """

    path: Path
    metadata: ModelMetadata
    takes: str
    batch_size: int
    workers: int | None

    def logits(self, inputs: np.ndarray) -> np.ndarray:
        """Float32 inputs to float32 `[n, label]`."""


@runtime_checkable
class FrameEngine(Engine, Protocol):
    """A model that may score the moments of a clip as well.

    Args:
        num_frames: how many they are, in order and of equal length; 0 where it has no attention head.
    """

    num_frames: int

    def frame_logits(self, inputs: np.ndarray) -> np.ndarray:
        """Float32 inputs to float32 `[n, frame, label]`, where `num_frames` isn't 0."""


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
        self.takes = self._find_input()
        self.num_frames = self._check_graph()

    def logits(self, inputs: np.ndarray) -> np.ndarray:
        """Scores images, or clips where the graph takes sound.

        Args:
            inputs: float32 `[n, height, width, 1]` in [0, 1], or `[n, clip_samples]`.

        Returns:
            float32 `[n, label]`.
        """
        found: np.ndarray = self._session.run(None, {self.takes: inputs})[0]
        return found if self.takes == "mel" else logit(found).astype(np.float32)

    def frame_logits(self, inputs: np.ndarray) -> np.ndarray:
        """Scores the moments of images.

        Args:
            inputs: float32 `[n, height, width, 1]` in [0, 1].

        Returns:
            float32 `[n, frame, label]`.
        """
        logits: np.ndarray = self._session.run([FRAME_LOGITS], {"mel": inputs})[0]
        return logits

    def _find_input(self) -> str:
        names = [x.name for x in self._session.get_inputs()], [x.name for x in self._session.get_outputs()]
        if names == (["waveform"], ["probabilities"]):
            return "waveform"
        if names[0] != ["mel"] or names[1] not in (["logits"], ["logits", FRAME_LOGITS]):
            received = f"{', '.join(names[0])} -> {', '.join(names[1])}"
            raise ModelError(
                f"{self.path}: the graph must take mel and give logits, or waveform and probabilities. Received: "
                f"{received}"
            )
        return "mel"

    def _check_graph(self) -> int:
        """Frames of a clip that the graph scores; 0 where it doesn't."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self.metadata.check_shapes(self.path, inputs[0].shape, outputs[0].shape)
        return int(outputs[1].shape[1]) if len(outputs) == 2 else 0


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
