"""Begins a run directory or opens it again, and records in it what a result depends on."""

import json
import os
import platform
import re
import subprocess
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import keras

import keras_birds
from keras_birds.atomic import atomic_path
from keras_birds.config import Config, diff_configs
from keras_birds.errors import ConfigError, DataError
from keras_birds.run_layout import CONFIG, ENVIRONMENT, RUNS_DIR

# What `atomic_path` calls a file before it is whole; Keras insists on its own suffix.
_LEFTOVER = re.compile(r"\..+\.\d+\.(tmp|keras)")

_PACKAGES = (
    *("keras", "torch", "jax", "tensorflow"),
    *("numpy", "scipy", "scikit-learn", "soundfile", "soxr", "onnx", "onnxruntime"),
)


def open_directory(out: Path | None, config: Config, data: Path, digest: str, resume: bool) -> Path:
    """Makes the folder of a new run, by default below `runs/` and named after the time, or finds the one to go on with.

    Raises:
        ConfigError: if the folder holds something already, or no run, or one of other settings; it names each.
        DataError: if the data set, whose `data_hash` is `digest`, isn't the one that the run began with.
    """
    directory = _reopened(out, config) if resume else out or RUNS_DIR / time.strftime("%Y%m%d-%H%M%S")
    remove_leftovers(directory)
    if not resume:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise ConfigError(
                f"--out must be a new or empty folder. Received: {directory}; choose another, or pass --resume to go "
                "on with it"
            )
        directory.mkdir(parents=True, exist_ok=True)
        _write(directory / CONFIG, config.to_toml())
    stored = read_environment(directory, "data_hash")
    if stored is None:
        _write_environment(directory, config.training.seed, data, digest)
    elif stored != digest:
        raise DataError(
            f"--resume must use the data set that {directory} began with. Received: recordings or labels that changed "
            "since; start a new run"
        )
    return directory


def _reopened(out: Path | None, config: Config) -> Path:
    """A run of these settings, by default the newest below `runs/`."""
    rule = "--resume must find a run. Received: "
    if out is None:
        runs = [x.parent for x in RUNS_DIR.glob(f"*/{CONFIG}")]
        if not runs:
            raise ConfigError(f"{rule}none in {RUNS_DIR}/; pass --out RUN, or start one")
        out = max(runs, key=lambda x: ((x / CONFIG).stat().st_mtime_ns, x.name))
    if not (out / CONFIG).is_file():
        raise ConfigError(f"{rule}{out}, without {CONFIG}; start it without --resume")
    different = diff_configs(Config.load(out / CONFIG), config)
    if different:
        differences = [f"{key} is {wanted!r}, was {stored!r}" for key, (stored, wanted) in different.items()]
        raise ConfigError(
            f"--resume must use the settings that {out} began with. Received: {'; '.join(differences)}; pass the "
            "same --config and --set"
        )
    return out


def remove_leftovers(folder: Path) -> None:
    """Removes what a process that was killed in the middle of a write left in a folder: half a file each."""
    for path in folder.glob(".*"):
        if _LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _write_environment(out: Path, seed: int, data: Path, data_hash: str) -> None:
    """What a result depends on, and where the data set lies."""
    versions = {"keras-birds": keras_birds.__version__}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    environment = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "backend": keras.config.backend(),
        "device": gpu_name() or f"cpu ({platform.machine()})",
        "seed": seed,
        "git_revision": _git_revision(),
        "data": str(data.resolve()),
        "data_hash": data_hash,
        "versions": versions,
    }
    _write(out / ENVIRONMENT, json.dumps(environment, indent=2) + "\n")


def read_data_dir(out: Path) -> Path | None:
    """Where the data set of a run lay when it began; `None` where the run hasn't got as far, or it is there no more."""
    found = read_environment(out, "data")
    return Path(found) if found and Path(found).is_dir() else None


def read_environment(out: Path, key: str) -> str | None:
    """An entry of what `write_environment` wrote; `None` where the run hasn't got as far."""
    try:
        return str(json.loads((out / ENVIRONMENT).read_text(encoding="utf-8"))[key])
    except (OSError, ValueError, KeyError):
        return None


def gpu_name() -> str:
    """The GPU that the backend computes on; empty without one."""
    backend = keras.config.backend()
    if backend == "torch":
        import torch

        return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else ""
    gpus = [str(x) for x in keras.distribution.list_devices() if str(x).startswith(("gpu", "cuda", "rocm"))]
    return gpus[0] if gpus else ""


def _git_revision() -> str:
    """Of the checkout that keras_birds is imported from; empty for an installed package."""
    root = Path(keras_birds.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
