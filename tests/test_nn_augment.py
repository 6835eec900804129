import numpy as np
import pytest
from keras import ops
from layer_test import as_array, run_layer_test

from keras_birds.audio.mel import MelTransform
from keras_birds.config import Config
from keras_birds.errors import ConfigError
from keras_birds.nn.augment import build_augment
from keras_birds.nn.clip_augmentation import PitchShift, SpecAugment, TimeShift, TimeStretch, Volume
from keras_birds.nn.mixing import BackgroundMix, MelMixUp, mix_power

LAYERS = (SpecAugment, TimeShift, TimeStretch, PitchShift, Volume)
ALWAYS = {
    "probability": 1.0,
    "time_masks": (1.0, (1, 3), (5, 20)),
    "frequency_masks": (1.0, (1, 3), (5, 20)),
    "gain_probability": 1.0,
}
NO_MASKS = (0.0, (1, 3), (5, 20))
NEVER = {"time_masks": NO_MASKS, "frequency_masks": NO_MASKS, "gain_probability": 0.0}


def _images(batch=4, height=32, width=32, seed=0):
    return np.random.default_rng(seed).random((batch, height, width, 1), np.float32)


def _labels(batch=4, seed=0):
    return np.random.default_rng(seed).choice([0.0, 1.0], (batch, 5)).astype("float32")


def _apply(layer, images, seed=0):
    return layer.augment_arrays(images, np.random.default_rng(seed))


def _bands(mask):
    """Lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return edges[1::2] - edges[::2]


@pytest.mark.parametrize("cls", LAYERS)
def test_passes_the_shared_test(cls, tmp_path):
    run_layer_test(cls, {"probability": 1.0, "seed": 3}, (4, 32, 32, 1), (4, 32, 32, 1), tmp_path, 0, 0)


def test_mixup_passes_the_shared_test(tmp_path):
    shapes = {"images": (4, 8, 8, 1), "labels": (4, 5)}
    run_layer_test(MelMixUp, {"alpha": 0.5, "probability": 0.9, "seed": 3}, shapes, shapes, tmp_path, 0, 0)


@pytest.mark.parametrize("cls", LAYERS)
def test_changes_images_only_while_training(cls):
    layer, images = (
        cls(probability=1.0, seed=1, **(NEVER | {"gain_probability": 1.0} if cls is SpecAugment else {})),
        _images(),
    )
    np.testing.assert_array_equal(as_array(layer(images, training=False)), images)
    for changed in (as_array(layer(images, training=True)), _apply(layer, images)):
        assert changed.shape == images.shape
        for before, after in zip(images, changed, strict=True):
            assert not np.array_equal(before, after)
        assert changed.min() >= 0
        assert changed.max() <= 1


@pytest.mark.parametrize("cls", LAYERS)
def test_probability_is_a_share_of_clips(cls):
    extra = NEVER | {"gain_probability": 1.0} if cls is SpecAugment else {}
    images = _images(300, 8, 8)
    for probability, low, high in ((0.0, 0, 0), (0.3, 60, 120)):
        layer = cls(probability=probability, seed=7, **extra)
        for changed in (_apply(layer, images), as_array(layer(images))):
            # A shift by no column at all, one in eight, changes nothing.
            least = low * 7 / 8 if cls is TimeShift else low
            count = sum(not np.array_equal(a, b) for a, b in zip(images, changed, strict=True))
            assert least <= count <= high


@pytest.mark.parametrize(("axis", "name"), [(0, "frequency_masks"), (1, "time_masks")])
def test_masks_have_the_set_count_and_size(axis, name):
    settings = NEVER | {name: (1.0, (1, 3), (5, 20))}
    masked = _apply(SpecAugment(1.0, **settings), np.ones((400, 64, 256 if axis else 64, 1), np.float32))
    num_bands, covered = [], []
    for image in masked[..., 0]:
        lines = image.max(axis=1 - axis) == 0
        assert image[~lines].all() if axis == 0 else image[:, ~lines].all()
        bands = _bands(lines)
        assert 1 <= len(bands) <= 3
        assert 5 <= lines.sum() <= 60
        num_bands.append(len(bands))
        covered += list(bands) if len(bands) == 3 else []
    assert set(num_bands) == {1, 2, 3}
    if axis:  # Three bands apart: their lengths are the drawn sizes.
        assert min(covered) == 5
        assert max(covered) == 20


def test_the_outer_probability_gates_masks_and_gain_together():
    images = np.full((2000, 32, 32, 1), 0.5, np.float32)
    changed = (_apply(SpecAugment(), images) != images).any(axis=(1, 2, 3)).mean()
    # Half of the clips, of which all but (1/2)^3 get something.
    assert changed == pytest.approx(0.5 * 0.875, abs=0.03)


def test_gain_and_bias_stay_in_their_ranges():
    settings = NEVER | {"gain_probability": 1.0}
    images = np.empty((500, 2, 1, 1), np.float32)
    images[:, 0], images[:, 1] = 0.2, 0.6
    low, high = _apply(SpecAugment(1.0, **settings), images)[:, :, 0, 0].T
    gain = (high - low) / 0.4
    bias = low - 0.2 * gain
    assert gain.min() == pytest.approx(0.8, abs=0.01)
    assert gain.max() == pytest.approx(1.2, abs=0.01)
    assert bias.min() == pytest.approx(-0.1, abs=0.005)
    assert bias.max() == pytest.approx(0.1, abs=0.005)


def test_volume_moves_by_its_share_of_top_db():
    layer = Volume((6.0, 6.0), top_db=80.0, probability=1.0)
    images = np.array([0.0, 0.5, 0.99], np.float32).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(_apply(layer, images).ravel(), [0.075, 0.575, 1.0], atol=1e-6)


def test_neutral_ranges_leave_images_as_they_are():
    images = _images(3, 48, 32)
    np.testing.assert_allclose(_apply(TimeStretch((1.0, 1.0), 1.0), images), images, atol=1e-5)
    np.testing.assert_allclose(_apply(PitchShift((0.0, 0.0), probability=1.0), images), images, atol=1e-3)
    np.testing.assert_array_equal(_apply(Volume((0.0, 0.0), probability=1.0), images), images)


def test_a_faster_clip_is_repeated_to_fill_the_image():
    ramp = np.broadcast_to(np.arange(64, dtype=np.float32)[None, None, :, None] / 63, (1, 2, 64, 1))
    fast = _apply(TimeStretch((2.0, 2.0), 1.0), ramp)[0, 0, :, 0]
    middle = fast[16:48]
    np.testing.assert_allclose(np.diff(middle), 2 / 63, atol=1e-5)
    # Before and after come the end and the start of the clip, not silence.
    np.testing.assert_allclose(fast[17:32], fast[49:64], atol=1e-5)
    slow = _apply(TimeStretch((0.5, 0.5), 1.0), ramp)[0, 0, :, 0]
    np.testing.assert_allclose(slow, np.linspace(15.75, 47.25, 64) / 63, atol=1e-5)


CONFIG = Config.parse({"audio": {"sample_rate_hz": 32_000, "clip_s": 2.0}})
TRANSFORM = MelTransform(CONFIG.audio, CONFIG.mel)


def _image(samples):
    n = CONFIG.audio.clip_samples
    start = max(0, (len(samples) - n) // 2)
    clip = samples[start : start + n]
    return TRANSFORM.images(np.pad(clip, (0, n - len(clip)))[None].astype(np.float32))


@pytest.mark.parametrize(("semitones", "frequency_hz"), [(-7, 2000.0), (1, 500.0), (5, 6000.0)])
def test_pitch_shift_ends_where_librosas_ends(semitones, frequency_hz):
    import librosa

    t = np.arange(CONFIG.audio.clip_samples) / 32_000
    rng = np.random.default_rng(0)
    tone = 0.5 * np.sin(2 * np.pi * frequency_hz * t) + rng.normal(0, 1e-3, len(t))
    shifted = librosa.effects.pitch_shift(tone, sr=32_000, n_steps=semitones)
    layer = PitchShift((semitones, semitones), probability=1.0)
    expected, actual = _image(shifted), _apply(layer, _image(tone))
    rows = [_ridge(image[0, :, 100:156, 0].mean(axis=1)) for image in (expected, actual)]
    # 256 rows show 128 bands: two rows are one band.
    assert abs(rows[0] - rows[1]) <= 2
    assert abs(rows[1] - _ridge(_image(tone)[0, :, 100:156, 0].mean(axis=1))) >= 1


def _ridge(profile):
    """Centre of what lies within a tenth of the top: a tone that falls between two bands has no single peak."""
    weight = np.maximum(0, profile - profile.max() + 0.1)
    return float((weight * np.arange(len(profile))).sum() / weight.sum())


def test_rows_lie_at_the_bands_of_the_mel_filters():
    import librosa

    bands_hz = librosa.mel_frequencies(130, fmin=50, fmax=14_000)[1:-1]
    np.testing.assert_allclose(PitchShift().row_hz(128), bands_hz, rtol=1e-4)


def test_pitch_shift_fills_with_the_floor():
    up = _apply(PitchShift((12.0, 12.0), probability=1.0), np.ones((1, 256, 4, 1), np.float32))[0, :, 0, 0]
    down = _apply(PitchShift((-12.0, -12.0), probability=1.0), np.ones((1, 256, 4, 1), np.float32))[
        0, :, 0, 0
    ]
    hz = PitchShift().row_hz(256)
    np.testing.assert_array_equal(up[hz < 95], 0)
    np.testing.assert_array_equal(up[hz > 130], 1)
    np.testing.assert_array_equal(down[hz > 7200], 0)
    np.testing.assert_array_equal(down[hz < 6800], 1)


def test_a_time_shift_rotates_by_every_number_of_columns():
    images = np.broadcast_to(np.arange(8, dtype=np.float32)[:, None] / 8, (400, 4, 8, 1))
    shifted = _apply(TimeShift(probability=1.0), images)
    firsts = []
    for image in shifted:
        first = round(float(image[0, 0, 0] * 8))
        np.testing.assert_array_equal(image, np.roll(images[0], -first, axis=1))
        firsts.append(first)
    assert np.bincount(firsts, minlength=8).min() > 25


@pytest.mark.parametrize("rate", [0.8, 1.25])
def test_time_stretch_ends_where_librosas_ends(rate):
    import librosa

    n = CONFIG.audio.clip_samples
    t = np.arange(n) / 32_000
    rng = np.random.default_rng(0)
    # Bursts around 0.7 s and 1.5 s.
    envelope = np.exp(-(((t - 0.7) / 0.03) ** 2)) + np.exp(-(((t - 1.5) / 0.03) ** 2))
    sound = 0.5 * np.sin(2 * np.pi * 3000 * t) * envelope + rng.normal(0, 1e-4, n)
    stretched = librosa.effects.time_stretch(sound, rate=rate)
    actual = _apply(TimeStretch((rate, rate), 1.0), _image(sound))[0, :, :, 0]
    if rate < 1:
        expected = _image(stretched)[0, :, :, 0]
    else:  # The clip itself lies in the middle of the image.
        before = (n - len(stretched)) // 2
        expected = _image(np.pad(stretched, (before, n - len(stretched) - before)))[0, :, :, 0]
    row = _image(sound)[0, :, :, 0].mean(axis=1).argmax()
    for centre_s in (0.7, 1.5):
        column = round((1 + (centre_s - 1) / rate) / 2 * 256)
        near = slice(column - 20, column + 20)
        found = _ridge(actual[row, near])
        assert found == pytest.approx((1 + (centre_s - 1) / rate) / 2 * 256 - 0.5 - near.start, abs=1)
        # A frame of librosa's phase vocoder is two columns wide.
        assert found == pytest.approx(_ridge(expected[row, near]), abs=2.5)


def test_mixup_blends_images_and_labels_with_one_weight_a_clip():
    images, labels = _images(8, 4, 4), np.eye(8, dtype="float32")
    layer = MelMixUp(0.5, seed=2)
    tensors = layer({"images": ops.convert_to_tensor(images), "labels": ops.convert_to_tensor(labels)})
    mixed = as_array(tensors["images"]), as_array(tensors["labels"])
    arrays = layer.augment_arrays(images, labels, np.random.default_rng(0))
    for got_images, got_labels in (mixed, arrays):
        np.testing.assert_allclose(got_labels.sum(axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(got_images, np.tensordot(got_labels, images, 1), atol=1e-5)
        assert (np.count_nonzero(got_labels, axis=1) == 2).sum() >= 4
        weights = got_labels.diagonal()
        assert len(np.unique(weights.round(4))) >= 4


def test_mixup_keeps_masked_labels():
    images, labels = _images(6), _labels(6)
    labels[:, 0] = [-1, 0, 1, 0, 1, 0]
    labels[2, 3] = -1
    layer, order = MelMixUp(0.5, seed=2), np.array([1, 2, 0, 4, 5, 3])
    transformation = {
        "mix_weight": ops.convert_to_tensor(np.full(6, 0.75, "float32")),
        "permutation_order": ops.convert_to_tensor(order),
    }
    got = as_array(layer.transform_labels(ops.convert_to_tensor(labels), transformation))
    masked = (labels < 0) | (labels[order] < 0)
    np.testing.assert_allclose(got, np.where(masked, -1, 0.75 * labels + 0.25 * labels[order]))
    drawn = [layer.augment_arrays(images, labels, np.random.default_rng(i))[1] for i in range(10)]
    for mixed in drawn:
        assert ((mixed == -1) | ((mixed >= 0) & (mixed <= 1))).all()
        assert (mixed[labels == -1] == -1).all()
    assert max((mixed[:, 0] == -1).sum() for mixed in drawn) == 2
    assert set(np.unique(labels)) == {-1.0, 0.0, 1.0}


def test_mixup_probability_gates_whole_batches():
    images, labels = _images(8, 2, 2), np.eye(8, dtype="float32")
    layer, rng = MelMixUp(0.5, probability=0.25, seed=2), np.random.default_rng(0)
    mixed = np.mean([layer.augment_arrays(images, labels, rng)[0] is not images for _ in range(400)])
    assert mixed == pytest.approx(0.25, abs=0.06)
    on_backend = [as_array(layer({"images": images, "labels": labels})["labels"]) for _ in range(60)]
    unmixed = np.mean([np.array_equal(x, labels) for x in on_backend])
    assert unmixed == pytest.approx(0.75, abs=0.17)
    never = MelMixUp(0.5, probability=0.0)
    np.testing.assert_array_equal(as_array(never({"images": images, "labels": labels})["images"]), images)


def test_mixup_leaves_validation_alone():
    images, labels = _images(), _labels()
    out = MelMixUp(0.5)({"images": images, "labels": labels}, training=False)
    np.testing.assert_array_equal(as_array(out["images"]), images)
    np.testing.assert_array_equal(as_array(out["labels"]), labels)


def _all_on():
    config = Config()
    on = {
        name: getattr(config.augment, name).model_copy(update={"probability": 0.5})
        for name in ("time_stretch", "pitch_shift", "volume")
    }
    return config.model_copy(update={"augment": config.augment.model_copy(update=on)})


def test_build_augment_repeats_with_the_seed_and_leaves_its_arguments_alone():
    augment, images, labels = build_augment(_all_on()), _images(8, 64, 64), _labels(8)
    kept_images, kept_labels = images.copy(), labels.copy()
    first, again, other = (augment(images, labels, seed) for seed in ((42, 0, 1), (42, 0, 1), (42, 1, 1)))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == np.float32
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[1], other[1])
    np.testing.assert_array_equal(images, kept_images)
    np.testing.assert_array_equal(labels, kept_labels)


def test_background_is_mixed_as_sound_is():
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


def test_backgrounds_are_drawn_for_a_share_of_clips_and_labels_stay():
    backgrounds, asked = _images(5, 16, 16, seed=9), []

    def images_of(numbers):
        asked.extend(numbers.tolist())
        return backgrounds[numbers]

    mix = BackgroundMix(images_of, 5, (0.0, 10.0), 80.0, 0.3)
    images = _images(300, 16, 16)
    changed = _apply(mix, images)
    count = sum(not np.array_equal(a, b) for a, b in zip(images, changed, strict=True))
    assert 60 <= count <= 120
    assert count == len(asked)
    assert set(asked) == set(range(5))
    assert changed.dtype == np.float32
    assert 0 <= changed.min() <= changed.max() <= 1
    np.testing.assert_array_equal(changed, _apply(mix, images))


def test_a_background_far_below_changes_nothing_and_silence_stays_silence():
    images = _images(2, 16, 16)
    images[:, 0, 0], images[:, 0, 1] = 0, 1
    unchanged = mix_power(images, _images(2, 16, 16, seed=1), np.array([300.0, 300.0]), 80.0)
    np.testing.assert_allclose(unchanged, images, atol=1e-6)
    silence = np.zeros((1, 16, 16, 1), np.float32)
    np.testing.assert_array_equal(mix_power(silence, silence, np.array([0.0]), 80.0), silence)
    with pytest.raises(ValueError, match="number=0"):
        BackgroundMix(lambda numbers: images, 0, (0.0, 1.0), 80.0, 0.5)


def test_later_layers_leave_the_draws_of_the_published_recipe_as_they_are():
    config, images, labels = Config(), _images(8, 64, 64), np.eye(8, dtype="float32")
    shift = config.augment.time_shift.model_copy(update={"probability": 1.0})
    with_shift = config.model_copy(
        update={"augment": config.augment.model_copy(update={"time_shift": shift})}
    )
    plain, shifted = build_augment(config)(images, labels, 3), build_augment(with_shift)(images, labels, 3)
    np.testing.assert_array_equal(plain[1], shifted[1])
    assert not np.array_equal(plain[0], shifted[0])


def test_switching_one_off_does_not_change_the_others():
    config = Config()
    off = config.augment.model_copy(update={"probability": 0.0})
    labels = np.eye(8, dtype="float32")
    with_masks = build_augment(config)(_images(8), labels, 3)[1]
    without = build_augment(config.model_copy(update={"augment": off}))(_images(8), labels, 3)[1]
    np.testing.assert_array_equal(with_masks, without)


def test_build_augment_follows_the_settings():
    config = Config()
    nothing = {
        "probability": 0.0,
        "mixup": config.augment.mixup.model_copy(update={"probability": 0.0}),
    }
    images, labels = _images(), _labels()
    off = build_augment(config.model_copy(update={"augment": config.augment.model_copy(update=nothing)}))
    same_images, same_labels = off(images, labels, 1)
    np.testing.assert_array_equal(same_images, images)
    np.testing.assert_array_equal(same_labels, labels)
    for name in ("time_shift", "time_stretch", "pitch_shift", "volume"):
        one = {name: getattr(config.augment, name).model_copy(update={"probability": 1.0})}
        augment = build_augment(
            config.model_copy(update={"augment": config.augment.model_copy(update=nothing | one)})
        )
        changed, _ = augment(images, labels, 1)
        assert all(not np.array_equal(a, b) for a, b in zip(changed, images, strict=True)), name


@pytest.mark.parametrize("name", ["pitch_shift", "volume", "background"])
def test_what_has_no_meaning_for_mfcc_is_refused(name):
    config = Config.parse(
        {
            "mel": {"feature": "mfcc"},
            "data": {"background": "noise"},
            "augment": {name: {"probability": 0.5}},
        }
    )
    with pytest.raises(ConfigError, match=rf"augment\.{name}\.probability must be 0.*Received: 0\.5"):
        build_augment(config)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: SpecAugment(probability=1.5), "probability=1.5"),
        (lambda: SpecAugment(time_masks=(0.5, (1, 3), (9, 3))), r"time_masks\[2\]=\(9, 3\)"),
        (lambda: SpecAugment(frequency_masks=(1.5, (1, 3), (3, 9))), r"frequency_masks\[0\]=1.5"),
        (lambda: SpecAugment(gain=(1.2, 0.8)), r"gain=\(1.2, 0.8\)"),
        (lambda: TimeStretch(rate=(0.0, 1.0)), r"rate=\(0.0, 1.0\)"),
        (lambda: PitchShift(f_min_hz=5000, f_max_hz=100), "f_min_hz=5000"),
        (lambda: Volume(top_db=0), "top_db=0"),
        (lambda: MelMixUp(alpha=0), "alpha=0"),
        (lambda: MelMixUp(probability=-1), "probability=-1"),
        (lambda: SpecAugment()(np.ones((2, 3, 4))), "input_shape"),
    ],
)
def test_wrong_arguments_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()
