"""Trains folds: catalog, split and manifest, then `fit` for each, into one run directory."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_birds.config import Config
from keras_birds.data.catalog import Catalog, data_hash, read_catalog
from keras_birds.data.folds import Split, make_split
from keras_birds.data.review_source import ReviewedSource
from keras_birds.data.source import MelSource
from keras_birds.errors import ConfigError, DataError
from keras_birds.progress import Reporter
from keras_birds.run_layout import BACKGROUND, FULL, MANIFEST, SPLIT, Fold, fold_folder
from keras_birds.training.memory import keep_freed_memory
from keras_birds.training.pretrained import PretrainedWeights, fetch_pretrained
from keras_birds.training.run_directory import (
    create_run,
    read_data_hash,
    remove_leftovers,
    reopen_run,
    write_environment,
)
from keras_birds.training.sources import (
    background_paths,
    make_background,
    make_source,
    open_background,
    open_reviewed,
    open_source,
)
from keras_birds.training.warm_start import check_initial

if TYPE_CHECKING:
    from keras_birds.training.fold import FoldData, FoldResult


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
    """Trains one fold, several or all, or on all recordings, as `keras-birds train` does.

    Args:
        config: the settings.
        data: the data set's folder.
        fold: a number from 0, several, `"all"`, or `"full"`: on every recording that isn't hidden, measured on none.
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
        background: recordings without any of the labels; `None` where the settings need none.
        reviewed: windows that people spoke of; `None` where the settings name none.
    """

    run: Path
    catalog: Catalog
    split: Split
    source: MelSource
    folds: tuple[Fold, ...]
    pretrained: PretrainedWeights | None
    background: MelSource | None = None
    reviewed: ReviewedSource | None = None

    @property
    def left_out(self) -> int:
        """Recordings that couldn't be read."""
        return int((~self.source.usable).sum())

    def reviewed_rows(self, train_rows: np.ndarray) -> np.ndarray:
        """Reviewed windows to train on: none of recordings that the fold is measured on, or that are hidden.

        Args:
            train_rows: recordings that the fold trains on.
        """
        if self.reviewed is None:
            return np.zeros(0, np.intp)
        paths = [Path(x).resolve() for x in self.catalog.recordings["path"]]
        held_out = set(paths) - {paths[row] for row in train_rows}
        heard = [row for row, x in enumerate(self.reviewed.recordings) if x.resolve() not in held_out]
        return np.array(heard, np.intp)


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
    for name, reason in catalog.left_out:
        reporter.problem(name, reason)
    split = make_split(catalog, config.folds)
    folds = _wanted_folds(fold, split, config)
    backgrounds, reviewed = background_paths(config), open_reviewed(catalog, config)
    pretrained = None if config.model.pretrained == "none" else fetch_pretrained(config.model.pretrained)
    if config.model.initial:
        check_initial(config, catalog, split, folds)
    digest = data_hash(catalog)
    run = _open_run(None if out is None else Path(out), config, catalog.root, digest, resume)
    if (run / SPLIT).is_file():
        split = Split.load(run / SPLIT, catalog)
    else:
        split.save(run / SPLIT, catalog)
    progress = partial(reporter.progress, "Checking recordings")
    source = make_source(run, catalog, config, progress)
    background = make_background(run, backgrounds, config, progress)
    prepared = Prepared(run, catalog, split, source, tuple(folds), pretrained, background, reviewed)
    reporter.log(_describe(prepared))
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
    source, background = open_source(run, catalog, config), open_background(run, config)
    reviewed = open_reviewed(catalog, config)
    return Prepared(run, catalog, split, source, (), pretrained, background, reviewed)


def train_prepared(prepared: Prepared, config: Config, fold: Fold, reporter: Reporter) -> "FoldResult":
    """Trains one fold, or goes on with it, or finds it finished; writes in its folder only.

    Args:
        prepared: its run.
        config: the settings.
        fold: its number, or `FULL`.
        reporter: gets lines and progress.
    """
    from keras_birds.training.fold import train_fold

    folder, data = fold_folder(prepared.run, fold), fold_data(prepared, config, fold)
    return train_fold(folder, data, config, fold, prepared.pretrained, reporter)


def fold_data(prepared: Prepared, config: Config, fold: Fold) -> "FoldData":
    """What a fold of a run learns from and is measured on."""
    from keras_birds.training.fold import FoldData

    catalog, split, source = prepared.catalog, prepared.split, prepared.source
    train_rows, validation_rows = (
        x[source.usable[x]] for x in (split.train_rows(fold), split.validation_rows(fold))
    )
    return FoldData(
        source,
        catalog.targets(config.data),
        tuple(catalog.relative_paths),
        catalog.labels,
        train_rows,
        validation_rows,
        prepared.background,
        prepared.reviewed,
        prepared.reviewed_rows(train_rows),
    )


def _wanted_folds(fold: int | str | Sequence[int], split: Split, config: Config) -> list[Fold]:
    if fold == "all":
        return list(range(split.n_folds))
    if fold == FULL:
        if config.training.keep != "last":
            raise ConfigError(
                "--fold full has no recordings to choose an epoch by: training.keep must be last. Received: "
                f"{config.training.keep}; pass --set training.keep=last"
            )
        return [FULL]
    if isinstance(fold, str):
        raise ConfigError(f"--fold must be a number, all or full. Received: {fold}")
    folds: list[Fold] = [fold] if isinstance(fold, int) else list(fold)
    for k in folds:
        split.require_fold(k)
    return folds


def _open_run(out: Path | None, config: Config, data: Path, digest: str, resume: bool) -> Path:
    if not resume:
        run = create_run(out, config)
        write_environment(run, config.training.seed, data, digest)
        return run
    run = reopen_run(out, config)
    remove_leftovers(run)
    stored = read_data_hash(run)
    if stored is None:
        write_environment(run, config.training.seed, data, digest)
    elif stored != digest:
        raise DataError(
            f"--resume must use the data set that {run} began with. Received: recordings or labels that changed "
            "since; start a new run"
        )
    return run


def _describe(prepared: Prepared) -> str:
    catalog, split, background = prepared.catalog, prepared.split, prepared.background
    parts = [
        f"{len(catalog.recordings)} recordings",
        f"{len(catalog.labels)} labels",
        f"{split.n_folds} folds",
    ]
    hidden = len(split.hidden_rows)
    parts += [f"{hidden} hidden"] if hidden else []
    parts += [f"{prepared.left_out} left out (see {MANIFEST})"] if prepared.left_out else []
    if prepared.reviewed is not None:
        parts += [f"{len(prepared.reviewed)} reviewed windows"]
    if background is not None:
        unusable = int((~background.usable).sum())
        parts += [f"{len(background)} of background"]
        parts += [f"{unusable} of them left out (see {BACKGROUND})"] if unusable else []
    return f"{prepared.run}: {', '.join(parts)}"
