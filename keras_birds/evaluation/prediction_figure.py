"""Draws one recording and its answer: waveform, mel spectrogram, top labels."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_birds.atomic import atomic_path
from keras_birds.audio.decode import decode
from keras_birds.audio.mel import MelTransform, slaney_filterbank
from keras_birds.inference.classifier import Classifier
from keras_birds.inference.predict import Prediction
from keras_birds.inference.report import describe_length, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_COLUMNS = 3000
_TICKS_HZ = (250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000)
_FINE_N_FFT = 1 << 16
_BAR = "#2a6f97"
_WAVE = "#4d5b6a"


def prediction_figure(classifier: Classifier, prediction: Prediction, path: str | Path) -> None:
    """Writes a PNG of a recording and the most probable labels.

    Long recordings are drawn whole, at most 3000 columns wide.

    Args:
        classifier: the model, whose audio and mel settings are drawn.
        prediction: with scores.
        path: the PNG.

    Raises:
        AudioError: if the recording can't be read.
        KerasBirdsError: if the figure can't be written.
    """
    from matplotlib.figure import Figure

    audio = classifier.audio
    decoded = decode(prediction.path, audio.sample_rate_hz, audio.decoder)
    bars_in = 0.6 + 0.3 * len(prediction.top)
    figure = Figure(figsize=(10, 5 + bars_in), layout="constrained")
    wave, mel, bars = figure.subplots(3, 1, height_ratios=(1.4, 3.6, bars_in))
    mel.sharex(wave)
    title = f"{printable(prediction.path.name)}   ({describe_length(prediction)})"
    figure.suptitle(title, parse_math=False)
    _draw_wave(wave, decoded.samples, audio.sample_rate_hz)
    _draw_mel(mel, decoded.samples, classifier)
    _draw_bars(bars, prediction, classifier.model_id)
    with atomic_path(path) as temporary, warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes, and that is all there is to say.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(temporary, format="png", dpi=110)


def _draw_wave(axes: "Axes", samples: np.ndarray, sample_rate_hz: int) -> None:
    step = -(-len(samples) // _MAX_COLUMNS)
    starts = np.arange(0, len(samples), step)
    low, high = np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)
    axes.fill_between(starts / sample_rate_hz, low, high, color=_WAVE, linewidth=0.6, edgecolor=_WAVE)
    limit = max(1e-3, 1.05 * float(np.abs(samples).max()))
    axes.set_ylim(-limit, limit)
    axes.set_xlim(0, len(samples) / sample_rate_hz)
    axes.set_ylabel("Amplitude")
    axes.tick_params(labelbottom=False)


def _draw_mel(axes: "Axes", samples: np.ndarray, classifier: Classifier) -> None:
    rate_hz, settings = classifier.audio.sample_rate_hz, classifier.mel
    hop_samples = max(settings.hop_samples, -(-len(samples) // _MAX_COLUMNS))
    transform = MelTransform(classifier.audio, settings.model_copy(update={"hop_samples": hop_samples}))
    db = transform.decibels(samples)
    db = np.maximum(db - db.max(), -settings.top_db)
    seconds = len(samples) / rate_hz
    image = axes.imshow(
        db,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(0, seconds, 0, settings.n_mels),
        cmap="magma",
        vmin=-settings.top_db,
        vmax=0,
    )
    axes.figure.colorbar(image, ax=axes, label="dB relative to the maximum", pad=0.01, aspect=30)
    axes.set_xlabel("Time (s)")
    axes.set_ylabel("Frequency (Hz)")
    # Rows are mel bands. A filterbank of fine bins says where each band's peak lies.
    fine = slaney_filterbank(rate_hz, _FINE_N_FFT, settings.n_mels, settings.f_min_hz, settings.f_max_hz)
    centres_hz = fine.argmax(axis=1) * rate_hz / _FINE_N_FFT
    ticks_hz = [x for x in _TICKS_HZ if centres_hz[0] <= x <= centres_hz[-1]]
    rows = np.interp(ticks_hz, centres_hz, np.arange(settings.n_mels) + 0.5)
    axes.set_yticks(rows, [f"{x:,}" for x in ticks_hz])


def _draw_bars(axes: "Axes", prediction: Prediction, model_id: str) -> None:
    names, scores = [], []
    for ranked in prediction.top:
        known_as = ranked.label.common_name or ranked.label.scientific_name
        is_new = known_as and known_as != ranked.label.name
        names.append(f"{known_as} ({ranked.label.name})" if is_new else ranked.label.name)
        scores.append(ranked.score)
    places = range(len(names))
    axes.barh(places, scores, color=_BAR, height=0.7)
    for place, score in zip(places, scores, strict=True):
        is_long = score > 0.88
        axes.text(
            score - 0.01 if is_long else score + 0.01,
            place,
            f"{score:.3f}",
            va="center",
            ha="right" if is_long else "left",
            color="white" if is_long else "black",
        )
    axes.set_yticks(places, names, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"Probability   (model {model_id})", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
