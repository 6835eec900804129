"""Draws when labels were detected: a row a label, a column an hour of day."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from keras_birds.plots.figure import save_png
from keras_birds.results.hours import Activity

_MAX_LABELS = 60


def activity_figure(activity: Activity, path: str | Path) -> None:
    """Writes a PNG of detections per recorded hour, by label and hour of day.

    There must be a detection. Hours in which nothing was recorded are hatched, not zero; of labels the 60 most often
    detected are drawn. Raises `KerasBirdsError` if the PNG can't be written.
    """
    totals = activity.detections.sum(axis=1)
    rows = [int(k) for k in np.argsort(-totals, kind="stable")[:_MAX_LABELS] if totals[k]]
    recorded_h = activity.recorded_s / 3600
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.where(recorded_h > 0, activity.detections[rows] / recorded_h, np.nan)
    figure = Figure(figsize=(10, 1.8 + 0.3 * len(rows)), layout="constrained")
    effort, grid = figure.subplots(2, 1, sharex=True, height_ratios=(0.8, 0.3 * len(rows) + 0.3))
    effort.bar(range(24), recorded_h, color="#4d5b6a", width=0.9)
    effort.set_ylabel("Recorded\n(h)")
    effort.spines[["top", "right"]].set_visible(False)
    grid.set_facecolor("white")
    grid.patch.set(hatch="////", edgecolor="#cccccc")
    image = grid.imshow(rate, aspect="auto", cmap="magma", vmin=0, interpolation="nearest")
    names = [activity.labels[k].display_name for k in rows]
    grid.set_yticks(range(len(rows)), names, parse_math=False)
    grid.set_xticks(range(0, 24, 2), [f"{x:02d}" for x in range(0, 24, 2)])
    grid.set_xlabel("Hour of day")
    figure.colorbar(image, ax=grid, label="Detections per\nrecorded hour", pad=0.01)
    if left_out := int((totals > 0).sum()) - len(rows):
        figure.suptitle(f"{left_out} labels with fewer detections aren't drawn", fontsize=9)
    save_png(figure, path)
