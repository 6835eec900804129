"""`keras-birds data precompute`, as a user runs it and as a user kills it."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from keras_birds.config import Config
from keras_birds.data.catalog import read_catalog
from keras_birds.data.mel_store import INDEX, MelStore
from keras_birds.data.source import OnTheFlySource

CLI = Path(__file__).resolve().parents[1] / "cli.py"
SMALL = [
    f"--set={setting}"
    for setting in (
        "audio.sample_rate_hz=16000",
        "audio.clip_s=1.0",
        "mel.n_fft=512",
        "mel.n_mels=40",
        "mel.f_max_hz=8000",
        "mel.height=40",
        "mel.width=48",
    )
]


@pytest.fixture
def data_dir(tmp_path):
    """A folder per label: 3 of "wren", 2 of "1139490"."""
    folder = tmp_path / "birds"
    for i, label in enumerate(["wren", "wren", "wren", "1139490", "1139490"]):
        (folder / label).mkdir(parents=True, exist_ok=True)
        samples = np.random.default_rng(i).normal(0, 0.1, 24_000 + 4000 * i)
        soundfile.write(folder / label / f"{i}.wav", samples, 16_000)
    return folder


@pytest.fixture
def run(run_command):
    """Runs `data precompute`."""
    return partial(run_command, "data", "precompute")


def config_of(*overrides):
    return Config.load("baseline", [x.removeprefix("--set=") for x in (*SMALL, *overrides)])


def test_help_shows_how_to_use_the_store(run):
    code, out, _ = run("--help")
    assert code == 0
    for word in ("--data", "--out", "--workers", "data.store=birdclef-mel", "audio.crop"):
        assert word in out


def test_writes_a_store_and_tells_its_size_beforehand(run, data_dir, tmp_path):
    store = tmp_path / "store"
    code, out, err = run("--data", data_dir, "--out", store, "--workers", 2, *SMALL)
    assert code == 0
    assert f"{store}: 5 recordings; will write 26 kB," in err
    assert out == f"{store}: 5 recordings, 26 kB\n"
    config = config_of()
    paths = list(read_catalog(data_dir, config.data).recordings["path"])
    live = OnTheFlySource(paths, config.audio, config.mel)
    found = MelStore(store, config, paths)
    np.testing.assert_array_equal(found.images(np.arange(5)), live.images(np.arange(5)))

    _, _, err = run("--data", data_dir, "--out", store, *SMALL)
    assert "5 recordings, 5 of them there already; will write 0 kB" in err
    _, _, err = run("--data", data_dir, "--out", store, *SMALL, "--set=mel.n_mels=48")
    assert "made anew (mel.n_mels is 40, not 48)" in err


def test_the_store_of_the_settings_is_the_default(run, data_dir, tmp_path):
    code, _, _ = run("--data", data_dir, *SMALL, f"--set=data.store={tmp_path / 'store'}")
    assert code == 0
    assert (tmp_path / "store" / INDEX).is_file()


def test_what_was_left_out_is_listed_with_its_reason(run, data_dir, tmp_path):
    bad, stray = data_dir / "wren" / "1.wav", data_dir / "stray.wav"
    bad.write_bytes(b"no audio")
    stray.touch()
    code, out, err = run("--data", data_dir, "--out", tmp_path / "store", *SMALL)
    assert code == 0
    assert "4 recordings" in out
    assert f"1 left out:\n  {bad}: is not audio" in out
    assert f"{stray} lies in no label's folder, left out\n" in err


def test_a_call_without_a_place_is_wrong(run, data_dir):
    code, _, err = run("--data", data_dir, *SMALL)
    assert code == 2
    assert "--out must name the store's folder" in err
