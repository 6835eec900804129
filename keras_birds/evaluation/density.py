"""How many windows hold a call, of windows that people reviewed by bins of the score: an estimate with its interval.

No threshold is needed: `P(call) = sum over bins of P(bin) P(call | bin)`, where the bins' sizes are known and people
say how often those drawn from a bin are right. Sources: Navine, Denton, Weldy and Hart 2024, "All thresholds barred:
direct estimation of call density in bioacoustic data", arXiv 2402.15360 (bins that halve, Beta distributions of each
bin's rate with 0.1 added to both counts); Cochran 1977, "Sampling Techniques", chapter 5 (stratified samples, Neyman's
allocation).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from keras_birds.errors import ConfigError
from keras_birds.evaluation.bootstrap import SEED, Interval, interval
from keras_birds.results.strata import bin_of

Method = Literal["bounds", "posterior", "bootstrap"]
"""How the rates of bins are drawn.

- `bounds`: from Beta distributions, for the interval's lower end with nothing added to the right reviews and for its
  upper end with nothing added to the wrong ones: bins in which nobody heard a call add none to the lower end;
- `posterior`: Navine et al.'s, one Beta distribution for both ends;
- `bootstrap`: by drawing each bin's reviews again.
"""
METHODS: tuple[Method, ...] = get_args(Method)

PRIOR = 0.1
"""What is added to the right and to the wrong reviews of a bin."""
DRAWS = 4000


@dataclass(frozen=True, eq=False)
class Bins:
    """Windows of a label by score, and what people said of some of them; arrays `[bin]`, the lowest scores first.

    Attributes:
        edges: `[bin + 1]`: a bin has scores from its edge to below the next; the last has all from its edge on.
        windows: how many there are.
        reviewed: how many of these people could tell.
        right: how many of these hold the call.
    """

    edges: np.ndarray
    windows: np.ndarray
    reviewed: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, edges: np.ndarray, scores: np.ndarray, reviewed: np.ndarray, target: np.ndarray) -> "Bins":
        """Counts: `scores` of all windows, `[window]`; rows of the reviewed ones, and whether each holds the call."""
        n, bins = len(edges) - 1, bin_of(edges, scores)
        counts = (bins, bins[reviewed], bins[reviewed[target > 0.5]])
        return cls(edges, *(np.bincount(x, minlength=n) for x in counts))

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def without_reviews(self) -> np.ndarray:
        """Bins with windows, of which nobody reviewed any."""
        return np.flatnonzero((self.reviewed == 0) & (self.windows > 0))


@dataclass(frozen=True, eq=False)
class Rates:
    """How often a window of each bin holds the call: the estimate `[bin]`, and draws `[draw, bin]` for both ends."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def draw_rates(bins: Bins, method: Method = "bounds", draws: int = DRAWS, seed: int = SEED) -> Rates:
    """Rates as far as reviews tell.

    A bin without reviews lies anywhere between its reviewed neighbours: above the highest up to 1, below the lowest
    down to 0.
    """
    if method not in METHODS:
        raise ConfigError(f"--method must be one of {', '.join(METHODS)}. Received: {method}")
    rng, n, right = np.random.default_rng(seed), bins.reviewed, bins.right
    wrong, size = n - right, (draws, len(bins))
    value = right / np.maximum(n, 1)
    if method == "bounds":
        low, high = _beta(rng, right, wrong + PRIOR, size), _beta(rng, right + PRIOR, wrong, size)
    elif method == "posterior":
        value = (right + PRIOR) / (n + 2 * PRIOR)
        low = high = _beta(rng, right + PRIOR, wrong + PRIOR, size)
    else:
        low = high = rng.binomial(n, value, size) / np.maximum(n, 1)
    position = rng.random(size)
    for rates, share in ((low, position), (high, position), (value[None], 0.5)):
        _fill(rates, np.flatnonzero(n), share)
    return Rates(value, low, high)


def _beta(rng: np.random.Generator, a: np.ndarray, b: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Draws of Beta distributions; of one without `a` all are 0, of one without `b` all are 1."""
    rates = rng.beta(np.maximum(a, 1e-9), np.maximum(b, 1e-9), size)
    return np.where(a <= 0, 0.0, np.where(b <= 0, 1.0, rates))


def _fill(rates: np.ndarray, known: np.ndarray, share: np.ndarray | float) -> None:
    """Puts bins without reviews between their neighbours."""
    for k in set(range(rates.shape[1])) - set(known.tolist()):
        below, above = known[known < k], known[known > k]
        low = rates[:, below[-1]] if len(below) else np.zeros(len(rates))
        high = rates[:, above[0]] if len(above) else np.ones(len(rates))
        at = share if isinstance(share, float) else share[:, k]
        rates[:, k] = low + (high - low) * at


def draw_calls(rates: Rates, windows: np.ndarray, right: np.ndarray | int = 0, seed: int = SEED) -> Rates:
    """Counts: as many of each bin's `windows` hold the call as rates say, and `right` more that are known."""
    rng = np.random.default_rng(seed + 1)
    low, high = (right + rng.binomial(windows, np.clip(x, 0, 1)) for x in (rates.low, rates.high))
    return Rates(right + windows * rates.value, low, high)


def known_calls(bins: Bins, rates: Rates, seed: int = SEED) -> Rates:
    """How many windows of each bin hold the call: the reviewed ones are known."""
    return draw_calls(rates, bins.windows - bins.reviewed, bins.right, seed)


def share_of(calls: Rates, windows: int) -> Interval:
    """The share of `windows` that hold the call, with its 95 % interval."""
    low, high = (x.sum(axis=1) / windows for x in (calls.low, calls.high))
    return _ends(float(calls.value.sum() / windows), low, high)


def prevalence(bins: Bins, method: Method = "bounds", draws: int = DRAWS, seed: int = SEED) -> Interval:
    """The share of windows that hold the call, with its 95 % interval."""
    return share_of(known_calls(bins, draw_rates(bins, method, draws, seed), seed), int(bins.windows.sum()))


def _ends(value: float, low: np.ndarray, high: np.ndarray) -> Interval:
    return Interval(value, interval(value, low).low, interval(value, high).high)


@dataclass(frozen=True)
class ThresholdRow:
    """What a threshold at the lower edge of a bin gives: detections, their precision, and the share of calls found."""

    threshold: float
    windows: int
    precision: Interval
    recall: Interval


def at_thresholds(bins: Bins, calls: Rates) -> list[ThresholdRow]:
    """Precision and recall of windows from each edge on, of `known_calls`; edges without windows above are left out."""
    rows = []
    for k in range(len(bins)):
        windows = int(bins.windows[k:].sum())
        if windows:
            above = [x[..., k:].sum(axis=-1) for x in (calls.value, calls.low, calls.high)]
            below = [x[..., :k].sum(axis=-1) for x in (calls.value, calls.high, calls.low)]
            with np.errstate(divide="ignore", invalid="ignore"):
                recall = [x / (x + y) for x, y in zip(above, below, strict=True)]
            precision = _ends(float(above[0] / windows), above[1] / windows, above[2] / windows)
            found = precision, _ends(float(recall[0]), recall[1], recall[2])
            rows.append(ThresholdRow(float(bins.edges[k]), windows, *found))
    return rows


def threshold_for(precision: float, rows: list[ThresholdRow]) -> ThresholdRow | None:
    """The lowest threshold whose estimated precision is at least so high; `None` where none is."""
    return next((x for x in rows if x.precision.value >= precision), None)


def reviews_to_halve(bins: Bins) -> np.ndarray:
    """How many more reviews of each bin would halve the interval of the prevalence, `[bin]`: as few as possible in all.

    The variance is the sum of `windows² rate (1 - rate) / reviewed (1 - reviewed / windows)`; more reviews go where
    they lessen it most (Neyman). Rates have the prior added, so that a bin where all were right or wrong gets some too.
    """
    size, least = bins.windows.astype(np.float64), np.maximum(bins.reviewed, np.minimum(1, bins.windows))
    rate = (bins.right + PRIOR) / (bins.reviewed + 2 * PRIOR)
    spread = size * np.sqrt(rate * (1 - rate))

    def plan(each: float) -> np.ndarray:
        return np.clip(each * spread, least, size)

    def variance(reviewed: np.ndarray) -> float:
        some = size > 0
        return float((spread[some] ** 2 / reviewed[some] * (1 - reviewed[some] / size[some])).sum())

    # Between what there is and all windows of every bin.
    low, high = 0.0, float(1 / np.sqrt(rate * (1 - rate)).min())
    wanted = variance(least) / 4
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if variance(plan(middle)) <= wanted else (middle, high)
    return np.ceil(plan(high) - 1e-6).astype(int) - bins.reviewed
