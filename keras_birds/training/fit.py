"""Keras' `fit` as every training here calls it, and a model's file."""

from collections.abc import Sequence
from pathlib import Path

import keras

from keras_birds.atomic import atomic_path
from keras_birds.config import TrainingConfig
from keras_birds.data.dataset import MelDataset
from keras_birds.errors import TrainingError
from keras_birds.training.callbacks import Checkpoint, SeedEachEpoch, ShareProcessors

Callbacks = Sequence[keras.callbacks.Callback]


def fit_model(
    model: keras.Model,
    training: MelDataset,
    settings: TrainingConfig,
    checkpoint: Checkpoint,
    measured: Callbacks,
    callbacks: Callbacks = (),
    validation: MelDataset | None = None,
) -> None:
    """Trains a compiled model after the epochs that a checkpoint has, which is written after each other one.

    `measured` come before the checkpoint, which holds what they add; `callbacks` after it.

    Raises:
        TrainingError: if the loss is no longer a number.
    """
    begun = training.epoch = len(checkpoint.history)
    finite = keras.callbacks.TerminateOnNaN(raise_error=True)
    own = [ShareProcessors(), SeedEachEpoch(settings.seed), finite, *measured, checkpoint]
    try:
        model.fit(
            training,
            validation_data=validation,
            epochs=settings.epochs,
            initial_epoch=begun,
            # The data set shuffles by (seed, epoch); Keras would reorder its batches by a global state.
            shuffle=False,
            verbose=0,
            callbacks=[*own, *callbacks],
        )
    except RuntimeError as error:
        if not str(error).startswith("NaN or Inf loss"):
            raise
        raise TrainingError(
            f"The loss must be a number. Received: {str(error).split('.')[0]}, in epoch "
            f"{len(checkpoint.history) + 1}. Lower training.learning_rate, or train in float32 "
            "(--set training.precision=float32)"
        ) from None


def save_model(model: keras.Model, path: Path) -> None:
    """Writes a Keras model, there whole or not at all."""
    with atomic_path(path) as temporary:
        # Keras insists on its suffix.
        file = temporary.with_suffix(path.suffix)
        try:
            model.save(file)
            file.replace(temporary)
        finally:
            file.unlink(missing_ok=True)
