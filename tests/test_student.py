"""A network that also learns from windows with pseudo labels."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import small_run as small
from pseudo_folder import write_pseudo_labels
from small_run import Watcher, interrupt, make_config

from keras_birds.config import Config
from keras_birds.errors import ConfigError, DataError
from keras_birds.labels import LabelSet
from keras_birds.models.metadata import ModelMetadata
from keras_birds.results.pseudo import LabelRules, PseudoLabels, Teacher
from keras_birds.training.pseudo import labels_of_fold
from keras_birds.training.rounds import train_rounds
from keras_birds.training.run import open_run, prepare_run
from keras_birds.training.train import train

COUNT, RULES = 5, LabelRules(cap=9.0)
"""Tones of each label that nobody labelled; none has as many labels."""


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Labelled tones, beside them `more`: tones without labels, `teacher`: a run's split, and `pseudo`: its labels."""
    monkeypatch.setattr(small, "PER_LABEL_AND_FOLD", 6)
    monkeypatch.setattr(small, "BROKEN", {})
    small.write_tones(tmp_path / "more", small.LABELS, np.multiply(small.TONES_HZ, 1.02), COUNT)
    data = small.make_data(tmp_path / "birds")
    prepare_run(make_config(), data, 0, tmp_path / "teacher", False, Watcher())
    label(tmp_path / "more", tmp_path / "pseudo", tmp_path / "teacher")
    return data


def label(recordings, out, run, end_s=0.5):
    """By the models of two folds: that of fold 0 is surer of the right label than that of fold 1."""
    paths = sorted(recordings.rglob("*.wav"))
    right = np.array([small.LABELS.index(x.parent.name) for x in paths])
    probabilities = np.stack([np.eye(3)[right] * sure for sure in (0.8, 0.6)], axis=1)
    teacher = Teacher(("t/fold0", "t/fold1"), (0, 1), run) if run else Teacher(("other",))
    labels, windows = LabelSet(small.LABELS), [(str(x), 0.0, end_s) for x in paths]
    return write_pseudo_labels(out, windows, labels, probabilities[:, : 1 + bool(run)], teacher, RULES, 0.1)


def student(data, augment=(), training=(), **settings):
    off = {"probability": 0.0}
    pseudo = {"pseudo": str(data.parent / "pseudo"), "pseudo_fraction": 0.4, **settings}
    return make_config(pseudo, augment={**off, "mixup": off, **dict(augment)}, **dict(training))


@pytest.mark.parametrize(
    ("fold", "teachers", "sure", "told"),
    [
        (0, "fold", 0.8, "15 windows with pseudo labels by the teacher's fold 0, 0.80 in the mean"),
        (1, "fold", 0.6, "15 windows with pseudo labels by the teacher's fold 1, 0.60 in the mean"),
        (1, "all", 0.7, "15 windows with pseudo labels by all models, 0.70 in the mean"),
        ("full", "fold", 0.7, "15 windows with pseudo labels by all models, 0.70 in the mean"),
    ],
)
def test_a_fold_learns_from_its_own_folds_teacher_alone(data, tmp_path, fold, teachers, sure, told):
    small.write_tones(tmp_path / "noise", ["hum"], [300.0], 4)
    more = {"background": str(tmp_path / "noise"), "background_fraction": 0.1}
    config, watcher = student(data, pseudo_teachers=teachers, training={"keep": "last"}, **more), Watcher()
    prepare_run(config, data, fold, tmp_path / "run", False, watcher)
    assert "36 recordings, 3 labels, 2 folds, 4 of background, 15 with pseudo labels" in watcher.lines[-1]
    assert ("out-of-fold scores are flattered" in watcher.lines[0]) == (teachers == "all")
    run = open_run(tmp_path / "run", config, data, None)
    soft = labels_of_fold(run.pseudo, config, run.catalog.labels, fold, watcher)
    assert told in watcher.lines[-1]
    most = most_of(run.training_data(fold, soft))
    found, counts = np.unique(most, return_counts=True)
    assert found.tolist() == pytest.approx([0, sure, 1])
    assert counts / len(most) == pytest.approx([0.1, 0.4, 0.5], abs=0.06)
    data_config = config.data.model_copy(update={"pseudo_sampling": "label_sum"})
    run = replace(run, config=config.model_copy(update={"data": data_config}))
    soft = replace(soft, targets=soft.targets * (np.arange(15) == 3)[:, None])
    most = most_of(run.training_data(fold, soft))
    assert np.isclose(most, sure).mean() == pytest.approx(0.4, abs=0.06)


def most_of(batches):
    """Of each clip of an epoch the most that it has of a label."""
    return np.concatenate([batches[k][1].max(axis=1) for k in range(len(batches))])


def test_a_student_that_was_stopped_ends_as_one_that_was_not(shallow_network, data, tmp_path):
    mixup = {"mixup": {"probability": 1.0, "partner": "pseudo"}}
    more = {"pseudo_sampling": "label_sum", "pseudo_per_label": 3}
    config = student(data, mixup, {"epochs": 3, "workers": 2}, **more)
    watcher = Watcher()
    whole = train(config, data, 1, tmp_path / "whole", reporter=watcher).folds[0]
    assert "fold 1: 9 of 15 windows, the 3 of each label at most that are surest" in watcher.lines
    source = ModelMetadata.read_onnx(whole.folder / "model.onnx").source
    assert source == "trained here, taught by t/fold0, t/fold1"
    parted = tmp_path / "parted"
    interrupt(config, data, 1, parted, lambda lines, done: lines[-1].startswith("epoch 1/"))
    resumed = train(config, data, 1, parted, resume=True).folds[0]
    scores = [pd.read_parquet(x.folder / "oof.parquet") for x in (whole, resumed)]
    pd.testing.assert_frame_equal(*scores, rtol=0, atol=1e-4)
    # Labels that changed in the meantime would be others than the first epochs learnt.
    shutil.rmtree(parted / "fold1")
    shutil.rmtree(tmp_path / "pseudo")
    label(tmp_path / "more", tmp_path / "pseudo", tmp_path / "teacher", 0.4)
    with pytest.raises(DataError, match=r"pseudo labels that \S+/parted began with.* start a new run"):
        train(config, data, 1, parted, resume=True)


def test_labels_that_a_fold_must_not_learn_from_are_refused_before_a_run_begins(data, tmp_path):
    other = make_config().folds.model_copy(update={"strategy": "stratified", "n_folds": 2, "column": ""})
    config = student(data)
    for settings, told in (
        (
            {"folds": other},
            r"with the same folds.*Received: \S+/teacher, with another division; copy \[folds\]",
        ),
        (
            {"audio": config.audio.model_copy(update={"clip_s": 0.4})},
            r"no longer than a clip .*Received: 0\.5 s",
        ),
    ):
        refused(config.model_copy(update=settings), data, told)
    # With the mean of all models other folds are told of, and the hidden recordings that they learnt from.
    watcher, mean = Watcher(), student(data, pseudo_teachers="all").model_copy(update={"folds": other})
    hidden = len(prepare_run(mean, data, 0, tmp_path / "mean", False, watcher).split.hidden_rows)
    assert f"flattered, and those of {hidden} hidden recordings" in watcher.lines[0]
    assert hidden > 2
    # Neither is a teacher honest that learnt from labels of all models, nor its students.
    watcher, child = Watcher(), tmp_path / "child"
    (tmp_path / "teacher" / "config.toml").write_text(mean.to_toml())
    label(tmp_path / "more", tmp_path / "later", prepare_run(config, data, 0, child, False, watcher).out)
    later = student(data, pseudo=str(tmp_path / "later"))
    prepare_run(later, data, 0, tmp_path / "grandchild", False, again := Watcher())
    told = "its teacher learnt from labels of all models: out-of-fold scores are flattered"
    assert [told in x.lines[0] for x in (watcher, again)] == [True, True]
    label(tmp_path / "more", tmp_path / "strange", None)
    strange = student(data, pseudo=str(tmp_path / "strange"))
    refused(strange, data, r"its models are no folds\..*pass --set data\.pseudo_teachers=all")
    (tmp_path / "more" / "bat" / "4.wav").rename(tmp_path / "away.wav")
    refused(config, data, r"where they were labelled\. Received: 1 of 15 .* first \S+/more/bat/4\.wav")
    shutil.copy(data / "train_audio" / "bat" / "1.wav", tmp_path / "more" / "bat" / "4.wav")
    refused(
        config,
        data,
        r"data\.pseudo must hold no recording.* \S+/bat/4.wav, which holds the same as \S+/bat/1",
    )
    assert sorted(x.name for x in tmp_path.iterdir() if x.name == "new") == []


def refused(config, data, told):
    with pytest.raises((ConfigError, DataError), match=told):
        prepare_run(config, data, 0, data.parent / "new", False, Watcher())


def test_each_round_learns_from_what_the_one_before_hears_and_goes_on_where_it_was_stopped(
    shallow_network, data, tmp_path, run_command
):
    config = student(data, training={"epochs": 2, "keep": "last"}, pseudo_per_label=4)
    out = tmp_path / "rounds"

    def stop_at(is_there, resume):
        class Stopper(Watcher):
            def progress(self, task, done, total):
                if is_there(task, done, self.lines):
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(train_rounds(config, data, 0, out, 2, resume, Stopper()))

    stop_at(lambda task, done, lines: task.startswith("Labelling") and done == 7, False)
    assert not (out / "round_2").exists()
    assert pd.read_csv(out / "rounds.csv")["round"].tolist() == [1]
    stop_at(lambda task, done, lines: "round 2 of 2" in lines and lines[-1].startswith("epoch 1/"), True)
    (out / "round_1" / "cpu_seconds.txt").write_text("6000")  # as of a longer training
    began, out = out, out.rename(tmp_path / "moved")
    (tmp_path / "student.toml").write_text(config.to_toml())
    command = "train", "--data", data, "--config", tmp_path / "student.toml", "--rounds", 2, "--out", out
    code, said, err = run_command(*command, "--resume")
    assert code == 0, err
    steps = [x for x in err.splitlines() if re.match("round|fold 0: (finished|goes)|epoch", x)]
    assert [x[:8] for x in steps] == ["round 1 ", "fold 0: ", "round 2 ", "fold 0: ", "epoch 2/"]
    heard = PseudoLabels(out / "round_1" / "pseudo")
    assert (heard.rules, heard.overlap_s) == (RULES, 0.1)
    assert heard.teacher == Teacher(("round_1/fold0",), (0,), began / "round_1")
    assert (heard.folder / "labels.png").is_file()
    soft, table = heard.read(LabelSet(small.LABELS), 0), pd.read_csv(out / "rounds.csv")
    assert len(soft.windows) == 15
    soft = soft.surest(4)
    assert table[["round", "windows"]].to_numpy().tolist() == [[1, 12], [2, len(soft.windows)]]
    sums = [0.8, soft.targets.sum(axis=1).mean()]
    assert table["labels_a_window"].tolist() == pytest.approx(sums, rel=1e-4)
    models = [ModelMetadata.read_onnx(out / f"round_{k}" / "fold0" / "model.onnx") for k in (1, 2)]
    assert table["macro_auc"].tolist() == pytest.approx([x.metrics["macro_auc"] for x in models], rel=1e-4)
    assert models[1].source == "trained here, taught by round_1/fold0"
    assert 100 < table["cpu_minutes"][0] < 101 > table["cpu_minutes"][1] > 0
    assert said.splitlines()[2].split()[:2] == ["2", f"{table['macro_auc'][1]:.4f}"]
    assert said.endswith(f"--model {out}/round_2\n")


def test_rounds_that_cannot_begin_are_refused_in_a_line(data, tmp_path, run_command):
    file = tmp_path / "student.toml"
    file.write_text(student(data).to_toml())
    command = "train", "--data", data, "--config", file, "--rounds", 2
    for more, told in (
        (("--set", "data.pseudo="), r"--rounds must begin with labels .* pass --set data\.pseudo=FOLDER"),
        (("--ray", "auto"), r"--rounds are trained on this machine\. Received: --ray as well"),
        (("--out", data), r"--out must be a new or empty folder"),
        (("--out", tmp_path / "teacher", "--resume"), r"teacher, without round_1; pass their --out"),
        (("--resume",), "Received: no --out; pass their --out"),
    ):
        code, said, err = run_command(*command, *more)
        assert (code != 0, said, err.count("\n")) == (True, "", 1)
        assert re.search(told, err), err


def test_settings_that_need_pseudo_labels_or_rule_them_out_are_told(data):
    refused(make_config(augment={"mixup": {"partner": "pseudo"}}), data, r"pass --set data\.pseudo=FOLDER")
    refused(student(data, pseudo="nowhere"), data, "nowhere must be a folder of pseudo labels")
    with pytest.raises(ConfigError, match=r"data\.unlabelled and pseudo must not be set together"):
        make_config({"pseudo": "a", "unlabelled": "b"}, teacher="birdnet")
    with pytest.raises(ConfigError, match="must leave room for recordings with labels"):
        student(data, background="a", background_fraction=0.6)
    with pytest.raises(ConfigError, match=r"data\.pseudo must be empty when model\.frozen"):
        Config.load("birdnet-head", ["data.pseudo=a"])
