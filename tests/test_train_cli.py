"""`keras-birds train`, as a user runs it, interrupts it and kills it."""

import csv
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from keras_birds.training.checkpoint import BEST, CHECKPOINT

CLI = Path(__file__).resolve().parents[1] / "cli.py"
RATE_HZ = 8000
EPOCHS = 5
SMALL = [
    "--config=smoke",
    *(
        f"--set={setting}"
        for setting in (
            f"audio.sample_rate_hz={RATE_HZ}",
            "audio.clip_s=0.5",
            "mel.n_fft=256",
            "mel.hop_samples=128",
            "mel.n_mels=16",
            "mel.n_mfcc=8",
            "mel.f_max_hz=4000",
            "mel.height=32",
            "mel.width=32",
            "folds.n_folds=2",
            "augment.time_mask.size=[2, 6]",
            f"training.epochs={EPOCHS}",
            "training.batch_size=4",
        )
    ),
]
FOLD_FILES = {"model.keras", "model.onnx", "model.json", "history.csv", "oof.parquet"}
RUN_FILES = {"config.toml", "environment.json", "split.csv", "manifest.csv"}
RUN_OF_A_FOLD = RUN_FILES | {f"fold0/{name}" for name in FOLD_FILES}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder per label: 12 recordings of "wren", 12 of "1139490"; read-only."""
    folder, rng = tmp_path_factory.mktemp("data") / "birds", np.random.default_rng(0)
    t = np.arange(RATE_HZ // 2) / RATE_HZ
    for label, tone_hz in (("wren", 800.0), ("1139490", 2200.0)):
        (folder / label).mkdir(parents=True)
        for i in range(12):
            samples = 0.3 * np.sin(2 * np.pi * tone_hz * rng.uniform(0.8, 1.2) * t) + rng.normal(
                0, 0.1, len(t)
            )
            soundfile.write(folder / label / f"{i}.wav", samples, RATE_HZ)
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
    for word in ("--data", "--fold", "--out", "--resume", "--config", "--set", "all", *FOLD_FILES, "Ctrl-C"):
        assert word in out
    assert "KERAS_BACKEND=jax" in out


@pytest.mark.parametrize("fold", ["x", "-1", "1.5", ""])
def test_a_fold_that_is_no_number_is_a_wrong_call(run, data, fold):
    code, _, err = run("--data", data, f"--fold={fold}", *SMALL)
    assert code == 2
    assert err == f"Error: --fold must be a number from 0, all or full. Received: {fold}\n"


def test_every_wrong_key_of_a_configuration_is_told_at_once(run, data, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[training]\nepoch = 3\nbatch_size = 1\n[model]\npretraind = "none"\n')
    code, _, err = run("--data", data, "--config", path)
    assert code == 2
    assert err.count("\n") == 1
    assert "unknown key training.epoch (did you mean training.epochs?)" in err
    assert "unknown key model.pretraind (did you mean model.pretrained?)" in err
    assert "training.batch_size" in err
    assert "Received: 1" in err


def test_a_missing_folder_of_data_is_a_wrong_call(run, tmp_path):
    code, _, err = run("--data", tmp_path / "none", *SMALL)
    assert code == 2
    assert err == f"Error: --data must be an existing folder. Received: {tmp_path / 'none'}\n"


def test_without_data_the_current_folder_must_be_a_data_set(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*SMALL)
    assert code == 1
    assert err.startswith(
        "Error: a data set must have the table train.csv or a folder of audio files for each label"
    )
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def files_below(folder):
    return {x.relative_to(folder).as_posix() for x in folder.rglob("*") if x.is_file()}


def start(data, out, *arguments, backend="torch", **kwargs):
    command = [sys.executable, CLI, "train", "--data", data, "--out", out, *SMALL, *arguments]
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
    clip = data / "wren" / "0.wav"
    for engine, backend in (("onnx", "torch"), ("keras", "jax")):
        done = subprocess.run(
            [sys.executable, CLI, "predict", clip, "--model", out, "--engine", engine, "--format", "csv"],
            env={**os.environ, "KERAS_BACKEND": backend},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        rows = list(csv.DictReader(done.stdout.splitlines()))
        assert {row["label"] for row in rows} == {"wren", "1139490"}
        scores = {row["label"]: float(row["score"]) for row in rows}
        if engine == "onnx":
            expected = scores
    assert scores == pytest.approx(expected, abs=1e-4)
