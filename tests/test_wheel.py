"""The wheel, installed in an environment of its own that sees the dependencies but not the checkout."""

import os
import re
import shutil
import site
import subprocess
import sys
import tarfile
import tomllib
import venv
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distributions, requires
from pathlib import Path

import pandas as pd
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from placeholder import LABELS, TONES_HZ

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("configs", "assets")
ABSENT = ("keras", "keras-hub", "torch", "tensorflow", "jax", "librosa", "scikit-learn", "numba", "onnx")


def test_every_package_is_listed_for_the_wheel():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for path in (ROOT / "keras_birds").rglob("*.py")}
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(settings["packages"]) == packages | {f"keras_birds._data.{name}" for name in SHIPPED}


def run(*command, cwd, timeout_s=300):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    options = {"cwd": cwd, "env": environment, "timeout": timeout_s, "text": True}
    done = subprocess.run(list(map(str, command)), capture_output=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that `python -m build` makes from its own sdist, in a copy so that the checkout stays clean."""
    source = tmp_path_factory.mktemp("build") / "source"
    leave = (
        ".git",
        ".venv*",
        ".*cache",
        "__pycache__",
        "*.egg-info",
        "build",
        "dist",
        "runs",
        "demo",
        "site",
    )
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*leave))
    has_setuptools = [int(x.version.partition(".")[0]) >= 77 for x in distributions(name="setuptools")]
    isolation = ["--no-isolation"] if any(has_setuptools) else []
    run(sys.executable, "-m", "build", *isolation, source, cwd=source.parent)
    assert list((source / "dist").glob("keras_birds-*.tar.gz"))
    (path,) = (source / "dist").glob("keras_birds-*-py3-none-any.whl")
    return path


@pytest.mark.slow
def test_the_registry_takes_both_and_the_sdist_holds_the_repository(wheel):
    (sdist,) = wheel.parent.glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel, cwd=wheel.parent)
    run(sys.executable, "-m", "check_wheel_contents", "--no-config", wheel, cwd=wheel.parent)
    with tarfile.open(sdist) as archive:
        held = {x.name.partition("/")[2] for x in archive.getmembers() if x.isfile()}
    if not (ROOT / ".git").exists():
        pytest.skip("needs a checkout to compare with")
    tracked = {x for x in run("git", "ls-files", cwd=ROOT).splitlines() if (ROOT / x).is_file()}
    assert tracked - held == {".gitignore"}


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The `bin` folder of an environment that reads dependencies, but no .pth files, from the folder of the tests'."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    (own,) = folder.rglob("site-packages")
    (own / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    install = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index")
    run(*install, "--quiet", wheel, cwd=folder)
    return folder / "bin"


@pytest.mark.slow
def test_nothing_comes_from_the_checkout_whose_files_are_all_there(environment, animals_dir, tmp_path):
    code = """
import importlib, pkgutil, sys
import keras_birds
from keras_birds.config import Config
from keras_birds.resources import resource

for module in pkgutil.walk_packages(keras_birds.__path__, "keras_birds."):
    if "._data" not in module.name and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert Config.load("baseline") == Config()
files = [m.__file__ for n, m in sys.modules.items() if n.startswith("keras_birds") and m.__file__]
print("FILES", resource("configs", "baseline.toml"), resource("assets", "README.md"), *files, sep="\\n")
"""
    found = run(environment / "python", "-c", code, cwd=tmp_path).partition("FILES\n")[2].splitlines()
    assert len(found) > 30
    assert all(path.startswith(str(environment.parent)) for path in found)
    (data,) = environment.parent.rglob("keras_birds/_data")
    for name in SHIPPED:
        run("diff", "-r", ROOT / name, data / name, cwd=tmp_path)
    command = environment / "keras-birds"
    clip = sorted((animals_dir / "train_audio" / "rooster").iterdir())[0]
    assert ",1,rooster," in run(command, "predict", clip, "--format", "csv", cwd=tmp_path)
    assert str(data / "assets" / "animals.onnx") in run(command, "info", "animals", cwd=tmp_path)


def pins(name):
    """Package, in lower case, to version."""
    lines = (ROOT / name).read_text().splitlines()
    found = (re.fullmatch(r"([\w.-]+)==(\S+)( +#.*)?", x) for x in lines if x and not x.startswith("#"))
    return {x[1].lower().replace("_", "-"): x[2] for x in found}


def test_the_pins_are_those_of_the_tested_set():
    required = pins("requirements-predict.txt")
    assert required.items() < pins("constraints.txt").items()
    assert not required.keys() & set(ABSENT)


def test_the_core_is_pinned_and_pulls_no_tensorflow():
    """All that `pip install -c constraints.txt .` brings, as the packages installed here name what they need."""
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    found, wanted = set(), [Requirement(x) for x in needed]
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.add(name)
            with suppress(PackageNotFoundError):  # pins tell whether one is missing
                wanted += map(Requirement, requires(name) or [])
    pinned = {canonicalize_name(x) for x in pins("constraints.txt")}
    assert {"torch", "onnxscript", "mpmath"} < found <= pinned | {"setuptools"}
    assert not found & {"tensorflow", "keras-hub", "librosa", "numba", "jax", "huggingface-hub"}
    assert {canonicalize_name(x) for x in pins("requirements-predict.txt")} < found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_slim_environment_predicts_and_cuts(wheel, placeholder_run, write_tone, tmp_path):
    """A new environment without keras, torch and TensorFlow, by the two commands of `requirements-predict.txt`."""
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=False)
    python, command = folder / "bin" / "python", folder / "bin" / "keras-birds"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--quiet", "-r", ROOT / "requirements-predict.txt", cwd=folder, timeout_s=800)
    run(*pip, "install", "--quiet", "--no-deps", wheel, cwd=folder)
    code = "import importlib.metadata as m\nfor x in m.distributions(): print(x.name, x.version)"
    found = run(python, "-c", code, cwd=tmp_path).lower().replace("_", "-")
    installed = dict(x.split() for x in found.splitlines())
    assert installed.pop("keras-birds")
    assert installed == {x: y for x, y in pins("requirements-predict.txt").items() if x in installed}
    for k, suffix in enumerate(("wav", "flac", "ogg", "mp3")):
        write_tone(f"disk/{k}.{suffix}", TONES_HZ[k], seconds=6, rate=24_000)
    model = ("--model", placeholder_run)
    answer = run(command, "predict", "disk/3.mp3", *model, "--figure", "clip.png", cwd=tmp_path)
    assert answer.splitlines()[2].split()[:2] == ["1", LABELS[3]]
    assert (tmp_path / "clip.png").read_bytes().startswith(b"\x89PNG")
    forms = [x for form in ("csv", "json", "parquet", "raven", "birdclef") for x in ("--format", form)]
    run(command, "detect", "disk", *model, "--out", "results", "--top-k", 1, *forms, cwd=tmp_path)
    run(command, "segments", "results", "--out", "clips", "--seconds", 1, cwd=tmp_path)
    clips = pd.read_csv(tmp_path / "clips" / "segments.csv", dtype={"label": str})
    assert {Path(x.file).stem: x.label for x in clips.itertuples()} == dict(zip("0123", LABELS, strict=True))
    assert all((tmp_path / "clips" / x).is_file() for x in clips["clip"])
    shutil.rmtree(folder)  # 700 MB


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_learns_and_says_where_everything_is(environment, tmp_path):
    command = environment / "keras-birds"
    output = run(command, "demo", cwd=tmp_path, timeout_s=800)
    said = dict(line.split(":", 1) for line in output.splitlines() if ": " in line)
    data, trained, *others = (tmp_path / said[x].strip() for x in ("Data set", "Run", "Model", "Figure"))
    assert all(place.exists() for place in others)
    assert len(list((data / "train_audio").glob("*/*.ogg"))) == 320
    history = pd.read_csv(trained / "fold0" / "history.csv")
    assert history["val_macro_auc"][0] < 0.8, "nothing was left to learn"
    assert history["val_macro_auc"].max() > 0.95
    assert float(output.split("macro ROC-AUC ")[1].split()[0]) > 0.95
    assert "Scaleclimber" in next(line for line in output.splitlines() if line.split()[:1] == ["1"])
    predict = ("predict", data / "test_soundscapes", "--model", trained, "--format", "csv")
    assert "risscl1" in run(command, *predict, cwd=tmp_path).splitlines()[1]
