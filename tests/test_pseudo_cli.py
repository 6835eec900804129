"""`keras-birds pseudo`: killed, gone on with, asked for other labels, and given what it must refuse."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from placeholder import LABELS

import keras_birds
from keras_birds.plots.pseudo_labels import pseudo_labels
from keras_birds.results.journal import JOURNAL
from keras_birds.results.pseudo import LabelRules, PseudoLabels

_SLOWED = """
import time
import keras_birds.results.sink as sink, keras_birds.models.ensemble as ensemble
from keras_birds.cli.main import main
sink._SHARD_S = 0.0
score_members = ensemble.Ensemble.score_members
ensemble.Ensemble.score_members = lambda *x: time.sleep(0.2) or score_members(*x)
main()
"""


@pytest.fixture
def run(placeholder_run, tmp_path, write_tone):
    """A run of two folds, whose data set is two recordings of `birds/`, one as a window."""
    run = shutil.copytree(placeholder_run, tmp_path / "run")
    write_tone("birds/a/XC12345.flac")
    write_tone("birds/a/other.flac", 2700.0)
    rows = "path,label,fold\na/XC12345.flac,whtdov,0\n"
    (run / "split.csv").write_text(rows + '"a/other.flac#t=0,5",whtdov,1\n')
    (run / "environment.json").write_text(json.dumps({"data": str(tmp_path / "birds")}))
    return run


def tables(folder):
    return {x.name: x.read_bytes() for x in sorted(folder.glob("labels*.parquet"))}


def test_a_kill_loses_nothing_and_each_fold_has_the_labels_of_its_own_model(tmp_path, run, disk, run_command):
    out, whole = tmp_path / "pseudo", tmp_path / "whole"
    arguments = ["pseudo", "--model", run, "--overlap", "0.5", "--data", disk, "--out"]
    first = [*arguments[:5], "--data", disk / "5.flac", *arguments[5:], out]
    process = subprocess.Popen([sys.executable, "-c", _SLOWED, *map(str, first)], stderr=-3)
    journal, ends_at = out / JOURNAL, time.monotonic() + 60
    while time.monotonic() < ends_at and not (journal.is_file() and journal.read_bytes().count(b"\n") > 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not tables(out)
    code, printed, err = run_command(*first)
    assert (code, printed.splitlines()) == (1, [str(out / "labels.png"), str(out)])
    assert "scored before, 1 failed; " in err
    assert run_command(*arguments, whole)[0] == 1  # and in another order
    assert list(tables(out)) == ["labels.parquet", "labels_fold_0.parquet", "labels_fold_1.parquet"]
    assert tables(out) == tables(whole)
    assert not [x for x in out.rglob("*") if x.name.startswith(".")]
    found = PseudoLabels(out)
    assert (found.teacher.run, found.teacher.folds) == (run, (0, 1))
    assert found.split.read_bytes() == (run / "split.csv").read_bytes()
    assert found.recordings == [str(disk / f"{k}.flac") for k in range(6)]
    for fold, model in ((None, run), (0, run / "fold0"), (1, run / "fold1")):
        classifier, soft = keras_birds.load(model), found.read(LABELS, fold)
        scores = [classifier.scores(x, overlap_s=0.5) for x in found.recordings]
        np.testing.assert_allclose(soft.targets, np.concatenate([x[list(LABELS)] for x in scores]), atol=1e-3)
        spans = np.concatenate([x[["start_s", "end_s"]] for x in scores])
        np.testing.assert_array_equal([x[1:] for x in soft.windows], spans)


def test_other_options_make_other_labels_of_the_same_scores(tmp_path, run, disk, run_command):
    out = tmp_path / "pseudo"
    arguments = ["pseudo", "--model", run, "--data", disk / "*.flac", "--out", out]
    assert run_command(*arguments, "--no-strict")[0] == 0
    before, plain = tables(out), PseudoLabels(out).read(LABELS, 1)
    # What is out of reach stays, as does all when nothing would be left.
    disk.rename(tmp_path / "unplugged")
    code, _, err = run_command(*arguments, "--min-confidence", 1)
    assert (code, tables(out) == before, PseudoLabels(out).rules) == (1, True, LabelRules())
    assert "labels.parquet: --min-confidence must leave windows to learn from. Received: 1, and no " in err
    rules = LabelRules(power=2.0, floor=0.1, cap=0.7, min_confidence=0.5)
    options = ("--power", 2, "--floor", 0.1, "--cap", 0.7, "--min-confidence", 0.5)
    code, _, err = run_command(*arguments, *options)
    assert (code, "0 scored" in err) == (1, True)
    found = PseudoLabels(out)
    assert (found.rules, len(found.recordings)) == (rules, 6)
    soft, kept = found.read(LABELS, 1), rules.keep(plain.targets)
    assert 0 < len(soft.targets) == kept.sum() < len(kept)
    np.testing.assert_allclose(soft.targets, rules.labels(plain.targets[kept]), rtol=1e-6)
    told = found.about["tables"]["labels_fold_1.parquet"]
    assert told["left_out"] == len(kept) - kept.sum()
    assert told["mean_sum"] == pytest.approx(soft.targets.sum() / len(soft.targets))
    by_label = {x: {"sum": soft.targets[:, k].sum(), "windows": 0} for k, x in enumerate(LABELS)}
    by_label = {
        x: v | {"windows": (soft.targets[:, k] >= 0.5).sum()} for k, (x, v) in enumerate(by_label.items())
    }
    for label, wanted in by_label.items():
        assert told["labels"][label] == pytest.approx(wanted)
    # Another run's scores, or those of other windows, aren't mixed with these.
    (tmp_path / "unplugged").rename(disk)
    shutil.copytree(run / "fold1", run / "fold2")
    for model, more, said in (
        (run, (), "models is ["),
        (run / "fold0", (), "models is ["),
        (run, ("--overlap", 1), "overlap_s is 1.0"),
    ):
        code, _, err = run_command(*arguments[:2], model, *arguments[3:], *more)
        assert (code, "holds pseudo labels of other settings" in err, said in err) == (2, True, True), err


def test_what_the_run_learnt_from_is_refused_by_place_number_and_content(
    tmp_path, run, write_tone, run_command
):
    (tmp_path / "same").mkdir()
    shutil.copy(tmp_path / "birds" / "a" / "other.flac", tmp_path / "same" / "renamed.flac")
    write_tone("number/xc12345_again.flac", 300.0)
    write_tone("made/soundscape_1.flac", 300.0)
    (tmp_path / "made" / "soundscapes.json").write_text(json.dumps({"data": str(tmp_path / "birds")}))
    (tmp_path / "made" / "annotations.csv").write_text("file,source\nsoundscape_1.flac,a/other.flac\n")
    for folder, said in (
        ("birds", "Received: 2 of them, first "),
        ("same", "renamed.flac, which holds the same as "),
        ("number", "xc12345_again.flac, which has the number of "),
        ("made", "soundscape_1.flac, which was made of "),
    ):
        code, _, err = run_command(
            "pseudo", "--model", run, "--data", tmp_path / folder, "--out", tmp_path / "p"
        )
        assert (code, said in err, (tmp_path / "p").exists()) == (1, True, False), err


def test_what_training_could_not_read_again_is_left_out_and_a_model_of_no_run_gives_only_its_own_labels(
    tmp_path, placeholder_run, disk, run_command, monkeypatch
):
    odd = os.fsdecode(b"na\xefve.flac")
    (disk / "0.flac").rename(disk / odd)
    monkeypatch.chdir(disk)
    names = (odd, "1.flac", "1.flac", "https://example.com/x.ogg")
    given = [x for name in names for x in ("--data", name)]
    out, model = tmp_path / "pseudo", placeholder_run / "fold0"
    code, _, err = run_command("pseudo", "--model", model, *given, "--out", out)
    assert (code, err.count("as training reads it again")) == (1, 2)
    assert "What the model learnt from isn't known" in err
    found = PseudoLabels(out)
    assert (found.recordings, found.teacher.folds, found.split) == ([str(disk / "1.flac")], (), None)
    assert list(tables(out)) == ["labels.parquet"]
    code, _, err = run_command("pseudo", "--model", model, "--data", "bad.flac", "--out", tmp_path / "none")
    assert (code, "must be recordings that can be read. Received: none; see manifest.csv" in err) == (1, True)


@pytest.mark.slow
def test_a_cluster_gives_the_same_labels(tmp_path, run, disk, run_command):
    found = []
    for more in ((), ("--ray", "local")):
        found.append(tmp_path / f"p{len(found)}")
        assert run_command("pseudo", "--model", run, "--data", disk, "--out", found[-1], *more)[0] == 1
    assert tables(found[0]) == tables(found[1])


def test_a_figure_shows_the_labels_with_most_of_very_many():
    labels = {f"${k}^": {"sum": float(k), "windows": k // 2} for k in range(400)}
    figure = pseudo_labels({"windows": 9, "left_out": 1, "mean_sum": 2.0, "labels": labels}, "many")
    assert (
        "9 windows, 1 left out, 2.00 labels a window; the 312 labels with most of 400"
        in figure.get_suptitle()
    )
    names = [x.get_text() for axes in figure.axes for x in axes.get_yticklabels()]
    assert (len(figure.axes), names) == (6, [f"${k}^" for k in range(399, 87, -1)])
