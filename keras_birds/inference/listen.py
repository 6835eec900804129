"""Detections of a sound that goes on, each as soon as its window has ended."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from keras_birds.audio.clips import sliding_windows
from keras_birds.errors import AudioError
from keras_birds.inference.aggregate import RankedLabel, top_labels
from keras_birds.inference.ensemble import Ensemble


class LiveWindow(NamedTuple):
    """What was detected from `start_s` to `end_s` of the sound, the most probable first."""

    start_s: float
    end_s: float
    detections: tuple[RankedLabel, ...]


def listen(
    ensemble: Ensemble, blocks: Iterable[np.ndarray], overlap_s: float, thresholds: np.ndarray
) -> Iterator[LiveWindow]:
    """Scores a sound window by window, in flat memory.

    Times are counted in samples: they don't drift, however long it goes on.

    Args:
        ensemble: the model.
        blocks: float32 `[n, 1]` at the model's rate, as they come.
        overlap_s: how much each window shares with the one before.
        thresholds: least probability of each label, `[label]`; above 1 for labels that aren't wanted.

    Yields:
        Every window, with or without detections.

    Raises:
        AudioError: if samples are no numbers.
        ConfigError: if the overlap is negative or as long as the clip.
    """
    rate_hz = ensemble.audio.sample_rate_hz
    for window in sliding_windows(blocks, ensemble.audio, overlap_s):
        if not np.isfinite(window.clip).all():
            raise AudioError("-", "holds NaN samples")
        (scores,) = ensemble.score_clips([window.clip])
        ranked = top_labels(ensemble.labels, np.where(scores >= thresholds, scores, -1), len(scores))
        start_s = window.start_samples / rate_hz
        yield LiveWindow(
            start_s, start_s + window.n_samples / rate_hz, tuple(x for x in ranked if x.score >= 0)
        )
