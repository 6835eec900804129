"""What happens around each step and epoch: shared processors, repeatable draws, a stop at NaN, a checkpoint, a line."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_birds.errors import TrainingError
from keras_birds.threads import TorchThreads
from keras_birds.training.checkpoint import Progress, save_best, save_checkpoint

MONITOR = "val_macro_auc"


class SeedEachEpoch(keras.callbacks.Callback):
    """Sets the state of every random layer from (seed, epoch), so that a resumed run draws what it would have.

    The global states are set too: on torch, Keras' dropout draws from torch's own.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Seeds layer after layer."""
        states = [x for x in self.model.variables if x.path.endswith("seed_generator_state")]
        shared, *seeds = np.random.SeedSequence((self.seed, epoch)).generate_state(len(states) + 1) >> 1
        keras.utils.set_random_seed(int(shared))
        for state, seed in zip(states, seeds, strict=True):
            state.assign(np.array([seed, 0], np.dtype(keras.backend.standardize_dtype(state.dtype))))


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


class StopAtNaN(keras.callbacks.Callback):
    """Ends training with an error as soon as the loss isn't a number."""

    def __init__(self) -> None:
        super().__init__()
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remembers the epoch for the message."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Checks the mean loss since the epoch began.

        Raises:
            TrainingError: naming the epoch and the batch.
        """
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss must be a number. Received: {loss} in epoch {self._epoch + 1}, batch {batch + 1}. Lower "
                "training.learning_rate, or train in float32 (--set training.precision=float32)"
            )


class Checkpoint(keras.callbacks.Callback):
    """Saves the state after each epoch, and the weights of the best one so far if those are to be kept.

    The best epoch is the one with the highest macro-AUC on the validation recordings, the first of equals;
    while that isn't defined (no label with a positive and a negative), the last one.

    Args:
        folder: of the fold.
        progress: what a checkpoint held, to go on from.
        keep: `"best"` or `"last"` epoch.
    """

    def __init__(self, folder: Path, progress: Progress, keep: str = "best"):
        super().__init__()
        self.folder = folder
        self.progress = progress
        self.keep = keep
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the best weights before the checkpoint: one never speaks of weights that aren't there."""
        row = {"epoch": float(epoch + 1), **{k: float(v) for k, v in (logs or {}).items()}}
        row["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row["seconds"] = time.perf_counter() - self._started
        history, kept_epoch = (*self.progress.history, row), self.progress.kept_epoch
        if self.keep == "last":
            kept_epoch = epoch + 1
        else:
            best = history[kept_epoch - 1][MONITOR] if kept_epoch else math.nan
            if math.isnan(best) or row[MONITOR] > best:
                kept_epoch = epoch + 1
                save_best(self.folder, self.model)
        self.progress = Progress(history, kept_epoch)
        save_checkpoint(self.folder, self.model, self.progress)


class EpochLine(keras.callbacks.Callback):
    """Says one line an epoch, and how much of the running epoch is done.

    Args:
        say: takes a line.
        step: takes batches done and batches in all, after each batch; 0 and 0 after the epoch.
        checkpoint: has the history; it must come before this callback.
        epochs: of the whole training.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        step: Callable[[int, int], None],
        checkpoint: Checkpoint,
        epochs: int,
    ):
        super().__init__()
        self._say, self._step, self._checkpoint, self._epochs = say, step, checkpoint, epochs

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Moves the bar."""
        self._step(batch + 1, self.params["steps"])

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Says the line."""
        self._step(0, 0)
        progress = self._checkpoint.progress
        row = progress.history[-1]
        left_s = (self._epochs - epoch - 1) * row["seconds"]
        is_best = self._checkpoint.keep == "best" and progress.kept_epoch == epoch + 1
        shown = [f"{name} {row[name]:.4f}" for name in ("loss", "val_loss", MONITOR) if name in row]
        self._say(
            f"epoch {epoch + 1:>{len(str(self._epochs))}}/{self._epochs}  {'  '.join(shown)}  "
            f"{duration(row['seconds'])}{f', {duration(left_s)} left' if left_s else ''}"
            f"{'  best so far' if is_best else ''}"
        )


def duration(seconds: float) -> str:
    """For instance `8 s`, `3 min 20 s` or `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
