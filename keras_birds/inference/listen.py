"""Detections of a sound that goes on, each as soon as its window has ended."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from keras_birds.audio.clips import sliding_windows
from keras_birds.errors import AudioError
from keras_birds.inference.classifier import Classifier
from keras_birds.labels import Label


class LiveDetection(NamedTuple):
    """A label in a window of the sound, `start_s` and `end_s` from its beginning."""

    start_s: float
    end_s: float
    label: Label
    score: float


class LiveWindow(NamedTuple):
    """What was found from `start_s` to `end_s`, the most probable first."""

    start_s: float
    end_s: float
    detections: tuple[LiveDetection, ...]


def listen(
    classifier: Classifier,
    blocks: Iterable[np.ndarray],
    overlap_s: float,
    thresholds: np.ndarray,
) -> Iterator[LiveWindow]:
    """Scores a sound window by window, in flat memory.

    Times are counted in samples: they don't drift, however long it goes on.

    Args:
        classifier: the model.
        blocks: float32 `[n, 1]` at the model's rate, as they come.
        overlap_s: how much each window shares with the one before.
        thresholds: least probability of each label; above 1 for labels that aren't wanted.

    Yields:
        Every window, with or without detections.

    Raises:
        AudioError: if samples are no numbers.
        ConfigError: if the overlap is negative or as long as the clip.
    """
    audio = classifier.audio
    for window in sliding_windows(blocks, audio, overlap_s):
        if not np.isfinite(window.clip).all():
            raise AudioError("-", "holds NaN samples")
        scores = classifier.probabilities(classifier.inputs(window.clip[None]))[0]
        chosen = np.flatnonzero(scores >= thresholds)
        start_s = window.start_samples / audio.sample_rate_hz
        end_s = start_s + window.n_samples / audio.sample_rate_hz
        found = (
            LiveDetection(start_s, end_s, classifier.labels.items[k], float(scores[k]))
            for k in chosen[np.argsort(-scores[chosen], kind="stable")]
        )
        yield LiveWindow(start_s, end_s, tuple(found))
