"""`keras-birds data precompute`, as a user runs it and as a user kills it."""

from functools import partial

import numpy as np
import pytest
import soundfile

from keras_birds.config import Config
from keras_birds.data.catalog import read_catalog
from keras_birds.data.mel_store import MelStore
from keras_birds.data.source import OnTheFlySource

SETTINGS = (
    *("audio.sample_rate_hz=16000", "audio.clip_s=1.0", "mel.n_fft=512", "mel.n_mels=40"),
    *("mel.f_max_hz=8000", "mel.height=40", "mel.width=48"),
)
SMALL = [f"--set={x}" for x in SETTINGS]


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
def run(run_command, data_dir):
    return partial(run_command, "data", "precompute", "--data", data_dir)


def test_writes_a_store_and_tells_its_size_beforehand(run, data_dir, tmp_path):
    store = tmp_path / "store"
    code, out, err = run("--out", store, "--workers", 2, *SMALL)
    assert (code, out) == (0, f"{store}: 5 recordings, 25.6 kB\n")
    assert f"{store}: 5 recordings; will write 25.6 kB, " in err
    assert err.endswith("B are free\n")
    config = Config.load("baseline", SETTINGS)
    paths = list(read_catalog(data_dir, config.data).recordings["path"])
    live = OnTheFlySource(paths, config.audio, config.mel)
    found = MelStore(store, config, paths)
    np.testing.assert_array_equal(found.images(np.arange(5)), live.images(np.arange(5)))

    soundfile.write(data_dir / "wren/0.wav", np.zeros(24_000), 16_000)
    _, out, err = run(*SMALL, f"--set=data.store={store}")
    assert "5 recordings, 4 of them there already; will write 5.1 kB" in err
    assert out.splitlines()[1] == "5.1 kB of it are unused; delete the store to make it anew without them"
    _, _, err = run("--out", store, *SMALL, "--set=mel.n_mels=48")
    assert "5 recordings, made anew (mel.n_mels is 40, not 48); will" in err


def test_what_was_left_out_is_listed_with_its_reason(run, data_dir, tmp_path):
    bad, stray = [data_dir / f"wren/{i:02}.wav" for i in range(21)], data_dir / "stray.wav"
    for path in (*bad, stray):
        path.touch()
    code, out, err = run("--out", tmp_path / "store", *SMALL)
    listed = [f"  {path}: is empty (0 bytes)" for path in bad[:20]]
    more = "  and 1 more; `keras-birds data check` lists all"
    assert (code, out.splitlines()[1:]) == (0, ["21 left out:", *listed, more])
    assert out.startswith(f"{tmp_path / 'store'}: 5 recordings, ")
    assert f"{stray} lies in no label's folder, left out\n" in err


def test_a_call_without_a_place_is_wrong(run):
    code, _, err = run(*SMALL)
    assert code == 2
    assert "--out must name the store's folder" in err
