"""Whether a score of 0.8 is right eight times in ten.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from keras_birds.plots.figure import COLORS, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 10


@dataclass(frozen=True, eq=False)
class Reliability:
    """Decisions (a recording and a label) sorted into bins of equal width by their score.

    Args:
        score: float `[bin]`, mean score; not a number in an empty bin.
        positive: float `[bin]`, share of positives.
        count: int `[bin]`, decisions.
    """

    score: np.ndarray
    positive: np.ndarray
    count: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of score and share, weighted by decisions."""
        used = self.count > 0
        distance = np.abs(self.score[used] - self.positive[used])
        return float(np.average(distance, weights=self.count[used])) if used.any() else float("nan")


def reliability(targets: np.ndarray, scores: np.ndarray, bins: int = BINS) -> Reliability:
    """Sorts decisions into bins.

    Args:
        targets: `[recording, label]` in 0 to 1; from 0.5 up is a positive; -1 is left out.
        scores: probabilities `[recording, label]`.
        bins: how many, between 0 and 1.
    """
    used = targets >= 0
    positive, score = targets[used] >= 0.5, scores[used].astype(np.float64)
    place = np.minimum((score * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(place, weights=x, minlength=bins) / count for x in (score, positive)]
    return Reliability(means[0], means[1], count)


def calibration_error(targets: np.ndarray, scores: np.ndarray) -> float:
    """Expected calibration error over all labels, as `Reliability.error`."""
    return reliability(targets, scores).error


def reliability_figure(curves: Mapping[str, Reliability], title: str) -> "Figure":
    """Share of positives against score, one line a curve, above the number of decisions in each bin.

    Args:
        curves: by name; the legend tells each one's calibration error.
        title: of the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 5.8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--", label="perfectly calibrated")
    for color, (name, curve) in zip(COLORS, curves.items(), strict=False):
        used = curve.count > 0
        label = f"{name}, expected calibration error {curve.error:.4f}"
        above.plot(curve.score[used], curve.positive[used], "o-", color=color, label=label)
        edges = np.linspace(0, 1, len(curve.count) + 1)
        below.stairs(curve.count, edges, color=color, linewidth=1.5)
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="Share of positives", title=title)
    above.legend(fontsize=8, loc="upper left")
    below.set(xlabel="Score", ylabel="Decisions", yscale="log")
    tidy(above, below)
    return figure
