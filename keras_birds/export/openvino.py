"""OpenVINO models (.xml, with the weights in .bin beside), converted from the ONNX file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from keras_birds.errors import ModelError


def write_openvino(model: onnx.ModelProto, out: Path, half: bool) -> None:
    """Writes both files; the model's runtime information `framework` holds the metadata, by the same names.

    Args:
        model: with its metadata.
        out: in .xml.
        half: whether weights are stored as float16.

    Raises:
        ModelError: if OpenVINO can't convert it.
    """
    import openvino

    try:
        converted = openvino.Core().read_model(model.SerializeToString())
        # Conversion may have dropped a step that bore the input's name.
        converted.inputs[0].get_tensor().set_names({model.graph.input[0].name})
        openvino.save_model(converted, out, compress_to_fp16=half)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise ModelError(f"{out}: the model must be one that OpenVINO reads. Received: {detail}") from None


def run_openvino(path: Path, batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What a model that `write_openvino` wrote gives, in float32 on the CPU."""
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [compiled(x)[0] for x in batches]
