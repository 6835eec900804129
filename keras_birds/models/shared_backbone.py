"""Models that are alike up to their embeddings, as the folds of a head on a frozen backbone: parted there."""

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from keras_birds.models.engines import Engine, OnnxEngine
from keras_birds.models.metadata import EMBEDDING
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


def shared_heads(engines: Sequence[Engine]) -> "list[InferenceSession]":
    """What follows the embedding in each of several engines that compute the same one; else none.

    Where the package onnx isn't, as on machines that only predict, each computes its own embedding: only the time
    differs.
    """
    may_share = len(engines) > 1 and find_spec("onnx") is not None
    if not may_share or not all(isinstance(x, OnnxEngine) and _may_part(x) for x in engines):
        return []
    import onnx
    from onnxruntime import InferenceSession

    parts, options = parted(onnx.load(str(x.path)) for x in engines), session_options(threads=1)
    heads = [x.SerializeToString() for x in (parts[1] if parts else ())]
    return [InferenceSession(x, options, providers=["CPUExecutionProvider"]) for x in heads]


def _may_part(engine: OnnxEngine) -> bool:
    is_ours = engine.metadata.outputs is None and engine.outputs.kind == "logits"
    return is_ours and engine.input_kind == "waveform" and engine.embedding_size > 0
