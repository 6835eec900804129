"""Mel stores: equality with the audio, and what kills, changes and full disks leave behind."""

import os
import shutil
import subprocess
import sys
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import soundfile

from keras_birds.config import Config
from keras_birds.data.mel_store import DATA, INDEX, JOURNAL, MelStore
from keras_birds.data.precompute import precompute
from keras_birds.data.source import OnTheFlySource
from keras_birds.errors import DataError, KerasBirdsError


def small_config(crop="center", **mel):
    mel = {"n_mels": 32, "n_mfcc": 20, "f_max_hz": 8000, "height": 40, "width": 48} | mel
    audio = {"sample_rate_hz": 16_000, "clip_s": 1.0, "crop": crop}
    return Config.parse({"audio": audio, "mel": {"n_fft": 512, "hop_samples": 256, **mel}})


def write_recordings(folder, n):
    """Noise that swells, 0.3 to 4 s, with a tone in every other one."""
    folder.mkdir()
    for i in range(n):
        rng = np.random.default_rng(i)
        t = np.arange(round((0.3 + 3.7 * (i % 7) / 6) * 16_000)) / 16_000
        samples = rng.normal(0, 10 ** rng.uniform(-4, -1), len(t)) * np.linspace(0.1, 1, len(t))
        samples += 0.3 * (i % 2) * np.sin(2 * np.pi * 300 * (1 + i) * t)
        soundfile.write(folder / f"{i:04}.wav", samples, 16_000, subtype="FLOAT")
    return sorted(folder.iterdir())


@pytest.fixture
def some(tmp_path):
    """Eight recordings, settings, and a folder for their store."""
    return write_recordings(tmp_path / "audio", 8), small_config(), tmp_path / "store"


def assert_same_store(store, other):
    assert (store / DATA).read_bytes() == (other / DATA).read_bytes()
    pd.testing.assert_frame_equal(pd.read_parquet(store / INDEX), pd.read_parquet(other / INDEX))


def assert_as_computed(paths, config, store):
    rows = np.arange(len(paths))[::-1]
    live = OnTheFlySource(paths, config.audio, config.mel)
    np.testing.assert_array_equal(MelStore(store, config, paths).images(rows), live.images(rows))


@pytest.mark.parametrize("crop", ["center", "random"])
@pytest.mark.parametrize("feature", ["mel", "mfcc"])
def test_images_are_those_computed_on_the_fly_and_the_size_is_told_beforehand(tmp_path, crop, feature):
    config, store = small_config(crop, feature=feature), tmp_path / "store"
    paths, plans = write_recordings(tmp_path / "audio", 14), []
    summary = precompute(paths, config, store, workers=2, announce=plans.append)
    assert plans == [summary.plan]
    assert plans[0].new_bytes == summary.data_bytes == (store / DATA).stat().st_size
    assert (plans[0].recordings, plans[0].reused, summary.unused_bytes) == (14, 0, 0)
    found, live = MelStore(store, config, paths), OnTheFlySource(paths, config.audio, config.mel)
    assert len(found) == found.usable.sum() == 14
    assert found.images(np.array([], int)).shape == (0, 40, 48, 1)
    rows = np.array([8, 0, 3, 3, 5, *range(14)])
    if crop == "center":
        np.testing.assert_array_equal(found.images(rows), live.images(rows))
        return
    for positions in (None, *np.random.default_rng(0).random((4, 19)), np.ones(19), np.zeros(19)):
        np.testing.assert_allclose(found.images(rows, positions), live.images(rows, positions), atol=0.01)


class Stop(Exception):
    """Interrupts a run."""


def stop_at(n):
    def progress(done, total):
        if done == n:
            raise Stop

    return progress


@pytest.mark.parametrize("crop", ["center", "random"])
def test_an_interrupted_run_goes_on(tmp_path, some, crop):
    paths, _, store = some
    config = small_config(crop)
    precompute(paths, config, tmp_path / "whole")
    for n, reused in ((4, 0), (2, 4)):
        plans = []
        with pytest.raises(Stop):
            precompute(paths, config, store, progress=stop_at(n), announce=plans.append)
        assert plans[0].reused == reused
        with pytest.raises(DataError, match=r"unfinished store.*data precompute"):
            MelStore(store, config, paths)
    assert precompute(paths, config, store).plan.reused == 6
    assert_same_store(store, tmp_path / "whole")


@pytest.mark.parametrize(
    ("name", "tear", "reused"),
    [
        (JOURNAL, lambda x: x[:-20], 6),
        (JOURNAL, lambda x: x[:-1], 6),
        (JOURNAL, lambda x: x.replace(b'"path"', b'"name"', 1), 0),
        (JOURNAL, lambda x: x.replace(x.splitlines()[4], bytes(100)), 4),
        (DATA, lambda x: x[:-1], 6),
        (DATA, lambda x: x + bytes(5000), 7),
    ],
)
def test_what_a_crash_left_torn_is_computed_again(tmp_path, some, name, tear, reused):
    paths, _, store = some
    precompute(paths, small_config("random"), tmp_path / "whole")
    with pytest.raises(Stop):
        precompute(paths, small_config("random"), store, progress=stop_at(7))
    (store / name).write_bytes(tear((store / name).read_bytes()))
    assert precompute(paths, small_config("random"), store).plan.reused == reused
    assert_same_store(store, tmp_path / "whole")


def test_other_settings_make_the_store_anew_but_not_another_image_size(tmp_path, some):
    paths, config, store = some
    precompute(paths, config, store)
    wider, other = small_config(width=64), small_config(n_mels=24)
    assert MelStore(store, wider, paths).images(np.array([0])).shape == (1, 40, 64, 1)
    assert precompute(paths, wider, store).plan.reused == 8
    with pytest.raises(DataError, match=r"mel\.n_mels is 32, not 24"):
        MelStore(store, other, paths)
    with pytest.raises(Stop):
        precompute(paths, other, store, progress=stop_at(1))
    for unfinished in (config, other):
        with pytest.raises(DataError, match="unfinished"):
            MelStore(store, unfinished, paths)
    plan = precompute(paths, config, store).plan
    assert (plan.rebuild_reason, plan.reused) == ("mel.n_mels is 24, not 32", 0)
    precompute(paths, config, tmp_path / "fresh")
    assert_same_store(store, tmp_path / "fresh")


def test_new_and_changed_recordings_are_computed_and_no_others(some):
    paths, config, store = some
    precompute(paths[:5], config, store)
    with pytest.raises(DataError, match=r"3 that it lacks, first .*0005\.wav.*data precompute"):
        MelStore(store, config, paths)
    assert precompute(paths, config, store).plan.reused == 5
    assert_as_computed([paths[6], paths[1]], config, store)
    soundfile.write(paths[2], np.random.default_rng(9).normal(0, 0.1, 30_000), 16_000)
    with pytest.raises(DataError, match=r"1 that changed, first .*0002\.wav.*data precompute"):
        MelStore(store, config, paths)
    summary = precompute(paths, config, store)
    assert summary.plan.reused == 7
    assert summary.unused_bytes == summary.data_bytes / 9
    assert_as_computed(paths, config, store)


def test_unreadable_files_are_left_out_with_their_reason_and_read_when_they_come_back(some):
    paths, config, store = some
    away = paths[4].rename(paths[4].with_suffix(".away"))
    paths[1].write_bytes(b"not audio")
    paths[2].write_bytes(b"")
    soundfile.write(paths[3], np.zeros(16_000), 16_000)
    reasons = ["", "is not audio", "is empty (0 bytes)", "", "no such file", "", "", ""]
    summary = precompute(paths, config, store)
    assert summary.left_out == tuple((str(paths[i]), reasons[i]) for i in (1, 2, 4))
    found = MelStore(store, config, paths)
    assert found.usable.tolist() == [not x for x in reasons]
    assert found.reasons == reasons
    with pytest.raises(DataError, match="is not audio"):
        found.images(np.array([0, 1]))
    assert (store / DATA).stat().st_size == 5 * 32 * 63 * 4
    away.rename(paths[4])
    summary = precompute(paths, config, store)
    assert (summary.plan.reused, len(summary.left_out)) == (7, 2)


def test_the_same_store_from_another_folder(tmp_path, some, monkeypatch):
    paths, config, store = some
    monkeypatch.chdir(tmp_path / "audio")
    precompute([path.name for path in paths], config, store)
    monkeypatch.chdir(tmp_path)
    assert precompute([*paths, f"audio/{paths[0].name}"], config, store).plan.reused == 8


def test_data_cut_short_is_told(some):
    paths, config, store = some
    precompute(paths, config, store)
    size = (store / DATA).stat().st_size
    os.truncate(store / DATA, size - 1)
    with pytest.raises(DataError, match=rf"must hold {size} bytes\. Received: {size - 1}"):
        MelStore(store, config, paths)
    precompute(paths, config, store)
    assert_as_computed(paths, config, store)


def test_a_folder_with_other_files_is_not_touched(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("keep")
    with pytest.raises(DataError, match=r"new or empty folder.*thesis\.txt"):
        precompute([], small_config(), folder)
    with pytest.raises(DataError, match="must be a folder"):
        precompute([], small_config(), folder / "thesis.txt")
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_what_is_no_store_is_told(tmp_path):
    store = tmp_path / "store"
    with pytest.raises(DataError, match=r"finished mel store.*no store.*data precompute"):
        MelStore(store, small_config(), [])
    store.mkdir()
    for content in ("[1]", "{"):
        (store / "settings.json").write_text(content)
        for use in (MelStore, lambda store, config, paths: precompute(paths, config, store)):
            with pytest.raises(DataError, match=r"settings\.json: must be a mel store's settings"):
                use(store, small_config(), [])


def test_one_writer_at_a_time(some):
    paths, config, store = some

    def second(plan):
        with pytest.raises(DataError, match="one run at a time"):
            precompute(paths, config, store)

    precompute(paths, config, store, announce=second)
    assert precompute(paths, config, store).plan.reused == 8


@contextmanager
def small_disk(folder, size):
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_too_small_is_told_before_any_work_and_one_that_fills_up_breaks_nothing(tmp_path):
    paths, config = write_recordings(tmp_path / "audio", 80), small_config("random")
    precompute(paths, config, tmp_path / "whole")
    with small_disk(tmp_path / "disk", "2m") as disk:
        store, other = disk / "store", disk / "other"
        other.write_bytes(bytes(1_990_000))
        with pytest.raises(DataError, match="must have room for the store"):
            precompute(paths, config, store, progress=stop_at(1))
        assert not (store / DATA).exists()
        for spare, at_least in ((0, 0), (100_000, 1), (600_000, 64)):
            shutil.rmtree(store)
            other.unlink(missing_ok=True)

            def fill_up(plan, spare=spare):
                other.write_bytes(bytes(plan.free_bytes - spare))

            with pytest.raises(KerasBirdsError, match=r"No space left on device\. Free some space"):
                precompute(paths, config, store, announce=fill_up)
            with pytest.raises(DataError):
                MelStore(store, config, paths)
            other.unlink()
            assert precompute(paths, config, store).plan.reused >= at_least
            assert_same_store(store, tmp_path / "whole")


def test_memory_does_not_grow_with_the_recordings(tmp_path, some):
    links, peaks = [tmp_path / f"{i:03}.wav" for i in range(600)], []
    for i, link in enumerate(links):
        os.link(some[0][i % 7], link)
    for n in (100, 600):
        tracemalloc.start()
        summary = precompute(links[:n], small_config("random", n_mels=128), tmp_path / f"store{n}", workers=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (summary.plan.recordings, summary.left_out) == (n, ())
    assert peaks[1] - peaks[0] < 0.25 * summary.data_bytes
