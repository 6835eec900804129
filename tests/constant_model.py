"""Model files made in milliseconds, without keras or torch."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from placeholder import make_metadata

from keras_birds.models.metadata import ModelMetadata


def make_onnx(graph: str, **weights) -> onnx.ModelProto:
    """A model of a graph in ONNX's textual syntax, with its float32 weights."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> made {graph}')
    model.graph.initializer.extend(numpy_helper.from_array(np.float32(x), k) for k, x in weights.items())
    return model


def write_constant_model(
    path: Path, logits: list[float], metadata: ModelMetadata | None = None, input_name: str = "mel"
) -> Path:
    """Writes an ONNX file whose every clip gets `logits`, with metadata inside, folders included."""
    metadata = metadata or make_metadata()
    height, width, labels = metadata.mel.height, metadata.mel.width, len(logits)
    graph = f"""(float[batch, {height}, {width}, 1] {input_name}) => (float[batch, {labels}] logits)
        {{ flat = Flatten({input_name}) logits = Gemm(flat, zeros, bias) }}"""
    model = make_onnx(graph, zeros=np.zeros((height * width, labels)), bias=logits)
    onnx.helper.set_model_props(model, metadata.onnx_props())
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path
