"""What training reads of recordings and windows: images, sound or embeddings, with the manifest of each file."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from keras_birds.audio.files import recordings_in
from keras_birds.config import Config, MelConfig
from keras_birds.data.catalog import Catalog
from keras_birds.data.check import check_recordings
from keras_birds.data.mel_store import MelStore
from keras_birds.data.source import CachedSource, MelSource, OnTheFlySource, usable_of
from keras_birds.data.tables import load_table, write_table
from keras_birds.data.windows import Window, WindowSource
from keras_birds.errors import DataError
from keras_birds.progress import Reporter
from keras_birds.run_layout import BACKGROUND, MANIFEST
from keras_birds.training.backbone import added_backbone
from keras_birds.training.embeddings import EmbeddingSource
from keras_birds.training.stored import STORED, stored_source


def background_paths(config: Config) -> list[str]:
    """Audio files below `data.background`, sorted, at least one; none where the settings don't use them."""
    data = config.data
    if config.model.backbone == STORED:
        return []
    is_drawn = data.background_fraction and (data.background or data.unannotated != "background")
    if not is_drawn and not config.augment.background.probability:
        return []
    folder = Path(config.data.background)
    found = recordings_in(folder) if folder.is_dir() else []
    if not found:
        raise DataError(f"data.background must be a folder with recordings. Received: {folder}")
    return found


def catalog_source(
    directory: Path, catalog: Catalog, config: Config, reporter: Reporter | None = None
) -> MelSource:
    """Images of a catalog's recordings; the manifest is written, or with no reporter, must be there."""
    paths = list(catalog.recordings["path"])
    if config.model.backbone == STORED:
        source = stored_source(catalog, config)
        if reporter is not None:
            statuses = np.where(source.usable, "ok", "left out")
            table = pd.DataFrame({"path": paths, "status": statuses, "reason": source.reasons}, dtype=object)
            write_table(table.drop_duplicates("path"), directory / MANIFEST)
        return source
    if catalog.known is not None:
        return _window_source(directory / MANIFEST, catalog, config, reporter)
    if not config.data.store:
        return _computed_source(directory / MANIFEST, paths, config, reporter)
    store = MelStore(config.data.store, config, paths)
    if reporter is not None:
        statuses = np.where(store.usable, "ok", "left out")
        found = {"path": paths, "status": statuses, "reason": store.reasons}
        write_table(pd.DataFrame(found, dtype=object), directory / MANIFEST)
    return store


def _window_source(path: Path, catalog: Catalog, config: Config, reporter: Reporter | None) -> MelSource:
    """Inputs of a catalog's windows, each read from its place in the recording."""
    windows = catalog.recordings
    if config.model.input_kind == "embedding":
        embeddings = catalog_embeddings(catalog, config, reporter)
        if reporter is not None:
            write_table(embeddings.manifest.drop_duplicates("path"), path)
        return embeddings
    manifest = _manifest(path, list(dict.fromkeys(windows["path"])), config, reporter).set_index("path")
    columns = zip(windows["path"], windows["start_s"], windows["end_s"], strict=True)
    source = WindowSource([Window(Path(x), *times) for x, *times in columns], config.audio, mel_of(config))
    source.usable, source.reasons = usable_of(manifest.loc[windows["path"]])
    return CachedSource(source)


def catalog_embeddings(catalog: Catalog, config: Config, reporter: Reporter | None) -> EmbeddingSource:
    """Embeddings of a catalog's recordings, or of its windows."""
    recordings, backbone = catalog.recordings, added_backbone(config.model.pretrained).path
    windows = None if catalog.known is None else recordings["window"].to_numpy()
    overlap_s = 0.0 if windows is None else config.data.window_overlap_s
    return EmbeddingSource(backbone, config.audio, list(recordings["path"]), reporter, windows, overlap_s)


def background_source(
    directory: Path, paths: list[str], config: Config, reporter: Reporter | None = None
) -> MelSource | None:
    """Images of the recordings of `background_paths`; `None` where there are none."""
    if not paths:
        return None
    source = _computed_source(directory / BACKGROUND, paths, config, reporter)
    if not source.usable.any():
        raise DataError(
            f"data.background must hold recordings that can be read. Received: none in {config.data.background}; see "
            f"{directory / BACKGROUND}"
        )
    return source


def _computed_source(path: Path, paths: list[str], config: Config, reporter: Reporter | None) -> MelSource:
    """Inputs of recordings whose manifest an earlier part of the run saved, else is made and saved now."""
    if config.model.input_kind == "embedding":
        embeddings = EmbeddingSource(
            added_backbone(config.model.pretrained).path, config.audio, paths, reporter
        )
        if reporter is not None:
            write_table(embeddings.manifest, path)
        return embeddings
    manifest = _manifest(path, paths, config, reporter)
    source = OnTheFlySource(paths, config.audio, mel_of(config), manifest=manifest)
    return CachedSource(source) if config.audio.crop == "center" else source


def _manifest(path: Path, paths: list[str], config: Config, reporter: Reporter | None) -> pd.DataFrame:
    """What became of recordings, as an earlier part of the run saved it, else found out and saved now."""
    manifest = load_table(path, "a manifest", ("path", "status", "reason")) if path.is_file() else None
    # A command may find the data set by another path than training did; the split has said that it is the same.
    if manifest is not None and [Path(x).name for x in manifest["path"]] == [Path(x).name for x in paths]:
        manifest["path"] = pd.Series(paths, dtype=object)
    else:
        if reporter is None:
            raise DataError(f"{path} must list the data set's recordings. Received: none, or others")
        progress = partial(reporter.progress, "Checking recordings")
        workers, audio = max(1, config.training.workers), config.audio
        manifest = check_recordings(paths, audio, workers, progress).drop(columns="recorder")
        progress(0, 0)
        write_table(manifest, path)
    return manifest


def mel_of(config: Config) -> MelConfig | None:
    """The transform that makes a network's images; `None` where it takes sound or embeddings."""
    return config.mel if config.model.input_kind == "mel" else None
