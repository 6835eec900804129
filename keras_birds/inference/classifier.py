"""Scores recordings: decode, windows, mel, model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_birds.audio.clips import MIN_TAIL_S, fill, window_hop_samples, window_starts
from keras_birds.audio.decode import Decoded, decode
from keras_birds.audio.mel import MelTransform
from keras_birds.config import AudioConfig, Config, MelConfig
from keras_birds.errors import ModelError
from keras_birds.export.metadata import check_labels
from keras_birds.inference.engines import Engine, load_engine, sigmoid
from keras_birds.inference.runs import resolve_model
from keras_birds.labels import LabelSet

if TYPE_CHECKING:
    from pandas import DataFrame

BATCH_SIZE = 16
"""Windows that are in memory as images at once."""

Chunk = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class FileScores:
    """The scores of one recording.

    Args:
        path: the file.
        status: `"ok"`, `"partial"` or `"silent"`.
        reason: why not ok.
        seconds: how much decoded.
        unscored_s: length of a last partial window under 1 s that was dropped.
        start_s: `[window]`, where each begins.
        end_s: `[window]`, where each ends, not beyond the recording.
        scores: float32 probabilities `[window, label]`.
    """

    path: Path
    status: str
    reason: str
    seconds: float
    unscored_s: float
    start_s: np.ndarray
    end_s: np.ndarray
    scores: np.ndarray


class Classifier:
    """One model or an ensemble, whose scores are the mean of its members' probabilities.

    Args:
        engines: the members; they must agree on labels (order included), audio and mel settings.
        decoder: reads the files instead of the decoder in the model's settings.

    Raises:
        ModelError: naming the member that differs and in what.
        ConfigError: if the decoder is unknown.
    """

    def __init__(self, engines: Sequence[Engine], decoder: str | None = None):
        if not engines:
            raise ModelError("A classifier must have at least one model. Received: none")
        for other in engines[1:]:
            _check_member(engines[0], other)
        first = engines[0].metadata
        self.engines = tuple(engines)
        self.model_id = _joined_id([x.metadata.model_id for x in engines])
        self.labels: LabelSet = first.labels
        self.mel: MelConfig = first.mel
        self.audio: AudioConfig = first.audio
        if decoder is not None:
            audio = {**first.audio.model_dump(), "decoder": decoder}
            self.audio = Config.parse({"audio": audio, "mel": first.mel}, "load").audio
        self._transform = MelTransform(self.audio, self.mel)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Scores images.

        Args:
            images: float32 `[n, height, width, 1]` in [0, 1].

        Returns:
            float32 `[n, label]` in [0, 1].

        Raises:
            ModelError: if a member gives NaN, or other than one number for each label.
        """
        total = np.zeros((len(images), len(self.labels)), np.float32)
        for engine in self.engines:
            logits = engine.logits(images)
            if logits.shape != total.shape or np.isnan(logits).any():
                raise ModelError(
                    f"{engine.path}: the model must give a number for each of {len(self.labels)} labels. "
                    f"Received: shape {logits.shape}, {int(np.isnan(logits).sum())} of them NaN"
                )
            total += sigmoid(logits)
        return total / np.float32(len(self.engines))

    def scores(self, path: str | Path, overlap_s: float = 0.0) -> "DataFrame":
        """Scores a recording in sliding windows.

        Args:
            path: an audio file.
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
        """As `scores`, a batch of windows at a time.

        Yields:
            `start_s [n]`, `end_s [n]` and float32 `scores [n, label]`.
        """
        yield from self._score(self._decode(path), overlap_s)

    def score_file(self, path: str | Path, overlap_s: float = 0.0) -> FileScores:
        """As `scores`, with what became of the file.

        Raises:
            AudioError: if the file can't be read.
            ConfigError: if the overlap is negative or as long as the clip.
        """
        window_hop_samples(self.audio, overlap_s)
        decoded = self._decode(path)
        chunks = list(self._score(decoded, overlap_s))
        start_s, end_s, scores = (np.concatenate(x) for x in zip(*chunks, strict=True))
        unscored_s = len(decoded.samples) / self.audio.sample_rate_hz - float(end_s.max())
        return FileScores(
            Path(path),
            decoded.status,
            decoded.reason,
            decoded.seconds_read,
            unscored_s,
            start_s,
            end_s,
            scores,
        )

    def _decode(self, path: str | Path) -> Decoded:
        return decode(path, self.audio.sample_rate_hz, self.audio.decoder)

    def _score(self, decoded: Decoded, overlap_s: float) -> Iterator[Chunk]:
        samples, rate_hz, clip_samples = decoded.samples, self.audio.sample_rate_hz, self.audio.clip_samples
        hop_samples = window_hop_samples(self.audio, overlap_s)
        starts = window_starts(len(samples), clip_samples, hop_samples, round(MIN_TAIL_S * rate_hz))
        for first in range(0, len(starts), BATCH_SIZE):
            chunk = starts[first : first + BATCH_SIZE]
            clips = np.stack([fill(samples[x : x + clip_samples], clip_samples) for x in chunk])
            scores = self.probabilities(self._transform.images(clips))
            yield chunk / rate_hz, np.minimum(chunk + clip_samples, len(samples)) / rate_hz, scores


def load(path: str | Path | None = None, engine: str | None = None, decoder: str | None = None) -> Classifier:
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
        path: a fold's folder, a run's folder (the mean of its folds), an `.onnx` or a `.keras` file; `None` for
            the newest run below `./runs`.
        engine: `"onnx"` or `"keras"`, the files to take from folders; `None` for ONNX.
        decoder: `"soundfile"` or `"tfio"` in place of the model's own setting.

    Raises:
        ModelError: if there is no model, or it can't be used.
        ConfigError: if the engine or the decoder is unknown, or the engine doesn't read such a file.
    """
    return Classifier([load_engine(x) for x in resolve_model(path, engine)], decoder)


def _joined_id(ids: Sequence[str]) -> str:
    """For instance `20250601-101500/fold0+fold1` for two folds of a run."""
    run = ids[0].rpartition("/")[0]
    return "+".join([ids[0], *(x.removeprefix(f"{run}/") for x in ids[1:])])


def _check_member(first: Engine, other: Engine) -> None:
    check_labels(first.metadata.labels, other.metadata.labels, str(first.path), str(other.path))
    for section in ("audio", "mel"):
        a, b = getattr(first.metadata, section).model_dump(), getattr(other.metadata, section).model_dump()
        for key in a:
            # Where training took its crops doesn't matter to sliding windows.
            if a[key] != b[key] and (section, key) != ("audio", "crop"):
                raise ModelError(
                    f"The members of an ensemble must have the same {section} settings. Received: {section}.{key} is "
                    f"{a[key]} in {first.path} and {b[key]} in {other.path}"
                )
