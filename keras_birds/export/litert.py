"""LiteRT (TensorFlow Lite) files: TensorFlow converts the Keras model, ai-edge-quantizer makes it smaller."""

import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_birds.errors import ModelError
from keras_birds.models.backend_process import answer, write_on_backend
from keras_birds.models.metadata import ModelMetadata
from keras_birds.suppress_output import suppress_output

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

METADATA, LABELS = "keras_birds.json", "labels.txt"
"""In the ZIP archive that follows the model in its file, as TensorFlow Lite's metadata has it: `unzip` shows them."""

_SIGNATURE = "serving_default"


def write_litert(
    keras_paths: Sequence[Path],
    out: Path,
    metadata: ModelMetadata,
    takes: str,
    precision: str,
    inputs: np.ndarray,
) -> None:
    """Writes a model for any batch, whose one signature has the input `takes`.

    Convolutions hold nearly all weights, and are what the smaller precisions change: float16 and int8-weights are
    brought back to float32 where they are used, int8 computes in 8 bits with a scale a channel. The mel keeps float32.

    Args:
        keras_paths: of the members.
        out: in .tflite.
        metadata: goes inside.
        takes: `"waveform"` or `"mel"`.
        precision: of `keras-birds export`.
        inputs: float32, real ones, to find the ranges of int8 with.

    Raises:
        ModelError: if it can't be converted.
    """
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "whole.tflite")
        write_on_backend("tensorflow", __name__, metadata, whole, takes, *keras_paths)
        out.write_bytes(
            whole.read_bytes() if precision == "float32" else _quantized(whole, takes, precision, inputs)
        )
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
    (takes,), (gives,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(takes["index"], batch.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(takes["index"], batch)
    interpreter.invoke()
    found: np.ndarray = interpreter.get_tensor(gives["index"])
    return found


def _quantized(path: Path, takes: str, precision: str, inputs: np.ndarray) -> bytes:
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
                elif precision == "int8-weights":
                    work.add_weight_only_config(".*", name, 8)
                else:
                    work.add_static_config(".*", name, 8, 8)
            ranges = None
            if work.need_calibration:
                clips = [{takes: inputs[k : k + 1]} for k in range(len(inputs))]
                ranges = work.calibrate({_SIGNATURE: clips}, num_threads=1)
            return bytes(work.quantize(ranges).quantized_model or b"")
    except Exception as error:  # the quantizer raises whatever its parts raise
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(
            f"{precision} needs a network that ai-edge-quantizer can change. Received: {detail}"
        ) from None


def _convert(metadata: ModelMetadata, out: str, takes: str, *keras_paths: str) -> None:
    """Writes a float32 file; on the tensorflow backend."""
    from keras import InputSpec

    from keras_birds.export.end_to_end import whole_model

    model = whole_model(keras_paths, metadata, takes)
    # Keras exports only what was called.
    model(np.zeros((1, *model.inputs[0].shape[1:]), np.float32))
    signature = [InputSpec("float32", shape=(None, *model.inputs[0].shape[1:]), name=takes)]
    try:
        model.export(out, format="litert", input_signature=signature, verbose=False)
    except Exception as error:  # TensorFlow raises whatever its parts raise
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"the model must be one that TensorFlow converts. Received: {detail}") from None


if __name__ == "__main__":
    answer(_convert)
