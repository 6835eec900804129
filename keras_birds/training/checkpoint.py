"""What `--resume` needs: weights, optimizer and history as they were after the last whole epoch, in one file."""

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
_ANEW = "Delete the fold's folder to train it from the start"


@dataclass(frozen=True)
class Progress:
    """Where a fold's training stands: a row an epoch, and from 1 whose weights are kept; 0 before the first."""

    history: tuple[dict[str, float], ...] = ()
    kept_epoch: int = 0

    @property
    def epochs(self) -> int:
        """Whole epochs done."""
        return len(self.history)


def save_checkpoint(folder: Path, model: keras.Model, progress: Progress) -> None:
    """Writes the state after an epoch."""
    state = {"history": progress.history, "kept_epoch": progress.kept_epoch}
    save_variables(folder / CHECKPOINT, [*model.weights, *model.optimizer.variables], json.dumps(state))


def load_checkpoint(folder: Path, model: keras.Model) -> Progress:
    """Restores a compiled model, if there is a checkpoint; a `TrainingError` if it is damaged or of another network."""
    if not (folder / CHECKPOINT).is_file():
        return Progress()
    state = json.loads(load_variables(folder / CHECKPOINT, [*model.weights, *model.optimizer.variables]))
    return Progress(tuple(state["history"]), state["kept_epoch"])


def drop_checkpoints(folder: Path) -> None:
    """Removes what a finished fold needs no more."""
    for name in (CHECKPOINT, BEST):
        (folder / name).unlink(missing_ok=True)


def save_variables(path: Path, variables: Sequence[Any], state: str = "") -> None:
    """Writes a model's variables and a text; a kill meanwhile leaves what was there before."""
    arrays = {str(i): keras.ops.convert_to_numpy(x) for i, x in enumerate(variables)}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, state=np.array(state), **arrays)


def load_variables(path: Path, variables: Sequence[Any]) -> str:
    """Restores what `save_variables` wrote, and returns the text.

    Raises:
        TrainingError: if the file is missing, damaged or of another network.
    """
    try:
        with np.load(path) as saved:
            state, arrays = str(saved["state"]), [saved[str(i)] for i in range(len(saved) - 1)]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise TrainingError(
            f"{path}: must be a checkpoint that training wrote. Received: {error}. {_ANEW}"
        ) from None
    if [x.shape for x in arrays] != [tuple(x.shape) for x in variables]:
        raise TrainingError(
            f"{path}: the checkpoint must be of this network. Received: {len(arrays)} arrays, of other shapes. {_ANEW}"
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    return state
