"""Models that are alike up to their embeddings, as the folds of a head on a frozen backbone: parted there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_birds.errors import ConfigError, ModelError, detail_of
from keras_birds.models.calibration import sigmoid
from keras_birds.models.engines import Engine, OnnxEngine
from keras_birds.models.metadata import EMBEDDING, GraphOutputs
from keras_birds.models.session import session_options

if TYPE_CHECKING:
    import onnx
    from onnxruntime import InferenceSession


def parted(members: "Iterable[onnx.ModelProto]") -> "tuple[onnx.ModelProto, list[onnx.ModelProto]] | None":
    """Parts graphs from `waveform` to `logits` at their embeddings.

    Returns:
        What comes first in all of them, up to `embedding`, and what follows in each; `None` where they differ there or
        one has no embedding.
    """
    from onnx.utils import Extractor

    front, heads = None, []
    for member in members:
        if EMBEDDING not in (x.name for x in member.graph.output):
            return None
        extractor = Extractor(member)
        found = extractor.extract_model(["waveform"], [EMBEDDING])
        front = found if front is None else front
        if found.graph != front.graph:
            return None
        heads.append(extractor.extract_model([EMBEDDING], ["logits"]))
    return None if front is None else (front, heads)


@dataclass(frozen=True)
class Head:
    """What follows the embedding in a model.

    Args:
        path: of the model.
        session: from embeddings to scores.
        outputs: names of both, and what kind of scores they are.
    """

    path: Path
    session: "InferenceSession"
    outputs: GraphOutputs

    def probabilities(self, embeddings: np.ndarray) -> np.ndarray:
        """Of embeddings `[n, size]`, float32 `[n, label]`."""
        (scores,) = self.session.run([self.outputs.scores], {self.outputs.embedding: embeddings})
        return sigmoid(scores) if self.outputs.kind == "logits" else scores


def head_of(engine: Engine) -> Head:
    """The part of a model that takes its embeddings.

    Raises:
        ConfigError: if Keras computes it.
        ModelError: if it gives no embeddings, or scores more than these, as an attention head, which takes frames.
    """
    if not isinstance(engine, OnnxEngine):
        raise ConfigError(
            f"Scores of embeddings are computed by ONNX Runtime. Received: {engine.path}. Leave out --engine, or pass "
            "the model.onnx beside it"
        )
    if not engine.embedding_size or engine.num_frames:
        what = (
            "an attention head, which takes frames" if engine.num_frames else "one that gives no embeddings"
        )
        raise ModelError(
            f"{engine.path}: scores of embeddings need a model whose head takes them. Received: {what}. Score the sound"
        )
    import onnx
    from onnx.utils import Extractor

    try:
        graph = Extractor(onnx.load(str(engine.path))).extract_model(
            [engine.outputs.embedding], [engine.outputs.scores]
        )
        return Head(engine.path, _session(graph), engine.outputs)
    except Exception as error:  # ONNX Runtime has a class for each status code, without a common base
        raise ModelError(
            f"{engine.path}: the graph must give scores from its output {engine.outputs.embedding} alone. Received: "
            f"{detail_of(error)}. Score the sound"
        ) from None


def _session(graph: "onnx.ModelProto") -> "InferenceSession":
    from onnxruntime import InferenceSession

    options = session_options(threads=1)
    return InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def shared_heads(engines: Sequence[Engine]) -> list[Head]:
    """What follows the embedding in each of several engines that compute the same one; else none.

    Where the package onnx isn't, as on machines that only predict, each computes its own embedding: only the time
    differs.
    """
    may_share = len(engines) > 1 and find_spec("onnx") is not None
    if not may_share or not all(isinstance(x, OnnxEngine) and _may_part(x) for x in engines):
        return []
    import onnx

    parts = parted(onnx.load(str(x.path)) for x in engines)
    heads, outputs = parts[1] if parts else (), GraphOutputs("logits", "logits", EMBEDDING)
    return [Head(x.path, _session(head), outputs) for x, head in zip(engines, heads, strict=bool(heads))]


def _may_part(engine: OnnxEngine) -> bool:
    is_ours = engine.metadata.outputs is None and engine.outputs.kind == "logits"
    return is_ours and engine.input_kind == "waveform" and engine.embedding_size > 0
