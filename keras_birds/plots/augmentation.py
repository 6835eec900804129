"""Draws one clip under each augmentation, each forced on with the ranges of the settings."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_birds.atomic import atomic_path
from keras_birds.audio.decode import decode_clip
from keras_birds.audio.mel import MelTransform
from keras_birds.config import Config, GainConfig, MaskConfig
from keras_birds.nn.augment import MelMixUp, PitchShift, SpecAugment, TimeShift, TimeStretch, Volume
from keras_birds.nn.background import mix_power
from keras_birds.nn.clip_augmentation import ClipAugmentation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TICKS_HZ = (125, 250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000)
_COLUMNS = 3
_MIXUP_DRAWS = 20


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
    path: str | Path,
    seed: int,
    background: np.ndarray | None = None,
) -> None:
    """Writes a PNG of panels: the clip, a second one, and the clip under each augmentation.

    Titles tell each augmentation's probability in training. Draws repeat with the seed; mixup shows the most even
    of some, and stretch, pitch and volume an end of their range, so that there is something to see.

    Args:
        image: the clip, float32 `[height, width, 1]` in [0, 1].
        other: what mixup mixes in, of the same shape.
        names: what to call the two.
        config: its `augment` section is drawn.
        path: the PNG.
        seed: of the draws, not negative.
        background: a clip of `data.background`; without one there is no panel of it.

    Raises:
        KerasBirdsError: if the figure can't be written.
    """
    from matplotlib.figure import Figure

    panels = [
        (names[0], image),
        (f"second clip: {names[1]}", other),
        *_augmented(image, other, config, seed, background),
    ]
    rows = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(4.6 * _COLUMNS, 3.1 * rows), layout="constrained")
    figure.suptitle("One clip under each augmentation, and its probability in training", fontsize=13)
    grid = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, panel) in zip(grid.flat, panels, strict=False):
        shown = axes.imshow(
            panel[..., 0],
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            extent=(0, config.audio.clip_s, 0, config.mel.height),
            cmap="magma",
            vmin=0,
            vmax=1,
        )
        axes.set_title(title, fontsize=10, parse_math=False)
    for axes in grid[:, 0]:
        _label_rows(axes, config)
    for column in range(_COLUMNS):
        last = [axes for axes in grid[:, column] if axes.get_visible()][-1]
        last.set_xlabel("Time (s)")
        last.tick_params(labelbottom=True)
    figure.colorbar(shown, ax=grid, label="Network input", pad=0.01, aspect=40)
    with atomic_path(path) as temporary, warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes, and that is all there is to say.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(temporary, format="png", dpi=100)


def _augmented(
    image: np.ndarray, other: np.ndarray, config: Config, seed: int, background: np.ndarray | None
) -> list[tuple[str, np.ndarray]]:
    settings, mel = config.augment, config.mel
    gate, images = settings.probability, image[None]

    def share(probability: float) -> str:
        return f"p = {gate:g} × {probability:g}"

    def apply(number: int, layer: ClipAugmentation) -> np.ndarray:
        changed: np.ndarray = layer.augment_arrays(images, np.random.default_rng((seed, number)))[0]
        return changed

    ends = np.random.default_rng((seed, 7))

    def end(bounds: tuple[float, float]) -> float:
        # Somewhere between them the change may be too small to see.
        return bounds[int(ends.integers(2))]

    stretch, pitch, volume = settings.time_stretch, settings.pitch_shift, settings.volume
    rate = end(stretch.rate)
    weight, mixed = _mix(image, other, settings.mixup.alpha, seed)
    time_mask, frequency_mask, gain = settings.time_mask, settings.frequency_mask, settings.gain
    panels = [
        (f"mixup, here {weight:.0%} of the clip   p = {settings.mixup.probability:g}", mixed),
        (
            f"time masks, {_masks(time_mask)} columns   {share(time_mask.probability)}",
            apply(1, _only(time=time_mask)),
        ),
        (
            f"frequency masks, {_masks(frequency_mask)} rows   {share(frequency_mask.probability)}",
            apply(2, _only(frequency=frequency_mask)),
        ),
        (
            f"gain ×{_range(gain.gain)}, bias {_range(gain.bias)}   {share(gain.probability)}",
            apply(3, _only(gain=gain)),
        ),
        (
            f"time stretch ×{_range(stretch.rate)}, here {rate:g}   p = {stretch.probability:g}",
            apply(4, TimeStretch((rate, rate), 1.0)),
        ),
        (f"time shift   p = {settings.time_shift.probability:g}", apply(8, TimeShift(1.0))),
    ]
    if mel.feature == "mfcc":
        return panels
    if background is not None:
        snr_db = min(settings.background.snr_db)
        panels.append(
            (
                f"background {_range(settings.background.snr_db)} dB below, here {snr_db:g}   "
                f"p = {settings.background.probability:g}",
                mix_power(images, background[None], np.array([snr_db]), mel.top_db)[0],
            )
        )
    semitones, gain_db = end(pitch.semitones), end(volume.gain_db)
    shift = PitchShift((semitones, semitones), mel.n_mels, mel.f_min_hz, mel.f_max_hz, 1.0)
    return [
        *panels,
        (
            f"pitch shift {_range(pitch.semitones)} semitones, here {semitones:g}   p = {pitch.probability:g}",
            apply(5, shift),
        ),
        (
            f"volume {_range(volume.gain_db)} dB, here {gain_db:g}   p = {volume.probability:g}",
            apply(6, Volume((gain_db, gain_db), mel.top_db, 1.0)),
        ),
    ]


def _mix(image: np.ndarray, other: np.ndarray, alpha: float, seed: int) -> tuple[float, np.ndarray]:
    """The clip's share and the blend: of many draws the one that shows both best."""
    layer, rng = MelMixUp(alpha), np.random.default_rng((seed, 0))
    images, labels = np.stack([image, other]), np.eye(2, dtype=np.float32)
    draws = (layer.augment_arrays(images, labels, rng) for _ in range(_MIXUP_DRAWS))
    mixed, shares = max(draws, key=lambda draw: draw[1][0].min())
    return float(shares[0, 0]), mixed[0]


def _only(
    time: MaskConfig | None = None, frequency: MaskConfig | None = None, gain: GainConfig | None = None
) -> SpecAugment:
    nothing = MaskConfig()
    return SpecAugment(
        1.0,
        float(time is not None),
        (time or nothing).count,
        (time or nothing).size,
        float(frequency is not None),
        (frequency or nothing).count,
        (frequency or nothing).size,
        float(gain is not None),
        (gain or GainConfig()).gain,
        (gain or GainConfig()).bias,
    )


def _range(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:g} to {bounds[1]:g}"


def _masks(mask: MaskConfig) -> str:
    return f"{mask.count[0]}–{mask.count[1]} of {mask.size[0]}–{mask.size[1]}"


def _label_rows(axes: "Axes", config: Config) -> None:
    mel = config.mel
    if mel.feature == "mfcc":
        axes.set_ylabel("Coefficient")
        step = mel.height / mel.n_mfcc
        axes.set_yticks(
            [(k + 0.5) * step for k in range(0, mel.n_mfcc, 8)], [str(k) for k in range(0, mel.n_mfcc, 8)]
        )
        return
    axes.set_ylabel("Frequency (Hz)")
    centres_hz = PitchShift((0, 0), mel.n_mels, mel.f_min_hz, mel.f_max_hz).row_hz(mel.height)
    ticks_hz = [hz for hz in _TICKS_HZ if centres_hz[0] <= hz <= centres_hz[-1] and (hz >= 500)]
    rows = np.interp(ticks_hz, centres_hz, np.arange(mel.height) + 0.5)
    axes.set_yticks(rows, [f"{hz:,}" for hz in ticks_hz])
