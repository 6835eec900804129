"""Augmentation of batches, built from the settings, and mixes of several clips."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_birds.config import Config
from keras_birds.errors import ConfigError
from keras_birds.nn.clip_augmentation import PitchShift, SpecAugment, TimeShift, TimeStretch, Volume
from keras_birds.nn.waveform_augment import RotateInTime, add_sound

Augment = Callable[..., tuple[np.ndarray, np.ndarray]]

# After the four layers of the published recipe: those that came later leave its draws as they were.
_MIXUP_STREAM = 4
_NEPER_PER_DB = np.float32(np.log(10) / 10)
# Finite, so that two silences have a difference.
_NOTHING = np.float32(-1e4)


@keras.saving.register_keras_serializable(package="keras_birds")
class MelMixUp(keras.layers.MixUp):
    """`keras.layers.MixUp` that respects masked labels and applies to a share of the batches.

    Each clip is blended with another of its batch: `w * clip + (1 - w) * other`, `w` drawn for each clip from
    Beta(alpha, alpha), images and labels alike. A label is -1 where either clip's is.

    Args:
        alpha: above 0. At 0.5, the published value, most blends are close to one of the two.
        probability: that a batch is mixed at all.
        seed: of the draws when called as a layer.
        kwargs: as for `keras.layers.MixUp`.

    Called on `{"images": [batch, height, width, 1], "labels": [batch, label]}`, returns the same.

    Raises:
        ValueError: if an argument is out of range.

    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412.
    """

    def __init__(self, alpha: float = 0.5, probability: float = 1.0, seed: int | None = None, **kwargs: Any):
        super().__init__(alpha=alpha, seed=seed, **kwargs)
        if alpha <= 0:
            raise ValueError(f"`alpha` must be above 0. Received: alpha={alpha}")
        if not 0 <= probability <= 1:
            raise ValueError(f"`probability` must be in [0, 1]. Received: probability={probability}")
        self.probability = probability

    def get_random_transformation(self, data: Any, training: bool = True, seed: Any = None) -> dict[str, Any]:
        """Draws each clip's partner and weight; in a batch that is not mixed every clip is its own partner."""
        backend = self.backend
        images = data["images"] if isinstance(data, dict) else data
        batch = backend.shape(images)[0] if len(images.shape) == 4 else 1
        if seed is None:
            seed = self._get_seed_generator(backend._backend)
        own = backend.numpy.arange(0, batch, dtype="int32")
        chosen = backend.random.uniform((), seed=seed) < self.probability
        order = backend.numpy.where(chosen, backend.random.shuffle(own, seed=seed), own)
        weight = backend.random.beta((batch,), self.alpha, self.alpha, seed=seed)
        return {"mix_weight": backend.numpy.where(chosen, weight, 1.0), "permutation_order": order}

    def transform_labels(self, labels: Any, transformation: dict[str, Any], training: bool = True) -> Any:
        """Blends labels `[batch, label]`."""
        if not training:
            return labels
        backend = self.backend
        labels = backend.cast(labels, self.compute_dtype)
        other = backend.numpy.take(labels, transformation["permutation_order"], axis=0)
        weight = backend.cast(backend.numpy.reshape(transformation["mix_weight"], [-1, 1]), labels.dtype)
        mixed = weight * labels + (1.0 - weight) * other
        return backend.numpy.where(backend.numpy.minimum(labels, other) < 0, -1.0, mixed)

    def augment_arrays(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        rng: np.random.Generator,
        kinds: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same for float32 `images` `[batch, ...]` and `labels` `[batch, label]`, left as they are.

        With `kinds`, bool `[batch]`, no two of a kind are blended.
        """
        chosen, order = rng.random() < self.probability, rng.permutation(len(images))
        if kinds is not None:
            order = _of_the_other_kind(kinds, order)
        weight = rng.beta(self.alpha, self.alpha, len(images)).astype(np.float32)
        if not chosen:
            return images, labels
        mixed = images[order]
        mixed -= images
        mixed *= 1 - weight.reshape(-1, *[1] * (images.ndim - 1))
        mixed += images
        other = labels[order]
        mixed_labels = weight[:, None] * labels + (1 - weight[:, None]) * other
        return mixed, np.where(np.minimum(labels, other) < 0, np.float32(-1), mixed_labels)

    def get_config(self) -> dict[str, Any]:
        """Arguments to make an equal one with."""
        return {**super().get_config(), "probability": self.probability}


def _of_the_other_kind(kinds: np.ndarray, order: np.ndarray) -> np.ndarray:
    """For each clip one of the other kind, in the order given, again from its start where there are fewer.

    Where there is none of the other kind, each clip is its own partner.
    """
    partners = np.arange(len(kinds))
    for kind in (False, True):
        own, others = np.flatnonzero(kinds == kind), order[kinds[order] != kind]
        if len(others):
            partners[own] = np.resize(others, len(own))
    return partners


@dataclass(frozen=True)
class BackgroundMix:
    """Adds a background clip to a clip, so many dB below it.

    The labels stay: a background holds none of them. It draws from recordings, so it works on arrays only and is no
    Keras layer.

    Args:
        inputs_of: gives inputs float32 `[n, ...]` of backgrounds by number, from several threads.
        number: of backgrounds.
        snr_db: lowest and highest distance between clip and background.
        probability: that a clip is changed.
        mix: adds `(inputs, backgrounds, snr_db)`: `mix_power` of images, `add_sound` of sound.
    """

    inputs_of: Callable[[np.ndarray], np.ndarray]
    number: int
    snr_db: tuple[float, float]
    probability: float
    mix: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

    def augment_arrays(self, inputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Mixes backgrounds under some of float32 `[batch, ...]`, left as they are."""
        chosen = np.flatnonzero(rng.random(len(inputs)) < self.probability)
        if not len(chosen):
            return inputs
        snr_db = rng.uniform(*self.snr_db, len(chosen)).astype(np.float32)
        backgrounds = self.inputs_of(rng.integers(self.number, size=len(chosen)))
        out = inputs.copy()
        out[chosen] = self.mix(inputs[chosen], backgrounds, snr_db)
        return out


def mix_power(images: np.ndarray, backgrounds: np.ndarray, snr_db: np.ndarray, top_db: float) -> np.ndarray:
    """Adds powers of images that are in decibels, float32 `[n, height, width, 1]` in [0, 1], to such images.

    Images are taken as decibels under a clip's maximum, `top_db` below which lies 0; so is the sum.

    Args:
        images, backgrounds: to add; a sum without contrast gives zeros.
        snr_db: `[n]`, how far the background's maximum lies below the image's.
        top_db: decibels from 0 to 1.
    """
    scale = np.float32(top_db) * _NEPER_PER_DB
    quieter = snr_db[:, None, None, None].astype(np.float32) * _NEPER_PER_DB
    # 0 is the floor or anything below it: taken as no power, floors don't add up.
    clips, noises = (np.where(x > 0, (x - 1) * scale, _NOTHING) for x in (images, backgrounds))
    power = np.logaddexp(clips, noises - quieter)
    power -= power.max(axis=(1, 2, 3), keepdims=True)
    np.maximum(power, -scale, out=power)
    low = power.min(axis=(1, 2, 3), keepdims=True)
    # The maximum is 0: where the minimum is too, the image has no contrast.
    return np.where(low < 0, 1 - power / np.minimum(low, -1e-12), np.float32(0)).astype(np.float32)


def build_augment(
    config: Config,
    backgrounds: Callable[[np.ndarray], np.ndarray] | None = None,
    num_backgrounds: int = 0,
) -> Augment:
    """Builds what `MelDataset` applies to its batches, from the settings' `augment` section.

    Args:
        config: `augment` says what; `model.input_kind` of what; `mel` what a row, a column and a unit of images are.
        backgrounds: gives inputs float32 `[n, ...]` of backgrounds by number, from several threads; needed where
            `augment.background.probability` is above 0.
        num_backgrounds: how many there are.

    Returns:
        `augment(inputs, targets, seed)`, from float32 `[batch, ...]` and `[batch, label]` to the same, which
        leaves its arguments as they are. Equal seeds (one or several non-negative integers) give
        equal results on every backend. Safe to call from several threads. A fourth argument, bool `[batch]`, tells
        which are windows that a model labelled, for `augment.mixup.partner`.

    Raises:
        ConfigError: if pitch shift, volume or background is on for MFCC, which have neither frequencies nor decibels.
    """
    settings = config.augment
    kind = config.model.input_kind
    layers = _mel_layers(config) if kind == "mel" else []
    if kind == "waveform":
        layers = [RotateInTime(settings.time_shift.probability)]
    if (mix := settings.background).probability and backgrounds is not None:
        add = partial(mix_power, top_db=config.mel.top_db) if kind == "mel" else add_sound
        layers.append(BackgroundMix(backgrounds, num_backgrounds, mix.snr_db, mix.probability, add))
    mixup = MelMixUp(settings.mixup.alpha, settings.mixup.probability)
    mixes_kinds = settings.mixup.partner == "pseudo"

    def augment(
        images: np.ndarray,
        targets: np.ndarray,
        seed: int | Sequence[int],
        is_unlabelled: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        # A stream for each layer: switching one off doesn't change what the others draw.
        count = max(len(layers), _MIXUP_STREAM) + 1
        streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(count)]
        mixup_stream = streams.pop(_MIXUP_STREAM)
        for layer, rng in zip(layers, streams, strict=False):
            images = layer.augment_arrays(images, rng)
        kinds = is_unlabelled if mixes_kinds else None
        return mixup.augment_arrays(images, targets, mixup_stream, kinds)

    return augment


def _mel_layers(config: Config) -> list[Any]:
    settings, mel = config.augment, config.mel
    on = [name for name in ("pitch_shift", "volume", "background") if getattr(settings, name).probability]
    if mel.feature == "mfcc" and on:
        raise ConfigError(
            f'augment.{on[0]}.probability must be 0 with mel.feature = "mfcc". '
            f"Received: {getattr(settings, on[0]).probability:g}"
        )
    stretch, pitch, volume = settings.time_stretch, settings.pitch_shift, settings.volume
    times, frequencies, gain = settings.time_mask, settings.frequency_mask, settings.gain
    return [
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
