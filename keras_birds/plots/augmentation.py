"""Draws one clip under each augmentation, each forced on with the ranges of the settings."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from keras_birds.audio.decode import decode_clip
from keras_birds.audio.mel import MelTransform
from keras_birds.config import AugmentConfig, Config, MaskConfig, MixUpConfig
from keras_birds.nn.augment import MelMixUp, PitchShift, SpecAugment, TimeShift, TimeStretch, Volume
from keras_birds.nn.clip_augmentation import ClipAugmentation
from keras_birds.nn.mixing import mix_power
from keras_birds.plots.figure import IMAGE_STYLE, label_mel_bands

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
        image, other: the clip and what mixup mixes in, float32 `[height, width, 1]` in [0, 1].
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
    for axes, (title, panel) in zip(grid.flat, panels, strict=False):
        shown = axes.imshow(panel[..., 0], extent=extent, vmin=0, vmax=1, **IMAGE_STYLE)
        axes.set_title(title, fontsize=10, parse_math=False)
    mel, coefficients = config.mel, range(0, config.mel.n_mfcc, 8)
    for axes in grid[:, 0]:
        if mel.feature == "mel":
            label_mel_bands(axes, config.audio.sample_rate_hz, mel, mel.height)
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


def _masked(image: np.ndarray, settings: AugmentConfig, seed: int) -> list[_Panel]:
    """What shares a gate: masks and gain, each alone."""
    time, frequency, gain = settings.time_mask, settings.frequency_mask, settings.gain
    columns = SpecAugment(1, (1, time.count, time.size), _NO_MASKS, 0)
    rows = SpecAugment(1, _NO_MASKS, (1, frequency.count, frequency.size), 0)
    louder = SpecAugment(1, _NO_MASKS, _NO_MASKS, 1, gain.gain, gain.bias)
    panels: list[_Panel] = []
    for text, share, layer in (
        (f"time masks, {_describe_masks(time)} columns", time.probability, columns),
        (f"frequency masks, {_describe_masks(frequency)} rows", frequency.probability, rows),
        (f"gain ×{_range(gain.gain)}, bias {_range(gain.bias)}", gain.probability, louder),
    ):
        title = f"{text}   p = {settings.probability:g} × {share:g}"
        panels.append((title, _apply(layer, image, seed, len(panels) + 1)))
    return panels


def _warped(image: np.ndarray, config: Config, seed: int, background: np.ndarray | None) -> list[_Panel]:
    """Stretch and shift; of mel images also background, pitch and volume."""
    augment, mel = config.augment, config.mel
    stretch, pitch, volume = augment.time_stretch, augment.pitch_shift, augment.volume
    # Ends of the ranges: somewhere between them the change may be too small to see.
    ends = np.random.default_rng((seed, 7))
    ranges = stretch.rate, pitch.semitones, volume.gain_db
    rate, semitones, gain_db = (bounds[int(ends.integers(2))] for bounds in ranges)
    text = f"time stretch ×{_range(stretch.rate)}, here {rate:g}   p = {stretch.probability:g}"
    panels = [(text, _apply(TimeStretch((rate, rate), 1.0), image, seed, 4))]
    text = f"time shift   p = {augment.time_shift.probability:g}"
    panels.append((text, _apply(TimeShift(1.0), image, seed, 8)))
    if mel.feature == "mfcc":
        return panels
    if background is not None:
        snr_db, probability = augment.background.snr_db, augment.background.probability
        mixed = mix_power(image[None], background[None], np.array([min(snr_db)]), mel.top_db)[0]
        text = f"background {_range(snr_db)} dB below, here {min(snr_db):g}   p = {probability:g}"
        panels.append((text, mixed))
    text = f"pitch shift {_range(pitch.semitones)} semitones, here {semitones:g}   p = {pitch.probability:g}"
    shift = PitchShift((semitones, semitones), mel.n_mels, mel.f_min_hz, mel.f_max_hz, 1.0)
    panels.append((text, _apply(shift, image, seed, 5)))
    text = f"volume {_range(volume.gain_db)} dB, here {gain_db:g}   p = {volume.probability:g}"
    panels.append((text, _apply(Volume((gain_db, gain_db), mel.top_db, 1.0), image, seed, 6)))
    return panels


def _apply(layer: ClipAugmentation, image: np.ndarray, seed: int, number: int) -> np.ndarray:
    return layer.augment_arrays(image[None], np.random.default_rng((seed, number)))[0]


def _range(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:g} to {bounds[1]:g}"


def _describe_masks(mask: MaskConfig) -> str:
    return f"{mask.count[0]}–{mask.count[1]} of {mask.size[0]}–{mask.size[1]}"
