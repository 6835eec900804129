"""The command line itself: how it is started, what its exit codes say, and that errors are one line."""

import json
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
WRONG_KEYS = "[training]\nepoch = 2\n[mel]\nn_mel = 64\n[augment.mixup]\nalfa = 0.2\n"


@pytest.fixture
def run(run_command, monkeypatch, tmp_path):
    """`run_command` in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return run_command


def child(*command, **kwargs):
    """A process that ends within a minute."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        env=ENVIRONMENT,
        text=True,
        timeout=60,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs},
    )


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


def test_without_a_command_the_help_is_shown_as_a_wrong_call(run):
    code, _, err = run()
    assert code == 2
    assert err.startswith("Usage: keras-birds [OPTIONS] COMMAND")
    assert "predict" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--nonsense",), "No such option"),
        (("predct", "a.wav"), "No such command 'predct'"),
        (("data", "chek"), "No such command 'chek'"),
        *(((*command.split(), "--nonsense"), "No such option") for command in COMMANDS),
    ],
    ids=str,
)
def test_a_wrong_option_or_command_is_a_wrong_call(run, arguments, said):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_a_wrong_setting_ends_with_2_and_failed_work_with_1_in_one_line(run, write_tone):
    code, out, err = run("train", "--config", "nonsense")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"Error: --config must be [^\n]* Received: nonsense\n", err)
    code, out, err = run("train", "--set", "training.epochs=0")
    assert code == 2
    assert re.fullmatch(r"Error: [^\n]*training\.epochs: [^\n]* Received: 0\n", err)
    code, out, err = run("predict", write_tone("a.wav", seconds=1), "--engine", "keras")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"Error: No model: [^\n]*\n", err)


def test_an_error_of_the_system_is_one_line_that_names_the_place(run, write_tone, tmp_path):
    model = write_constant_model(tmp_path / "model.onnx", [0.0] * 4)
    place = tmp_path / ("a" * 300 + ".csv")
    code, out, err = run("predict", write_tone("a.wav", seconds=2), "--model", model, "--out", place)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"Error: [^\n]*File name too long[^\n]*\n", err)
    assert str(place) in err


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


_MODULES = """
import json, sys
sys.argv = ["keras-birds", *json.loads(sys.argv[1])]
from keras_birds.cli.main import main
try:
    main()
finally:
    print("MODULES", json.dumps(sorted(sys.modules)))
"""


def test_all_wrong_keys_of_a_configuration_are_told_at_once_and_before_keras_is_imported(tmp_path):
    (tmp_path / "mine.toml").write_text(WRONG_KEYS)
    done = child("-c", _MODULES, json.dumps(["train", "--config", str(tmp_path / "mine.toml")]))
    assert done.returncode == 2
    modules = set(json.loads(done.stdout.removeprefix("MODULES ")))
    assert "pydantic" in modules
    assert not modules & {"keras", "torch", "tensorflow", "jax", "librosa"}
    assert done.stderr == (
        f"Error: {tmp_path / 'mine.toml'}: unknown key mel.n_mel (did you mean mel.n_mels?); "
        "unknown key augment.mixup.alfa (did you mean augment.mixup.alpha?); "
        "unknown key training.epoch (did you mean training.epochs?)\n"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readme_shows_every_command(command):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"keras-birds {command}\b", readme), f"no example of keras-birds {command}"
    assert f"`{command}`" in readme.rpartition("## Help")[2].replace("\n", " ")
