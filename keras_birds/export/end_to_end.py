"""One model from sound to probabilities, as an ONNX graph and as a Keras model: what runs it needs nothing of ours."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import onnx
from onnx import TensorProto, compose, helper

from keras_birds.audio.mel import MelTransform
from keras_birds.errors import ModelError
from keras_birds.models.backend_process import call_on_backend
from keras_birds.models.example_sound import example_clips
from keras_birds.models.metadata import EMBEDDING, GraphOutputs, ModelMetadata, OutputKind
from keras_birds.models.onnx_export import load_float32, trace
from keras_birds.models.session import open_session
from keras_birds.models.shared_backbone import parted

if TYPE_CHECKING:
    import keras

MEL_TOLERANCE = 1e-3
"""How far the graph's mel image may be from the one of prediction, which is in [0, 1]."""


def end_to_end_graph(
    members: Sequence[onnx.ModelProto], metadata: ModelMetadata, embedding: bool = False
) -> onnx.ModelProto:
    """Makes one graph of a model, or of several whose probabilities are averaged.

    Before members that take `mel` comes the mel. Of members that take sound, what all have alike up to their
    embeddings, as the folds of a head on a frozen backbone do, is there once.

    Args:
        members: graphs of one model each, all from mel or all from sound.
        metadata: that they share; of a model of others it says what the graph gives.
        embedding: whether the graph gives `embedding` `[batch, size]` as well.

    Returns:
        A checked graph from `waveform` `[batch, clip_samples]` to `probabilities` `[batch, label]`, both float32,
        with the metadata inside.

    Raises:
        ModelError: if the mel can't be exported, or isn't that of prediction; or if there is no embedding, or each
            member has its own.
    """
    name = members[0].graph.output[0].name
    given = metadata.outputs or GraphOutputs(cast(OutputKind, name), name)
    if members[0].graph.input[0].name == "mel":
        model = _mel_graph(metadata)
    else:
        model, members = _shared_front(members, metadata)
    more = [_embedding_of(model, members, given)] if embedding else []
    # What lies in a member must be kept while it is joined.
    kept = [f"model0/{x.name}" for x in more if x.name != model.graph.output[0].name]
    opset, front, outputs = model.opset_import[0].version, model.graph.output[0].name, []
    for number, member in enumerate(members):
        if member.opset_import[0].version != opset:
            member = onnx.version_converter.convert_version(member, opset)
        member = compose.add_prefix(member, f"model{number}/")
        member.ir_version = model.ir_version
        del member.metadata_props[:]
        outputs.append(f"model{number}/{given.scores}")
        model = compose.merge_models(
            model, member, [(front, member.graph.input[0].name)], outputs=[front, *outputs, *kept]
        )
    graph, batch = model.graph, model.graph.input[0].type.tensor_type.shape.dim[0]
    scores = [f"probabilities{x}" for x in range(len(members))]
    operator = "Sigmoid" if given.kind == "logits" else "Identity"
    graph.node.extend(helper.make_node(operator, [x], [y]) for x, y in zip(outputs, scores, strict=True))
    graph.node.append(helper.make_node("Mean", scores, ["probabilities"]))
    del graph.output[:]
    shape = [batch.dim_value or "batch", len(metadata.labels)]
    graph.output.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, shape))
    for value in more:
        if kept:
            graph.node.append(helper.make_node("Identity", kept, [EMBEDDING]))
        value.name = EMBEDDING
        graph.output.append(value)
    helper.set_model_props(model, replace(metadata, outputs=None).onnx_props())
    onnx.checker.check_model(model, full_check=True)
    return model


def _embedding_of(
    front: onnx.ModelProto, members: Sequence[onnx.ModelProto], given: GraphOutputs
) -> onnx.ValueInfoProto:
    """A copy of the one output that holds the embedding: of what all members begin with, or of the only member."""
    name = given.embedding or EMBEDDING
    found = [x for x in front.graph.output if x.name == EMBEDDING]
    if not found and len(members) == 1:
        found = [x for x in members[0].graph.output if x.name == name]
    if not found:
        received = (
            f"{len(members)} folds, each with its own" if len(members) > 1 else "one that gives scores only"
        )
        raise ModelError(
            f"--embedding needs a model that gives one. Received: {received}. Export one fold's folder, or leave it out"
        )
    value = onnx.ValueInfoProto()
    value.CopyFrom(found[0])
    return value


def _shared_front(
    members: Sequence[onnx.ModelProto], metadata: ModelMetadata
) -> tuple[onnx.ModelProto, Sequence[onnx.ModelProto]]:
    """What comes first in all members, from `waveform`, and what follows in each; at least the input itself."""
    if len(members) > 1 and (parts := parted(members)):
        return parts
    first = members[0]
    batch = first.graph.input[0].type.tensor_type.shape.dim[0]
    shape = [batch.dim_value or "batch", metadata.audio.clip_samples]
    values = [helper.make_tensor_value_info(x, TensorProto.FLOAT, shape) for x in ("waveform", "clips")]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["waveform"], ["clips"])], "sound", values[:1], values[1:]
    )
    return helper.make_model(graph, opset_imports=first.opset_import, ir_version=first.ir_version), members


def _mel_graph(metadata: ModelMetadata) -> onnx.ModelProto:
    """From `waveform` to `mel`, checked against `MelTransform`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mel.onnx")
        call_on_backend("torch", _trace_mel, metadata, path)
        clips = example_clips(metadata.audio, metadata.mel)
        found = open_session(path).run(None, {"waveform": clips})[0]
        graph = onnx.load(str(path))
    difference = np.abs(found - MelTransform(metadata.audio, metadata.mel).images(clips)).max()
    if not difference <= MEL_TOLERANCE:
        raise ModelError(
            f"the exported mel must be that of prediction within {MEL_TOLERANCE:g}. Received: a difference of "
            f"{difference:.3g}"
        )
    return graph


def _trace_mel(metadata: ModelMetadata, path: Path) -> None:
    """Writes the layer's graph; on the torch backend."""
    import keras

    from keras_birds.nn.log_mel import LogMelSpectrogram

    inputs = keras.Input((metadata.audio.clip_samples,))
    model = keras.Model(inputs, LogMelSpectrogram(metadata.audio, metadata.mel)(inputs))
    graph = trace("mel", model, ("waveform", "mel"))
    del graph.graph.value_info[:]
    onnx.save(graph, str(path))


def end_to_end_model(paths: Sequence[Path], metadata: ModelMetadata, input_kind: str) -> "keras.Model":
    """As `end_to_end_graph`, of `model.keras` beside each path, on the current backend.

    From `waveform` to `{"probabilities": [batch, label]}`, or of one member, where `input_kind` is `"mel"`, from `mel`
    `[batch, height, width, 1]` to `{"logits": [batch, label]}`.
    """
    import keras

    from keras_birds.models.keras_engine import input_kind_of
    from keras_birds.nn.log_mel import LogMelSpectrogram

    loaded = [load_float32(x.with_suffix(".keras")) for x in paths]
    members = [keras.Model(x.inputs[0], x.outputs[0], name=f"model{k}") for k, x in enumerate(loaded)]
    if input_kind == "mel":
        images = keras.Input((metadata.mel.height, metadata.mel.width, 1), name="mel")
        return keras.Model(images, {"logits": members[0](images)})
    inputs = clips = keras.Input((metadata.audio.clip_samples,), name="waveform")
    if input_kind_of(loaded[0]) == "mel":
        inputs = LogMelSpectrogram(metadata.audio, metadata.mel)(clips)
    elif len(loaded) > 1:
        inputs, members = _shared_embeddings(members, clips)
    probabilities = [keras.ops.sigmoid(x(inputs)) for x in members]
    mean = probabilities[0] if len(members) == 1 else keras.layers.Average()(probabilities)
    return keras.Model(clips, {"probabilities": mean})


def _shared_embeddings(
    members: "list[keras.Model]", clips: "keras.KerasTensor"
) -> "tuple[keras.KerasTensor, list[keras.Model]]":
    """What comes first in all models, of clips, and what follows in each; at least the clips themselves."""
    import keras

    if not all(EMBEDDING in (x.name for x in y.layers) for y in members):
        return clips, members
    middles = [x.get_layer(EMBEDDING).output for x in members]
    fronts = [keras.Model(x.inputs[0], y) for x, y in zip(members, middles, strict=True)]
    weights = [x.get_weights() for x in fronts]
    if not all(len(x) == len(weights[0]) and all(map(np.array_equal, x, weights[0])) for x in weights):
        return clips, members
    heads = [keras.Model(y, x.outputs[0], name=x.name) for x, y in zip(members, middles, strict=True)]
    return fronts[0](clips), heads
