"""What the files of a shared model may hold: numbers, and names of layers that are known here.

Nothing of them may run, read or fetch anything when they are loaded. Each check goes through the whole file by itself,
before Keras or ONNX Runtime see it: their own checks came one hole at a time (Keras: CVE-2024-3660, CVE-2025-1550,
CVE-2025-9905, CVE-2026-1462, CVE-2026-1669).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_birds import _SERIALIZABLE
from keras_birds.errors import ModelError, as_model_error

_KERAS = {
    "keras": ("DTypePolicy",),
    "keras.initializers": (
        "Constant",
        "GlorotUniform",
        "HeNormal",
        "Ones",
        "RandomUniform",
        "VarianceScaling",
        "Zeros",
    ),
    "keras.layers": (
        *(
            "Activation",
            "Add",
            "Average",
            "AveragePooling2D",
            "BatchNormalization",
            "Concatenate",
            "Conv2D",
            "Dense",
        ),
        *(
            "DepthwiseConv2D",
            "Dropout",
            "Flatten",
            "GlobalAveragePooling2D",
            "GlobalMaxPooling2D",
            "Identity",
        ),
        *("InputLayer", "LayerNormalization", "MaxPooling2D", "Multiply", "ReLU", "Rescaling", "Reshape"),
        *("UnitNormalization", "ZeroPadding2D"),
    ),
    "keras.src.models.functional": ("Functional",),
}
_OURS = {f"keras_birds.{module}": names for module, names in _SERIALIZABLE.items()}
_TENSOR = "__keras_tensor__"

# Of onnx.proto3: which fields of a message are messages, and of what kind.
_NESTED = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_MAX_DEPTH = 64


def check_keras_config(path: Path) -> None:
    """Raises `ModelError` if a `config.json` names what is no layer that models of keras-birds are made of."""
    with as_model_error(f"{path}: must be a Keras model's configuration"):
        # Deeper ones end in a RecursionError.
        todo = [json.loads(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            if node.keys() & {"class_name", "module", "registered_name"} and not _is_known(node):
                named = ".".join(str(node[x]) for x in ("module", "class_name") if node.get(x) is not None)
                raise ModelError(
                    f"{path}: a shared model may name Keras' and keras-birds' own layers only. Received: "
                    f"{named[:80]!r}. Don't load it; tell whoever shared it"
                )
            todo += node.values()
        elif isinstance(node, list):
            todo += node


def _is_known(node: dict[str, Any]) -> bool:
    module, name, registered = (node.get(x) for x in ("module", "class_name", "registered_name"))
    if name == _TENSOR:
        return module is None and registered is None
    if not isinstance(module, str) or not isinstance(name, str):
        return False
    if name in _OURS.get(module, ()):
        return bool(registered == f"keras_birds>{name}")
    return name in _KERAS.get(module, ()) and registered in (None, name)


def check_keras_weights(path: Path) -> None:
    """Raises `ModelError` if an HDF5 file holds links, data in other files, or less than what it says it holds."""
    import h5py

    rule = f"{path}: shared weights must be arrays of numbers, inside the file, as Keras writes them"
    with as_model_error(rule), h5py.File(path, "r") as file:
        seen, size, groups = {h5py.h5o.get_info(file.id).addr}, 0, [file["/"]]
        while groups:
            group = groups.pop()
            for name in group:
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise ValueError(f"a link to elsewhere, {group.name}/{name}")
                found = group[name]
                address = h5py.h5o.get_info(found.id).addr
                if address in seen:
                    raise ValueError(f"a second name of {group.name}/{name}")
                seen.add(address)
                if isinstance(found, h5py.Group):
                    groups.append(found)
                else:
                    size += _plain_size(found, h5py)
        if size > path.stat().st_size:
            raise ValueError(f"{size:,} bytes of numbers in a file of {path.stat().st_size:,}")


def _plain_size(found: Any, h5py: Any) -> int:
    """Bytes of a dataset that holds numbers in one piece; `ValueError` of all else."""
    plain = h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "fiub" or found.external:
        raise ValueError(f"no numbers of its own in {found.name}")
    if found.id.get_create_plist().get_layout() not in plain:
        raise ValueError(f"packed numbers in {found.name}")
    return int(found.nbytes)


def check_onnx(path: Path) -> None:
    """Raises `ModelError` if an ONNX file takes weights from other files."""
    with as_model_error(f"{path}: a shared ONNX file must hold its weights itself"):
        _check_message(memoryview(path.read_bytes()), "model", 0)


def _check_message(data: memoryview, kind: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError("a graph inside a graph without end")
    for number, value in _fields(data):
        if kind == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value)):
            raise ValueError("weights in another file")
        nested = _NESTED.get(kind, {}).get(number)
        if nested and isinstance(value, memoryview):
            _check_message(value, nested, depth + 1)


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The numbered fields of a message (https://protobuf.dev/programming-guides/encoding)."""
    position, end = 0, len(data)
    while position < end:
        key, position = _varint(data, position)
        kind, value = key & 7, 0
        if kind == 0:
            value, position = _varint(data, position)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, position = _varint(data, position)
        if size is None or position + size > end:
            raise ValueError(f"a damaged file, at byte {position} of a part of {end}")
        yield key >> 3, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[position]  # past the end: an IndexError
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
    raise ValueError("a number without end")
