import os
from pathlib import Path

import pytest

from keras_birds.errors import ConfigError, ModelError
from keras_birds.models.find import finished_models, resolve_model
from keras_birds.resources import resource


@pytest.fixture
def make_fold(tmp_path):
    def make(fold: str, *names: str, time: int = 1000) -> Path:
        folder = tmp_path / fold
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).touch()
            os.utime(folder / name, (time, time))
        return folder

    return make


def test_a_fold_is_its_onnx_file_unless_keras_is_asked_for(make_fold):
    fold = make_fold("r/fold3", "model.onnx", "model.keras")
    assert resolve_model(fold) == (fold / "model.onnx",)
    assert resolve_model(fold, "keras") == (fold / "model.keras",)


def test_a_copied_fold_may_be_called_anything(make_fold):
    fold = make_fold("copied here", "model.onnx")
    assert resolve_model(fold) == (fold / "model.onnx",)


def test_a_run_is_all_its_finished_folds_in_numerical_order(make_fold):
    for fold in (10, 2, 0):
        make_fold(f"r/fold{fold}", "model.onnx", "model.keras", "model.json")
    unfinished = make_fold("r/fold1", "model.keras", "history.csv")
    make_fold("r/notes", "model.onnx")
    found = resolve_model(unfinished.parent)
    assert [x.parent.name for x in found] == ["fold0", "fold2", "fold10"]
    assert [x.name for x in resolve_model(unfinished.parent, "keras")] == ["model.keras"] * 3


@pytest.mark.parametrize(("name", "engine"), [("a.onnx", "keras"), ("a.keras", "onnx"), ("a.wav", None)])
def test_a_file_that_the_engine_does_not_read_is_a_wrong_call(make_fold, name, engine):
    with pytest.raises(ConfigError, match=rf"Received: .*{name}"):
        resolve_model(make_fold("r", name) / name, engine)


def test_an_unknown_engine_is_a_wrong_call():
    with pytest.raises(ConfigError, match=r"onnx or keras\. Received: tflite"):
        resolve_model(None, "tflite")


def test_the_newest_run_is_the_one_trained_last(make_fold, tmp_path):
    make_fold("runs/20250101-000000/fold0", "model.onnx", time=3000)
    make_fold("runs/20250202-000000/fold0", "model.onnx", time=2000)
    make_fold("runs/20250303-000000/fold0", "model.keras", time=4000)
    found = resolve_model(None, runs_dir=tmp_path / "runs")
    assert found == (tmp_path / "runs/20250101-000000/fold0/model.onnx",)


@pytest.mark.parametrize("exists", [True, False])
def test_without_any_run_it_is_the_shipped_model_of_onnx_and_none_of_keras(tmp_path, exists):
    if exists:
        (tmp_path / "runs").mkdir()
    assert resolve_model(None, runs_dir=tmp_path / "runs") == (resource("assets", "animals.onnx"),)
    with pytest.raises(ModelError, match="keras-birds train --data DIR --fold 0` or `keras-birds demo`"):
        resolve_model(None, "keras", tmp_path / "runs")


def test_a_model_of_all_recordings_counts_where_there_are_no_folds(make_fold, tmp_path):
    full = make_fold("r/full", "model.onnx")
    assert resolve_model(tmp_path / "r") == resolve_model(full) == (full / "model.onnx",)
    fold = make_fold("r/fold0", "model.onnx")
    assert resolve_model(tmp_path / "r") == (fold / "model.onnx",)


def test_a_run_stopped_before_its_first_fold_is_not_replaced(make_fold, tmp_path):
    make_fold("runs/begun", "config.toml")
    with pytest.raises(ModelError, match=r"only unfinished runs in .*train --resume"):
        resolve_model(None, runs_dir=tmp_path / "runs")


def test_a_folder_that_is_no_run_is_none(make_fold, tmp_path):
    make_fold("runs/notes", "todo.txt")
    assert resolve_model(None, runs_dir=tmp_path / "runs") == (resource("assets", "animals.onnx"),)


def test_finished_models_are_those_of_folds_then_of_all_recordings(make_fold, tmp_path):
    assert finished_models(tmp_path / "runs") == []
    for folder in ("b/fold0", "a/full", "a/fold10", "a/fold2", "notes"):
        make_fold(f"runs/{folder}", "model.onnx")
    make_fold("runs/b/fold1", "model.keras")
    found = [x.parent.relative_to(tmp_path / "runs").as_posix() for x in finished_models(tmp_path / "runs")]
    assert found == ["a/fold2", "a/fold10", "a/full", "b/fold0"]


def test_an_unfinished_run_says_to_resume(make_fold, tmp_path):
    fold = make_fold("runs/r/fold0", "model.keras")
    for path in (None, fold, fold.parent):
        with pytest.raises(ModelError, match="train --resume"):
            resolve_model(path, runs_dir=tmp_path / "runs")


def test_a_fold_whose_export_failed_says_to_use_keras(make_fold, tmp_path):
    fold = make_fold("runs/r/fold0", "model.keras", "model.json")
    for path in (None, fold, fold.parent):
        with pytest.raises(ModelError, match="Pass --engine keras"):
            resolve_model(path, runs_dir=tmp_path / "runs")
        assert resolve_model(path, "keras", tmp_path / "runs") == (fold / "model.keras",)


def test_a_folder_without_folds_and_a_missing_path_say_how_to_get_a_model(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ModelError, match="keras-birds demo"):
            resolve_model(path)
