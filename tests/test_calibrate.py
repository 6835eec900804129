import json
import re
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pandas as pd
import pytest
from placeholder import LABELS
from scored_run import use_placeholder, write_scored_run
from sklearn.calibration import calibration_curve
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
from keras_birds.models.calibration import calibrate
from keras_birds.models.metadata import ModelMetadata
from keras_birds.plots.reliability import reliability, reliability_figure


def fit(scores, method="platt", precision=0.8):
    return fit_calibration(scores, method, precision, lambda done, total: None)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Read-only. Its scores are far too low: their logits lie 2 below what they should."""
    return write_scored_run(tmp_path_factory.mktemp("runs") / "birds", skill=2.5)


@pytest.mark.parametrize(("method", "precision"), [("platt", 0.5), ("platt", 0.8), ("isotonic", 0.8)])
def test_calibrated_scores_mean_what_they_say_thresholds_have_the_precision(run, method, precision):
    scores = read_run(run)
    found = fit(scores, method, precision)
    assert found.error_before == reliability(scores.targets, scores.scores).error
    assert found.error_after == reliability(scores.targets, cross_calibrated(scores, method)).error
    assert found.error_after < 0.6 * found.error_before
    calibrated, grid = found.apply(scores.scores), np.linspace(0, 1, 101)
    assert calibrated.dtype == np.float32
    assert 0 <= calibrated.min() <= calibrated.max() <= 1
    assert [(x.positives, x.refused) for x in found.labels] == [(30, "")] * 4
    for i, label in enumerate(found.labels):
        used = scores.targets[:, i] >= 0
        positive, values = scores.targets[used, i] > 0.5, scores.scores[used, i].astype(float)
        # A higher score stays a higher or equal one.
        assert (np.diff(calibrated[np.argsort(scores.scores[:, i]), i]) >= 0).all()
        if method == "isotonic":
            model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(values, positive)
            drawn = calibrate(method, label.parameters, grid)
            np.testing.assert_allclose(drawn, model.predict(grid), atol=1e-6)
        shares, _, thresholds = precision_recall_curve(positive, calibrate(method, label.parameters, values))
        assert label.threshold == pytest.approx(thresholds[shares[:-1] >= precision].min())
        assert label.threshold_interval[0] <= label.threshold <= label.threshold_interval[1]


def test_what_cannot_be_calibrated_is_left_as_it_is_and_named(tmp_path):
    run = write_scored_run(tmp_path / "run")
    for path in run.glob("fold*/oof.parquet"):
        table = pd.read_parquet(path)
        rare = table["target/whtdov"] == 1
        table.loc[rare & (rare.cumsum() > 3), "target/whtdov"] = np.float32(0)
        # Of bkcdon, low scores mark the positives.
        table["score/bkcdon"] = np.float32(0.9) - np.float32(0.8) * table["target/bkcdon"].clip(lower=0)
        table.to_parquet(path)
    scores = read_run(run)
    found = fit(scores)
    assert [x.refused for x in found.labels] == [
        *("", f"9 positives, fewer than {MIN_POSITIVES}", "its scores don't rise with the label", "")
    ]
    calibrated = found.apply(scores.scores)
    np.testing.assert_array_equal(calibrated[:, 1:3], scores.scores[:, 1:3])
    assert (calibrated[:, 0] != scores.scores[:, 0]).any()
    thresholds = pd.read_csv(store_calibration(scores, found, tmp_path / "out"))
    assert list(thresholds["threshold"][1:3]) == [1, 1]
    assert read_run(run).calibration == found
    with pytest.raises(ModelError, match="folds that it isn't fitted to"):
        fit(replace(scores, folds=scores.folds[:1]))


def test_report_and_predictions_use_what_is_stored(run, placeholder_run, run_command, write_tone, tmp_path):
    uncalibrated, run = run, write_scored_run(tmp_path / "run", skill=2.5, num_folds=2)
    use_placeholder(run, placeholder_run)
    code, printed, err = run_command("calibrate", run, "--precision", "0.7")
    assert (code, err) == (0, "")
    model, thresholds = run / "fold0" / "model.onnx", run / "calibration" / "thresholds.csv"
    metadata = ModelMetadata.read_onnx(model)
    calibration = metadata.calibration
    assert ModelMetadata.read_onnx(run / "fold1" / "model.onnx").calibration == calibration
    assert ModelMetadata.read_json(run / "fold0" / "model.json") == metadata
    for name, label in zip(LABELS, calibration.labels, strict=True):
        low, high = label.threshold_interval
        assert re.search(rf"{name} +20 +{label.threshold:.3f}  {low:.3f} to {high:.3f}\n", printed)
    assert f"error: {calibration.error_before:.4f} before, {calibration.error_after:.4f} after" in printed
    assert (run / "calibration" / "reliability.png").read_bytes().startswith(b"\x89PNG")
    least = pd.read_csv(thresholds, dtype={"label": str}).set_index("label")["threshold"]
    assert list(least.index) == list(LABELS)
    assert list(least) == pytest.approx([x.threshold for x in calibration.labels])
    assert not list(run.rglob("*.tmp*"))

    assert run_command("evaluate", run)[0] == 0
    report = json.loads((run / "evaluation" / "report.json").read_text())
    errors = {"before": calibration.error_before, "after": calibration.error_after}
    assert report["calibration_error"] == pytest.approx(errors)
    html = " ".join((run / "evaluation" / "report.html").read_text().split())
    assert "Calibrated scores are of folds that the fit hasn't seen" in html
    assert "0 of 4 labels" in html

    # Predictions are calibrated means of the folds.
    tone, out = write_tone("tone.wav", 1200.0, seconds=5, rate=16_000), tmp_path / "results"
    raw = keras_birds.load(run).scores(tone)[list(LABELS)].to_numpy()
    found = keras_birds.load(run, calibrated=True).scores(tone)[list(LABELS)]
    expected = calibration.apply(raw)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(expected - raw).max() > 0.05
    predict = ["predict", tone, "--calibrated", "--format", "csv", "--model"]
    code, printed, err = run_command(*predict, run)
    assert (code, err) == (0, "Scores are calibrated (platt)\n")
    first = printed.splitlines()[1].split(",")
    assert first[2] == "whtdov"
    assert float(first[-1]) == pytest.approx(found["whtdov"].mean(), abs=1e-5)
    call = ["detect", tone, "--model", run, "--threshold", thresholds, "--out", out]
    assert run_command(*call, "--calibrated")[0] == 0
    detections = pd.read_csv(out / "detections.csv", dtype={"label": str})
    assert (detections["score"] >= detections["label"].map(least) - 1e-6).all()
    code, _, err = run_command(*call)
    assert (code, "calibrated" in err) == (2, True)

    # Another calibration replaces it; models without one, or with another, aren't mixed with it.
    size = model.stat().st_size
    assert run_command("calibrate", run, "--method", "isotonic")[0] == 0
    assert ModelMetadata.read_onnx(model).calibration.method == "isotonic"
    props = onnx.load(model).metadata_props
    assert len({x.key for x in props}) == len(props)
    assert abs(model.stat().st_size - size) < 40_000
    needed = r"fold0/model\.onnx: calibrated scores need .* Received: none\. .*keras-birds calibrate RUN"
    code, _, err = run_command(*predict, uncalibrated)
    assert (code, bool(re.search(needed, err))) == (1, True)
    shutil.copy(uncalibrated / "fold0" / "model.onnx", run / "fold1" / "model.onnx")
    code, _, err = run_command(*predict, run)
    assert (code, "fold1" in err) == (1, True)


def test_thresholds_of_weighted_samples_and_reliability_whose_error_is_the_distance_from_the_diagonal():
    positive, scores = np.array([True, False, True, False]), np.array([0.9, 0.8, 0.8, 0.1])
    weights = np.array([[1, 1, 1, 1], [1, 0, 3, 0], [0, 2, 1, 1], [0, 0, 0, 0]])
    found = thresholds_for(0.75, positive, scores, weights)
    np.testing.assert_array_equal(found, [0.9, 0.1, np.nan, np.nan])
    rng = np.random.default_rng(0)
    scores = rng.random((5000, 4)).astype("float32")
    targets = (rng.random((5000, 4)) < scores**2).astype("float32")
    targets[:50, 1] = -1
    used = targets >= 0
    positive, score = calibration_curve(targets[used], scores[used], n_bins=10)
    found = reliability(targets, scores)
    np.testing.assert_allclose(found.positive, positive)
    np.testing.assert_allclose(found.score, score, rtol=1e-5)
    assert list(found.count) == list(np.histogram(scores[used], 10, (0, 1))[0])

    # A score of s is right with probability s squared: the distance is s - s^2, on average 1/6.
    assert reliability(targets, scores).error == pytest.approx(1 / 6, abs=0.02)
    assert reliability(targets, scores**2).error == pytest.approx(0, abs=0.02)
    assert reliability(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]])).error == 0
    assert np.isnan(reliability(np.array([[-1.0]]), np.array([[0.3]])).error)

    curves = {"before": found, "after": reliability(targets, scores**2)}
    above, below = reliability_figure(curves, "All labels").axes
    assert (len(above.lines), len(below.patches)) == (3, 2)
    assert above.get_legend().get_texts()[1].get_text().startswith("before, expected calibration")
    np.testing.assert_allclose(above.lines[1].get_ydata(), positive)
