"""Mel stores: equality with the audio, and what kills, changes and full disks leave behind."""

import os
import shutil
import subprocess
import sys
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import soundfile

from keras_birds.config import Config
from keras_birds.data.mel_store import DATA, INDEX, JOURNAL, MelStore
from keras_birds.data.precompute import precompute
from keras_birds.data.source import OnTheFlySource
from keras_birds.errors import DataError, KerasBirdsError

SETTINGS = (
    *("audio.sample_rate_hz=16000", "audio.clip_s=1.0", "mel.n_fft=512", "mel.hop_samples=256"),
    *("mel.n_mels=32", "mel.n_mfcc=20", "mel.f_max_hz=8000", "mel.height=40", "mel.width=48"),
)


def config_of(*changes):
    return Config.load("baseline", [*SETTINGS, *changes])


CENTER, RANDOM = config_of(), config_of("audio.crop=random")


@pytest.fixture
def eight(tmp_path):
    """Recordings of noise that swells, 0.3 to 4 s, with a tone in every other one, all of label "wren"."""
    folder = tmp_path / "birds" / "wren"
    folder.mkdir(parents=True)
    for i in range(8):
        rng, t = np.random.default_rng(i), np.arange(round((0.3 + 3.7 * (i % 7) / 6) * 16_000)) / 16_000
        samples = rng.normal(0, 10 ** rng.uniform(-4, -1), len(t)) * np.linspace(0.1, 1, len(t))
        samples += 0.3 * (i % 2) * np.sin(2 * np.pi * 300 * (1 + i) * t)
        soundfile.write(folder / f"{i:04}.wav", samples, 16_000, subtype="FLOAT")
    return sorted(folder.iterdir())


def as_many(recordings, n):
    """So many names of them."""
    links = [recordings[0].with_name(f"link{i:03}.wav") for i in range(n)]
    for i, link in enumerate(links):
        os.link(recordings[i % 7], link)
    return links


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def assert_same_store(store, paths, config):
    """As one that is made without interruption."""
    other = store.with_name("whole")
    precompute(paths, config, other)
    assert (store / DATA).read_bytes() == (other / DATA).read_bytes()
    pd.testing.assert_frame_equal(pd.read_parquet(store / INDEX), pd.read_parquet(other / INDEX))


def assert_as_computed(paths, config, store):
    rows = np.arange(len(paths))[::-1]
    live = OnTheFlySource(paths, config.audio, config.mel)
    np.testing.assert_array_equal(MelStore(store, config, paths).images(rows), live.images(rows))


@pytest.mark.parametrize("crop", ["center", "random"])
@pytest.mark.parametrize("feature", ["mel", "mfcc"])
def test_images_are_those_computed_on_the_fly_and_the_size_is_told_beforehand(eight, store, crop, feature):
    config, plans = config_of(f"audio.crop={crop}", f"mel.feature={feature}"), []
    summary = precompute(eight, config, store, workers=2, announce=plans.append)
    assert plans == [summary.plan]
    assert plans[0].new_bytes == summary.data_bytes == (store / DATA).stat().st_size
    assert (plans[0].recordings, plans[0].reused, summary.unused_bytes) == (8, 0, 0)
    found, live = MelStore(store, config, eight), OnTheFlySource(eight, config.audio, config.mel)
    assert len(found) == found.usable.sum() == 8
    assert found.images(np.array([], int)).shape == (0, 40, 48, 1)
    rows = np.array([5, 0, 3, 3, *range(8)])
    if crop == "center":
        np.testing.assert_array_equal(found.images(rows), live.images(rows))
        return
    for positions in (None, *np.random.default_rng(0).random((6, 12)), np.ones(12), np.zeros(12)):
        np.testing.assert_allclose(found.images(rows, positions), live.images(rows, positions), atol=0.01)


def stop_at(n):
    def progress(done, total):
        if done == n:
            raise KeyboardInterrupt

    return progress


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
def test_what_a_crash_left_torn_is_computed_again(store, eight, name, tear, reused):
    with pytest.raises(KeyboardInterrupt):
        precompute(eight, RANDOM, store, progress=stop_at(7))
    (store / name).write_bytes(tear((store / name).read_bytes()))
    assert precompute(eight, RANDOM, store).plan.reused == reused
    assert_same_store(store, eight, RANDOM)


def test_one_writer_at_a_time_and_other_settings_but_the_images_size_make_the_store_anew(store, eight):
    def second(plan):
        with pytest.raises(DataError, match="one run at a time"):
            precompute(eight, CENTER, store)

    precompute(eight, CENTER, store, announce=second)
    wider, other = config_of("mel.width=64"), config_of("mel.n_mels=24")
    assert MelStore(store, wider, eight).images(np.array([0])).shape == (1, 40, 64, 1)
    assert precompute(eight, wider, store).plan.reused == 8
    with pytest.raises(DataError, match=r"mel\.n_mels is 32, not 24"):
        MelStore(store, other, eight)
    with pytest.raises(KeyboardInterrupt):
        precompute(eight, other, store, progress=stop_at(1))
    for unfinished in (CENTER, other):
        with pytest.raises(DataError, match=r"unfinished store.*data precompute"):
            MelStore(store, unfinished, eight)
    plan = precompute(eight, CENTER, store).plan
    assert (plan.rebuild_reason, plan.reused) == ("mel.n_mels is 24, not 32", 0)
    assert_same_store(store, eight, CENTER)


def test_new_and_changed_recordings_are_computed_and_no_others(store, eight, monkeypatch):
    monkeypatch.chdir(eight[0].parent)
    precompute([x.name for x in eight[:5]], CENTER, store)
    with pytest.raises(DataError, match=r"3 that it lacks, first .*0005\.wav.*data precompute"):
        MelStore(store, CENTER, eight)
    monkeypatch.chdir("..")
    assert precompute([*eight, "wren/0000.wav"], CENTER, store).plan.reused == 5
    assert_as_computed([eight[6], eight[1]], CENTER, store)
    soundfile.write(eight[2], soundfile.read(eight[2])[0][::-1], 16_000, "FLOAT")  # of the same size
    with pytest.raises(DataError, match=r"1 that changed, first .*0002\.wav.*data precompute"):
        MelStore(store, CENTER, eight)
    summary = precompute(eight, CENTER, store)
    assert summary.plan.reused == 7
    assert summary.unused_bytes == summary.data_bytes / 9
    assert_as_computed(eight, CENTER, store)
    size = summary.data_bytes
    os.truncate(store / DATA, size - 1)
    with pytest.raises(DataError, match=rf"must hold {size} bytes\. Received: {size - 1}"):
        MelStore(store, CENTER, eight)
    precompute(eight, CENTER, store)
    assert_as_computed(eight, CENTER, store)


def test_unreadable_files_are_left_out_with_their_reason_and_read_when_they_come_back(store, eight):
    away = eight[4].rename(eight[4].with_suffix(".away"))
    eight[1].write_bytes(b"not audio")
    eight[2].write_bytes(b"")
    soundfile.write(eight[3], np.zeros(16_000), 16_000)
    reasons = ["", "is not audio", "is empty (0 bytes)", "", "no such file", "", "", ""]
    left_out = precompute(eight, CENTER, store).left_out
    assert left_out == tuple((str(eight[i]), reasons[i]) for i in (1, 2, 4))
    found = MelStore(store, CENTER, eight)
    assert (found.usable.tolist(), found.reasons) == ([not x for x in reasons], reasons)
    with pytest.raises(DataError, match="is not audio"):
        found.images(np.array([0, 1]))
    assert (store / DATA).stat().st_size == 5 * 32 * 63 * 4
    assert precompute(eight, CENTER, store).plan.reused == 7  # the missing one is looked for again
    away.rename(eight[4])
    summary = precompute(eight, CENTER, store)
    assert (summary.plan.reused, len(summary.left_out)) == (7, 2)


def test_what_is_no_store_is_told_and_a_folder_with_other_files_not_touched(tmp_path, store):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("keep")
    for out, told in ((folder, r"new or empty folder.*thesis\.txt"), (folder / "thesis.txt", "be a folder")):
        with pytest.raises(DataError, match=told):
            precompute([], CENTER, out)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]
    with pytest.raises(DataError, match=r"finished mel store.*no store.*data precompute"):
        MelStore(store, CENTER, [])
    store.mkdir()
    for content in ("[1]", "{"):
        (store / "settings.json").write_text(content)
        for use in (MelStore, lambda store, config, paths: precompute(paths, config, store)):
            with pytest.raises(DataError, match=r"settings\.json: must be a mel store's settings"):
                use(store, CENTER, [])


def test_a_disk_too_small_is_told_before_any_work_and_one_that_fills_up_breaks_nothing(tmp_path, eight):
    paths, disk = as_many(eight, 80), tmp_path / "disk"
    store, other = disk / "store", disk / "other"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        other.write_bytes(bytes(1_990_000))
        with pytest.raises(DataError, match="must have room for the store"):
            precompute(paths, RANDOM, store, progress=stop_at(1))
        assert not (store / DATA).exists()
        for spare, at_least in ((0, 0), (100_000, 1), (600_000, 64)):
            shutil.rmtree(store)
            other.unlink(missing_ok=True)

            def fill_up(plan, spare=spare):
                other.write_bytes(bytes(plan.free_bytes - spare))

            with pytest.raises(KerasBirdsError, match=r"No space left on device\. Free some space"):
                precompute(paths, RANDOM, store, announce=fill_up)
            with pytest.raises(DataError):
                MelStore(store, RANDOM, paths)
            other.unlink()
            assert precompute(paths, RANDOM, store).plan.reused >= at_least
        shutil.copytree(store, tmp_path / "store")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert_same_store(tmp_path / "store", paths, RANDOM)


def test_memory_does_not_grow_with_the_recordings(tmp_path, eight):
    links, peaks, config = as_many(eight, 600), [], config_of("audio.crop=random", "mel.n_mels=128")
    for n in (100, 600):
        tracemalloc.start()
        summary = precompute(links[:n], config, tmp_path / f"store{n}", workers=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (summary.plan.recordings, summary.left_out) == (n, ())
    assert peaks[1] - peaks[0] < 0.25 * summary.data_bytes


def test_the_command_tells_the_size_beforehand_and_what_it_made(run_command, tmp_path, store, eight):
    def run(*arguments):
        settings = [f"--set={x}" for x in SETTINGS]
        return run_command("data", "precompute", "--data", tmp_path / "birds", *settings, *arguments)

    code, out, err = run("--out", store, "--workers", 2)
    assert (code, out) == (0, f"{store}: 8 recordings, 64.5 kB\n")
    assert f"{store}: 8 recordings; will write 64.5 kB, " in err
    assert err.endswith("B are free\n")
    assert_as_computed(eight, CENTER, store)
    soundfile.write(eight[0], np.zeros(24_000), 16_000)
    _, out, err = run(f"--set=data.store={store}")
    assert "8 recordings, 7 of them there already; will write 8.1 kB" in err
    assert out.splitlines()[1] == "8.1 kB of it are unused; delete the store to make it anew without them"
    bad, stray = eight[0].with_name("bad.wav"), tmp_path / "birds/stray.wav"
    for path in (bad, stray):
        path.touch()
    code, out, err = run("--out", store, "--set=mel.n_mels=48")
    left_out = f"1 left out:\n  {bad}: is empty (0 bytes)\n"
    assert (code, out) == (0, f"{store}: 8 recordings, 96.8 kB\n{left_out}")
    assert "9 recordings, made anew (mel.n_mels is 32, not 48); will" in err
    assert f"{stray} lies in no label's folder, left out\n" in err
    code, _, err = run()
    assert (code, "--out must name the store's folder" in err) == (2, True)
