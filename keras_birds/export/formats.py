"""What `keras-birds export` can write, without importing what writes it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from keras_birds.errors import ConfigError
from keras_birds.packages import require_packages

Format = Literal["onnx", "openvino", "litert", "torch"]
Input = Literal["waveform", "mel"]
Precision = Literal["float32", "float16", "int8-weights"]

SUFFIX: dict[str, str] = {"onnx": ".onnx", "openvino": ".xml", "litert": ".tflite", "torch": ".pt2"}

_PACKAGES = {"openvino": ("openvino",), "litert": ("ai_edge_litert", "ai_edge_quantizer", "tensorflow")}


def check_format(paths: Sequence[Path], fmt: Format, precision: Precision) -> None:
    """Checks what can be known before any work; `paths` are `model.onnx` of each member.

    Raises:
        ConfigError: if the format can't be written here, in this precision, or from these.
    """
    require_packages(f"--format {fmt}", "export", _PACKAGES.get(fmt, ()))
    if fmt == "torch" and precision != "float32":
        raise ConfigError(f"--format torch must be of --precision float32. Received: {precision}")
    without = [x for x in (y.with_suffix(".keras") for y in paths) if not x.is_file()]
    if fmt in ("litert", "torch") and without:
        raise ConfigError(
            f"--format {fmt} is made from the Keras model. Received: {paths[0]} without {without[0].name} beside it; "
            "--format onnx and openvino need none"
        )
