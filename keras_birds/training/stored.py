"""Heads on the embeddings of a store: the settings that follow from it, what they learn from, and their backbone."""

from pathlib import Path

import numpy as np

from keras_birds.checksum import sha256_of
from keras_birds.config import Config
from keras_birds.data.annotated import read_data
from keras_birds.data.catalog import Catalog
from keras_birds.embeddings.marked import read_marked, stored_rows, unmarked_rows
from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.errors import ConfigError, DataError, ModelError
from keras_birds.models.find import resolve_model
from keras_birds.training.backbone import AddedBackbone
from keras_birds.training.embeddings import WindowEmbeddings

STORED = "stored"
"""As `model.backbone` and `model.pretrained`: what the store of `data.embeddings` was made with."""

_MOST_NEGATIVES = 4096


def with_store(config: Config) -> Config:
    """Settings as the store of `data.embeddings` makes them: how recordings are cut, and the model it was made with.

    Raises:
        ConfigError: if there is no store among the settings of a head on one.
        DataError: if it can't be read.
        ModelError: if its model isn't there.
    """
    if config.model.backbone != STORED:
        return config
    if not config.data.embeddings:
        raise ConfigError(
            'data.embeddings must name a store with model.backbone = "stored". Received: none; pass --embeddings STORE'
        )
    store = EmbeddingStore(Path(config.data.embeddings))
    name = store.model if config.model.pretrained == STORED else config.model.pretrained
    metadata = _backbone(store, name).metadata
    model = config.model.model_copy(update={"pretrained": name})
    # The run is read from other folders too.
    places = {
        x: str(Path(getattr(config.data, x)).resolve())
        for x in ("embeddings", "reviews")
        if getattr(config.data, x)
    }
    data = config.data.model_copy(update=places)
    changes = {"audio": store.audio, "mel": metadata.mel, "model": model, "data": data}
    return config.model_copy(update=changes)


def stored_backbone(config: Config) -> AddedBackbone:
    """The model of the store, of settings that `with_store` gave."""
    return _backbone(EmbeddingStore(Path(config.data.embeddings)), config.model.pretrained)


def _backbone(store: EmbeddingStore, name: str) -> AddedBackbone:
    way_out = "Say where it is now with --set model.pretrained=PATH"
    try:
        paths = resolve_model(name)
    except (ModelError, ConfigError):
        raise ModelError(
            f"{store.folder}: a head is joined to the model that the store was made with. Received: {name}, which "
            f"isn't there. {way_out}"
        ) from None
    for path in paths:
        if sha256_of(path) == store.model_sha256:
            return AddedBackbone(path)
    raise ModelError(
        f"{store.folder}: a head is joined to the model that the store was made with, {store.model_id}. Received: "
        f"{name}, which has another file. {way_out}"
    )


def read_learned(data: str | Path, config: Config) -> Catalog:
    """What a run learns from: reviewed windows of a store, or a data set's recordings or windows."""
    if config.data.embeddings and config.data.reviews:
        return read_marked(EmbeddingStore(Path(config.data.embeddings)), Path(config.data.reviews))
    return read_data(Path(data), config)


def check_stored(catalog: Catalog, config: Config) -> None:
    """Raises the errors of `stored_source` and `stored_negatives`."""
    if config.model.backbone == STORED:
        _rows(EmbeddingStore(Path(config.data.embeddings)), catalog)
        stored_negatives(catalog, config)


def _rows(store: EmbeddingStore, catalog: Catalog) -> list[range]:
    if catalog.known is not None:
        return [range(x, x + 1) for x in catalog.recordings["window"].tolist()]
    found = stored_rows(store, list(catalog.recordings["path"]))
    if not any(found):
        raise DataError(
            f"{store.folder} must hold the data set's recordings. Received: none of {len(found)}, such as "
            f"{catalog.recordings['path'][0]}. Embed them, or name another store"
        )
    return found


def stored_source(catalog: Catalog, config: Config) -> WindowEmbeddings:
    """Stored embeddings of reviewed windows, or of a data set's recordings; a `DataError` if there are none."""
    store = EmbeddingStore(Path(config.data.embeddings))
    rows = _rows(store, catalog)
    vectors = store.vectors(np.concatenate([np.array(x, np.int64) for x in rows])).astype(np.float16)
    return WindowEmbeddings(np.split(vectors, np.cumsum([len(x) for x in rows])[:-1]))


def stored_negatives(catalog: Catalog, config: Config) -> WindowEmbeddings | None:
    """Windows of the store's other recordings, as if they held none of the labels; `None` without any.

    Raises:
        DataError: if then a label is in every reviewed window that tells of it.
    """
    store = EmbeddingStore(Path(config.data.embeddings))
    rows = np.zeros(0, np.int64)
    if config.data.background_fraction:
        rows = unmarked_rows(store, catalog.recordings["path"], _MOST_NEGATIVES)
    if len(rows):
        return WindowEmbeddings(list(store.vectors(rows)[:, None]))
    if catalog.known is not None and not (lacking := (catalog.known == 0).any(axis=0)).all():
        label = catalog.labels[int(np.argmin(lacking))]
        raise DataError(
            f"a label must be absent from some window. Received: {label}, which is right in all that were reviewed. "
            "Mark windows without it as wrong, or embed recordings without any mark as well"
        )
    return None
