import gc
import threading

import keras
import numpy as np
import pytest
from small_run import make_config, write_tones

from keras_birds.config import AudioConfig, Config
from keras_birds.data.dataset import Epochs, MelDataset
from keras_birds.data.source import OnTheFlySource
from keras_birds.errors import AudioError, DataError
from keras_birds.nn.augment import build_augment

NUM = 13
CONFIG, RANDOM = (
    make_config().model_copy(update={"audio": AudioConfig(sample_rate_hz=8000, clip_s=0.25, crop=x)})
    for x in ("center", "random")
)
TARGETS = np.eye(NUM, dtype="float32")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Recordings of 0.5 s, twice as long as a clip."""
    return sorted(write_tones(tmp_path_factory.mktemp("data") / "clips", ["a"], [1000], NUM).glob("*/*.wav"))


def _dataset(paths, config=CONFIG, rows=range(NUM), batch_size=4, augment=None, workers=1, **epochs):
    source = OnTheFlySource(paths, config.audio, config.mel)
    return MelDataset(source, TARGETS, Epochs(np.array(rows, int), **epochs), batch_size, augment, workers)


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

    def epochs(n=2, **settings):
        return _epochs(_dataset(paths, config, shuffle=True, random_crop=is_random, **settings), n)

    expected = epochs(workers=0, augment=augment)
    for workers in (1, 4):
        np.testing.assert_equal(epochs(workers=workers, augment=augment), expected)
    other = epochs(seed=43, augment=augment)
    assert not any(np.array_equal(a[0], b[0]) for a, b in zip(other, expected, strict=True))
    whole = epochs(3, batch_size=NUM)
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

    source = OnTheFlySource(paths, CONFIG.audio, CONFIG.mel)
    dataset = Watched(
        source, TARGETS, Epochs(np.arange(NUM), shuffle=True, drop_remainder=True), 2, workers=2
    )
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


def test_what_a_thread_raises_arrives_and_the_arguments_are_checked(paths, tmp_path):
    (tmp_path / "broken.wav").touch()
    with pytest.raises(AudioError, match=r"broken\.wav"):
        _epochs(_dataset([*paths[:-1], tmp_path / "broken.wav"], workers=2))
    for given, settings, told in (
        (paths, {"negative_fraction": 0.5}, "negatives must have at least one usable recording"),
        (paths, {"rows": []}, "a data set needs at least one usable recording"),
        (paths, {"batch_size": 14, "drop_remainder": True}, "Received: 13 recordings for batches of 14"),
        (paths[:12], {"rows": range(2)}, "Received: 13"),
    ):
        with pytest.raises(DataError, match=told):
            _dataset(given, **settings)
    source = OnTheFlySource(paths, CONFIG.audio, CONFIG.mel)
    source.usable[12], source.reasons[12] = False, "truncated"
    with pytest.raises(DataError, match=r"row 12 \(truncated\)"):
        MelDataset(source, TARGETS, Epochs(np.arange(NUM)), 2)
    with pytest.raises(IndexError, match="Received: 4"):
        _dataset(paths)[4]
