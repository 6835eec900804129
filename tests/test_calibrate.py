import json
import re
import shutil

import numpy as np
import onnx
import pandas as pd
import pytest
from placeholder import LABELS
from scored_run import NUM_FOLDS, PER_FOLD, use_placeholder, write_scored_run
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import precision_recall_curve

import keras_birds
from keras_birds.errors import ModelError
from keras_birds.evaluation.calibrate import (
    MIN_POSITIVES,
    cross_calibrated,
    fit_calibration,
    store_calibration,
    thresholds_for,
)
from keras_birds.evaluation.run_scores import read_run
from keras_birds.models.calibration import Calibration, LabelCalibration, calibrate
from keras_birds.models.metadata import ModelMetadata
from keras_birds.plots.reliability import calibration_error


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Read-only. Its scores are far too low: their logits lie 2 below what they should."""
    return write_scored_run(tmp_path_factory.mktemp("runs") / "birds", skill=2.5)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_calibrated_scores_mean_what_they_say(run, method):
    scores = read_run(run)
    found = fit_calibration(scores, method, 0.8, lambda done, total: None)
    assert found.error_before == calibration_error(scores.targets, scores.scores)
    assert found.error_after == calibration_error(scores.targets, cross_calibrated(scores, method))
    assert found.error_after < 0.6 * found.error_before
    calibrated = found.apply(scores.scores)
    assert calibrated.dtype == np.float32
    assert 0 <= calibrated.min() <= calibrated.max() <= 1
    for i in range(len(LABELS)):
        # A higher score stays a higher or equal one.
        assert (np.diff(calibrated[np.argsort(scores.scores[:, i]), i]) >= 0).all()
    assert [x.positives for x in found.labels] == [30] * 4
    assert not any(x.refused for x in found.labels)


def test_isotonic_is_scikit_learns(run):
    scores = read_run(run)
    found = fit_calibration(scores, "isotonic", 0.8, lambda done, total: None).labels[2]
    used = scores.targets[:, 2] >= 0
    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    model.fit(scores.scores[used, 2].astype(float), scores.targets[used, 2] > 0.5)
    x = np.linspace(0, 1, 101)
    np.testing.assert_allclose(calibrate("isotonic", found.parameters, x), model.predict(x), atol=1e-6)


def test_thresholds_have_the_wanted_precision(run):
    scores = read_run(run)
    for precision in (0.5, 0.8):
        found = fit_calibration(scores, "platt", precision, lambda done, total: None)
        for i, label in enumerate(found.labels):
            used = scores.targets[:, i] >= 0
            calibrated = calibrate("platt", label.parameters, scores.scores[used, i])
            positive = scores.targets[used, i] > 0.5
            shares, _, thresholds = precision_recall_curve(positive, calibrated)
            expected = thresholds[shares[:-1] >= precision].min()
            assert label.threshold == pytest.approx(expected)
            assert label.threshold_interval[0] <= label.threshold <= label.threshold_interval[1]


def test_thresholds_of_weighted_samples():
    positive, scores = np.array([True, False, True, False]), np.array([0.9, 0.8, 0.8, 0.1])
    weights = np.array([[1, 1, 1, 1], [1, 0, 3, 0], [0, 2, 1, 1], [0, 0, 0, 0]])
    found = thresholds_for(0.75, positive, scores, weights)
    np.testing.assert_array_equal(found, [0.9, 0.1, np.nan, np.nan])


def test_what_cannot_be_calibrated_is_left_as_it_is_and_named(tmp_path):
    run = write_scored_run(tmp_path / "run")
    for fold in range(NUM_FOLDS):
        path = run / f"fold{fold}" / "oof.parquet"
        table = pd.read_parquet(path)
        rare = table["target/whtdov"] == 1
        table.loc[rare & (rare.cumsum() > 3), "target/whtdov"] = np.float32(0)
        # Of bkcdon, low scores mark the positives.
        table["score/bkcdon"] = np.float32(0.9) - np.float32(0.8) * table["target/bkcdon"].clip(lower=0)
        table.to_parquet(path)
    scores = read_run(run)
    found = fit_calibration(scores, "platt", 0.8, lambda done, total: None)
    refused = [x.refused for x in found.labels]
    assert refused[0] == refused[3] == ""
    assert refused[1] == f"9 positives, fewer than {MIN_POSITIVES}"
    assert refused[2] == "its scores don't rise with the label"
    calibrated = found.apply(scores.scores)
    np.testing.assert_array_equal(calibrated[:, 1:3], scores.scores[:, 1:3])
    assert (calibrated[:, 0] != scores.scores[:, 0]).any()
    thresholds = pd.read_csv(store_calibration(scores, found, tmp_path / "out"))
    assert list(thresholds["threshold"][1:3]) == [1, 1]


def test_one_fold_is_too_few(tmp_path):
    run = write_scored_run(tmp_path / "run", num_folds=1)
    with pytest.raises(ModelError, match="folds that it isn't fitted to"):
        fit_calibration(read_run(run), "platt", 0.9, lambda done, total: None)


def test_a_calibration_survives_json_and_old_metadata_have_none():
    labels = (
        LabelCalibration(5, refused="5 positives"),
        LabelCalibration(40, (1.5, -0.5), "", 0.8, (0.7, 0.9)),
    )
    calibration = Calibration("platt", 0.9, 0.1, 0.05, labels)
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration
    with pytest.raises(ValueError, match="'platt' or 'isotonic'"):
        Calibration.from_dict({**calibration.to_dict(), "method": "magic"})


@pytest.fixture
def calibrated(placeholder_run, tmp_path, run_command):
    """A run of the placeholder with out-of-fold scores, after `keras-birds calibrate`."""
    run = write_scored_run(tmp_path / "run", skill=2.5, num_folds=2)
    use_placeholder(run, placeholder_run)
    code, printed, err = run_command("calibrate", run, "--precision", "0.7")
    assert (code, err) == (0, "")
    return run, printed


def test_the_command_stores_what_it_tells(calibrated):
    run, printed = calibrated
    metadata = [ModelMetadata.read_onnx(run / f"fold{k}" / "model.onnx") for k in range(2)]
    assert metadata[0].calibration == metadata[1].calibration
    assert metadata[0] == ModelMetadata.read_json(run / "fold0" / "model.json")
    calibration = metadata[0].calibration
    for name, label in zip(LABELS, calibration.labels, strict=True):
        low, high = label.threshold_interval
        assert re.search(rf"{name} +20 +{label.threshold:.3f}  {low:.3f} to {high:.3f}\n", printed)
    assert f"error: {calibration.error_before:.4f} before, {calibration.error_after:.4f} after" in printed
    assert (run / "calibration" / "reliability.png").read_bytes().startswith(b"\x89PNG")
    thresholds = pd.read_csv(run / "calibration" / "thresholds.csv", dtype={"label": str})
    assert list(thresholds["label"]) == list(LABELS)
    assert not list(run.rglob("*.tmp*"))


def test_prediction_calibrates_the_mean_of_the_folds(calibrated, write_tone):
    run, _ = calibrated
    tone = write_tone("tone.wav", 1200.0, seconds=5, rate=16_000)
    raw = keras_birds.load(run).scores(tone)
    found = keras_birds.load(run, calibrated=True).scores(tone)
    calibration = ModelMetadata.read_onnx(run / "fold0" / "model.onnx").calibration
    expected = calibration.apply(raw[list(LABELS)].to_numpy())
    np.testing.assert_allclose(found[list(LABELS)], expected, atol=1e-6)
    assert np.abs(expected - raw[list(LABELS)].to_numpy()).max() > 0.05


def test_predict_says_that_scores_are_calibrated_and_does_not_mix_them(
    calibrated, write_tone, run_command, tmp_path
):
    run, _ = calibrated
    tone, out = write_tone("tone.wav", 1200.0, seconds=5, rate=16_000), tmp_path / "results"
    code, printed, err = run_command("predict", tone, "--model", run, "--calibrated", "--format", "csv")
    assert (code, err) == (0, "Scores are calibrated (platt)\n")
    expected = keras_birds.load(run, calibrated=True).scores(tone)["whtdov"].mean()
    first = printed.splitlines()[1].split(",")
    assert first[2] == "whtdov"
    assert float(first[-1]) == pytest.approx(expected, abs=1e-5)
    thresholds = run / "calibration" / "thresholds.csv"
    call = ["detect", tone, "--model", run, "--threshold", thresholds, "--out", out]
    code, _, _ = run_command(*call, "--calibrated")
    assert code == 0
    least = pd.read_csv(thresholds, dtype={"label": str}).set_index("label")["threshold"]
    for _, row in pd.read_csv(out / "detections.csv", dtype={"label": str}).iterrows():
        assert row["score"] >= least[row["label"]] - 1e-6
    code, _, err = run_command(*call)
    assert code == 2
    assert "calibrated" in err


def test_without_a_calibration_calibrated_scores_are_refused(calibrated, run, write_tone, run_command):
    tone = write_tone("tone.wav", 1200.0, seconds=2, rate=16_000)
    code, _, err = run_command("predict", tone, "--model", run, "--calibrated")
    assert code == 1
    assert re.search(
        r"fold0/model\.onnx: calibrated scores need .* Received: none\. .*keras-birds calibrate RUN", err
    )
    other, _ = calibrated
    shutil.copy(run / "fold0" / "model.onnx", other / "fold1" / "model.onnx")
    code, _, err = run_command("predict", tone, "--model", other, "--calibrated")
    assert code == 1
    assert "fold1" in err


def test_the_report_shows_a_calibration(calibrated, run_command):
    run, _ = calibrated
    code, _, _ = run_command("evaluate", run)
    assert code == 0
    report = json.loads((run / "evaluation" / "report.json").read_text())
    calibration = ModelMetadata.read_onnx(run / "fold0" / "model.onnx").calibration
    assert report["calibration_error"] == {
        "before": pytest.approx(calibration.error_before),
        "after": pytest.approx(calibration.error_after),
    }
    html = (run / "evaluation" / "report.html").read_text()
    assert "Calibrated scores are of folds that the fit hasn't seen" in html
    assert "0 of 4 labels" in " ".join(html.split())


def test_a_calibration_is_replaced(calibrated, run_command):
    run, _ = calibrated
    size = (run / "fold0" / "model.onnx").stat().st_size
    assert run_command("calibrate", run, "--method", "isotonic")[0] == 0
    metadata = ModelMetadata.read_onnx(run / "fold0" / "model.onnx")
    assert metadata.calibration.method == "isotonic"
    props = onnx.load(run / "fold0" / "model.onnx").metadata_props
    assert len({x.key for x in props}) == len(props)
    assert abs((run / "fold0" / "model.onnx").stat().st_size - size) < 40_000
    assert len(read_run(run).folds[0].oof.paths) == PER_FOLD
