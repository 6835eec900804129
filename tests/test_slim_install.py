"""`requirements-predict.txt`: a new environment without keras, torch and TensorFlow that predicts."""

import json
import re
import shutil
import sys
import venv

import numpy as np
import pandas as pd
import pytest
import soundfile
from placeholder import LABELS, TONES_HZ
from test_wheel import ROOT, run, wheel  # noqa: F401 - a fixture

ABSENT = ("keras", "keras-hub", "torch", "tensorflow", "jax", "librosa", "scikit-learn", "numba", "onnx")


def pins(name):
    """Package, in lower case, to version."""
    lines = (ROOT / name).read_text().splitlines()
    found = (re.fullmatch(r"([\w.-]+)==(\S+)( +#.*)?", x) for x in lines if x and not x.startswith("#"))
    return {x[1].lower().replace("_", "-"): x[2] for x in found}


def test_the_pins_are_those_of_the_tested_set():
    required = pins("requirements-predict.txt")
    assert required.items() < pins("constraints.txt").items()
    assert not required.keys() & set(ABSENT)


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):  # noqa: F811
    """The `bin` folder of a new environment, set up by the two commands that the file names."""
    folder = tmp_path_factory.mktemp("slim") / "venv"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    install = (*pip, "install", "--quiet")
    run(*install, "-r", ROOT / "requirements-predict.txt", cwd=folder, timeout_s=800)
    run(*install, "--no-deps", wheel, cwd=folder)
    yield folder / "bin"
    shutil.rmtree(folder)  # 700 MB


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_slim_environment_predicts_and_cuts(environment, placeholder_run, write_tone, tmp_path):
    code = "import json, importlib.metadata as m; print(json.dumps({x.name: x.version for x in m.distributions()}))"
    found = json.loads(run(environment / "python", "-c", code, cwd=tmp_path))
    installed = {name.lower().replace("_", "-"): version for name, version in found.items()}
    assert installed.pop("keras-birds")
    assert installed == {x: y for x, y in pins("requirements-predict.txt").items() if x in installed}
    assert not installed.keys() & set(ABSENT)
    command = environment / "keras-birds"

    rates = {"rate": 24_000, "seconds": 6}
    for k, suffix in enumerate(("wav", "flac", "ogg", "mp3")):
        clip = write_tone(f"disk/P{k}_20250601_0{k}3000.{suffix}", TONES_HZ[k], **rates)
    answer = run(
        *(command, "predict", clip, "--model", placeholder_run, "--format", "csv", "--figure", "clip.png"),
        cwd=tmp_path,
    )
    assert answer.splitlines()[1].split(",")[2] == LABELS[3]
    assert (tmp_path / "clip.png").read_bytes().startswith(b"\x89PNG")

    (tmp_path / "thresholds.csv").write_text("label,threshold\n" + "".join(f"{x},0.05\n" for x in LABELS))
    run(
        *(command, "detect", "disk", "--model", placeholder_run, "--out", "results", "--overlap", 1),
        *("--threshold", "thresholds.csv", "--top-k", 1, "--keep-scores"),
        *(x for form in ("csv", "json", "parquet", "raven", "birdclef") for x in ("--format", form)),
        cwd=tmp_path,
    )
    table = pd.read_csv(tmp_path / "results" / "detections.csv", dtype={"label": str})
    assert list(table.groupby("file")["label"].unique().map(list)) == [[x] for x in LABELS]
    assert (tmp_path / "results" / "submission.csv").is_file()
    assert (tmp_path / "results" / "activity.png").is_file()

    run(command, "segments", "results", "--out", "clips", "--seconds", 1, cwd=tmp_path)
    clips = pd.read_csv(tmp_path / "clips" / "segments.csv", dtype={"label": str})
    assert set(clips["label"]) == set(LABELS)
    for row in clips.itertuples():
        samples, rate_hz = soundfile.read(tmp_path / "clips" / row.clip)
        loudest_hz = np.abs(np.fft.rfft(samples)).argmax() * rate_hz / len(samples)
        assert loudest_hz == pytest.approx(TONES_HZ[LABELS.index(row.label)], abs=2)
