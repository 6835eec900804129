"""One model from sound to probabilities, as an ONNX graph and as a Keras model: what runs it needs nothing of ours."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, compose, helper

from keras_birds.audio.mel import MelTransform
from keras_birds.errors import ModelError
from keras_birds.models.backend_process import call_on_backend
from keras_birds.models.example_sound import example_clips
from keras_birds.models.metadata import ModelMetadata
from keras_birds.models.onnx_export import load_float32, trace
from keras_birds.models.session import open_session

if TYPE_CHECKING:
    import keras

MEL_TOLERANCE = 1e-3
"""How far the graph's mel image may be from the one of prediction, which is in [0, 1]."""


def end_to_end_graph(members: Sequence[onnx.ModelProto], metadata: ModelMetadata) -> onnx.ModelProto:
    """Puts the mel before a model from `mel` to `logits`, or before several whose probabilities are averaged.

    Returns:
        A checked graph from `waveform` `[batch, clip_samples]` to `probabilities` `[batch, label]`, both float32,
        with the metadata inside.

    Raises:
        ModelError: if the mel can't be exported, or isn't that of prediction.
    """
    model = _mel_graph(metadata)
    opset, outputs = model.opset_import[0].version, ["mel"]
    for number, member in enumerate(members):
        if member.opset_import[0].version != opset:
            member = onnx.version_converter.convert_version(member, opset)
        member = compose.add_prefix(member, f"model{number}/")
        member.ir_version = model.ir_version
        del member.metadata_props[:]
        outputs.append(f"model{number}/logits")
        model = compose.merge_models(model, member, [("mel", f"model{number}/mel")], outputs=outputs)
    graph = model.graph
    scores = [f"{x}/probabilities" for x in outputs[1:]]
    graph.node.extend(helper.make_node("Sigmoid", [x], [f"{x}/probabilities"]) for x in outputs[1:])
    graph.node.append(helper.make_node("Mean", scores, ["probabilities"]))
    del graph.output[:]
    shape = ["batch", len(metadata.labels)]
    graph.output.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, shape))
    helper.set_model_props(model, metadata.onnx_props())
    onnx.checker.check_model(model, full_check=True)
    return model


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

    from keras_birds.nn.log_mel import LogMelSpectrogram

    loaded = [load_float32(x.with_suffix(".keras")) for x in paths]
    members = [keras.Model(x.inputs[0], x.outputs[0], name=f"model{k}") for k, x in enumerate(loaded)]
    if input_kind == "mel":
        images = keras.Input((metadata.mel.height, metadata.mel.width, 1), name="mel")
        return keras.Model(images, {"logits": members[0](images)})
    clips = keras.Input((metadata.audio.clip_samples,), name="waveform")
    images = LogMelSpectrogram(metadata.audio, metadata.mel)(clips)
    probabilities = [keras.ops.sigmoid(x(images)) for x in members]
    mean = probabilities[0] if len(members) == 1 else keras.layers.Average()(probabilities)
    return keras.Model(clips, {"probabilities": mean})
