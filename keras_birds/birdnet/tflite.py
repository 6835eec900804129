"""Reads a `.tflite` file: its operators in order, with their constants."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_birds.errors import ModelError, detail_of
from keras_birds.packages import require_packages

_DTYPES = {0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8, 4: np.int64, 6: np.bool_, 9: np.int8}


@dataclass(frozen=True, eq=False)
class Operator:
    """One step of the graph.

    Args:
        kind: as TensorFlow Lite names it, for instance `"CONV_2D"`.
        inputs: positions of the tensors it takes, -1 for one that is left out.
        outputs: positions of those it gives.
        constants: values of the inputs that the file holds, in order.
        activation: what is fused into it, for instance `"RELU"`; `"NONE"` for nothing.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: tuple[np.ndarray, ...]
    activation: str = "NONE"


@dataclass(frozen=True, eq=False)
class TfliteGraph:
    """A model file's operators in order, the positions of what it takes and gives, and every tensor's shape."""

    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]


def read_tflite(path: str | Path) -> TfliteGraph:
    """Reads a model file.

    Raises:
        ModelError: if it is missing, cut off or no `.tflite` file, or has several subgraphs.
        ConfigError: if the package that knows the format isn't installed.
    """
    require_packages("Reading BirdNET's files", "birdnet", ["ai_edge_litert"])
    from ai_edge_litert import schema_py_generated as schema

    path = Path(path)
    if not path.is_file():
        raise ModelError(f"The model must be an existing file. Received: {path}")
    data = path.read_bytes()
    try:
        if data[4:8] != b"TFL3":
            raise ValueError("it begins otherwise")
        model = schema.ModelT.InitFromPackedBuf(data, 0)
        (graph,) = model.subgraphs
        names, activations = (
            {v: k for k, v in vars(x).items() if not k.startswith("_")}
            for x in (schema.BuiltinOperator, schema.ActivationFunctionType)
        )

        def operator(x: Any) -> Operator:
            code = model.operatorCodes[x.opcodeIndex]
            tensors = [graph.tensors[i] for i in x.inputs if i >= 0]
            constants = (_constant(model, tensor) for tensor in tensors)
            return Operator(
                names[max(code.builtinCode, code.deprecatedBuiltinCode)],
                tuple(map(int, x.inputs)),
                tuple(map(int, x.outputs)),
                tuple(value for value in constants if value is not None),
                activations[getattr(x.builtinOptions, "fusedActivationFunction", 0)],
            )

        return TfliteGraph(
            tuple(map(operator, graph.operators)),
            tuple(map(int, graph.inputs)),
            tuple(map(int, graph.outputs)),
            tuple(tuple(map(int, x.shape)) for x in graph.tensors),
        )
    except Exception as error:  # a cut file sets off whatever the reader of flatbuffers stumbles over
        raise ModelError(
            f"{path}: must be a whole .tflite file. Received: {len(data)} bytes that can't be read "
            f"({detail_of(error)}). Copy it again"
        ) from None


def _constant(model: Any, tensor: Any) -> np.ndarray | None:
    data = model.buffers[tensor.buffer].data
    if data is None or not len(data):
        return None
    return np.frombuffer(bytes(data), _DTYPES[tensor.type]).reshape(tensor.shape)
