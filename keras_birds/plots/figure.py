"""What figures share: colours, axes of a waveform and a mel spectrogram, and a PNG that no name can spoil."""

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_birds.atomic import atomic_path
from keras_birds.audio.mel import MelTransform, slaney_filterbank
from keras_birds.config import AudioConfig, MelConfig

COLORS = ("#2a6f97", "#e07a1f", "#2f9e6e", "#b0417e", "#8a6d3b", "#5e60ce", "#c9a227", "#4d5b6a")
IMAGE_STYLE: Any = {"origin": "lower", "aspect": "auto", "interpolation": "nearest", "cmap": "magma"}
_MAX_COLUMNS = 3000
_MAX_MEL_COLUMNS = 500  # fewer than the axes' pixels beside long names: of more, imshow leaves some out
_BLOCK_COLUMNS = 64  # at once, in flat memory
_TICKS_HZ = (250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000)
_FINE_N_FFT = 1 << 16
_LINEAR_N_FFT, _LINEAR_DB = 1024, 80.0


def png(figure: Figure, dpi: int = 110) -> bytes:
    """A figure as a PNG."""
    buffer = BytesIO()
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes, and that is all there is to say.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def save_png(figure: Figure, path: str | Path, dpi: int = 110) -> None:
    """Writes a figure as a PNG; raises `KerasBirdsError` if it can't be written."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(png(figure, dpi))


def tidy(*axes: Axes) -> None:
    """No frame above and at the right, and a faint grid behind what is drawn."""
    for x in axes:
        x.spines[["top", "right"]].set_visible(False)
        x.set_axisbelow(True)
        x.grid(color="#dddddd", linewidth=0.6)


def draw_wave(axes: Axes, samples: np.ndarray, sample_rate_hz: int, begin_s: float = 0.0) -> None:
    """Draws a waveform of `[n]` samples, the first at `begin_s`: of each column the least and the greatest."""
    step = -(-len(samples) // _MAX_COLUMNS)
    starts = np.arange(0, len(samples), step)
    low, high = np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)
    times_s = begin_s + starts / sample_rate_hz
    axes.fill_between(times_s, low, high, color=COLORS[-1], linewidth=0.6, edgecolor=COLORS[-1])
    limit = max(1e-3, 1.05 * float(np.abs(samples).max()))
    axes.set_ylim(-limit, limit)
    axes.set_xlim(begin_s, begin_s + len(samples) / sample_rate_hz)
    axes.set_ylabel("Amplitude")


def draw_mel(
    axes: Axes, samples: np.ndarray, audio: AudioConfig, settings: MelConfig, begin_s: float = 0.0
) -> None:
    """Draws the mel spectrogram of `[n]` samples as of `as_taken`: the recording's seconds and Hz, and dB below its
    maximum.

    The first sample lies at `begin_s`. Where a column stands for several frames it shows the loudest, so that a short
    call isn't lost. A colour bar goes beside the axes.
    """
    db = loudest_db(samples, MelTransform(audio, settings))
    # Silence, which has no contrast, lies at the floor, as it does in the model's input.
    reference = db.max() if db.max() > db.min() else db.max() + settings.top_db
    db = np.maximum(db - reference, -settings.top_db)
    extent = (begin_s, begin_s + len(samples) / audio.resample_hz, 0, settings.n_mels)
    image = axes.imshow(db, extent=extent, vmin=-settings.top_db, vmax=0, **IMAGE_STYLE)
    axes.figure.colorbar(image, ax=axes, label="dB relative to the maximum", pad=0.01, aspect=30)
    axes.set_xlabel("Time (s)")
    label_mel_bands(axes, audio, settings)


def draw_linear(axes: Axes, samples: np.ndarray, rate_hz: int, begin_s: float = 0.0) -> None:
    """Draws all that `[n]` samples hold, up to half of their rate, as `draw_mel` does, on a linear axis in kHz."""
    power = _loudest_power(samples)
    db = 10 * np.log10(np.maximum(power, 1e-12))
    db = np.maximum(db - db.max(), -_LINEAR_DB)
    extent = (begin_s, begin_s + len(samples) / rate_hz, 0, rate_hz / 2000)
    image = axes.imshow(db, extent=extent, vmin=-_LINEAR_DB, vmax=0, **IMAGE_STYLE)
    axes.figure.colorbar(image, ax=axes, label="dB relative to the maximum", pad=0.01, aspect=30)
    axes.set_xlabel("Time (s)")
    axes.set_ylabel("Frequency (kHz)")


def _loudest_power(samples: np.ndarray) -> np.ndarray:
    """Power `[bin, columns]`, each column the maximum over as many frames as it stands for."""
    window = np.hanning(_LINEAR_N_FFT + 1)[:-1].astype(np.float32)
    padded = np.pad(samples, _LINEAR_N_FFT // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _LINEAR_N_FFT)[:: _LINEAR_N_FFT // 2]
    step = -(-len(frames) // _MAX_MEL_COLUMNS)
    columns = []
    for first in range(0, len(frames), size := _BLOCK_COLUMNS * step):
        power = np.abs(np.fft.rfft(frames[first : first + size] * window)) ** 2
        columns.append(np.maximum.reduceat(power, np.arange(0, len(power), step), axis=0))
    return np.concatenate(columns).T


def label_mel_bands(axes: Axes, audio: AudioConfig, settings: MelConfig, height: float | None = None) -> None:
    """Labels a y axis that has the mel bands from 0 up to `height` (`None`: one unit a band) in the recording's Hz."""
    axes.set_ylabel("Frequency (Hz)")
    # A filterbank of fine bins says where each band's peak lies.
    bands = settings.n_mels, settings.f_min_hz, settings.f_max_hz
    centres_hz = slaney_filterbank(audio.sample_rate_hz, _FINE_N_FFT, *bands).argmax(axis=1)
    centres_hz = centres_hz * audio.resample_hz / _FINE_N_FFT
    ticks_hz = [x for x in _TICKS_HZ if centres_hz[0] <= x <= centres_hz[-1]]
    rows = np.interp(ticks_hz, centres_hz, np.arange(settings.n_mels) + 0.5)
    axes.set_yticks(rows * (height or settings.n_mels) / settings.n_mels, [f"{x:,}" for x in ticks_hz])


def shortened(text: str, max_length: int) -> str:
    """On one line; a name that is too long would leave the axes no room."""
    text = " ".join(text.split())
    return text if len(text) <= max_length else text[: max_length - 1] + "…"


def loudest_db(samples: np.ndarray, transform: MelTransform) -> np.ndarray:
    """Mel power in dB `[n_mels, columns]`, each column the maximum over as many frames as it stands for."""
    n_fft, hop_samples = transform.mel.n_fft, transform.mel.hop_samples
    n_frames = transform.frames_of(len(samples))
    step = -(-n_frames // _MAX_MEL_COLUMNS)
    padded = np.pad(samples, transform.context_samples)
    size, blocks = _BLOCK_COLUMNS * step, []
    for first in range(0, n_frames, size):
        end = (min(first + size, n_frames) - 1) * hop_samples + n_fft
        db = transform.decibels(padded[first * hop_samples : end], True)
        blocks.append(np.maximum.reduceat(db, np.arange(0, db.shape[1], step), axis=1))
    return np.concatenate(blocks, axis=1)
