"""What happens around each step and epoch: shared processors, repeatable draws, a checkpoint, a readable line."""

import json
import math
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_birds.atomic import atomic_path
from keras_birds.errors import TrainingError
from keras_birds.progress import Reporter
from keras_birds.threads import TorchThreads

MONITOR = "val_macro_auc"
SHOWN = ("loss", "val_loss", MONITOR, "matched_views", "probe_macro_auc")
CHECKPOINT, BEST = "checkpoint.npz", "best.npz"
_ANEW = "Delete the fold's folder to train it from the start"


class SeedEachEpoch(keras.callbacks.Callback):
    """Sets the state of every random layer from (seed, epoch), so that a resumed run draws what it would have.

    The global states are set too: on torch, Keras' dropout draws from torch's own.
    """

    def __init__(self, seed: int):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Seeds layer after layer."""
        seed_layers(self.model, self.seed, epoch)


def seed_layers(model: keras.Model, seed: int, epoch: int) -> None:
    """Sets what a model's layers draw from, and the global states."""
    states = [x for x in model.variables if x.path.endswith("seed_generator_state")]
    shared, *seeds = np.random.SeedSequence((seed, epoch)).generate_state(len(states) + 1) >> 1
    keras.utils.set_random_seed(int(shared))
    for state, drawn in zip(states, seeds, strict=True):
        state.assign(np.array([drawn, 0], np.dtype(keras.backend.standardize_dtype(state.dtype))))


class ShareProcessors(keras.callbacks.Callback):
    """Computes on the processors that other programs leave; on torch, as the others see to it themselves."""

    def __init__(self) -> None:
        super().__init__()
        self._threads = TorchThreads() if keras.config.backend() == "torch" else None

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks what they leave, once a second."""
        if self._threads:
            self._threads.adjust()

    on_test_batch_begin = on_predict_batch_begin = on_train_batch_begin

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Gives the threads back."""
        if self._threads:
            self._threads.release()

    on_predict_end = on_train_end


History = list[dict[str, float]]
"""What is known of each epoch so far, by name."""


def kept_epoch(history: History, keep: str) -> int:
    """From 1, of the `"best"` or `"last"` epoch.

    The best one has the highest macro-AUC on the validation recordings, the first of equals; while that isn't defined
    (no label with a positive and a negative), it is the last.
    """
    aucs = np.array([x.get(MONITOR, math.nan) for x in history])
    return int(np.nanargmax(aucs)) + 1 if keep == "best" and not np.isnan(aucs).all() else len(history)


class Checkpoint(keras.callbacks.Callback):
    """Saves the state after each epoch, keeps the weights of the `kept_epoch`, and reports a line an epoch.

    Keras' `BackupAndRestore` and `ModelCheckpoint` write weights and epoch in place, one after the other: after a
    kill between the two they don't match. Here one renamed file holds weights, optimizer and history.

    It goes on from the history that a checkpoint in the fold's `folder` held; `epochs` are of the whole training. The
    reporter gets a line an epoch, and how much of the running one is done. `others` are variables that are saved too.
    """

    def __init__(
        self,
        folder: Path,
        history: History,
        epochs: int,
        keep: str,
        reporter: Reporter,
        others: Sequence[keras.Variable] = (),
    ):
        super().__init__()
        self.others = others
        self.folder, self.history, self.epochs, self.keep = folder, history, epochs, keep
        self.reporter, self._started = reporter, 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Moves the bar."""
        self.reporter.progress("Epoch", batch + 1, self.params["steps"])

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the best weights before the checkpoint: one never names weights that aren't there."""
        row = {"epoch": float(epoch + 1), **{k: float(v) for k, v in (logs or {}).items()}}
        row["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row["seconds"] = time.perf_counter() - self._started
        self.history = [*self.history, row]
        is_best = self.keep == "best" and kept_epoch(self.history, self.keep) == epoch + 1
        if is_best:
            save_variables(self.folder / BEST, self.model.weights)
        variables = [*self.model.weights, *self.model.optimizer.variables, *self.others]
        save_variables(self.folder / CHECKPOINT, variables, json.dumps({"history": self.history}))
        self.reporter.progress("Epoch", 0, 0)
        left_s = (self.epochs - epoch - 1) * row["seconds"]
        shown = [f"{name} {row[name]:.4f}" for name in SHOWN if name in row]
        self.reporter.log(
            f"epoch {epoch + 1:>{len(str(self.epochs))}}/{self.epochs}  {'  '.join(shown)}  "
            f"{duration(row['seconds'])}{f', {duration(left_s)} left' if left_s else ''}"
            f"{'  best so far' if is_best else ''}"
        )


def load_checkpoint(folder: Path, model: keras.Model, others: Sequence[keras.Variable] = ()) -> History:
    """Restores a compiled model and other variables, if there is a checkpoint.

    A `TrainingError` says that it is damaged or of another network.
    """
    if not (folder / CHECKPOINT).is_file():
        return []
    state = load_variables(folder / CHECKPOINT, [*model.weights, *model.optimizer.variables, *others])
    history: History = json.loads(state)["history"]
    return history


def save_variables(path: Path, variables: Sequence[Any], state: str = "") -> None:
    """Writes a model's variables and a text; a kill meanwhile leaves what was there before."""
    arrays = {str(i): keras.ops.convert_to_numpy(x) for i, x in enumerate(variables)}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, state=np.array(state), **arrays)


def load_variables(path: Path, variables: Sequence[Any]) -> str:
    """Restores what `save_variables` wrote, and returns the text; a `TrainingError` if the file can't be used."""
    try:
        with np.load(path) as saved:
            state, arrays = str(saved["state"]), [saved[str(i)] for i in range(len(saved) - 1)]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        rule = f"{path}: must be a checkpoint that training wrote"
        raise TrainingError(f"{rule}. Received: {error}. {_ANEW}") from None
    if [x.shape for x in arrays] != [tuple(x.shape) for x in variables]:
        raise TrainingError(
            f"{path}: the checkpoint must be of this network. Received: {len(arrays)} arrays, of other shapes. {_ANEW}"
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    return state


def duration(seconds: float) -> str:
    """For instance `8 s`, `3 min 20 s` or `2 h 05 min`."""
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest_s:02d} s" if minutes else f"{rest_s} s"
