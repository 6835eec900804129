"""Runs ONNX models of others that take sound itself, such as exports of BirdNET or Perch."""

import re
from pathlib import Path

import numpy as np

from keras_birds.config import AudioConfig, MelConfig
from keras_birds.errors import DataError, ModelError
from keras_birds.labels import Label, LabelSet
from keras_birds.models.logits import sigmoid
from keras_birds.models.metadata import ModelMetadata
from keras_birds.models.session import SessionEngine

_LATIN_AND_COMMON = re.compile(r"([A-Z][a-z-]+ [a-z-]+(?: [a-z-]+)?)_(.+)")


class WaveformEngine(SessionEngine):
    """An ONNX model from `[batch, samples]`, float32 in [-1, 1], to `[batch, label]`.

    Args:
        path: the file.
        labels: of its outputs, in order; see `read_label_lines`.
        sample_rate_hz: that it was trained at.
        window_s: length of what it takes.
        output: `"logits"`, or `"probabilities"` where a sigmoid is in the graph.
        provider: as for `SessionEngine`.

    Raises:
        ModelError: if the graph has no such input, or not exactly one output with a number for each label.
        ConfigError: if ONNX Runtime has no such provider here.
    """

    input_kind = "waveform"

    def __init__(
        self,
        path: str | Path,
        labels: LabelSet,
        sample_rate_hz: int,
        window_s: float,
        output: str = "logits",
        provider: str | None = None,
    ):
        super().__init__(path, provider)
        audio = AudioConfig(sample_rate_hz=sample_rate_hz, clip_s=window_s)
        mel = MelConfig(f_min_hz=0, f_max_hz=sample_rate_hz / 2)
        self.metadata = ModelMetadata(self.path.stem, labels, audio, mel)
        self.output = output
        self._input, batch = self._find_input(audio.clip_samples)
        self._output = self._find_output(len(labels))
        self.batch_size = batch or self.batch_size
        self._batch = batch

    def _find_input(self, clip_samples: int) -> tuple[str, int | None]:
        """The input's name, and its batch where that is fixed."""
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 else []
        if (
            len(shape) != 2
            or inputs[0].type != "tensor(float)"
            or shape[1] not in (clip_samples, *_names(shape))
        ):
            received = ", ".join(f"{x.name} {x.type} {x.shape}" for x in inputs)
            raise ModelError(
                f"{self.path}: the model must take float [batch, {clip_samples}] at this --sample-rate and "
                f"--window-s. Received: {received}"
            )
        return inputs[0].name, shape[0] if isinstance(shape[0], int) else None

    def _find_output(self, num_labels: int) -> str:
        outputs = self._session.get_outputs()
        fitting = [x.name for x in outputs if len(x.shape) == 2 and x.shape[1] == num_labels]
        if len(fitting) != 1:
            received = ", ".join(f"{x.name} {x.shape}" for x in outputs)
            raise ModelError(
                f"{self.path}: the model must have one output [batch, {num_labels}], a number for each of --labels. "
                f"Received: {received}"
            )
        return fitting[0]

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """Scores clips `[n, samples]`; float32 `[n, label]`.

        Raises:
            ModelError: if probabilities were promised and others come.
        """
        n, step = len(inputs), self._batch or len(inputs)
        padded = np.pad(inputs, ((0, -n % step), (0, 0)))
        parts = [
            self._session.run([self._output], {self._input: padded[x : x + step]})[0]
            for x in range(0, n, step)
        ]
        values = np.concatenate(parts)[:n].astype(np.float32)
        if self.output == "logits":
            return sigmoid(values)
        if (values < 0).any() or (values > 1).any():
            raise ModelError(
                f"{self.path}: probabilities must be from 0 to 1. Received: {values.min():g} to {values.max():g}; "
                "pass --output logits"
            )
        return values


def _names(shape: list) -> tuple:
    """The name of an axis whose length the graph leaves open."""
    return tuple(x for x in shape[1:] if not isinstance(x, int))


def read_label_lines(path: Path) -> LabelSet:
    """Reads a label a line, as the files beside published models are.

    A line such as `Turdus merula_Common Blackbird`, as BirdNET has it, gives the names as well.

    Raises:
        DataError: if the file can't be read, is empty, or holds a label twice.
    """
    try:
        lines = [x.strip() for x in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: --labels must be readable UTF-8 text. Received: {error}") from None
    labels = []
    for line in filter(None, lines):
        found = _LATIN_AND_COMMON.fullmatch(line)
        labels.append(Label(line, found[1], found[2]) if found else Label(line))
    if not labels:
        raise DataError(f"{path}: --labels must hold one label a line. Received: none")
    return LabelSet(labels)
