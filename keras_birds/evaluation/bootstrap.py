"""How much a figure would change with other recordings: the bootstrap over recordings.

Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13 (percentile intervals).
"""

import math
from dataclasses import dataclass

import numpy as np

SEED = 42
SAMPLES = 1000
LEVEL = 0.95
"""Share of the samples inside an interval."""

_SAMPLES_AT_ONCE = 100  # 11 MB of 28,000 recordings


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval; not a number where undefined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.low:.4f} to {self.high:.4f})"


def interval(value: float, draws: np.ndarray) -> Interval:
    """The percentile interval of a figure, from its value in each resample `[samples]`; not-a-numbers are left out."""
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def resamples(n: int, samples: int = SAMPLES) -> np.ndarray:
    """How often each of `n` recordings is drawn, in samples of `n` with replacement; int `[samples, n]`.

    Equal for equal arguments: figures of two models over the same recordings are paired.
    """
    rng = np.random.default_rng(SEED)
    return rng.multinomial(n, np.full(n, 1 / n), size=samples) if n else np.zeros((samples, 0), int)


def macro_auc_draws(
    targets: np.ndarray, scores: np.ndarray, samples: int = SAMPLES, recordings: np.ndarray | None = None
) -> np.ndarray:
    """Macro ROC-AUC of each resample, over the labels that have a positive and a negative in it.

    Equal to scikit-learn's `roc_auc_score` with the numbers of draws as weights, for all samples at once.

    Args:
        targets, scores: `[row, label]`; a target from 0.5 up is a positive, and one of -1 is left out.
        samples: how many.
        recordings: int `[row]`, from 0, where a recording has several rows: they are drawn together.

    Returns:
        float `[samples]`, not a number where no label qualifies.
    """
    rows = np.arange(len(targets)) if recordings is None else recordings
    # A row's counts lie side by side, so that rows are put in order quickly.
    counts = np.ascontiguousarray(resamples(int(rows.max(initial=-1)) + 1, samples).T.astype(np.int16))[rows]
    total, qualified = np.zeros(samples), np.zeros(samples, int)
    for label in range(targets.shape[1]):
        used = np.flatnonzero(targets[:, label] >= 0)
        areas = _weighted_auc(targets[used, label] >= 0.5, scores[used, label], counts[used])
        defined = np.isfinite(areas)
        total[defined] += areas[defined]
        qualified += defined
    return np.where(qualified > 0, total / np.maximum(qualified, 1), np.nan)


def _weighted_auc(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Areas `[samples]` of one label, for weights `[recording, samples]`."""
    if positive.all() or not positive.any():
        return np.full(weights.shape[1], np.nan)
    order = np.argsort(scores, kind="stable")
    negatives, positives = order[~positive[order]], order[positive[order]]
    places = [np.searchsorted(scores[negatives], scores[positives], side) for side in ("left", "right")]
    areas = []
    for first in range(0, weights.shape[1], _SAMPLES_AT_ONCE):
        part = weights[:, first : first + _SAMPLES_AT_ONCE]
        sums = np.zeros((len(negatives) + 1, part.shape[1]), np.int32)
        np.cumsum(part[negatives], axis=0, out=sums[1:])
        # A positive beats all negatives below it, and half of those at its own score.
        beaten, drawn = (sums[places[0]] + sums[places[1]]) / 2, part[positives]
        pairs = drawn.sum(axis=0) * sums[-1].astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            areas.append((drawn * beaten).sum(axis=0) / pairs)
    return np.concatenate(areas)
