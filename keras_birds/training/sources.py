"""Where a run's images come from: every recording is decoded once, and the manifest tells what became of it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from keras_birds.audio.files import recordings_in
from keras_birds.config import Config
from keras_birds.data.cache import CachedSource
from keras_birds.data.catalog import Catalog
from keras_birds.data.check import check_recordings
from keras_birds.data.mel_store import MelStore
from keras_birds.data.review_source import ReviewedSource, read_reviewed
from keras_birds.data.source import LiveSource, MelSource
from keras_birds.data.tables import load_table, write_table
from keras_birds.errors import DataError
from keras_birds.run_layout import BACKGROUND, MANIFEST

Progress = Callable[[int, int], None]


def make_source(run: Path, catalog: Catalog, config: Config, progress: Progress) -> MelSource:
    """Images of a catalog's recordings, each of which was decoded once; the manifest is written.

    Args:
        run: its directory.
        catalog: the recordings.
        config: the settings.
        progress: is told how many recordings are checked, of how many; 0 of 0 at the end.
    """
    paths = list(catalog.recordings["path"])
    if config.data.store:
        store = MelStore(config.data.store, config, paths)
        statuses = np.where(store.usable, "ok", "left out")
        found = {"path": paths, "status": statuses, "reason": store.reasons}
        write_table(pd.DataFrame(found, dtype=object), run / MANIFEST)
        return store
    return _live_source(paths, config, _make_manifest(run / MANIFEST, paths, config, progress))


def background_paths(config: Config) -> list[str]:
    """Audio files below `data.background`, sorted; none where the settings don't use them.

    Raises:
        DataError: if there are none.
    """
    if not config.data.background_fraction and not config.augment.background.probability:
        return []
    folder = Path(config.data.background)
    found = recordings_in(folder) if folder.is_dir() else []
    if not found:
        raise DataError(f"data.background must be a folder with recordings. Received: {folder}")
    return found


def make_background(run: Path, paths: list[str], config: Config, progress: Progress) -> MelSource | None:
    """Images of background recordings, as `make_source`; `None` where there are no paths.

    Raises:
        DataError: if none of them can be read.
    """
    if not paths:
        return None
    source = _live_source(paths, config, _make_manifest(run / BACKGROUND, paths, config, progress))
    if not source.usable.any():
        raise DataError(
            f"data.background must hold recordings that can be read. Received: none in {config.data.background}; see "
            f"{run / BACKGROUND}"
        )
    return source


def open_background(run: Path, config: Config) -> MelSource | None:
    """As `make_background`, of a run whose manifests are written."""
    paths = background_paths(config)
    return _live_source(paths, config, _require_manifest(run / BACKGROUND, paths)) if paths else None


def open_reviewed(catalog: Catalog, config: Config) -> ReviewedSource | None:
    """Windows of `data.reviews`; `None` where the settings name none.

    Raises:
        DataError: if there are none, or one can't be used.
    """
    if not config.data.reviews:
        return None
    return read_reviewed(config.data.reviews, config.audio, config.mel, catalog.labels)


def open_source(run: Path, catalog: Catalog, config: Config) -> MelSource:
    """As `make_source`, of a run whose manifest is written.

    Raises:
        DataError: if it isn't.
    """
    paths = list(catalog.recordings["path"])
    if config.data.store:
        return MelStore(config.data.store, config, paths)
    return _live_source(paths, config, _require_manifest(run / MANIFEST, paths))


def _live_source(paths: list[str], config: Config, manifest: pd.DataFrame) -> MelSource:
    source = LiveSource(paths, config.audio, config.mel, manifest=manifest)
    return CachedSource(source) if config.audio.crop == "center" else source


def _make_manifest(path: Path, paths: list[str], config: Config, progress: Progress) -> pd.DataFrame:
    """What became of each recording: as an earlier part of the run found it, else found now and saved."""
    manifest = _load_manifest(path, paths)
    if manifest is None:
        workers = max(1, config.training.workers)
        manifest = check_recordings(
            paths,
            config.audio.sample_rate_hz,
            workers,
            progress,
            config.audio.decoder,
        )
        progress(0, 0)
        write_table(manifest, path)
    return manifest


def _require_manifest(path: Path, paths: list[str]) -> pd.DataFrame:
    manifest = _load_manifest(path, paths)
    if manifest is None:
        raise DataError(f"{path} must list the data set's recordings. Received: none, or others")
    return manifest


def _load_manifest(path: Path, paths: list[str]) -> pd.DataFrame | None:
    """What an earlier part of the run found out; `None` where there is none, or the data set lay elsewhere."""
    if not path.is_file():
        return None
    manifest = load_table(path, "a manifest", ("path", "status", "reason"))
    return manifest if list(manifest["path"]) == paths else None
