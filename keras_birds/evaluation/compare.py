"""Two runs on the same recordings: how far apart they are, and by which settings."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_birds.config import diff_configs
from keras_birds.errors import DataError
from keras_birds.evaluation.bootstrap import Interval, interval, macro_auc_draws
from keras_birds.evaluation.run_scores import FoldScores, read_run
from keras_birds.nn.metrics import macro_auc


@dataclass(frozen=True)
class FoldDifference:
    """A fold of both runs, or the mean of all: macro ROC-AUC `a` and `b`.

    The difference is second less first, with its interval over recordings, the same ones for both.
    """

    fold: int | None
    recordings: int
    a: float
    b: float
    difference: Interval


@dataclass(frozen=True)
class Comparison:
    """Two runs: the folds that both have finished, their mean, and both values of each setting that differs."""

    folds: tuple[FoldDifference, ...]
    mean: FoldDifference
    settings: dict[str, tuple[Any, Any]]

    @property
    def is_clear(self) -> bool:
        """Whether the mean difference's interval is all on one side of 0."""
        return self.mean.difference.low > 0 or self.mean.difference.high < 0

    def to_dict(self) -> dict[str, Any]:
        """As plain data that JSON can hold."""
        return asdict(self) | {"is_clear": self.is_clear}


def compare_runs(a: Path, b: Path) -> Comparison:
    """Compares the folds that both runs, given by their directories, have finished.

    Raises:
        DataError: if they have no fold in common, or were measured on other recordings.
    """
    first, second = read_run(a), read_run(b)
    others = {x.fold: x for x in second.folds}
    pairs = [(x, others[x.fold]) for x in first.folds if x.fold in others]
    if not pairs:
        numbers = " and ".join(", ".join(str(x.fold) for x in run.folds) for run in (first, second))
        raise DataError(f"the runs must have a fold in common. Received: folds {numbers}")
    folds, draws = [], []
    for x, y in pairs:
        targets, scores = x.oof.targets, _same_recordings(x, y)
        areas = macro_auc(targets, x.oof.scores), macro_auc(targets, scores)
        # The same resamples of the recordings for both.
        draws.append(macro_auc_draws(targets, scores) - macro_auc_draws(targets, x.oof.scores))
        folds.append(FoldDifference(x.fold, len(targets), *areas, interval(areas[1] - areas[0], draws[-1])))
    a_mean, b_mean = (float(np.mean([getattr(x, name) for x in folds])) for name in ("a", "b"))
    difference = interval(b_mean - a_mean, np.mean(draws, axis=0))
    mean = FoldDifference(None, sum(x.recordings for x in folds), a_mean, b_mean, difference)
    return Comparison(tuple(folds), mean, diff_configs(first.config, second.config))


def _same_recordings(a: FoldScores, b: FoldScores) -> np.ndarray:
    """The scores of `b` in the order of `a`'s recordings, which must be the same."""
    rule = f"fold {a.fold} of both runs must be measured on the same recordings and labels. Received: "
    if a.oof.labels != b.oof.labels:
        raise DataError(f"{rule}{len(a.oof.labels)} and {len(b.oof.labels)} labels, or in another order")
    strange = sorted(set(a.oof.paths) ^ set(b.oof.paths))
    if strange:
        raise DataError(f"{rule}{strange[0]} and {len(strange) - 1} more in only one of them")
    places = {path: i for i, path in enumerate(b.oof.paths)}
    order = [places[path] for path in a.oof.paths]
    differs = (b.oof.targets[order] != a.oof.targets).any(axis=1)
    if differs.any():
        raise DataError(f"{rule}other labels of {a.oof.paths[int(differs.argmax())]}")
    return np.asarray(b.oof.scores[order])
