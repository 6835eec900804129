"""What runs in a worker process: loads the model once, and scores groups of recordings."""

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras_birds
from keras_birds.errors import ConfigError
from keras_birds.inference.classifier import Classifier
from keras_birds.inference.scorer import RecordingScores, ScoreOptions, WindowScorer, score_recordings
from keras_birds.models.engines import Engine, load_engine
from keras_birds.run_layout import METADATA

Scorer = Callable[[Classifier], WindowScorer]
"""A class of the package that gives other numbers of a window, as `Embedder` or `MemberScorer`."""

_loaded: dict[str, WindowScorer] = {}
"""What scores in this process, by the id of the packed model that it was loaded from."""


@dataclass(frozen=True)
class PackedEngine:
    """A model's files, by name, to be loaded where nobody has its path, which is for messages."""

    path: Path
    files: dict[str, bytes]

    @classmethod
    def of(cls, engine: Engine) -> "PackedEngine":
        """Reads a loaded engine's files: the model, and what holds its metadata where that isn't inside."""
        paths = [engine.path]
        if engine.path.suffix.lower() == ".keras":
            paths += [x for x in map(engine.path.with_suffix, (".onnx", ".json")) if x.is_file()][:1]
        elif engine.metadata.outputs:
            paths.append(engine.path.with_name(METADATA))
        return cls(engine.path, {x.name: x.read_bytes() for x in paths})

    def load(self, folder: Path, provider: str | None) -> Engine:
        """Writes the files to a new folder, and loads the engine from there."""
        folder.mkdir()
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return load_engine(folder / self.path.name, provider)


@dataclass(frozen=True)
class PackedModel:
    """A loaded model on its way to the workers: its members, and what else `Classifier` was made with here.

    `backend` is that of Keras, `version` that of keras-birds; `provider` as for `load_engine`. `scorer` makes
    of the classifier what scores in its place, as an `Embedder`.
    """

    engines: tuple[PackedEngine, ...]
    decoder: str
    provider: str | None
    calibrated: bool
    sensitivity: float
    backend: str
    version: str
    scorer: Scorer | None = None

    @classmethod
    def of(cls, classifier: Classifier, provider: str | None, scorer: Scorer | None = None) -> "PackedModel":
        """Packs what a classifier was loaded from."""
        engines = tuple(map(PackedEngine.of, classifier.engines))
        decoder, backend = classifier.audio.decoder, os.environ["KERAS_BACKEND"]
        scores = classifier.calibration is not None, classifier.sensitivity
        return cls(engines, decoder, provider, *scores, backend, keras_birds.__version__, scorer)

    def load(self) -> Classifier:
        """Loads it in this process.

        Raises:
            ConfigError: if this is another version of keras-birds.
            ModelError: if the model can't be used here.
        """
        if self.version != keras_birds.__version__:
            raise ConfigError(
                f"Every node must have keras-birds {self.version}. Received: {keras_birds.__version__} on "
                f"{socket.gethostname()}"
            )
        os.environ["KERAS_BACKEND"] = self.backend
        with TemporaryDirectory(prefix="keras-birds-") as folder:
            engines = [x.load(Path(folder, str(k)), self.provider) for k, x in enumerate(self.engines)]
            classifier = Classifier(engines, self.decoder, self.calibrated, self.sensitivity)
        for engine, packed in zip(engines, self.engines, strict=True):
            engine.path = packed.path
        return classifier


@dataclass(frozen=True)
class GroupScores:
    """What a worker gives back: the group's recordings in order, each with its place for a name, and their time."""

    recordings: tuple[RecordingScores, ...]
    seconds: float
    host: str


def score_group(model: list[Any], places: tuple[str, ...], options: ScoreOptions) -> GroupScores:
    """Scores a group of recordings, at URLs and absolute paths; Ray makes a task of it.

    `model` is a reference to a `PackedModel`, in a list so that Ray hands it on as it is. Raises what
    `PackedModel.load` and `score_recordings` raise.
    """
    import ray

    (reference,) = model
    if reference.hex() not in _loaded:
        _loaded.clear()
        packed: PackedModel = ray.get(reference)
        classifier = packed.load()
        _loaded[reference.hex()] = packed.scorer(classifier) if packed.scorer else classifier
    began = time.monotonic()
    recordings = tuple(score_recordings(_loaded[reference.hex()], places, options))
    return GroupScores(recordings, time.monotonic() - began, socket.gethostname())
