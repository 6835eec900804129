import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from keras_birds.cli.data import data
from keras_birds.cli.main import cli

HEAVY = ("keras", "keras_hub", "torch", "tensorflow", "jax")
_REPORT = """
import json, sys
sys.argv = ["keras-birds", *json.loads(sys.argv[1])]
from keras_birds.cli.main import main
try:
    main()
finally:
    print("MODULES", json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def imported_by(*args) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", _REPORT, json.dumps(list(map(str, args)))], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.rpartition("MODULES ")[2]))


def test_help_imports_click_and_little_else():
    modules = imported_by("--help")
    assert "click" in modules
    assert not modules & {*HEAVY, "numpy", "pydantic", "pandas", "scipy"}


def test_predict_with_an_onnx_model_imports_no_keras_torch_or_tensorflow(
    placeholder_run, write_tone, tmp_path
):
    clip = write_tone("clip.ogg", 1200.0)
    modules = imported_by("predict", clip, "--model", placeholder_run, "--figure", tmp_path / "clip.png")
    assert {"onnxruntime", "matplotlib"} <= modules
    assert not modules & {*HEAVY, "librosa", "keras_birds.nn", "keras_birds.training"}


def test_the_keras_engine_imports_keras_so_that_the_test_above_can_fail(placeholder_run, write_tone):
    modules = imported_by("predict", write_tone("clip.wav"), "--model", placeholder_run, "--engine", "keras")
    assert "keras" in modules


def test_importing_the_package_imports_no_keras_torch_or_tensorflow():
    code = f"import keras_birds, sys; print([x for x in {HEAVY} if x in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


COMMANDS = [(), *((name,) for name in cli.lazy), *(("data", name) for name in data.lazy)]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(words):
    answer = CliRunner().invoke(cli, [*words, "--help"])
    assert answer.exit_code == 0, answer.output
    usage, _, text = answer.output.partition("\n")
    assert usage.startswith("Usage:")
    assert "keras-birds " + " ".join(words) in text
