import os
import re
from pathlib import Path

import pytest

from keras_birds.errors import ConfigError, ModelError
from keras_birds.models.find import finished_models, resolve_model
from keras_birds.resources import resource

SHIPPED = str(resource("assets", "animals.onnx"))
KERAS_ONLY = "runs/r/fold0/model.keras runs/r/fold0/model.json"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Makes empty files below the current folder, as old as their place in the list: `files("r/fold0/model.onnx")`."""
    monkeypatch.chdir(tmp_path)

    def make(*names):
        for age_s, name in enumerate(names):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).touch()
            os.utime(name, (9000 - age_s, 9000 - age_s))

    return make


@pytest.mark.parametrize(
    ("there", "path", "engine", "found"),
    [
        # A fold is its ONNX file unless Keras is asked for, and a copied one may be called anything.
        ("r/fold3/model.onnx r/fold3/model.keras", "r/fold3", None, "r/fold3/model.onnx"),
        ("r/fold3/model.onnx r/fold3/model.keras", "r/fold3", "keras", "r/fold3/model.keras"),
        ("copied/model.onnx", "copied", None, "copied/model.onnx"),
        # A run is all its finished folds in numerical order.
        (
            "r/fold10/model.onnx r/fold2/model.onnx r/fold1/model.keras r/notes/model.onnx",
            *("r", None, "r/fold2/model.onnx r/fold10/model.onnx"),
        ),
        (
            "r/fold2/model.keras r/fold2/model.json r/fold1/model.keras r/fold10/model.keras r/fold10/model.json",
            *("r", "keras", "r/fold2/model.keras r/fold10/model.keras"),
        ),
        # The newest run is the one trained last.
        (
            "runs/c/fold0/model.keras runs/a/fold0/model.onnx runs/b/fold0/model.onnx",
            *(None, None, "runs/a/fold0/model.onnx"),
        ),
        # A model of all recordings counts where there are no folds.
        ("r/full/model.onnx", "r", None, "r/full/model.onnx"),
        ("r/full/model.onnx", "r/full", None, "r/full/model.onnx"),
        ("r/full/model.onnx r/fold0/model.onnx", "r", None, "r/fold0/model.onnx"),
        # Where the export failed there is still the Keras file.
        (KERAS_ONLY, None, "keras", "runs/r/fold0/model.keras"),
        (KERAS_ONLY, "runs/r", "keras", "runs/r/fold0/model.keras"),
        (KERAS_ONLY, "runs/r/fold0", "keras", "runs/r/fold0/model.keras"),
        # Without any run it is the shipped model.
        ("", None, None, SHIPPED),
        ("runs/notes/todo.txt", None, None, SHIPPED),
    ],
)
def test_what_a_path_stands_for(files, there, path, engine, found):
    files(*there.split())
    assert resolve_model(path and Path(path), engine) == tuple(map(Path, found.split()))


NONE = "keras-birds train --data DIR --fold 0` or `keras-birds demo`"


@pytest.mark.parametrize(
    ("there", "path", "engine", "error", "message"),
    [
        ("r/a.onnx", "r/a.onnx", "keras", ConfigError, r"Received: .*a\.onnx"),
        ("r/a.keras", "r/a.keras", "onnx", ConfigError, r"Received: .*a\.keras"),
        ("r/a.wav", "r/a.wav", None, ConfigError, r"Received: .*a\.wav"),
        ("", None, "tflite", ConfigError, r"onnx or keras\. Received: tflite"),
        ("", None, "keras", ModelError, re.escape(NONE)),
        ("runs/notes/todo.txt", None, "keras", ModelError, re.escape(NONE)),
        ("r/a.txt", "r", None, ModelError, "keras-birds demo"),
        ("", "none", None, ModelError, "keras-birds demo"),
        ("runs/begun/config.toml", None, None, ModelError, r"only unfinished runs in .*train --resume"),
        ("runs/r/fold0/model.keras", None, None, ModelError, "train --resume"),
        ("runs/r/fold0/model.keras", "runs/r", None, ModelError, "train --resume"),
        ("runs/r/fold0/model.keras", "runs/r/fold0", None, ModelError, "train --resume"),
        (KERAS_ONLY, None, None, ModelError, "Pass --engine keras"),
        (KERAS_ONLY, "runs/r", None, ModelError, "Pass --engine keras"),
        (KERAS_ONLY, "runs/r/fold0", None, ModelError, "Pass --engine keras"),
    ],
)
def test_what_is_no_model_is_told_with_what_to_do(files, there, path, engine, error, message):
    files(*there.split())
    with pytest.raises(error, match=message):
        resolve_model(path and Path(path), engine)


def test_finished_models_are_those_of_folds_then_of_all_recordings(files):
    runs = Path("runs")
    assert finished_models(runs) == []
    found = [f"runs/{x}/model.onnx" for x in ("a/fold2", "a/fold10", "a/full", "b/fold0")]
    files(*reversed(found), "runs/notes/model.onnx", "runs/b/fold1/model.keras")
    assert finished_models(runs) == list(map(Path, found))
