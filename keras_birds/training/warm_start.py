"""Folds that begin with those of another run, whole or pruned."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_birds.config import Config, diff_configs
from keras_birds.data.catalog import Catalog
from keras_birds.data.folds import Split
from keras_birds.errors import ConfigError
from keras_birds.models.metadata import ModelMetadata, check_labels
from keras_birds.run_layout import CONFIG, KERAS, ONNX, SPLIT, Fold, fold_folder

if TYPE_CHECKING:
    import keras

_SAME = ("audio.", "mel.", "model.backbone", "model.head", "model.hidden_units")
"""Settings without which weights mean something else."""


def check_initial(config: Config, catalog: Catalog, split: Split, folds: list[Fold]) -> None:
    """Checks that `folds` can begin with those of `model.initial`, and that none has seen what it is measured on.

    Raises:
        ConfigError: if a fold isn't there, or its run has other folds, or sees sound otherwise.
        DataError: if its run has other recordings.
    """
    run = Path(config.model.initial)
    if not (run / CONFIG).is_file():
        raise ConfigError(f"model.initial must be a run's folder. Received: {run}, without {CONFIG}")
    for path in (_model_path(run, k) for k in folds):
        if not path.is_file():
            raise ConfigError(f"model.initial must have the folds to train. Received: {run}, without {path}")
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
    if not config.model.initial:
        return None
    return ModelMetadata.read_onnx(_model_path(Path(config.model.initial), fold).with_name(ONNX))


def _model_path(run: Path, fold: Fold) -> Path:
    return fold_folder(run, fold) / KERAS
