"""Fills our BirdNET from the model's own `.tflite` file, or from a custom classifier that BirdNET-Analyzer trained.

Operators and layers are matched by their order; every shape and every constant of the front end is checked, and what
isn't known is refused.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from keras_birds.birdnet.tflite import Operator, TfliteGraph, read_tflite
from keras_birds.errors import ModelError
from keras_birds.models.calibration import sigmoid

if TYPE_CHECKING:
    import keras

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_ACTIVATIONS = {"NONE": "linear", "RELU": "relu", "LOGISTIC": "sigmoid"}
_EMBEDDING_SIZE = 1024
_ROUNDING = 1e-4
"""How far the file's window and filters, computed in float32, may be from ours."""


@dataclass(frozen=True, eq=False)
class DenseWeights:
    """A dense layer: kernel `[in, out]`, bias `[out]` and `"linear"`, `"relu"` or `"sigmoid"`."""

    kernel: np.ndarray
    bias: np.ndarray
    activation: str


Branch = tuple[DenseWeights, ...]
"""Dense layers one after the other, from the embedding to logits or, with a last sigmoid, to probabilities."""


@dataclass(frozen=True, eq=False)
class BirdNetFile:
    """What a `.tflite` file holds.

    Args:
        path: the file.
        graph: all of it.
        has_backbone: whether it takes sound; else it takes embeddings.
        branches: what gives its outputs, one after the other: one branch, or two where labels were appended.
    """

    path: Path
    graph: TfliteGraph
    has_backbone: bool
    branches: tuple[Branch, ...]

    @property
    def num_labels(self) -> int:
        """Of its outputs."""
        return sum(len(branch[-1].bias) for branch in self.branches)

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """The file's outputs `[n, label]`, of which some may be logits, as probabilities."""
        is_sure = [np.full(len(x[-1].bias), x[-1].activation == "sigmoid") for x in self.branches]
        return np.where(np.concatenate(is_sure), outputs, sigmoid(outputs))


def read_birdnet(path: str | Path) -> BirdNetFile:
    """Reads BirdNET 2.4, or a custom classifier: sound or embeddings to logits or probabilities.

    Raises:
        ModelError: if it is none of these, or damaged.
    """
    path = Path(path)
    graph = read_tflite(path)
    shapes = [graph.shapes[i][1:] for i in graph.inputs]
    has_backbone = shapes == [(144_000,)]
    if has_backbone:
        means = (x.outputs[0] for x in graph.operators if x.kind == "MEAN")
        embeddings = {x for x in means if graph.shapes[x][1:] == (_EMBEDDING_SIZE,)}
    elif shapes == [(_EMBEDDING_SIZE,)]:
        embeddings = set(graph.inputs)
    else:
        _refuse(path, f"inputs of the shapes {shapes}")
    makers = {x.outputs[0]: x for x in graph.operators}
    branches = _branches(path, makers, embeddings, graph.outputs[0])
    if not all(branches) or any(x[-1].activation == "relu" for x in branches):
        _refuse(path, "outputs that aren't logits of the embedding")
    return BirdNetFile(path, graph, has_backbone, branches)


def _branches(
    path: Path, makers: Mapping[int, Operator], embeddings: Container[int], tensor: int
) -> tuple[Branch, ...]:
    """How a tensor is computed of the embedding, from its end to the front."""
    if tensor in embeddings:
        return ((),)
    op = makers.get(tensor)
    if op is None:
        _refuse(path, "outputs that aren't made of the mean of 1024 channels")
    if op.kind == "CONCATENATION":
        return tuple(x for i in op.inputs for x in _branches(path, makers, embeddings, i))
    if op.kind not in ("FULLY_CONNECTED", "RELU", "LOGISTIC", "RESHAPE"):
        _refuse(path, f"{op.kind} after the embedding")
    before = _branches(path, makers, embeddings, op.inputs[0])
    if op.kind == "RESHAPE":
        return before
    if op.kind == "FULLY_CONNECTED":
        if len(before) > 1 or op.activation not in _ACTIVATIONS:
            _refuse(path, f"a dense layer of {len(before)} parts with the activation {op.activation}")
        return ((*before[0], _dense(path, op)),)
    if any(not x or x[-1].activation != "linear" for x in before):
        _refuse(path, f"{op.kind} of what isn't linear")
    return tuple((*x[:-1], replace(x[-1], activation=_ACTIVATIONS[op.kind])) for x in before)


def _dense(path: Path, op: Operator) -> DenseWeights:
    if not op.constants or op.constants[0].ndim != 2 or op.constants[0].dtype != np.float32:
        _refuse(path, "a dense layer without float32 weights")
    kernel = op.constants[0].T
    bias = op.constants[1] if len(op.constants) > 1 else np.zeros(kernel.shape[1], np.float32)
    return DenseWeights(kernel, bias, _ACTIVATIONS[op.activation])


def fill_backbone(backbone: "keras.Model", file: BirdNetFile) -> None:
    """Gives `birdnet_backbone()` the weights of a file that has them.

    Raises:
        ModelError: if the file's backbone has other operators, shapes or constants.
    """
    from keras import layers

    from keras_birds.nn.birdnet import SPECTROGRAMS, mel_filters, periodic_hann, spectrogram_weights

    path, ops = file.path, file.graph.operators
    convolutions = [x for x in ops if x.kind in _CONVOLUTIONS]
    targets = [x for x in backbone.layers if isinstance(x, layers.Conv2D | layers.DepthwiseConv2D)]
    if len(convolutions) != len(targets):
        _refuse(path, f"{len(convolutions)} convolutions in place of {len(targets)}")
    for op, layer in zip(convolutions, targets, strict=True):
        if len(op.constants) != 2 or (op.kind == "CONV_2D") == isinstance(layer, layers.DepthwiseConv2D):
            _refuse(path, f"{op.kind} for {layer.name}")
        kernel, bias = op.constants
        weights = [kernel.transpose(1, 2, 3, 0), bias]
        if not layer.use_bias and bias.any():
            _refuse(path, f"a bias for {layer.name}")
        _set(path, layer, weights[: 1 + layer.use_bias])
    norms = [
        [*mul.constants, *add.constants]
        for mul, add in pairwise(ops)
        if (mul.kind, add.kind) == ("MUL", "ADD") and [x.ndim for x in mul.constants] == [1]
    ]
    names = ("front_end_scale", "top_scale")
    if len(norms) != len(names):
        _refuse(path, f"{len(norms)} scales of channels in place of {len(names)}")
    for values, name in zip(norms, names, strict=True):
        _set(path, backbone.get_layer(name), values)
    powers = [float(x.constants[0]) for x in ops if x.kind == "POW" and x.constants]
    windows = [x for op in ops if op.kind == "MUL" for x in op.constants if x.ndim == 1 and x.size >= 1024]
    filters = [x.constants[0].T for x in ops if x.kind == "FULLY_CONNECTED" and x.constants]
    wanted = [y for x in SPECTROGRAMS for y in (periodic_hann(x.n_fft), mel_filters(x))]
    pairs = list(zip(windows, filters, strict=False))
    received = [y for x in pairs for y in x]
    if len(powers) != len(SPECTROGRAMS) or not _close(received, wanted):
        _refuse(path, "another front end")
    constants = [y for x in pairs[: len(SPECTROGRAMS)] for y in spectrogram_weights(*x)]
    _set(path, backbone.get_layer("front_end"), [np.log(1 / np.array(powers, np.float32) - 1), *constants])


def _close(received: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> bool:
    pairs = list(zip(received, wanted, strict=False))
    return len(pairs) == len(wanted) and all(
        a.shape == b.shape and np.abs(a - b).max() <= _ROUNDING for a, b in pairs
    )


def _set(path: Path, layer: "keras.layers.Layer", values: Sequence[np.ndarray]) -> None:
    received, wanted = [x.shape for x in values], [tuple(x.shape) for x in layer.weights]
    if received != wanted:
        _refuse(path, f"weights of the shapes {received} in place of {wanted} for {layer.name}")
    layer.set_weights(values)


def _refuse(path: Path, received: str) -> NoReturn:
    raise ModelError(
        f"{path}: must be BirdNET 2.4 or a custom classifier on it. Received: {received}. Other .tflite files can't be "
        "read; an ONNX file of the model can be added"
    )
