"""Everything that a run knows about how good it is: settings, out-of-fold scores, histories."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from keras_birds.config import Config
from keras_birds.errors import ModelError
from keras_birds.labels import LabelSet
from keras_birds.models.calibration import Calibration
from keras_birds.models.metadata import ModelMetadata, check_labels
from keras_birds.run_layout import CONFIG, FULL, HISTORY, OOF, fold_of
from keras_birds.training.oof import OutOfFold


@dataclass(frozen=True, eq=False)
class FoldScores:
    """A finished fold: its number, folder, out-of-fold scores, its model's metadata, and history, a row an epoch."""

    fold: int
    folder: Path
    oof: OutOfFold
    metadata: ModelMetadata
    history: pd.DataFrame

    @property
    def kept_epoch(self) -> int:
        """The epoch, from 1, whose weights the model has."""
        return int(self.metadata.metrics["kept_epoch"])


@dataclass(frozen=True, eq=False)
class RunScores:
    """A run directory, its settings and its finished folds in order, at least one."""

    run: Path
    config: Config
    folds: tuple[FoldScores, ...]

    @property
    def labels(self) -> LabelSet:
        """Of the columns, with what the taxonomy says of them."""
        return self.folds[0].metadata.labels

    @property
    def calibration(self) -> Calibration | None:
        """What `keras-birds calibrate` stored; `None` where a fold has none or another."""
        found = self.folds[0].metadata.calibration
        return found if all(x.metadata.calibration == found for x in self.folds) else None

    @property
    def paths(self) -> tuple[str, ...]:
        """Recordings of all folds, below the data set's folder."""
        return tuple(path for x in self.folds for path in x.oof.paths)

    @property
    def scores(self) -> np.ndarray:
        """float32 `[recording, label]` of all folds."""
        return np.concatenate([x.oof.scores for x in self.folds])

    @property
    def targets(self) -> np.ndarray:
        """float32 `[recording, label]` of all folds, in 0 to 1 or -1."""
        return np.concatenate([x.oof.targets for x in self.folds])


def read_run(run: str | Path) -> RunScores:
    """Reads a run; a `ModelError` if the folder isn't one, has no finished fold, or a file is damaged."""
    run = Path(run)
    config = read_config(run)
    folds = tuple(_read_fold(k, folder) for k, folder in _finished_folds(run))
    for other in folds[1:]:
        check_labels(folds[0].metadata.labels, other.metadata.labels, str(folds[0].folder), str(other.folder))
    return RunScores(run, config, folds)


def read_config(run: Path) -> Config:
    """The settings of a run; a `ModelError` if the folder isn't one."""
    if not (run / CONFIG).is_file():
        rule = f"{run}: must be a run directory that `keras-birds train` wrote"
        raise ModelError(f"{rule}. Received: no {CONFIG} in it")
    return Config.load(run / CONFIG)


def _finished_folds(run: Path) -> list[tuple[int, Path]]:
    """Number and folder of each fold whose model is there, in order, at least one."""
    found = [(k, x) for x in run.iterdir() if isinstance(k := fold_of(x), int)]
    finished = sorted((k, x) for k, x in found if (x / "model.onnx").is_file() and (x / OOF).is_file())
    if finished:
        return finished
    received = f"{len(found)} unfinished ones. Go on with `keras-birds train --resume --out {run}`"
    if (run / FULL / "model.onnx").is_file():
        received = (
            "a model of all recordings, which is measured on none. Train with `keras-birds train --fold all`"
        )
    raise ModelError(f"{run}: a run must have a finished fold. Received: {received}")


def _read_fold(k: int, folder: Path) -> FoldScores:
    metadata, oof = ModelMetadata.read_onnx(folder / "model.onnx"), OutOfFold.read(folder / OOF)
    check_labels(oof.labels, metadata.labels, str(folder / OOF), str(folder / "model.onnx"))
    try:
        history = pd.read_csv(folder / HISTORY)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / HISTORY}: must be a training history. Received: {error}") from None
    return FoldScores(k, folder, oof, metadata, history)
