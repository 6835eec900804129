"""An approximate index of a store's windows, for stores so large that comparing all takes too long.

usearch's graph (HNSW, arXiv 1603.09320) over the vectors in 8 bits. It lies in the store's folder as `index.usearch`
and is read from there as it is needed, without being loaded.
"""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_birds.atomic import atomic_path
from keras_birds.embeddings.search import search, store_mean
from keras_birds.embeddings.store import EmbeddingStore, let_go
from keras_birds.errors import ConfigError, DataError

ADVISED_FROM = 5_000_000
"""Windows: from there on comparing all takes more than a second, and 10 GB of BirdNET's have to be in memory for it."""

# On windows made of BirdNET's of real ones, of the 100 nearest: with 128 while building 0.99 among 100,000 (3,000 a
# second and processor), with 64 0.98 among 40,000 and 0.89 among a million, where more effort in searching adds little.
_NEIGHBOURS, _EFFORT_BUILDING, _EFFORT = 16, 128, 1024
_ADDED_AT_ONCE = 1 << 13
_NAMES = "index.usearch", "index.json"


class SearchIndex:
    """A store's index, of the metric `centred`, which must be as old as the store.

    Attributes:
        mean: the store's mean vector, float32 `[size]`.
        recall: of the 100 nearest windows to some of the store's, how many the index found when it was built.

    Raises:
        DataError: if there is none, or the store changed since it was built.
        ConfigError: if usearch isn't installed.
    """

    def __init__(self, store: EmbeddingStore):
        path, about = (store.folder / x for x in _NAMES)
        try:
            told = json.loads(about.read_text("utf-8"))
            is_of_store = told["store"] == _state_of(store) and path.is_file()
            self.recall, self.mean = float(told["recall"]), np.array(told["mean"], np.float32)
        except (OSError, ValueError, KeyError, TypeError):
            is_of_store = False
        if not is_of_store:
            raise DataError(
                f"{store.folder} must have an index as old as itself. Received: none, or one from before the store "
                "changed. Build it with `keras-birds search --index`"
            )
        self._index = _usearch().restore(str(path), view=True)
        if self._index is None:
            raise DataError(
                f"{path} must be an index. Received: a damaged file. Remove it, and build it again"
            )
        self._index.expansion_search = _EFFORT

    def rows(self, queries: np.ndarray, count: int) -> np.ndarray:
        """As `search.NearRows`."""
        self._index.expansion_search = max(_EFFORT, count)
        # The row of a graph that is being searched costs little beside the way there: more are taken than asked for.
        found = [self._index.search(x, max(_EFFORT, count)).keys for x in _eight_bits(queries)]
        width = max(len(x) for x in found)
        padded = [np.pad(x.astype(np.int64), (0, width - len(x)), constant_values=-1) for x in found]
        return np.stack(padded)


def build_index(
    store: EmbeddingStore, on_done: Callable[[int], None] = lambda _: None, samples: int = 50, seed: int = 42
) -> SearchIndex:
    """Writes a store's index, in place of an older one, and finds out how good it is.

    Building takes about 1.5 kB of memory a window (BirdNET), searching none to speak of.

    Args:
        store: which.
        on_done: is told how many windows are in it.
        samples: how many of the store's windows are searched for, with and without it, for `recall`.
        seed: draws these.

    Raises:
        DataError: if the store is empty.
        ConfigError: if usearch isn't installed.
        KerasBirdsError: if it can't be written.
    """
    index = _usearch()(
        ndim=store.size, metric="cos", dtype="i8", connectivity=_NEIGHBOURS, expansion_add=_EFFORT_BUILDING
    )
    if not len(store):
        raise DataError(f"{store.folder}: an index needs windows. Received: none")
    path, about = (store.folder / x for x in _NAMES)
    about.unlink(missing_ok=True)
    mean = store_mean(store)
    for block in store.blocks(_ADDED_AT_ONCE):
        rows = block.first_row + np.arange(len(block.vectors), dtype=np.uint64)
        index.add(rows, _eight_bits(block.vectors - mean))
        let_go(block.vectors)
        on_done(int(rows[-1]) + 1)
    with atomic_path(path) as temporary:
        index.save(str(temporary))
    del index
    told = {"store": _state_of(store), "mean": mean.tolist(), "recall": math.nan}
    _write(about, told)
    _write(about, told | {"recall": recall_of(store, SearchIndex(store), samples, seed)})
    return SearchIndex(store)


def recall_of(store: EmbeddingStore, index: SearchIndex, samples: int, seed: int, top_k: int = 100) -> float:
    """Of the `top_k` nearest windows to some of the store's, the share that a search with the index finds."""
    chosen = np.random.default_rng(seed).choice(len(store), min(samples, len(store)), replace=False)
    queries = store.vectors(np.sort(chosen))
    answers = [search(store, queries, top_k, index=x, joint=False) for x in (index, None)]
    ours, exact = (set(zip(x["query"], x["row"], strict=True)) for x in answers)
    return len(ours & exact) / len(exact)


def _eight_bits(vectors: np.ndarray) -> np.ndarray:
    """int8 `[n, size]` with the same directions: each vector's greatest number becomes 127."""
    greatest = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), np.float32(1e-20))
    return np.rint(vectors * (127 / greatest)).astype(np.int8)


def _state_of(store: EmbeddingStore) -> str:
    """Differs when rows have moved or changed."""
    digest = hashlib.sha256(f"{store.model_sha256} {len(store)}".encode())
    for x in store.recordings:
        digest.update(f"{x.file}\0{x.windows}\0{x.fingerprint}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _write(path: Path, about: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(about) + "\n", "utf-8")


def _usearch() -> Any:
    try:
        from usearch.index import Index
    except ImportError:
        raise ConfigError(
            "an index needs usearch, which isn't installed. Received: --index. Run: pip install 'keras-birds[search]'"
        ) from None
    return Index
