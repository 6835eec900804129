"""Draws how many recordings each taxonomic class and each label has."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_birds.data.catalog import Catalog
from keras_birds.labels import Label
from keras_birds.plots.figure import COLORS

_NO_CLASS = "class not given"
_ROWS = 52
_MAX_COLUMNS = 6
_ROW_IN = 0.17
_LOG_RATIO = 20
# Larger PNGs than 65,535 pixels can't be written.
_MAX_HEIGHT_IN = 400


def class_distribution(catalog: Catalog) -> Figure:
    """Recordings per taxonomic class, and per label from the most to the fewest.

    Only primary labels count. Labels without recordings are shown as 0. The axis is logarithmic where the
    largest count is more than 20 times the smallest.

    Args:
        catalog: with at least one label.
    """
    counted = catalog.recordings["label"].value_counts()
    counts = {name: int(counted.get(name, 0)) for name in catalog.labels}
    items = sorted(catalog.labels.items, key=lambda item: (-counts[item.name], item.name))
    classes: dict[str, list[int]] = {}
    for item in items:
        classes.setdefault(item.class_name or _NO_CLASS, []).append(counts[item.name])
    classes = dict(sorted(classes.items(), key=lambda x: -sum(x[1])))
    colors = {name: COLORS[min(i, len(COLORS) - 1)] for i, name in enumerate(classes)}

    columns = min(_MAX_COLUMNS, math.ceil(len(items) / _ROWS))
    rows = math.ceil(len(items) / columns)
    top_in, rows_in = 1.0 + 0.32 * len(classes), min(_MAX_HEIGHT_IN, 0.7 + _ROW_IN * max(rows, 6))
    figure = Figure(figsize=(max(8.0, 3.4 * columns), top_in + rows_in), layout="constrained")
    grid = figure.add_gridspec(2, columns, height_ratios=(top_in, rows_in))
    _draw_classes(figure.add_subplot(grid[0, :]), classes, colors)
    is_log = _is_log(list(counts.values()))
    for column in range(columns):
        axes = figure.add_subplot(grid[1, column])
        part = items[column * rows : (column + 1) * rows]
        _draw_labels(axes, part, [counts[item.name] for item in part], colors, with_names=columns == 1)
        axes.set_ylim(rows - 0.4, -0.6)
        _scale(axes, max(counts.values()), is_log, "Recordings")
    title = f"{len(catalog):,} recordings, {len(items):,} labels"
    figure.suptitle(f"{title}: {catalog.root.resolve().name}", parse_math=False)
    return figure


def _draw_classes(axes: Axes, classes: dict[str, list[int]], colors: dict[str, str]) -> None:
    totals = [sum(counts) for counts in classes.values()]
    places = range(len(classes))
    axes.barh(places, totals, color=[colors[name] for name in classes], height=0.72)
    for place, total, counts in zip(places, totals, classes.values(), strict=True):
        text = f" {total:,} ({len(counts):,} label{'s' * (len(counts) != 1)})"
        axes.text(max(total, 0.9), place, text, va="center", fontsize=9)
    axes.set_yticks(places, list(classes), parse_math=False)
    axes.invert_yaxis()
    _scale(axes, max(totals), _is_log(totals), "Recordings in each class")


def _draw_labels(
    axes: Axes, items: list[Label], numbers: list[int], colors: dict[str, str], with_names: bool
) -> None:
    places = range(len(items))
    axes.barh(places, numbers, color=[colors[item.class_name or _NO_CLASS] for item in items], height=0.78)
    for place, number in zip(places, numbers, strict=True):
        axes.text(max(number, 0.9), place, f" {number:,}", va="center", fontsize=6.5)
    names = [item.name for item in items]
    if with_names:
        known_as = [item.common_name or item.scientific_name for item in items]
        names = [
            f"{x} ({name})" if x and x != name else name for x, name in zip(known_as, names, strict=True)
        ]
    axes.set_yticks(places, names, fontsize=7.5, parse_math=False)
    axes.tick_params(axis="y", length=0, pad=2)


def _is_log(numbers: list[int]) -> bool:
    """Zeros don't count: they have no bar on either scale."""
    there = [number for number in numbers if number]
    return bool(there) and max(there) > _LOG_RATIO * min(there)


def _scale(axes: Axes, largest: int, is_log: bool, name: str) -> None:
    axes.set_xlabel(name + (", log scale" if is_log else ""))
    if is_log:
        axes.set_xscale("log")
        axes.set_xlim(0.7, largest * 4)
    else:
        axes.set_xlim(0, max(1, largest) * 1.25)
        axes.locator_params(axis="x", nbins=5, integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
