"""A head of a few marked windows, in a second, and which windows to mark next.

`keras-birds train --embeddings` makes the head that is kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from keras_birds.embeddings.search import Space, duplicates, largest, products, unit
from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.errors import ConfigError, DataError

How = Literal["certain", "boundary", "spread", "random"]
WAYS: dict[How, str] = {
    "certain": "the highest scores: more of the call soon, and whether the head is right where it is sure",
    "boundary": "scores nearest to 0.5: where a mark teaches the head most",
    "spread": "from the highest score to the lowest, most of them high: what the head mistakes, wherever it does",
    "random": "any windows: how common the call is, and calls that sound like none of those marked",
}
"""Ways to choose the next windows, and what each is good for."""
DEFAULT_WAY: How = "boundary"
"""Needs the fewest marks: benchmarks/labels_saved.py."""
LEAST_MARKS = 2
"""Of each kind, before a head can learn from them."""
STRENGTH = 0.1
"""Of the fit to the marks, scikit-learn's C: from 0.001 to 0.1 about as many are needed."""

_STANDARD_OF = 1 << 13  # windows, for the mean and deviation of each number
_FLAT = 0.05  # of the median deviation: numbers that hardly differ say little, and would count for much
_CANDIDATES = 4096


@dataclass(frozen=True)
class Standard:
    """Mean and deviation `[size]` of each number of an embedding, by which all are measured alike."""

    mean: np.ndarray
    deviation: np.ndarray


@dataclass(frozen=True)
class QuickHead:
    """Logistic regression on embeddings: weights `[size]` and a bias."""

    weights: np.ndarray
    bias: float

    def probabilities(self, products: np.ndarray) -> np.ndarray:
        """Of vectors, by their products with the weights; classes count alike, however many were marked of each."""
        found: np.ndarray = 0.5 * (1 + np.tanh(0.5 * (products + np.float32(self.bias))))
        return found


def standard_of(vectors: np.ndarray) -> Standard:
    """Of embeddings `[n, size]`, at least one."""
    deviation = vectors.std(axis=0)
    moving = deviation[deviation > 0]
    floor = _FLAT * float(np.median(moving)) if len(moving) else 1.0
    return Standard(vectors.mean(axis=0), np.maximum(deviation, floor))


def store_standard(store: EmbeddingStore) -> Standard:
    """Of a store's windows, of 8,192 spread evenly where there are more; a `DataError` if it is empty."""
    if not len(store):
        raise DataError(f"{store.folder}: a head needs windows. Received: none")
    rows = np.unique(np.linspace(0, len(store) - 1, min(len(store), _STANDARD_OF)).round().astype(np.int64))
    return standard_of(store.vectors(rows))


def fit_head(
    vectors: np.ndarray, targets: np.ndarray, standard: Standard, strength: float = STRENGTH
) -> QuickHead:
    """Learns from marked windows.

    Args:
        vectors: embeddings `[n, size]`.
        targets: `[n]`, 1 for the call, 0 for none.
        standard: of the store, of which the few marked windows tell too little.
        strength: of the fit to the marks, scikit-learn's `C`.

    Raises:
        DataError: with fewer than two marks of either kind.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    counts = [int((targets == x).sum()) for x in (1, 0)]
    if min(counts) < LEAST_MARKS:
        rule = f"a head learns from at least {LEAST_MARKS} windows with the call and {LEAST_MARKS} without"
        raise DataError(f"{rule}. Received: {counts[0]} and {counts[1]}. Mark more")
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=200)
    with threadpool_limits(1, "blas"):
        model.fit((vectors - standard.mean) / standard.deviation, targets.astype(int))
    weights = model.coef_[0] / standard.deviation
    return QuickHead(weights.astype(np.float32), float(model.intercept_[0] - weights @ standard.mean))


def quick_head(
    store: EmbeddingStore, rows: np.ndarray, targets: np.ndarray, standard: Standard | None = None
) -> np.ndarray:
    """Learns from some windows of a store and scores all of them, in flat memory.

    Args:
        store: what is searched.
        rows: the marked windows `[n]`.
        targets: `[n]`, 1 for the call, 0 for none.
        standard: of the store; `None` to compute it.

    Returns:
        float32 `[len(store)]`: how probable the call is, were it as common as not.

    Raises:
        DataError: with fewer than two marks of either kind.
    """
    from threadpoolctl import threadpool_limits

    head = fit_head(store.vectors(rows), np.asarray(targets), standard or store_standard(store))
    found = np.empty(len(store), np.float32)
    with threadpool_limits(1, "blas"):
        for first, (part,) in products(store, Space("dot", head.weights), head.weights[None]):
            found[first : first + len(part)] = head.probabilities(part)
    return found


def suggest(
    store: EmbeddingStore, scores: np.ndarray, marked: np.ndarray, how: How, n: int = 12, seed: int = 0
) -> np.ndarray:
    """Chooses windows to mark next.

    Args:
        store: what is searched.
        scores: `[len(store)]`, as `quick_head` gives them.
        marked: rows that aren't chosen.
        how: one of `WAYS`.
        n: how many, fewer where there are no more.
        seed: draws what is drawn.

    Returns:
        Rows, in the order in which to mark them. No two of them overlap in a recording or are nearly the same sound.

    Raises:
        ConfigError: if the way is unknown.
    """
    left = np.ones(len(scores), bool)
    left[np.asarray(marked, np.int64)] = False
    rows = np.flatnonzero(left)
    return distinct(store, rows[order_of(scores[rows], how, n, seed)], n)


def order_of(scores: np.ndarray, how: How, n: int, seed: int) -> np.ndarray:
    """Places of scores, those to mark first at the beginning; at least n, or all."""
    if how not in get_args(How):
        raise ConfigError(f"the way to choose must be one of {', '.join(WAYS)}. Received: {how}")
    rng, count = np.random.default_rng(seed), max(n, _CANDIDATES)
    ways: dict[How, Callable[[], np.ndarray]] = {
        "certain": lambda: largest(scores, count),
        "boundary": lambda: largest(-np.abs(scores - 0.5), count),
        "spread": lambda: _spread(scores, n, rng),
        "random": lambda: rng.choice(len(scores), min(len(scores), count), replace=False),
    }
    return ways[how]()


def _spread(scores: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """One of each bin of ranks after the other; each bin is by the same factor larger than the one above it."""
    by_rank = np.argsort(-scores, kind="stable")
    edges = np.unique(np.geomspace(1, len(scores) + 1, n + 1).round().astype(int)) - 1
    bins = [rng.permutation(by_rank[a:b])[: max(1, _CANDIDATES // n)] for a, b in pairwise(edges)]
    rounds = range(max(map(len, bins), default=0))
    return np.array([x[k] for k in rounds for x in bins if k < len(x)], np.int64)


def distinct(store: EmbeddingStore, rows: np.ndarray, n: int) -> np.ndarray:
    """The first n of some rows that neither overlap in a recording nor are nearly the same sound."""
    found = np.zeros(0, np.int64)
    step = 4 * n
    for first in range(0, len(rows), step):
        some = np.concatenate([found, rows[first : first + step]])
        kept = duplicates(store.windows(some), unit(store.vectors(some))) < 0
        found = some[kept][:n]
        if len(found) == n:
            break
    return found
