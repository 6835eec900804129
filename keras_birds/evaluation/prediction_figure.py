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
from keras_birds.inference.report import describe_length
from keras_birds.inference.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_COLUMNS = 3000
_MAX_MEL_COLUMNS = 500  # fewer than the axes' pixels beside long names: of more, imshow leaves some out
_MAX_BARS = 50
_TICKS_HZ = (250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000)
_FINE_N_FFT = 1 << 16
_BAR = "#2a6f97"
_WAVE = "#4d5b6a"


def prediction_figure(classifier: Classifier, prediction: Prediction, path: str | Path) -> None:
    """Writes a PNG of a recording and the most probable labels.

    Long recordings are drawn whole: where a column stands for several frames it shows the loudest, so that a short
    call isn't lost. At most 50 labels are drawn.

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
    decoded = decode(prediction.outcome.file, audio.sample_rate_hz, audio.decoder)
    bars_in = 0.6 + 0.3 * min(len(prediction.top), _MAX_BARS)
    figure = Figure(figsize=(10, 5 + bars_in), layout="constrained")
    wave, mel, bars = figure.subplots(3, 1, height_ratios=(1.4, 3.6, bars_in))
    mel.sharex(wave)
    title = f"{_shortened(printable(Path(prediction.outcome.file).name), 80)}   ({describe_length(prediction.outcome)})"
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
    db = _loudest(samples, MelTransform(classifier.audio, settings))
    # Silence, which has no contrast, lies at the floor, as it does in the model's input.
    reference = db.max() if db.max() > db.min() else db.max() + settings.top_db
    db = np.maximum(db - reference, -settings.top_db)
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


def _loudest(samples: np.ndarray, transform: MelTransform) -> np.ndarray:
    """Mel power in dB `[n_mels, columns]`, each column the maximum over as many frames as it stands for."""
    n_fft, hop_samples = transform.mel.n_fft, transform.mel.hop_samples
    n_frames = transform.frames_of(len(samples))
    step = -(-n_frames // _MAX_MEL_COLUMNS)
    padded = np.pad(samples, transform.context_samples)
    columns = [
        transform.decibels(
            padded[first * hop_samples : (min(first + step, n_frames) - 1) * hop_samples + n_fft], True
        ).max(axis=1)
        for first in range(0, n_frames, step)
    ]
    return np.stack(columns, axis=1)


def _draw_bars(axes: "Axes", prediction: Prediction, model_id: str) -> None:
    names, scores = [], []
    for ranked in prediction.top[:_MAX_BARS]:
        known_as = ranked.label.common_name or ranked.label.scientific_name
        is_new = known_as and known_as != ranked.label.name
        name = _shortened(ranked.label.name, 20 if is_new else 40)
        names.append(f"{_shortened(known_as, 40)} ({name})" if is_new else name)
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
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"Probability   (model {_shortened(model_id, 60)})", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)


def _shortened(text: str, max_length: int) -> str:
    """On one line; a name that is too long would leave the axes no room."""
    text = " ".join(text.split())
    return text if len(text) <= max_length else text[: max_length - 1] + "…"
