"""Draws one clip under each augmentation, each forced on with the ranges of the settings."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_birds.audio.decode import decode_clip
from keras_birds.audio.mel import MelTransform
from keras_birds.config import AugmentConfig, Config, MaskConfig, MixUpConfig
from keras_birds.nn.augment import MelMixUp, PitchShift, SpecAugment, TimeShift, TimeStretch, Volume
from keras_birds.nn.background import mix_power
from keras_birds.nn.clip_augmentation import ClipAugmentation
from keras_birds.plots.figure import label_mel_bands

_COLUMNS = 3
_MIXUP_DRAWS = 20
_Panel = tuple[str, np.ndarray]

_NO_MASKS = (0.0, (1, 1), (1, 1))


def clip_image(path: str | Path, config: Config) -> np.ndarray:
    """A recording's middle clip as the network sees it.

    Returns:
        float32 `[height, width, 1]` in [0, 1].

    Raises:
        AudioError: if the recording can't be read.
    """
    clip = decode_clip(path, config.audio.model_copy(update={"crop": "center"}))
    return MelTransform(config.audio, config.mel).images(clip.samples[None])[0]


def augmentation_preview(
    image: np.ndarray,
    other: np.ndarray,
    names: tuple[str, str],
    config: Config,
    seed: int,
    background: np.ndarray | None = None,
) -> Figure:
    """Panels: the clip, a second one, and the clip under each augmentation.

    Titles tell each augmentation's probability in training. Draws repeat with the seed; mixup shows the most even
    of some, and stretch, pitch and volume an end of their range, so that there is something to see.

    Args:
        image: the clip, float32 `[height, width, 1]` in [0, 1].
        other: what mixup mixes in, of the same shape.
        names: what to call the two.
        config: its `augment` section is drawn.
        seed: of the draws, not negative.
        background: a clip of `data.background`; without one there is no panel of it.
    """
    panels = [(names[0], image), (f"second clip: {names[1]}", other)]
    panels.append(_mixed(image, other, config.augment.mixup, seed))
    panels += _masked(image, config.augment, seed)
    panels += _warped(image, config, seed, background)
    rows = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(4.6 * _COLUMNS, 3.1 * rows), layout="constrained")
    figure.suptitle("One clip under each augmentation, and its probability in training", fontsize=13)
    grid = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    extent = (0, config.audio.clip_s, 0, config.mel.height)
    style = {"origin": "lower", "aspect": "auto", "interpolation": "nearest", "cmap": "magma"}
    for axes, (title, panel) in zip(grid.flat, panels, strict=False):
        shown = axes.imshow(panel[..., 0], extent=extent, vmin=0, vmax=1, **style)
        axes.set_title(title, fontsize=10, parse_math=False)
    for axes in grid[:, 0]:
        _label_rows(axes, config)
    for column in grid.T:
        last = [axes for axes in column if axes.get_visible()][-1]
        last.set_xlabel("Time (s)")
        last.tick_params(labelbottom=True)
    figure.colorbar(shown, ax=grid, label="Network input", pad=0.01, aspect=40)
    return figure


def _mixed(image: np.ndarray, other: np.ndarray, settings: MixUpConfig, seed: int) -> _Panel:
    """The blend: of many draws the one that shows both best."""
    layer, rng = MelMixUp(settings.alpha), np.random.default_rng((seed, 0))
    images, labels = np.stack([image, other]), np.eye(2, dtype=np.float32)
    draws = (layer.augment_arrays(images, labels, rng) for _ in range(_MIXUP_DRAWS))
    mixed, shares = max(draws, key=lambda draw: draw[1][0].min())
    return f"mixup, here {shares[0, 0]:.0%} of the clip   p = {settings.probability:g}", mixed[0]


def _masked(image: np.ndarray, settings: AugmentConfig, seed: int) -> list[_Panel]:
    """What shares a gate: masks and gain, each alone."""
    time, frequency, gain = settings.time_mask, settings.frequency_mask, settings.gain
    layers = (
        SpecAugment(1, (1, time.count, time.size), _NO_MASKS, 0),
        SpecAugment(1, _NO_MASKS, (1, frequency.count, frequency.size), 0),
        SpecAugment(1, _NO_MASKS, _NO_MASKS, 1, gain.gain, gain.bias),
    )
    texts = (
        f"time masks, {_describe_masks(time)} columns",
        f"frequency masks, {_describe_masks(frequency)} rows",
        f"gain ×{_range(gain.gain)}, bias {_range(gain.bias)}",
    )
    shares = [f"p = {settings.probability:g} × {x.probability:g}" for x in (time, frequency, gain)]
    return [
        (f"{text}   {share}", _apply(layer, image, seed, number))
        for number, (text, share, layer) in enumerate(zip(texts, shares, layers, strict=True), 1)
    ]


def _warped(image: np.ndarray, config: Config, seed: int, background: np.ndarray | None) -> list[_Panel]:
    """Stretch and shift; of mel images also background, pitch and volume."""
    augment, mel = config.augment, config.mel
    ends = np.random.default_rng((seed, 7))
    panels: list[_Panel] = []

    def end(bounds: tuple[float, float]) -> float:
        # Somewhere between them the change may be too small to see.
        return bounds[int(ends.integers(2))]

    def add(text: str, probability: float, layer: ClipAugmentation, number: int) -> None:
        panels.append((f"{text}   p = {probability:g}", _apply(layer, image, seed, number)))

    stretch, pitch, volume = augment.time_stretch, augment.pitch_shift, augment.volume
    rate, semitones, gain_db = end(stretch.rate), end(pitch.semitones), end(volume.gain_db)
    text = f"time stretch ×{_range(stretch.rate)}, here {rate:g}"
    add(text, stretch.probability, TimeStretch((rate, rate), 1.0), 4)
    add("time shift", augment.time_shift.probability, TimeShift(1.0), 8)
    if mel.feature == "mfcc":
        return panels
    if background is not None:
        snr_db, probability = augment.background.snr_db, augment.background.probability
        mixed = mix_power(image[None], background[None], np.array([min(snr_db)]), mel.top_db)[0]
        text = f"background {_range(snr_db)} dB below, here {min(snr_db):g}   p = {probability:g}"
        panels.append((text, mixed))
    shift = PitchShift((semitones, semitones), mel.n_mels, mel.f_min_hz, mel.f_max_hz, 1.0)
    add(f"pitch shift {_range(pitch.semitones)} semitones, here {semitones:g}", pitch.probability, shift, 5)
    loudness = Volume((gain_db, gain_db), mel.top_db, 1.0)
    add(f"volume {_range(volume.gain_db)} dB, here {gain_db:g}", volume.probability, loudness, 6)
    return panels


def _apply(layer: ClipAugmentation, image: np.ndarray, seed: int, number: int) -> np.ndarray:
    changed: np.ndarray = layer.augment_arrays(image[None], np.random.default_rng((seed, number)))[0]
    return changed


def _range(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:g} to {bounds[1]:g}"


def _describe_masks(mask: MaskConfig) -> str:
    return f"{mask.count[0]}–{mask.count[1]} of {mask.size[0]}–{mask.size[1]}"


def _label_rows(axes: Axes, config: Config) -> None:
    mel = config.mel
    if mel.feature != "mfcc":
        label_mel_bands(axes, config.audio.sample_rate_hz, mel, mel.height)
        return
    axes.set_ylabel("Coefficient")
    shown = range(0, mel.n_mfcc, 8)
    axes.set_yticks([(k + 0.5) * mel.height / mel.n_mfcc for k in shown], [str(k) for k in shown])
