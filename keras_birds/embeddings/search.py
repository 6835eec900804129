"""The windows of a store that are nearest to some embeddings: all are compared, in flat memory."""

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from keras_birds.embeddings.store import Block, EmbeddingStore, let_go
from keras_birds.errors import ConfigError, DataError
from keras_birds.parallel import map_in_order
from keras_birds.threads import available_cpus

if TYPE_CHECKING:
    import pandas as pd

    from keras_birds.embeddings.index import SearchIndex

METRICS = ("centred", "cosine", "dot")
"""How windows are compared: `centred` is the cosine of what they have beyond the store's mean window, which background
that all share no longer makes alike (`benchmarks/retrieval.py`: 6 to 8 points of mean average precision above cosine);
`dot` is the plain product, which loud or busy windows win."""

DUPLICATE = 0.999
"""Windows with a cosine above this are one sound twice: a file that was copied, or silence."""

MAX_HITS = 10_000

# 1 MB of float32 of BirdNET's 1024 numbers: what stays in a processor's cache between the conversion and the product.
_CHUNK_ROWS = 256
_FEW = 4  # queries, for which products of one vector each are sooner done
# By halves, since a product with all of 2 ** 112 could overflow.
_HALF_SCALE = np.float32(2.0**56)
_TABLE_BYTES = 1 << 27
_MEAN_OF = 1 << 13  # windows: the mean is known to 1 % of what they differ by
_TINY = np.float32(1e-20)
_ROUNDING_S = 1e-3
# Of an index, before all windows are compared after all.
_MOST_FROM_INDEX = 32


class Hit(NamedTuple):
    """A row of what `search` gives, with the same columns."""

    query: int
    rank: int
    similarity: float
    row: int
    file: str
    channel: int
    start_s: float
    end_s: float
    duplicate_of: int


class Space:
    """How a store's vectors are compared: the similarity of two is the product of what `of` makes of them.

    Args:
        metric: one of `METRICS`.
        mean: the store's mean vector `[size]`, for `centred`.
    """

    def __init__(self, metric: str, mean: np.ndarray):
        self.metric = metric
        self.mean = mean if metric == "centred" else np.zeros_like(mean)

    def of(self, vectors: np.ndarray) -> np.ndarray:
        """Float32 `[n, size]`: of length 1 each, zeros stay; for `dot` as they are."""
        return vectors if self.metric == "dot" else unit(vectors - self.mean)


def search(
    store: EmbeddingStore,
    queries: np.ndarray,
    top_k: int = 100,
    metric: str = "centred",
    per_recording: int | None = None,
    index: "SearchIndex | None" = None,
    joint: bool = True,
) -> "pd.DataFrame":
    """Finds the windows that are most similar to queries.

    Args:
        store: what is searched.
        queries: embeddings `[n, size]` by the store's model.
        top_k: how many hits at most, in one answer; up to 10,000.
        metric: one of `METRICS`.
        per_recording: how many hits at most may come from one recording; `None` for any number.
        index: gives candidates, whose similarities are then computed as without it; for `centred` only.
        joint: one answer, in which a window counts by the query it is most similar to; else one for each query.

    Returns:
        A row a hit, with the columns of `Hit`, by query (if not joint) and rank: `query` the number of the nearest
        query from 0, `rank` from 1, `row` the window's number in the store, `duplicate_of` the row of a better hit
        that is nearly the same (cosine above 0.999) or overlaps in the recording, else -1.

    Raises:
        DataError: if the queries have another shape, or aren't numbers.
        ConfigError: if the metric is unknown, or a number is out of range.
    """
    import pandas as pd
    from threadpoolctl import threadpool_limits

    queries = _checked(store, queries, top_k, metric, per_recording)
    if index is not None and metric != "centred":
        raise ConfigError(f"an index is of the metric centred. Received: {metric}")
    found = []
    # BLAS' own threads would wait for one another in each small product: 5 to 15 times as slow beside other programs.
    with threadpool_limits(1, "blas"):
        space = Space(metric, store_mean(store) if index is None else index.mean)
        placed = space.of(queries)
        groups = [placed] if joint else [x[None] for x in placed]
        answers: Iterator[np.ndarray]
        if index is not None:
            answers = (_from_index(store, index, space, x, top_k, per_recording) for x in groups)
        else:
            answers = _from_all(store, space, groups, top_k, per_recording)
        for k, (group, rows) in enumerate(zip(groups, answers, strict=True)):
            hits = _described(store, space, group, rows)
            found.append(hits if joint else hits.assign(query=k))
    return pd.concat(found, ignore_index=True)


def hits_of(table: "pd.DataFrame") -> list[Hit]:
    """The rows of what `search` gives."""
    return [Hit(*x) for x in table[list(Hit._fields)].itertuples(index=False, name=None)]


def store_mean(store: EmbeddingStore) -> np.ndarray:
    """The mean of a store's vectors, of 8,192 spread evenly where there are more: float32 `[size]`."""
    rows = np.unique(np.linspace(0, len(store) - 1, min(len(store), _MEAN_OF)).round().astype(np.int64))
    mean: np.ndarray = store.vectors(rows).mean(axis=0) if len(rows) else np.zeros(store.size, np.float32)
    return mean


def unit(vectors: np.ndarray) -> np.ndarray:
    """Of length 1 each; zeros stay."""
    scaled: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _TINY)
    return scaled


def _described(store: EmbeddingStore, space: Space, group: np.ndarray, rows: np.ndarray) -> "pd.DataFrame":
    """A group's hits; `query` is its number in the group."""
    vectors = store.vectors(rows)
    similar = space.of(vectors) @ group.T
    order = np.lexsort((rows, -similar.max(axis=1)))  # as this product rounds
    rows, vectors, similar = rows[order], vectors[order], similar[order]
    hits = store.windows(rows).assign(
        query=similar.argmax(axis=1), rank=np.arange(1, len(rows) + 1), similarity=similar.max(axis=1)
    )
    return hits.assign(duplicate_of=duplicates(hits, unit(vectors)))[list(Hit._fields)]


def _from_all(
    store: EmbeddingStore, space: Space, groups: list[np.ndarray], top_k: int, per_recording: int | None
) -> Iterator[np.ndarray]:
    """Rows of each group's hits, of all windows."""
    step = max(1, _TABLE_BYTES // 4 // max(1, len(store)))
    for first in range(0, len(groups), step):
        some = groups[first : first + step]
        best = np.empty((len(some), len(store)), np.float32)
        firsts = np.cumsum([0, *(len(x) for x in some[:-1])])
        for begin, part in products(store, space, np.concatenate(some)):
            best[:, begin : begin + part.shape[1]] = np.maximum.reduceat(part, firsts, axis=0)
        for row in best:
            yield _limited(store, row, np.arange(len(row)), top_k, per_recording)


def _from_index(
    store: EmbeddingStore,
    index: "SearchIndex",
    space: Space,
    group: np.ndarray,
    top_k: int,
    per_recording: int | None,
) -> np.ndarray:
    """Rows of a group's hits among what the index gives; of all windows where that is too little."""
    count = top_k if per_recording is None else 4 * top_k
    while count <= min(len(store), _MOST_FROM_INDEX * top_k):
        rows = np.unique(index.rows(group, count))
        parts = np.split(rows, range(_CHUNK_ROWS, len(rows), _CHUNK_ROWS))
        similar = np.concatenate([(space.of(store.vectors(x)) @ group.T).max(axis=1) for x in parts])
        found = _limited(store, similar, rows, top_k, per_recording)
        if len(found) == top_k:
            return found
        count *= 4
    return next(_from_all(store, space, [group], top_k, per_recording))


def _limited(
    store: EmbeddingStore, similar: np.ndarray, rows: np.ndarray, top_k: int, per_recording: int | None
) -> np.ndarray:
    """The rows of the greatest similarities, at most so many of a recording."""
    import pandas as pd

    count = top_k if per_recording is None else 4 * top_k
    while True:
        best = rows[largest(similar, count)]
        if per_recording is None:
            return best
        # By number: pandas can't group by names that aren't UTF-8.
        recordings = pd.Series(store.recordings_of(best))
        kept = best[(recordings.groupby(recordings).cumcount() < per_recording).to_numpy()]
        if len(kept) >= top_k or len(best) == len(rows):
            return kept[:top_k]
        count *= 4


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """Places of the greatest, the greatest first and of equals the first."""
    places = np.arange(len(values))
    if count < len(values):
        least = np.partition(values, len(values) - count)[len(values) - count]
        above, equal = np.flatnonzero(values > least), np.flatnonzero(values == least)
        places = np.concatenate([above, equal[: count - len(above)]])
    return places[np.lexsort((places, -values[places]))]


def products(store: EmbeddingStore, space: Space, queries: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """First row and similarities `[query, row]` to placed queries of a block after the other, on all processors.

    Of the metric `dot` these are the plain products. BLAS should have one thread, as in `search`.
    """
    factors = np.vstack([queries, space.mean])
    of_mean = factors @ space.mean
    scaled = factors * _HALF_SCALE
    is_few = len(factors) <= _FEW

    def product(block: Block) -> np.ndarray:
        found = np.empty((len(factors), len(block.vectors)), np.float32)
        chunk = np.empty((_CHUNK_ROWS, store.size), np.float32)
        for first in range(0, len(block.vectors), _CHUNK_ROWS):
            part = shrunk_floats(block.vectors[first : first + _CHUNK_ROWS], chunk)
            out = found[:, first : first + _CHUNK_ROWS]
            if is_few:
                for row, factor in zip(out, scaled, strict=True):
                    np.matmul(part, factor, out=row)
            else:
                out[:] = scaled @ part.T
        let_go(block.vectors)
        found *= _HALF_SCALE
        similar, with_mean = found[:-1], found[-1]
        if space.metric != "dot":
            # (v - mean) · q / |v - mean|, with nothing subtracted from a vector.
            squared = np.square(block.norms) - 2 * with_mean + of_mean[-1]
            similar -= of_mean[:-1, None]
            similar /= np.sqrt(np.maximum(squared, _TINY))
        return similar

    with closing(map_in_order(product, [iter(store.blocks())], available_cpus())) as parts:
        for block, part in parts:
            yield block.first_row, part


def shrunk_floats(vectors: np.ndarray, buffer: np.ndarray) -> np.ndarray:
    """Finite float16 `[n, size]` as float32 times 2 ** -112, in the first n rows of a buffer.

    The bits of sign, exponent and fraction are put where float32 has them, whose exponents count from 112 lower.
    NumPy's own conversion takes six times as long, one number at a time.
    """
    found = buffer[: len(vectors)]
    bits = found.view(np.int32)
    np.copyto(bits, vectors.view("<i2"))  # which repeats the sign to the left
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, np.int32(-0x70000001), out=bits)
    return found


def duplicates(hits: "pd.DataFrame", vectors: np.ndarray) -> np.ndarray:
    """Of each hit the row of the first one that is nearly the same; -1 for none, and for those first ones.

    Hits are as `EmbeddingStore.windows` describes them, their vectors `[n, size]` of length 1.
    """
    found = np.full(len(hits), -1, np.int64)
    row, start_s, end_s = (hits[x].to_numpy() for x in ("row", "start_s", "end_s"))
    file = hits["file"].factorize()[0]
    # Hits that are no duplicates lie close together, so that each product is one of a view.
    firsts, kept, count = np.empty(len(hits), np.intp), np.empty_like(vectors), 0
    for k, vector in enumerate(vectors):
        others = firsts[:count]
        overlaps = np.minimum(end_s[others], end_s[k]) - np.maximum(start_s[others], start_s[k]) > _ROUNDING_S
        same = (file[others] == file[k]) & overlaps | (kept[:count] @ vector > DUPLICATE)
        if same.any():
            found[k] = row[others[same.argmax()]]
        else:
            firsts[count], kept[count] = k, vector
            count += 1
    return found


def _checked(
    store: EmbeddingStore, queries: np.ndarray, top_k: int, metric: str, per_recording: int | None
) -> np.ndarray:
    for is_right, wanted, value in (
        (metric in METRICS, f"the metric must be one of {', '.join(METRICS)}", metric),
        (1 <= top_k <= MAX_HITS, f"the number of hits must be from 1 to {MAX_HITS:,}", top_k),
        (per_recording is None or per_recording >= 1, "hits per recording must be at least 1", per_recording),
    ):
        if not is_right:
            raise ConfigError(f"{wanted}. Received: {value}")
    queries = np.asarray(queries, np.float32)
    if queries.ndim != 2 or not len(queries) or queries.shape[1] != store.size:
        raise DataError(
            f"queries must be embeddings [n, {store.size}], as in {store.folder}. Received: shape "
            f"{list(queries.shape)}"
        )
    if not np.isfinite(queries).all():
        raise DataError("queries must be numbers. Received: NaN or infinity")
    return queries
