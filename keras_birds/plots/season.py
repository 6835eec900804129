"""Draws a season: hours recorded by site and day, and detection histories."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from keras_birds.plots.figure import COLORS, save_png, shortened
from keras_birds.survey.effort import recorded_by_day
from keras_birds.survey.occupancy import Histories
from keras_birds.survey.season import Season

_MOST_ROWS, _MOST_TICKS, _NAME_LENGTH = 200, 12, 30
_MOST_PANELS = 6
_HATCH = {"hatch": "////", "edgecolor": "#cccccc"}


def effort_figure(season: Season, path: Path) -> None:
    """Writes a PNG of the hours recorded by site and day, hatched where there are none, beside each day's sum.

    Of more than 200 sites the first are drawn. Raises `KerasBirdsError` if the PNG can't be written.
    """
    first, hours = recorded_by_day(season)
    names, shown = season.sites[:_MOST_ROWS], hours[:_MOST_ROWS]
    height = _height(len(names))
    figure = Figure(figsize=(10, 2.3 + height), layout="constrained")
    total, grid = figure.subplots(2, 1, sharex=True, height_ratios=(1.0, height))
    total.bar(range(hours.shape[1]), hours.sum(axis=0), color=COLORS[-1], width=0.9)
    total.set_ylabel("All sites (h)")
    total.spines[["top", "right"]].set_visible(False)
    grid.set_facecolor("white")
    grid.patch.set(**_HATCH)
    image = grid.imshow(
        np.where(shown > 0, shown, np.nan), aspect="auto", cmap="viridis", vmin=0, interpolation="nearest"
    )
    _name_rows(grid, names)
    _name_days(grid, [np.datetime64(first + k, "D") for k in range(hours.shape[1])])
    figure.colorbar(image, ax=grid, label="Hours recorded a day", pad=0.01)
    if left_out := len(season.sites) - len(names):
        figure.suptitle(f"{left_out} more sites aren't drawn", fontsize=9)
    save_png(figure, path)


def history_figure(histories: Histories, path: Path) -> None:
    """Writes a PNG of the histories of the six labels that are at most sites: a row a site, a column an occasion.

    There must be a label. Of more than 200 sites the first are drawn. Raises `KerasBirdsError` if the PNG can't be
    written.
    """
    season = histories.season
    is_found = ((k, histories.counts_of(k) > 0) for k in season.labels)
    found = {k: (x.any(axis=1).sum(), x.sum()) for k, x in is_found}
    drawn = sorted(found, key=found.__getitem__, reverse=True)[:_MOST_PANELS]
    names = season.sites[:_MOST_ROWS]
    columns = min(len(drawn), 2 if len(histories.names) > 40 else 3)
    rows = -(-len(drawn) // columns)
    height = _height(len(names))
    figure = Figure(figsize=(1.5 + 4.5 * columns, 0.8 + rows * (0.6 + height)), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    num_known = histories.is_known.any(axis=1).sum()
    colors = ("white", "#cfd8dc", COLORS[0])
    for axes, k in zip(grid.flat, drawn, strict=False):
        axes.imshow(
            np.sign(histories.counts_of(k))[:_MOST_ROWS],
            aspect="auto",
            cmap=ListedColormap(colors),
            vmin=-1,
            vmax=1,
            interpolation="nearest",
        )
        item = season.counts.labels[k]
        title = f"{shortened(item.display_name, _NAME_LENGTH)}: {found[k][0]} of {num_known} sites"
        axes.set_title(title, loc="left", fontsize=9, parse_math=False)
        _name_days(axes, histories.begins[:-1])
        _name_rows(axes, names)
    for axes in grid.flat[len(drawn) :]:
        axes.set_axis_off()
    said = ("nothing or too little recorded", "recorded, not detected", "detected")
    patches = [Patch(facecolor=x, edgecolor="#888888", label=y) for x, y in zip(colors, said, strict=True)]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    save_png(figure, path)


def _height(rows: int) -> float:
    return 0.4 + (0.22 if rows <= 40 else 0.12) * rows


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    size = 8 if len(names) <= 40 else 6
    axes.set_yticks(
        range(len(names)), [shortened(x, _NAME_LENGTH) for x in names], fontsize=size, parse_math=False
    )


def _name_days(axes: Axes, begins: Sequence[np.datetime64 | datetime]) -> None:
    step = -(-len(begins) // _MOST_TICKS)
    ticks = range(0, len(begins), step)
    axes.set_xticks(ticks, [str(begins[k])[:10] for k in ticks], rotation=35, ha="right", fontsize=8)
