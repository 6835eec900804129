"""Stores an ONNX model's weights in fewer bits; all arithmetic stays float32.

Each weight is brought back to float32 where the graph begins. ONNX Runtime does that once, as it loads the file, so the
model is as fast as before, and runs wherever the original does.
"""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MIN_ELEMENTS = 64
"""Smaller weights stay as they are: they take no room."""

Stored = tuple[list[onnx.TensorProto], list[onnx.NodeProto]]
"""What is kept of a weight, and the nodes that make the weight of it."""


def halve_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A checked copy with float32 weights stored as float16; those beyond its range stay as they are."""

    def halve(name: str, values: np.ndarray) -> Stored | None:
        if np.abs(values).max() > np.finfo(np.float16).max:
            return None
        kept = numpy_helper.from_array(values.astype(np.float16), f"{name}_float16")
        return [kept], [helper.make_node("Cast", [kept.name], [name], to=TensorProto.FLOAT)]

    return _store(model, halve)


def quantize_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A checked copy with the weights of convolutions and matrix products as int8, a scale for each output channel.

    Symmetric, nearest level of 127 (Krishnamoorthi 2018, arXiv:1806.08342, section 3.1).
    """
    channel_axis = {"Conv": 0, "MatMul": 1}
    axes = {x.input[1]: channel_axis[x.op_type] for x in model.graph.node if x.op_type in channel_axis}

    def quantize(name: str, values: np.ndarray) -> Stored | None:
        if name not in axes:
            return None
        others = tuple(k for k in range(values.ndim) if k != axes[name])
        largest = np.abs(values).max(axis=others, keepdims=True)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        levels = np.rint(values / scale).astype(np.int8)
        nodes = [
            helper.make_node("Cast", [f"{name}_int8"], [f"{name}_levels"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}_levels", f"{name}_scale"], [name]),
        ]
        kept = {f"{name}_int8": levels, f"{name}_scale": scale}
        return [numpy_helper.from_array(x, key) for key, x in kept.items()], nodes

    return _store(model, quantize)


def _store(model: onnx.ModelProto, compress: Callable[[str, np.ndarray], Stored | None]) -> onnx.ModelProto:
    """A copy with float32 weights as `compress` has them; `None` leaves one as it is."""
    smaller = onnx.ModelProto()
    smaller.CopyFrom(model)
    graph, weights, nodes = smaller.graph, [], []
    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        is_large = values.dtype == np.float32 and values.size >= MIN_ELEMENTS
        stored = compress(weight.name, values) if is_large else None
        weights += [weight] if stored is None else stored[0]
        nodes += [] if stored is None else stored[1]
    restored = {x.output[0] for x in nodes}
    # What shape inference noted of the weights is no longer so.
    noted = [x for x in graph.value_info if x.name not in restored]
    for name, kept in (("initializer", weights), ("node", [*nodes, *graph.node]), ("value_info", noted)):
        graph.ClearField(name)
        getattr(graph, name).extend(kept)
    onnx.checker.check_model(smaller, full_check=True)
    return smaller


def whole_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The inverse of `halve_weights`, in a copy; a model that isn't halved is returned as it is."""
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
