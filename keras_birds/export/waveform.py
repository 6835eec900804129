"""One ONNX file from sound to probabilities, so that a program needs nothing of ours to use it."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, compose, helper

from keras_birds.audio.mel import MelTransform
from keras_birds.errors import ModelError
from keras_birds.models.backend_process import answer, write_on_backend
from keras_birds.models.metadata import ModelMetadata
from keras_birds.models.onnx_export import example_clips, trace
from keras_birds.models.session import open_session

WAVEFORM, PROBABILITIES = "waveform", "probabilities"
MEL_TOLERANCE = 1e-3
"""How far the graph's mel image may be from the one of prediction, which is in [0, 1]."""


def waveform_model(members: Sequence[onnx.ModelProto], metadata: ModelMetadata) -> onnx.ModelProto:
    """Puts the mel before a model, or before several whose probabilities are averaged.

    Args:
        members: graphs from `mel` to `logits`, of the same audio and mel settings; weights of any precision.
        metadata: goes inside.

    Returns:
        A checked graph from `waveform`, float32 `[batch, clip_samples]` at the metadata's rate, to `probabilities`,
        float32 `[batch, label]`.

    Raises:
        ModelError: if the mel can't be exported, or isn't that of prediction.
    """
    head = _mel_graph(metadata)
    nodes, weights, logits = list(head.graph.node), list(head.graph.initializer), []
    for number, member in enumerate(members):
        if member.opset_import[0].version != head.opset_import[0].version:
            member = onnx.version_converter.convert_version(member, head.opset_import[0].version)
        prefix = f"model{number}/"
        graph = compose.add_prefix(member, prefix).graph
        for node in graph.node:
            for i, name in enumerate(node.input):
                node.input[i] = "mel" if name == f"{prefix}mel" else name
        nodes += graph.node
        weights += graph.initializer
        logits.append(f"{prefix}logits")
    single = len(logits) == 1
    for name in logits:
        nodes.append(
            helper.make_node("Sigmoid", [name], [PROBABILITIES if single else f"{name}/probabilities"])
        )
    if not single:
        nodes.append(helper.make_node("Mean", [f"{name}/probabilities" for name in logits], [PROBABILITIES]))
    shapes = [(WAVEFORM, metadata.audio.clip_samples), (PROBABILITIES, len(metadata.labels))]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])] for name, size in shapes
    )
    graph = helper.make_graph(nodes, "keras_birds", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=head.opset_import, ir_version=head.ir_version)
    helper.set_model_props(model, metadata.onnx_props())
    onnx.checker.check_model(model, full_check=True)
    return model


def _mel_graph(metadata: ModelMetadata) -> onnx.ModelProto:
    """From `waveform` to `mel`, checked against `MelTransform`."""
    import keras

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mel.onnx")
        if keras.config.backend() == "torch":
            _trace_mel(metadata, path)
        else:
            write_on_backend("torch", "keras_birds.export.waveform", metadata, path)
        graph = onnx.load(str(path))
    clips = example_clips(metadata)
    session = open_session(graph.SerializeToString())
    found = session.run(None, {WAVEFORM: clips})[0]
    difference = np.abs(found - MelTransform(metadata.audio, metadata.mel).images(clips)).max()
    if not difference <= MEL_TOLERANCE:
        raise ModelError(
            f"the exported mel must be that of prediction within {MEL_TOLERANCE:g}. Received: a difference of "
            f"{difference:.3g}"
        )
    return graph


def _trace_mel(metadata: ModelMetadata, path: str | Path) -> None:
    """Writes the layer's graph; on the torch backend."""
    import keras

    from keras_birds.nn.log_mel import LogMelSpectrogram

    inputs = keras.Input((metadata.audio.clip_samples,))
    layer = LogMelSpectrogram(metadata.audio, metadata.mel)
    model = trace("mel", keras.Model(inputs, layer(inputs)))
    graph = model.graph
    names = {graph.input[0].name: WAVEFORM, graph.output[0].name: "mel"}
    for node in graph.node:
        for side in (node.input, node.output):
            for i, name in enumerate(side):
                side[i] = names.get(name, f"sound/{name}" if name else name)
    for weight in graph.initializer:
        weight.name = f"sound/{weight.name}"
    for value in (graph.input[0], graph.output[0]):
        value.name = names[value.name]
    del graph.value_info[:]
    onnx.save(model, str(path))


if __name__ == "__main__":
    answer(_trace_mel)
