"""What computes a model's probabilities: ONNX Runtime, or Keras where it is asked for."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np

from keras_birds.errors import ConfigError, ModelError
from keras_birds.models.calibration import sigmoid
from keras_birds.models.metadata import EMBEDDING, FRAME_LOGITS, GraphOutputs, ModelMetadata, OutputKind
from keras_birds.models.session import choose_provider, open_session

if TYPE_CHECKING:
    from keras_birds.models.keras_engine import KerasEngine


Engine: TypeAlias = "OnnxEngine | KerasEngine"
"""One loaded model: `OnnxEngine` says what each has."""

_MORE: tuple[list[str], ...] = ([], [FRAME_LOGITS], [EMBEDDING], [FRAME_LOGITS, EMBEDDING])
_GRAPHS = (
    *(([x], ["logits", *y]) for x in ("mel", "waveform") for y in _MORE),
    *((["waveform"], ["probabilities", *y]) for y in ([], [EMBEDDING])),
)
"""Inputs and outputs of the graphs that keras-birds writes."""


class OnnxEngine:
    """An ONNX file in ONNX Runtime, with its metadata: from images or sound to logits, or from sound to probabilities.

    On a CPU one run uses one thread, and runs go side by side: half as fast again as one run on all cores, since what
    a thread computes stays in its own cache.

    Args:
        path: the file; of a model of others, its card `model.json` lies beside it.
        provider: `"cpu"`, or `"cuda"`, `"coreml"`, ... where ONNX Runtime has it; `None` for CUDA where it is there.

    Attributes:
        input_kind: `"mel"`, images `[n, height, width, 1]` in [0, 1], or `"waveform"`, clips `[n, samples]`.
        fixed_batch: the one size of its batches; `None` where it takes any.
        batch_size: how many inputs at a time it is fastest with.
        workers: threads that may ask it at the same time; `None` for as many as there are processors.
        num_frames: parts of equal length that it can score of a clip as well; 0 where it has no attention head.
        embedding_size: length of its embeddings; 0 where it gives none.

    Raises:
        ModelError: if the file is missing, damaged or not what its metadata says.
        ConfigError: if ONNX Runtime has no such provider here.
    """

    def __init__(self, path: str | Path, provider: str | None = None):
        self.path = Path(path)
        chosen = choose_provider(provider)
        self._session = open_session(path, threads=1, provider=chosen)
        is_cpu = chosen == "CPUExecutionProvider"
        self.workers: int | None = None if is_cpu else 1
        self.metadata = ModelMetadata.read_onnx(path, self._session)
        inputs = self._session.get_inputs()
        shapes = {x.name: x.shape for x in self._session.get_outputs()}
        names = [x.name for x in inputs], list(shapes)
        outputs = self.metadata.outputs
        if outputs is None and names in _GRAPHS:
            kind: OutputKind = "probabilities" if "probabilities" in shapes else "logits"
            outputs = GraphOutputs(kind, names[1][0], EMBEDDING if EMBEDDING in shapes else "")
            self.metadata.check_shapes(path, inputs[0].shape, shapes[outputs.scores])
        if outputs is None or not {outputs.scores, outputs.embedding or outputs.scores} <= shapes.keys():
            taken = "mel or waveform" if outputs is None else "sound"
            given = "logits or probabilities" if outputs is None else f"{outputs.scores} {outputs.embedding}"
            raise ModelError(
                f"{path}: the graph must take {taken} and give {given}. Received: {', '.join(names[0])} -> "
                f"{', '.join(names[1])}"
            )
        self.outputs = outputs
        self.input_kind = "mel" if names[0] == ["mel"] else "waveform"
        self._input, fixed = names[0][0], inputs[0].shape[0]
        self.fixed_batch = fixed if isinstance(fixed, int) else None
        on_cpu = 4 if self.input_kind == "waveform" else 2  # with sound (BirdNET) 7 % faster than 2
        self.batch_size = self.fixed_batch or (on_cpu if is_cpu else 64)
        self.num_frames = int(shapes[FRAME_LOGITS][1]) if FRAME_LOGITS in shapes else 0
        self.embedding_size = int(shapes[outputs.embedding][1]) if outputs.embedding else 0

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """Scores images `[n, height, width, 1]`, or clips `[n, samples]` of sound; float32 `[n, label]`.

        Raises:
            ModelError: if a model of others was said to give probabilities and gives other numbers.
        """
        values = self._run(self.outputs.scores, inputs)
        if self.outputs.kind == "logits":
            return sigmoid(values)
        if self.metadata.outputs and ((values < 0).any() or (values > 1).any()):
            raise ModelError(
                f"{self.path}: probabilities must be from 0 to 1. Received: {values.min():g} to {values.max():g}. Add "
                "the model again, with --output logits"
            )
        return values

    def logits(self, inputs: np.ndarray) -> np.ndarray:
        """Scores images `[n, height, width, 1]`, or clips `[n, samples]`; float32 `[n, label]`."""
        return self._run("logits", inputs)

    def frame_logits(self, inputs: np.ndarray) -> np.ndarray:
        """Scores the frames of images `[n, height, width, 1]`; float32 `[n, frame, label]`."""
        return self._run(FRAME_LOGITS, inputs)

    def embeddings(self, inputs: np.ndarray) -> np.ndarray:
        """What the head takes of images or clips; float32 `[n, embedding_size]`, of a model that has such an output."""
        return self._run(self.outputs.embedding, inputs)

    def _run(self, output: str, inputs: np.ndarray) -> np.ndarray:
        """One output; a graph for batches of one size only gets the last one filled with silence."""
        n, step = len(inputs), self.fixed_batch or len(inputs)
        if n % step:
            inputs = np.pad(inputs, [(0, -n % step), *[(0, 0)] * (inputs.ndim - 1)])
        parts = [
            self._session.run([output], {self._input: inputs[x : x + step]})[0] for x in range(0, n, step)
        ]
        return np.asarray(parts[0] if len(parts) == 1 else np.concatenate(parts))[:n].astype(
            np.float32, copy=False
        )


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
