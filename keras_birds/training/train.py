"""Trains folds: prepares the run, then `compile` and `fit` for each, into one run directory."""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from keras_birds.atomic import atomic_path
from keras_birds.checksum import sha256_of
from keras_birds.config import Config
from keras_birds.data.dataset import MelDataset
from keras_birds.data.soft_labels import SoftLabels
from keras_birds.errors import ConfigError, DataError
from keras_birds.models.calibration import sigmoid
from keras_birds.models.keras_engine import load_keras_model
from keras_birds.models.metadata import ModelMetadata
from keras_birds.models.onnx_export import export_joined, export_onnx
from keras_birds.nn.build import build_model, dtype_policy
from keras_birds.nn.efficientnet import BACKBONE
from keras_birds.nn.metrics import macro_auc
from keras_birds.progress import Reporter
from keras_birds.run_layout import FULL, HISTORY, KERAS, METADATA, ONNX, OOF, Fold, fold_folder
from keras_birds.training.averaging import AverageWeights, statistics_images
from keras_birds.training.backbone import AddedBackbone
from keras_birds.training.callbacks import (
    BEST,
    CHECKPOINT,
    Checkpoint,
    History,
    ShareProcessors,
    kept_epoch,
    load_checkpoint,
    load_variables,
    seed_layers,
)
from keras_birds.training.embeddings import ValidateRecordings, WindowEmbeddings, mean_probabilities
from keras_birds.training.fit import fit_model, save_model
from keras_birds.training.memory import keep_freed_memory
from keras_birds.training.network import class_weights, compile_model, first_model
from keras_birds.training.oof import OutOfFold, score_whole
from keras_birds.training.pseudo import labels_of_fold
from keras_birds.training.run import TrainingRun, prepare_run
from keras_birds.training.run_directory import remove_leftovers
from keras_birds.training.teacher import soft_labels
from keras_birds.training.warm_start import initial_metadata

Callbacks = Sequence[keras.callbacks.Callback]

_KERAS_SUFFIX = Path(KERAS).suffix


@dataclass(frozen=True)
class FoldResult:
    """How a fold, by its number or `"full"`, ended; its files are in `folder`.

    `macro_auc` is the exact macro ROC-AUC of the out-of-fold scores, not a number without any; the model has the
    weights of `kept_epoch`, from 1; `epochs` were trained in all, in `seconds`.
    """

    fold: Fold
    folder: Path
    macro_auc: float
    kept_epoch: int
    epochs: int
    seconds: float

    @cached_property
    def model(self) -> keras.Model:
        """The kept epoch's model, float32 and uncompiled, loaded when first asked for."""
        return load_keras_model(self.folder / KERAS)

    @property
    def history(self) -> dict[str, list[float]]:
        """What `fit` tells of each epoch, by name, as `keras.callbacks.History` has it, over all resumed parts."""
        table = pd.read_csv(self.folder / HISTORY)
        return {str(name): list(table[name]) for name in table}


@dataclass(frozen=True)
class RunResult:
    """A run directory, the folds trained in the order asked for, and how many recordings couldn't be read."""

    out: Path
    folds: tuple[FoldResult, ...]
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
    callbacks: Callbacks = (),
) -> RunResult:
    """Trains one fold, several or all, or on all recordings, as `keras-birds train` does.

    ```python
    config = keras_birds.Config.load("baseline", ["training.epochs=2", "model.pretrained=none"])
    run = keras_birds.train(config, data="birdclef", fold=0)
    run.folds[0].model.summary()
    run.folds[0].history["val_macro_auc"]
    ```

    Args:
        config: the settings.
        data: the data set's folder.
        fold: a number from 0, several, `"all"`, or `"full"`: on every recording that isn't hidden, measured on none.
        out: the run directory, new or empty; `None` for `runs/<time>`.
        resume: whether to go on with the run in `out` (or the newest): finished folds stay, an interrupted one
            goes on after its last whole epoch, and ends as it would have without the interruption.
        reporter: gets lines and progress.
        callbacks: of Keras, for each fold's `fit`, after the package's own. `resume` doesn't restore their state.

    Raises:
        ConfigError: if the settings, the fold or the place of the run can't be used.
        DataError: if the data set is at fault; it names every row.
        ModelError: if the pretrained weights can't be had.
        TrainingError: if the loss is no longer a number.
    """
    reporter = reporter or Reporter()
    run = prepare_run(config, data, fold, out, resume, reporter)
    results = [train_fold(run, k, reporter, callbacks) for k in run.folds]
    return RunResult(run.out, tuple(results), run.left_out)


def train_fold(run: TrainingRun, fold: Fold, reporter: Reporter, callbacks: Callbacks = ()) -> FoldResult:
    """Trains a fold of a run, or goes on with it, or finds it finished; writes in its folder only."""
    folder = fold_folder(run.out, fold)
    remove_leftovers(folder)
    if (folder / ONNX).is_file():
        reporter.log(f"fold {fold}: finished before")
    else:
        _require_batches(run, fold)
        folder.mkdir(parents=True, exist_ok=True)
        _train(run, fold, reporter, callbacks)
    for name in (CHECKPOINT, BEST):
        (folder / name).unlink(missing_ok=True)
    metrics = ModelMetadata.read_onnx(folder / ONNX).metrics
    epochs = int(metrics["kept_epoch"]), int(metrics["epochs"])
    return FoldResult(fold, folder, metrics["macro_auc"], *epochs, metrics["train_seconds"])


def _require_batches(run: TrainingRun, fold: Fold) -> None:
    if fold != FULL and not len(run.validation_rows(fold)):
        raise DataError(f"fold {fold} must have recordings to validate on. Received: none that can be read")
    size, count = run.batch_size(fold), len(run.train_rows(fold))
    if count < size and not (run.unlabelled or run.pseudo):
        raise ConfigError(
            f"training.batch_size must not exceed the {count} recordings that fold {fold} trains on. Received: {size}"
        )


def _train(run: TrainingRun, fold: Fold, reporter: Reporter, callbacks: Callbacks) -> None:
    config, settings, folder = run.config, run.config.training, fold_folder(run.out, fold)
    counts = len(run.train_rows(fold)), len(run.validation_rows(fold)) or "none"
    reporter.log(f"fold {fold}: {counts[0]} to train on, {counts[1]} to validate")
    keep_freed_memory()
    soft = _soft_labels(run, fold, reporter)
    keras.utils.clear_session()
    keras.utils.set_random_seed(settings.seed)
    model, training = first_model(run, fold, reporter), run.training_data(fold, soft)
    compile_model(model, config, len(training), class_weights(run, fold))
    average = AverageWeights(model, settings.epochs - settings.swa_epochs) if settings.swa_epochs else None
    averaged = average.variables if average else ()
    history = load_checkpoint(folder, model, averaged)
    if history:
        reporter.log(f"fold {fold}: goes on after epoch {len(history)}")
    checkpoint = Checkpoint(folder, history, settings.epochs, settings.keep, reporter, averaged)
    if len(history) < settings.epochs:
        _fit(model, training, run, fold, checkpoint, [average] if average else [], callbacks)
    if settings.ema_momentum:
        model.optimizer.finalize_variable_values(model.trainable_variables)
    if average and len(checkpoint.history) > average.first_epoch:
        training.epoch = settings.epochs
        seed_layers(model, settings.seed, settings.epochs)
        average.apply(model, statistics_images(training, reporter))
    with dtype_policy("float32"):
        widths = model.get_layer(BACKBONE).block_widths if config.model.input_kind == "mel" else None
        kept = build_model(config, len(run.catalog.labels), widths, run.embedding_size)
    if settings.keep == "best":
        load_variables(folder / BEST, model.weights)
    kept.set_weights(model.get_weights())
    _finish(kept, run, fold, checkpoint.history, reporter)


def _soft_labels(run: TrainingRun, fold: Fold, reporter: Reporter) -> SoftLabels | None:
    """Windows that models labelled, for a fold to learn from; `None` where there are none."""
    config = run.config
    if config.training.teacher:
        soft = soft_labels(run, fold, reporter)
    elif run.pseudo is not None:
        soft = labels_of_fold(run.pseudo, config, run.catalog.labels, fold, reporter)
    else:
        return None
    if not (per_label := config.data.pseudo_per_label):
        return soft
    surest = soft.surest(per_label)
    told = f"{len(surest.windows)} of {len(soft.windows)} windows"
    reporter.log(f"fold {fold}: {told}, the {per_label} of each label at most that are surest")
    return surest


def _fit(
    model: keras.Model,
    training: MelDataset,
    run: TrainingRun,
    fold: Fold,
    checkpoint: Checkpoint,
    averages: list[AverageWeights],
    callbacks: Callbacks,
) -> None:
    settings, validation = run.config.training, run.validation_data(fold)
    # Validation measures the averaged weights, which are what is kept.
    measured = [keras.callbacks.SwapEMAWeights()] if settings.ema_momentum else []
    if validation is not None and isinstance(run.source, WindowEmbeddings):
        rows, validation = run.validation_rows(fold), None
        measured.append(ValidateRecordings(run.source, rows, run.targets[rows]))
    # A checkpoint holds the average after the same epoch.
    fit_model(model, training, settings, checkpoint, [*measured, *averages], callbacks, validation)


def _finish(model: keras.Model, run: TrainingRun, fold: Fold, history: History, reporter: Reporter) -> None:
    """Writes everything; `model.onnx` last, as it is what makes the fold a finished one."""
    folder, config = fold_folder(run.out, fold), run.config
    with atomic_path(folder / HISTORY) as temporary:
        pd.DataFrame(history).astype({"epoch": int}).to_csv(temporary, index=False)
    backbone = run.pretrained if isinstance(run.pretrained, AddedBackbone) else None
    frozen = backbone if config.model.frozen else None
    if frozen is None or frozen.keras_path.is_file():
        save_model(frozen.join(model, config.model) if frozen else model, folder / KERAS)
    origin = backbone.metadata if backbone else initial_metadata(config, fold)
    seconds = {"train_seconds": round(math.fsum(x["seconds"] for x in history), 1)}
    kept = kept_epoch(history, config.training.keep)
    metrics = {"macro_auc": math.nan, "kept_epoch": kept, "epochs": len(history)} | seconds
    metadata = ModelMetadata(
        model_id=f"{folder.resolve().parent.name}/{folder.name}",
        labels=run.catalog.labels,
        audio=config.audio,
        mel=config.mel,
        licence=origin.licence if origin else "",
        source=_source(run, origin),
        backbone_sha256=sha256_of(frozen.path) if frozen else "",
        metrics=metrics,
    )
    metadata.write_json(folder / METADATA)  # with it `model.keras` can score
    if fold != FULL:
        exact = _write_out_of_fold(model, run, fold, reporter)
        metadata = replace(metadata, metrics=metrics | {"macro_auc": exact})
        metadata.write_json(folder / METADATA)
    if frozen is None or frozen.path.suffix == _KERAS_SUFFIX:
        export_onnx(folder / KERAS, folder / ONNX, metadata)
        return
    with tempfile.TemporaryDirectory() as temporary_folder:
        head = Path(temporary_folder, KERAS)
        model.save(head)
        export_joined(frozen.path, head, folder / ONNX, metadata)


def _write_out_of_fold(model: keras.Model, run: TrainingRun, fold: Fold, reporter: Reporter) -> float:
    """Scores what a fold is measured on, as `predict` does; returns the exact macro ROC-AUC.

    Recordings are scored whole, those with annotations window by window.
    """
    folder, rows = fold_folder(run.out, fold), run.validation_rows(fold)
    if isinstance(run.source, WindowEmbeddings):
        scores = mean_probabilities(model, run.source, rows)
    elif run.catalog.known is not None:
        scores = sigmoid(model.predict(run.validation_data(fold), verbose=0, callbacks=[ShareProcessors()]))
    else:
        scores = score_whole(folder / KERAS, [run.catalog.recordings["path"][x] for x in rows], reporter)
    targets, paths = run.targets[rows], tuple(run.catalog.relative_paths[x] for x in rows)
    OutOfFold(paths, run.catalog.labels, scores, targets).write(folder / OOF)
    return macro_auc(targets, scores)


def _source(run: TrainingRun, origin: ModelMetadata | None) -> str:
    if teacher := run.config.training.teacher:
        return f"trained here, taught by {teacher}"
    if run.pseudo is not None:
        return f"trained here, taught by {', '.join(run.pseudo.teacher.model_ids)}"
    return origin.source if origin else ""
