"""Draws how many recordings each taxonomic class and each label has."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_birds.data.catalog import Catalog
from keras_birds.plots.figure import COLORS, tidy

_NO_CLASS = "class not given"
_ROWS = 52
_MAX_COLUMNS = 6
_ROW_IN = 0.17
_LOG_RATIO = 20
# Larger PNGs than 65,535 pixels can't be written.
_MAX_HEIGHT_IN = 400


def class_distribution(catalog: Catalog) -> Figure:
    """Recordings per taxonomic class, and per label from the most to the fewest.

    Only primary labels count. Labels without recordings are shown as 0. The axis is logarithmic where the largest
    count is more than 20 times the smallest. The catalog must have a label.
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
    bars = [
        (name, sum(x), f"{sum(x):,} ({len(x):,} label{'s' * (len(x) != 1)})", colors[name])
        for name, x in classes.items()
    ]
    axes = figure.add_subplot(grid[0, :])
    _draw_bars(axes, bars, 10)
    axes.invert_yaxis()
    _scale(axes, [x[1] for x in bars], "Recordings in each class")
    for column in range(columns):
        axes, part = figure.add_subplot(grid[1, column]), items[column * rows : (column + 1) * rows]
        bars = []
        for item in part:
            known_as, name, count = item.common_name or item.scientific_name, item.name, counts[item.name]
            if columns == 1 and known_as not in ("", name):
                name = f"{known_as} ({name})"
            bars.append((name, count, f"{count:,}", colors[item.class_name or _NO_CLASS]))
        _draw_bars(axes, bars, 7.5)
        axes.tick_params(axis="y", length=0, pad=2)
        axes.set_ylim(rows - 0.4, -0.6)
        _scale(axes, list(counts.values()), "Recordings")
    title = f"{len(catalog):,} recordings, {len(items):,} labels"
    figure.suptitle(f"{title}: {catalog.root.resolve().name}", parse_math=False)
    return figure


def _draw_bars(axes: Axes, bars: list[tuple[str, int, str, str]], size: float) -> None:
    """Each bar's name, number, text and colour."""
    for place, (_, number, text, color) in enumerate(bars):
        axes.barh(place, number, color=color, height=0.75)
        axes.text(max(number, 0.9), place, f" {text}", va="center", fontsize=size - 1)
    axes.set_yticks(range(len(bars)), [x[0] for x in bars], fontsize=size, parse_math=False)


def _scale(axes: Axes, numbers: list[int], name: str) -> None:
    """Zeros don't count: they have no bar on either scale."""
    there, largest = [x for x in numbers if x], max(numbers)
    is_log = bool(there) and largest > _LOG_RATIO * min(there)
    axes.set_xlabel(name + (", log scale" if is_log else ""))
    if is_log:
        axes.set_xscale("log")
        axes.set_xlim(0.7, largest * 4)
    else:
        axes.set_xlim(0, max(1, largest) * 1.25)
        axes.locator_params(axis="x", nbins=5, integer=True)
    tidy(axes)
    axes.grid(visible=False, axis="y")
