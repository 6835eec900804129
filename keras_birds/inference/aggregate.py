"""From scores per window to an answer per recording, and from those of several models to one by their ranks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from keras_birds.errors import ConfigError
from keras_birds.inference.scorer import RecordingScores, RecordingStatus
from keras_birds.labels import Label, LabelSet

METHODS = ("mean", "max")


@dataclass(frozen=True)
class RankedLabel:
    """A label's place in a recording's answer; rank 1 is the most probable."""

    rank: int
    label: Label
    score: float


@dataclass(frozen=True)
class Prediction:
    """The answer for one recording; without any label where nothing was scored."""

    recording: RecordingStatus
    top: tuple[RankedLabel, ...] = ()


def aggregated(
    parts: Iterable[RecordingScores], method: str
) -> Iterator[tuple[RecordingStatus, np.ndarray | None]]:
    """One probability per label for each recording, as `aggregate`, of parts as they come; `None` without windows."""
    total: np.ndarray | None = None
    count = 0
    for part in parts:
        count, n = count + len(part.scores), len(part.scores)
        if n:
            found = aggregate(part.scores, method)
            before = found if total is None else total
            step = (found - before) * np.float32(n / count)
            total = before + step if method == "mean" else np.maximum(before, found)
        if part.is_last:
            yield part.recording, None if part.recording.failed else total
            total, count = None, 0


def answer(
    recording: RecordingStatus,
    scores: np.ndarray | None,
    labels: LabelSet,
    top_k: int = 5,
    allowed: np.ndarray | None = None,
) -> Prediction:
    """The most probable labels of a recording, at most `top_k`.

    Args:
        recording: what became of it.
        scores: one probability per label, `[label]`, over all its windows; `None` without any.
        labels: of the model.
        top_k: how many.
        allowed: whether each may be in the answer, `[label]`; `None` for all.
    """
    if scores is None:
        return Prediction(recording)
    if allowed is not None:
        scores, top_k = np.where(allowed, scores, -1), min(top_k, int(allowed.sum()))
    return Prediction(recording, top_labels(labels, scores, top_k))


def aggregate(scores: np.ndarray, method: str = "mean") -> np.ndarray:
    """One probability per label, float32 `[label]`, of those of at least one window, `[window, label]`.

    `"mean"` suits clips of one animal, `"max"` finds a single call in a long recording; else raises `ConfigError`.
    """
    if method not in METHODS:
        raise ConfigError(f"aggregate must be one of {', '.join(METHODS)}. Received: {method}")
    combined = scores.mean(axis=0) if method == "mean" else scores.max(axis=0)
    return combined.astype(np.float32)


def top_labels(labels: LabelSet, scores: np.ndarray, top_k: int) -> tuple[RankedLabel, ...]:
    """The most probable labels of scores `[label]`, best first, at most `top_k`; equal ones in the labels' order."""
    order = np.argsort(-scores, kind="stable")[:top_k]
    return tuple(RankedLabel(rank, labels.items[i], float(scores[i])) for rank, i in enumerate(order, 1))


def rank_average(members: np.ndarray) -> np.ndarray:
    """Averages models by rank, so that one whose probabilities lie higher doesn't count for more.

    Each model ranks the windows of a label. By their mean ranks windows get the values that the means of the models'
    probabilities have, the lowest the least: probabilities as high as those of an average, in another order.

    Args:
        members: probabilities `[window, member, label]` of all windows that are to be compared.

    Returns:
        float32 `[window, label]`; windows with one mean rank have one value.
    """
    from scipy.stats import rankdata

    members = np.asarray(members, np.float32)
    means = np.sort(members.mean(axis=1), axis=0)
    if len(means) < 2:
        return means
    places = rankdata(rankdata(members, axis=0).mean(axis=1), axis=0) - 1
    below = places.astype(np.intp)
    share = (places - below).astype(np.float32)
    above = np.minimum(below + 1, len(means) - 1)
    low, high = (np.take_along_axis(means, x, axis=0) for x in (below, above))
    return low + share * (high - low)
