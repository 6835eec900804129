"""One Keras model from sound to probabilities, for formats that are written from Keras."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keras_birds.models.metadata import ModelMetadata
from keras_birds.models.onnx_export import load_float32

if TYPE_CHECKING:
    import keras


def whole_model(keras_paths: Sequence[str | Path], metadata: ModelMetadata, takes: str) -> "keras.Model":
    """Puts the mel before a model, or before several whose probabilities are averaged; on the current backend.

    Args:
        keras_paths: members, of the same audio and mel settings.
        metadata: of all.
        takes: `"waveform"`, or `"mel"`, of one member, which then gives logits.

    Returns:
        From `waveform` `[batch, clip_samples]` to `{"probabilities": [batch, label]}`, or from `mel` `[batch, height,
        width, 1]` to `{"logits": [batch, label]}`; float32.

    Raises:
        ModelError: if a member can't be loaded.
    """
    import keras

    from keras_birds.nn.log_mel import LogMelSpectrogram

    members = []
    for number, path in enumerate(keras_paths):
        model = load_float32(Path(path))
        members.append(keras.Model(model.inputs[0], model.outputs[0], name=f"model{number}"))
    if takes == "mel":
        images = keras.Input((metadata.mel.height, metadata.mel.width, 1), name="mel")
        return keras.Model(images, {"logits": members[0](images)})
    clips = keras.Input((metadata.audio.clip_samples,), name="waveform")
    images = LogMelSpectrogram(metadata.audio, metadata.mel)(clips)
    probabilities = [keras.ops.sigmoid(x(images)) for x in members]
    mean = probabilities[0] if len(members) == 1 else keras.layers.Average()(probabilities)
    return keras.Model(clips, {"probabilities": mean})
