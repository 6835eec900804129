"""Draws one recording and its answer: waveform, mel spectrogram, top labels."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_birds.audio.stream import Channel, open_stream
from keras_birds.inference.aggregate import Prediction
from keras_birds.inference.classifier import Classifier
from keras_birds.plots.figure import COLORS, draw_mel, draw_wave, save_png, shortened
from keras_birds.results.report import describe_length
from keras_birds.text import printable

_MAX_BARS = 50


def prediction_figure(
    classifier: Classifier, prediction: Prediction, path: str | Path, channel: Channel = "mix"
) -> None:
    """Writes a PNG of a recording and the most probable labels.

    Long recordings are drawn whole, and at most 50 labels.

    Args:
        classifier: the model, whose mel is drawn.
        prediction: with scores.
        path: the PNG.
        channel: `"mix"` or a number from 1.

    Raises:
        AudioError: if the recording can't be read.
        KerasBirdsError: if the figure can't be written.
    """
    audio = classifier.audio
    with open_stream(prediction.recording.file, audio, channel) as stream:
        samples = np.concatenate(list(stream.blocks))[:, 0]
    bars_in = 0.6 + 0.3 * min(len(prediction.top), _MAX_BARS)
    figure = Figure(figsize=(10, 5 + bars_in), layout="constrained")
    wave, mel, bars = figure.subplots(3, 1, height_ratios=(1.4, 3.6, bars_in))
    mel.sharex(wave)
    name = shortened(printable(Path(prediction.recording.file).name), 80)
    figure.suptitle(f"{name}   ({describe_length(prediction.recording)})", parse_math=False)
    draw_wave(wave, samples, audio.resample_hz)
    wave.tick_params(labelbottom=False)
    draw_mel(mel, samples, audio, classifier.mel)
    _draw_bars(bars, prediction, classifier.model_id)
    save_png(figure, path)


def _draw_bars(axes: Axes, prediction: Prediction, model_id: str) -> None:
    names = []
    for place, ranked in enumerate(prediction.top[:_MAX_BARS]):
        known_as, score = ranked.label.common_name or ranked.label.scientific_name, ranked.score
        is_new = known_as and known_as != ranked.label.name
        name = shortened(ranked.label.name, 20 if is_new else 40)
        names.append(f"{shortened(known_as, 40)} ({name})" if is_new else name)
        axes.barh(place, score, color=COLORS[0], height=0.7)
        x, side, color = (score - 0.01, "right", "white") if score > 0.88 else (score + 0.01, "left", "black")
        axes.text(x, place, f"{score:.3f}", va="center", ha=side, color=color)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"Probability   (model {shortened(model_id, 60)})", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
