"""A trained model or an ensemble of them, ready to score recordings."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from keras_birds.audio.clips import sliding_windows, window_hop_samples
from keras_birds.audio.mel import MelTransform
from keras_birds.audio.stream import open_stream
from keras_birds.config import AudioConfig, Config, MelConfig
from keras_birds.errors import AudioError, ModelError
from keras_birds.inference.scorer import RecordingScores, ScoreOptions, score_recordings
from keras_birds.labels import LabelSet
from keras_birds.models.calibration import Calibration
from keras_birds.models.engines import Engine, FrameEngine, load_engine
from keras_birds.models.find import resolve_model
from keras_birds.models.logits import sigmoid
from keras_birds.models.metadata import check_members, joined_id

if TYPE_CHECKING:
    from pandas import DataFrame

Chunk = tuple[np.ndarray, np.ndarray, np.ndarray]
_CHUNK_WINDOWS = 16


class Classifier:
    """One model or an ensemble, whose scores are the mean of its members' probabilities.

    Args:
        engines: the members; they must agree on labels (order included), audio and mel settings.
        decoder: reads the files instead of the decoder in the model's settings.
        calibrated: whether probabilities are read as the models' calibration says.

    Raises:
        ModelError: naming the member that differs and in what, or that has no calibration.
        ConfigError: if the decoder is unknown.
    """

    def __init__(self, engines: Sequence[Engine], decoder: str | None = None, calibrated: bool = False):
        if not engines:
            raise ModelError("A classifier must have at least one model. Received: none")
        for other in engines[1:]:
            _check_member(engines[0], other)
        first = engines[0].metadata
        self.engines = tuple(engines)
        self.model_id = joined_id([x.metadata.model_id for x in engines])
        self.labels: LabelSet = first.labels
        self.mel: MelConfig = first.mel
        self.audio: AudioConfig = first.audio
        self.calibration = _shared_calibration(engines) if calibrated else None
        if decoder is not None:
            audio = {**first.audio.model_dump(), "decoder": decoder}
            self.audio = Config.parse({"audio": audio, "mel": first.mel}, "load").audio
        self._transform = MelTransform(self.audio, self.mel) if engines[0].takes == "mel" else None

    @property
    def batch_size(self) -> int:
        """Windows at a time that the members are fastest with."""
        return max(x.batch_size for x in self.engines)

    @property
    def workers(self) -> int | None:
        """Threads that may ask for probabilities at once; `None` for as many as there are processors."""
        return min((x.workers for x in self.engines if x.workers is not None), default=None)

    def inputs(self, clips: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """What the members take: the mel images of clips, or the clips themselves.

        Args:
            clips: float32 `[n, clip_samples]`; a list of clips isn't copied.

        Returns:
            float32 `[n, height, width, 1]` in [0, 1], or `clips`.
        """
        return np.asarray(clips) if self._transform is None else self._transform.images(clips)

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """Scores inputs.

        Args:
            inputs: as `inputs` gives them.

        Returns:
            float32 `[n, label]` in [0, 1].

        Raises:
            ModelError: if a member gives NaN, or other than one number for each label.
        """
        total = np.zeros((len(inputs), len(self.labels)), np.float32)
        for engine in self.engines:
            logits = engine.logits(inputs)
            if logits.shape != total.shape or np.isnan(logits).any():
                raise ModelError(
                    f"{engine.path}: the model must give a number for each of {len(self.labels)} labels. "
                    f"Received: shape {logits.shape}, {int(np.isnan(logits).sum())} of them NaN"
                )
            total += sigmoid(logits)
        mean = total / np.float32(len(self.engines))
        return mean if self.calibration is None else self.calibration.apply(mean)

    def scores(self, path: str | Path, overlap_s: float = 0.0) -> "DataFrame":
        """Scores a recording in sliding windows, on all processors.

        Args:
            path: an audio file or its URL.
            overlap_s: how much each window shares with the one before.

        Returns:
            One row a window: `start_s`, `end_s`, then float32 probabilities, one column a label.

        Raises:
            AudioError: if the file can't be read.
            ConfigError: if the overlap is negative or as long as the clip.
        """
        import pandas as pd

        found = self.score_file(path, overlap_s)
        columns = pd.DataFrame(found.scores, columns=list(self.labels))
        return pd.concat([pd.DataFrame({"start_s": found.start_s, "end_s": found.end_s}), columns], axis=1)

    def stream(self, path: str | Path, overlap_s: float = 0.0) -> Iterator[Chunk]:
        """As `scores`, in flat memory: some windows at a time, while the recording is being decoded.

        Yields:
            `start_s [n]`, `end_s [n]` and float32 `scores [n, label]`.
        """
        audio = self.audio
        window_hop_samples(audio, overlap_s)
        with open_stream(path, audio.sample_rate_hz, audio.decoder) as stream:
            windows = sliding_windows(stream.blocks, audio, overlap_s)
            while chunk := list(islice(windows, _CHUNK_WINDOWS)):
                start_s = np.array([x.start_samples for x in chunk]) / audio.sample_rate_hz
                end_s = start_s + np.array([x.n_samples for x in chunk]) / audio.sample_rate_hz
                yield start_s, end_s, self.probabilities(self.inputs([x.clip for x in chunk]))

    def frame_scores(self, path: str | Path) -> "DataFrame":
        """Scores the moments of a recording, as models with an attention head can (`model.head = "attention"`).

        Windows don't overlap. Frames of what fills up the last one are left out.

        Args:
            path: an audio file or its URL.

        Returns:
            One row a frame: `start_s`, `end_s`, then float32 probabilities, one column a label; of several members
            the mean. They are not calibrated.

        Raises:
            AudioError: if the file can't be read.
            ModelError: if a member has no attention head, or another number of frames.
        """
        import pandas as pd

        engines, audio = self.check_frames(), self.audio
        frame_s = audio.clip_s / engines[0].num_frames
        times, scores = [], []
        with open_stream(path, audio.sample_rate_hz, audio.decoder) as stream:
            windows = sliding_windows(stream.blocks, audio, 0.0)
            while chunk := list(islice(windows, _CHUNK_WINDOWS)):
                inputs = self.inputs([x.clip for x in chunk])
                found = np.mean([sigmoid(x.frame_logits(inputs)) for x in engines], axis=0)
                for window, frames in zip(chunk, found, strict=True):
                    start_s, length_s = (
                        x / audio.sample_rate_hz for x in (window.start_samples, window.n_samples)
                    )
                    first_s = frame_s * np.arange(len(frames))
                    inside = first_s < length_s - 1e-6
                    last_s = np.minimum(first_s + frame_s, length_s)
                    times.append(start_s + np.stack([first_s, last_s], axis=1)[inside])
                    scores.append(frames[inside].astype(np.float32))
        labels = list(self.labels)
        columns = pd.DataFrame(
            np.concatenate(scores) if scores else np.zeros((0, len(labels))), columns=labels
        )
        spans = np.concatenate(times) if times else np.zeros((0, 2))
        return pd.concat([pd.DataFrame(spans, columns=["start_s", "end_s"]), columns], axis=1)

    def check_frames(self) -> list[FrameEngine]:
        """The members, if all can score the moments of a clip.

        Raises:
            ModelError: naming the first that can't.
        """
        found: list[FrameEngine] = []
        for engine in self.engines:
            frames = engine.num_frames if isinstance(engine, FrameEngine) else 0
            if not isinstance(engine, FrameEngine) or not frames or (found and frames != found[0].num_frames):
                raise ModelError(
                    f"{engine.path}: frames need models with an attention head and equally many frames. Received: "
                    f"{frames or 'no'} frames. Train with --config recommended, or --set model.head=attention"
                )
            found.append(engine)
        return found

    def score_file(self, path: str | Path, overlap_s: float = 0.0) -> RecordingScores:
        """As `scores`, with what became of the file.

        Raises:
            AudioError: if the file can't be read.
            ConfigError: if the overlap is negative or as long as the clip.
        """
        (found,) = score_recordings(self, [path], ScoreOptions(overlap_s))
        if found.recording.failed:
            raise AudioError(path, found.recording.reason, found.recording.status)
        return found


def load(
    path: str | Path | None = None,
    engine: str | None = None,
    decoder: str | None = None,
    provider: str | None = None,
    calibrated: bool = False,
) -> Classifier:
    """Loads a model to score recordings with.

    ```python
    import keras_birds
    from keras_birds.inference.aggregate import aggregate, top_labels

    classifier = keras_birds.load("runs/20250601-101500")
    windows = classifier.scores("clip.ogg", overlap_s=2.5)  # a row a window, a column a label
    answer = aggregate(windows[list(classifier.labels)].to_numpy(), "max")  # [label], for the recording
    for ranked in top_labels(classifier.labels, answer, top_k=3):
        print(ranked.rank, ranked.label.name, ranked.score)
    ```

    Args:
        path: a fold's folder, a run's folder (the mean of its folds), an `.onnx` or a `.keras` file, or a shipped
            model's name; `None` for the newest run below `./runs`, or where there is none, the shipped model, whose
            `model_id` is its name.
        engine: `"onnx"` or `"keras"`, the files to take from folders; `None` for ONNX.
        decoder: `"soundfile"` or `"tfio"` in place of the model's own setting.
        provider: what ONNX Runtime computes on: `"cpu"`, `"cuda"`, ...; `None` for CUDA where it is there.
        calibrated: whether scores are calibrated, as `keras-birds calibrate` found for the run: the mean of the
            members' probabilities, read as one member's.

    Raises:
        ModelError: if there is no model, it can't be used, or it has no calibration.
        ConfigError: if the engine, the decoder or the provider is unknown, or the engine doesn't read such a file.
    """
    return Classifier([load_engine(x, provider) for x in resolve_model(path, engine)], decoder, calibrated)


def _shared_calibration(engines: Sequence[Engine]) -> Calibration:
    first = engines[0].metadata.calibration
    for engine in engines:
        found = engine.metadata.calibration
        if found is None or found != first:
            what = "none" if found is None else f"another than in {engines[0].path}"
            raise ModelError(
                f"{engine.path}: calibrated scores need a calibration that all members share. Received: {what}. Make "
                "it with `keras-birds calibrate RUN`"
            )
    return cast(Calibration, first)


def _check_member(first: Engine, other: Engine) -> None:
    if first.takes != other.takes:
        raise ModelError(
            f"The members of an ensemble must take the same. Received: {first.takes} in {first.path} and {other.takes} "
            f"in {other.path}"
        )
    check_members(first.metadata, other.metadata, str(first.path), str(other.path))
