"""The command line itself: how it is started, what its exit codes say, and that errors are one line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from constant_model import write_constant_model

import keras_birds
from keras_birds.cli.data import data
from keras_birds.cli.main import cli

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = [*(x for x in cli.lazy if x != "data"), *(f"data {x}" for x in data.commands)]
# As in a user's shell: where Python doesn't buffer its output, a full disk looks different.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.fixture
def run(run_command, monkeypatch, tmp_path):
    """`run_command` in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return run_command


def child(*command, **kwargs):
    """A process that ends within a minute."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs}
    words = [sys.executable, *map(str, command)]
    return subprocess.run(words, env=ENVIRONMENT, text=True, timeout=60, **pipes)


@pytest.mark.parametrize("start", [(ROOT / "cli.py",), ("-m", "keras_birds")], ids=["cli.py", "-m"])
def test_a_checkout_and_a_module_are_the_command(start, tmp_path):
    version = child(*start, "--version", cwd=tmp_path)
    assert (version.returncode, version.stderr) == (0, "")
    assert version.stdout == f"keras-birds, version {keras_birds.__version__}\n"
    wrong = child(*start, "predict", cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("Usage: ")
    assert "Missing argument 'INPUTS...'" in wrong.stderr


def test_help_lists_every_command_with_its_line(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for name, (_, line) in cli.lazy.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", out, re.MULTILINE)
    code, _, err = run()
    assert code == 2
    assert err.startswith("Usage: keras-birds [OPTIONS] COMMAND")
    assert "predict" in err


def test_a_wrong_option_or_command_is_a_wrong_call(run):
    wrong = {"predct a.wav": "No such command 'predct'", "data chek": "No such command 'chek'"}
    wrong |= {f"{command} --nonsense": "No such option" for command in ("", *COMMANDS)}
    for words, said in wrong.items():
        code, out, err = run(*words.split())
        assert (code, out) == (2, ""), words
        assert said in err


def test_a_wrong_setting_ends_with_2_and_failed_work_with_1_in_one_line(run, write_tone, tmp_path):
    clip, model = write_tone("a.wav", seconds=2), write_constant_model(tmp_path / "model.onnx", [0.0] * 4)
    place = tmp_path / ("a" * 300 + ".csv")
    for words, expected, said in (
        (("train", "--config", "nonsense"), 2, r"--config must be .* Received: nonsense"),
        (("train", "--set", "training.epochs=0"), 2, r".*training\.epochs: .* Received: 0"),
        (("predict", clip, "--engine", "keras"), 1, "No model: .*"),
        (("predict", clip, "--model", model, "--out", place), 1, f".*{place}.*File name too long.*"),
    ):
        code, out, err = run(*words)
        assert (code, out) == (expected, "")
        assert re.fullmatch(rf"Error: {said}\n", err)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_below_stdout_is_one_line(tmp_path):
    for arguments in (["--version"], ["predict", "--help"]):
        with Path("/dev/full").open("w") as full:
            done = child(ROOT / "cli.py", *arguments, stdout=full)
        assert done.returncode == 1
        assert done.stderr == "Error: No space left on device\n"


@pytest.mark.skipif(os.name != "posix", reason="closes a stream as a POSIX shell does")
@pytest.mark.parametrize("descriptor", [1, 2])
def test_closed_streams_are_no_trouble(descriptor):
    done = child(ROOT / "cli.py", "--help", preexec_fn=lambda: os.close(descriptor))
    assert done.returncode == 0
    assert done.stderr == ""
    assert ("Usage:" in done.stdout) == (descriptor == 2)


def test_a_wrong_configuration_is_told_before_keras_is_imported():
    code = "import sys; from keras_birds.cli.main import main\ntry: main()\nfinally: print(*sys.modules)"
    done = child("-c", code, "train", "--config", "nonsense")
    assert done.returncode == 2
    assert not {"keras", "torch", "tensorflow", "jax", "librosa"} & set(done.stdout.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readme_shows_every_command(command):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"keras-birds {command}\b", readme), f"no example of keras-birds {command}"
    assert f"`{command}`" in readme.rpartition("## Help")[2].replace("\n", " ")
