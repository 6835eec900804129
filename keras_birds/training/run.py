"""A training run before its first fold: settings, split and manifest are written, and the images are at hand."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from keras_birds.config import AudioConfig, Config, DataConfig, ModelConfig, TrainingConfig
from keras_birds.data.catalog import Catalog, data_hash
from keras_birds.data.dataset import Epochs, MelDataset
from keras_birds.data.folds import Split, make_split
from keras_birds.data.reviews import ReviewedSource, read_reviewed
from keras_birds.data.soft_labels import SoftLabels
from keras_birds.data.source import CachedSource, JoinedSource, MelSource
from keras_birds.data.tables import write_table
from keras_birds.data.unlabelled import find_unlabelled
from keras_birds.data.windows import WindowSource
from keras_birds.errors import ConfigError, DataError
from keras_birds.nn.augment import Augment, build_augment
from keras_birds.progress import Reporter
from keras_birds.results.pseudo import PseudoLabels
from keras_birds.run_layout import BACKGROUND, FULL, MANIFEST, PSEUDO, SPLIT, UNLABELLED, Fold
from keras_birds.training.backbone import AddedBackbone, added_backbone
from keras_birds.training.embeddings import (
    EmbeddedSource,
    EmbeddingSource,
    WindowEmbeddings,
    open_embedder,
    unlabel_silence,
)
from keras_birds.training.inputs import (
    background_paths,
    background_source,
    catalog_embeddings,
    catalog_source,
    mel_of,
)
from keras_birds.training.pretrained import PretrainedWeights, fetch_pretrained
from keras_birds.training.pseudo import keep_pseudo, open_pseudo
from keras_birds.training.run_directory import open_directory
from keras_birds.training.stored import (
    STORED,
    check_stored,
    read_learned,
    stored_backbone,
    stored_negatives,
    with_store,
)
from keras_birds.training.warm_start import check_initial, describe_heard

Pretrained = PretrainedWeights | AddedBackbone
"""What gives a network its first weights."""


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """What the folds of a run, in the directory `out`, learn from and are measured on.

    `source` has the images of the catalog's recordings, `background` those of recordings without any of the labels,
    `reviewed` those of windows that people marked; `pretrained` are weights to begin with; `unlabelled` are recordings
    for `training.teacher` to label, `pseudo` are labels that models gave to others. `embedded` are embeddings of source
    and background, of which `frozen_run` makes a run. `folds` were asked for.
    """

    out: Path
    config: Config
    catalog: Catalog
    split: Split
    source: MelSource
    background: MelSource | None
    reviewed: ReviewedSource | None
    pretrained: Pretrained | None
    unlabelled: tuple[str, ...] = ()
    pseudo: PseudoLabels | None = None
    folds: tuple[Fold, ...] = ()
    embedded: tuple[EmbeddingSource, EmbeddingSource | None] | None = None

    @property
    def left_out(self) -> int:
        """Recordings that couldn't be read."""
        return int((~self.source.usable).sum())

    @property
    def targets(self) -> np.ndarray:
        """Float32 `[recording, label]`: 0 to 1, or -1 for ignored."""
        return self.catalog.targets(self.config.data)

    def train_rows(self, fold: Fold) -> np.ndarray:
        """Catalog rows of readable recordings that a fold trains on, int `[n]`."""
        rows = self.split.train_rows(fold)
        return rows[self.source.usable[rows]]

    def validation_rows(self, fold: Fold) -> np.ndarray:
        """Catalog rows of readable recordings that a fold is measured on, int `[n]`; none of `FULL`."""
        rows = self.split.validation_rows(fold)
        return rows[self.source.usable[rows]]

    def reviewed_rows(self, fold: Fold) -> np.ndarray:
        """Reviewed windows to train on: none of recordings that the fold is measured on, or that are hidden."""
        if self.reviewed is None:
            return np.zeros(0, np.intp)
        paths = [Path(x).resolve() for x in self.catalog.recordings["path"]]
        held_out = set(paths) - {paths[row] for row in self.train_rows(fold)}
        kept = [row for row, x in enumerate(self.reviewed.windows) if Path(x.path).resolve() not in held_out]
        return np.array(kept, np.intp)

    def unannotated_rows(self, fold: Fold) -> np.ndarray:
        """Windows without a label of which each epoch draws some, with `data.unannotated = "background"`, int `[n]`."""
        rows = self.train_rows(fold)
        if self.catalog.known is None or self.config.data.unannotated != "background":
            return rows[:0]
        return rows[~(self.catalog.known[rows] > 0).any(axis=1)]

    def batch_size(self, fold: Fold) -> int:
        """Clips in a step; but for networks of mel images as many recordings as there are may be fewer."""
        size = self.config.training.batch_size
        is_other = self.config.model.backbone != "efficientnet_b0"
        return min(size, len(self.train_rows(fold))) if is_other else size

    @property
    def embedding_size(self) -> int:
        """Numbers of an embedding, where the network takes these; else 0."""
        return self.source.size if isinstance(self.source, WindowEmbeddings) else 0

    def training_data(self, fold: Fold, soft: SoftLabels | None = None) -> MelDataset:
        """Shuffled, augmented batches of a fold's recordings, reviewed windows, soft labels and background."""
        config, settings = self.config, self.config.training
        sources, targets, negative_rows = [self.source], [self.targets], [self.unannotated_rows(fold)]
        rows = [np.setdiff1d(self.train_rows(fold), negative_rows[0])]
        reviewed_rows = self.reviewed_rows(fold)
        drawn: dict[str, Any] = {}
        if self.reviewed is not None and len(reviewed_rows):
            rows.append(len(self.source) + reviewed_rows)
            sources.append(CachedSource(self._inputs_of(self.reviewed)))
            targets.append(self.reviewed.targets)
        if self.background is not None and config.data.background_fraction:
            negative_rows.append(sum(map(len, sources)) + np.flatnonzero(self.background.usable))
            sources.append(self.background)
            targets.append(np.zeros((len(self.background), targets[0].shape[1]), np.float32))
        if sum(map(len, negative_rows)):
            drawn |= {"negative_rows": np.concatenate(negative_rows)}
            drawn |= {"negative_fraction": config.data.background_fraction}
        if soft is not None:
            drawn |= _drawing(soft, sum(map(len, sources)), config.data)
            sources.append(CachedSource(WindowSource(soft.windows, config.audio, mel_of(config))))
            targets.append(soft.targets)
        epochs = Epochs(
            np.concatenate(rows),
            seed=settings.seed,
            shuffle=True,
            random_crop=config.audio.crop == "random",
            drop_remainder=True,
            **drawn,
        )
        source, arrays = JoinedSource(*sources) if len(sources) > 1 else self.source, np.concatenate(targets)
        return MelDataset(source, arrays, epochs, self.batch_size(fold), self._augment(), settings.workers)

    def _inputs_of(self, source: MelSource) -> MelSource:
        """Reviewed windows as training takes them."""
        if isinstance(self.source, EmbeddingSource):
            return EmbeddedSource(
                source, open_embedder(added_backbone(self.config.model.pretrained).path, self.config.audio)
            )
        return source

    def validation_data(self, fold: Fold) -> MelDataset | None:
        """Batches of the recordings that a fold is measured on, in order; `None` where there are none."""
        rows, settings = self.validation_rows(fold), self.config.training
        if not len(rows):
            return None
        return MelDataset(
            self.source, self.targets, Epochs(rows), settings.batch_size, workers=settings.workers
        )

    def _augment(self) -> Augment:
        background = self.background
        if background is None:
            augment = build_augment(self.config)
        else:
            rows = np.flatnonzero(background.usable)
            augment = build_augment(self.config, lambda chosen: background.images(rows[chosen]), len(rows))
        if isinstance(self.source, WindowEmbeddings) and self.source.silence is not None:
            return unlabel_silence(augment, self.source.silence)
        return augment


def _drawing(soft: SoftLabels, first_row: int, data: DataConfig) -> dict[str, Any]:
    """What `Epochs` takes of soft labels whose windows have the rows from `first_row` on."""
    sums = soft.targets.sum(axis=1) if data.pseudo_sampling == "label_sum" else None
    return {
        "unlabelled_rows": first_row + np.arange(len(soft.windows)),
        "unlabelled_fraction": data.pseudo_fraction,
        "unlabelled_weights": sums,
    }


def prepare_run(
    config: Config,
    data: str | Path,
    fold: int | str | Sequence[int],
    out: str | Path | None,
    resume: bool,
    reporter: Reporter,
) -> TrainingRun:
    """Begins a run or opens it again: everything before its first fold. Args and errors are those of `train`."""
    config = with_store(config)
    catalog = read_learned(data, config)
    catalog.require_clean()
    for name, reason in catalog.left_out:
        reporter.problem(name, reason)
    split = _split(catalog, config, fold)
    folds = _wanted_folds(fold, split, config)
    backgrounds, reviewed = background_paths(config), _read_reviewed(catalog, config)
    unlabelled = tuple(find_unlabelled(config.data.unlabelled, catalog, reporter))
    pretrained = _pretrained(config)
    check_stored(catalog, config)
    if config.training.teacher:
        added_backbone(config.training.teacher, "training.teacher")  # before anything is written
    heard = ""
    if config.model.initial:
        check_initial(config, catalog, split, folds)
        heard = describe_heard(config, catalog, split, folds)
    pseudo = open_pseudo(config, catalog, split, folds, reporter)
    digest = data_hash(catalog)
    directory = open_directory(None if out is None else Path(out), config, catalog.root, digest, resume)
    if (directory / SPLIT).is_file():
        split = Split.load(directory / SPLIT, catalog)
    else:
        split.save(directory / SPLIT, catalog)
    if pseudo is not None:
        keep_pseudo(directory / PSEUDO, pseudo)
    source = catalog_source(directory, catalog, config, reporter)
    background = _background(directory, backgrounds, catalog, config, reporter)
    each = source, background, reviewed, pretrained, unlabelled, pseudo, tuple(folds)
    run = TrainingRun(directory, config, catalog, split, *each)
    # So that folds that are trained side by side find the embeddings.
    if config.model.head_first or config.training.teacher:
        frozen = frozen_run(run, reporter)
        run = replace(run, embedded=frozen.embedded)
        if unlabelled:
            write_table(embed_unlabelled(frozen, reporter).manifest, directory / UNLABELLED)
    reporter.log(_describe(run))
    if heard:
        reporter.log(heard)
    return run


def _split(catalog: Catalog, config: Config, fold: int | str | Sequence[int]) -> Split:
    """As `make_split`; a model of all reviewed windows needs no folds, which too few recordings don't make."""
    count, n_folds = catalog.recordings["path"].nunique(), config.folds.n_folds
    if config.model.backbone != STORED or catalog.known is None or count >= n_folds:
        return make_split(catalog, config.folds)
    if fold == FULL:
        return Split(np.zeros(len(catalog), int), 1)
    raise ConfigError(
        f"folds.n_folds must not exceed the number of recordings with marks. Received: {n_folds} folds, {count}. Pass "
        "--fold full to learn from all of them, or mark windows of others"
    )


def _background(
    directory: Path, paths: list[str], catalog: Catalog, config: Config, reporter: Reporter | None = None
) -> MelSource | None:
    if config.model.backbone == STORED:
        return stored_negatives(catalog, config)
    return background_source(directory, paths, config, reporter)


def _pretrained(config: Config) -> Pretrained | None:
    settings = config.model
    if settings.backbone == STORED:
        return stored_backbone(config)
    if settings.pretrained == "none":
        return None
    return (
        added_backbone(settings.pretrained)
        if settings.backbone == "birdnet"
        else fetch_pretrained(settings.pretrained)
    )


def open_run(
    directory: Path,
    config: Config,
    data: str | Path,
    pretrained: Pretrained | None,
    unlabelled: tuple[str, ...] = (),
) -> TrainingRun:
    """Opens a run that `prepare_run` made, also in another process; writes nothing, so that several may at once.

    A `DataError` says that the run or the data set isn't there, or not as it was.
    """
    config = with_store(config)
    catalog = read_learned(data, config)
    split = Split.load(directory / SPLIT, catalog)
    source = catalog_source(directory, catalog, config)
    background = _background(directory, background_paths(config), catalog, config)
    reviewed = _read_reviewed(catalog, config)
    pseudo = PseudoLabels(config.data.pseudo) if config.data.pseudo else None
    each = source, background, reviewed, pretrained, unlabelled, pseudo
    return TrainingRun(directory, config, catalog, split, *each)


def frozen_run(run: TrainingRun, reporter: Reporter) -> TrainingRun:
    """The same folds as the configuration `birdnet-head` trains them, on embeddings of the backbone or the teacher."""
    recipe, wanted = Config.load("birdnet-head"), run.config
    teacher = wanted.training.teacher
    model = (
        {"pretrained": teacher} if teacher else _taken(wanted.model, "pretrained", "hidden_units", "dropout")
    )
    training = _taken(wanted.training, "seed", "workers", "class_weights")
    heard = _taken(wanted.audio, "speed", "f_low_hz", "f_high_hz")
    if teacher:  # smoothed labels blur what it tells of the others (Müller et al. 2019, arXiv:1906.02629)
        training["label_smoothing"] = 0.0
    config = recipe.model_copy(
        update={
            "audio": recipe.audio.model_copy(update=heard) if teacher else wanted.audio,
            "data": wanted.data,
            "folds": wanted.folds,
            "model": recipe.model.model_copy(update=model),
            "training": recipe.training.model_copy(update=training),
        }
    )
    source, background = embedded = run.embedded or _embed(run.catalog, config, reporter)
    reviewed = _read_reviewed(run.catalog, config) if teacher else run.reviewed
    return replace(
        run, config=config, source=source, background=background, reviewed=reviewed, embedded=embedded
    )


def _embed(
    catalog: Catalog, config: Config, reporter: Reporter
) -> tuple[EmbeddingSource, EmbeddingSource | None]:
    backbone, paths = added_backbone(config.model.pretrained).path, background_paths(config)
    source = catalog_embeddings(catalog, config, reporter)
    return source, EmbeddingSource(backbone, config.audio, paths, reporter) if paths else None


def _taken(settings: AudioConfig | ModelConfig | TrainingConfig, *names: str) -> dict[str, Any]:
    return {x: getattr(settings, x) for x in names}


def embed_unlabelled(frozen: TrainingRun, reporter: Reporter) -> EmbeddingSource:
    """Recordings without labels as a `frozen_run` takes them; a `DataError` if none can be read."""
    config = frozen.config
    backbone = added_backbone(config.model.pretrained, "training.teacher")
    found = EmbeddingSource(backbone.path, config.audio, frozen.unlabelled, reporter)
    if not found.usable.any():
        raise DataError(
            f"data.unlabelled must hold recordings that can be read. Received: none in {config.data.unlabelled}; "
            f"{frozen.unlabelled[0]} {found.reasons[0]}"
        )
    return found


def _read_reviewed(catalog: Catalog, config: Config) -> ReviewedSource | None:
    if not config.data.reviews or config.data.embeddings:  # of a store they are the catalog
        return None
    return read_reviewed(config.data.reviews, config.audio, mel_of(config), catalog.labels)


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


def _describe(run: TrainingRun) -> str:
    catalog = run.catalog
    unusable = 0 if run.background is None else int((~run.background.usable).sum())
    unsure, disagreements = (run.reviewed.unsure, run.reviewed.disagreements) if run.reviewed else (0, 0)
    what = "recordings" if catalog.known is None else "windows"
    parts = {
        f"{len(catalog.recordings)} {what}, {len(catalog.labels)} labels, {run.split.n_folds} folds": True,
        f"{len(run.split.hidden_rows)} hidden": len(run.split.hidden_rows),
        f"{run.left_out} left out (see {MANIFEST})": run.left_out,
        f"{len(run.reviewed or ())} reviewed windows": run.reviewed is not None,
        f"{unsure} reviews left out as unsure": unsure,
        f"{disagreements} left out, on which reviewers disagree": disagreements,
        f"{len(run.background or ())} of background": run.background is not None,
        f"{unusable} of them left out (see {BACKGROUND})": unusable,
        f"{len(run.unlabelled)} without labels": len(run.unlabelled),
        f"{len(run.pseudo.recordings) if run.pseudo else 0} with pseudo labels": run.pseudo is not None,
    }
    return f"{run.out}: {', '.join(part for part, is_told in parts.items() if is_told)}"
