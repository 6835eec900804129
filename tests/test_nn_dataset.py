"""What the network trains on: sources of images, and the data set that makes batches of them."""

import gc
import os
import shutil
import threading
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import psutil
import pytest
import soundfile

from keras_birds.audio.decode import decode, decode_clip
from keras_birds.audio.mel import MelTransform
from keras_birds.config import AudioConfig, Config
from keras_birds.data.dataset import Epochs, MelDataset
from keras_birds.data.source import CachedSource, JoinedSource, OnTheFlySource
from keras_birds.errors import AudioError, DataError
from keras_birds.nn.augment import build_augment
from keras_birds.progress import Reporter
from keras_birds.training.inputs import background_paths, background_source

AUDIO, SIZE = {"sample_rate_hz": 16_000, "clip_s": 1.0}, {"height": 48, "width": 40}
MEL = {"n_fft": 512, "hop_samples": 256, "n_mels": 32, "n_mfcc": 20, "f_max_hz": 8000, **SIZE}
CONFIG, RANDOM = (Config.parse({"audio": {**AUDIO, "crop": x}, "mel": MEL}) for x in ("center", "random"))
NUM = 13
TARGETS = np.eye(NUM, dtype="float32")


@pytest.fixture
def paths(tmp_path):
    """Recordings shorter than a clip, as long as one, and longer, at two rates."""
    for i in range(NUM):
        seconds, rate = [(0.4, 16_000), (1.0, 16_000), (3.3, 16_000), (2.7, 22_050)][i % 4]
        samples = np.random.default_rng(i).normal(0, 0.1, round(seconds * rate))
        soundfile.write(tmp_path / f"{i:02d}.flac", samples, rate)
    return sorted(tmp_path.iterdir())


def _source(paths, config=CONFIG, manifest=None):
    return OnTheFlySource(paths, config.audio, config.mel, manifest=manifest)


def test_centre_crops_are_what_prediction_computes(paths):
    source = _source(paths[:4])
    images = source.images(np.arange(4))
    clips = np.stack([decode_clip(path, CONFIG.audio).samples for path in paths[:4]])
    np.testing.assert_array_equal(images, MelTransform(CONFIG.audio, CONFIG.mel).images(clips))
    cached = CachedSource(source, max_bytes=2 * images[0].nbytes)
    np.testing.assert_array_equal(cached.images(np.array([2, 0, 2, 1])), images[[2, 0, 2, 1]])
    for path in paths:
        path.unlink()
    np.testing.assert_array_equal(cached.images(np.array([0, 2])), images[[0, 2]])
    np.testing.assert_array_equal(cached.images(np.array([2]), np.array([0.9])), images[[2]])
    with pytest.raises(AudioError):
        cached.images(np.array([1]))
    assert source.images(np.array([], int)).shape == (0, 48, 40, 1)
    assert len(source) == len(cached) == 4
    assert CachedSource(source).max_bytes == pytest.approx(psutil.virtual_memory().available / 4, rel=0.1)


def test_joined_sources_count_on(paths):
    first, second = _source(paths[:1], RANDOM), _source(paths[1:4], RANDOM)
    joined, whole = JoinedSource(first, second), _source(paths[:4], RANDOM)
    assert len(joined) == len(joined.usable) == len(joined.reasons) == 4
    for rows in ([2, 0, 3, 0], [0], [3, 1], []):
        positions = np.linspace(0, 1, len(rows))
        expected = whole.images(np.array(rows, int), positions)
        np.testing.assert_array_equal(joined.images(np.array(rows, int), positions), expected)
    second.usable[1], second.reasons[1] = False, "noise"
    late = JoinedSource(first, second)
    assert late.usable.tolist() == [True, True, False, True]
    assert late.reasons[2] == "noise"


def test_a_random_crop_is_a_slice_of_the_whole_spectrogram(paths):
    row, source = np.array([2]), _source(paths, RANDOM)
    transform = source.transform
    whole = transform.decibels(decode(paths[2], AudioConfig(sample_rate_hz=16_000)).samples)
    spare_hops = (round(3.3 * 16_000) - 16_000) // 256
    for position in (0.0, 0.4, 1.0):
        start = min(int(position * (spare_hops + 1)), spare_hops)
        expected = transform.normalise(whole[:, start : start + transform.num_frames])
        crop = source.images(row, np.array([position]))
        np.testing.assert_allclose(crop, transform.resize(expected[None]), atol=1e-5)
    for config, is_same in ((RANDOM, False), (CONFIG, True)):
        source = _source(paths, config)
        assert np.array_equal(source.images(row, np.array([0.0])), source.images(row)) == is_same


def test_unusable_recordings_have_no_image(paths):
    statuses = ["ok", "corrupt", "partial", "silent"]
    table = pd.DataFrame({"path": map(str, paths[:4]), "status": statuses, "reason": "is noise"})
    source = _source(paths[:4], manifest=table)
    assert source.usable.tolist() == [True, False, True, True]
    assert source.reasons == ["", "is noise", "", ""]
    with pytest.raises(DataError, match=r"row 1 \(is noise\)"):
        source.images(np.array([0, 1]))
    assert len(source.images(np.array([0, 2, 3]))) == 3
    with pytest.raises(DataError, match="in its order"):
        _source(paths[3::-1], manifest=table)
    paths[0].write_bytes(b"not audio")
    with pytest.raises(AudioError, match="is not audio"):
        source.images(np.array([0]))


def test_backgrounds_may_have_names_that_are_not_utf_8_and_hidden_ones_are_passed_over(write_tone, tmp_path):
    first = write_tone("sounds/a.wav", seconds=1)
    odd = Path(os.fsdecode(os.fsencode(first.parent) + b"/r\xe9\r.wav"))
    try:
        shutil.copy(first, odd)
    except OSError:
        pytest.skip("this file system wants names in UTF-8")
    (first.parent / "._a.wav").touch()
    config = Config.load("baseline", [f"data.background={first.parent}", "data.background_fraction=0.1"])
    paths = background_paths(config)
    assert paths == [str(first), str(odd)]
    images = background_source(tmp_path, paths, config, Reporter()).images(np.arange(2))
    np.testing.assert_array_equal(images[0], images[1])
    assert background_source(tmp_path, paths, config).usable.tolist() == [True, True]


def _dataset(paths, config=CONFIG, rows=range(NUM), batch_size=4, augment=None, workers=1, **epochs):
    epochs = Epochs(np.array(rows, int), **epochs)
    return MelDataset(_source(paths, config), TARGETS, epochs, batch_size, augment, workers)


def _epochs(dataset, n=1):
    """All batches of `n` epochs, as `fit` asks for them."""
    found = []
    for _ in range(n):
        dataset.on_epoch_begin()
        found += [dataset[i] for i in range(len(dataset))]
        dataset.on_epoch_end()
    return found


def _order(dataset):
    """The recordings of an epoch."""
    return np.concatenate([targets for _, targets in _epochs(dataset)]).argmax(1).tolist()


def test_gives_the_sources_images_and_targets_in_order(paths):
    rows = [5, 2, 9, 0, 7]
    dataset = _dataset(paths, rows=rows)
    batches = _epochs(dataset)
    assert [len(images) for images, _ in batches] == [4, 1] == [len(targets) for _, targets in batches]
    images, targets = (np.concatenate(part) for part in zip(*batches, strict=True))
    assert images.dtype == targets.dtype == np.float32
    np.testing.assert_array_equal(images, dataset.source.images(np.array(rows)))
    assert targets.argmax(1).tolist() == rows


def test_negatives_are_a_share_of_every_epoch_and_drawn_anew_few_repeated_evenly(paths):
    negatives = {"negative_rows": np.arange(6, NUM), "negative_fraction": 0.4}
    dataset = _dataset(paths, rows=range(6), **negatives, shuffle=True, batch_size=5)
    assert len(dataset) == 2
    orders = [_order(dataset) for _ in range(7)]
    drawn = [tuple(sorted(x)[6:]) for x in orders]
    assert all(sorted(x)[:6] == list(range(6)) for x in orders)
    assert [len(set(x)) for x in drawn] == [len(x) for x in drawn] == [4] * 7
    assert len(set(drawn)) > 1
    assert set(sum(drawn, ())) == set(range(6, NUM))
    few = {"negative_rows": np.array([10, 11]), "negative_fraction": 0.5}
    found = _order(_dataset(paths, rows=range(9), **few, batch_size=18))
    assert sorted([found.count(10), found.count(11)]) == [4, 5]


@pytest.mark.parametrize("config", [CONFIG, RANDOM])
def test_each_epoch_has_an_order_and_crops_of_its_own_whatever_the_number_of_threads(paths, config):
    is_random, augment = config is RANDOM, build_augment(config)
    make = partial(_dataset, paths, config, shuffle=True, random_crop=is_random)
    expected = _epochs(make(workers=0, augment=augment), 2)
    for workers in (1, 4):
        np.testing.assert_equal(_epochs(make(workers=workers, augment=augment), 2), expected)
    other = _epochs(make(seed=43, augment=augment), 2)
    assert not any(np.array_equal(a[0], b[0]) for a, b in zip(other, expected, strict=True))
    whole = _epochs(make(batch_size=NUM), 3)
    orders = [targets.argmax(1) for _, targets in whole]
    assert [sorted(x) for x in orders] == [list(range(NUM))] * 3
    assert len(set(map(tuple, orders))) == 3
    first, second, _ = (images[order.argsort()] for (images, _), order in zip(whole, orders, strict=True))
    assert np.array_equal(first, second) != is_random


def test_a_batch_depends_on_its_epoch_and_index_only(paths):
    settings = {"shuffle": True, "augment": build_augment(CONFIG)}
    expected = _epochs(_dataset(paths, **settings, workers=0), 3)
    dataset = _dataset(paths, **settings, workers=2)
    for index in (3, 0, 2, 2, 1, 3, 0):
        np.testing.assert_equal(dataset[index], expected[index])
    # What it fetched ahead in epoch 0 must not turn up in epoch 2, where a resumed run goes on.
    dataset.epoch = 2
    np.testing.assert_equal(_epochs(dataset), expected[-4:])
    assert dataset.epoch == 3


@pytest.mark.skipif(keras.config.backend() == "tensorflow", reason="tf.data fetches further ahead by itself")
def test_fit_sees_whole_epochs_from_the_first_on(paths):
    """Keras looks at a batch before the first epoch; that must not cost one or replay one."""
    seen = []

    class Watched(MelDataset):
        def __getitem__(self, index):
            batch = super().__getitem__(index)
            seen.append((self.epoch, index, batch[1].argmax(1).tolist()))
            return batch

    epochs = Epochs(np.arange(NUM), shuffle=True, drop_remainder=True)
    dataset = Watched(_source(paths), TARGETS, epochs, 2, workers=2)
    model = keras.Sequential([keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(NUM)])
    model.compile("sgd", "mse", metrics=["mae"])
    model.fit(dataset, epochs=3, verbose=0, shuffle=False)
    trained = seen[-18:]
    assert [(epoch, index) for epoch, index, _ in trained] == [(e, i) for e in range(3) for i in range(6)]
    assert [len({x for e, _, rows in trained if e == epoch for x in rows}) for epoch in range(3)] == [12] * 3
    assert dataset.epoch == 3


def test_the_baseline_really_mixes_images_and_labels(paths):
    config = CONFIG.model_copy(update={"augment": Config().augment.model_copy(update={"probability": 0.0})})
    num_mixed, datasets = 0, (_dataset(paths, shuffle=True, augment=x) for x in (None, build_augment(config)))
    for (images, targets), (seen_images, seen_targets) in zip(*map(_epochs, datasets), strict=True):
        np.testing.assert_allclose(seen_targets.sum(1), 1, atol=1e-6)
        # Labels are one-hot by recording: they say what was mixed with what weight; images must agree.
        np.testing.assert_allclose(seen_images, np.tensordot(seen_targets @ targets.T, images, 1), atol=1e-5)
        num_mixed += ((seen_targets > 0.01).sum(1) == 2).sum()
    assert num_mixed >= 3


def test_batches_are_computed_ahead_in_threads_and_no_thread_outlives_the_data_set(paths):
    threads, seeds = set(), set()

    def augment(images, targets, seed):
        threads.add(threading.current_thread())
        seeds.add(seed)
        return images, targets

    dataset = _dataset(paths, augment=augment, workers=2)
    _epochs(dataset, 2)
    assert seeds >= {(42, epoch, index) for epoch in range(2) for index in range(len(dataset))}
    assert threading.main_thread() not in threads
    del dataset
    gc.collect()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def test_windows_are_drawn_by_their_weights_and_mixed_with_clips_that_have_labels(paths):
    weights = np.array([4.0, 2.0, 1.0, 0.0])
    drawn = {"unlabelled_rows": np.arange(9, 13), "unlabelled_fraction": 0.5, "unlabelled_weights": weights}
    settings = {"rows": range(9), "shuffle": True, **drawn}
    epochs = Epochs(np.arange(9), shuffle=True, **drawn)
    counts = np.stack([np.bincount(epochs.order(k), minlength=NUM) for k in range(300)])
    assert (counts[:, :9] == 1).all()
    expected = 9 * weights / 7
    assert (np.abs(counts[:, 9:] - expected) < 1).all()
    np.testing.assert_allclose(counts[:, 9:].mean(axis=0), expected, atol=0.1)
    with pytest.raises(DataError, match=r"label_sum. must find windows with labels"):
        Epochs(np.arange(9), **{**drawn, "unlabelled_weights": weights * 0})

    both = {"negative_rows": np.array([9]), "negative_fraction": 0.25, **drawn}
    assert np.bincount(Epochs(np.arange(9), **both).order(0))[9:].sum() == 9 + 18

    mixup = {"probability": 1.0, "alpha": 5.0, "partner": "pseudo"}
    config = CONFIG.model_copy(
        update={"augment": Config.parse({"augment": {"probability": 0.0, "mixup": mixup}}).augment}
    )
    expected = _epochs(_dataset(paths, **settings, augment=build_augment(config)), 3)
    again = _epochs(_dataset(paths, **settings, augment=build_augment(config), workers=3), 3)
    np.testing.assert_equal(again, expected)
    plain = _epochs(_dataset(paths, **settings), 3)
    mixed = 0
    for (images, targets), (own_images, own) in zip(expected, plain, strict=True):
        kinds = np.stack([targets[:, :9].sum(axis=1), targets[:, 9:].sum(axis=1)], axis=1)
        is_pseudo = own[:, 9:].any(axis=1)
        if is_pseudo.all() or not is_pseudo.any():
            np.testing.assert_array_equal(images, own_images)
            continue
        # Half of one kind, half of the other, give or take the weight: none is mixed with its own.
        assert (kinds.min(axis=1) > 0.01).all()
        np.testing.assert_allclose(
            images, np.tensordot(targets @ own.T / (own @ own.T).sum(1), own_images, 1), atol=1e-5
        )
        # Nor are two mixed with the same before all are.
        partners = (targets[is_pseudo, :9] > 0).any(axis=0).sum()
        assert partners == min(is_pseudo.sum(), (~is_pseudo).sum())
        mixed += 1
    assert mixed > 5


def test_what_a_thread_raises_arrives_and_the_arguments_are_checked(paths, tmp_path):
    (tmp_path / "broken.wav").touch()
    with pytest.raises(AudioError, match=r"broken\.wav"):
        _epochs(_dataset([*paths[:-1], tmp_path / "broken.wav"], workers=2))
    for given, settings, told in (
        (paths, {"negative_fraction": 0.5}, "negatives must have at least one usable recording"),
        (paths, {"rows": []}, "a data set needs at least one usable recording"),
        (paths, {"batch_size": 14, "drop_remainder": True}, "Received: 13 recordings for batches of 14"),
        (paths[:12], {"rows": range(2)}, "Received: 13"),
        (paths, {"rows": [0, -1]}, "from 0 to 12. Received: -1"),
        (paths, {"rows": range(14)}, "from 0 to 12. Received: 13"),
    ):
        with pytest.raises(DataError, match=told):
            _dataset(given, **settings)
    source = _source(paths)
    source.usable[12], source.reasons[12] = False, "truncated"
    with pytest.raises(DataError, match=r"row 12 \(truncated\)"):
        MelDataset(source, TARGETS, Epochs(np.arange(NUM)), 2)
    with pytest.raises(IndexError, match="Received: 4"):
        _dataset(paths)[4]
