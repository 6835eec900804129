"""Eight-bit models: stored weights alone, a quarter of the room; or the arithmetic of convolutions as well."""

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from keras_birds.errors import ModelError
from keras_birds.export.weight_compression import MIN_ELEMENTS, restoring_weights

_LEVELS = 127
_CALIBRATION_BATCH = 4


def quantize_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Stores float32 weights as int8 with a scale for each output channel; a quarter of the room.

    Each is brought back where the graph begins, by a cast and a product that ONNX Runtime does once, as it loads the
    file: all arithmetic stays float32, as fast as before, and wherever the original runs. Symmetric, nearest level of
    127 (Krishnamoorthi 2018, arXiv:1806.08342, section 3.1).

    Args:
        model: left as it is.

    Returns:
        A checked model with the same inputs, outputs and metadata.
    """
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    graph = quantized.graph
    axes = _output_axes(graph)
    nodes, scales = [], []
    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < MIN_ELEMENTS or weight.name not in axes:
            continue
        axis = axes[weight.name]
        others = tuple(k for k in range(values.ndim) if k != axis)
        largest = np.abs(values).max(axis=others, keepdims=True)
        scale = np.where(largest > 0, largest / _LEVELS, 1).astype(np.float32)
        levels = np.rint(values / scale).astype(np.int8)
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(levels, f"{name}_int8"))
        scales.append(numpy_helper.from_array(scale, f"{name}_scale"))
        nodes.append(helper.make_node("Cast", [f"{name}_int8"], [f"{name}_levels"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{name}_levels", f"{name}_scale"], [name]))
    graph.initializer.extend(scales)
    return restoring_weights(quantized, nodes)


def _output_axes(graph: onnx.GraphProto) -> dict[str, int]:
    """The axis of the output channels of each weight of a convolution or a matrix product."""
    axes = {}
    for node in graph.node:
        if node.op_type == "Conv":
            axes[node.input[1]] = 0
        elif node.op_type == "MatMul":
            axes[node.input[1]] = 1
    return axes


def quantize_static(model: onnx.ModelProto, images: np.ndarray) -> onnx.ModelProto:
    """Computes convolutions in int8, with the ranges of activations that calibration images have.

    Weights have a scale a channel and 7 bits: without VNNI, processors add up products of 8-bit numbers in 16 bits,
    which overflow. The first convolution, which sees the image, and the head stay in float32. By ONNX Runtime's
    `quantize_static` (min-max, QDQ format).

    Args:
        model: from `mel` to `logits`, float32; left as it is.
        images: float32 `[n, height, width, 1]`, some dozens of real clips.

    Returns:
        A checked model with the same inputs, outputs and metadata.

    Raises:
        ModelError: if ONNX Runtime can't quantise the graph.
    """
    import onnxruntime
    from onnxruntime import quantization

    class Images(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = iter(np.array_split(images, -(-len(images) // _CALIBRATION_BATCH)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"mel": batch}

    # It advises on the root logger to do what is done here.
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            folded, done = Path(folder, "folded.onnx"), Path(folder, "int8.onnx")
            options = onnxruntime.SessionOptions()
            # Batch norms become parts of their convolutions.
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
            options.optimized_model_filepath = str(folded)
            options.log_severity_level = 4
            onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            first = next(x.name for x in onnx.load(str(folded)).graph.node if x.op_type == "Conv")
            quantization.quantize_static(
                str(folded),
                str(done),
                Images(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=[first],
            )
            quantized = onnx.load(str(done))
    except Exception as error:  # onnxruntime raises whatever its parts raise
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(
            f"int8 needs a network of convolutions that ONNX Runtime can quantise. Received: {detail}"
        ) from None
    finally:
        logging.disable(logging.NOTSET)
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(model.metadata_props)
    onnx.checker.check_model(quantized, full_check=True)
    return quantized
