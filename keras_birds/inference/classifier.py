"""A trained model or an ensemble of them, ready to score recordings."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import soxr

from keras_birds.audio.band import in_band
from keras_birds.audio.clips import Window, fill, sliding_windows, window_hop_samples
from keras_birds.audio.reader import MIN_SECONDS
from keras_birds.audio.stream import Channel, open_stream
from keras_birds.config import Config
from keras_birds.errors import AudioError, DataError
from keras_birds.inference.aggregate import RankedLabel, top_labels
from keras_birds.inference.embedder import Embedder
from keras_birds.inference.scorer import RecordingScores, ScoreOptions, score_recordings
from keras_birds.models.engines import Engine, load_engine
from keras_birds.models.ensemble import Ensemble
from keras_birds.models.find import resolve_model
from keras_birds.parallel import map_in_order
from keras_birds.threads import available_cpus

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from pandas import DataFrame

_WINDOWS_AT_ONCE = 16
_Item = TypeVar("_Item")


class Classifier(Ensemble):
    """One model or an ensemble, with what reads its files.

    Args:
        engines: as for `Ensemble`.
        decoder: reads the files instead of the decoder in the model's settings.
        calibrated: as for `Ensemble`.
        sensitivity: as for `Ensemble`.

    Raises:
        ModelError: naming the member that differs and in what, or that has no calibration.
        ConfigError: if the decoder is unknown, or the sensitivity can't be used.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        decoder: str | None = None,
        calibrated: bool = False,
        sensitivity: float = 1.0,
    ):
        super().__init__(engines, calibrated, sensitivity)
        if decoder is not None:
            audio = {**self.audio.model_dump(), "decoder": decoder}
            self.audio = Config.parse({"audio": audio, "mel": self.mel}, "load").audio

    def predict(self, clips: "ArrayLike", sample_rate_hz: int) -> np.ndarray:
        """Scores sound in memory.

        ```python
        classifier = keras_birds.load("animals")
        classifier.predict(np.zeros((8, 160_000), np.float32), 32_000)  # [8, 11]: a row a clip
        classifier.predict(np.zeros(60 * 48_000, np.float32), 48_000)  # [12, 11]: a row a window of 5 s
        ```

        Args:
            clips: floating-point samples in [-1, 1]: `[samples]`, a recording of any length, cut into windows as
                `scores` cuts a file; or `[n, samples]`, clips no longer than a window, filled as the model wants it.
            sample_rate_hz: of the samples as they were recorded; they are slowed, resampled (soxr, HQ) and filtered as
                the model's settings say.

        Returns:
            float32 probabilities `[window, label]`, or `[n, label]`.

        Raises:
            DataError: if the array has another shape or type, is too short or too long, or holds NaN or infinity.
        """
        return self._map_clips(self.score_clips, clips, sample_rate_hz)

    def embeddings(
        self, recording: "str | Path | ArrayLike", sample_rate_hz: int | None = None
    ) -> np.ndarray:
        """The numbers that the head takes of each window: what sounds alike lies close together.

        ```python
        birdnet = keras_birds.load("birdnet")
        birdnet.embeddings("clip.ogg")  # [window, 1024]
        birdnet.embeddings(np.zeros(60 * 48_000, np.float32), 48_000)  # [20, 1024]
        ```

        Args:
            recording: a file or its URL, or samples as `predict` takes them.
            sample_rate_hz: of samples.

        Returns:
            float32 `[window, size]`, as `predict` and `scores` cut; `size` is `embedding_size`.

        Raises:
            AudioError: if a file can't be read.
            DataError: as `predict`.
            ModelError: if the model gives no embeddings, or is an ensemble of networks of their own.
        """
        embedder = Embedder(self)
        if not isinstance(recording, str | Path):
            return self._map_clips(self.embed_clips, recording, sample_rate_hz or 0)
        (found,) = score_recordings(embedder, [recording])
        if found.recording.failed:
            raise AudioError(recording, found.recording.reason, found.recording.status)
        return found.scores

    def _map_clips(
        self, score: Callable[[list[np.ndarray]], np.ndarray], clips: "ArrayLike", sample_rate_hz: int
    ) -> np.ndarray:
        samples, audio = _checked(np.asarray(clips), sample_rate_hz), self.audio
        if samples.ndim == 2 and samples.shape[1] > round(audio.window_s * sample_rate_hz):
            raise DataError(
                f"clips must be at most as long as the model's window, {audio.window_s:g} s. Received: "
                f"{samples.shape[1] / sample_rate_hz:g} s. Pass one recording as [samples]: it is cut into windows"
            )
        if sample_rate_hz != audio.resample_hz:
            samples = soxr.resample(samples.T, sample_rate_hz, audio.resample_hz, quality="HQ").T
        samples = np.apply_along_axis(in_band, -1, samples, audio)
        n, is_one = audio.clip_samples, samples.ndim == 1
        windows = sliding_windows([samples[:, None]], audio) if is_one else ()
        found = (x.clip for x in windows) if is_one else (fill(x, n, audio.fill)[:n] for x in samples)
        scored = map_in_order(score, [_batched(found)], available_cpus())
        return np.concatenate([x for _, x in scored])

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
        found = self.score_file(path, overlap_s)
        return self._frame(np.stack([found.start_s, found.end_s], axis=1), found.scores)

    def score_file(self, path: str | Path, overlap_s: float = 0.0) -> RecordingScores:
        """As `scores`, as arrays and with what became of the file."""
        (found,) = score_recordings(self, [path], ScoreOptions(overlap_s))
        if found.recording.failed:
            raise AudioError(path, found.recording.reason, found.recording.status)
        return found

    def stream(
        self, path: str | Path, overlap_s: float = 0.0
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """As `scores`, in flat memory: some windows at a time, while the recording is being decoded.

        Errors come as in `scores`, when what was read before the file broke off has been given.

        Yields:
            `start_s [n]`, `end_s [n]` (seconds, float64) and float32 probabilities `[n, label]`, n at most 16.
        """
        rate_hz = self.audio.resample_hz
        for windows, scores in self._map_windows(self.score_clips, path, overlap_s):
            start_s, length_s = np.array([(x.start_samples, x.n_samples) for x in windows]).T / rate_hz
            yield start_s, start_s + length_s, scores

    def frame_scores(self, path: str | Path, channel: Channel = "mix") -> "DataFrame":
        """Scores the frames of a recording, as models with an attention head can (`model.head = "attention"`).

        Args:
            path: an audio file or its URL.
            channel: `"mix"`, the mean over channels, or a number from 1.

        Returns:
            As `scores`, one row a frame, but not calibrated. Windows don't overlap.

        Raises:
            AudioError: if the file can't be read.
            ModelError: if a member has no attention head, or another number of frames.
        """
        rate_hz, frame_s = self.audio.resample_hz, self.audio.window_s / self.frame_engines()[0].num_frames
        spans, scores = [np.zeros((0, 2))], [np.zeros((0, len(self.labels)), np.float32)]
        for windows, found in self._map_windows(self.score_frames, path, 0.0, channel):
            for window, frames in zip(windows, found, strict=True):
                length_s = window.n_samples / rate_hz
                first_s = frame_s * np.arange(len(frames))
                inside = first_s < length_s - 1e-6
                last_s = np.minimum(first_s + frame_s, length_s)
                spans.append(window.start_samples / rate_hz + np.stack([first_s, last_s], axis=1)[inside])
                scores.append(frames[inside])
        return self._frame(np.concatenate(spans), np.concatenate(scores))

    def _map_windows(
        self,
        score: Callable[[list[np.ndarray]], np.ndarray],
        path: str | Path,
        overlap_s: float,
        channel: Channel = "mix",
    ) -> Iterator[tuple[list[Window], np.ndarray]]:
        window_hop_samples(self.audio, overlap_s)
        with open_stream(path, self.audio, channel) as stream:
            windows = sliding_windows(stream.blocks, self.audio, overlap_s, stream.channel_ids)
            yield from map_in_order(
                lambda x: score([y.clip for y in x]), [_batched(windows)], available_cpus()
            )

    def _frame(self, spans_s: np.ndarray, scores: np.ndarray) -> "DataFrame":
        import pandas as pd

        columns = pd.DataFrame(scores, columns=list(self.labels))
        return pd.concat([pd.DataFrame(spans_s, columns=["start_s", "end_s"]), columns], axis=1)


def load(
    path: str | Path | None = None,
    engine: str | None = None,
    decoder: str | None = None,
    provider: str | None = None,
    calibrated: bool = False,
    sensitivity: float = 1.0,
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
        path: a fold's folder, a run's folder (the mean of its folds), an `.onnx` or a `.keras` file, the name of an
            added or a shipped model, or the folder or URL of a shared one (`hf://user/model`, pinned by `@sha256:HEX`,
            see `save_preset`); `None` for the newest run below `./runs`, or where there is none, BirdNET if it was
            added, else the shipped model.
        engine: `"onnx"` or `"keras"`, the files to take from folders; `None` for ONNX.
        decoder: `"soundfile"` or `"tfio"` in place of the model's own setting.
        provider: what ONNX Runtime computes on: `"cpu"`, `"cuda"`, ...; `None` for CUDA where it is there.
        calibrated: whether scores are calibrated, as `keras-birds calibrate` found for the run.
        sensitivity: BirdNET-Analyzer's, 0.5 to 1.5.

    Raises:
        ModelError: if there is no model, it can't be used, or it has no calibration.
        ConfigError: if the engine, the decoder or the provider is unknown, the engine doesn't read such a file, or the
            sensitivity can't be used.
    """
    engines = [load_engine(x, provider) for x in resolve_model(path, engine)]
    return Classifier(engines, decoder, calibrated, sensitivity)


class LiveWindow(NamedTuple):
    """What was detected from `start_s` to `end_s` of the sound, the most probable first."""

    start_s: float
    end_s: float
    detections: tuple[RankedLabel, ...]
    scores: np.ndarray
    """float32 probabilities of all labels, `[label]`."""


def listen(
    ensemble: Ensemble, blocks: Iterable[np.ndarray], overlap_s: float, thresholds: np.ndarray
) -> Iterator[LiveWindow]:
    """Scores a sound that goes on, each window as soon as it has ended, in flat memory; times never drift.

    Args:
        ensemble: the model.
        blocks: float32 `[n, 1]` as of `as_taken`, as they come.
        overlap_s: how much each window shares with the one before.
        thresholds: least probability of each label, `[label]`; above 1 for labels that aren't wanted.

    Raises:
        AudioError: if samples are no numbers.
        ConfigError: if the overlap is negative or as long as the clip.
    """
    rate_hz = ensemble.audio.resample_hz
    for window in sliding_windows(blocks, ensemble.audio, overlap_s):
        if not np.isfinite(window.clip).all():
            raise AudioError("-", "holds NaN samples")
        (scores,) = ensemble.score_clips([window.clip])
        ranked = top_labels(ensemble.labels, np.where(scores >= thresholds, scores, -1), len(scores))
        end_s = (window.start_samples + window.n_samples) / rate_hz
        found = tuple(x for x in ranked if x.score >= 0)
        yield LiveWindow(window.start_samples / rate_hz, end_s, found, scores)


def _batched(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    rest = iter(items)
    return iter(lambda: list(islice(rest, _WINDOWS_AT_ONCE)), [])


def _checked(samples: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """`predict`'s samples as float32."""
    if samples.ndim not in (1, 2) or not np.issubdtype(samples.dtype, np.floating):
        raise DataError(
            "clips must be floating-point samples in [-1, 1], [samples] or [n, samples]. Received: "
            f"{samples.dtype} {list(samples.shape)}"
        )
    if sample_rate_hz <= 0:
        raise DataError(
            f"samples need their rate, sample_rate_hz, above 0. Received: {sample_rate_hz or 'none'}"
        )
    if not len(samples) or samples.shape[-1] < MIN_SECONDS * sample_rate_hz:
        mix = ". Pass the mean of a recording's channels, as [samples]" * (samples.ndim == 2)
        raise DataError(
            f"clips must hold at least {MIN_SECONDS:g} s of sound, [samples] or [n, samples]. Received: shape "
            f"{list(samples.shape)} at {sample_rate_hz} Hz{mix}"
        )
    if not np.isfinite(samples).all():
        raise DataError("clips must hold numbers only. Received: NaN or infinity")
    return samples.astype(np.float32, copy=False)
