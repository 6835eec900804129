"""LiteRT (TensorFlow Lite) files: TensorFlow converts the Keras model, ai-edge-quantizer makes it smaller."""

import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_birds.errors import ModelError
from keras_birds.models.backend_process import call_on_backend
from keras_birds.models.metadata import ModelMetadata
from keras_birds.suppress_output import suppress_output

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

METADATA, LABELS = "keras_birds.json", "labels.txt"
"""In the ZIP archive that follows the model in its file, as TensorFlow Lite's metadata has it: `unzip` shows them."""


def write_litert(
    keras_paths: Sequence[Path], out: Path, metadata: ModelMetadata, input_kind: str, precision: str
) -> None:
    """Writes a model for any batch, whose one signature has the input `input_kind`.

    Convolutions hold nearly all weights, and are what the smaller precisions change: they are brought back to float32
    where they are used.

    Args:
        keras_paths: of the members.
        out: in .tflite.
        metadata: goes inside.
        input_kind: `"waveform"` or `"mel"`.
        precision: of `keras-birds export`.

    Raises:
        ModelError: if it can't be converted.
    """
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "whole.tflite")
        call_on_backend("tensorflow", _convert, keras_paths, whole, metadata, input_kind)
        out.write_bytes(whole.read_bytes() if precision == "float32" else _compressed(whole, precision))
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr(METADATA, json.dumps(metadata.to_dict(), ensure_ascii=False))
        archive.writestr(LABELS, "\n".join(metadata.labels))


def run_litert(path: Path, batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What a model that `write_litert` wrote gives."""
    with suppress_output():
        interpreter = open_interpreter(path)
        return [_run(interpreter, x) for x in batches]


def open_interpreter(path: Path, threads: int = 1) -> "Interpreter":
    """Opens a file in LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(path), num_threads=threads)


def _run(interpreter: "Interpreter", batch: np.ndarray) -> np.ndarray:
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(taken["index"], batch.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(taken["index"], batch)
    interpreter.invoke()
    found: np.ndarray = interpreter.get_tensor(given["index"])
    return found


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
    try:
        with suppress_output():
            work = quantizer.Quantizer(str(path))
            for name in (qtyping.TFLOperationName.CONV_2D, qtyping.TFLOperationName.DEPTHWISE_CONV_2D):
                if precision == "float16":
                    work.update_quantization_recipe(".*", name, half, AlgorithmName.FLOAT_CASTING)
                else:
                    work.add_weight_only_config(".*", name, 8)
            return bytes(work.quantize().quantized_model or b"")
    except Exception as error:  # the quantizer raises whatever its parts raise
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(
            f"{precision} needs a network that ai-edge-quantizer can change. Received: {detail}"
        ) from None


def _convert(keras_paths: Sequence[Path], out: Path, metadata: ModelMetadata, input_kind: str) -> None:
    """Writes a float32 file; on the tensorflow backend."""
    from keras import InputSpec

    from keras_birds.export.end_to_end import end_to_end_model

    model = end_to_end_model(keras_paths, metadata, input_kind)
    # Keras exports only what was called.
    model(np.zeros((1, *model.inputs[0].shape[1:]), np.float32))
    signature = [InputSpec("float32", shape=(None, *model.inputs[0].shape[1:]), name=input_kind)]
    try:
        model.export(str(out), format="litert", input_signature=signature, verbose=False)
    except Exception as error:  # TensorFlow raises whatever its parts raise
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"the model must be one that TensorFlow converts. Received: {detail}") from None
