"""Trains folds: prepares the run, then `fit` for each, into one run directory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_birds.config import Config
from keras_birds.progress import Reporter
from keras_birds.training.fold import FoldResult, train_fold
from keras_birds.training.memory import keep_freed_memory
from keras_birds.training.run import prepare_run

if TYPE_CHECKING:
    from keras.callbacks import Callback


@dataclass(frozen=True)
class RunResult:
    """A run and the folds that it trained.

    Args:
        out: the run directory.
        folds: in the order asked for; each has its `model` and `history`.
        left_out: recordings that couldn't be read.
    """

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
    callbacks: "Sequence[Callback]" = (),
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
        callbacks: of Keras, given to `fit` of each fold after the package's own. Their own state isn't part of what
            `resume` restores.

    Raises:
        ConfigError: if the settings, the fold or the place of the run can't be used.
        DataError: if the data set is at fault; it names every row.
        ModelError: if the pretrained weights can't be had.
        TrainingError: if the loss is no longer a number.
    """
    reporter = reporter or Reporter()
    keep_freed_memory()
    run = prepare_run(config, data, fold, out, resume, reporter)
    results = [train_fold(run, k, reporter, callbacks) for k in run.folds]
    return RunResult(run.out, tuple(results), run.left_out)
