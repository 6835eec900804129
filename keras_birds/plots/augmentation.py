"""Draws one clip under each augmentation, each forced on with the ranges of the settings."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from keras_birds.audio.decode import decode_clip
from keras_birds.audio.mel import MelTransform
from keras_birds.config import Config, MaskConfig, MixUpConfig
from keras_birds.nn import clip_augmentation as layers
from keras_birds.nn.augment import MelMixUp, mix_power
from keras_birds.plots.figure import IMAGE_STYLE, label_mel_bands

_COLUMNS = 3
_MIXUP_DRAWS = 20
_Panel = tuple[str, np.ndarray]
_NO_MASKS = (0.0, (1, 1), (1, 1))


def clip_image(path: str | Path, config: Config) -> np.ndarray:
    """A recording's middle clip as the network sees it: float32 `[height, width, 1]` in [0, 1]."""
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
        image, other: the clip and what mixup mixes in, float32 `[height, width, 1]` in [0, 1].
        names: what to call the two.
        config: its `augment` section is drawn.
        seed: of the draws, not negative.
        background: a clip of `data.background`; without one there is no panel of it.
    """
    panels = [(names[0], image), (f"second clip: {names[1]}", other)]
    panels.append(_mixed(image, other, config.augment.mixup, seed))
    panels += _augmented(image, config, seed, background)
    rows = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(4.6 * _COLUMNS, 3.1 * rows), layout="constrained")
    figure.suptitle("One clip under each augmentation, and its probability in training", fontsize=13)
    grid = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    extent = (0, config.audio.window_s, 0, config.mel.height)
    for axes, (title, panel) in zip(grid.flat, panels, strict=False):
        shown = axes.imshow(panel[..., 0], extent=extent, vmin=0, vmax=1, **IMAGE_STYLE)
        axes.set_title(title, fontsize=10, parse_math=False)
    mel, coefficients = config.mel, range(0, config.mel.n_mfcc, 8)
    for axes in grid[:, 0]:
        if mel.feature == "mel":
            label_mel_bands(axes, config.audio, mel, mel.height)
        else:
            axes.set_ylabel("Coefficient")
            axes.set_yticks(
                [(k + 0.5) * mel.height / mel.n_mfcc for k in coefficients], map(str, coefficients)
            )
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


def _augmented(image: np.ndarray, config: Config, seed: int, background: np.ndarray | None) -> list[_Panel]:
    """The clip under each augmentation but mixup; MFCC have no background, pitch and volume."""
    augment, mel, gate = config.augment, config.mel, f"{config.augment.probability:g} × "
    time, frequency, gain = augment.time_mask, augment.frequency_mask, augment.gain
    stretch, pitch, volume = augment.time_stretch, augment.pitch_shift, augment.volume
    # Ends of the ranges: somewhere between them the change may be too small to see.
    ends = np.random.default_rng((seed, 7))
    ranges = stretch.rate, pitch.semitones, volume.gain_db
    rate, semitones, gain_db = (bounds[int(ends.integers(2))] for bounds in ranges)
    panels: list[_Panel] = []

    def add(number: int, layer: layers.ClipAugmentation, text: str, probability: float, of: str = "") -> None:
        augmented = layer.augment_arrays(image[None], np.random.default_rng((seed, number)))[0]
        panels.append((f"{text}   p = {of}{probability:g}", augmented))

    columns = layers.SpecAugment(1, (1, time.count, time.size), _NO_MASKS, 0)
    add(1, columns, f"time masks, {_describe_masks(time)} columns", time.probability, gate)
    rows = layers.SpecAugment(1, _NO_MASKS, (1, frequency.count, frequency.size), 0)
    add(2, rows, f"frequency masks, {_describe_masks(frequency)} rows", frequency.probability, gate)
    louder = layers.SpecAugment(1, _NO_MASKS, _NO_MASKS, 1, gain.gain, gain.bias)
    add(3, louder, f"gain ×{_range(gain.gain)}, bias {_range(gain.bias)}", gain.probability, gate)
    text = f"time stretch ×{_range(stretch.rate)}, here {rate:g}"
    add(4, layers.TimeStretch((rate, rate), 1.0), text, stretch.probability)
    add(8, layers.TimeShift(1.0), "time shift", augment.time_shift.probability)
    if mel.feature == "mfcc":
        return panels
    if background is not None:
        snr_db, probability = augment.background.snr_db, augment.background.probability
        mixed = mix_power(image[None], background[None], np.array([min(snr_db)]), mel.top_db)[0]
        text = f"background {_range(snr_db)} dB below, here {min(snr_db):g}   p = {probability:g}"
        panels.append((text, mixed))
    shift = layers.PitchShift((semitones, semitones), mel.n_mels, mel.f_min_hz, mel.f_max_hz, 1.0)
    text = f"pitch shift {_range(pitch.semitones)} semitones, here {semitones:g}"
    add(5, shift, text, pitch.probability)
    text = f"volume {_range(volume.gain_db)} dB, here {gain_db:g}"
    add(6, layers.Volume((gain_db, gain_db), mel.top_db, 1.0), text, volume.probability)
    return panels


def _range(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:g} to {bounds[1]:g}"


def _describe_masks(mask: MaskConfig) -> str:
    return f"{mask.count[0]}–{mask.count[1]} of {mask.size[0]}–{mask.size[1]}"
