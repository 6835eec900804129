"""Folds that begin with those of another run, whole or pruned, or with a backbone that was pretrained here."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_birds.config import Config, diff_configs
from keras_birds.data.catalog import Catalog
from keras_birds.data.folds import HIDDEN, Split
from keras_birds.data.soundscape_folder import sources_of
from keras_birds.data.tables import load_table
from keras_birds.data.unlabelled import shared_recordings
from keras_birds.errors import ConfigError, ModelError
from keras_birds.models.metadata import ModelMetadata, check_labels
from keras_birds.run_layout import (
    BACKBONE_KERAS,
    CONFIG,
    KERAS,
    MANIFEST,
    ONNX,
    PRETRAINING,
    SPLIT,
    Fold,
    fold_folder,
)

if TYPE_CHECKING:
    import keras

_SAME = ("audio.", "mel.", "model.backbone", "model.head", "model.hidden_units")
"""Settings without which weights mean something else."""

# Of what a pretraining heard: where a clip lies in a recording and how long it is changes no weight's meaning.
_MAY_DIFFER = ("audio.clip_s", "audio.crop", "audio.fill", "audio.decoder", "mel.width")


def check_initial(config: Config, catalog: Catalog, split: Split, folds: list[Fold]) -> None:
    """Checks that `folds` can begin with those of `model.initial`, and that none has seen what it is measured on.

    Raises:
        ConfigError: if a fold isn't there, or its run has other folds, or sees sound otherwise.
        DataError: if its run has other recordings.
    """
    run = Path(config.model.initial)
    if not (run / CONFIG).is_file():
        raise ConfigError(f"model.initial must be a run's folder. Received: {run}, without {CONFIG}")
    if is_pretraining(str(run)):
        _check_pretraining(run, config)
        return
    for path in (_model_path(run, k) for k in folds):
        if not path.is_file():
            raise ConfigError(
                f"model.initial must have the folds to train, or be a finished pretraining. Received: {run}, without "
                f"{path}"
            )
    for key, (stored, wanted) in diff_configs(Config.load(run / CONFIG), config).items():
        if key.startswith(_SAME) and key not in ("audio.crop", "model.head_first"):
            raise ConfigError(
                f"{key} must be as in {run}, which model.initial names: {stored!r}. Received: {wanted!r}"
            )
    if not np.array_equal(Split.load(run / SPLIT, catalog).fold, split.fold):
        raise ConfigError(
            f"folds must be divided as in {run}, which model.initial names: else a fold would be measured on what it "
            f"was trained on. Received: another division; copy [folds] from {run / CONFIG}"
        )


def initial_model(config: Config, fold: Fold, labels: list[str]) -> "keras.Model":
    """The fold's model of `model.initial` without the share of channels that `model.prune` says, uncompiled.

    Raises:
        ModelError: if it can't be loaded, or has other labels.
    """
    from keras_birds.models.keras_engine import KerasEngine
    from keras_birds.nn.build import build_model, prune
    from keras_birds.training.backbone import copy_weights

    path = _model_path(Path(config.model.initial), fold)
    engine = KerasEngine(path)
    check_labels(engine.metadata.labels, labels, str(path), "the data set")
    if config.model.backbone == "birdnet":
        model = build_model(config, len(labels))
        copy_weights(engine.model, model)
        return model
    return prune(engine.model, config, config.model.prune)


def initial_metadata(config: Config, fold: Fold) -> ModelMetadata | None:
    """Of the model that the fold begins with, whose licence also covers what is made of it; `None` without one."""
    if not config.model.initial or is_pretraining(config.model.initial):
        return None
    return ModelMetadata.read_onnx(_model_path(Path(config.model.initial), fold).with_name(ONNX))


def is_pretraining(folder: str) -> bool:
    """Whether `model.initial` names what `keras-birds pretrain` finished."""
    return bool(folder) and Path(folder, PRETRAINING).is_file()


def _check_pretraining(run: Path, config: Config) -> None:
    stored = Config.load(run / CONFIG)
    if config.model.backbone != stored.model.backbone or config.model.prune:
        wanted = "backbone" if config.model.backbone != stored.model.backbone else "prune"
        raise ConfigError(
            f'model.initial = "{run}", a pretraining, is for model.backbone = "{stored.model.backbone}", whole. '
            f"Received: model.{wanted} = {getattr(config.model, wanted)!r}"
        )
    for key, (was, wanted) in diff_configs(stored, config).items():
        if key.startswith(("audio.", "mel.")) and key not in _MAY_DIFFER:
            raise ConfigError(
                f"{key} must be as in {run}, which model.initial names: {was!r}. Received: {wanted!r}"
            )
    columns = stored.mel.width / stored.audio.clip_s * config.audio.clip_s
    if abs(columns - config.mel.width) > 1:
        raise ConfigError(
            f"mel.width must be {columns:.0f}, for the columns per second of {run}, which model.initial names. "
            f"Received: {config.mel.width}"
        )


def take_backbone(run: Path, model: "keras.Model") -> str:
    """Gives a model the backbone of a pretraining; what was taken, in words.

    Raises:
        ModelError: if it can't be loaded, or a weight's name or shape is another: nothing is taken.
    """
    from keras_birds.models.keras_engine import load_keras_model
    from keras_birds.nn.efficientnet import BACKBONE

    path = run / BACKBONE_KERAS
    source, target = load_keras_model(path), model.get_layer(BACKBONE)
    found, wanted = (
        {f"{layer.name}/{x.name}": (x, tuple(x.shape)) for layer in network.layers for x in layer.weights}
        for network in (source, target)
    )
    names = [*wanted, *(x for x in found if x not in wanted)]
    shapes = [tuple(weights[x][1] if x in weights else None for weights in (found, wanted)) for x in names]
    if odd := [(name, pair) for name, pair in zip(names, shapes, strict=True) if pair[0] != pair[1]]:
        name, (there, here) = odd[0]
        raise ModelError(
            f"{path}: must hold the weights of the network's backbone. Received: {len(odd)} others, first {name}, "
            f"{there or 'missing'} in place of {here or 'none'}"
        )
    for name, (variable, _) in wanted.items():
        variable.assign(found[name][0])
    return f"{len(found)} of {len(wanted)} weights of the backbone from {run}; the head is new"


def describe_heard(config: Config, catalog: Catalog, split: Split, folds: list[Fold]) -> str:
    """How many recordings that folds are measured on a pretraining has heard, in words; empty where it is none.

    Raises:
        ConfigError: if it has learnt with their labels: a fold would be measured on what it knows.
    """
    run = Path(config.model.initial)
    if not is_pretraining(config.model.initial):
        return ""
    manifest = load_table(run / MANIFEST, "a manifest", ("path", "clips", "label_row"))
    heard = manifest[manifest["clips"] != "0"]
    paths, is_measured = list(catalog.recordings["path"]), [x == HIDDEN or x in folds for x in split.fold]
    # Of several with one number or content the last counts: one that a fold is measured on.
    rows = {Path(paths[row]): row for row in sorted(range(len(paths)), key=is_measured.__getitem__)}
    found = list(map(Path, heard["path"]))
    shared = shared_recordings([*found, *sources_of(found)], list(rows))
    divided = {twin: split.fold[rows[twin]] for _, twin, _ in shared}
    hidden = sum(x == HIDDEN for x in divided.values())
    validated = [twin for twin, x in divided.items() if x in folds]
    if Config.load(run / CONFIG).contrastive.use_labels:
        labelled = set(heard.loc[heard["label_row"] != "-1", "path"])
        known = {twin for path, twin, _ in shared if str(path) in labelled}
        if measured := [x for x in known if is_measured[rows[x]]]:
            raise ConfigError(
                f"model.initial = {run} must not know the labels of what a fold is measured on "
                f"(contrastive.use_labels). Received: {len(measured)} such recordings; train the fold that it left "
                "out, or pretrain without labels"
            )
    if not hidden and not validated:
        return f"{run} heard no recording that a fold is measured on"
    return (
        f"{run} heard, without their labels, {len(validated)} recordings that a fold is measured on and {hidden} "
        "hidden ones: scores of sound that it never heard may be lower"
    )


def _model_path(run: Path, fold: Fold) -> Path:
    return fold_folder(run, fold) / KERAS
