"""Parity of our mel, MFCC and resize with librosa and torch."""

import threading
from itertools import islice

import librosa
import numpy as np
import pytest
import torch

from keras_birds.audio.decode import decode_clip
from keras_birds.audio.mel import MelTransform, resize_bilinear, slaney_filterbank
from keras_birds.config import AudioConfig, MelConfig

AUDIO = AudioConfig()


def min_max(image):
    return (image - image.min()) / (image.max() - image.min())


def librosa_decibels(samples, audio, mel):
    power = librosa.feature.melspectrogram(
        y=samples,
        sr=audio.sample_rate_hz,
        n_fft=mel.n_fft,
        hop_length=mel.hop_samples,
        n_mels=mel.n_mels,
        fmin=mel.f_min_hz,
        fmax=mel.f_max_hz,
    )
    return librosa.power_to_db(power, ref=np.max, top_db=mel.top_db)


def synthetic_clips(n_samples):
    """White noise, a quiet chirp, a loud click in silence, a full-scale square wave, faint noise on DC."""
    rng = np.random.default_rng(0)
    t = np.arange(n_samples) / 32_000
    click = np.zeros(n_samples)
    click[n_samples // 2] = 1
    chirp = 1e-4 * np.sin(2 * np.pi * (500 + 1000 * t) * t)
    square = np.sign(np.sin(2 * np.pi * 440 * t))
    clips = [rng.normal(0, 0.1, n_samples), chirp, click, square, 0.3 + rng.normal(0, 1e-3, n_samples)]
    return np.stack(clips).astype(np.float32)


MELS = [
    MelConfig(),
    MelConfig(hop_samples=625, height=128, width=256),
    MelConfig(n_fft=2048, hop_samples=500, n_mels=64, f_min_hz=0, f_max_hz=16_000, top_db=60),
    MelConfig(n_fft=1001, hop_samples=333, n_mels=40, f_min_hz=1500, f_max_hz=9000),
]


@pytest.mark.parametrize("mel", MELS)
def test_filterbank_equals_librosa(mel):
    ours = slaney_filterbank(32_000, mel.n_fft, mel.n_mels, mel.f_min_hz, mel.f_max_hz)
    theirs = librosa.filters.mel(
        sr=32_000, n_fft=mel.n_fft, n_mels=mel.n_mels, fmin=mel.f_min_hz, fmax=mel.f_max_hz
    )
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-7)


@pytest.mark.parametrize("mel", MELS)
def test_mel_equals_librosa_on_synthetic_clips(mel):
    clips = synthetic_clips(AUDIO.clip_samples)
    transform = MelTransform(AUDIO, mel)
    images = transform.native(clips)
    assert images.shape == (len(clips), mel.n_mels, transform.num_frames)
    for image, clip in zip(images, clips, strict=True):
        expected = min_max(librosa_decibels(clip, AUDIO, mel))
        np.testing.assert_allclose(image, expected, atol=1e-4)
        assert image.min() == 0
        assert image.max() == pytest.approx(1, abs=1e-6)


def real_clips(animals_dir):
    files = sorted((animals_dir / "train_audio").glob("*/*.ogg"))[::22]
    return np.stack([decode_clip(file, AUDIO).samples for file in files])


def test_mel_equals_librosa_on_real_clips(animals_dir):
    clips = real_clips(animals_dir)
    for image, clip in zip(MelTransform(AUDIO, MelConfig()).native(clips), clips, strict=True):
        np.testing.assert_allclose(image, min_max(librosa_decibels(clip, AUDIO, MelConfig())), atol=1e-4)


@pytest.mark.parametrize("n_mfcc", [13, 40])
def test_mfcc_equals_librosa(animals_dir, n_mfcc):
    mel = MelConfig(feature="mfcc", n_mfcc=n_mfcc)
    clips = np.concatenate([real_clips(animals_dir)[::4], synthetic_clips(AUDIO.clip_samples)])
    images = MelTransform(AUDIO, mel).native(clips)
    assert images.shape[1] == n_mfcc
    for image, clip in zip(images, clips, strict=True):
        expected = min_max(librosa.feature.mfcc(S=librosa_decibels(clip, AUDIO, mel), n_mfcc=n_mfcc))
        np.testing.assert_allclose(image, expected, atol=1e-4)


def test_batch_mates_do_not_matter():
    clips = synthetic_clips(AUDIO.clip_samples)
    transform = MelTransform(AUDIO, MelConfig())
    together = transform.images(clips)
    alone = np.concatenate([transform.images(clip[None]) for clip in clips])
    np.testing.assert_array_equal(together, alone)
    backwards = transform.images(np.ascontiguousarray(clips[::-1]))[::-1]
    np.testing.assert_array_equal(together, backwards)


def test_images_of_any_clip():
    transform = MelTransform(AUDIO, MelConfig(height=96, width=200))
    clips = synthetic_clips(AUDIO.clip_samples)[:2]
    images = transform.images(clips)
    assert (images.shape, images.dtype) == ((2, 96, 200, 1), np.float32)
    assert transform.images(clips[:0]).shape == (0, 96, 200, 1)
    louder = transform.images(clips[:1] * 10)
    np.testing.assert_allclose(louder, images[:1], atol=1e-4)
    np.testing.assert_array_equal(transform.native(np.zeros_like(clips)), 0)
    clips[0, 1000] = np.nan  # for the decoder to refuse, never hidden
    assert np.isnan(transform.native(clips)[0]).all()


def test_decibels_of_a_long_recording_do_not_depend_on_the_chunks():
    samples = np.concatenate(list(islice(synthetic_clips(AUDIO.clip_samples), 4)))
    mel = MelConfig()
    db = MelTransform(AUDIO, mel).decibels(samples)
    power = librosa.feature.melspectrogram(
        y=samples, sr=32_000, n_fft=mel.n_fft, hop_length=mel.hop_samples, n_mels=128, fmin=50, fmax=14_000
    )
    assert db.shape[1] > 512
    # Below the floor of 80 dB single precision decides.
    loud = power > 1e-6
    np.testing.assert_allclose(db[loud], 10 * np.log10(power[loud]), atol=0.01)


def test_context_replaces_the_zeros_beyond_the_ends():
    samples = synthetic_clips(3 * AUDIO.clip_samples)[0]
    transform = MelTransform(AUDIO, MelConfig())
    hop, reach = transform.mel.hop_samples, transform.context_samples
    start = 100 * hop
    stop = start + AUDIO.clip_samples
    cut = transform.native(samples[None, start - reach : stop + reach], has_context=True)[0]
    whole = transform.decibels(samples)[:, 100 : 100 + transform.num_frames]
    assert cut.shape[1] == transform.num_frames
    np.testing.assert_allclose(cut, transform.normalise(whole), atol=1e-6)


def test_transform_is_safe_to_share_between_threads():
    clips = synthetic_clips(AUDIO.clip_samples)
    transform = MelTransform(AUDIO, MelConfig())
    expected = [transform.native(clip[None]) for clip in clips]
    found: dict[int, list[np.ndarray]] = {}

    def work(i):
        found[i] = [transform.native(clips[i][None]) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(clips))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, image in enumerate(expected):
        for other in found[i]:
            np.testing.assert_array_equal(other, image)


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ((128, 313), (256, 256)),
        ((128, 313), (128, 256)),
        ((128, 256), (128, 256)),
        ((40, 313), (256, 313)),
        ((1, 1), (4, 3)),
        ((300, 500), (7, 11)),
    ],
)
def test_resize_equals_torch_bilinear(shape, target):
    images = np.random.default_rng(1).random((3, *shape), np.float32)
    # In float32 torch itself misplaces samples by 3e-5 at 500 columns.
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(images).double()[:, None], size=target, mode="bilinear", align_corners=False
    )[:, 0].numpy()
    ours = resize_bilinear(images, *target)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, atol=1e-5)
