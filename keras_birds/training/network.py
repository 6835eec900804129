"""A fold's network before its first step: its weights, its loss and its optimizer."""

from contextlib import AbstractContextManager
from pathlib import Path

import keras
import numpy as np

from keras_birds.config import Config, TrainingConfig
from keras_birds.nn.build import build_model, dtype_policy
from keras_birds.nn.losses import MaskedBinaryCrossentropy, MixedLoss, SoftAUC
from keras_birds.nn.metrics import MaskedMacroAUC
from keras_birds.progress import Reporter
from keras_birds.run_layout import Fold
from keras_birds.training.backbone import copy_weights, set_prototypes, set_scale
from keras_birds.training.callbacks import SeedEachEpoch
from keras_birds.training.embeddings import WindowEmbeddings
from keras_birds.training.run import TrainingRun, frozen_run
from keras_birds.training.run_directory import gpu_name
from keras_birds.training.stored import STORED
from keras_birds.training.warm_start import initial_model, is_pretraining, take_backbone


def first_model(run: TrainingRun, fold: Fold, reporter: Reporter) -> keras.Model:
    """A fold's network before its first step, uncompiled, with the weights that the settings say it begins with."""
    config, labels = run.config, list(run.catalog.labels)
    with training_policy(config):
        if is_pretraining(config.model.initial):
            model = build_model(config, len(labels))
            reporter.log(f"fold {fold}: {take_backbone(Path(config.model.initial), model)}")
            return model
        if config.model.initial:
            return initial_model(config, fold, labels)
        model = build_model(config, len(labels), embedding_size=run.embedding_size)
    if isinstance(run.source, WindowEmbeddings):
        embeddings, targets = _known_embeddings(run, run.source, fold)
        set_scale(model, embeddings)
        if config.model.head == "prototypes":
            set_prototypes(model, embeddings, targets)
    elif run.pretrained is not None:
        run.pretrained.apply(model)
    if config.model.head_first:
        reporter.log(f"fold {fold}: first the head")
        copy_weights(train_head(frozen_run(run, reporter), fold, reporter), model)
    return model


def training_policy(config: Config) -> AbstractContextManager[None]:
    """A `with` block for what `training.precision` says."""
    precision = config.training.precision
    is_reduced = precision == "bfloat16" or (precision == "auto" and bool(gpu_name()))
    return dtype_policy("mixed_bfloat16" if is_reduced else "float32")


def _known_embeddings(
    run: TrainingRun, source: WindowEmbeddings, fold: Fold
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings that a fold learns from, and what is known of each; of a store negatives as well."""
    rows = run.train_rows(fold)
    embeddings, counts = source.windows(rows)
    targets = np.repeat(run.targets[rows], counts, axis=0)
    if run.config.model.backbone == STORED and isinstance(run.background, WindowEmbeddings):
        more, _ = run.background.windows(np.arange(len(run.background)))
        nothing = np.zeros((len(more), targets.shape[1]), np.float32)
        return np.concatenate([embeddings, more]), np.concatenate([targets, nothing])
    return embeddings, targets


def train_head(run: TrainingRun, fold: Fold, reporter: Reporter) -> keras.Model:
    """Trains a head of a run on embeddings and writes nothing.

    Before the whole network learns, so that a new head's first steps don't spoil the backbone (Kumar et al. 2022,
    arXiv:2202.10054: linear probing, then fine-tuning).
    """
    settings, training = run.config.training, run.training_data(fold)
    head = first_model(run, fold, reporter)
    compile_model(head, run.config, len(training), class_weights(run, fold))
    callbacks = [SeedEachEpoch(settings.seed), keras.callbacks.TerminateOnNaN(raise_error=True)]
    head.fit(training, epochs=settings.epochs, shuffle=False, verbose=0, callbacks=callbacks)
    return head


def class_weights(run: TrainingRun, fold: Fold) -> list[float] | None:
    """How much each label's positives count: `(most / its own) ** training.class_weights` by recordings in training."""
    power = run.config.training.class_weights
    if not power:
        return None
    counts = np.maximum((run.targets[run.train_rows(fold)] >= 0.5).sum(axis=0), 1)
    return [float(x) for x in (counts.max() / counts) ** power]


def make_optimizer(settings: TrainingConfig, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """AdamW on a cosine that falls step by step, after a linear warm-up."""
    warmup_steps = round(settings.warmup_epochs * steps_per_epoch)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup_steps else settings.learning_rate,
        settings.epochs * steps_per_epoch - warmup_steps,
        alpha=settings.final_learning_rate / settings.learning_rate,
        warmup_target=settings.learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
    decay, momentum = settings.weight_decay, settings.ema_momentum
    return keras.optimizers.AdamW(schedule, weight_decay=decay, use_ema=momentum > 0, ema_momentum=momentum)


def compile_model(
    model: keras.Model,
    config: Config,
    steps_per_epoch: int,
    positive_weights: list[float] | None = None,
) -> None:
    """Gives a model `make_optimizer`'s optimizer, masked losses of logits and masked macro-AUC."""
    settings = config.training
    loss: keras.losses.Loss = MaskedBinaryCrossentropy(
        from_logits=True,
        label_smoothing=settings.label_smoothing,
        focal_gamma=settings.focal_gamma,
        positive_weights=positive_weights,
    )
    model.compile(
        optimizer=make_optimizer(settings, steps_per_epoch),
        loss=MixedLoss(loss, SoftAUC(), settings.soft_auc) if settings.soft_auc else loss,
        metrics=[MaskedMacroAUC(model.output_shape[-1], from_logits=True, name="macro_auc")],
        # On torch Keras would compile the step with Dynamo, which takes longer than a short training.
        jit_compile=False if keras.config.backend() == "torch" else "auto",
    )
    # TensorFlow traces a step anew if the first one makes variables.
    model.optimizer.build(model.trainable_variables)
