import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile
from placeholder import LABELS, TONES_HZ
from scored_run import NUM_FOLDS, PER_FOLD, make_scores, use_placeholder, write_scored_run
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

from keras_birds.config import Config
from keras_birds.data.catalog import read_catalog
from keras_birds.data.folds import make_split
from keras_birds.errors import DataError, ModelError
from keras_birds.evaluation.evaluate import evaluate, find_leaks
from keras_birds.evaluation.metrics import confusions, group_table, label_table, top1_accuracy
from keras_birds.evaluation.run_scores import read_run
from keras_birds.plots.report import auc_against_count_figure, confusion_figure, curves_figure


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Read-only."""
    return write_scored_run(tmp_path_factory.mktemp("runs") / "birds")


@pytest.fixture(scope="module")
def scores(run):
    return read_run(run)


def decided_well(targets, scores, threshold):
    """Scikit-learn's precision and recall."""
    used = targets >= 0
    return precision_recall_fscore_support(targets[used], scores[used] >= threshold, average="binary")[:2]


def test_a_runs_scores_are_read_in_fold_order(scores):
    assert [(x.fold, x.kept_epoch) for x in scores.folds] == [(0, 2), (1, 3), (2, 4)]
    assert scores.labels == LABELS
    assert scores.labels.items[0].common_name == "Amazon River Frog"
    for found, expected in zip((scores.targets, scores.scores), make_scores(1), strict=True):
        np.testing.assert_array_equal(found[PER_FOLD : 2 * PER_FOLD], expected)
    assert scores.paths[PER_FOLD] == "train_audio/1/0.wav"


def test_figures_of_folds_are_scikit_learns(run, tmp_path):
    found = evaluate(run, tmp_path, threshold=0.3)
    for fold, figures in enumerate(found.folds):
        targets, scores = make_scores(fold)
        used = targets >= 0
        columns = [(targets[used[:, i], i], scores[used[:, i], i]) for i in range(len(LABELS))]
        assert figures.macro_auc.value == pytest.approx(np.mean([roc_auc_score(t, s) for t, s in columns]))
        assert figures.macro_auc.low < figures.macro_auc.value < figures.macro_auc.high
        assert figures.cmap == pytest.approx(np.mean([average_precision_score(t, s) for t, s in columns]))
        assert (figures.precision, figures.recall) == pytest.approx(decided_well(targets, scores, 0.3))
        right = targets[np.arange(PER_FOLD), np.where(used, scores, -1).argmax(axis=1)] == 1
        assert figures.top1_accuracy == right.mean()
        assert (figures.fold, figures.recordings, figures.labels) == (fold, PER_FOLD, 4)
    mean = found.mean
    assert (mean.fold, mean.recordings) == (None, NUM_FOLDS * PER_FOLD)
    assert mean.macro_auc.value == pytest.approx(np.mean([x.macro_auc.value for x in found.folds]))
    assert mean.recall == pytest.approx(np.mean([x.recall for x in found.folds]))
    # A mean of independent folds varies less than any of them.
    widths = [x.macro_auc.high - x.macro_auc.low for x in [mean, *found.folds]]
    assert widths[0] < min(widths[1:])


def test_labels_and_groups(scores):
    table = label_table(scores, 0.3)
    assert list(table["label"]) == list(LABELS)
    assert list(table["positives"]) == [30] * 4
    per_fold = []
    for fold in range(NUM_FOLDS):
        targets, probabilities = make_scores(fold)
        used = targets[:, 2] >= 0
        per_fold.append(roc_auc_score(targets[used, 2], probabilities[used, 2]))
    assert table["auc"][2] == pytest.approx(np.mean(per_fold))
    expected = decided_well(scores.targets[:, 2], scores.scores[:, 2], 0.3)
    assert (table["precision"][2], table["recall"][2]) == pytest.approx(expected)
    groups = group_table(table.assign(positives=[19, 20, 99, 100])).set_index("group")
    assert groups.loc["Aves", "labels"] == 3
    assert groups.loc["Aves", "macro_auc"] == pytest.approx(table["auc"][1:].mean())
    assert groups.loc["rare: under 20", "macro_auc"] == pytest.approx(table["auc"][0])
    assert groups.loc["20 to 99", "cmap"] == pytest.approx(table["average_precision"][1:3].mean())
    assert groups.loc["common: 100 and more", "positives"] == 100


def test_labels_without_positives_have_no_figures(tmp_path):
    run = write_scored_run(tmp_path / "run", num_folds=1)
    oof = pd.read_parquet(run / "fold0" / "oof.parquet")
    oof.assign(**{"target/amakin1": np.float32(0)}).to_parquet(run / "fold0" / "oof.parquet")
    found = evaluate(run, tmp_path)
    assert found.labels.iloc[3][["auc", "average_precision", "recall"]].isna().all()
    assert found.folds[0].labels == found.mean.labels == 3
    assert found.to_dict()["labels"][3]["auc"] is None
    # Recordings without a positive don't count for the highest score.
    has_positive = found.scores.targets.max(axis=1) == 1
    assert has_positive.sum() == 30
    expected = top1_accuracy(found.scores.targets[has_positive], found.scores.scores[has_positive])
    assert found.folds[0].top1_accuracy == expected


def test_the_most_confused_pairs_come_first_with_their_clearest_recording(scores):
    found, counts = confusions(scores), {}
    for targets, row in zip(scores.targets, scores.scores, strict=True):
        truth, other = int(targets.argmax()), int(np.where(targets == 0, row, -1).argmax())
        if row[other] > row[truth]:
            counts.setdefault((LABELS[truth], LABELS[other]), []).append(row[other] - row[truth])
    assert {(x.label, x.taken_for): x.count for x in found} == {pair: len(x) for pair, x in counts.items()}
    assert [x.count for x in found] == sorted(map(len, counts.values()), reverse=True)
    for x in found:
        row = scores.scores[scores.paths.index(x.path)]
        assert x.scores == tuple(row[LABELS.index(name)] for name in (x.label, x.taken_for))
        assert x.scores[1] - x.scores[0] == pytest.approx(max(counts[x.label, x.taken_for]))
        assert x.positives == 30
    assert confusions(scores, most=2) == found[:2]


def test_a_source_on_both_sides_is_found(run, tmp_path):
    leaks = find_leaks(run)
    assert (leaks.divided, leaks.recordings, leaks.example) == (1, NUM_FOLDS, "ann")
    assert leaks.sources == 1 + NUM_FOLDS * 10
    split = pd.read_csv(run / "split.csv")
    (tmp_path / "split.csv").write_text("path,label,fold\n")
    with pytest.raises(DataError, match="columns fold, author"):
        find_leaks(tmp_path)
    split.assign(author=split["fold"].map("author {}".format)).to_csv(tmp_path / "split.csv", index=False)
    assert find_leaks(tmp_path).divided == 0
    split.assign(author="").to_csv(tmp_path / "split.csv", index=False)
    assert find_leaks(tmp_path).sources == 0


def test_figures_show_what_they_say(scores):
    loss, area = curves_figure({x.fold: (x.history, x.kept_epoch) for x in scores.folds}).axes
    assert (len(loss.lines), len(area.lines)) == (3 * NUM_FOLDS, 2 * NUM_FOLDS)
    # The dot of the second fold lies at its third epoch.
    assert list(area.lines[3].get_xdata()) == [3]
    axes = auc_against_count_figure(label_table(scores, 0.25)).axes[0]
    assert sum(len(x.get_offsets()) for x in axes.collections) == 4
    matrix = confusion_figure(scores.targets, scores.scores, scores.labels).axes[0].images[0].get_array()
    np.testing.assert_allclose(np.asarray(matrix).sum(axis=1), 1)


@pytest.mark.parametrize(
    ("content", "name", "error"),
    [
        (None, "config.toml", r"must be a run directory.*no config\.toml"),
        (None, "fold*/model.onnx", "must have a finished fold"),
        (b"PAR1 no", "fold1/oof.parquet", r"fold1/oof\.parquet: must be"),
        (None, "fold1/history.csv", r"fold1/history\.csv: must be"),
        (b"no", "fold1/model.onnx", r"fold1/model\.onnx: must be"),
    ],
)
def test_what_is_no_whole_run_is_named(tmp_path, content, name, error):
    run = write_scored_run(tmp_path / "run")
    for path in list(run.glob(name)):
        path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ModelError, match=error):
        read_run(run)


@pytest.fixture(scope="module")
def hidden_run(placeholder_run, tmp_path_factory):
    """A data set of tones, and a run of the placeholder that hides a fifth of them."""
    data, rng = tmp_path_factory.mktemp("tones"), np.random.default_rng(0)
    for label, hz in zip(LABELS, TONES_HZ, strict=True):
        (data / "train_audio" / label).mkdir(parents=True)
        for i in range(10):
            # Every second recording holds two windows; the names repeat from label to label.
            t = np.arange(16_000 * (2 + 2 * (i % 2))) / 16_000
            tone = 0.4 * np.sin(2 * np.pi * hz * rng.uniform(0.97, 1.03) * t) + rng.normal(0, 0.01, len(t))
            soundfile.write(data / "train_audio" / label / f"{i}.wav", tone, 16_000)
    rows = [f"{label}/{i}.wav,{label},[]" for label in LABELS for i in range(10)]
    (data / "train.csv").write_text("\n".join(["filename,primary_label,secondary_labels", *rows]))
    (data / "taxonomy.csv").write_text("\n".join(["primary_label", *LABELS]))
    run = write_scored_run(tmp_path_factory.mktemp("runs") / "hiding", num_folds=2, folds={"n_folds": 2})
    use_placeholder(run, placeholder_run)
    config = Config.load(run / "config.toml")
    catalog = read_catalog(data, config.data)
    make_split(catalog, config.folds).save(run / "split.csv", catalog)
    return run, data


def test_hidden_recordings_are_scored_as_a_submission(hidden_run, tmp_path):
    run, data = hidden_run
    found = evaluate(run, tmp_path, data)
    hidden, split = found.hidden, pd.read_csv(run / "split.csv")
    assert (hidden.recordings, hidden.left_out) == ((split["fold"] == -1).sum(), 0) == (8, 0)
    submission = pd.read_csv(hidden.submission)
    assert list(submission.columns) == ["row_id", *LABELS]
    assert hidden.windows == len(submission) >= 8
    # The placeholder is always right about tones.
    assert hidden.macro_auc.value == hidden.macro_auc.low == 1.0
    truth = [re.fullmatch(r"train_audio_(.*)_\d+_[24]", x)[1] for x in submission["row_id"]]
    assert list(submission[list(LABELS)].idxmax(axis=1)) == truth
    assert not any("hidden" in x for x in found.notes)


def test_the_command_writes_a_report_that_needs_no_network(run, run_command, tmp_path):
    out = tmp_path / "report"
    code, printed, err = run_command("evaluate", run, "--out", out, "--against", run)
    assert code == 0
    assert {x.name for x in out.iterdir()} == {"report.html", "report.json", "labels.csv"}
    report = json.loads((out / "report.json").read_text())
    mean = report["mean"]["macro_auc"]
    assert f"{mean['value']:.4f}  {mean['low']:.4f} to {mean['high']:.4f}" in printed
    assert report["other_folds"]["mean"] == report["mean"]
    assert report["strategy"] == "read from column fold"
    assert f"Report: {out / 'report.html'}" in printed
    assert "Warning: 1 of 31 sources have recordings in more than one fold (3 recordings)" in err
    assert "Pass --data DIR" in err
    html = (out / "report.html").read_text()
    assert f"<b>{mean['value']:.4f}</b>" in html
    assert "A source on both sides" in html
    assert html.count('src="data:image/png;base64,') == 4
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", html)
    labels = pd.read_csv(out / "labels.csv", dtype={"label": str})
    assert list(labels["label"]) == list(LABELS)


def test_the_report_plays_what_is_confused(hidden_run, run_command, tmp_path):
    run, data = hidden_run
    copy = shutil.copytree(run, tmp_path / "run")
    split = pd.read_csv(copy / "split.csv")
    for fold in range(2):
        path = copy / f"fold{fold}" / "oof.parquet"
        rows = split[split["fold"] == fold]["path"]
        pd.read_parquet(path).head(len(rows)).assign(path=list(rows)).to_parquet(path)
    code, _, err = run_command("evaluate", copy, "--data", data)
    assert (code, err.strip()) == (0, "")
    html = (copy / "evaluation" / "report.html").read_text()
    assert html.count("<audio controls") == html.count('src="data:audio/ogg;base64,') > 3
    assert html.count('src="data:image/png;base64,') == 5
    assert "Hidden recordings" in html
