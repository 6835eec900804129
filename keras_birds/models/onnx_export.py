"""Writes a `.keras` model as ONNX, through torch, whichever backend is running."""

import contextlib
import io
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.utils
import onnx.version_converter

from keras_birds.atomic import atomic_path
from keras_birds.errors import ModelError, as_model_error
from keras_birds.models.backend_process import call_on_backend
from keras_birds.models.example_sound import example_inputs
from keras_birds.models.metadata import EMBEDDING, ModelMetadata
from keras_birds.models.session import open_session

if TYPE_CHECKING:
    import keras

TOLERANCE = 1e-4
"""How far ONNX Runtime's numbers may be from Keras', absolutely or relative to the largest of an output."""


def export_onnx(keras_path: str | Path, onnx_path: str | Path, metadata: ModelMetadata) -> None:
    """Writes a float32 ONNX file for any batch, whatever the model's precision; there whole or not at all.

    The graph takes `mel` `[batch, height, width, 1]`, or `waveform` `[batch, clip_samples]`, and gives `logits`
    `[batch, label]`; also `frame_logits` `[batch, frame, label]` and `embedding` `[batch, size]` where it has them.

    Raises:
        ModelError: if the model can't be exported, isn't what its metadata says, or scores differently in ONNX
            Runtime.
        KerasBirdsError: if the file can't be written.
    """
    call_on_backend("torch", _export, Path(keras_path), Path(onnx_path), metadata)


def _export(keras_path: Path, onnx_path: Path, metadata: ModelMetadata) -> None:
    import keras

    from keras_birds.models.keras_engine import input_kind_of, predict_batch, with_all_outputs

    # On the CPU: a GPU's reduced-precision convolutions would fail the comparison.
    with keras.device("cpu"):
        model = load_float32(keras_path)
        metadata.check_shapes(keras_path, model.inputs[0].shape, model.outputs[0].shape)
        kind, (model, outputs) = input_kind_of(model), with_all_outputs(model)
        graph = trace(keras_path, model, (kind, *outputs))
        onnx.helper.set_model_props(graph, metadata.onnx_props())
        onnx.checker.check_model(graph)
        with atomic_path(onnx_path) as temporary:
            onnx.save(graph, str(temporary))
            inputs, session = example_inputs(metadata, kind), open_session(temporary)
            for batch in (1, len(inputs)):
                expected = predict_batch(model, inputs[:batch])
                for a, b in zip(expected, session.run(None, {kind: inputs[:batch]}), strict=True):
                    # A small number may be the difference of large ones.
                    if a.shape != b.shape or not np.allclose(b, a, 0, TOLERANCE * max(1, np.abs(a).max())):
                        gap = np.abs(b - a).max() if a.shape == b.shape else np.inf
                        raise ModelError(
                            f"{keras_path}: ONNX Runtime must give the same as Keras within {TOLERANCE:g}. "
                            f"Received: a difference of {gap:.3g} at batch {batch}"
                        )


def export_joined(
    backbone_path: str | Path, head_path: str | Path, onnx_path: str | Path, metadata: ModelMetadata
) -> None:
    """Writes one ONNX file of a model up to its embedding, node for node, and a `.keras` head that goes on from there.

    As `export_onnx` otherwise: its graph gives `logits` and `embedding`.
    """
    call_on_backend("torch", _export_joined, Path(backbone_path), Path(head_path), Path(onnx_path), metadata)


def _export_joined(backbone_path: Path, head_path: Path, onnx_path: Path, metadata: ModelMetadata) -> None:
    import keras

    from keras_birds.models.keras_engine import predict_batch

    backbone, outputs = onnx.load(str(backbone_path)), ModelMetadata.read_onnx(backbone_path).outputs
    embedding = outputs.embedding if outputs else EMBEDDING
    with keras.device("cpu"):
        head = load_float32(head_path)
        with as_model_error(f"{backbone_path}: its graph must be one that a head can be joined to"):
            graph = _joined(backbone, embedding, trace(head_path, head, (EMBEDDING, "logits")))
            onnx.helper.set_model_props(graph, metadata.onnx_props())
            onnx.checker.check_model(graph)
        kind = graph.graph.input[0].name
        with atomic_path(onnx_path) as temporary:
            onnx.save(graph, str(temporary))
            inputs, session = example_inputs(metadata, kind), open_session(temporary)
            fixed = session.get_inputs()[0].shape[0]
            logits, embeddings = session.run(
                None, {kind: inputs[: fixed if isinstance(fixed, int) else None]}
            )
            (expected,) = predict_batch(head, embeddings)
            if not np.allclose(logits, expected, TOLERANCE, TOLERANCE):
                raise ModelError(
                    f"{backbone_path}: ONNX Runtime must give the same logits as Keras within {TOLERANCE:g}. Received: "
                    f"a difference of {np.abs(logits - expected).max():.3g}"
                )


def _joined(backbone: onnx.ModelProto, embedding: str, head: onnx.ModelProto) -> onnx.ModelProto:
    """The graph up to `embedding`, then a head's from there to `logits`."""
    front = onnx.utils.Extractor(backbone).extract_model([backbone.graph.input[0].name], [embedding])
    kind = "mel" if len(front.graph.input[0].type.tensor_type.shape.dim) == 4 else "waveform"
    _rename(front.graph, {front.graph.input[0].name: kind, embedding: EMBEDDING})
    newest = max(_opset(front), _opset(head))
    front, head = (
        x if _opset(x) == newest else onnx.version_converter.convert_version(x, newest) for x in (front, head)
    )
    values = {x.name for x in head.graph.initializer} | {y for x in head.graph.node for y in x.output}
    _rename(head.graph, {x: f"head/{x}" for x in values - {"logits"}})
    for node in head.graph.node:
        node.name = f"head/{node.name}"
    whole = onnx.ModelProto()
    whole.CopyFrom(front)
    whole.graph.node.extend(head.graph.node)
    whole.graph.initializer.extend(head.graph.initializer)
    whole.graph.output.insert(0, head.graph.output[0])
    known = {x.domain for x in front.opset_import}
    whole.opset_import.extend(x for x in head.opset_import if x.domain not in known)
    whole.functions.extend(head.functions)
    return whole


def _opset(model: onnx.ModelProto) -> int:
    return next(x.version for x in model.opset_import if x.domain in ("", "ai.onnx"))


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for node in graph.node:
        for side in (node.input, node.output):
            for i, name in enumerate(side):
                side[i] = names.get(name, name)
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = names.get(value.name, value.name)


def replace_metadata(path: str | Path, metadata: ModelMetadata) -> None:
    """Puts other metadata into an ONNX file, which is there whole all the time; raises `KerasBirdsError`."""
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, metadata.onnx_props())
    with atomic_path(path) as temporary:
        onnx.save(model, str(temporary))


def load_float32(path: Path) -> "keras.Model":
    """Loads an uncompiled model to compute in float32; under `mixed_bfloat16` its weights are float32 as they stand."""
    import keras

    from keras_birds.models.keras_engine import load_keras_model

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        model = load_keras_model(path)
    finally:
        keras.config.set_dtype_policy(policy)
    for layer in model._flatten_layers():
        layer.dtype_policy = "float32"
    return model


def trace(path: str | Path, model: "keras.Model", names: Sequence[str]) -> onnx.ModelProto:
    """A Keras model's graph for any batch, on the torch backend; `names` are of its input, then of its outputs.

    Raises:
        ModelError: naming `path`, if it can't be exported.
    """
    import torch

    talk = io.StringIO()
    with (
        torch.no_grad(),
        as_model_error(f"{path}: the model must be exportable through torch"),
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),
        contextlib.redirect_stdout(talk),
        contextlib.redirect_stderr(talk),
    ):
        # torch's exporter warns of its own age and of every Python number that it takes as a constant.
        warnings.simplefilter("ignore")
        # Keras exports only what was called.
        model(np.zeros((1, *model.inputs[0].shape[1:]), np.float32))
        path_of_graph = str(Path(folder, "graph.onnx"))
        model.export(path_of_graph, format="onnx", verbose=False)
        graph = onnx.load(path_of_graph)
    # The exporter makes up its own names.
    values = [graph.graph.input[0], *graph.graph.output]
    wanted = {value.name: name for value, name in zip(values, names, strict=False)}
    for node in graph.graph.node:
        for side in (node.input, node.output):
            for i, name in enumerate(side):
                side[i] = wanted.get(name, f"{name}_" if name in names else name)
    for value in values:
        value.name = wanted[value.name]
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return graph
