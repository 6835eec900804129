"""`keras-birds demo` as a newcomer runs it."""

import subprocess
import sys
import time

import pandas as pd
import pytest

GOAL_S = 180


def demo(folder) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "keras_birds", "demo"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_demo_learns_and_says_where_everything_is(tmp_path):
    began = time.monotonic()
    output = demo(tmp_path)
    assert time.monotonic() - began < GOAL_S
    said = dict(line.split(":", 1) for line in output.splitlines() if ": " in line)
    places = {name: tmp_path / said[name].strip() for name in ("Data set", "Run", "Model", "Figure")}
    assert all(place.exists() for place in places.values())
    assert len(list((places["Data set"] / "train_audio").glob("*/*.ogg"))) == 320

    history = pd.read_csv(places["Run"] / "fold0" / "history.csv")
    assert history["val_macro_auc"][0] < 0.8, "nothing was left to learn"
    assert history["val_macro_auc"].max() > 0.95
    assert float(output.split("macro ROC-AUC ")[1].split()[0]) > 0.95
    top = next(line for line in output.splitlines() if line.split()[:1] == ["1"])
    assert "Scaleclimber" in top

    table = places["Data set"] / "train.csv"
    made = table.stat().st_mtime_ns
    predict = [sys.executable, "-m", "keras_birds", "predict", str(places["Data set"] / "test_soundscapes")]
    answer = subprocess.run(
        [*predict, "--model", str(places["Run"]), "--format", "csv"], capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    assert "risscl1" in answer.stdout.splitlines()[1]
    assert table.stat().st_mtime_ns == made
