"""What computes a model's probabilities: ONNX Runtime, or Keras where it is asked for."""

import re
from collections import Counter
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np

from keras_birds.config import AudioConfig, MelConfig
from keras_birds.errors import ConfigError, DataError, ModelError
from keras_birds.labels import Label, LabelSet
from keras_birds.models.calibration import sigmoid
from keras_birds.models.metadata import EMBEDDING, FRAME_LOGITS, ModelMetadata
from keras_birds.models.session import choose_provider, open_session

if TYPE_CHECKING:
    from keras_birds.models.keras_engine import KerasEngine


Engine: TypeAlias = "OnnxEngine | WaveformEngine | KerasEngine"
"""One loaded model: `SessionEngine` says what each has."""

_OUTPUTS = (["logits"], ["logits", FRAME_LOGITS], ["logits", EMBEDDING])
_GRAPHS = (*((x, y) for x in (["mel"], ["waveform"]) for y in _OUTPUTS), (["waveform"], ["probabilities"]))
"""Inputs and outputs of the graphs that keras-birds writes."""

_LATIN = re.compile(r"[A-Z][a-z-]+ [a-z-]+(?: [a-z-]+)?")


class SessionEngine:
    """An ONNX file in ONNX Runtime: what engines of such files have in common.

    On a CPU one run uses one thread, and runs go side by side: half as fast again as one run on all cores, since what
    a thread computes stays in its own cache.

    Args:
        path: the file.
        provider: `"cpu"`, or `"cuda"`, `"coreml"`, ... where ONNX Runtime has it; `None` for CUDA where it is there.

    Attributes:
        input_kind: `"mel"`, images `[n, height, width, 1]` in [0, 1], or `"waveform"`, clips `[n, samples]`.
        batch_size: how many inputs at a time it is fastest with.
        workers: threads that may ask it at the same time; `None` for as many as there are processors.
        num_frames: parts of equal length that it can score of a clip as well; 0 where it has no attention head.

    Raises:
        ModelError: if the file is missing, damaged or not what the engine takes.
        ConfigError: if ONNX Runtime has no such provider here.
    """

    input_kind, num_frames = "waveform", 0
    metadata: ModelMetadata

    def __init__(self, path: str | Path, provider: str | None = None):
        self.path = Path(path)
        chosen = choose_provider(provider)
        self._session = open_session(path, threads=1, provider=chosen)
        is_cpu = chosen == "CPUExecutionProvider"
        self.batch_size = 2 if is_cpu else 64
        self.workers: int | None = None if is_cpu else 1

    def frame_logits(self, inputs: np.ndarray) -> np.ndarray:
        """Scores the frames of images `[n, height, width, 1]`; float32 `[n, frame, label]`."""
        return np.asarray(self._session.run([FRAME_LOGITS], {"mel": inputs})[0])


class OnnxEngine(SessionEngine):
    """A `model.onnx` with its metadata, from images or sound to logits, or from sound to probabilities (an export)."""

    def __init__(self, path: str | Path, provider: str | None = None):
        super().__init__(path, provider)
        self.metadata = ModelMetadata.read_onnx(path, self._session)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        names = [x.name for x in inputs], [x.name for x in outputs]
        if names not in _GRAPHS:
            raise ModelError(
                f"{path}: the graph must take mel or waveform and give logits or probabilities. Received: "
                f"{', '.join(names[0])} -> {', '.join(names[1])}"
            )
        self.metadata.check_shapes(path, inputs[0].shape, outputs[0].shape)
        self.input_kind = inputs[0].name
        self._output = names[1][0]
        self.num_frames = sum(int(x.shape[1]) for x in outputs if x.name == FRAME_LOGITS)

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """Scores images `[n, height, width, 1]`, or clips `[n, samples]` of sound; float32 `[n, label]`."""
        if self._output == "logits":
            return sigmoid(self.logits(inputs))
        return np.asarray(self._session.run(None, {"waveform": inputs})[0])

    def logits(self, inputs: np.ndarray) -> np.ndarray:
        """Scores images `[n, height, width, 1]`, or clips `[n, samples]`; float32 `[n, label]`."""
        return np.asarray(self._session.run(["logits"], {self.input_kind: inputs})[0])


class WaveformEngine(SessionEngine):
    """An ONNX model of others, such as BirdNET's or Perch's export: sound `[batch, samples]`, float32 in [-1, 1], to
    `[batch, label]`; one output of it has a number for each label.

    Args:
        path: the file; `provider` as for `SessionEngine`.
        labels: of its outputs, in order; see `read_label_lines`.
        sample_rate_hz: that it was trained at.
        window_s: length of what it takes.
        output: `"logits"`, or `"probabilities"` where a sigmoid is in the graph.
    """

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
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        num_samples, shape = audio.clip_samples, inputs[0].shape if len(inputs) == 1 else []
        is_sound = len(shape) == 2 and inputs[0].type == "tensor(float)"
        fitting = [x.name for x in outputs if len(x.shape) == 2 and x.shape[1] == len(labels)]
        wrong, wanted = outputs, f"have one output [batch, {len(labels)}], a number for each of --labels"
        if not is_sound or (isinstance(shape[1], int) and shape[1] != num_samples):
            wrong, wanted = inputs, f"take float [batch, {num_samples}] at this --sample-rate and --window-s"
        if wrong is inputs or len(fitting) != 1:
            received = ", ".join(f"{x.name} {x.type} {x.shape}" for x in wrong)
            raise ModelError(f"{path}: the model must {wanted}. Received: {received}")
        self._input, self._output = inputs[0].name, fitting[0]
        self._batch = shape[0] if isinstance(shape[0], int) else None
        self.batch_size = self._batch or self.batch_size

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """Scores clips `[n, samples]`; float32 `[n, label]`.

        Raises:
            ModelError: if probabilities were promised and others come.
        """
        n, step = len(inputs), self._batch or len(inputs)
        batches = np.pad(inputs, ((0, -n % step), (0, 0))).reshape(-1, step, inputs.shape[1])
        parts = [self._session.run([self._output], {self._input: x})[0] for x in batches]
        values = np.concatenate(parts)[:n].astype(np.float32)
        if self.output == "logits":
            return sigmoid(values)
        if (values < 0).any() or (values > 1).any():
            raise ModelError(
                f"{self.path}: probabilities must be from 0 to 1. Received: {values.min():g} to {values.max():g}; "
                "pass --output logits"
            )
        return values


def load_engine(path: str | Path, provider: str | None = None) -> Engine:
    """Loads an `.onnx` file, or a `.keras` file, which imports keras on the backend that `KERAS_BACKEND` names.

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
    return cast(Engine, import_module("keras_birds.models.keras_engine").KerasEngine(path))


def read_label_lines(path: Path) -> LabelSet:
    """Reads a label a line, as models come with them.

    Of lines as BirdNET's, `Turdus merula_Common Blackbird`, the label is the scientific name, unless that is there
    twice: then the line.

    Raises:
        DataError: if the file can't be read, is empty, or holds a label twice.
    """
    try:
        lines = [x.strip() for x in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: --labels must be readable UTF-8 text. Received: {error}") from None
    labels = []
    for line in filter(None, lines):
        first, _, common = line.partition("_")
        scientific = first if common and (_LATIN.fullmatch(first) or first == common) else ""
        labels.append(Label(line, scientific, common) if scientific else Label(line))
    if not labels:
        raise DataError(f"{path}: --labels must hold one label a line. Received: none")
    count = Counter(x.scientific_name for x in labels)
    return LabelSet(
        replace(x, name=x.scientific_name) if count[x.scientific_name] == 1 and x.scientific_name else x
        for x in labels
    )
