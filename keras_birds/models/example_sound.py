"""Sounds that models are compared on."""

import numpy as np

from keras_birds.audio.mel import MelTransform
from keras_birds.config import AudioConfig, MelConfig
from keras_birds.models.metadata import ModelMetadata


def example_clips(audio: AudioConfig, mel: MelConfig) -> np.ndarray:
    """Noise, a sweep over the model's frequencies, and it in pulses over noise: float32 `[3, clip_samples]`."""
    noise = np.random.default_rng(0).normal(0, 0.1, audio.clip_samples)
    t = np.arange(audio.clip_samples) / audio.sample_rate_hz
    rise_hz_per_s = (mel.f_max_hz - mel.f_min_hz) / audio.clip_s
    sweep = np.sin(2 * np.pi * (mel.f_min_hz + rise_hz_per_s * t / 2) * t)
    pulses = sweep * (np.sin(2 * np.pi * 4 * t) > 0)
    return np.stack([noise, sweep + 0.1 * noise, pulses + noise]).astype(np.float32)


def example_inputs(metadata: ModelMetadata, input_kind: str) -> np.ndarray:
    """`example_clips` as a model takes them: images float32 `[3, height, width, 1]` in [0, 1], or these as they are.

    Images that are no sound's tell nothing: of uniform noise a network's logits are hundreds, most of it rounding.
    """
    audio, mel = metadata.audio, metadata.mel
    clips = example_clips(audio, mel)
    return MelTransform(audio, mel).images(clips) if input_kind == "mel" else clips
