"""Draws what a search found: the sound that was searched for, and small spectrograms of the first hits."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_birds.audio.decode import read_part
from keras_birds.audio.mel import MelTransform
from keras_birds.config import AudioConfig, MelConfig
from keras_birds.errors import AudioError
from keras_birds.plots.figure import COLORS, IMAGE_STYLE, label_mel_bands, loudest_db, save_png, shortened
from keras_birds.text import printable

MAX_PANELS = 24
_COLUMNS, _NAME_LENGTH = 5, 26


class Panel(NamedTuple):
    """A part of a recording, and what stands above it."""

    title: str
    file: str
    start_s: float
    end_s: float


def hits_figure(query: Panel, hits: Sequence[Panel], audio: AudioConfig, path: str | Path) -> None:
    """Writes a PNG of a query, framed, and of at most 24 hits.

    A panel of a recording that can't be read says so.

    Args:
        query: what was searched for.
        hits: what was found, in order.
        audio: the model's; spectrograms have its rate.
        path: the PNG.

    Raises:
        KerasBirdsError: if it can't be written.
    """
    panels = [query, *hits[:MAX_PANELS]]
    rows = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(2.6 * _COLUMNS, 0.3 + 1.75 * rows), layout="constrained")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    mel = display_mel(audio)
    for k, axes in enumerate(grid.flat):
        if k >= len(panels):
            axes.set_axis_off()
            continue
        _draw(axes, panels[k], audio, mel)
        if k % _COLUMNS == 0:
            label_mel_bands(axes, audio, mel)
            axes.tick_params(labelsize=7)
            axes.set_ylabel("Hz", fontsize=7)
        else:
            axes.set_yticks([])
    for side in grid[0, 0].spines.values():
        side.set(color=COLORS[1], linewidth=3)
    save_png(figure, path)


def _draw(axes: Axes, panel: Panel, audio: AudioConfig, mel: MelConfig) -> None:
    name = shortened(printable(Path(panel.file).name), _NAME_LENGTH)
    title = f"{panel.title}\n{name}  {panel.start_s:.1f} s"
    axes.set_title(title, fontsize=7, loc="left", parse_math=False)
    axes.set_xticks([])
    try:
        samples = read_part(panel.file, panel.start_s, panel.end_s, audio)
        if len(samples) < mel.n_fft:
            raise AudioError(panel.file, "nothing decodes there")
    except AudioError as error:
        axes.text(0.5, 0.5, shortened(error.reason, 30), ha="center", fontsize=7, transform=axes.transAxes)
        axes.set_ylim(0, mel.n_mels)
        return
    db = loudest_db(samples, MelTransform(audio, mel))
    extent = (0, len(samples) / audio.resample_hz, 0, mel.n_mels)
    axes.imshow(np.maximum(db - db.max(), -mel.top_db), extent=extent, **IMAGE_STYLE)


def display_mel(audio: AudioConfig) -> MelConfig:
    """For looking at: of all models the same, also of those that take sound."""
    top_hz = min(MelConfig().f_max_hz, audio.sample_rate_hz / 2)
    return MelConfig(n_mels=96, f_max_hz=top_hz, top_db=60)
