"""Trains folds: catalog, split and manifest, then `fit` for each, into one run directory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from keras_birds.atomic import atomic_path
from keras_birds.config import Config
from keras_birds.data.cache import CachedSource
from keras_birds.data.catalog import Catalog, data_hash, read_catalog
from keras_birds.data.check import check_recordings
from keras_birds.data.folds import Split, make_split
from keras_birds.data.mel_store import MelStore
from keras_birds.data.source import LiveSource, MelSource
from keras_birds.errors import ConfigError, DataError
from keras_birds.training.memory import keep_freed_memory
from keras_birds.training.pretrained import PretrainedWeights, fetch_pretrained
from keras_birds.training.run_directory import (
    MANIFEST,
    SPLIT,
    create_run,
    read_data_hash,
    remove_leftovers,
    reopen_run,
    write_environment,
)

if TYPE_CHECKING:
    from keras_birds.training.fold import FoldResult


class Reporter:
    """Receives what a user would like to know meanwhile; this one is silent."""

    def say(self, line: str) -> None:
        """A line of text."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Part of a longer piece of work; it is over when `total` is 0."""


@dataclass(frozen=True)
class RunResult:
    """A run and the folds that it trained.

    Args:
        out: the run directory.
        folds: in the order asked for.
        left_out: recordings that couldn't be read.
    """

    out: Path
    folds: tuple["FoldResult", ...]
    left_out: int

    @property
    def mean_macro_auc(self) -> float:
        """Mean over folds of the exact out-of-fold macro ROC-AUC."""
        return float(np.mean([x.macro_auc for x in self.folds]))


def train(
    config: Config,
    data: str | Path,
    fold: int | str | Sequence[int] = 0,
    out: str | Path | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> RunResult:
    """Trains one fold, several or all, as `keras-birds train` does.

    Args:
        config: the settings.
        data: the data set's folder.
        fold: a number from 0, several, or `"all"`.
        out: the run directory, new or empty; `None` for `runs/<time>`.
        resume: whether to go on with the run in `out` (or the newest): finished folds stay, an interrupted one
            goes on after its last whole epoch, and ends as it would have without the interruption.
        reporter: gets lines and progress.

    Raises:
        ConfigError: if the settings, the fold or the place of the run can't be used.
        DataError: if the data set is at fault; it names every row.
        ModelError: if the pretrained weights can't be had.
        TrainingError: if the loss is no longer a number.
    """
    reporter = reporter or Reporter()
    keep_freed_memory()
    prepared = prepare(config, data, fold, out, resume, reporter)
    results = [train_prepared(prepared, config, k, reporter) for k in prepared.folds]
    return RunResult(prepared.run, tuple(results), prepared.left_out)


@dataclass(frozen=True)
class Prepared:
    """A run whose settings, split and manifest are written, ready to train folds of.

    Args:
        run: its directory.
        catalog: the recordings.
        split: their folds.
        source: their images.
        folds: that were asked for.
        pretrained: weights to begin with; `None` from scratch.
    """

    run: Path
    catalog: Catalog
    split: Split
    source: MelSource
    folds: tuple[int, ...]
    pretrained: PretrainedWeights | None

    @property
    def left_out(self) -> int:
        """Recordings that couldn't be read."""
        return int((~self.source.usable).sum())


def prepare(
    config: Config,
    data: str | Path,
    fold: int | str | Sequence[int],
    out: str | Path | None,
    resume: bool,
    reporter: Reporter,
) -> Prepared:
    """Begins a run or opens it again: everything before its first fold.

    Args and errors are those of `train`.
    """
    catalog = read_catalog(Path(data), config.data)
    catalog.require_clean()
    split = make_split(catalog, config.folds)
    folds = _wanted_folds(fold, split)
    pretrained = None if config.model.pretrained == "none" else fetch_pretrained(config.model.pretrained)
    digest = data_hash(catalog)
    run = _open_run(None if out is None else Path(out), config, digest, resume)
    if (run / SPLIT).is_file():
        split = Split.load(run / SPLIT, catalog)
    else:
        split.save(run / SPLIT, catalog)
    source = _make_source(run, catalog, config, reporter)
    prepared = Prepared(run, catalog, split, source, tuple(folds), pretrained)
    reporter.say(_describe(run, catalog, split, prepared.left_out))
    return prepared


def open_prepared(
    run: Path, config: Config, data: str | Path, pretrained: PretrainedWeights | None
) -> Prepared:
    """Opens a run that `prepare` made, perhaps in another process; writes nothing, so that several may at once.

    Args:
        run: its directory.
        config: the settings that it was made with.
        data: the data set's folder, by the same name.
        pretrained: weights to begin with.

    Raises:
        DataError: if the run or the data set isn't there, or not as it was.
    """
    catalog = read_catalog(Path(data), config.data)
    split = Split.load(run / SPLIT, catalog)
    return Prepared(run, catalog, split, _open_source(run, catalog, config), (), pretrained)


def train_prepared(prepared: Prepared, config: Config, fold: int, reporter: Reporter) -> "FoldResult":
    """Trains one fold, or goes on with it, or finds it finished; writes in its folder only.

    Args:
        prepared: its run.
        config: the settings.
        fold: its number.
        reporter: gets lines and progress.
    """
    from keras_birds.training.fold import FoldData, train_fold

    catalog, split, source = prepared.catalog, prepared.split, prepared.source
    train_rows, validation_rows = (
        x[source.usable[x]] for x in (split.train_rows(fold), split.validation_rows(fold))
    )
    data = FoldData(
        source,
        catalog.targets(config.data),
        tuple(catalog.relative_paths),
        catalog.labels,
        train_rows,
        validation_rows,
    )
    return train_fold(prepared.run / f"fold{fold}", data, config, fold, prepared.pretrained, reporter)


def _wanted_folds(fold: int | str | Sequence[int], split: Split) -> list[int]:
    if fold == "all":
        return list(range(split.n_folds))
    if isinstance(fold, str):
        raise ConfigError(f"--fold must be a number or all. Received: {fold}")
    folds = [fold] if isinstance(fold, int) else list(fold)
    for k in folds:
        split.require_fold(k)
    return folds


def _open_run(out: Path | None, config: Config, digest: str, resume: bool) -> Path:
    if not resume:
        run = create_run(out, config)
        write_environment(run, config.training.seed, digest)
        return run
    run = reopen_run(out, config)
    remove_leftovers(run)
    stored = read_data_hash(run)
    if stored is None:
        write_environment(run, config.training.seed, digest)
    elif stored != digest:
        raise DataError(
            f"--resume must use the data set that {run} began with. Received: recordings or labels that changed "
            "since; start a new run"
        )
    return run


def _make_source(run: Path, catalog: Catalog, config: Config, reporter: Reporter) -> MelSource:
    paths = list(catalog.recordings["path"])
    if config.data.store:
        store = MelStore(config.data.store, config, paths)
        statuses = np.where(store.usable, "ok", "left out")
        _save_manifest(run, pd.DataFrame({"path": paths, "status": statuses, "reason": store.reasons}))
        return store
    manifest = _load_manifest(run, paths)
    if manifest is None:
        workers = max(1, config.training.workers)
        manifest = check_recordings(
            paths,
            config.audio.sample_rate_hz,
            workers,
            lambda done, total: reporter.progress("Checking recordings", done, total),
            config.audio.decoder,
        )
        reporter.progress("Checking recordings", 0, 0)
        _save_manifest(run, manifest)
    return _live_source(paths, config, manifest)


def _open_source(run: Path, catalog: Catalog, config: Config) -> MelSource:
    """As `_make_source`, of a run whose manifest is written."""
    paths = list(catalog.recordings["path"])
    if config.data.store:
        return MelStore(config.data.store, config, paths)
    manifest = _load_manifest(run, paths)
    if manifest is None:
        raise DataError(f"{run / MANIFEST} must list the data set's recordings. Received: none, or others")
    return _live_source(paths, config, manifest)


def _live_source(paths: list[str], config: Config, manifest: pd.DataFrame) -> MelSource:
    source = LiveSource(paths, config.audio, config.mel, manifest=manifest)
    return CachedSource(source) if config.audio.crop == "center" else source


def _load_manifest(run: Path, paths: list[str]) -> pd.DataFrame | None:
    """What an earlier part of the run found out; `None` where there is none, or the data set lay elsewhere."""
    if not (run / MANIFEST).is_file():
        return None
    manifest = pd.read_csv(run / MANIFEST, dtype={"path": str, "reason": str}, keep_default_na=False)
    return manifest if list(manifest["path"]) == paths else None


def _save_manifest(run: Path, manifest: pd.DataFrame) -> None:
    with atomic_path(run / MANIFEST) as temporary:
        manifest.to_csv(temporary, index=False)


def _describe(run: Path, catalog: Catalog, split: Split, left_out: int) -> str:
    hidden = len(split.hidden_rows)
    parts = [
        f"{len(catalog.recordings)} recordings",
        f"{len(catalog.labels)} labels",
        f"{split.n_folds} folds",
    ]
    parts += [f"{hidden} hidden"] if hidden else []
    parts += [f"{left_out} left out (see {MANIFEST})"] if left_out else []
    return f"{run}: {', '.join(parts)}"
