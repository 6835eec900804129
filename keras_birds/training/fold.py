"""Trains one fold with `compile` and `fit`, and writes its model and its out-of-fold scores."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np
import pandas as pd

from keras_birds.atomic import atomic_path
from keras_birds.config import Config
from keras_birds.data.cache import CachedSource
from keras_birds.data.dataset import MelDataset
from keras_birds.data.review_source import ReviewedSource
from keras_birds.data.source import JoinedSource, MelSource
from keras_birds.errors import ConfigError, DataError
from keras_birds.labels import LabelSet
from keras_birds.models.metadata import ModelMetadata
from keras_birds.models.onnx_export import export_onnx
from keras_birds.nn.augment import build_augment
from keras_birds.nn.build import build_model
from keras_birds.nn.efficientnet import BACKBONE
from keras_birds.nn.losses import MaskedBinaryCrossentropy
from keras_birds.nn.metrics import MaskedMacroAUC, macro_auc
from keras_birds.progress import Reporter
from keras_birds.run_layout import FULL, HISTORY, KERAS, METADATA, ONNX, OOF, Fold
from keras_birds.training import callbacks
from keras_birds.training.checkpoint import (
    Progress,
    load_best,
    load_checkpoint,
    remove_checkpoints,
)
from keras_birds.training.oof import OutOfFold
from keras_birds.training.run_directory import gpu_name, remove_leftovers
from keras_birds.training.warm_start import initial_model

if TYPE_CHECKING:
    from keras_birds.training.pretrained import PretrainedWeights


@dataclass(frozen=True)
class FoldData:
    """Everything a fold learns from and is measured on.

    Args:
        source: images by row.
        targets: float32 `[recording, label]`.
        names: of the recordings, below the data set's folder.
        labels: of the columns.
        train_rows: usable recordings to train on.
        validation_rows: usable recordings to measure on.
        background: recordings of `data.background`, which hold none of the labels.
        reviewed: windows of `data.reviews`.
        reviewed_rows: of `reviewed`, to train on beside `train_rows`.
    """

    source: MelSource
    targets: np.ndarray
    names: tuple[str, ...]
    labels: LabelSet
    train_rows: np.ndarray
    validation_rows: np.ndarray
    background: MelSource | None = None
    reviewed: ReviewedSource | None = None
    reviewed_rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.intp))


@dataclass(frozen=True)
class FoldResult:
    """How a fold ended.

    Args:
        fold: its number, or `"full"`.
        folder: where its files are.
        macro_auc: exact macro ROC-AUC of the kept epoch's out-of-fold scores; not a number without any.
        kept_epoch: from 1; whose weights the model has.
        epochs: trained in all.
        seconds: that the epochs took.
    """

    fold: Fold
    folder: Path
    macro_auc: float
    kept_epoch: int
    epochs: int
    seconds: float


def train_fold(
    folder: Path,
    data: FoldData,
    config: Config,
    fold: Fold,
    pretrained: "PretrainedWeights | None",
    reporter: Reporter,
) -> FoldResult:
    """Trains a fold, or goes on with it, or finds it finished.

    Args:
        folder: of the fold; made if need be.
        data: its recordings.
        config: the run's settings.
        fold: its number, or `"full"`, which has no recordings to validate on.
        pretrained: ImageNet weights to begin with; `None` from scratch.
        reporter: gets lines and progress.
    """
    remove_leftovers(folder)
    if (folder / ONNX).is_file():
        remove_checkpoints(folder)
        reporter.log(f"fold {fold}: finished before")
        return _read_result(folder, fold)
    folder.mkdir(parents=True, exist_ok=True)
    settings = config.training
    _require_batches(data, config, fold)
    validate = f", {len(data.validation_rows)} to validate" if fold != FULL else ", none to validate"
    reporter.log(f"fold {fold}: {len(data.train_rows)} to train on{validate}")
    keras.utils.clear_session()
    keras.utils.set_random_seed(settings.seed)
    training, validation = make_datasets(data, config)
    with _precision(settings.precision):
        model = (
            initial_model(config, fold, list(data.labels))
            if config.model.initial
            else build_model(config, len(data.labels))
        )
    if pretrained is not None:
        pretrained.apply(model)
    compile_model(model, config, len(training))
    progress = load_checkpoint(folder, model)
    if progress.epochs:
        reporter.log(f"fold {fold}: goes on after epoch {progress.epochs}")
    if progress.epochs < settings.epochs:
        progress = _fit(model, training, validation, folder, config, progress, reporter)
    if settings.ema_momentum:
        model.optimizer.finalize_variable_values(model.trainable_variables)
    with _precision("float32"):
        kept = build_model(config, len(data.labels), model.get_layer(BACKBONE).expanded)
    if settings.keep == "best":
        load_best(folder, kept)
    else:
        kept.set_weights(model.get_weights())
    return _finish(kept, folder, data, validation, config, fold, progress)


def make_datasets(data: FoldData, config: Config) -> tuple[MelDataset, MelDataset | None]:
    """The shuffled, augmented training set and the plain validation set, if there are recordings for it."""
    settings = config.training
    random_crop = config.audio.crop == "random"
    source, targets, train_rows, negative_rows = data.source, data.targets, data.train_rows, None
    if data.reviewed is not None and len(data.reviewed_rows):
        train_rows = np.concatenate([train_rows, len(source) + data.reviewed_rows])
        source = JoinedSource(source, CachedSource(data.reviewed))
        targets = np.concatenate([targets, data.reviewed.targets])
    if data.background is not None and config.data.background_fraction:
        negative_rows = len(source) + np.flatnonzero(data.background.usable)
        source = JoinedSource(source, data.background)
        absent = np.zeros((len(data.background), targets.shape[1]), np.float32)
        targets = np.concatenate([targets, absent])
    training = MelDataset(
        source,
        targets,
        train_rows,
        settings.batch_size,
        seed=settings.seed,
        shuffle=True,
        augment=build_augment(config, data.background),
        random_crop=random_crop,
        drop_remainder=True,
        workers=settings.workers,
        negative_rows=negative_rows,
        negative_fraction=config.data.background_fraction,
    )
    if not len(data.validation_rows):
        return training, None
    validation = MelDataset(
        data.source, data.targets, data.validation_rows, settings.batch_size, workers=settings.workers
    )
    return training, validation


def compile_model(model: keras.Model, config: Config, steps_per_epoch: int) -> None:
    """AdamW on a cosine that falls step by step, after a linear warm-up; masked BCE from logits, masked macro-AUC.

    Args:
        model: from `build_model`.
        config: its `training` section.
        steps_per_epoch: batches in an epoch.
    """
    settings = config.training
    warmup_steps = round(settings.warmup_epochs * steps_per_epoch)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup_steps else settings.learning_rate,
        settings.epochs * steps_per_epoch - warmup_steps,
        alpha=settings.final_learning_rate / settings.learning_rate,
        warmup_target=settings.learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
    optimizer = keras.optimizers.AdamW(
        schedule,
        weight_decay=settings.weight_decay,
        use_ema=settings.ema_momentum > 0,
        ema_momentum=settings.ema_momentum,
    )
    model.compile(
        optimizer=optimizer,
        loss=MaskedBinaryCrossentropy(
            from_logits=True, label_smoothing=settings.label_smoothing, focal_gamma=settings.focal_gamma
        ),
        metrics=[MaskedMacroAUC(model.output_shape[-1], from_logits=True, name="macro_auc")],
        # On torch Keras would compile the step with Dynamo, which takes longer than a short training.
        jit_compile=False if keras.config.backend() == "torch" else "auto",
    )
    # TensorFlow traces a step anew if the first one makes variables.
    model.optimizer.build(model.trainable_variables)


def _fit(
    model: keras.Model,
    training: MelDataset,
    validation: MelDataset | None,
    folder: Path,
    config: Config,
    progress: Progress,
    reporter: Reporter,
) -> Progress:
    settings = config.training
    training.epoch = progress.epochs
    checkpoint = callbacks.Checkpoint(folder, progress, settings.keep)
    # Validation measures the averaged weights, which are what is kept.
    averaging = [keras.callbacks.SwapEMAWeights()] if settings.ema_momentum else []
    line = callbacks.EpochLine(
        reporter.log, lambda done, total: reporter.progress("Epoch", done, total), checkpoint, settings.epochs
    )
    model.fit(
        training,
        validation_data=validation,
        epochs=settings.epochs,
        initial_epoch=progress.epochs,
        # The data set shuffles by (seed, epoch); Keras would reorder its batches by a global state.
        shuffle=False,
        verbose=0,
        callbacks=[
            callbacks.ShareProcessors(),
            callbacks.SeedEachEpoch(settings.seed),
            callbacks.StopAtNaN(),
            *averaging,
            checkpoint,
            line,
        ],
    )
    return checkpoint.progress


def _finish(
    model: keras.Model,
    folder: Path,
    data: FoldData,
    validation: MelDataset | None,
    config: Config,
    fold: Fold,
    progress: Progress,
) -> FoldResult:
    """Writes everything; `model.onnx` last, as it is what makes the fold a finished one."""
    history, exact = progress.history, math.nan
    if validation is not None:
        rows = data.validation_rows
        logits = np.asarray(
            model.predict(validation, verbose=0, callbacks=[callbacks.ShareProcessors()]), np.float64
        )
        scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
        targets = data.targets[rows]
        OutOfFold(tuple(data.names[x] for x in rows), data.labels, scores, targets).write(folder / OOF)
        exact = macro_auc(targets, scores)
    seconds = math.fsum(x["seconds"] for x in history)
    with atomic_path(folder / HISTORY) as temporary:
        table = pd.DataFrame(list(history))
        table.astype({"epoch": int}).to_csv(temporary, index=False)
    with atomic_path(folder / KERAS) as temporary:
        whole = temporary.with_suffix(".keras")
        try:
            model.save(whole)
            whole.replace(temporary)
        finally:
            whole.unlink(missing_ok=True)
    metadata = ModelMetadata(
        model_id=f"{folder.resolve().parent.name}/{folder.name}",
        labels=data.labels,
        audio=config.audio,
        mel=config.mel,
        metrics={
            "macro_auc": exact,
            "kept_epoch": progress.kept_epoch,
            "epochs": progress.epochs,
            "train_seconds": round(seconds, 1),
        },
    )
    metadata.write_json(folder / METADATA)
    export_onnx(folder / KERAS, folder / ONNX, metadata)
    remove_checkpoints(folder)
    return FoldResult(fold, folder, exact, progress.kept_epoch, progress.epochs, seconds)


def _read_result(folder: Path, fold: Fold) -> FoldResult:
    metrics = ModelMetadata.read_onnx(folder / ONNX).metrics
    kept_epoch, epochs = int(metrics["kept_epoch"]), int(metrics["epochs"])
    return FoldResult(fold, folder, metrics["macro_auc"], kept_epoch, epochs, metrics["train_seconds"])


def _require_batches(data: FoldData, config: Config, fold: Fold) -> None:
    if fold != FULL and not len(data.validation_rows):
        raise DataError(f"fold {fold} must have recordings to validate on. Received: none that can be read")
    if len(data.train_rows) < config.training.batch_size:
        raise ConfigError(
            f"training.batch_size must not exceed the {len(data.train_rows)} recordings that fold {fold} trains on. "
            f"Received: {config.training.batch_size}"
        )


@contextmanager
def _precision(precision: str) -> Iterator[None]:
    """Builds layers under the asked policy: `"auto"` is bfloat16 on a GPU."""
    before = keras.config.dtype_policy()
    is_reduced = precision == "bfloat16" or (precision == "auto" and bool(gpu_name()))
    keras.config.set_dtype_policy("mixed_bfloat16" if is_reduced else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
