"""Fits calibration to out-of-fold scores, measures it honestly, and stores it in a run's models.

Sources: Platt 1999, "Probabilistic Outputs for Support Vector Machines"; Zadrozny and Elkan 2002, "Transforming
Classifier Scores into Accurate Multiclass Probability Estimates" (isotonic).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from keras_birds.data.reviews import disagreements, find_reviews, settled
from keras_birds.data.tables import write_table
from keras_birds.errors import ModelError
from keras_birds.evaluation.bootstrap import interval, resamples
from keras_birds.evaluation.run_scores import RunScores
from keras_birds.models.calibration import Calibration, LabelCalibration, Method, calibrate, logit
from keras_birds.models.onnx_export import replace_metadata
from keras_birds.plots.reliability import reliability

MIN_POSITIVES = 10
"""Fewer positives, or negatives, tell too little of what a label's scores mean."""

THRESHOLDS = "thresholds.csv"


@dataclass(frozen=True, eq=False)
class ReviewedScores:
    """Scores of detections that people reviewed, float32 `[detection, label]`, beside a run's out-of-fold scores.

    Targets are 1 right, 0 wrong, -1 for all labels but the one detected. Reviews of other models' detections, or of
    labels that this one hasn't, are skipped; detections of which reviewers are unsure or on which they disagree are
    left out too.
    """

    targets: np.ndarray
    scores: np.ndarray
    skipped: int = 0
    unsure: int = 0
    disagreements: int = 0


def reviewed_scores(run: RunScores, folder: Path) -> ReviewedScores:
    """Reads the reviews below a folder, of detections by this run's models; a `DataError` if a table can't be used."""
    found = list(find_reviews(folder))
    mine = [
        x for x in found if x.label in run.labels and x.model_id.partition("/")[0] == run.run.resolve().name
    ]
    known, scores_of = settled(mine), {(x.file, *x.place): x.score for x in mine}
    # What it is instead, as said with `other`, has no score.
    rows = [(*x, scores_of[x]) for x in known if x in scores_of]
    targets = np.full((len(rows), len(run.labels)), -1, np.float32)
    scores = np.zeros_like(targets)
    for row, (file, start_s, end_s, label, score) in enumerate(rows):
        column = run.labels.index(label)
        targets[row, column], scores[row, column] = known[file, start_s, end_s, label], score
    unsure, contested = sum(x.verdict == "unsure" for x in mine), len(disagreements(mine))
    return ReviewedScores(targets, scores, len(found) - len(mine), unsure, contested)


def fit_calibration(
    run: RunScores,
    method: Method,
    precision: float,
    on_label: Callable[[int, int], None],
    reviewed: ReviewedScores | None = None,
) -> Calibration:
    """Fits each label to the out-of-fold scores of all folds, at least two, else it is a `ModelError`.

    The error after is measured by cross-fitting: each fold's scores are calibrated by what the other folds tell.
    Thresholds are calibrated scores from which on decisions have the wanted `precision`; their intervals are over
    resampled recordings. It fits to what people `reviewed` as well; the errors are of the out-of-fold scores alone.
    `on_label` is told how many labels are done, of how many; 0 of 0 at the end.
    """
    if len(run.folds) < 2:
        raise ModelError(
            f"{run.run}: calibration must be measured on folds that it isn't fitted to. Received: one finished fold. "
            "Train more with `keras-birds train --fold all --resume`"
        )
    targets, scores = _with_reviews(run, reviewed)
    counts = resamples(len(targets))
    labels = []
    for i, (target, score) in enumerate(zip(targets.T, scores.T, strict=True)):
        on_label(i, len(run.labels))
        labels.append(_fit_with_threshold(method, precision, target, score, counts))
    on_label(0, 0)
    before = reliability(run.targets, run.scores).error
    after = reliability(run.targets, cross_calibrated(run, method, reviewed)).error
    return Calibration(method, precision, before, after, tuple(labels))


def _with_reviews(run: RunScores, reviewed: ReviewedScores | None) -> tuple[np.ndarray, np.ndarray]:
    if reviewed is None:
        return run.targets, run.scores
    return np.concatenate([run.targets, reviewed.targets]), np.concatenate([run.scores, reviewed.scores])


def cross_calibrated(run: RunScores, method: Method, reviewed: ReviewedScores | None = None) -> np.ndarray:
    """All folds' scores, each fold's calibrated by the others'; float32 `[recording, label]` in their order."""
    out = []
    for fold in run.folds:
        others = replace(run, folds=tuple(x for x in run.folds if x is not fold))
        targets, scores = _with_reviews(others, reviewed)
        labels = tuple(_fit(method, targets[:, i], scores[:, i]) for i in range(targets.shape[1]))
        out.append(Calibration(method, 0.0, 0.0, 0.0, labels).apply(fold.oof.scores))
    return np.concatenate(out)


def store_calibration(run: RunScores, calibration: Calibration, out: Path) -> Path:
    """Writes a calibration into `model.onnx` and `model.json` of all finished folds, and its thresholds as a table.

    Returns the table's path, for `keras-birds detect --threshold`: labels without a threshold have 1.
    """
    for fold in run.folds:
        metadata = replace(fold.metadata, calibration=calibration)
        metadata.write_json(fold.folder / "model.json")
        replace_metadata(fold.folder / "model.onnx", metadata)
    out.mkdir(parents=True, exist_ok=True)
    thresholds = [1.0 if x.threshold is None else x.threshold for x in calibration.labels]
    write_table(pd.DataFrame({"label": list(run.labels), "threshold": thresholds}), out / THRESHOLDS)
    return out / THRESHOLDS


def _fit(method: Method, targets: np.ndarray, scores: np.ndarray) -> LabelCalibration:
    used = targets >= 0
    positive, scores = targets[used] >= 0.5, scores[used].astype(np.float64)
    positives = int(positive.sum())
    for count, what in ((positives, "positives"), (len(positive) - positives, "negatives")):
        if count < MIN_POSITIVES:
            return LabelCalibration(positives, refused=f"{count} {what}, fewer than {MIN_POSITIVES}")
    parameters = _platt(positive, scores) if method == "platt" else _isotonic(positive, scores)
    if method == "platt" and parameters[0] <= 0:
        return LabelCalibration(positives, refused="its scores don't rise with the label")
    return LabelCalibration(positives, parameters)


def _platt(positive: np.ndarray, scores: np.ndarray) -> tuple[float, ...]:
    """Slope and offset; targets are Platt's, which keep a label that is told apart perfectly from infinite slopes."""
    positives, negatives = positive.sum(), (~positive).sum()
    target = np.where(positive, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    x, answers = np.tile(logit(scores), 2)[:, None], np.repeat([1, 0], len(scores))
    weights = np.concatenate([target, 1 - target])
    model = LogisticRegression(C=np.inf, max_iter=1000).fit(x, answers, sample_weight=weights)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def _isotonic(positive: np.ndarray, scores: np.ndarray) -> tuple[float, ...]:
    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, positive)
    return (*map(float, model.X_thresholds_), *map(float, model.y_thresholds_))


def _fit_with_threshold(
    method: Method, precision: float, targets: np.ndarray, scores: np.ndarray, counts: np.ndarray
) -> LabelCalibration:
    fitted = _fit(method, targets, scores)
    if not fitted.parameters:
        return fitted
    used = targets >= 0
    calibrated = calibrate(method, fitted.parameters, scores[used])
    positive = targets[used] >= 0.5
    value = float(thresholds_for(precision, positive, calibrated, np.ones((1, used.sum()), int))[0])
    if np.isnan(value):
        return fitted
    found = interval(value, thresholds_for(precision, positive, calibrated, counts[:, used]))
    return replace(fitted, threshold=value, threshold_interval=(found.low, found.high))


def thresholds_for(
    precision: float, positive: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The least scores `[sample]` from which on decisions have a precision; not a number where none has it.

    `positive` and `scores` are of recordings; `weights` `[sample, recording]` tells how often each counts.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    right = np.cumsum(weights[:, order] * positive[order], axis=1)[:, ends]
    decided = np.cumsum(weights[:, order], axis=1)[:, ends]
    is_enough = (right >= precision * decided) & (decided > 0)
    last = is_enough.shape[1] - 1 - is_enough[:, ::-1].argmax(axis=1)
    return np.where(is_enough.any(axis=1), scores[order][ends][last], np.nan)
