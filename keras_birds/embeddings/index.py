"""An index of a store's windows, for stores so large that comparing all in full takes too long.

It keeps few numbers of each window, in the directions in which windows differ most (principal components). By these
most windows are ruled out; those that are left are compared in full. Facebook's FAISS names it `PCA, Refine`.
It lies in the store's folder and is read from there as it is needed.
"""

import hashlib
import json
import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from keras_birds.atomic import atomic_path
from keras_birds.embeddings.search import Space, search, store_mean
from keras_birds.embeddings.store import EmbeddingStore, let_go
from keras_birds.errors import DataError
from keras_birds.parallel import map_in_order
from keras_birds.threads import available_cpus

ADVISED_FROM = 1_000_000
"""Windows: from there on an answer by comparing all takes about a second."""

_COMPONENTS = 128
_MOST_SAMPLES = 1 << 14  # windows that the components are of
_CANDIDATES = 2000  # of a query, at least: what is compared in full
_ROWS_AT_ONCE = 1 << 16
_PRODUCTS_AT_ONCE = 1 << 25  # of queries and windows in memory: 400 MB with their order
_NUMBERS, _ABOUT = "index.npy", "index.json"


class SearchIndex:
    """A store's index, of the metric `centred`, which must be as old as the store.

    Attributes:
        mean: the store's mean vector, float32 `[size]`.
        recall: of the 100 nearest windows to some of the store's, how many the index found when it was built.

    Raises:
        DataError: if there is none, or the store changed since it was built.
    """

    def __init__(self, store: EmbeddingStore):
        try:
            told = json.loads((store.folder / _ABOUT).read_text("utf-8"))
            is_of_store = told["store"] == _state_of(store)
            self.recall, self.mean = float(told["recall"]), np.array(told["mean"], np.float32)
            self._components = np.array(told["components"], np.float32)
            self._numbers: np.ndarray = np.load(store.folder / _NUMBERS, mmap_mode="r")
            is_of_store &= self._numbers.shape == (len(store), len(self._components))
        except (OSError, ValueError, KeyError, TypeError):
            is_of_store = False
        if not is_of_store:
            raise DataError(
                f"{store.folder} must have an index as old as itself. Received: none, or one from before the store "
                "changed. Build it with `keras-birds search --index`"
            )

    def rows(self, queries: np.ndarray, count: int) -> np.ndarray:
        """Rows that are probably the nearest to each of `[n, size]` queries as `Space.of` gives them.

        Returns:
            int64 `[n, count]`, or more columns, in no order.
        """
        placed = queries @ self._components.T
        step = max(1, _PRODUCTS_AT_ONCE // len(self._numbers))
        found = [self._nearest(placed[x : x + step], 4 * count) for x in range(0, len(placed), step)]
        return np.concatenate(found)

    def _nearest(self, placed: np.ndarray, count: int) -> np.ndarray:
        wanted = min(max(_CANDIDATES, count), len(self._numbers))
        starts = range(0, len(self._numbers), _ROWS_AT_ONCE)

        def near(start: int) -> np.ndarray:
            part = self._numbers[start : start + _ROWS_AT_ONCE]
            return np.stack([part @ x for x in placed])

        with closing(map_in_order(near, [iter(starts)], available_cpus())) as parts:
            similar = np.concatenate([x for _, x in parts], axis=1)
        return np.argpartition(similar, len(self._numbers) - wanted)[:, -wanted:]


def build_index(store: EmbeddingStore, on_done: Callable[[int], None] = lambda _: None) -> SearchIndex:
    """Writes a store's index, in place of an older one, and finds out how good it is: by 50 of the store's windows.

    Args:
        store: which.
        on_done: is told how many windows are in it.

    Raises:
        DataError: if the store is empty.
        KerasBirdsError: if it can't be written.
    """
    if not len(store):
        raise DataError(f"{store.folder}: an index needs windows. Received: none")
    space = Space("centred", store_mean(store))
    chosen = _some_rows(store, _MOST_SAMPLES, seed=42)
    components = _components(space.of(store.vectors(chosen)))
    about = store.folder / _ABOUT
    about.unlink(missing_ok=True)
    with atomic_path(store.folder / _NUMBERS) as temporary:
        shape = len(store), len(components)
        numbers = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
        for block in store.blocks():
            end = block.first_row + len(block.vectors)
            numbers[block.first_row : end] = space.of(block.vectors.astype(np.float32)) @ components.T
            let_go(block.vectors)
            on_done(end)
        numbers.flush()
        del numbers  # Windows renames no file that is mapped
    told = {"store": _state_of(store), "mean": space.mean.tolist(), "components": components.tolist()}
    _write(about, told | {"recall": math.nan})
    _write(about, told | {"recall": _recall(store, SearchIndex(store), _some_rows(store, 50, seed=43))})
    return SearchIndex(store)


def _recall(store: EmbeddingStore, index: SearchIndex, rows: np.ndarray) -> float:
    """Of the 100 nearest windows to some of the store's, the share that a search with the index finds."""
    queries = store.vectors(rows)
    answers = [search(store, queries, 100, index=x, joint=False) for x in (index, None)]
    ours, exact = (set(zip(x["query"], x["row"], strict=True)) for x in answers)
    return len(ours & exact) / len(exact)


def _some_rows(store: EmbeddingStore, count: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).choice(len(store), min(count, len(store)), replace=False))


def _components(vectors: np.ndarray) -> np.ndarray:
    """The directions in which placed vectors `[n, size]` are longest: float32 `[component, size]`, each of length 1."""
    _, directions = np.linalg.eigh(vectors.T @ vectors)
    return np.ascontiguousarray(directions[:, ::-1][:, :_COMPONENTS].T)


def _state_of(store: EmbeddingStore) -> str:
    """Differs when rows have moved or changed."""
    digest = hashlib.sha256(f"{store.model_sha256} {len(store)}".encode())
    for x in store.recordings:
        digest.update(f"{x.file}\0{x.windows}\0{x.fingerprint}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _write(path: Path, about: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(about) + "\n", "utf-8")
