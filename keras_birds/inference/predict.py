"""Answers for many recordings: finds them, scores each, and keeps going past the bad ones."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from keras_birds.audio.clips import window_hop_samples
from keras_birds.errors import AudioError
from keras_birds.inference.aggregate import RankedLabel, aggregate, check_method, top_labels
from keras_birds.inference.classifier import Classifier

SCORED = frozenset({"ok", "partial", "silent"})
"""Statuses of files that have scores."""


@dataclass(frozen=True)
class Prediction:
    """What became of one recording.

    Args:
        path: the file.
        status: `"ok"`, `"partial"` or `"silent"` where there are scores, else what is wrong with the file.
        reason: why the status isn't ok.
        seconds: how much decoded; 0 where nothing did.
        windows: how many were scored.
        unscored_s: a last partial window under 1 s that was dropped.
        top: the most probable labels; empty where nothing was scored.
    """

    path: Path
    status: str
    reason: str = ""
    seconds: float = 0.0
    windows: int = 0
    unscored_s: float = 0.0
    top: tuple[RankedLabel, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether there are no scores."""
        return self.status not in SCORED


def predict(
    classifier: Classifier,
    paths: Iterable[Path],
    overlap_s: float = 0.0,
    method: str = "mean",
    top_k: int = 5,
) -> Iterator[Prediction]:
    """Scores recordings one after the other. A file that can't be read gives a `Prediction` that says why.

    Args:
        classifier: the model.
        paths: audio files.
        overlap_s: how much each window shares with the one before.
        method: `"mean"` or `"max"` over a recording's windows.
        top_k: how many labels to keep.

    Raises:
        ConfigError: at once, if the overlap or the method can't be used.
        ModelError: on the way, if the model gives no numbers.
    """
    window_hop_samples(classifier.audio, overlap_s)
    check_method(method)
    return (_predict_one(classifier, path, overlap_s, method, top_k) for path in paths)


def _predict_one(classifier: Classifier, path: Path, overlap_s: float, method: str, top_k: int) -> Prediction:
    try:
        found = classifier.score_file(path, overlap_s)
    except AudioError as error:
        return Prediction(path, error.status, error.reason)
    top = top_labels(classifier.labels, aggregate(found.scores, method), top_k)
    windows = len(found.scores)
    return Prediction(path, found.status, found.reason, found.seconds, windows, found.unscored_s, top)
