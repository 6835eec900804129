"""Draws which labels pseudo labels hold, and how much of each."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from keras_birds.plots.figure import COLORS, shortened, tidy

_ROWS, _MAX_COLUMNS = 52, 6
_ROW_IN = 0.2
_LOG_ABOVE = 20
_MAX_NAME = 40


def pseudo_labels(table: Mapping[str, Any], title: str) -> Figure:
    """Of each label, from the most to the least: the sum of its soft labels, and in how many windows it is sure.

    The axis is logarithmic above 1 where the largest number is more than 20. Of very many labels those with most are
    shown.

    Args:
        table: of `pseudo.json`.
        title: for instance the folder's name.
    """
    labels = sorted(table["labels"].items(), key=lambda x: (-x[1]["sum"], x[0]))
    shown = labels[: _ROWS * _MAX_COLUMNS]
    columns = math.ceil(len(shown) / _ROWS)
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(max(8.0, 3.4 * columns), 1.6 + _ROW_IN * max(rows, 6)), layout="constrained")
    largest = max([1.0, *(max(x["sum"], x["windows"]) for _, x in shown)])
    for column in range(columns):
        axes, part = (
            figure.add_subplot(1, columns, column + 1),
            shown[column * rows : (column + 1) * rows],
        )
        places = np.arange(len(part))
        sums, windows = ([x[key] for _, x in part] for key in ("sum", "windows"))
        axes.barh(places, sums, height=0.75, color=COLORS[0], label="sum of labels")
        axes.barh(places, windows, height=0.3, color=COLORS[1], label="windows with a label of 0.5 or more")
        for place, (_, x) in enumerate(part):
            text = f" {x['sum']:,.1f} / {x['windows']:,}"
            axes.text(max(x["sum"], x["windows"]), place, text, va="center", fontsize=6.5)
        names = [shortened(name, _MAX_NAME) for name, _ in part]
        axes.set_yticks(places, names, fontsize=7.5, parse_math=False)
        axes.tick_params(axis="y", length=0, pad=2)
        axes.set_ylim(rows - 0.4, -0.6)
        if largest > _LOG_ABOVE:
            axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.set_xlim(0, largest * (6 if largest > _LOG_ABOVE else 1.25))
        tidy(axes)
        axes.grid(visible=False, axis="y")
    handles, texts = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=2, fontsize=8)
    left_out = f", {table['left_out']:,} left out" if table["left_out"] else ""
    more = f"; the {len(shown)} labels with most of {len(labels)}" if len(shown) < len(labels) else ""
    about = f"{table['windows']:,} windows{left_out}, {table['mean_sum']:.2f} labels a window{more}"
    figure.suptitle(f"{shortened(title, 60)}: {about}", parse_math=False, fontsize=10)
    return figure
