"""Adds a model of others, an ONNX file that takes sound, with a card that says what its graph doesn't."""

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_birds.checksum import sha256_of
from keras_birds.config import AudioConfig, MelConfig
from keras_birds.errors import ModelError, as_model_error
from keras_birds.models.example_sound import example_clips
from keras_birds.models.label_file import read_labels
from keras_birds.models.library import new_model
from keras_birds.models.metadata import GraphOutputs, ModelMetadata, OutputKind
from keras_birds.models.session import open_session
from keras_birds.run_layout import METADATA, ONNX

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_EMBEDDINGS = ("embedding", "embeddings")


@dataclass(frozen=True)
class ForeignModel:
    """What its user knows of a model of others.

    Args:
        path: the ONNX file, which takes float32 sound `[batch, samples]` in [-1, 1].
        labels: file of the labels of its scores, in order; see `read_labels`.
        sample_rate_hz: that it was trained at.
        window_s: length of what it takes.
        output: `"logits"` or `"probabilities"`; `None` for what its scores of sounds look like.
        embedding: its output of embeddings; `None` for one of that name, if there is one.
        speed: at which recordings are taken before all else, as `audio.speed`.
    """

    path: Path
    labels: Path
    sample_rate_hz: int
    window_s: float
    output: OutputKind | None = None
    embedding: str | None = None
    speed: float = 1.0


def add_foreign(model: ForeignModel, name: str, say: Callable[[str], None] = lambda _: None) -> Path:
    """Copies a model to the user's folder of models, after it scored sounds; returns its folder.

    Args:
        model: what it is.
        name: what it is called from then on.
        say: gets a line on what its scores are.

    Raises:
        ModelError: if the file can't be used, or gives what it shouldn't.
        DataError: if the labels can't be read.
        ConfigError: if the name can't be used or is taken.
        KerasBirdsError: if it can't be written.
    """
    audio = AudioConfig(sample_rate_hz=model.sample_rate_hz, clip_s=model.window_s, speed=model.speed)
    mel = MelConfig(f_min_hz=0, f_max_hz=model.sample_rate_hz / 2)
    with new_model(name) as folder:
        found = _run(model.path, _open_copy(model.path, folder / ONNX), example_clips(audio, mel))
        labels = read_labels(model.labels, {x.shape[1] for x in found.values()}, say=say)
        scores, kind = _scores_among(found, len(labels), model, say)
        outputs = GraphOutputs(kind, scores, _embedding_among(found, scores, model))
        source = f"{model.path.name} (SHA-256 {sha256_of(model.path)})"
        metadata = ModelMetadata(name, labels, audio, mel, source=source, outputs=outputs)
        metadata.write_json(folder / METADATA)
    return folder.with_name(name)


def _open_copy(path: Path, copy: Path) -> "InferenceSession":
    original = open_session(path, threads=1)  # first, so that what is wrong is told of the user's file
    del original
    shutil.copyfile(path, copy)
    with suppress(ModelError):
        return open_session(copy)
    raise ModelError(
        f"{path}: the file must hold the model's weights. Received: a graph whose weights lie in other files. Put them "
        f"into one file with onnx.save(onnx.load({str(path)!r}), 'whole.onnx') in Python"
    )


def _run(path: Path, session: "InferenceSession", clips: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs `[n, size]` of clips, by name; `n` is the graph's batch where it has a fixed one."""
    inputs, num_samples = session.get_inputs(), clips.shape[1]
    shape = list(inputs[0].shape) if len(inputs) == 1 and inputs[0].type == "tensor(float)" else []
    if len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != num_samples):
        received = ", ".join(f"{x.name} {x.type} {x.shape}" for x in inputs)
        raise ModelError(
            f"{path}: the model must take float [batch, {num_samples}] alone, at this --sample-rate and --window-s. "
            f"Received: {received}"
        )
    n = shape[0] if isinstance(shape[0], int) else len(clips)
    with as_model_error(f"{path}: the model must score sounds of {num_samples} samples"):
        found = session.run(None, {inputs[0].name: np.resize(clips, (n, num_samples))})
    named = zip((x.name for x in session.get_outputs()), map(np.asarray, found), strict=True)
    return {k: x for k, x in named if x.shape[:1] == (n,) and x.ndim == 2 and x.dtype.kind == "f"}


def _scores_among(
    found: Mapping[str, np.ndarray], num_labels: int, model: ForeignModel, say: Callable[[str], None]
) -> tuple[str, OutputKind]:
    """The output that has a number for each label, and what these are; of several the one that is as was said."""
    fitting = {k: _kind(x) for k, x in found.items() if x.shape[1] == num_labels}
    if len(fitting) > 1 and model.output:
        fitting = {k: x for k, x in fitting.items() if x == model.output}
    if len(fitting) != 1:
        more = " Say by --output which it is" if len(fitting) > 1 and not model.output else ""
        raise ModelError(
            f"{model.path}: the model must have one output [batch, {num_labels}], a number for each of --labels. "
            f"Received: {_shapes(found)}.{more}"
        )
    ((name, looks_like),) = fitting.items()
    values = found[name]
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise ModelError(
            f"{model.path}: scores must be finite. Received: {count} of {values.size} in {name} that are not"
        )
    least, most = f"{values.min():.4g}", f"{values.max():.4g}"
    if model.output == "probabilities" != looks_like:
        raise ModelError(
            f"{model.path}: probabilities must be from 0 to 1. Received: {least} to {most} in {name}; pass --output "
            "logits"
        )
    say(f"On test sounds, {name} is from {least} to {most}: taken as {model.output or looks_like}")
    if model.output == "logits" != looks_like:
        say(
            "Warning: all are from 0 to 1, as probabilities are. If so, add the model with --output probabilities"
        )
    return name, model.output or looks_like


def _kind(values: np.ndarray) -> OutputKind:
    return "probabilities" if (values >= 0).all() and (values <= 1).all() else "logits"


def _embedding_among(found: Mapping[str, np.ndarray], scores: str, model: ForeignModel) -> str:
    others = [x for x in found if x != scores]
    if model.embedding is None:
        return next((x for x in others if x.lower() in _EMBEDDINGS), "")
    if model.embedding not in others:
        raise ModelError(
            f"{model.path}: --embedding must be an output [batch, size]. Received: {model.embedding}, with "
            f"{_shapes({x: found[x] for x in others}) or 'none'}"
        )
    return model.embedding


def _shapes(found: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{k} [batch, {x.shape[1]}]" for k, x in found.items())
