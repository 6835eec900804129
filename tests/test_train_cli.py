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
from small_run import FOLD_FILES, RUN_FILES, files_below, make_config, write_tones

from keras_birds.training.checkpoint import BEST, CHECKPOINT

CLI = Path(__file__).resolve().parents[1] / "cli.py"
EPOCHS = 5
RUN_OF_A_FOLD = RUN_FILES | {f"fold0/{name}" for name in FOLD_FILES}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """12 recordings of "wren" and 12 of "1139490" in a folder each, beside settings to train on them; read-only."""
    folder = tmp_path_factory.mktemp("data") / "birds"
    write_tones(folder, ("wren", "1139490"), (800.0, 2200.0), 12)
    settings = make_config(epochs=EPOCHS).to_toml().replace('"column"', '"stratified"')
    (folder.parent / "small.toml").write_text(settings)
    return folder


@pytest.fixture
def run(run_command):
    """Runs the command in this process: exit code, stdout, stderr. A failed one says why in one line."""

    def call(*arguments):
        code, out, err = run_command("train", *arguments)
        if code:
            assert out == ""
            assert err.startswith(("Error: ", "Usage: "))
        return code, out, err

    return call


def test_help_names_every_option_and_what_a_run_holds(run):
    code, out, _ = run("--help")
    assert code == 0
    options = (
        "--data",
        "--fold",
        "--out",
        "--resume",
        "--config",
        "--set",
        "all",
        "Ctrl-C",
        "KERAS_BACKEND=jax",
    )
    assert {x for x in (*options, *FOLD_FILES) if x not in out} == set()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("--fold=-1", "--fold must be a number from 0, all or full. Received: -1"),
        ("--fold=1.5", "--fold must be a number from 0, all or full. Received: 1.5"),
        ("--fold=", "--fold must be a number from 0, all or full. Received: "),
        ("--data=none", "--data must be an existing folder. Received: none"),
    ],
)
def test_a_wrong_call_is_told(run, data, call, error):
    assert run("--data", data, call) == (2, "", f"Error: {error}\n")


@pytest.mark.parametrize(
    ("call", "code", "error"),
    [
        # Without --data the current folder must be a data set.
        (
            "--config=smoke",
            1,
            "Error: a data set must have the table train.csv or a folder of audio files for each",
        ),
        (
            "--set=training.epoch=3 --set=training.batch_size=1",
            2,
            r".*batch_size.*training.epoch \(did you mean",
        ),
    ],
)
def test_what_can_not_be_trained_is_told_in_a_line(run, tmp_path, monkeypatch, call, code, error):
    monkeypatch.chdir(tmp_path)
    found, _, err = run(*call.split())
    assert (found, err.count("\n")) == (code, 1)
    assert re.match(error, err)
    assert list(tmp_path.iterdir()) == []


def start(data, out, *arguments, backend="torch", **kwargs):
    settings = ("--config", data.parent / "small.toml", "--set=folds.n_folds=2")
    command = [sys.executable, CLI, "train", "--data", data, "--out", out, *settings, *arguments]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(list(map(str, command)), env=environment, **pipes, **kwargs)


def end(child, code=0):
    """What the command said on stdout and stderr."""
    out, err = child.communicate(timeout=250)
    assert child.returncode == code, err
    assert "Traceback" not in err
    return out, err


def wait_for(child, condition):
    while child.poll() is None and not condition():
        time.sleep(0.002)


def assert_same_outcome(run, other):
    histories = [pd.read_csv(x / "fold0" / "history.csv").drop(columns="seconds") for x in (run, other)]
    assert len(histories[0]) == EPOCHS
    pd.testing.assert_frame_equal(*histories, rtol=1e-5, atol=1e-5)
    scores = [pd.read_parquet(x / "fold0" / "oof.parquet") for x in (run, other)]
    pd.testing.assert_frame_equal(*scores, rtol=1e-5, atol=1e-5)
    assert files_below(run) == files_below(other) == RUN_OF_A_FOLD


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    said, err = end(start(data, out))
    lines = said.splitlines()
    assert lines[0].split() == ["fold", "macro", "AUC", "kept", "epoch"]
    assert lines[1].split()[0] == "0"
    assert lines[2:] == [f"Run: {out}", f"Next: keras-birds predict clip.ogg --model {out}"]
    assert err.count(f"/{EPOCHS}  loss ") == EPOCHS
    return out


@pytest.mark.slow
def test_kill_9_at_any_moment_and_resume_give_what_an_uninterrupted_run_gives(data, whole, tmp_path):
    out = tmp_path / "run"
    fold, rng = out / "fold0", random.Random(time.time_ns())
    moments = [
        ("a new run", lambda: (out / "manifest.csv").is_file(), 3.0),
        ("the first epochs", lambda: (fold / CHECKPOINT).is_file(), 1.0),
        ("the last files", lambda: (fold / "history.csv").is_file(), 2.0),
    ]
    kills = []
    for name, moment, most_s in moments:
        child = start(data, out, *(["--resume"] if (out / "config.toml").is_file() else []))
        wait_for(child, moment)
        delay_s = rng.uniform(0, most_s)
        time.sleep(delay_s)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        kills.append((name, round(delay_s, 3), child.returncode, sorted(files_below(out))))
    print(kills)  # the moments are random: a failure must be repeatable
    assert [code for _, _, code, _ in kills].count(-signal.SIGKILL) >= 2
    end(start(data, out, "--resume"))
    assert_same_outcome(out, whole)


def limit_files():
    """As a disk that has room for the best weights (16 MB), but not for the optimizer's beside them (48 MB)."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, 20_000_000))


@pytest.mark.slow
def test_a_full_disk_then_ctrl_c_then_resume_give_what_an_uninterrupted_run_gives(data, whole, tmp_path):
    out = tmp_path / "run"
    said, err = end(start(data, out, preexec_fn=limit_files), 1)
    assert said == ""
    (line,) = [x for x in err.splitlines() if x.startswith("Error")]
    assert line == err.splitlines()[-1]
    assert f"{out / 'fold0' / CHECKPOINT} can't be written. Received: File too large. Free some space" in line
    assert files_below(out) == RUN_FILES | {f"fold0/{BEST}"}

    child = start(data, out, "--resume")
    wait_for(child, (out / "fold0" / CHECKPOINT).is_file)
    child.send_signal(signal.SIGINT)
    said, err = end(child, 130)
    assert said == ""
    assert "Stopped. The same command with --resume goes on after the last whole epoch." in err.splitlines()
    assert files_below(out) == RUN_FILES | {f"fold0/{BEST}", f"fold0/{CHECKPOINT}"}

    _, err = end(start(data, out, "--resume"))
    assert "fold 0: goes on after epoch " in err
    assert_same_outcome(out, whole)


@pytest.mark.slow
def test_jax_trains_and_its_run_predicts(data, tmp_path):
    out = tmp_path / "run"
    said, _ = end(start(data, out, "--set=training.epochs=1", backend="jax"))
    assert f"Run: {out}" in said
    assert '"backend": "jax"' in (out / "environment.json").read_text()
    assert files_below(out) == RUN_OF_A_FOLD
    scores = []
    for engine, backend in (("onnx", "torch"), ("keras", "jax")):
        command = ("predict", data / "wren" / "0.wav", "--model", out, "--engine", engine, "--format", "csv")
        environment = {**os.environ, "KERAS_BACKEND": backend}
        done = subprocess.run(
            [sys.executable, CLI, *command], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        table = pd.read_csv(io.StringIO(done.stdout), dtype={"label": str})
        scores.append(dict(zip(table["label"], table["score"], strict=True)))
    assert set(scores[0]) == {"wren", "1139490"}
    assert scores[1] == pytest.approx(scores[0], abs=1e-4)
