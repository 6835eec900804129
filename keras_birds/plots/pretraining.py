"""How pretraining went: loss, matched views and the probe by epoch."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from keras_birds.plots.figure import COLORS, tidy


def pretraining_figure(history: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Loss above; below the share of views that found their other one, and the probe's macro ROC-AUC if there is one.

    Args:
        history: by name, a value for each epoch: `epoch`, `loss`, `matched_views`, `probe_macro_auc`.
        title: of the figure.
    """
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    epochs = np.asarray(history["epoch"])
    above.plot(epochs, history["loss"], "o-", markersize=3, color=COLORS[0])
    above.set(ylabel="Loss", title=title)
    names = {"matched_views": "views that found their other one", "probe_macro_auc": "probe, macro ROC-AUC"}
    for color, (name, label) in zip(COLORS[1:], names.items(), strict=False):
        if name in history:
            below.plot(epochs, history[name], "o-", markersize=3, color=color, label=label)
    below.set(xlabel="Epoch", ylabel="Share", ylim=(0, 1.02))
    below.legend(fontsize=8, loc="best")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(above, below)
    return figure
