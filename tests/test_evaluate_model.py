"""`keras-birds evaluate --model`: any model on labelled recordings, and how their labels are matched."""

import json

import numpy as np
import pandas as pd
import pytest
from placeholder import LABELS, TONES_HZ
from sklearn.metrics import average_precision_score, roc_auc_score
from small_run import files_below

import keras_birds
from keras_birds.birdnet.range_model import RangeModel
from keras_birds.config import DataConfig
from keras_birds.data.catalog import read_catalog
from keras_birds.data.names import match_labels
from keras_birds.evaluation.bootstrap import macro_auc_draws
from keras_birds.inference.aggregate import aggregate
from keras_birds.labels import Label, LabelSet

# By folder: as the model names them, and as people do; the model has a fourth label, and none for the last.
FOLDERS = ("1139490", "White-tipped Dove", "Pauraque", "unicorn")


def test_labels_match_by_scientific_then_common_name_then_the_label_then_synonyms():
    goshawk, hawk = (
        Label(x, x, y) for x, y in (("Astur gentilis", "Goshawk"), ("Astur cooperii", "Cooper's Hawk"))
    )
    hornbill = Label("horn1", "Lophoceros nasutus", "African Gray Hornbill")
    known = LabelSet([goshawk, hawk, hornbill, Label("d1", "", "Dove"), Label("d2", "", "Dove"), "Dog"])
    wanted = {
        Label("a", "Astur cooperii", "Goshawk"): 1,  # scientific before common
        Label("b", "Strix rufa", "Coopers hawk"): 1,
        Label("african_grey-hornbill"): 2,
        Label("Lophoceros nasutus_African Hornbill"): 2,
        Label("c", "Accipiter gentilis", "Northern Goshawk"): 0,  # a synonym
        Label("Dove"): -1,  # two have that name
        Label("tawny_dog"): -1,
    }
    assert list(match_labels(LabelSet(wanted), known)) == list(wanted.values())


def test_real_data_finds_its_labels_by_any_of_their_names(birds_dir, birdnet_model):
    known, labels = keras_birds.load("birdnet").labels, read_catalog(birds_dir, DataConfig()).labels
    found = match_labels(labels, known)
    assert [x for x, place in zip(labels, found, strict=True) if place < 0] == ["amazonian_umbrellabird"]
    for names in (list(labels), [x.common_name for x in labels.items]):
        assert list(match_labels(LabelSet(names), known)) == list(found), "without scientific names"


@pytest.fixture
def data(write_tone, tmp_path):
    """Tones of one to three windows, a folder a label; each one's last sounds as the next's, one can't be read."""
    for k, name in enumerate(FOLDERS):
        for i in range(4):
            hz = TONES_HZ[(k + (i == 3)) % 4] * (0.97 + 0.02 * i)
            write_tone(f"data/{name}/{i}.wav", hz, 2 + 2 * (i % 3), 16_000)
    (tmp_path / "data" / "1139490" / "9.wav").write_bytes(b"RIFF nothing")
    return tmp_path / "data"


def test_the_command_judges_answers_by_mean_and_maximum(data, placeholder_run, run_command, tmp_path):
    out, command = tmp_path / "out", ("evaluate", "--model", placeholder_run, "--data", data)
    code, printed, err = run_command(*command, "--out", out, "--threshold", "0.5")
    assert (code, "Failed: " in err, "1139490/9.wav" in err) == (1, True, True)
    assert files_below(out) == {"report.json", "labels.csv", "predictions.csv", "labels.png"}
    assert "Left out: 4 of 17 recordings, of labels that the model doesn't know: unicorn\n" in printed
    report = json.loads((out / "report.json").read_text())
    assert (report["unknown"], len(report["failed"])) == ({"unicorn": 4}, 1)
    classifier = keras_birds.load(placeholder_run)
    labels, predictions = (pd.read_csv(out / x, dtype=str) for x in ("labels.csv", "predictions.csv"))
    for method, found in zip(("mean", "max"), report["figures"], strict=True):
        table = predictions[predictions["answer"] == method]
        answers = [aggregate(classifier.score_file(data / x).scores, method) for x in table["file"]]
        scores, truth = np.stack(answers), np.array([FOLDERS.index(x) for x in table["label"]])
        ranks = (-scores).argsort(axis=1).argsort(axis=1)[np.arange(12), truth] + 1
        assert (list(table["rank"].astype(int)), ranks.max() > 1) == (list(ranks), True)
        assert list(table["label_1"]) == [LABELS[i] for i in scores.argmax(axis=1)]
        targets = np.eye(3)[truth]
        pairs = list(zip(targets.T, scores.T[:3], strict=True))
        expected = {"recordings": 12, "labels": 3, "top1_accuracy": (ranks == 1).mean(), "top5_accuracy": 1}
        expected |= {"cmap": np.mean([average_precision_score(*x) for x in pairs])}
        assert found.items() >= {k: pytest.approx(v) for k, v in expected.items()}.items()
        areas = [roc_auc_score(*x) for x in pairs]
        low = np.quantile(macro_auc_draws(targets, scores[:, :3]), 0.025)
        assert [found["macro_auc"][x] for x in ("value", "low")] == pytest.approx([np.mean(areas), low])
        rows = labels[labels["answer"] == method]
        assert list(rows["model_label"]) == [LABELS[i] for i in (0, 2, 1)], "in the data's order"
        assert list(rows["auc"].astype(float)) == pytest.approx([areas[i] for i in (0, 2, 1)])
        assert float(rows["recall"].iloc[0]) == (scores[truth == 0, 0] >= 0.5).mean()
    assert run_command(*command, "--out", out, "--no-strict")[0] == 0


def test_labels_out_of_range_are_no_answer_and_recordings_learned_from_are_told(
    data, placeholder_run, run_command, tmp_path
):
    fold = tmp_path / "run" / "fold0"
    fold.mkdir(parents=True)
    (fold / "model.onnx").symlink_to(placeholder_run / "fold0" / "model.onnx")
    # Pauraques occur in the far south, and here in April; of kingfishers the range model knows nothing.
    kernel = np.zeros((144, 3))
    kernel[:48, 2] = kernel[96:, 2] = 1
    RangeModel([(kernel, np.array([9, 9, -9.0]))], np.zeros(48), LabelSet(LABELS[:3])).save(fold)
    split = "path,label,fold\nPauraque/0.wav,Pauraque,0\nPauraque/1.wav,Pauraque,1\n"
    (fold.parent / "split.csv").write_text(split)
    where = ("10,10,", "10,10,2024-04-02", ",,")
    rows = [f"{x}/{i}.wav,{x},{where[i]}" for x in FOLDERS[:3] for i in range(3)]
    (data / "train.csv").write_text("\n".join(["filename,primary_label,latitude,longitude,date", *rows]))
    command = ("evaluate", "--model", fold, "--data", data, "--set", "data.audio_dir=", "--range")
    code, _, err = run_command(*command, "--out", tmp_path)
    assert (code, "Warning: 1 of 9 recordings have the path and label" in err) == (0, True)
    figures = json.loads((tmp_path / "report.json").read_text())["figures"]
    assert [x["answer"] for x in figures] == ["mean", "max", "mean, in range", "max, in range"]
    # The third pauraque has no place, and so stays.
    assert [x["top1_accuracy"] for x in figures] == pytest.approx([1, 1, 8 / 9, 8 / 9])
    table = pd.read_csv(tmp_path / "predictions.csv", dtype=str)
    assert list(table["file"][table["rank"].isna()]) == ["Pauraque/0.wav"] * 2


def test_what_cannot_be_judged_is_told(data, placeholder_run, run_command):
    model = ("--model", placeholder_run)
    for arguments, told in {
        (): "pass a RUN, or --model NAME --data DIR. Received: neither",
        ("runs/a", *model): "Received: both",
        ("runs/a", "--range"): "--range goes with --model",
        (*model, "--against", "b"): "--against goes with a RUN",
        (*model, "--data", data, "--range"): "must have the columns latitude and longitude",
        (*model, "--data", data, "--set", "data.audio_dir=unicorn"): "a data set must have",
    }.items():
        code, _, err = run_command("evaluate", *arguments)
        assert (code != 0, told in err) == (True, True), err
