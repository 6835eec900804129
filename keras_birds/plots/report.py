"""The figures of the report."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from keras_birds.labels import LabelSet
from keras_birds.plots.figure import COLORS, tidy


def curves_figure(histories: Mapping[int, tuple[pd.DataFrame, int]]) -> Figure:
    """Loss in training (dashed) and validation, and macro ROC-AUC, by epoch; a dot where weights were kept.

    `histories` has by fold its `history.csv` and the epoch whose weights were kept, from 1.
    """
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, (fold, (history, kept_epoch)) in enumerate(histories.items()):
        color = COLORS[i % len(COLORS)]
        kept = history[history["epoch"] == kept_epoch]
        left.plot(history["epoch"], history["loss"], "--", color=color, linewidth=1)
        for axes, column in ((left, "val_loss"), (right, "val_macro_auc")):
            axes.plot(history["epoch"], history[column], color=color, linewidth=1.5, label=f"fold {fold}")
            axes.plot(kept["epoch"], kept[column], "o", color=color)
    left.set(xlabel="Epoch", ylabel="Loss (dashed: training)")
    right.set(xlabel="Epoch", ylabel="Validation macro ROC-AUC")
    right.legend(fontsize=8)
    tidy(left, right)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def auc_against_count_figure(labels: pd.DataFrame, said: str = "ROC-AUC, mean over folds") -> Figure:
    """ROC-AUC of each label against its number of recordings, from `label_table`; the worst ten are named.

    `said` is written at the axis of ROC-AUCs.
    """
    shown = labels[labels["auc"].notna()]
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for i, (name, part) in enumerate(shown.groupby("class_name")):
        color, shown_as = COLORS[i % len(COLORS)], name or "class not given"
        axes.scatter(part["positives"], part["auc"], s=22, color=color, alpha=0.8, label=shown_as)
    for _, row in shown[shown["auc"] < 1].nsmallest(10, "auc").iterrows():
        name, place = row["common_name"] or row["label"], (row["positives"], row["auc"])
        axes.annotate(name, place, (4, 3), textcoords="offset points", fontsize=7, parse_math=False)
    axes.set(xscale="log", xlabel="Recordings with the label, log scale", ylabel=said)
    if shown["positives"].nunique() < 2:
        axes.set_xscale("linear")
    if len(shown):
        axes.legend(fontsize=8, loc="lower right")
    tidy(axes)
    return figure


def confusion_figure(targets: np.ndarray, scores: np.ndarray, labels: LabelSet, most: int = 30) -> Figure:
    """Which label has the highest score, by the label that is there; shares of each row.

    Only recordings with one label count, and the labels with the most recordings.

    Args:
        targets, scores: `[recording, label]`; targets from 0.5 up are positives, -1 is left out.
        labels: of the columns.
        most: labels to show.
    """
    single = (targets >= 0.5).sum(axis=1) == 1
    truth = targets[single].argmax(axis=1)
    best = np.where(targets[single] >= 0, scores[single], -np.inf).argmax(axis=1)
    counts = np.bincount(truth, minlength=len(labels))
    shown = np.sort(np.argsort(-counts, kind="stable")[: min(most, int((counts > 0).sum()))])
    matrix = np.array([[((truth == i) & (best == j)).sum() / counts[i] for j in shown] for i in shown])
    names = [labels.items[i].common_name or labels[i] for i in shown]
    size = 2.5 + 0.28 * len(shown)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    # Where every recording has several labels, there is nothing to show.
    squares = matrix if len(shown) else np.zeros((1, 1))
    image = axes.imshow(squares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(shown)), names, rotation=60, ha="right", fontsize=7, parse_math=False)
    axes.set_yticks(range(len(shown)), names, fontsize=7, parse_math=False)
    if len(shown) <= 15:
        for (i, j), share in np.ndenumerate(matrix):
            if share:
                color = "white" if share > 0.5 else "black"
                axes.text(j, i, f"{share:.0%}", ha="center", va="center", fontsize=6.5, color=color)
    axes.set(xlabel="Highest score", ylabel="Label of the recording")
    figure.colorbar(image, ax=axes, shrink=0.6, label="Share of recordings")
    return figure
