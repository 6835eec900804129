"""What `keras-birds export` writes, and runs to compare: ONNX files, OpenVINO, LiteRT and torch programs.

What can't be converted raises `ModelError`.
"""

import json
import tempfile
import warnings
import zipfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from keras_birds.errors import as_model_error
from keras_birds.export.end_to_end import end_to_end_graph, end_to_end_model
from keras_birds.export.formats import Input, Precision
from keras_birds.export.weight_compression import halve_weights, quantize_weights, whole_weights
from keras_birds.models.backend_process import call_on_backend
from keras_birds.models.metadata import EMBEDDING, ModelMetadata
from keras_birds.models.session import open_session
from keras_birds.suppress_output import suppress_output

_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")

METADATA, LABELS = "keras_birds.json", "labels.txt"
"""The first among a torch program's extra files; both in the ZIP archive that follows a LiteRT model in its file, as
TensorFlow Lite's metadata has it: `unzip` shows them."""


def write_onnx(
    paths: Sequence[Path],
    out: Path,
    metadata: ModelMetadata,
    input_kind: Input,
    precision: Precision,
    embedding: bool = False,
) -> None:
    """Writes one graph of `model.onnx` of each member, with the metadata inside; `ModelError` if the mel is another.

    With `embedding` the graph gives it as well; of mel images it always does.
    """
    onnx.save(_graph(paths, metadata, input_kind, precision, embedding), str(out))


def _graph(
    paths: Sequence[Path],
    metadata: ModelMetadata,
    input_kind: Input,
    precision: Precision,
    embedding: bool,
) -> onnx.ModelProto:
    compress = {"float16": halve_weights, "int8-weights": quantize_weights}.get(precision, lambda x: x)
    members = [compress(whole_weights(onnx.load(str(x)))) for x in paths]
    if input_kind == "waveform":
        # Graphs of others may hold what can't be put into another.
        wanted = f"{paths[0]}: the graph must be one that can be a part of another"
        with as_model_error(wanted) if metadata.outputs else nullcontext():
            return end_to_end_graph(members, metadata, embedding)
    (model,) = members
    onnx.helper.set_model_props(model, metadata.onnx_props())
    return model


def run_onnx(path: Path, batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What a file that `write_onnx` wrote gives."""
    session = open_session(path)
    return [session.run(None, {session.get_inputs()[0].name: x})[0] for x in batches]


def run_embedding(path: Path, batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The embeddings that a file gives which `write_onnx` wrote."""
    session = open_session(path)
    return [session.run([EMBEDDING], {session.get_inputs()[0].name: x})[0] for x in batches]


def write_openvino(
    paths: Sequence[Path], out: Path, metadata: ModelMetadata, input_kind: Input, precision: Precision
) -> None:
    """Writes `out`, in .xml, and the weights in .bin beside, with the metadata as runtime information `framework`."""
    import openvino

    graph = _graph(paths, metadata, input_kind, precision, embedding=False)
    with as_model_error(f"{out}: the model must be one that OpenVINO reads"):
        converted = openvino.Core().read_model(graph.SerializeToString())
        # Conversion may have dropped a step that bore the input's name.
        converted.inputs[0].get_tensor().set_names({input_kind})
        openvino.save_model(converted, out, compress_to_fp16=precision == "float16")


def run_openvino(path: Path, batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What a model that `write_openvino` wrote gives, in float32 on the CPU."""
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [compiled(x)[0] for x in batches]


def write_litert(
    paths: Sequence[Path], out: Path, metadata: ModelMetadata, input_kind: Input, precision: Precision
) -> None:
    """Writes a model for any batch, whose one signature has the input `input_kind`, in .tflite.

    The smaller precisions change the weights of convolutions and matrix products, which are nearly all: they are
    brought back to float32 where they are used.
    """
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "whole.tflite")
        call_on_backend("tensorflow", _write_float_litert, paths, whole, metadata, input_kind)
        out.write_bytes(whole.read_bytes() if precision == "float32" else _compressed(whole, precision))
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr(METADATA, json.dumps(metadata.to_dict(), ensure_ascii=False))
        archive.writestr(LABELS, "\n".join(metadata.labels))


def run_litert(path: Path, batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What a model that `write_litert` wrote gives."""
    from ai_edge_litert.interpreter import Interpreter

    with suppress_output():
        runner = Interpreter(str(path), num_threads=1).get_signature_runner()
        (taken,), (given,) = runner.get_input_details(), runner.get_output_details()
        return [runner(**{taken: x})[given] for x in batches]


def _compressed(path: Path, precision: str) -> bytes:
    from ai_edge_quantizer import qtyping, quantizer
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    half = qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=16, dtype=qtyping.TensorDataType.FLOAT
        ),
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    with (
        as_model_error(f"{precision} needs a network that ai-edge-quantizer can change"),
        suppress_output(),
    ):
        work = quantizer.Quantizer(str(path))
        for name in _WEIGHTED:
            name = qtyping.TFLOperationName(name)
            if precision == "float16":
                work.update_quantization_recipe(".*", name, half, AlgorithmName.FLOAT_CASTING)
            else:
                work.add_weight_only_config(".*", name, 8)
        return bytes(work.quantize().quantized_model or b"")


def _write_float_litert(paths: Sequence[Path], out: Path, metadata: ModelMetadata, input_kind: Input) -> None:
    """On the tensorflow backend."""
    from keras import InputSpec

    model = end_to_end_model(paths, metadata, input_kind)
    # Keras exports only what was called.
    model(np.zeros((1, *model.inputs[0].shape[1:]), np.float32))
    signature = [InputSpec("float32", shape=(None, *model.inputs[0].shape[1:]), name=input_kind)]
    with as_model_error("the model must be one that TensorFlow converts"):
        model.export(str(out), format="litert", input_signature=signature, verbose=False)


def run_torch(path: Path, batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What a program that `write_torch` wrote gives."""
    import torch

    program = torch.export.load(path).module()
    with torch.no_grad():
        return [program(torch.from_numpy(x)).numpy() for x in batches]


def write_torch(paths: Sequence[Path], out: Path, metadata: ModelMetadata, input_kind: Input, _: str) -> None:
    """Writes a float32 program in .pt2 for any batch, whose one argument is `input_kind`; on the torch backend."""
    import torch

    model = end_to_end_model(paths, metadata, input_kind)

    class Program(torch.nn.Module):
        # The Keras model isn't a submodule: its weights would be stored a second time, as they are constants here.
        def forward(self, inputs: Any) -> Any:
            (outputs,) = model(inputs, training=False).values()
            return outputs

    # A batch of 2: of 1, torch would take the size as a constant.
    example = torch.zeros((2, *model.inputs[0].shape[1:]))
    text = json.dumps(metadata.to_dict(), ensure_ascii=False)
    with (
        as_model_error(f"{out}: the model must be exportable by torch"),
        torch.no_grad(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        program = torch.export.export(
            Program(), (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), strict=False
        )
        torch.export.save(program, out, extra_files={METADATA: text})
