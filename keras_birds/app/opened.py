"""The store and the model that the page "Find" works with: opened once for all visitors."""

from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np

from keras_birds.app.cards import cards_of
from keras_birds.embeddings.queries import store_model
from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.embeddings.teach import (
    DEFAULT_WAY,
    LEAST_MARKS,
    Standard,
    quick_head,
    store_standard,
    suggest,
)
from keras_birds.errors import KerasBirdsError
from keras_birds.inference.classifier import Classifier
from keras_birds.results.journal import JOURNAL


@lru_cache(2)
def opened(folder: Path) -> tuple[EmbeddingStore, Standard | None, int]:
    """A store for all visitors, as it was when it was opened: rows must stay what they are while people mark."""
    changed_ns = (folder / JOURNAL).stat().st_mtime_ns if (folder / JOURNAL).exists() else 0
    store = EmbeddingStore(folder)
    return store, store_standard(store) if len(store) else None, changed_ns


def warm_up(folder: Path, model: str | None) -> None:
    """Does once what the first visitor would wait for; a `DataError` if the folder is no store."""
    store, standard, _ = opened(folder)
    with suppress(
        KerasBirdsError
    ):  # told on the page, where windows that are marked already can be searched for
        classifier = model_of(store, model)
        classifier.embed_clips([np.zeros(classifier.audio.clip_samples, np.float32)])
    if len(store) > 2 * LEAST_MARKS:
        rows = np.arange(2 * LEAST_MARKS)
        scores = quick_head(store, rows, np.arange(2 * LEAST_MARKS) % 2, standard)
        suggest(store, scores, rows, DEFAULT_WAY, 1)
        cards_of(store.windows(rows[:1]), store.audio)


def model_of(store: EmbeddingStore, model: str | None) -> Classifier:
    """Loads a store's model once for all visitors: by the store's name for it, or else the given one.

    Raises:
        ModelError: if it is gone, or another.
    """
    found = _loaded(store, model)
    if isinstance(found, KerasBirdsError):
        raise found
    return found


@lru_cache(2)
def _loaded(store: EmbeddingStore, model: str | None) -> Classifier | KerasBirdsError:
    problem: KerasBirdsError
    try:
        return store_model(store)
    except KerasBirdsError as error:
        problem = error
    if model is None:
        return problem
    try:
        return store_model(store, model)
    except KerasBirdsError as error:
        return error
