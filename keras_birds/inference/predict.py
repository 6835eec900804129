"""One answer for each recording: its most probable labels over all windows."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_birds.inference.aggregate import RankedLabel, aggregate, check_method, top_labels
from keras_birds.inference.classifier import Classifier
from keras_birds.inference.recording_status import RecordingStatus
from keras_birds.inference.scorer import DEFAULT_OPTIONS, ScoreOptions, score_recordings


@dataclass(frozen=True)
class Prediction:
    """The answer for one recording.

    Args:
        recording: what became of it.
        top: the most probable labels; empty where nothing was scored.
    """

    recording: RecordingStatus
    top: tuple[RankedLabel, ...] = ()


def predict(
    classifier: Classifier,
    names: Iterable[str | Path],
    options: ScoreOptions = DEFAULT_OPTIONS,
    method: str = "mean",
    top_k: int = 5,
) -> Iterator[Prediction]:
    """Answers for recordings one after the other. One that can't be read gets a status that says why.

    Args:
        classifier: the model.
        names: paths or URLs.
        options: how they are cut and scored.
        method: `"mean"` or `"max"` over a recording's windows.
        top_k: how many labels to keep.

    Raises:
        ConfigError: at once, if the options or the method can't be used.
        ModelError: on the way, if the model gives no numbers.
    """
    check_method(method)
    found = score_recordings(classifier, names, options)
    return (
        Prediction(x.recording, _top(classifier, x.scores, method, top_k) if len(x.scores) else ())
        for x in found
    )


def _top(classifier: Classifier, scores: np.ndarray, method: str, top_k: int) -> tuple[RankedLabel, ...]:
    return top_labels(classifier.labels, aggregate(scores, method), top_k)
