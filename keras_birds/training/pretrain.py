"""Teaches a backbone to hear without labels: two views of a clip shall lie closer than those of two clips."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from keras_birds.atomic import atomic_path, write_json
from keras_birds.config import Config
from keras_birds.data.catalog import read_catalog
from keras_birds.data.dataset import Epochs, MelDataset
from keras_birds.data.folds import make_split
from keras_birds.data.heard import HELD_OUT, Heard, Labelled, find_heard, hear
from keras_birds.errors import ConfigError, DataError
from keras_birds.nn.augment import Augment, build_augment
from keras_birds.nn.build import dtype_policy
from keras_birds.nn.contrastive import ContrastiveCrossentropy, MatchedViews, contrastive_model
from keras_birds.nn.efficientnet import BACKBONE, EfficientNetB0
from keras_birds.nn.views import TwoViews, view_columns
from keras_birds.progress import Reporter
from keras_birds.run_layout import (
    BACKBONE_KERAS,
    ENVIRONMENT,
    HISTORY,
    LABELLED,
    MANIFEST,
    PRETRAINING,
    SPLIT,
)
from keras_birds.training.callbacks import CHECKPOINT, Checkpoint, History, load_checkpoint
from keras_birds.training.fit import Callbacks, fit_model, save_model
from keras_birds.training.inputs import background_paths, background_source, catalog_source
from keras_birds.training.memory import keep_freed_memory
from keras_birds.training.network import make_optimizer, training_policy
from keras_birds.training.pretrained import PretrainedWeights, fetch_pretrained
from keras_birds.training.probe import PROBE, Probe, ProbeData
from keras_birds.training.run_directory import open_directory, remove_leftovers

_NOT_TAKEN = (
    *("data.background_fraction", "data.unlabelled", "data.pseudo", "data.annotations"),
    *("augment.mixup.probability", "model.initial", "model.prune"),
    *("training.ema_momentum", "training.swa_epochs", "training.teacher"),
)
"""Settings that a person would expect to do something, and that pretraining has no place for."""


@dataclass(frozen=True)
class Pretraining:
    """A finished pretraining, in the folder `out`.

    `recordings` were heard in `clips` of `clip_seconds` in all; `held_out` were left out as a fold is measured on them,
    `left_out` as they couldn't be used. `probe_macro_auc` is that of the last epoch, not a number without labels.
    """

    out: Path
    recordings: int
    clips: int
    clip_seconds: float
    held_out: int
    left_out: int
    epochs: int
    train_seconds: float
    loss: float
    probe_macro_auc: float

    @property
    def history(self) -> dict[str, list[float]]:
        """What is known of each epoch, by name."""
        table = pd.read_csv(self.out / HISTORY)
        return {str(name): list(table[name]) for name in table}


def pretrain(
    config: Config,
    data: Sequence[str | Path],
    out: str | Path | None = None,
    labelled: str | Path | None = None,
    fold: int = 0,
    resume: bool = False,
    reporter: Reporter | None = None,
    callbacks: Callbacks = (),
) -> Pretraining:
    """Trains a backbone on recordings without labels, as `keras-birds pretrain` does.

    Args:
        config: the settings, for instance `Config.load("contrastive")`; those of a head and of its loss aren't used.
        data: folders, globs, CSV lists or mel stores.
        out: the folder of the result, new or empty; `None` for `runs/<time>`.
        labelled: a data set with labels, for the probe after each epoch and for `contrastive.use_labels`. Those of its
            recordings that `fold` doesn't train on aren't heard, wherever they lie.
        fold: of the data set with labels, from 0.
        resume: whether to go on with what is in `out`; it ends as it would have without the interruption.
        reporter: gets lines and progress.
        callbacks: of Keras, after the package's own. `resume` doesn't restore their state.

    Raises:
        ConfigError: if the settings, the fold or the place of the result can't be used.
        DataError: if there is nothing to learn from, or the data set with labels is at fault.
        ModelError: if the pretrained weights can't be had.
        TrainingError: if the loss is no longer a number.
    """
    reporter = reporter or Reporter()
    _check(config, labelled is not None)
    pretrained = None if config.model.pretrained == "none" else fetch_pretrained(config.model.pretrained)
    known = None if labelled is None else _read_labelled(config, Path(labelled), fold, reporter)
    found = find_heard([str(x) for x in data], reporter)
    backgrounds = background_paths(config)
    directory = open_directory(
        None if out is None else Path(out), config, Path(str(data[0])), found.digest(known), resume
    )
    remove_leftovers(directory)
    if (directory / PRETRAINING).is_file():
        reporter.log(f"{directory}: finished before")
        return _read(directory)
    heard = hear(found, config, known, directory / MANIFEST, reporter)
    reporter.log(_describe(directory, heard, known))
    if len(heard.targets) < config.training.batch_size:
        raise ConfigError(
            f"training.batch_size must not exceed the {len(heard.targets)} clips to learn from. Received: "
            f"{config.training.batch_size}; name more recordings, or lower it"
        )
    background = background_source(directory, backgrounds, config, reporter)
    probe = None if known is None else _probe_data(directory / LABELLED, config, known, reporter)
    views = TwoViews(view_columns(config), _augment(config, background))
    history = _train(directory, config, heard, views, probe, reporter, callbacks, pretrained)
    return _finish(directory, config, heard, known, history)


def _check(config: Config, has_labels: bool) -> None:
    config.require_images("pretrain")
    settings = config.model_dump()
    for key in _NOT_TAKEN:
        value: Any = settings
        for part in key.split("."):
            value = value[part]
        if value:
            raise ConfigError(
                f"pretrain has no place for {key}: two views of one clip are all it learns from. Received: {value!r}; "
                f"pass --set {key}={json.dumps(type(value)())}"
            )
    if config.training.keep != "last":
        raise ConfigError(
            'training.keep must be "last" in pretraining, which chooses no epoch. Received: best; pass --set '
            "training.keep=last, or take --config contrastive"
        )
    if config.contrastive.view_s > config.audio.clip_s:
        raise ConfigError(
            f"contrastive.view_s must not exceed audio.clip_s ({config.audio.clip_s:g}). Received: "
            f"{config.contrastive.view_s:g}"
        )
    if config.contrastive.use_labels and not has_labels:
        raise ConfigError("contrastive.use_labels needs a data set with labels. Received: no --labelled")


def _read_labelled(config: Config, folder: Path, fold: int, reporter: Reporter) -> Labelled:
    catalog = read_catalog(folder, config.data)
    catalog.require_clean()
    for name, reason in catalog.left_out:
        reporter.problem(name, reason)
    split = make_split(catalog, config.folds)
    if not 0 <= fold < split.n_folds:
        raise ConfigError(f"--fold must be from 0 to {split.n_folds - 1}. Received: {fold}")
    return Labelled(catalog, split, fold)


def _describe(directory: Path, heard: Heard, known: Labelled | None) -> str:
    manifest, used = heard.manifest, heard.recordings
    held_out = int((manifest["status"] == HELD_OUT).sum())
    left_out = len(manifest) - len(used) - held_out
    labelled = int((used["label_row"] >= 0).sum())
    fold = known.fold if known else 0
    parts = {
        f"{len(heard.targets)} clips of {len(used)} recordings": True,
        f"{labelled} of them in the data set with labels": known is not None,
        f"{held_out} held out, on which fold {fold} does not train": held_out,
        f"{left_out} left out (see {MANIFEST})": left_out,
    }
    return f"{directory}: {', '.join(part for part, is_told in parts.items() if is_told)}"


def _probe_data(directory: Path, config: Config, known: Labelled, reporter: Reporter) -> ProbeData:
    directory.mkdir(exist_ok=True)
    known.split.save(directory / SPLIT, known.catalog)
    if not config.data.store:  # the middle of each, kept in memory
        audio = config.audio.model_copy(update={"crop": "center"})
        config = config.model_copy(update={"audio": audio})
    source = catalog_source(directory, known.catalog, config, reporter)
    rows = [x[source.usable[x]] for x in (known.train_rows(), known.split.validation_rows(known.fold))]
    if not all(map(len, rows)):
        what = "train on" if not len(rows[0]) else "validate on"
        raise DataError(
            f"fold {known.fold} must have recordings to {what}. Received: none that can be read; see "
            f"{directory / MANIFEST}"
        )
    return ProbeData(source, known.catalog.targets(config.data), *rows)


def _augment(config: Config, background: Any) -> Augment:
    if background is None:
        return build_augment(config)
    rows, columns = np.flatnonzero(background.usable), view_columns(config)
    return build_augment(config, lambda chosen: background.images(rows[chosen])[:, :, :columns], len(rows))


def compile_contrastive(model: keras.Model, config: Config, steps_per_epoch: int) -> None:
    """Gives a model of `contrastive_model` the loss, the metric and the optimizer of pretraining."""
    model.compile(
        optimizer=make_optimizer(config.training, steps_per_epoch),
        loss=ContrastiveCrossentropy(config.contrastive.use_labels),
        metrics=[MatchedViews()],
        # As in `compile_model`.
        jit_compile=False if keras.config.backend() == "torch" else "auto",
    )
    model.optimizer.build(model.trainable_variables)


def _train(
    directory: Path,
    config: Config,
    heard: Heard,
    views: TwoViews,
    probe: ProbeData | None,
    reporter: Reporter,
    callbacks: Callbacks,
    pretrained: PretrainedWeights | None,
) -> History:
    """Trains, or goes on; the backbone is kept in the end."""
    settings = config.training
    keep_freed_memory()
    keras.utils.clear_session()
    keras.utils.set_random_seed(settings.seed)
    epochs = Epochs(np.arange(len(heard.targets)), seed=settings.seed, shuffle=True, drop_remainder=True)
    training = MelDataset(heard.source, heard.targets, epochs, settings.batch_size, views, settings.workers)
    with training_policy(config):
        model = contrastive_model(config)
    if pretrained is not None:
        pretrained.apply(model)
    compile_contrastive(model, config, len(training))
    history = load_checkpoint(directory, model)
    if history:
        reporter.log(f"goes on after epoch {len(history)}")
    checkpoint = Checkpoint(directory, history, settings.epochs, "last", reporter)
    measured = [Probe(probe, config.contrastive.neighbours, reporter)] if probe else []
    if len(history) < settings.epochs:
        fit_model(model, training, settings, checkpoint, measured, callbacks)
    learnt = model.get_layer(BACKBONE)
    with dtype_policy("float32"):
        kept = EfficientNetB0((config.mel.height, None, 1), drop_path=config.model.drop_path)
    kept.set_weights(learnt.get_weights())
    save_model(kept, directory / BACKBONE_KERAS)
    return checkpoint.history


def _finish(
    directory: Path, config: Config, heard: Heard, known: Labelled | None, history: History
) -> Pretraining:
    """Writes what there is to say; `pretraining.json` last, as it is what makes it a finished one."""
    with atomic_path(directory / HISTORY) as temporary:
        pd.DataFrame(history).astype({"epoch": int}).to_csv(temporary, index=False)
    manifest, used = heard.manifest, heard.recordings
    held_out, last = int((manifest["status"] == HELD_OUT).sum()), history[-1]
    result = Pretraining(
        directory,
        recordings=len(used),
        clips=len(heard.targets),
        clip_seconds=round(len(heard.targets) * config.audio.window_s, 3),
        held_out=held_out,
        left_out=len(manifest) - len(used) - held_out,
        epochs=len(history),
        train_seconds=round(math.fsum(x["seconds"] for x in history), 1),
        loss=last["loss"],
        probe_macro_auc=last.get(PROBE, math.nan),
    )
    told = {key: value for key, value in asdict(result).items() if key != "out"}
    told[PROBE] = None if math.isnan(result.probe_macro_auc) else result.probe_macro_auc
    labelled = None
    if known is not None:
        labelled = {"data": str(known.catalog.root.resolve()), "fold": known.fold}
    environment = json.loads((directory / ENVIRONMENT).read_text(encoding="utf-8"))
    settings = config.model_dump(mode="json", include={"audio", "mel", "contrastive"})
    write_json(
        directory / PRETRAINING,
        told
        | {"manifest": MANIFEST, "labelled": labelled, **settings}
        | {key: environment[key] for key in ("backend", "device", "versions")},
    )
    (directory / CHECKPOINT).unlink(missing_ok=True)
    return result


def _read(directory: Path) -> Pretraining:
    (directory / CHECKPOINT).unlink(missing_ok=True)
    told = json.loads((directory / PRETRAINING).read_text(encoding="utf-8"))
    told[PROBE] = math.nan if told[PROBE] is None else told[PROBE]
    names = Pretraining.__dataclass_fields__.keys() - {"out"}
    return Pretraining(directory, **{x: told[x] for x in names})
