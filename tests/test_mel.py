"""Parity of our mel, MFCC and resize with librosa and torch."""

from concurrent.futures import ThreadPoolExecutor

import librosa
import numpy as np
import pytest
import torch
from sounds import noise

from keras_birds.audio.mel import MelTransform, resize_bilinear, slaney_filterbank
from keras_birds.config import AudioConfig, MelConfig

AUDIO = AudioConfig()


N = AUDIO.clip_samples
CLICK = np.zeros(N)
CLICK[N // 2] = 1
T = np.arange(N) / 32_000
# Noise, a quiet chirp, a loud click in silence, a full-scale square wave, faint noise on DC.
CHIRP, SQUARE = 1e-4 * np.sin(2 * np.pi * (500 + 1000 * T) * T), np.sign(np.sin(2 * np.pi * 440 * T))
CLIPS = np.stack([noise(5), CHIRP, CLICK, SQUARE, 0.3 + noise(5) / 100]).astype(np.float32)
MELS = [
    MelConfig(),
    MelConfig(hop_samples=625, height=128, width=256),
    MelConfig(n_fft=2048, hop_samples=500, n_mels=64, f_min_hz=0, f_max_hz=16_000, top_db=60),
    MelConfig(n_fft=1001, hop_samples=333, n_mels=40, f_min_hz=1500, f_max_hz=9000),
    *(MelConfig(feature="mfcc", n_mfcc=n) for n in (13, 40)),
]


@pytest.mark.parametrize("mel", MELS)
def test_filterbank_mel_and_mfcc_equal_librosas(mel):
    ours = slaney_filterbank(32_000, mel.n_fft, mel.n_mels, mel.f_min_hz, mel.f_max_hz)
    bands = {"n_fft": mel.n_fft, "n_mels": mel.n_mels, "fmin": mel.f_min_hz, "fmax": mel.f_max_hz}
    theirs = librosa.filters.mel(sr=32_000, **bands)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-7)
    transform = MelTransform(AUDIO, mel)
    images = transform.native(CLIPS)
    assert images.shape == (len(CLIPS), transform.num_rows, transform.num_frames)
    for image, clip in zip(images, CLIPS, strict=True):
        power = librosa.feature.melspectrogram(y=clip, sr=32_000, hop_length=mel.hop_samples, **bands)
        expected = librosa.power_to_db(power, ref=np.max, top_db=mel.top_db)
        loud = power > 1e-6  # below the floor of 80 dB single precision decides
        decibels = transform.decibels(clip)
        np.testing.assert_allclose(decibels[loud], 10 * np.log10(power[loud]), atol=0.01)
        assert decibels.min() >= -100.001
        if mel.feature == "mfcc":
            expected = librosa.feature.mfcc(S=expected, n_mfcc=mel.n_mfcc)
        expected = (expected - expected.min()) / np.ptp(expected)
        np.testing.assert_allclose(image, expected, atol=1e-4)
        assert (image.min(), image.max()) == (0, pytest.approx(1, abs=1e-6))


def test_images_of_any_clip_whatever_its_batch_mates_and_other_threads():
    transform = MelTransform(AUDIO, MelConfig(height=96, width=200))
    images = transform.images(CLIPS)
    assert (images.shape, images.dtype) == ((5, 96, 200, 1), np.float32)
    assert transform.images(CLIPS[:0]).shape == (0, 96, 200, 1)
    np.testing.assert_array_equal(transform.images(np.ascontiguousarray(CLIPS[::-1])), images[::-1])
    with ThreadPoolExecutor(len(CLIPS)) as pool:
        for _ in range(5):
            alone = list(pool.map(lambda clip: transform.images(clip[None])[0], CLIPS))
            np.testing.assert_array_equal(alone, images)
    np.testing.assert_allclose(transform.images(CLIPS[:1] * 10), images[:1], atol=1e-4)
    np.testing.assert_array_equal(transform.native(np.zeros_like(CLIPS)), 0)
    broken = CLIPS[:2].copy()
    broken[0, 1000] = np.nan  # for the decoder to refuse, never hidden
    assert np.isnan(transform.native(broken)[0]).all()


def test_context_replaces_the_zeros_beyond_the_ends():
    samples = noise(15)
    transform = MelTransform(AUDIO, MelConfig())
    hop, reach = transform.mel.hop_samples, transform.context_samples
    part = samples[None, 100 * hop - reach : 100 * hop + AUDIO.clip_samples + reach]
    cut = transform.native(part, has_context=True)[0]
    whole = transform.decibels(samples)[:, 100 : 100 + transform.num_frames]
    np.testing.assert_allclose(cut, transform.normalise(whole), atol=1e-6)


SIZES = [(128, 313, 256, 256), (128, 256, 128, 256), (40, 313, 256, 313), (1, 1, 4, 3), (300, 500, 7, 11)]


@pytest.mark.parametrize("sizes", SIZES)
def test_resize_equals_torch_bilinear(sizes):
    shape, target = sizes[:2], sizes[2:]
    images = np.random.default_rng(1).random((3, *shape), np.float32)
    # In float32 torch itself misplaces samples by 3e-5 at 500 columns.
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(images).double()[:, None], size=target, mode="bilinear", align_corners=False
    )[:, 0].numpy()
    ours = resize_bilinear(images, *target)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, atol=1e-5)
