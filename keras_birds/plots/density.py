"""Draws call densities with their intervals: of all recordings, or of each day or folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from keras_birds.plots.figure import COLORS, save_png, tidy

_MOST = 40

Bar = tuple[str, float, float, float]
"""A name, a share of windows, and its interval."""


def density_figure(panels: Mapping[str, Sequence[Bar]], path: Path) -> None:
    """Writes a PNG: of each label a panel, of which each row is an estimate with its 95 % interval.

    Of more than 40 rows the first are drawn. Raises `KerasBirdsError` if the PNG can't be written.
    """
    heights = [0.8 + 0.28 * min(len(x), _MOST) for x in panels.values()]
    figure = Figure(figsize=(8, 0.4 + sum(heights)), layout="constrained")
    all_axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (label, bars), color in zip(all_axes, panels.items(), COLORS * len(panels), strict=False):
        names, value, low, high = zip(*bars[:_MOST], strict=True)
        middle = np.array(value)
        reach = np.abs([middle - low, np.array(high) - middle])
        rows = np.arange(len(names))[::-1]
        axes.errorbar(middle, rows, xerr=reach, fmt="o", color=color, capsize=3)
        axes.set_yticks(rows, names, parse_math=False)
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.set_xlim(left=0)
        left_out = f" (the first {_MOST} of {len(bars)})" if len(bars) > _MOST else ""
        axes.set_title(f"{label}{left_out}", loc="left", fontsize=10, parse_math=False)
        tidy(axes)
    all_axes[-1].set_xlabel("Share of windows that hold a call, with 95 % interval")
    save_png(figure, path)
