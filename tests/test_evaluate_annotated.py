"""`keras-birds evaluate --annotations`: by window and by event, a model and tables of detections."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile
from placeholder import TONES_HZ
from sklearn.metrics import average_precision_score

from keras_birds import load
from keras_birds.data.annotations import Annotation
from keras_birds.evaluation.events import EventRules, EventTally
from keras_birds.inference.aggregate import rank_average
from keras_birds.inference.members import MemberScorer
from keras_birds.inference.scorer import score_recordings

RATE_HZ = 16_000


def tally(times, scores, annotated, **rules):
    found = EventTally(EventRules(**rules))
    start_s, end_s = np.array(times, float).reshape(-1, 2).T
    found.add(start_s, end_s, np.array(scores, float), [Annotation("a", *x, "x") for x in annotated])
    return found


def test_where_windows_are_annotated_as_they_are_cut_events_are_windows():
    rng, start_s = np.random.default_rng(0), np.arange(0, 200, 2.0)
    targets, scores = rng.random(100) < 0.3, rng.random(100).round(1)
    found = EventTally(EventRules(0.5, 0.5, 0.0))
    rows = [Annotation("a", x, x + 2, "x") for x in start_s[targets]]
    for part in (start_s < 90, start_s >= 90):
        here = [x for x in rows if part[start_s == x.start_s][0]]
        found.add(start_s[part], start_s[part] + 2, scores[part], here)
    figures = found.figures()
    assert figures.average_precision == pytest.approx(average_precision_score(targets, scores))
    is_there = scores >= 0.5
    assert figures.precision == pytest.approx(targets[is_there].mean())
    assert figures.recall == pytest.approx(is_there[targets].mean())


def test_sounds_are_found_many_to_many_and_matched_one_to_one():
    # Two calls in one window; a song over two windows and a bit; a false alarm; a call that nobody heard.
    times, scores = [(0, 3), (3, 6), (6, 9), (9, 12), (20, 23)], [0.9, 0.8, 0.7, 0.6, 0.5]
    annotated = [(0.5, 1), (2, 2.4), (3, 9.5), (30, 31)]
    found = tally(times, scores, annotated, threshold=0.5, tolerance_s=0.0).figures()
    assert (found.precision, found.recall) == (3 / 4, 3 / 4), "the window after the song is neither"
    assert (found.annotations, found.events, found.matched) == (4, 2, 1), "touching windows are one event"
    assert found.f1 == pytest.approx(2 / 6)
    assert tally([(10, 12)], [1], [(12.1, 12.4)]).figures().recall == 1, "within the tolerance"
    assert tally([(10, 12)], [1], [(12.1, 12.4)], tolerance_s=0.05).figures().recall == 0
    assert tally([(1, 1)], [1], [(1, 1)], tolerance_s=0.0).figures().recall == 1, "points"
    nothing = tally([], [], [(1, 2)]).figures()
    assert nothing.recall == 0
    assert np.isnan(nothing.precision)


@pytest.fixture
def season(tmp_path):
    """Recordings of 20 s: a tone of a label from 4 to 8 s and of the next from 13 s; with a table of what is there."""
    (tmp_path / "season").mkdir()
    t, rows = np.arange(20 * RATE_HZ) / RATE_HZ, ["file,start_s,end_s,label"]
    for i in range(3):
        sound = np.random.default_rng(i).normal(0, 0.001, len(t))
        for hz, begin_s, end_s in ((TONES_HZ[i], 4, 8), (TONES_HZ[i + 1], 13, 15)):
            sound += 0.5 * np.sin(2 * np.pi * hz * t) * ((t >= begin_s) & (t < end_s))
        soundfile.write(tmp_path / "season" / f"{i}.wav", sound, RATE_HZ)
    names = ("Amazon River Frog", "whtdov", "Nyctidromus albicollis", "Amazon Kingfisher")
    rows += [f"{i}.wav,{4 + 9 * k},{8 + 7 * k},{names[i + k]}" for i in range(3) for k in (0, 1)]
    (tmp_path / "marks.csv").write_text(
        "\n".join([*rows, "1.wav,1,2,unicorn", "0.wav,18,18.5,Amazon Kingfisher"])
    )
    return tmp_path / "season"


def test_a_model_and_its_detections_are_judged(season, placeholder_run, run_command, tmp_path):
    marks = ("--annotations", tmp_path / "marks.csv")
    model = ("evaluate", "--model", placeholder_run, "--threshold", "0.5")
    code, said, _ = run_command(*model, "--data", season, *marks, "--out", tmp_path / "a")
    assert code == 0
    assert "Left out: 1 annotations of labels that aren't known: unicorn" in said
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert (report["recordings"], report["windows"]) == (3, 30)
    labels = pd.read_csv(tmp_path / "a" / "labels.csv").set_index("label")
    assert labels["annotations"].to_dict() == {x: 2 - (k == 0) for k, x in enumerate(labels.index)}
    assert labels.loc["Nyctidromus albicollis", ["auc", "event_precision", "event_recall"]].tolist() == [
        1,
        1,
        1,
    ]
    assert labels.loc["Amazon Kingfisher", "event_recall"] == 0.5, "there is no tone at 18 s"
    assert (tmp_path / "a" / "precision-recall.png").stat().st_size > 10_000

    results = tmp_path / "results"
    run_command("detect", season, "--model", placeholder_run, "--threshold", "0.5", "--out", results, "--merge",
                "--format", "raven")  # fmt: skip
    for k, detections in enumerate(
        [(results,), (results / "detections.Table.1.selections.txt", "--data", season)]
    ):
        code, _, error = run_command(
            "evaluate", *detections, *marks, "--threshold", "0.5", "--out", tmp_path / f"b{k}"
        )
        assert code == 0, error
        found = pd.read_csv(tmp_path / f"b{k}" / "labels.csv").set_index("label")
        assert found.loc["unicorn", "event_recall"] == 0, "never detected is missed"
        for column in ("event_recall", "events", "matched", "event_f1"):
            assert (found.loc[labels.index, column] == labels[column]).all()


def test_windows_are_judged_by_their_scores_in_context_and_by_rank(
    season, placeholder_run, run_command, tmp_path
):
    how = ("--smooth", "3", "--file-level", "2", "--average", "rank", "--threshold", "0.1")
    rows = (tmp_path / "marks.csv").read_text().splitlines()
    (tmp_path / "some.csv").write_text("\n".join(x for x in rows if "Frog" not in x))  # the first label
    marks = ("--data", season, "--annotations", tmp_path / "some.csv")
    code, _, error = run_command(
        "evaluate", "--model", placeholder_run, *marks, *how, "--out", tmp_path / "a"
    )
    assert code == 0, error
    classifier = load(placeholder_run)
    found = list(score_recordings(MemberScorer(classifier), sorted(season.iterdir())))
    members = np.concatenate([x.scores for x in found]).reshape(30, len(classifier.engines), -1)
    column, scores = classifier.labels.index("whtdov"), []
    for part in np.split(rank_average(members)[:, column], 3):
        weights = np.maximum(0, 2 - abs(np.subtract.outer(np.arange(10), np.arange(10))))
        means = weights @ part / weights.sum(axis=1)
        scores += [x * np.mean(sorted(means)[-2:]) for x in means]
    # Of recording 0 from 13 to 15 s, of recording 1 from 4 to 8 s.
    targets = np.isin(np.arange(30), [6, 7, 12, 13])
    row = pd.read_csv(tmp_path / "a" / "labels.csv").set_index("label").loc["whtdov"]
    assert row["average_precision"] == pytest.approx(average_precision_score(targets, scores))
    assert row["recall"] == pytest.approx((np.array(scores)[targets] >= 0.1).mean())
    # Who heard a recording before, or those that it was made of, is told.
    run = shutil.copytree(placeholder_run, tmp_path / "run")
    (run / "split.csv").write_text(
        "path,label,fold\n0.wav,whtdov,0\nclips/a.ogg,whtdov,1\nclips/b.ogg,whtdov,-1\n"
    )
    made = "file,start_s,end_s,label,source\n0.wav,13,15,whtdov,clips/a.ogg\n1.wav,4,8,whtdov,clips/b.ogg\n"
    (tmp_path / "made.csv").write_text(made)
    marks = ("--data", season, "--annotations", tmp_path / "made.csv")
    code, _, error = run_command("evaluate", "--model", run, *marks, "--out", tmp_path / "a")
    for told in ("1 of 2 recordings have", "1 of 2 recordings that these were made of have"):
        assert f"{told} the path of one that the model was trained on" in error
    code, _, error = run_command("evaluate", season, *marks, "--file-level", "2")
    assert (code, "--smooth, --file-level and --average go with --model" in error) == (2, True)


def test_calls_that_make_no_sense_are_told(season, placeholder_run, run_command, tmp_path):
    marks = ("--annotations", tmp_path / "marks.csv")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "journal.jsonl").touch()
    parts, sample = tmp_path / "parts", ("--sample", "1/10")
    run_command("detect", season, "--model", placeholder_run, "--out", parts, *sample)
    for call, said in (
        ((tmp_path / "results", "--data", season, *marks), "lists its own recordings: leave out --data"),
        ((tmp_path / "marks.csv", *marks), "tables of detections go with --data, their recordings"),
        (("--model", placeholder_run, "--data", season, *marks, "--range"), "--range goes with --model"),
        (
            ("--model", placeholder_run, "--data", season, "--tolerance", "1"),
            "--tolerance goes with --annotations",
        ),
        ((season, "--data", tmp_path, *marks), "must be a table of annotations"),
        ((parts, *marks), "of --when or --sample. Run `keras-birds detect` without them"),
    ):
        code, _, error = run_command("evaluate", *call)
        assert code > 0
        assert said in error
