"""What runs in a worker process: loads the model once, and scores groups of recordings."""

import os
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import keras_birds
from keras_birds.distributed.groups import Group
from keras_birds.errors import ConfigError
from keras_birds.inference.classifier import Classifier
from keras_birds.inference.scorer import RecordingScores, ScoreOptions, score_recordings
from keras_birds.labels import LabelSet
from keras_birds.models.engines import Engine, load_engine
from keras_birds.models.waveform_engine import WaveformEngine


@dataclass(frozen=True)
class WaveformSettings:
    """What a model of others doesn't say of itself."""

    labels: LabelSet
    sample_rate_hz: int
    window_s: float
    output: str


@dataclass(frozen=True)
class PackedEngine:
    """A model's files, to be loaded where nobody has its path.

    Args:
        path: of the model, for messages.
        files: contents of the model and its metadata by file name.
        waveform: for a model of others that takes sound.
    """

    path: Path
    files: dict[str, bytes]
    waveform: WaveformSettings | None = None

    @classmethod
    def of(cls, engine: Engine) -> "PackedEngine":
        """Reads a loaded engine's files."""
        paths = [engine.path]
        if engine.path.suffix.lower() == ".keras":
            paths += [x for x in map(engine.path.with_suffix, (".onnx", ".json")) if x.is_file()][:1]
        waveform = None
        if isinstance(engine, WaveformEngine):
            audio = engine.metadata.audio
            waveform = WaveformSettings(
                engine.metadata.labels, audio.sample_rate_hz, audio.clip_s, engine.output
            )
        return cls(engine.path, {x.name: x.read_bytes() for x in paths}, waveform)

    def load(self, provider: str | None) -> Engine:
        """Loads the engine; its files are on the disk for as long as that takes."""
        with TemporaryDirectory(prefix="keras-birds-") as folder:
            for name, content in self.files.items():
                Path(folder, name).write_bytes(content)
            path, settings = Path(folder, self.path.name), self.waveform
            engine: Engine
            if settings is None:
                engine = load_engine(path, provider)
            else:
                audio = settings.sample_rate_hz, settings.window_s
                engine = WaveformEngine(path, settings.labels, *audio, settings.output, provider)
        engine.path = self.path
        return engine


@dataclass(frozen=True)
class PackedModel:
    """A loaded model on its way to the workers.

    Args:
        engines: the members.
        decoder: of the recordings.
        provider: what ONNX Runtime computes on; `None` for CUDA where a node has it.
        calibrated: whether scores are.
        backend: of Keras.
        version: of keras-birds.
    """

    engines: tuple[PackedEngine, ...]
    decoder: str
    provider: str | None
    calibrated: bool
    backend: str
    version: str

    @classmethod
    def of(cls, classifier: Classifier, provider: str | None) -> "PackedModel":
        """Packs what a classifier was loaded from."""
        engines = tuple(map(PackedEngine.of, classifier.engines))
        decoder, backend = classifier.audio.decoder, os.environ["KERAS_BACKEND"]
        calibrated = classifier.calibration is not None
        return cls(engines, decoder, provider, calibrated, backend, keras_birds.__version__)

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
        return Classifier([x.load(self.provider) for x in self.engines], self.decoder, self.calibrated)


@dataclass(frozen=True)
class GroupScores:
    """What a worker gives back.

    Args:
        recordings: of the group, in order.
        seconds: that they took.
    """

    recordings: tuple[RecordingScores, ...]
    seconds: float


class Worker:
    """A process that scores; Ray makes an actor of it.

    Args:
        workers: threads that compute.
    """

    def __init__(self, workers: int):
        self._workers = workers

    def load(self, model: PackedModel) -> int:
        """Loads the model, apart from `__init__`, so that an error arrives as what it is.

        Returns:
            The process id.

        Raises:
            KerasBirdsError: as `PackedModel.load`.
        """
        self._classifier = model.load()
        return os.getpid()

    def score(self, group: Group, places: tuple[str, ...], options: ScoreOptions) -> GroupScores:
        """Scores a group.

        Args:
            group: the recordings, with the names that rows shall have.
            places: where they are.
            options: how they are cut.

        Raises:
            KerasBirdsError: as `score_recordings`.
        """
        began = time.monotonic()
        scored = score_recordings(self._classifier, places, replace(options, workers=self._workers))
        recordings = tuple(
            replace(found, recording=replace(found.recording, file=name))
            for name, found in zip(group.names, scored, strict=True)
        )
        return GroupScores(recordings, time.monotonic() - began)
