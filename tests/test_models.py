"""What a model file says of itself, what --model may name, and the model in the box."""

import json
import math
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from placeholder import LABELS, make_metadata

from keras_birds.errors import ConfigError, ModelError
from keras_birds.models import find
from keras_birds.models.calibration import Calibration, logit, sigmoid
from keras_birds.models.engines import OnnxEngine
from keras_birds.models.metadata import ModelMetadata, check_labels, joined_id
from keras_birds.resources import resource

MODEL = resource("assets", "animals.onnx")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_onnx_file_holds_the_metadata_and_plain_keys_for_other_programs(placeholder_run):
    path = placeholder_run / "fold0" / "model.onnx"
    metadata = make_metadata("20250601-101500/fold0")
    assert ModelMetadata.read_onnx(path) == ModelMetadata.read_json(path.with_name("model.json")) == metadata
    assert metadata.labels.items == ModelMetadata.read_onnx(path).labels.items
    props = {x.key: x.value for x in onnx.load(path).metadata_props}
    assert json.loads(props.pop("keras_birds")) == metadata.to_dict()
    assert props == {
        "format_version": "1",
        "model_id": "20250601-101500/fold0",
        "licence": "Apache-2.0",
        "labels": "\n".join(LABELS),
        "sample_rate_hz": "16000",
        "clip_s": "2",
    }
    # Undefined metrics are null in JSON and NaN in Python.
    data = make_metadata(metrics={"macro_auc": math.nan}).to_dict()
    assert data["metrics"] == {"macro_auc": None}
    assert math.isnan(ModelMetadata.from_dict(data).metrics["macro_auc"])


def test_wrong_metadata_is_named():
    for change, said in (
        ({"format_version": 2}, r"format_version 1\. Received: 2\. Update"),
        ({"labels": None}, "complete"),
        ({"labels": [{"name": "a"}, {"name": "a"}]}, "unique"),
        ({"audio": {"clip_s": -1}}, "clip_s"),
        ({"mel": {"n_mels": 64, "wrong": 1}}, "wrong"),
        ({"mel": ...}, "nothing under 'mel'"),
        ({"calibration": {"method": "magic"}}, r"method: Input should be 'platt' or 'isotonic'"),
        ({"calibration": asdict(Calibration("platt", 0.9, 0.1, 0.1, ()))}, "of 0 labels for 4"),
    ):
        data = {k: v for k, v in {**make_metadata().to_dict(), **change}.items() if v is not ...}
        with pytest.raises(ModelError, match=rf"^x/model\.json: .*{said}.*$"):
            ModelMetadata.from_dict(data, "x/model.json")


def test_a_file_that_holds_no_metadata_is_one_line(placeholder_run, tmp_path):
    path = tmp_path / "model.json"
    for content in (b"", b"{", b"\xff\xfe", b"[]"):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"model\.json: model metadata must.*$"):
            ModelMetadata.read_json(path)
    path.unlink()
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelError, match="existing file"):
        ModelMetadata.read_onnx(path)
    whole = (placeholder_run / "fold0" / "model.onnx").read_bytes()
    for keep in (0, 1, 100, -1):
        path.write_bytes(whole[:keep])
        with pytest.raises(ModelError, match=rf"model\.onnx: .*Received: {path.stat().st_size} bytes .*$"):
            ModelMetadata.read_onnx(path)
    model = onnx.load_from_string(whole)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"model\.onnx: .* Received: none\. .* is added once"):
        ModelMetadata.read_onnx(path)


def test_shapes_and_label_sets_are_as_expected_or_both_are_named():
    metadata = make_metadata()
    metadata.check_shapes("m", (None, 32, 32, 1), ("batch", 4))
    metadata.check_shapes("m", ("batch", 32_000), ("batch", 4))
    for taken, labels in (((32, 64, 1), 4), ((32, 32, 1), 5), ((32, 32), 4), ((31_999,), 4)):
        with pytest.raises(ModelError, match=r"m: .*\[batch, 32.*\] -> \[batch, 4\]\. Received: \["):
            metadata.check_shapes("m", (None, *taken), (None, labels))

    check_labels(LABELS, list(LABELS), "M", "T")
    others = "3 / 11 labels; only in T: d, 0, 1, 2, 3 and 5 more; only in M: b, c$"
    for second, said in (("acb", r"of M and T .*order at position 2: b / c$"), ("ad012345678", others)):
        with pytest.raises(ModelError, match=said):
            check_labels("abc", second, "M", "T")
    # An ensemble is called by its run and folds.
    assert joined_id(["run/fold0", "run/fold2", "other/fold1"]) == "run/fold0+fold2+other/fold1"


def test_probabilities_and_logits_are_each_others_inverse():
    logits = np.linspace(-12, 12, 9, dtype=np.float32)
    np.testing.assert_allclose(logit(sigmoid(logits)), logits, atol=0.2)
    np.testing.assert_array_equal(sigmoid(np.array([-1000.0, 0.0, 1000.0])), [0, 0.5, 1])
    np.testing.assert_allclose(logit(np.array([0, 1], np.float32)), [-16.118, 16.118], atol=0.2)


KERAS_ONLY, PLACES = "runs/r/fold0/model.keras runs/r/fold0/model.json", (None, "runs/r", "runs/r/fold0")
TWO_FOLDS = " ".join(f"r/fold{k}/model.{x}" for k in (10, 2) for x in ("onnx", "keras", "json"))
TWO_FOLDS += " r/fold1/model.keras r/notes/model.onnx r/notes/model.keras"
THREE_RUNS = "runs/c/fold0/model.keras runs/a/fold0/model.onnx runs/b/fold0/model.onnx"


def touch(*names):
    """Makes empty files, as old as their place in the list."""
    for age_s, name in enumerate(names):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
        os.utime(name, (9000 - age_s, 9000 - age_s))


@pytest.mark.parametrize(
    ("there", "path", "engine", "found"),
    [
        # A fold is its ONNX file unless Keras is asked for, and a copied one may be called anything.
        ("r/fold3/model.onnx r/fold3/model.keras", "r/fold3", None, "r/fold3/model.onnx"),
        ("r/fold3/model.onnx r/fold3/model.keras", "r/fold3", "keras", "r/fold3/model.keras"),
        ("copied/model.onnx", "copied", None, "copied/model.onnx"),
        # A run is all its finished folds in numerical order; the newest is the one trained last.
        (TWO_FOLDS, "r", None, "r/fold2/model.onnx r/fold10/model.onnx"),
        (TWO_FOLDS, "r", "keras", "r/fold2/model.keras r/fold10/model.keras"),
        (THREE_RUNS, None, None, "runs/a/fold0/model.onnx"),
        # A model of all recordings counts where there are no folds.
        ("r/full/model.onnx", "r", None, "r/full/model.onnx"),
        ("r/full/model.onnx", "r/full", None, "r/full/model.onnx"),
        ("r/full/model.onnx r/fold0/model.onnx", "r", None, "r/fold0/model.onnx"),
        # Where the export failed there is still the Keras file.
        *((KERAS_ONLY, x, "keras", "runs/r/fold0/model.keras") for x in PLACES),
        # Without any run it is the shipped model.
        ("runs/notes/todo.txt", None, None, str(MODEL)),
        # A file or folder of its name comes first.
        ("", "animals", None, str(MODEL)),
        ("animals/model.onnx", "animals", None, "animals/model.onnx"),
    ],
)
def test_what_a_path_stands_for(there, path, engine, found):
    touch(*there.split())
    assert find.resolve_model(path and Path(path), engine) == tuple(map(Path, found.split()))


@pytest.mark.parametrize(
    ("there", "path", "engine", "error", "message"),
    [
        ("r/a.onnx", "r/a.onnx", "keras", ConfigError, r"Received: .*a\.onnx"),
        ("r/a.keras", "r/a.keras", "onnx", ConfigError, r"Received: .*a\.keras"),
        ("r/a.wav", "r/a.wav", None, ConfigError, r"Received: .*a\.wav"),
        ("", None, "tflite", ConfigError, r"onnx or keras\. Received: tflite"),
        ("", None, "keras", ModelError, "train --data DIR --fold 0` or `keras-birds demo`"),
        ("r/a.txt", "r", None, ModelError, "keras-birds demo"),
        ("", "none", None, ModelError, "keras-birds demo"),
        ("runs/begun/config.toml", None, None, ModelError, r"only unfinished runs in .*train --resume"),
        *(("runs/r/fold0/model.keras", x, None, ModelError, "train --resume") for x in PLACES),
        *((KERAS_ONLY, x, None, ModelError, "Pass --engine keras") for x in PLACES),
    ],
)
def test_what_is_no_model_is_told_with_what_to_do(there, path, engine, error, message):
    touch(*there.split())
    with pytest.raises(error, match=message):
        find.resolve_model(path and Path(path), engine)


def test_finished_models_are_those_of_folds_then_of_all_recordings():
    runs = Path("runs")
    assert find.finished_models(runs) == []
    found = [f"runs/{x}/model.onnx" for x in ("a/fold2", "a/fold10", "a/full", "b/fold0")]
    touch(*reversed(found), "runs/notes/model.onnx", "runs/b/fold1/model.keras")
    assert find.finished_models(runs) == list(map(Path, found))


def test_the_shipped_model_is_small_and_says_what_it_is(animals_dir):
    assert find.bundled_models() == {find.DEFAULTS[-1]: MODEL}
    assert [find.bundled_name(x) for x in (MODEL, MODEL.with_name("other.onnx"))] == ["animals", ""]
    assert MODEL.stat().st_size < 10e6
    engine = OnnxEngine(MODEL)
    metadata = engine.metadata
    assert (metadata.model_id, metadata.mel.height, metadata.mel.width) == ("animals", 128, 256)
    assert (engine.num_frames, engine.embedding_size) == (8, 1280)
    taxonomy = pd.read_csv(animals_dir / "taxonomy.csv")
    assert list(metadata.labels) == list(taxonomy["primary_label"])
    assert [x.common_name for x in metadata.labels.items] == list(taxonomy["common_name"])
    card = find.card_of(MODEL).read_text(encoding="utf-8")
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


def test_models_lists_what_is_here_and_ones_own_is_taken(placeholder_run, tmp_path, run_command, write_tone):
    _, printed, _ = run_command("models")
    licence = r"CC BY-NC 3\.0 \(non-commercial\)"
    assert re.search(rf"^animals +keras-birds +11 +0\.\d{{4}} +8\.\d +{licence}$", printed, re.M)
    mine = tmp_path / "runs" / "mine"
    shutil.copytree(placeholder_run, mine)
    clip = write_tone("a.wav", 1200.0, 2, 16_000)
    assert run_command("predict", clip)[::2] == (0, "Model: 20250601-101500/fold0+fold1\n")
    _, printed, err = run_command("predict", clip, "--model", "animals", "--format", "csv")
    assert (err, "whtdov" in printed) == ("", False)
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
    card = r"^# animals\n.*model id     animals\n.*  frog  \(Frog, Anura, Amphibia\)"
    assert re.search(card, printed, re.DOTALL)
    _, printed, _ = run_command("info", placeholder_run)
    # The members of a run share their labels.
    said = ("model id", "Amazon Kingfisher", "16,000 Hz, clips of 2 s", "calibration  none")
    assert [printed.count(x) for x in said] == [2, 1, 1, 2]
    code, printed, _ = run_command("info", "animals", "--format", "json")
    found = json.loads(printed)
    assert (code, found["card"][:9], found["members"][0]["model_id"]) == (0, "# animals", "animals")
    code, _, err = run_command("info", "none")
    assert (code, "or one of animals" in err) == (2, True)
