"""What `keras-birds export` does: a model in another form, compared with the original before it is there."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from keras_birds.audio.band import reach_samples
from keras_birds.errors import ConfigError, KerasBirdsError, ModelError
from keras_birds.export import writers
from keras_birds.export.formats import Format, Input, Precision, check_format
from keras_birds.models.backend_process import call_on_backend
from keras_birds.models.calibration import sigmoid
from keras_birds.models.engines import Engine, load_engine
from keras_birds.models.ensemble import Ensemble
from keras_birds.models.metadata import ModelMetadata

TOLERANCE = {"float32": 1e-4, "float16": 0.02, "int8-weights": 0.25}
"""How far a probability may be from the original's."""

EMBEDDING_TOLERANCE = {"float32": 0.01, "float16": 0.02, "int8-weights": 0.5}
"""How far an embedding may be from the original's, relative to its length."""

_BATCH, _NOISE = 8, 1e-4


@dataclass(frozen=True)
class Parity:
    """How an export's probabilities compare with the original's, and the share of clips with the same label on top."""

    clips: int
    max_difference: float
    mean_difference: float
    same_top: float


def export_model(
    paths: Sequence[Path],
    out: Path,
    input_kind: Input,
    precision: Precision,
    clips: np.ndarray,
    fmt: Format = "onnx",
    embedding: bool = False,
) -> Parity:
    """Writes one model (of `"openvino"` two files), which is there whole or not at all.

    Args:
        paths: `model.onnx` of a fold, or of several, whose probabilities the file then averages. Where `model.keras`
            lies beside, that is the original which the file is compared with.
        out: the file, with the format's suffix.
        input_kind: `"mel"` images to logits (of one model), or `"waveform"`, clips to probabilities.
        precision: of the stored weights.
        clips: float32 `[n, clip_samples]`, to compare on.
        fmt: what is written.
        embedding: whether the file gives embeddings as well; of `"onnx"`.

    Raises:
        ConfigError: if the format can't be written here, or not so.
        ModelError: if the members differ, one can't be used, or the file doesn't give what the original gives.
        KerasBirdsError: if the file can't be written.
    """
    check_format(paths, fmt, precision)
    if embedding and fmt != "onnx":
        raise ConfigError(f"--embedding is for --format onnx. Received: {fmt}")
    ensemble, (write, run) = Ensemble([_load_original(x) for x in paths]), _FORMATS[fmt]
    write = partial(write, embedding=True) if embedding else write
    metadata, step = _common_metadata(ensemble), ensemble.engines[0].fixed_batch or _BATCH
    _check_input(ensemble, input_kind)
    if ensemble.engines[0].input_kind == "waveform":
        clips = _with_faint_noise(clips)
    inputs, expected = (
        clips if input_kind == "waveform" else ensemble.inputs(clips),
        ensemble.score_clips(clips),
    )
    # Repeated until batches are full: some models of others take no other batch.
    repeated = np.resize(inputs, (-(-len(inputs) // step) * step, *inputs.shape[1:]))
    with _draft(out) as draft:
        write(paths, draft, metadata, input_kind, precision)
        outputs = np.concatenate(run(draft, [repeated[x : x + step] for x in range(0, len(repeated), step)]))
        outputs = outputs[: len(clips)]
        found = outputs if input_kind == "waveform" else sigmoid(outputs)
        difference, same = np.abs(found - expected), found.argmax(axis=1) == expected.argmax(axis=1)
        parity = Parity(len(clips), float(difference.max()), float(difference.mean()), float(same.mean()))
        if not parity.max_difference <= TOLERANCE[precision]:
            raise ModelError(
                f"{out}: the export must give the original's probabilities within {TOLERANCE[precision]:g}. Received: "
                f"a difference of {parity.max_difference:.3g} on {parity.clips} clips; nothing was written"
            )
        if embedding:
            batches = [repeated[x : x + step] for x in range(0, len(repeated), step)]
            given = np.concatenate(writers.run_embedding(draft, batches))[: len(clips)]
            _check_embeddings(out, given, ensemble.engines[0].embeddings(ensemble.inputs(clips)), precision)
    return parity


def _check_embeddings(out: Path, found: np.ndarray, expected: np.ndarray, precision: Precision) -> None:
    lengths = np.linalg.norm(expected, axis=1)
    difference = float((np.linalg.norm(found - expected, axis=1) / np.maximum(lengths, 1e-6)).max())
    if not difference <= EMBEDDING_TOLERANCE[precision]:
        raise ModelError(
            f"{out}: the export must give the original's embeddings within {EMBEDDING_TOLERANCE[precision]:g} of their "
            f"length. Received: a difference of {difference:.3g}; nothing was written"
        )


@contextmanager
def _draft(out: Path) -> Iterator[Path]:
    """A file of that name in a folder beside; with what lies there it takes its place when all went well."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
            draft = Path(folder, out.name)
            yield draft
            for path in sorted(Path(folder).iterdir(), key=lambda x: x == draft):
                path.replace(out.parent / path.name)
    except OSError as error:
        raise KerasBirdsError(
            f"{out} can't be written. Received: {error.strerror or error}. Free some space or choose another place"
        ) from None


def _load_original(path: Path) -> Engine:
    """The Keras model, or the ONNX file where that lies alone."""
    keras_path = path.with_suffix(".keras")
    return load_engine(keras_path) if keras_path.is_file() else load_engine(path, "cpu")


def _with_faint_noise(clips: np.ndarray) -> np.ndarray:
    """Clips without digital silence.

    Of that BirdNET's front end makes an image of rounding errors, which are others in every format: 64 clips of which
    many hold some differed by up to 0.009 in float32 without this.
    """
    noise = np.random.default_rng(0).normal(0, _NOISE, clips.shape)
    return (clips + noise).astype(np.float32)


def _check_input(ensemble: Ensemble, input_kind: Input) -> None:
    """A file that takes mel is of one model, which takes mel itself; one that takes sound hears all of it."""
    engine, audio = ensemble.engines[0], ensemble.audio
    if input_kind == "waveform" and reach_samples(audio):
        raise ModelError(
            f"{engine.path}: a file that takes sound must be of a model that hears every frequency: recordings are "
            f"filtered before they are cut into clips. Received: audio.f_low_hz {audio.f_low_hz:g}, f_high_hz "
            f"{audio.f_high_hz:g}. "
            + ("Pass --input mel" if engine.input_kind == "mel" else "Train without them")
        )
    if input_kind == "mel" and engine.input_kind != "mel":
        raise ModelError(
            f"{engine.path}: --input mel needs a model that takes mel. Received: one that takes sound. Pass --input "
            "waveform"
        )
    if input_kind == "mel" and len(ensemble.engines) > 1:
        raise ModelError(
            f"a file that takes mel must be of one model. Received: {len(ensemble.engines)} folds. Pass --input "
            "waveform, or one fold's folder"
        )


def _common_metadata(ensemble: Ensemble) -> ModelMetadata:
    """Of an ensemble it has no metrics: its members were measured, each on recordings that others trained on."""
    first, *others = (x.metadata for x in ensemble.engines)
    if not others:
        return first
    calibration = first.calibration if all(x.calibration == first.calibration for x in others) else None
    return replace(first, model_id=ensemble.model_id, metrics={}, calibration=calibration)


_FORMATS: dict[str, tuple[Callable[..., None], Callable[[Path, Sequence[np.ndarray]], list[np.ndarray]]]] = {
    "onnx": (writers.write_onnx, writers.run_onnx),
    "openvino": (writers.write_openvino, writers.run_openvino),
    "litert": (writers.write_litert, writers.run_litert),
    "torch": (partial(call_on_backend, "torch", writers.write_torch), writers.run_torch),
}
"""What writes each, and what runs it."""
