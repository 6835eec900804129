"""What `--resume` needs: weights, optimizer and history as they were after the last whole epoch."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_birds.atomic import atomic_path
from keras_birds.errors import TrainingError

CHECKPOINT, BEST = "checkpoint.npz", "best.npz"


@dataclass(frozen=True)
class Progress:
    """Where a fold's training stands.

    Args:
        history: one row an epoch, in order.
        kept_epoch: whose weights are kept, from 1; 0 before the first.
    """

    history: tuple[dict[str, float], ...] = ()
    kept_epoch: int = 0

    @property
    def epochs(self) -> int:
        """Whole epochs done."""
        return len(self.history)


def save_checkpoint(folder: Path, model: keras.Model, progress: Progress) -> None:
    """Writes the state after an epoch; a kill meanwhile leaves the one before."""
    state = {"history": json.dumps(progress.history), "kept_epoch": progress.kept_epoch}
    arrays = {**_numbered("weight", model.weights), **_numbered("optimizer", model.optimizer.variables)}
    _save(folder / CHECKPOINT, {"state": np.array(json.dumps(state)), **arrays})


def load_checkpoint(folder: Path, model: keras.Model) -> Progress:
    """Restores a compiled model; without a checkpoint nothing changes.

    Raises:
        TrainingError: if the checkpoint is damaged or of another network.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return Progress()
    saved = _load(path)
    _assign(path, model.weights, saved, "weight")
    _assign(path, model.optimizer.variables, saved, "optimizer")
    state = json.loads(str(saved["state"]))
    return Progress(tuple(json.loads(state["history"])), state["kept_epoch"])


def save_best(folder: Path, model: keras.Model) -> None:
    """Writes the weights of the best epoch so far."""
    _save(folder / BEST, _numbered("weight", model.weights))


def load_best(folder: Path, model: keras.Model) -> None:
    """Restores the weights of the best epoch.

    Raises:
        TrainingError: if they are missing or damaged.
    """
    _assign(folder / BEST, model.weights, _load(folder / BEST), "weight")


def remove_checkpoints(folder: Path) -> None:
    """Removes what a finished fold needs no more."""
    for name in (CHECKPOINT, BEST):
        (folder / name).unlink(missing_ok=True)


def _numbered(kind: str, variables: Sequence[Any]) -> dict[str, np.ndarray]:
    return {f"{kind}{i}": keras.ops.convert_to_numpy(x) for i, x in enumerate(variables)}


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as saved:
            return dict(saved)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise TrainingError(
            f"{path}: must be a checkpoint that training wrote. Received: {error}. Delete the fold's folder to train "
            "it from the start"
        ) from None


def _assign(path: Path, variables: Sequence[Any], saved: dict[str, np.ndarray], kind: str) -> None:
    count = sum(x.startswith(kind) for x in saved)
    shapes = [tuple(saved[f"{kind}{i}"].shape) for i in range(count)]
    if shapes != [tuple(x.shape) for x in variables]:
        raise TrainingError(
            f"{path}: the checkpoint must be of this network. Received: {count} {kind} arrays of other shapes. Delete "
            "the fold's folder to train it from the start"
        )
    for i, variable in enumerate(variables):
        variable.assign(saved[f"{kind}{i}"])
