"""Whether a score of 0.8 is right eight times in ten.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from keras_birds.plots.figure import COLORS, tidy


@dataclass(frozen=True, eq=False)
class Reliability:
    """Decisions (a recording and a label) sorted into bins of equal width by their score."""

    score: np.ndarray
    """Mean of each bin that isn't empty."""
    positive: np.ndarray
    """Share of positives of each bin that isn't empty."""
    count: np.ndarray
    """Decisions, `[bins]`."""

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of score and share, weighted by decisions."""
        if not len(self.score):
            return float("nan")
        return float(np.average(abs(self.score - self.positive), weights=self.count[self.count > 0]))


def reliability(targets: np.ndarray, scores: np.ndarray, bins: int = 10) -> Reliability:
    """Sorts decisions into bins between 0 and 1.

    Args:
        targets, scores: `[recording, label]`; targets from 0.5 up are positives, -1 is left out.
        bins: how many.
    """
    from sklearn.calibration import calibration_curve

    used = targets >= 0
    positive, score = targets[used] >= 0.5, scores[used].astype(np.float64)
    if not len(score):
        return Reliability(np.zeros(0), np.zeros(0), np.zeros(bins, int))
    count = np.bincount(np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], score), minlength=bins)
    share, mean = calibration_curve(positive, score, n_bins=bins)
    return Reliability(mean, share, count)


def reliability_figure(curves: Mapping[str, Reliability], title: str) -> Figure:
    """Share of positives against score, one line a curve, above the number of decisions in each bin.

    The legend tells the curves' names and calibration errors.
    """
    figure = Figure(figsize=(5.4, 5.8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--", label="perfectly calibrated")
    for color, (name, curve) in zip(COLORS, curves.items(), strict=False):
        label = f"{name}, expected calibration error {curve.error:.4f}"
        above.plot(curve.score, curve.positive, "o-", color=color, label=label)
        below.stairs(curve.count, np.linspace(0, 1, len(curve.count) + 1), color=color, linewidth=1.5)
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="Share of positives", title=title)
    above.legend(fontsize=8, loc="upper left")
    below.set(xlabel="Score", ylabel="Decisions", yscale="log")
    tidy(above, below)
    return figure
