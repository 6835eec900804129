"""Weights averaged over epochs or folds, and batch normalisation's statistics of what comes out."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any

import keras
import numpy as np

from keras_birds.data.dataset import MelDataset
from keras_birds.progress import Reporter

MOST_BATCHES = 200
"""Of which statistics are taken: the mean and variance of a channel over so many differ little from those of all."""


class AverageWeights(keras.callbacks.Callback):
    """Keeps the mean of the trainable weights after each of the last epochs; the training goes on with its own.

    At the end `apply` makes it the model's. What is measured after an epoch are the weights of that epoch.

    Args:
        model: built.
        first_epoch: from 0, the first whose weights count.

    Source: Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization",
    arXiv:1803.05407 (SWA).
    """

    def __init__(self, model: keras.Model, first_epoch: int):
        super().__init__()
        self.variables = [
            keras.Variable(np.zeros(x.shape, np.float32), trainable=False) for x in model.trainable_variables
        ]
        self.first_epoch = first_epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the weights to the mean, which must be there before a checkpoint is written."""
        count = epoch + 1 - self.first_epoch
        if count > 0:
            for mean, x in zip(self.variables, self.model.trainable_variables, strict=True):
                mean.assign(mean + (keras.ops.cast(x, "float32") - mean) / count)

    def apply(self, model: keras.Model, batches: Iterable[np.ndarray]) -> None:
        """Gives a model the mean, and the statistics that its batch normalisation has with it on training batches."""
        for x, mean in zip(model.trainable_variables, self.variables, strict=True):
            x.assign(mean)
        renew_statistics(model, batches)


def renew_statistics(model: keras.Model, batches: Iterable[np.ndarray]) -> None:
    """Makes the moving averages of batch normalisation plain means over batches `[batch, ...]` of a model's inputs.

    Those of averaged weights are none of the averaged models' (Izmailov et al. 2018, section 3.2). The first
    `MOST_BATCHES` are taken.
    """
    layers = list(_normalisations(model))
    if not layers:
        return
    momenta = [x.momentum for x in layers]
    try:
        with _without_gradients():
            for count, inputs in enumerate(islice(batches, MOST_BATCHES)):
                for layer in layers:
                    layer.momentum = count / (count + 1)
                model(inputs, training=True)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def statistics_images(training: MelDataset, reporter: Reporter) -> Iterator[np.ndarray]:
    """Images of a training's first batches, as many as `renew_statistics` takes; the reporter gets progress."""
    count = min(len(training), MOST_BATCHES)
    for k in range(count):
        reporter.progress("Taking statistics", k, count)
        yield training[k][0]
    reporter.progress("Taking statistics", 0, 0)


def _normalisations(model: keras.Model) -> Iterator[keras.layers.BatchNormalization]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _normalisations(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            yield layer


def _without_gradients() -> AbstractContextManager[Any]:
    if keras.config.backend() != "torch":
        return nullcontext()
    import torch

    return torch.no_grad()
