"""Stores an ONNX model's weights in half the room."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MIN_ELEMENTS = 64
"""Smaller weights stay as they are: they take no room."""


def halve_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Stores float32 weights as float16, each cast back where the graph begins.

    All arithmetic stays float32, so that the model runs wherever the original does, and as fast: ONNX Runtime does
    the casts once, as it loads the file. Weights beyond float16's range stay as they are.

    Args:
        model: left as it is.

    Returns:
        A checked model with the same inputs, outputs and metadata.
    """
    halved = onnx.ModelProto()
    halved.CopyFrom(model)
    graph = halved.graph
    casts = []
    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        if (
            values.dtype != np.float32
            or values.size < MIN_ELEMENTS
            or np.abs(values).max() > np.finfo(np.float16).max
        ):
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_float16"))
        casts.append(helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT))
    return restoring_weights(halved, casts)


def restoring_weights(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> onnx.ModelProto:
    """Puts what brings stored weights back to float32 where the graph begins; the model is changed and checked."""
    graph = model.graph
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    # What shape inference noted of the weights is no longer so.
    names = {x.output[0] for x in nodes}
    kept = [x for x in graph.value_info if x.name not in names]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    onnx.checker.check_model(model, full_check=True)
    return model


def whole_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The inverse of `halve_weights`, but for what float16 has rounded.

    Args:
        model: left as it is; one that isn't halved is returned as it is.
    """
    halved = {x.name: x for x in model.graph.initializer if x.data_type == TensorProto.FLOAT16}
    if not halved:
        return model
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    graph, names = whole.graph, {}
    for node in list(graph.node):
        if node.op_type == "Cast" and node.input[0] in halved:
            names[node.input[0]] = node.output[0]
            graph.node.remove(node)
    for weight in graph.initializer:
        if weight.name in names:
            values = numpy_helper.to_array(weight).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(values, names[weight.name]))
    onnx.checker.check_model(whole, full_check=True)
    return whole
