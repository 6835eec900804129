"""The model in the box, and the commands that tell of models."""

import json
import re
import shutil

import pandas as pd
import pytest

from keras_birds.errors import ModelError
from keras_birds.models.engines import OnnxEngine
from keras_birds.models.find import DEFAULT, bundled_models, bundled_name, card_of, resolve_model
from keras_birds.resources import resource

MODEL = resource("assets", "animals.onnx")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_shipped_model_is_small_and_says_what_it_is(animals_dir):
    assert bundled_models() == {DEFAULT: MODEL}
    assert [bundled_name(x) for x in (MODEL, MODEL.with_name("other.onnx"))] == ["animals", ""]
    assert MODEL.stat().st_size < 10e6
    engine = OnnxEngine(MODEL)
    metadata = engine.metadata
    assert (metadata.model_id, metadata.mel.height, metadata.mel.width) == ("animals", 128, 256)
    assert engine.num_frames == 8
    taxonomy = pd.read_csv(animals_dir / "taxonomy.csv")
    assert list(metadata.labels) == list(taxonomy["primary_label"])
    assert [x.common_name for x in metadata.labels.items] == list(taxonomy["common_name"])
    card = card_of(MODEL).read_text(encoding="utf-8")
    headings = ("What it is", "Data", "Licence", "Figures", "Limits", "Use")
    metrics, error = metadata.metrics, metadata.calibration.error_after
    figures = (f"{metrics['macro_auc']:.4f}", f"{metrics['top1_accuracy']:.3f}", f"{error:.4f}")
    assert not [x for x in (*(f"\n## {x}\n" for x in headings), *figures) if x not in card]


def test_a_fresh_install_predicts_with_it_and_says_so(animals_dir, run_command):
    said = (
        "Model: animals, bundled, as there is no trained run in runs/: 11 labels, licence CC BY-NC 3.0 "
        "(non-commercial); `keras-birds info animals` says more\n"
    )
    for label, options, more in (
        ("dog", (), ""),
        ("cow", ("--calibrated",), "Scores are calibrated (platt)\n"),
        ("rooster", ("--frames", "frames.csv", "--top-k", 1), "Frames: frames.csv\n"),
    ):
        clip = sorted((animals_dir / "train_audio" / label).iterdir())[0]
        code, printed, err = run_command("predict", clip, "--format", "csv", *options)
        assert (code, err) == (0, said + more)
        assert printed.splitlines()[1].split(",")[1:3] == ["1", label]
    assert len(pd.read_csv("frames.csv")) == 8


def test_a_run_of_ones_own_is_taken_instead(placeholder_run, tmp_path, write_tone, run_command):
    clip = write_tone("a.wav", 1200.0, 2, 16_000)
    (tmp_path / "runs" / "begun" / "fold0").mkdir(parents=True)
    # Training that didn't end is never replaced in silence.
    with pytest.raises(ModelError, match="only unfinished runs in runs/"):
        resolve_model()
    shutil.copytree(placeholder_run, tmp_path / "runs" / "mine")
    code, _, err = run_command("predict", clip)
    assert (code, err) == (0, "Model: 20250601-101500/fold0+fold1\n")
    code, printed, err = run_command("predict", clip, "--model", "animals", "--format", "csv")
    assert (code, err, "whtdov" in printed) == (0, "", False)
    # A file or folder of that name comes first.
    shutil.copytree(placeholder_run, tmp_path / "animals")
    assert resolve_model("animals")[0].parent.name == "fold0"


def test_models_lists_what_is_here(placeholder_run, tmp_path, run_command):
    _, printed, _ = run_command("models")
    licence = r"CC BY-NC 3\.0 \(non-commercial\)"
    assert re.search(rf"^animals +keras-birds +11 +0\.\d{{4}} +8\.\d +{licence}$", printed, re.M)
    mine = tmp_path / "runs" / "mine"
    shutil.copytree(placeholder_run, mine)
    shutil.copytree(placeholder_run / "fold0", mine / "full")
    (mine / "fold0" / "model.onnx").write_bytes(b"nothing")
    (mine.with_name("begun") / "fold0").mkdir(parents=True)
    (mine.parent / "notes.txt").touch()
    code, printed, err = run_command("models", "--format", "json")
    assert code == 0
    found = json.loads(printed)
    assert [x["model"] for x in found] == ["animals", "runs/mine/fold1", "runs/mine/full"]
    own = {"labels": 4, "macro_auc": 0.9, "from": "training", "file": "runs/mine/fold1/model.onnx"}
    assert own.items() <= found[1].items()
    # A damaged model hides no other.
    damaged = r"Warning: runs/mine/fold0/model\.onnx: must be a whole ONNX file\. Received: 7 bytes.*\n"
    assert re.fullmatch(damaged, err)
    _, printed, _ = run_command("models")
    assert re.search(r"^runs/mine/fold1 +training +4 +0\.9000 +0\.0 +Apache-2\.0$", printed, re.M)


def test_info_prints_a_card_or_what_a_file_says_of_itself(placeholder_run, run_command):
    _, printed, _ = run_command("info", "animals")
    assert printed.startswith("# animals\n")
    said = ("model id     animals", "  frog  (Frog, Anura, Amphibia)")
    assert [x in printed for x in said] == [True, True]
    _, printed, _ = run_command("info", placeholder_run)
    # The members of a run share their labels.
    said = ("model id", "Amazon Kingfisher", "16,000 Hz, clips of 2 s", "calibration  none")
    assert [printed.count(x) for x in said] == [2, 1, 1, 2]
    code, printed, _ = run_command("info", "animals", "--format", "json")
    found = json.loads(printed)
    assert (code, found["card"][:9], found["members"][0]["model_id"]) == (0, "# animals", "animals")
    code, _, err = run_command("info", "none")
    assert (code, "or one of animals" in err) == (2, True)
