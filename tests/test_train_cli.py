"""`keras-birds train`, as a user runs it, interrupts it and kills it."""

import io
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from small_run import FOLD_FILES, LABELS, RUN_FILES, files_below, make_config, make_data

from keras_birds.training.callbacks import BEST, CHECKPOINT

CLI = Path(__file__).resolve().parents[1] / "cli.py"
EPOCHS = 5
RUN_OF_A_FOLD = RUN_FILES | {f"fold0/{name}" for name in FOLD_FILES}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Beside settings to train on it; read-only."""
    folder = make_data(tmp_path_factory.mktemp("data") / "birds")
    (folder.parent / "small.toml").write_text(make_config(epochs=EPOCHS).to_toml())
    return folder


@pytest.mark.parametrize(
    ("call", "code", "error"),
    [
        ("--fold=-1", 2, r"--fold must be a number from 0, all or full\. Received: -1"),
        ("--fold=", 2, r"--fold must be a number from 0, all or full\. Received: "),
        ("--data=none", 2, r"--data must be an existing folder\. Received: none"),
        # Without --data the current folder must be a data set.
        ("--config=smoke", 1, "a data set must have the table train.csv or a folder of audio files for each"),
        ("--set=training.epoch=3 --set=training.batch_size=1", 2, r".*batch_size.*epoch \(did you mean"),
    ],
)
def test_what_can_not_be_trained_is_told_in_a_line(run_command, tmp_path, monkeypatch, call, code, error):
    monkeypatch.chdir(tmp_path)
    found, out, err = run_command("train", *call.split())
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert re.match(f"Error: {error}", err)
    assert list(tmp_path.iterdir()) == []


def start(*arguments, backend="torch", **kwargs):
    environment = {**os.environ, "KERAS_BACKEND": backend}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, CLI, *map(str, arguments)], env=environment, **pipes, **kwargs)


def start_training(data, out, *arguments, **kwargs):
    settings = "--config", data.parent / "small.toml"
    return start("train", "--data", data, "--out", out, *settings, *arguments, **kwargs)


def end(child, code=0):
    """What the command said on stdout and stderr."""
    out, err = child.communicate(timeout=250)
    assert child.returncode == code, err
    assert "Traceback" not in err
    return out, err


def wait_for(child, path):
    while child.poll() is None and not path.is_file():
        time.sleep(0.002)


def limit_files():
    """As a disk that has room for the best weights (16 MB), but not for the optimizer's beside them (48 MB)."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, 20_000_000))


@pytest.mark.slow
def test_a_full_disk_then_ctrl_c_then_kill_9_then_resume_give_what_an_uninterrupted_run_gives(data, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "run"
    said, err = end(start_training(data, whole))
    head, row, *places = said.splitlines()
    assert (head.split(), row.split()[0]) == (["fold", "macro", "AUC", "kept", "epoch"], "0")
    assert places == [f"Run: {whole}", f"Next: keras-birds predict clip.ogg --model {whole}"]
    assert err.count(f"/{EPOCHS}  loss ") == EPOCHS

    said, err = end(start_training(data, out, preexec_fn=limit_files), 1)
    (line,) = [x for x in err.splitlines() if x.startswith("Error")]
    assert (said, line) == ("", err.splitlines()[-1])
    checkpoint, best = f"fold0/{CHECKPOINT}", f"fold0/{BEST}"
    assert f"{out / checkpoint} can't be written. Received: File too large. Free some space" in line
    assert files_below(out) == RUN_FILES | {best}

    child = start_training(data, out, "--resume")
    wait_for(child, out / checkpoint)
    child.send_signal(signal.SIGINT)
    said, err = end(child, 130)
    assert said == ""
    assert "Stopped. The same command with --resume goes on after the last whole epoch." in err.splitlines()
    assert files_below(out) == RUN_FILES | {best, checkpoint}

    child, delay_s = start_training(data, out, "--resume"), random.uniform(0, 8)
    print(f"killed after {delay_s} s")  # a failure must be repeatable
    time.sleep(delay_s)
    child.kill()
    child.communicate()
    end(start_training(data, out, "--resume"))
    histories = [pd.read_csv(x / "fold0" / "history.csv").drop(columns="seconds") for x in (whole, out)]
    assert len(histories[0]) == EPOCHS
    pd.testing.assert_frame_equal(*histories, rtol=1e-5, atol=1e-5)
    scores = [pd.read_parquet(x / "fold0" / "oof.parquet") for x in (whole, out)]
    pd.testing.assert_frame_equal(*scores, rtol=1e-5, atol=1e-5)
    assert files_below(whole) == files_below(out) == RUN_OF_A_FOLD


@pytest.mark.slow
def test_jax_trains_and_its_run_predicts(data, tmp_path):
    out = tmp_path / "run"
    said, _ = end(start_training(data, out, "--set=training.epochs=1", backend="jax"))
    assert f"Run: {out}" in said
    assert '"backend": "jax"' in (out / "environment.json").read_text()
    assert files_below(out) == RUN_OF_A_FOLD
    scores = []
    for engine, backend in (("onnx", "torch"), ("keras", "jax")):
        command = (
            "predict",
            data / "train_audio/wren/0.wav",
            "--model",
            out,
            "--engine",
            engine,
            "--format",
            "csv",
        )
        table = pd.read_csv(io.StringIO(end(start(*command, backend=backend))[0]), dtype={"label": str})
        scores.append(dict(zip(table["label"], table["score"], strict=True)))
    assert set(scores[0]) == set(LABELS)
    assert scores[1] == pytest.approx(scores[0], abs=1e-4)
