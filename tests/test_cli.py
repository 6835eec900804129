"""The command line itself: how it is started, what its exit codes say, and that errors are one line."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from placeholder import write_constant_model

import keras_birds
from keras_birds.cli.data import data
from keras_birds.cli.main import cli

ROOT = Path(__file__).resolve().parents[1]
CLI = ROOT / "cli.py"
COMMANDS = [*(x for x in cli.lazy if x != "data"), *(f"data {x}" for x in data.commands)]
# As in a user's shell: where Python doesn't buffer its output, a closed pipe and a full disk look different.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.fixture
def run(run_command, monkeypatch, tmp_path):
    """`run_command` in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return run_command


def start(*command, stdout=subprocess.PIPE, **options):
    options |= {"stdout": stdout, "stderr": subprocess.PIPE, "env": ENVIRONMENT, "text": True}
    return subprocess.Popen([sys.executable, *map(str, command)], **options)


def ended(process):
    """Exit code, stdout and stderr of a process that ends within a minute."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("begin", [(CLI,), ("-m", "keras_birds")], ids=["cli.py", "-m"])
def test_a_checkout_and_a_module_are_the_command(begin, tmp_path):
    version = f"keras-birds, version {keras_birds.__version__}\n"
    assert ended(start(*begin, "--version", cwd=tmp_path)) == (0, version, "")
    code, out, err = ended(start(*begin, "predict", cwd=tmp_path))
    assert (code, out) == (2, "")
    assert re.match(r"(?s)Usage: .*Missing argument 'INPUTS\.\.\.'", err)


def test_help_lists_every_command_with_its_line(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for name, (_, line) in cli.lazy.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", out, re.MULTILINE)
    code, _, err = run()
    assert code == 2
    assert re.match(r"(?s)Usage: keras-birds \[OPTIONS\] COMMAND.*predict", err)


def test_a_wrong_option_or_command_is_a_wrong_call(run):
    wrong = {"predct a.wav": "No such command 'predct'", "data chek": "No such command 'chek'"}
    wrong |= {f"{command} --nonsense": "No such option" for command in ("", *COMMANDS)}
    for words, said in wrong.items():
        code, out, err = run(*words.split())
        assert (code, out, said in err) == (2, "", True), words


def test_an_option_of_one_value_is_taken_once(run):
    for words, twice in {
        "train --fold 0 --fold 1": "--fold",
        "data soundscapes --calls 1 2 --count=3 --calls 2 3": "--calls",
        "models --format csv --format json": "--format",
        "models add a.onnx --name a --name b": "--name",
        "search s.emb --clips --no-clips": "--clips",
        "train --set a=1 --set b=2 --resume --resume --fold 0 --help": "",
        "app --folder a --help -- --server.port 1 --server.port 2": "",
    }.items():
        code, _, err = run(*words.split())
        said = f"Error: {twice} must be given once. Received: it 2 times; keep one\n"
        assert (code, err.endswith(said)) == ((2, True) if twice else (0, False)), (words, err)


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
def test_a_full_disk_below_stdout_is_one_line(write_tone):
    clip = write_tone("a.wav", seconds=2)
    for arguments in (["--version"], ["predict", "--help"], ["predict", clip, "--model", "animals"]):
        with Path("/dev/full").open("w") as full:
            found = ended(start(CLI, *arguments, stdout=full))
        assert found == (1, None, "Error: No space left on device\n")


@pytest.mark.skipif(os.name != "posix", reason="closes a stream as a POSIX shell does")
@pytest.mark.parametrize("descriptor", [1, 2])
def test_closed_streams_are_no_trouble(descriptor):
    code, out, err = ended(start(CLI, "--help", preexec_fn=lambda: os.close(descriptor)))
    assert (code, err, "Usage:" in out) == (0, "", descriptor == 2)


def test_ctrl_c_ends_with_one_word_and_a_closed_pipe_without_any(placeholder_run, write_tone, tmp_path):
    clip, many, answered = (
        write_tone("one.wav", 1200, 2, 16_000),
        tmp_path / "many",
        tmp_path / "out" / "a.csv",
    )
    for folder in (many, answered.parent):
        folder.mkdir()
    for i in range(5000):
        os.link(clip, many / f"{i:05}{'-' * 200}.wav")  # names that fill a pipe's buffer soon
    command = (CLI, "predict", many, "--model", placeholder_run, "--format", "csv")
    with start(*command) as process:
        header = process.stdout.readline()
        process.stdout.close()
        assert (process.stderr.read(), process.wait(60)) == ("", 1)
    assert header == "file,rank,label,scientific_name,common_name,class_name,score\n"
    (many / "0.wav").touch()
    process = start(*command, "--out", answered)
    # Named on stderr as soon as scoring begins.
    assert process.stderr.readline().startswith(f"Failed: {many / '0.wav'}")
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert (code, err.strip()) == (130, "Stopped.")
    assert list(answered.parent.iterdir()) == []


def test_a_wrong_configuration_is_told_before_keras_is_imported():
    program = "import sys; from keras_birds.cli.main import main\ntry: main()\nfinally: print(*sys.modules)"
    code, out, _ = ended(start("-c", program, "train", "--config", "nonsense"))
    assert code == 2
    assert not {"keras", "torch", "tensorflow", "jax", "librosa"} & set(out.split())
