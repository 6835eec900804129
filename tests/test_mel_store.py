"""Mel stores: equality with the audio, and what kills, changes and full disks leave behind."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import soundfile

from keras_birds.config import Config
from keras_birds.data.mel_store import DATA, INDEX, JOURNAL, MelStore
from keras_birds.data.precompute import _locked, precompute
from keras_birds.data.source import OnTheFlySource
from keras_birds.errors import DataError, KerasBirdsError


def small_config(crop="center", **mel):
    return Config.parse(
        {
            "audio": {"sample_rate_hz": 16_000, "clip_s": 1.0, "crop": crop},
            "mel": {
                "n_fft": 512,
                "hop_samples": 256,
                "n_mels": 32,
                "n_mfcc": 20,
                "f_max_hz": 8000,
                "height": 40,
                "width": 48,
            }
            | mel,
        }
    )


def write_recordings(folder, n, rate=16_000):
    """Recordings of 0.3 to 4 s: noise that swells, a tone in every other one."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(n):
        rng = np.random.default_rng(i)
        t = np.arange(round((0.3 + 3.7 * (i % 7) / 6) * rate)) / rate
        samples = rng.normal(0, 10 ** rng.uniform(-4, -1), len(t)) * np.linspace(0.1, 1, len(t))
        samples += 0.3 * (i % 2) * np.sin(2 * np.pi * 300 * (1 + i) * t)
        paths.append(folder / f"{i:04}.wav")
        soundfile.write(paths[-1], samples, rate, subtype="FLOAT")
    return paths


def contents(store):
    return (store / DATA).read_bytes(), pd.read_parquet(store / INDEX)


def assert_same_store(store, other):
    data, index = contents(store)
    other_data, other_index = contents(other)
    assert data == other_data
    pd.testing.assert_frame_equal(index, other_index)


@pytest.mark.parametrize("feature", ["mel", "mfcc"])
def test_centre_crops_are_identical_to_computing_on_the_fly(tmp_path, feature):
    config = small_config(feature=feature)
    paths = write_recordings(tmp_path / "audio", 9)
    precompute(paths, config, tmp_path / "store", workers=2)
    store, live = MelStore(tmp_path / "store", config, paths), OnTheFlySource(paths, config.audio, config.mel)
    rows = np.array([8, 0, 3, 3, 5])
    np.testing.assert_array_equal(store.images(rows), live.images(rows))
    assert len(store) == len(paths)
    assert store.usable.all()
    assert store.images(np.array([], int)).shape == (0, 40, 48, 1)


@pytest.mark.parametrize("feature", ["mel", "mfcc"])
def test_random_crops_are_within_a_hundredth(tmp_path, feature):
    config = small_config("random", feature=feature)
    paths = write_recordings(tmp_path / "audio", 14)
    precompute(paths, config, tmp_path / "store")
    store, live = MelStore(tmp_path / "store", config, paths), OnTheFlySource(paths, config.audio, config.mel)
    rows = np.arange(14)
    for positions in (None, *np.random.default_rng(0).random((4, 14)), np.ones(14), np.zeros(14)):
        np.testing.assert_allclose(store.images(rows, positions), live.images(rows, positions), atol=0.01)


@pytest.mark.parametrize("crop", ["center", "random"])
def test_the_size_is_told_beforehand(tmp_path, crop):
    paths = write_recordings(tmp_path / "audio", 8)
    plans = []
    store = tmp_path / "store"
    summary = precompute(paths, small_config(crop), store, announce=plans.append)
    assert plans == [summary.plan]
    assert plans[0].new_bytes == summary.data_bytes == (store / DATA).stat().st_size
    assert (plans[0].recordings, plans[0].reused, summary.unused_bytes) == (8, 0, 0)


class Stop(Exception):
    """Interrupts a run."""


def stop_at(n):
    def progress(done, total):
        if done == n:
            raise Stop

    return progress


@pytest.mark.parametrize("crop", ["center", "random"])
def test_an_interrupted_run_goes_on(tmp_path, crop):
    paths, config, store = write_recordings(tmp_path / "audio", 20), small_config(crop), tmp_path / "store"
    precompute(paths, config, tmp_path / "whole")
    for n, reused in ((7, 0), (5, 7)):
        plans = []
        with pytest.raises(Stop):
            precompute(paths, config, store, progress=stop_at(n), announce=plans.append)
        assert plans[0].reused == reused
        with pytest.raises(DataError, match=r"unfinished store.*data precompute"):
            MelStore(store, config, paths)
    assert precompute(paths, config, store).plan.reused == 12
    assert_same_store(store, tmp_path / "whole")


@pytest.mark.parametrize("torn", ["journal", "journal's middle", "data", "tail"])
def test_what_a_crash_left_torn_is_computed_again(tmp_path, torn):
    paths, config, store = (
        write_recordings(tmp_path / "audio", 10),
        small_config("random"),
        tmp_path / "store",
    )
    precompute(paths, config, tmp_path / "whole")
    with pytest.raises(Stop):
        precompute(paths, config, store, progress=stop_at(8))
    journal, data = store / JOURNAL, store / DATA
    if torn == "journal":
        journal.write_bytes(journal.read_bytes()[:-20])
    elif torn == "journal's middle":
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join([*lines[:4], b"\0" * 100 + b"\n", *lines[5:]]))
    elif torn == "data":
        data.write_bytes(data.read_bytes()[:-1000])
    else:
        data.write_bytes(data.read_bytes() + bytes(5000))
    assert 0 < precompute(paths, config, store).plan.reused <= 8
    assert_same_store(store, tmp_path / "whole")


def test_other_settings_make_the_store_anew(tmp_path):
    paths, store = write_recordings(tmp_path / "audio", 5), tmp_path / "store"
    precompute(paths, small_config(), store)
    other = small_config(n_mels=24)
    with pytest.raises(DataError, match=r"mel\.n_mels is 32, not 24"):
        MelStore(store, other, paths)
    plan = precompute(paths, other, store).plan
    assert plan.rebuild_reason == "mel.n_mels is 32, not 24"
    assert plan.reused == 0
    precompute(paths, other, tmp_path / "fresh")
    assert_same_store(store, tmp_path / "fresh")


def test_the_image_size_may_change(tmp_path):
    paths, store = write_recordings(tmp_path / "audio", 3), tmp_path / "store"
    precompute(paths, small_config(), store)
    wider = small_config(width=64)
    assert MelStore(store, wider, paths).images(np.array([0])).shape == (1, 40, 64, 1)
    assert precompute(paths, wider, store).plan.reused == 3


def test_a_rebuild_killed_at_once_leaves_no_store_of_the_old_settings(tmp_path):
    paths, store = write_recordings(tmp_path / "audio", 5), tmp_path / "store"
    precompute(paths, small_config(), store)
    with pytest.raises(Stop):
        precompute(paths, small_config(n_mels=24), store, progress=stop_at(1))
    for config in (small_config(), small_config(n_mels=24)):
        with pytest.raises(DataError):
            MelStore(store, config, paths)


def test_a_changed_file_is_computed_anew_and_no_other(tmp_path):
    paths, config, store = write_recordings(tmp_path / "audio", 6), small_config(), tmp_path / "store"
    precompute(paths, config, store)
    soundfile.write(paths[2], np.random.default_rng(9).normal(0, 0.1, 30_000), 16_000)
    with pytest.raises(DataError, match=r"1 that changed, first .*0002\.wav.*data precompute"):
        MelStore(store, config, paths)
    summary = precompute(paths, config, store)
    assert summary.plan.reused == 5
    assert summary.unused_bytes == summary.data_bytes / 7
    live = OnTheFlySource(paths, config.audio, config.mel)
    np.testing.assert_array_equal(
        MelStore(store, config, paths).images(np.arange(6)), live.images(np.arange(6))
    )


def test_new_recordings_are_added_and_a_part_of_them_can_be_read(tmp_path):
    paths, config, store = write_recordings(tmp_path / "audio", 8), small_config(), tmp_path / "store"
    precompute(paths[:5], config, store)
    with pytest.raises(DataError, match=r"3 that it lacks, first .*0005\.wav"):
        MelStore(store, config, paths)
    assert precompute(paths, config, store).plan.reused == 5
    part = [paths[6], paths[1]]
    live = OnTheFlySource(part, config.audio, config.mel)
    np.testing.assert_array_equal(
        MelStore(store, config, part).images(np.arange(2)), live.images(np.arange(2))
    )


def test_unreadable_files_are_left_out_with_their_reason(tmp_path):
    paths, config, store = write_recordings(tmp_path / "audio", 5), small_config(), tmp_path / "store"
    paths[1].write_bytes(b"not audio")
    paths[2].write_bytes(b"")
    paths[4].unlink()
    soundfile.write(paths[3], np.zeros(16_000), 16_000)
    summary = precompute(paths, config, store)
    assert dict(summary.left_out) == {
        str(paths[1]): "is not audio",
        str(paths[2]): "is empty (0 bytes)",
        str(paths[4]): "no such file",
    }
    found = MelStore(store, config, paths)
    np.testing.assert_array_equal(found.usable, [True, False, False, True, False])
    assert found.reasons == ["", "is not audio", "is empty (0 bytes)", "", "no such file"]
    with pytest.raises(DataError, match="is not audio"):
        found.images(np.array([0, 1]))
    assert (store / DATA).stat().st_size == 2 * 32 * 63 * 4


def test_a_missing_file_that_came_back_is_read(tmp_path):
    paths, config, store = write_recordings(tmp_path / "audio", 3), small_config(), tmp_path / "store"
    away = paths[1].with_suffix(".away")
    paths[1].rename(away)
    assert len(precompute(paths, config, store).left_out) == 1
    away.rename(paths[1])
    summary = precompute(paths, config, store)
    assert (summary.plan.reused, summary.left_out) == (2, ())


def test_the_same_store_from_another_folder(tmp_path, monkeypatch):
    paths, config, store = write_recordings(tmp_path / "audio", 3), small_config(), tmp_path / "store"
    monkeypatch.chdir(tmp_path / "audio")
    precompute([path.name for path in paths], config, store)
    monkeypatch.chdir(tmp_path)
    assert len(MelStore(store, config, paths)) == 3
    assert precompute([f"audio/{path.name}" for path in paths], config, store).plan.reused == 3


def test_no_store_is_told(tmp_path):
    with pytest.raises(DataError, match=r"finished mel store.*no store.*data precompute"):
        MelStore(tmp_path / "none", small_config(), [])


def test_data_cut_short_is_told(tmp_path):
    paths, config, store = write_recordings(tmp_path / "audio", 3), small_config(), tmp_path / "store"
    precompute(paths, config, store)
    os.truncate(store / DATA, 1000)
    with pytest.raises(DataError, match=r"must hold \d+ bytes\. Received: 1000"):
        MelStore(store, config, paths)
    precompute(paths, config, store)
    live = OnTheFlySource(paths, config.audio, config.mel)
    np.testing.assert_array_equal(
        MelStore(store, config, paths).images(np.arange(3)), live.images(np.arange(3))
    )


def test_a_folder_with_other_files_is_not_touched(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("keep")
    with pytest.raises(DataError, match=r"new or empty folder.*thesis\.txt"):
        precompute([], small_config(), folder)
    with pytest.raises(DataError, match="must be a folder"):
        precompute([], small_config(), folder / "thesis.txt")
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_settings_that_are_none_are_told(tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    (store / "settings.json").write_text("[1]")
    with pytest.raises(DataError, match=r"settings\.json: must be a mel store's settings"):
        MelStore(store, small_config(), [])
    with pytest.raises(DataError, match=r"settings\.json: must be a mel store's settings"):
        precompute([], small_config(), store)


def test_one_writer_at_a_time(tmp_path):
    store = tmp_path / "store"
    with _locked(store), pytest.raises(DataError, match="one run at a time"):
        precompute([], small_config(), store)
    assert precompute([], small_config(), store).plan.recordings == 0


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


def test_a_disk_too_small_is_told_before_any_work(tmp_path):
    paths = write_recordings(tmp_path / "audio", 10)
    with small_disk(tmp_path / "disk", "64k") as disk:
        with pytest.raises(DataError, match="must have room for the store"):
            precompute(paths, small_config(), disk / "store", progress=stop_at(1))
        assert not (disk / "store" / DATA).exists()


@pytest.mark.parametrize("spare", [0, 100_000, 600_000])
def test_a_disk_that_fills_up_breaks_nothing(tmp_path, spare):
    paths, config = write_recordings(tmp_path / "audio", 80), small_config("random")
    precompute(paths, config, tmp_path / "whole")
    with small_disk(tmp_path / "disk", "2m") as disk:
        store, other = disk / "store", disk / "other"

        def fill_up(plan):
            other.write_bytes(bytes(plan.free_bytes - spare))

        with pytest.raises(KerasBirdsError, match=r"No space left on device\. Free some space"):
            precompute(paths, config, store, announce=fill_up)
        with pytest.raises(DataError):
            MelStore(store, config, paths)
        other.unlink()
        reused = precompute(paths, config, store).plan.reused
        assert reused >= (64 if spare == 600_000 else 0)
        assert_same_store(store, tmp_path / "whole")


CHILD = """
import json, resource, sys
from pathlib import Path
from keras_birds.config import Config
from keras_birds.data.precompute import _locked, precompute
folder, store, n = sys.argv[1:]
paths = sorted(Path(folder).iterdir())[: int(n)]
config = Config.parse({"audio": {"crop": "random", "sample_rate_hz": 16000}, "mel": {"f_max_hz": 8000}})
summary = precompute(paths, config, store, workers=2)
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, len(summary.left_out), len(paths)]))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_recordings(tmp_path):
    originals = write_recordings(tmp_path / "audio", 7)
    links = tmp_path / "links"
    links.mkdir()
    for i in range(2000):
        os.link(originals[i % 7], links / f"{i:05}.wav")
    peak_kb = {}
    for n in (100, 2000):
        command = [sys.executable, "-c", CHILD, str(links), str(tmp_path / f"store{n}"), str(n)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peak_kb[n], left_out, found = json.loads(done.stdout)
        assert (left_out, found) == (0, n)
    stored = (tmp_path / "store2000" / DATA).stat().st_size
    assert stored > 60e6
    assert peak_kb[2000] - peak_kb[100] < 30_000, peak_kb
