"""What `keras-birds export` does: a model in another form, compared with the original before it is there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from keras_birds.atomic import atomic_path
from keras_birds.audio.mel import MelTransform
from keras_birds.errors import ModelError
from keras_birds.export.half import halve_weights, whole_weights
from keras_birds.export.int8 import quantize_static, quantize_weights
from keras_birds.export.logits import sigmoid
from keras_birds.export.metadata import ModelMetadata, check_members, joined_id, open_session
from keras_birds.export.waveform import PROBABILITIES, WAVEFORM, waveform_model

Input = Literal["mel", "waveform"]
Precision = Literal["float32", "float16", "int8-weights", "int8"]

TOLERANCE = {"float32": 1e-4, "float16": 0.02, "int8-weights": 0.25, "int8": 0.25}
"""How far a probability may be from the original's."""

_BATCH = 8


@dataclass(frozen=True)
class Parity:
    """How an export compares with the original.

    Args:
        clips: that both scored.
        max_difference: of a probability.
        mean_difference: of all probabilities.
        same_top: share of clips whose most probable label is the same.
    """

    clips: int
    max_difference: float
    mean_difference: float
    same_top: float


def export_model(
    paths: Sequence[Path], out: Path, takes: Input, precision: Precision, clips: np.ndarray
) -> Parity:
    """Writes one ONNX file, which is there whole or not at all.

    Args:
        paths: `model.onnx` of a fold, or of several, whose probabilities the file then averages. Where `model.keras`
            lies beside, that is the original which the file is compared with.
        out: the file.
        takes: `"mel"` images and gives logits (of one model), or `"waveform"`, clips, and gives probabilities.
        precision: of the stored weights; with `"int8"` of the convolutions' arithmetic too.
        clips: float32 `[n, clip_samples]`, to compare on, and to find the ranges of `"int8"` with.

    Raises:
        ModelError: if the members differ, several are to take mel, a model can't be used, or the file doesn't give
            what the original gives.
        KerasBirdsError: if the file can't be written.
    """
    found = [ModelMetadata.read_onnx(x) for x in paths]
    metadata = _common(paths, found)
    if takes == "mel" and len(paths) > 1:
        raise ModelError(
            f"a file that takes mel must be of one model. Received: {len(paths)} folds. Pass --input waveform, or one "
            "fold's folder"
        )
    members = [_stored(whole_weights(onnx.load(str(x))), precision, metadata, clips) for x in paths]
    if takes == "waveform":
        model = waveform_model(members, metadata)
    else:
        (model,) = members
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, metadata.onnx_props())
    with atomic_path(out) as temporary:
        onnx.save(model, str(temporary))
        parity = _compare(_original(paths, metadata, clips), _exported(temporary, metadata, clips))
        if not parity.max_difference <= TOLERANCE[precision]:
            raise ModelError(
                f"{out}: the export must give the original's probabilities within {TOLERANCE[precision]:g}. Received: "
                f"a difference of {parity.max_difference:.3g} on {parity.clips} clips; nothing was written"
            )
    return parity


def _stored(
    model: onnx.ModelProto, precision: Precision, metadata: ModelMetadata, clips: np.ndarray
) -> onnx.ModelProto:
    if precision == "float16":
        return halve_weights(model)
    if precision == "int8-weights":
        return quantize_weights(model)
    if precision == "int8":
        return quantize_static(model, MelTransform(metadata.audio, metadata.mel).images(clips))
    return model


def _common(paths: Sequence[Path], found: Sequence[ModelMetadata]) -> ModelMetadata:
    """Of an ensemble it has no metrics: its members were measured, each on recordings that others trained on."""
    first = found[0]
    if len(found) == 1:
        return first
    for path, other in zip(paths[1:], found[1:], strict=True):
        check_members(first, other, str(paths[0]), str(path))
    calibration = first.calibration if all(x.calibration == first.calibration for x in found) else None
    return replace(
        first, model_id=joined_id([x.model_id for x in found]), metrics={}, calibration=calibration
    )


def _original(paths: Sequence[Path], metadata: ModelMetadata, clips: np.ndarray) -> np.ndarray:
    """Mean probabilities `[clip, label]`, of the Keras models where they are there."""
    images = MelTransform(metadata.audio, metadata.mel).images(clips)
    members = []
    for path in paths:
        keras_path = path.with_suffix(".keras")
        if keras_path.is_file():
            from keras_birds.export.keras_engine import KerasEngine

            engine = KerasEngine(keras_path)
            logits = [engine.logits(images[x : x + _BATCH]) for x in range(0, len(images), _BATCH)]
        else:
            session = open_session(path)
            logits = [
                session.run(["logits"], {"mel": images[x : x + _BATCH]})[0]
                for x in range(0, len(images), _BATCH)
            ]
        members.append(sigmoid(np.concatenate(logits)))
    return np.mean(members, axis=0)


def _exported(path: Path, metadata: ModelMetadata, clips: np.ndarray) -> np.ndarray:
    session = open_session(path)
    if session.get_inputs()[0].name == WAVEFORM:
        inputs, name, output = clips, WAVEFORM, PROBABILITIES
    else:
        inputs, name, output = MelTransform(metadata.audio, metadata.mel).images(clips), "mel", "logits"
    parts = [session.run([output], {name: inputs[x : x + _BATCH]})[0] for x in range(0, len(inputs), _BATCH)]
    found = np.concatenate(parts)
    return found if output == PROBABILITIES else sigmoid(found)


def _compare(expected: np.ndarray, found: np.ndarray) -> Parity:
    difference = np.abs(found - expected)
    same = found.argmax(axis=1) == expected.argmax(axis=1)
    return Parity(len(found), float(difference.max()), float(difference.mean()), float(same.mean()))
