"""Precision over recall, a curve a label."""

import pandas as pd
from matplotlib.figure import Figure

from keras_birds.plots.figure import COLORS, shortened, tidy

_NAMED = 8


def precision_recall_figure(curves: pd.DataFrame, areas: pd.Series, threshold: float) -> Figure:
    """Draws `label`, `threshold`, `precision` and `recall` of each label; a dot at `threshold`.

    `areas` are average precisions by label: the best and the worst four are named, the others grey.
    """
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    order = list(areas.dropna().sort_values(ascending=False).index)
    named = order if len(order) <= _NAMED else order[: _NAMED // 2] + order[-_NAMED // 2 :]
    for label in [x for x in order if x not in named] + named:
        part = curves[curves["label"] == label]
        is_named = label in named
        color = COLORS[named.index(label)] if is_named else "#cccccc"
        said = f"{shortened(str(label), 32)}  {areas[label]:.3f}" if is_named else None
        axes.plot(
            part["recall"], part["precision"], color=color, linewidth=1.5 if is_named else 0.8, label=said
        )
        if is_named and len(reached := part[part["threshold"] >= threshold]):
            axes.plot(
                reached["recall"].iloc[-1], reached["precision"].iloc[-1], "o", color=color, markersize=4
            )
    axes.set(
        xlabel="Recall: share of annotations that are found",
        ylabel="Precision: share of detections that are right",
    )
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    if named:
        legend = axes.legend(fontsize=8, title="Average precision", title_fontsize=8)
        for text in legend.get_texts():
            text.set_parse_math(False)
    tidy(axes)
    return figure
