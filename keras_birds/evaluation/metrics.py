"""Exact figures from out-of-fold scores: of folds, labels and groups of labels, by scikit-learn."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from keras_birds.evaluation.bootstrap import Interval, interval, macro_auc_draws
from keras_birds.evaluation.run_scores import RunScores
from keras_birds.labels import LabelSet
from keras_birds.nn.metrics import label_aucs

RARE, COMMON = 20, 100
"""Labels with fewer recordings than the first are rare, with as many as the second common."""


@dataclass(frozen=True)
class FoldFigures:
    """How good a fold's model is, or with a `fold` of `None` the mean of all.

    The macro ROC-AUC, with its interval over recordings, covers `labels` that have a positive and a negative, `cmap`
    (class-mean average precision) those with a positive. `top1_accuracy` is the share of recordings whose highest
    score is a positive's. `precision` and `recall` are of all decisions together; not a number where there are none.
    """

    fold: int | None
    recordings: int
    labels: int
    macro_auc: Interval
    cmap: float
    top1_accuracy: float
    precision: float
    recall: float


def fold_figures(
    run: RunScores, threshold: float, on_fold: Callable[[int, int], None]
) -> tuple[list[FoldFigures], FoldFigures]:
    """Figures of each fold, and their mean, whose interval is that of a mean of resampled folds.

    A label counts as there from a score of `threshold` on; `on_fold` is told how many folds are done, of how many.
    """
    found, draws = [], []
    for done, fold in enumerate(run.folds):
        on_fold(done, len(run.folds))
        targets, scores = fold.oof.targets, fold.oof.scores
        draws.append(macro_auc_draws(targets, scores, recordings=fold.oof.recordings))
        areas, precisions = label_aucs(targets, scores), label_average_precisions(targets, scores)
        counts = len(targets), int(np.isfinite(areas).sum())
        decisions = precision_recall(targets, scores >= threshold)
        others = mean_of(precisions), top1_accuracy(targets, scores), *decisions
        found.append(FoldFigures(fold.fold, *counts, interval(mean_of(areas), draws[-1]), *others))
    on_fold(0, 0)
    counts = sum(x.recordings for x in found), int(np.isfinite(_mean_of_folds(run, label_aucs)).sum())
    area = interval(mean_of([x.macro_auc.value for x in found]), np.mean(draws, axis=0))
    table = pd.DataFrame(found)[["cmap", "top1_accuracy", "precision", "recall"]]
    return found, FoldFigures(None, *counts, area, *map(float, table.mean()))


def label_average_precisions(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Average precision of each label, float64 `[label]`; not a number where it has no positive."""
    found = np.full(targets.shape[1], np.nan)
    for label, (target, score) in enumerate(zip(targets.T, scores.T, strict=True)):
        if (target >= 0.5).any():
            found[label] = average_precision_score(target[target >= 0] >= 0.5, score[target >= 0])
    return found


def top1_accuracy(targets: np.ndarray, scores: np.ndarray) -> float:
    """Share of recordings with a positive whose highest score, masked labels aside, is a positive's."""
    best = np.where(targets >= 0, scores, -np.inf).argmax(axis=1)
    has_positive = (targets >= 0.5).any(axis=1)
    right = targets[np.arange(len(targets)), best] >= 0.5
    return float(right[has_positive].mean()) if has_positive.any() else math.nan


def label_table(run: RunScores, threshold: float) -> pd.DataFrame:
    """A row a label, in taxonomy order: its names, positives and figures, which are not numbers where undefined.

    ROC-AUC and average precision are means over the folds that have a positive: each fold's model has a scale of
    its own. Precision and recall count the decisions of all folds.
    """
    ranked = (_mean_of_folds(run, x) for x in (label_aucs, label_average_precisions))
    return label_rows(run.labels, run.targets, run.scores >= threshold, *ranked)


def label_rows(
    labels: LabelSet, targets: np.ndarray, decided: np.ndarray, aucs: np.ndarray, precisions: np.ndarray
) -> pd.DataFrame:
    """The rows of `label_table`.

    Args:
        labels: of the columns.
        targets: `[recording, label]`, 0 to 1 or -1.
        decided: whether a label counts as there, `[recording, label]`.
        aucs: `[label]`, not a number where undefined.
        precisions: average precisions `[label]`, not a number where undefined.
    """
    table = pd.DataFrame(list(labels.items)).rename(columns={"name": "label"})
    decisions = [precision_recall(*columns) for columns in zip(targets.T, decided.T, strict=True)]
    precision, recall = zip(*decisions, strict=True)
    return table[["label", "common_name", "scientific_name", "class_name"]].assign(
        positives=(targets >= 0.5).sum(axis=0),
        auc=aucs,
        average_precision=precisions,
        precision=precision,
        recall=recall,
    )


def group_table(labels: pd.DataFrame) -> pd.DataFrame:
    """Macro figures by taxonomic class and by number of recordings, from `label_table`; `labels` have a ROC-AUC."""
    classes = labels["class_name"].replace("", "class not given")
    names = [f"rare: under {RARE}", f"{RARE} to {COMMON - 1}", f"common: {COMMON} and more"]
    bands = pd.cut(labels["positives"], [0, RARE, COMMON, math.inf], right=False, labels=names)
    rows = []
    for kind, groups in (("class", classes), ("recordings", bands)):
        for name, part in labels.groupby(groups, observed=True, sort=kind == "recordings"):
            counts = int(part["auc"].notna().sum()), int(part["positives"].sum())
            rows.append((kind, name, *counts, part["auc"].mean(), part["average_precision"].mean()))
    return pd.DataFrame(rows, columns=["by", "group", "labels", "positives", "macro_auc", "cmap"])


@dataclass(frozen=True)
class Confusion:
    """A label that is taken for another, which isn't there and scores higher than all that are, in `count` recordings.

    `positives` is of all with `label`; `path`, below the data set's folder, is of the one where the difference is
    largest, `scores` of `label` and `taken_for` there.
    """

    label: str
    taken_for: str
    count: int
    positives: int
    path: str
    scores: tuple[float, float]


def confusions(run: RunScores, most: int = 20) -> list[Confusion]:
    """The pairs of labels that are confused most often, from the most often on."""
    targets, scores = run.targets, run.scores
    present, absent = targets >= 0.5, np.where(targets == 0, scores, -np.inf)
    other = absent.argmax(axis=1)
    is_confused = absent.max(axis=1) > np.where(present, scores, -np.inf).max(axis=1)
    rows, labels = np.nonzero(present & is_confused[:, None])
    lead = scores[rows, other[rows]] - scores[rows, labels]
    table = pd.DataFrame({"row": rows, "label": labels, "other": other[rows], "lead": lead})
    found = []
    for key, part in table.groupby(["label", "other"]):
        label, taken_for = cast("tuple[int, int]", key)
        row = int(part["row"].to_numpy()[part["lead"].argmax()])
        names = run.labels[label], run.labels[taken_for]
        pair = float(scores[row, label]), float(scores[row, taken_for])
        positives = int(present[:, label].sum())
        found.append(Confusion(*names, len(part), positives, run.paths[row], pair))
    return sorted(found, key=lambda x: (-x.count, x.label, x.taken_for))[:most]


def precision_recall(targets: np.ndarray, decided: np.ndarray) -> tuple[float, float]:
    """Of all decisions together, of those that aren't masked; not a number where there are none."""
    used = targets >= 0
    precision, recall, _, _ = precision_recall_fscore_support(
        targets[used] >= 0.5, decided[used], average="binary", zero_division=np.nan
    )
    return float(precision), float(recall)


def _mean_of_folds(run: RunScores, figure: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Float `[label]`, over the folds where it is a number; not a number where it is in none."""
    return pd.DataFrame([figure(x.oof.targets, x.oof.scores) for x in run.folds]).mean().to_numpy()


def mean_of(values: "list[float] | np.ndarray") -> float:
    """Of those that are numbers; not a number without any."""
    return float(pd.Series(values, dtype=float).mean())
