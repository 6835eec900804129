from functools import partial

import librosa
import numpy as np
import pytest
from layer_test import as_array

from keras_birds.audio.mel import MelTransform
from keras_birds.config import Config
from keras_birds.errors import ConfigError
from keras_birds.nn.augment import BackgroundMix, MelMixUp, build_augment, mix_power
from keras_birds.nn.clip_augmentation import PitchShift, SpecAugment, TimeShift, TimeStretch, Volume

NO_MASKS = (0.0, (1, 3), (5, 20))
NEVER = {"time_masks": NO_MASKS, "frequency_masks": NO_MASKS, "gain_probability": 0.0}


def _images(batch=4, height=32, width=32, seed=0):
    return np.random.default_rng(seed).random((batch, height, width, 1), np.float32)


def _labels(batch=4, seed=0):
    return np.random.default_rng(seed).choice([0.0, 1.0], (batch, 5)).astype("float32")


def _apply(layer, images, seed=0):
    return layer.augment_arrays(images, np.random.default_rng(seed))


@pytest.mark.parametrize("cls", [SpecAugment, TimeShift, TimeStretch, PitchShift, Volume])
def test_a_share_of_clips_is_changed_and_only_while_training(cls):
    extra = NEVER | {"gain_probability": 1.0} if cls is SpecAugment else {}
    images = _images(300, 8, 8)
    for probability, low, high in ((0.0, 0, 0), (0.3, 60, 120), (1.0, 300, 300)):
        layer = cls(probability=probability, seed=7, **extra)
        np.testing.assert_array_equal(as_array(layer(images, training=False)), images)
        for changed in (_apply(layer, images), as_array(layer(images))):
            # A shift by no column at all, one in eight, changes nothing.
            least = low * 0.8 if cls is TimeShift else low
            assert least <= (changed != images).any(axis=(1, 2, 3)).sum() <= high
            assert 0 <= changed.min() <= changed.max() <= 1


@pytest.mark.parametrize("axis", [1, 2])
def test_masks_have_the_set_count_and_size(axis):
    settings = NEVER | {"frequency_masks" if axis == 1 else "time_masks": (1.0, (1, 3), (5, 20))}
    shape = [400, 8, 8, 1]
    shape[axis] = 256
    masked = _apply(SpecAugment(1.0, **settings), np.ones(shape, np.float32))[..., 0]
    lines = masked.max(axis=3 - axis)
    np.testing.assert_array_equal(lines, masked.min(axis=3 - axis))
    edges = np.diff(np.pad(1 - lines, ((0, 0), (1, 1))))
    bands = (edges == 1).sum(axis=1)
    assert set(bands) == {1, 2, 3}
    assert 100 < (bands == 1).sum() < 200
    # Three bands apart: their lengths are the drawn sizes.
    starts, ends = (np.nonzero(edges[bands == 3] == x)[1] for x in (1, -1))
    assert set(ends - starts) == set(range(5, 21))


def test_the_outer_probability_gates_masks_and_gain_together_and_levels_change_as_set():
    images = np.full((2000, 32, 32, 1), 0.5, np.float32)
    changed = (_apply(SpecAugment(), images) != images).any(axis=(1, 2, 3)).mean()
    # Half of the clips, of which all but (1/2)^3 get something.
    assert changed == pytest.approx(0.5 * 0.875, abs=0.03)

    images = np.tile(np.float32([0.2, 0.6]).reshape(1, 2, 1, 1), (500, 1, 1, 1))
    low, high = _apply(SpecAugment(1.0, **NEVER | {"gain_probability": 1.0}), images)[:, :, 0, 0].T
    gain = (high - low) / 0.4
    bias = low - 0.2 * gain
    found = gain.min(), gain.max(), bias.min(), bias.max()
    assert found == pytest.approx((0.8, 1.2, -0.1, 0.1), abs=0.005)

    layer = Volume((6.0, 6.0), top_db=80.0, probability=1.0)
    images = np.array([0.0, 0.5, 0.99], np.float32).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(_apply(layer, images).ravel(), [0.075, 0.575, 1.0], atol=1e-6)


def test_a_faster_clip_is_repeated_to_fill_the_image_and_a_shifted_one_goes_round():
    """Before and after come the end and the start of the clip, not silence."""
    ramp = np.broadcast_to(np.arange(64, dtype=np.float32)[None, None, :, None] / 63, (1, 2, 64, 1))
    fast, slow = (_apply(TimeStretch((x, x), 1.0), ramp)[0, 1, :, 0] for x in (2.0, 0.5))
    places = (np.arange(64) * 2 - 31.5) % 64
    # Between the last column and the first it is interpolated too.
    expected = np.where(places > 63, 63 * (64 - places), places) / 63
    np.testing.assert_allclose(fast, expected, atol=1e-5)
    np.testing.assert_allclose(slow, np.linspace(15.75, 47.25, 64) / 63, atol=1e-5)
    # A shift rotates by every number of columns.
    image = np.arange(8, dtype=np.float32)[:, None] / 8
    shifted = 8 * _apply(TimeShift(probability=1.0), np.broadcast_to(image, (400, 4, 8, 1)))[..., 0]
    firsts = shifted[:, 0, 0].astype(int)
    assert (shifted == (firsts[:, None, None] + np.arange(8)) % 8).all()
    assert np.bincount(firsts, minlength=8).min() > 25


@pytest.mark.parametrize("semitones", [-12.0, -7.0, 0.0, 1.0, 12.0])
def test_pitch_shift_moves_frequencies_by_the_interval_and_fills_with_the_floor(semitones):
    layer = PitchShift((semitones, semitones), probability=1.0)
    hz = layer.row_hz(256)
    found_hz = 14_000 * _apply(layer, np.tile(hz[None, :, None, None] / 14_000, (1, 1, 4, 1)))[0, :, :, 0]
    source_hz = hz * 2 ** (-semitones / 12)
    inside, beyond = (source_hz > hz[0]) & (source_hz < hz[-1]), (source_hz < 50) | (source_hz > 14_000)
    assert beyond.any() == (abs(semitones) > 1)
    np.testing.assert_array_equal(found_hz[beyond], 0)
    np.testing.assert_allclose(found_hz[inside], np.tile(source_hz[inside, None], 4), rtol=2e-3)


def test_rows_lie_at_the_bands_of_the_mel_filters_and_reach_half_a_band_beyond_the_outermost():
    bands_hz = librosa.mel_frequencies(130, fmin=50, fmax=14_000)[1:-1]
    np.testing.assert_allclose(PitchShift().row_hz(128), bands_hz, rtol=1e-4)
    # Eight bands a semitone apart.
    ones, settings = np.ones((1, 8, 1, 1), np.float32), (8, 1000, 1000 * 2 ** (9 / 12), 1.0)
    rows = {x: _apply(PitchShift((x, x), *settings), ones).ravel().tolist() for x in (0.4, -0.4, 0.6, -0.6)}
    assert rows == {0.4: [1] * 8, -0.4: [1] * 8, 0.6: [0] + [1] * 7, -0.6: [1] * 7 + [0]}


def test_mixup_probability_gates_whole_batches():
    images, labels = _images(8, 2, 2), np.eye(8, dtype="float32")
    layer, rng = MelMixUp(0.5, probability=0.25, seed=2), np.random.default_rng(0)
    mixed = np.mean([layer.augment_arrays(images, labels, rng)[0] is not images for _ in range(400)])
    assert mixed == pytest.approx(0.25, abs=0.06)
    pair = {"images": images, "labels": labels}
    on_backend = [as_array(layer(pair)["labels"]) for _ in range(60)]
    unmixed = np.mean([np.array_equal(x, labels) for x in on_backend])
    assert unmixed == pytest.approx(0.75, abs=0.17)
    for layer, training in ((MelMixUp(0.5, probability=0.0), True), (MelMixUp(0.5), False)):
        out = layer(pair, training=training)
        np.testing.assert_equal({k: as_array(x) for k, x in out.items()}, pair)


def _augment(probability=0.5, mixup=0.5, **others):
    """What the settings give, with the probabilities of the gate, of mixup and of others."""
    each = {name: {"probability": x} for name, x in {"mixup": mixup, **others}.items()}
    return build_augment(Config.parse({"augment": {"probability": probability, **each}}))


def test_build_augment_repeats_with_the_seed_and_leaves_its_arguments_alone():
    augment = _augment(time_stretch=0.5, pitch_shift=0.5, volume=0.5)
    images, labels = _images(8, 64, 64), _labels(8)
    first, again, other = (augment(images, labels, seed) for seed in ((42, 0, 1), (42, 0, 1), (42, 1, 1)))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == np.float32
        assert not np.array_equal(a, c)
    np.testing.assert_equal((images, labels), (_images(8, 64, 64), _labels(8)))


def test_background_is_mixed_as_sound_is_far_below_it_changes_nothing_and_silence_stays_silence():
    """The mel image of a sum of two signals that don't overlap in frequency, from the images of either."""
    config = Config.parse({"mel": {"height": 128, "width": 313}})
    transform = MelTransform(config.audio, config.mel)
    t = np.arange(config.audio.clip_samples) / config.audio.sample_rate_hz
    clip, noise = (
        np.where((t > start) & (t < start + 2), np.sin(np.pi * (t - start) / 2) ** 2, 0)
        * np.sin(2 * np.pi * hz * t)
        for hz, start in ((1000.0, 0.5), (6000.0, 1.5))
    )
    images = transform.images(np.stack([clip, noise]).astype(np.float32))
    level_db = [transform.decibels(x.astype(np.float32)).max() for x in (clip, noise)]
    for snr_db in (0.0, 12.0):
        quieter = noise * 10 ** ((level_db[0] - level_db[1] - snr_db) / 20)
        wanted = transform.images((clip + quieter)[None].astype(np.float32))[0]
        mixed = mix_power(images[:1], images[1:], np.array([snr_db]), config.mel.top_db)[0]
        assert np.abs(mixed - images[0]).max() > 0.5
        assert np.abs(mixed - wanted).max() < 0.02
    images = _images(2, 16, 16)
    images[:, 0, 0], images[:, 0, 1] = 0, 1
    unchanged = mix_power(images, _images(2, 16, 16, seed=1), np.array([300.0, 300.0]), 80.0)
    np.testing.assert_allclose(unchanged, images, atol=1e-6)
    silence = np.zeros((1, 16, 16, 1), np.float32)
    np.testing.assert_array_equal(mix_power(silence, silence, np.array([0.0]), 80.0), silence)


def test_backgrounds_are_drawn_for_a_share_of_clips():
    backgrounds, asked = _images(5, 16, 16, seed=9), []

    def images_of(numbers):
        asked.extend(numbers.tolist())
        return backgrounds[numbers]

    mix, images = (
        BackgroundMix(images_of, 5, (0.0, 10.0), 0.3, partial(mix_power, top_db=80.0)),
        _images(300, 16, 16),
    )
    changed = _apply(mix, images)
    assert 60 <= (changed != images).any(axis=(1, 2, 3)).sum() == len(asked) <= 120
    assert set(asked) == set(range(5))
    assert changed.dtype == np.float32
    assert 0 <= changed.min() <= changed.max() <= 1


def test_build_augment_follows_the_settings_and_no_other_changes_what_one_draws():
    images, labels = _images(), _labels()
    for name in (None, "time_shift", "time_stretch", "pitch_shift", "volume", "probability"):
        settings = {"probability": 0.0, "mixup": 0.0} | ({name: 1.0} if name else {})
        found, kept_labels = _augment(**settings)(images, labels, 1)
        np.testing.assert_array_equal(kept_labels, labels)
        changed = (found != images).any(axis=(1, 2, 3))
        assert changed.any() if name == "probability" else changed.all() == changed.any() == bool(name), name
    images, labels = _images(8, 64, 64), np.eye(8, dtype="float32")
    plain = _augment(mixup=1.0)(images, labels, 3)
    for others in ({"time_shift": 1.0}, {"probability": 0.0}, {"volume": 1.0}):
        changed = _augment(mixup=1.0, **others)(images, labels, 3)
        np.testing.assert_array_equal(plain[1], changed[1])
        assert not np.array_equal(plain[0], changed[0])


@pytest.mark.parametrize("name", ["pitch_shift", "volume", "background"])
def test_what_has_no_meaning_for_mfcc_is_refused(name):
    augment, data = {name: {"probability": 0.5}}, {"background": "noise"}
    config = Config.parse({"mel": {"feature": "mfcc"}, "data": data, "augment": augment})
    with pytest.raises(ConfigError, match=rf"augment\.{name}\.probability must be 0.*Received: 0\.5"):
        build_augment(config)
