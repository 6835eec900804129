"""Augmentation of batches of mel images, built from the settings."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_birds.config import Config
from keras_birds.errors import ConfigError
from keras_birds.nn.clip_augmentation import PitchShift, SpecAugment, TimeShift, TimeStretch, Volume
from keras_birds.nn.mixing import BackgroundMix, MelMixUp

Augment = Callable[[np.ndarray, np.ndarray, int | Sequence[int]], tuple[np.ndarray, np.ndarray]]

# After the four layers of the published recipe: those that came later leave its draws as they were.
_MIXUP_STREAM = 4


def build_augment(
    config: Config,
    backgrounds: Callable[[np.ndarray], np.ndarray] | None = None,
    num_backgrounds: int = 0,
) -> Augment:
    """Builds what `MelDataset` applies to its batches, from the settings' `augment` section.

    Args:
        config: `augment` says what; `mel` says what a row, a column and a unit of the images are.
        backgrounds: gives images float32 `[n, height, width, 1]` of backgrounds by number, from several threads;
            needed where `augment.background.probability` is above 0.
        num_backgrounds: how many there are.

    Returns:
        `augment(images, targets, seed)`, from float32 `[batch, height, width, 1]` and `[batch, label]` to the
        same, which leaves its arguments as they are. Equal seeds (one or several non-negative integers) give
        equal results on every backend. Safe to call from several threads.

    Raises:
        ConfigError: if pitch shift, volume or background is on for MFCC, which have neither frequencies nor decibels.
    """
    settings, mel = config.augment, config.mel
    on = [name for name in ("pitch_shift", "volume", "background") if getattr(settings, name).probability]
    if mel.feature == "mfcc" and on:
        raise ConfigError(
            f'augment.{on[0]}.probability must be 0 with mel.feature = "mfcc". '
            f"Received: {getattr(settings, on[0]).probability:g}"
        )
    stretch, pitch, volume = settings.time_stretch, settings.pitch_shift, settings.volume
    times, frequencies, gain = settings.time_mask, settings.frequency_mask, settings.gain
    layers: list[Any] = [
        TimeStretch(stretch.rate, stretch.probability),
        PitchShift(pitch.semitones, mel.n_mels, mel.f_min_hz, mel.f_max_hz, pitch.probability),
        Volume(volume.gain_db, mel.top_db, volume.probability),
        SpecAugment(
            settings.probability,
            (times.probability, times.count, times.size),
            (frequencies.probability, frequencies.count, frequencies.size),
            *(gain.probability, gain.gain, gain.bias),
        ),
        TimeShift(settings.time_shift.probability),
    ]
    if settings.background.probability and backgrounds is not None:
        mix = settings.background
        layers.append(BackgroundMix(backgrounds, num_backgrounds, mix.snr_db, mel.top_db, mix.probability))
    mixup = MelMixUp(settings.mixup.alpha, settings.mixup.probability)

    def augment(
        images: np.ndarray, targets: np.ndarray, seed: int | Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        # A stream for each layer: switching one off doesn't change what the others draw.
        streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(len(layers) + 1)]
        mixup_stream = streams.pop(_MIXUP_STREAM)
        for layer, rng in zip(layers, streams, strict=True):
            images = layer.augment_arrays(images, rng)
        return mixup.augment_arrays(images, targets, mixup_stream)

    return augment
