"""`keras-birds evaluate` and `compare`, and the bootstrap under both."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from placeholder import LABELS, TONES_HZ
from scored_run import NUM_FOLDS, PER_FOLD, make_scores, use_placeholder, write_scored_run
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score
from small_run import files_below

from keras_birds.config import Config
from keras_birds.data.catalog import read_catalog
from keras_birds.data.folds import make_split
from keras_birds.errors import DataError, ModelError
from keras_birds.evaluation.bootstrap import interval, macro_auc_draws, resamples
from keras_birds.evaluation.compare import compare_runs
from keras_birds.evaluation.evaluate import Leaks, evaluate, find_leaks
from keras_birds.evaluation.metrics import confusions, group_table, label_table, top1_accuracy
from keras_birds.evaluation.run_scores import read_run
from keras_birds.nn.metrics import macro_auc
from keras_birds.plots.report import auc_against_count_figure, confusion_figure, curves_figure


@pytest.fixture(scope="module")
def weak(tmp_path_factory):
    return write_scored_run(tmp_path_factory.mktemp("weak") / "weak", skill=1.0, training={"epochs": 5})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Better than `weak`; both are read-only."""
    settings = {"training": {"epochs": 7}, "model": {"dropout": 0.3}}
    return write_scored_run(tmp_path_factory.mktemp("runs") / "birds", **settings)


def decided_well(targets, scores, threshold):
    """Scikit-learn's precision and recall."""
    used = targets >= 0
    return precision_recall_fscore_support(targets[used], scores[used] >= threshold, average="binary")[:2]


def test_the_report_has_scikit_learns_figures_and_needs_no_network(run, weak, run_command, tmp_path):
    out = tmp_path / "report"
    code, printed, err = run_command("evaluate", run, "--out", out, "--threshold", "0.3", "--against", weak)
    assert (code, files_below(out)) == (0, {"report.html", "report.json", "labels.csv"})
    report = json.loads((out / "report.json").read_text())
    areas, label_areas = [x.pop("macro_auc") for x in (*report["folds"], report["mean"])], []
    for fold, figures in enumerate(report["folds"]):
        targets, probabilities = make_scores(fold)
        used = targets >= 0
        columns = [(targets[used[:, i], i], probabilities[used[:, i], i]) for i in range(len(LABELS))]
        label_areas.append([roc_auc_score(*x) for x in columns])
        precision, recall = decided_well(targets, probabilities, 0.3)
        right = targets[np.arange(PER_FOLD), np.where(used, probabilities, -1).argmax(axis=1)] == 1
        expected = {"fold": fold, "recordings": PER_FOLD, "labels": 4, "top1_accuracy": right.mean()}
        expected["cmap"] = np.mean([average_precision_score(*x) for x in columns])
        assert figures == pytest.approx({**expected, "precision": precision, "recall": recall})
    assert [x["value"] for x in areas[:3]] == pytest.approx(np.mean(label_areas, axis=1))
    assert all(x["low"] < x["value"] < x["high"] for x in areas)
    means = {"fold": None, "recordings": NUM_FOLDS * PER_FOLD, "labels": 4}
    for name in ("cmap", "top1_accuracy", "precision", "recall"):
        means[name] = pytest.approx(np.mean([x[name] for x in report["folds"]]))
    assert report["mean"] == means
    mean = areas[3]
    assert mean["value"] == pytest.approx(np.mean(label_areas))
    # A mean of independent folds varies less than any of them.
    assert mean["high"] - mean["low"] < min(x["high"] - x["low"] for x in areas[:3])
    assert f"{mean['value']:.4f}  {mean['low']:.4f} to {mean['high']:.4f}" in printed

    other = np.mean([macro_auc(*make_scores(k, skill=1.0)) for k in range(NUM_FOLDS)])
    assert report["other_folds"]["mean"]["macro_auc"]["value"] == pytest.approx(other)
    area = rf"macro AUC {other:.4f} \(0\.\d{{4}} to 0\.\d{{4}}\), difference \+{mean['value'] - other:.4f}"
    assert re.search(f"weak, folds read from column fold: {area}", printed)
    leaks = {"sources": 1 + NUM_FOLDS * 10, "divided": 1, "recordings": NUM_FOLDS, "example": "ann"}
    assert report["leaks"] == {**leaks, "named": NUM_FOLDS * PER_FOLD}
    assert "Warning: 1 of 31 sources have recordings in more than one fold (3 recordings)" in err
    assert "Pass --data DIR" in err
    assert f"Report: {out / 'report.html'}" in printed
    html = (out / "report.html").read_text()
    assert f"<b>{mean['value']:.4f}</b>" in html
    assert "A source on both sides" in html
    assert html.count('src="data:image/png;base64,') == 4
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", html)

    labels = pd.read_csv(out / "labels.csv", dtype={"label": str})
    assert list(labels["label"]) == list(LABELS)
    assert list(labels["positives"]) == [30] * 4
    assert list(labels["auc"]) == pytest.approx(np.mean(label_areas, axis=0))
    scores = read_run(run)
    expected = decided_well(scores.targets[:, 2], scores.scores[:, 2], 0.3)
    assert (labels["precision"][2], labels["recall"][2]) == pytest.approx(expected)
    classes = ["", *labels["class_name"][1:]]
    groups = group_table(labels.assign(positives=[19, 20, 99, 100], class_name=classes)).set_index("group")
    assert list(groups["labels"]) == [1, 3, 1, 2, 1]
    assert list(groups.index[:3]) == ["class not given", "Aves", "rare: under 20"]
    assert groups.loc["Aves", "macro_auc"] == pytest.approx(labels["auc"][1:].mean())
    assert groups.loc["20 to 99", "cmap"] == pytest.approx(labels["average_precision"][1:3].mean())
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
    assert top1_accuracy(np.array([[-1, 1]]), np.array([[0.9, 0.1]])) == 1, "a masked label is no answer"


def test_the_most_confused_pairs_come_first_and_figures_show_what_they_say(run):
    scores = read_run(run)
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
    matrix = confusion_figure(scores.targets, scores.scores, scores.labels).axes[0].images[0].get_array()
    np.testing.assert_allclose(np.asarray(matrix).sum(axis=1), 1)
    loss, area = curves_figure({x.fold: (x.history, x.kept_epoch) for x in scores.folds}).axes
    assert (len(loss.lines), len(area.lines)) == (3 * NUM_FOLDS, 2 * NUM_FOLDS)
    # The dot of the second fold lies at its third epoch.
    assert list(area.lines[3].get_xdata()) == [3]
    axes = auc_against_count_figure(label_table(scores, 0.25)).axes[0]
    assert sum(len(x.get_offsets()) for x in axes.collections) == 4


def test_sources_of_one_part_each_are_no_leaks(run, tmp_path):
    split = pd.read_csv(run / "split.csv")
    for author, sources in ((split["fold"].map("author {}".format), 3), ("", 0)):
        split.assign(author=author).to_csv(tmp_path / "split.csv", index=False)
        assert find_leaks(tmp_path) == Leaks(sources, 0, 0, 40 * sources, "")
    (tmp_path / "split.csv").write_text("path,label,fold\n")
    with pytest.raises(DataError, match="columns fold, author"):
        find_leaks(tmp_path)


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


def test_hidden_recordings_are_scored_as_a_submission(placeholder_run, run_command, write_tone, tmp_path):
    data = tmp_path / "tones"
    for label, hz in zip(LABELS, TONES_HZ, strict=True):
        for i in range(10):
            # Every second recording holds two windows; the names repeat from label to label.
            write_tone(f"tones/train_audio/{label}/{i}.wav", hz * (0.97 + 0.006 * i), 2 + 2 * (i % 2), 16_000)
    rows = [f"{label}/{i}.wav,{label},[]" for label in LABELS for i in range(10)]
    (data / "train.csv").write_text("\n".join(["filename,primary_label,secondary_labels", *rows]))
    (data / "taxonomy.csv").write_text("\n".join(["primary_label", *LABELS]))
    run = write_scored_run(tmp_path / "run", num_folds=2, folds={"n_folds": 2})
    use_placeholder(run, placeholder_run)
    config = Config.load(run / "config.toml")
    catalog = read_catalog(data, config.data)
    make_split(catalog, config.folds).save(run / "split.csv", catalog)
    split = pd.read_csv(run / "split.csv")
    for fold in range(2):
        path, paths = run / f"fold{fold}" / "oof.parquet", list(split[split["fold"] == fold]["path"])
        pd.read_parquet(path).head(len(paths)).assign(path=paths).to_parquet(path)

    code, _, err = run_command("evaluate", run, "--data", data)
    assert (code, err.strip()) == (0, "")
    hidden = json.loads((run / "evaluation" / "report.json").read_text())["hidden"]
    submission = pd.read_csv(run / "evaluation" / "submission.csv")
    assert list(submission.columns) == ["row_id", *LABELS]
    counts = {"recordings": 8, "left_out": 0, "windows": len(submission), "labels": 4}
    assert counts.items() <= hidden.items()
    assert len(submission) >= 8 == (split["fold"] == -1).sum()
    # The placeholder is always right about tones.
    assert hidden["macro_auc"]["value"] == hidden["macro_auc"]["low"] == 1.0
    truth = [re.fullmatch(r"train_audio_(.*)_\d+_[24]", x)[1] for x in submission["row_id"]]
    assert list(submission[list(LABELS)].idxmax(axis=1)) == truth
    html = (run / "evaluation" / "report.html").read_text()
    assert html.count("<audio controls") == html.count('src="data:audio/ogg;base64,') > 3
    assert html.count('src="data:image/png;base64,') == 5
    assert "Hidden recordings" in html

    for path in split.loc[split["fold"] == -1, "path"]:
        write_tone(f"tones/{path}", seconds=1, rate=16_000)
    code, out, _ = run_command("evaluate", run, "--data", data, "--out", tmp_path / "short")
    assert (code, "Hidden" in out) == (0, False)
    assert (
        "none of the 8 can be read and is as long as a window" in (tmp_path / "short/report.html").read_text()
    )
    assert not (tmp_path / "short" / "submission.csv").exists()


def test_differences_of_two_runs_are_paired(weak, run, run_command, tmp_path):
    code, printed, err = run_command("compare", weak, run, "--format", "json")
    assert (code, err) == (0, "")
    found, areas, draws = json.loads(printed), [], []
    for fold, row in enumerate(found["folds"]):
        pair = [make_scores(fold, skill=skill) for skill in (1.0, 1.5)]
        areas.append([macro_auc(*x) for x in pair])
        draws.append(macro_auc_draws(*pair[1]) - macro_auc_draws(*pair[0]))
        assert (row["fold"], row["recordings"], [row["a"], row["b"]]) == (fold, PER_FOLD, areas[-1])
        bounds = row["difference"]["low"], row["difference"]["high"]
        assert bounds == pytest.approx(tuple(np.quantile(draws[-1], [0.025, 0.975])))
    (a, b), difference = np.mean(areas, axis=0), found["mean"]["difference"]
    low, high = np.quantile(np.mean(draws, axis=0), [0.025, 0.975])
    assert difference == pytest.approx({"value": b - a, "low": low, "high": high})
    assert found["settings"] == {"training.epochs": [5, 7], "model.dropout": [0.2, 0.3]}
    _, printed, _ = run_command("compare", weak, run)
    numbers = rf"{a:.4f} +{b:.4f} +\+{b - a:.4f}  \+{low:.4f} to \+{high:.4f}\n"
    assert re.search(rf"mean +{NUM_FOLDS * PER_FOLD} +{numbers}", printed)
    assert "B is better" in printed
    assert "model.dropout: 0.2 in A, 0.3 in B" in printed
    assert "A is better" in run_command("compare", run, weak)[1]
    _, printed, _ = run_command("compare", run, run)
    assert "+0.0000  +0.0000 to +0.0000\nNo clear difference" in printed
    assert "No setting differs." in printed
    code, _, err = run_command("compare", run, tmp_path)
    assert (code, "must be a run directory" in err) == (1, True)


def test_only_the_same_recordings_in_any_order_are_compared(weak, run, tmp_path):
    other = write_scored_run(tmp_path / "other")
    for path in other.glob("fold*/oof.parquet"):
        pd.read_parquet(path).sample(frac=1, random_state=0).to_parquet(path, index=False)
    assert compare_runs(weak, other).mean.difference == compare_runs(weak, run).mean.difference
    path = other / "fold1" / "oof.parquet"
    table = pd.read_parquet(path).sort_values("path", ignore_index=True)
    table.assign(path=["elsewhere.wav", *table["path"][1:]]).to_parquet(path)
    with pytest.raises(DataError, match=r"fold 1 of both runs .*: elsewhere\.wav and 1 more in only one"):
        compare_runs(weak, other)
    table.loc[3, "target/whtdov"] = 0.5
    table.to_parquet(path)
    with pytest.raises(DataError, match=f"fold 1 .*: other labels of {table['path'][3]}"):
        compare_runs(weak, other)
    (other / "fold1" / "model.onnx").unlink()
    assert [x.fold for x in compare_runs(weak, other).folds] == [0, 2]
    (other / "fold0" / "model.onnx").unlink()
    (other / "fold2").rename(other / "fold7")
    with pytest.raises(DataError, match=r"a fold in common\. Received: folds 0, 1, 2 and 7"):
        compare_runs(weak, other)


def test_draws_with_replacement_have_scikit_learns_weighted_areas():
    rng = np.random.default_rng(0)
    targets = rng.choice([0.0, 1.0, -1.0], (60, 5), p=[0.6, 0.3, 0.1]).astype("float32")
    # Rounded, so that scores are tied.
    scores = np.round(rng.random((60, 5)) * 0.7 + 0.3 * (targets > 0), 1).astype("float32")
    targets[:, 4] = np.arange(60) == 7
    samples = resamples(60, 400)
    assert (samples.sum(axis=1) == 60).all()
    # The share of recordings that a sample lacks is 1/e.
    assert (samples == 0).mean() == pytest.approx(np.exp(-1), abs=0.02)
    assert resamples(0, 3).shape == (3, 0)
    draws = macro_auc_draws(targets, scores, 400)
    for counts, draw in zip(samples[:40], draws[:40], strict=True):
        areas = []
        for label in range(5):
            used = (targets[:, label] >= 0) & (counts > 0)
            positive = targets[used, label] > 0
            if positive.any() and not positive.all():
                areas.append(roc_auc_score(positive, scores[used, label], sample_weight=counts[used]))
        assert draw == pytest.approx(np.mean(areas), abs=1e-12)
    # Where no label has a positive there is no number.
    none = macro_auc_draws(np.zeros_like(targets), scores, 5)
    assert np.isnan(none).all()
    undefined = interval(float("nan"), none)
    assert np.isnan([undefined.value, undefined.low, undefined.high]).all()
