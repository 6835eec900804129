"""Macro ROC-AUC: streaming as a Keras metric, and exact from all scores at once."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_birds.errors import DataError

_MAX_LOGIT = 20.0


@keras.saving.register_keras_serializable(package="keras_birds")
class MaskedMacroAUC(keras.metrics.Metric):
    """Mean ROC-AUC over the labels that have a positive and a negative.

    Scores are counted in bins spread evenly over logits from -20 to 20, so that small probabilities are told
    apart as well as large ones; two scores of one bin count as tied. Within 0.002 of `macro_auc` on a thousand
    clips. Targets from 0.5 up are positives, those below negatives, -1 is left out. Not a number as long as no
    label qualifies, or if a score isn't a number.

    Args:
        num_labels: columns of targets and scores, at least 1.
        from_logits: whether scores are logits, else probabilities.
        num_thresholds: number of bins, at least 2.
        kwargs: as for `keras.metrics.Metric`.
    """

    def __init__(self, num_labels: int, from_logits: bool = False, num_thresholds: int = 2000, **kwargs: Any):
        super().__init__(**{"name": "macro_auc", **kwargs})
        if num_labels < 1 or num_thresholds < 2:
            raise ValueError(
                "`num_labels` must be at least 1 and `num_thresholds` at least 2. "
                f"Received: num_labels={num_labels}, num_thresholds={num_thresholds}"
            )
        self.num_labels, self.from_logits, self.num_thresholds = num_labels, from_logits, num_thresholds
        # Negatives and positives.
        self.counts = self.add_weight((2, num_labels, num_thresholds), initializer="zeros", name="counts")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Counts a batch's targets and scores `[batch, label]`, by weights `[batch]` or `[batch, label]`."""
        targets = ops.cast(y_true, "float32")
        scores = ops.cast(y_pred, "float32")
        if targets.shape[-1] != self.num_labels or scores.shape[-1] != self.num_labels:
            raise ValueError(
                f"Targets and scores must be [batch, {self.num_labels}], as `num_labels` says. Received: shapes "
                f"{tuple(targets.shape)} and {tuple(scores.shape)}"
            )
        weights = ops.cast(targets >= 0, self.dtype)
        if sample_weight is not None:
            sample_weight = ops.cast(sample_weight, self.dtype)
            weights *= ops.expand_dims(sample_weight, -1) if len(sample_weight.shape) == 1 else sample_weight
        missing = ops.isnan(scores)
        weights = ops.where(missing, float("nan"), weights)
        if not self.from_logits:
            likely = ops.clip(scores, 1e-30, 1.0 - 6e-8)
            scores = ops.log(likely) - ops.log1p(-likely)
        logits = ops.where(missing, 0.0, scores)
        place = (ops.clip(logits, -_MAX_LOGIT, _MAX_LOGIT) + _MAX_LOGIT) / (2 * _MAX_LOGIT)
        bins = ops.minimum(ops.cast(place * self.num_thresholds, "int32"), self.num_thresholds - 1)
        labels = ops.arange(self.num_labels, dtype="int32")
        rows = ops.cast(targets >= 0.5, "int32") * self.num_labels + labels
        counts = ops.segment_sum(
            ops.reshape(weights, [-1]),
            ops.reshape(rows * self.num_thresholds + bins, [-1]),
            num_segments=2 * self.num_labels * self.num_thresholds,
        )
        self.counts.assign_add(ops.reshape(ops.cast(counts, self.dtype), self.counts.shape))

    def result(self) -> Any:
        """The metric so far, a scalar."""
        counts = ops.convert_to_tensor(self.counts)
        totals = ops.sum(counts, axis=-1)
        # Shares first: products of counts would pass float32's exact integers.
        shares = counts / ops.expand_dims(ops.maximum(totals, 1e-12), -1)
        negatives, positives = shares[0], shares[1]
        below = ops.cumsum(negatives, axis=-1) - negatives / 2
        areas = ops.sum(positives * below, axis=-1)
        # Neither total above 0 excludes labels that lack one; a total that isn't a number is kept.
        qualifies = ops.cast(ops.logical_not(ops.min(totals, axis=0) <= 0), self.dtype)
        return ops.sum(ops.where(qualifies > 0, areas, 0.0)) / ops.sum(qualifies)

    def get_config(self) -> dict[str, Any]:
        """Arguments to make an equal one with."""
        names = ("num_labels", "from_logits", "num_thresholds")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def label_aucs(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Exact ROC-AUC of each label, by scikit-learn.

    Args:
        targets: `[clip, label]` in 0 to 1; from 0.5 up is a positive; -1 is left out.
        scores: `[clip, label]`, logits or probabilities.

    Returns:
        float64 `[label]`, not a number where a label lacks positives or negatives.

    Raises:
        DataError: if a score isn't finite or the shapes differ.
    """
    from sklearn.metrics import roc_auc_score

    targets, scores = np.asarray(targets), np.asarray(scores)
    if targets.ndim != 2 or targets.shape != scores.shape:
        raise DataError(
            "targets and scores must have one shape [clip, label]. "
            f"Received: {list(targets.shape)} and {list(scores.shape)}"
        )
    count = int((~np.isfinite(scores)).any(axis=1).sum())
    if count:
        raise DataError(
            f"scores must be finite numbers. Received: {count} clips with others; check the model"
        )
    areas = np.full(targets.shape[1], np.nan)
    for label in range(targets.shape[1]):
        used = targets[:, label] >= 0
        positive = targets[used, label] >= 0.5
        if positive.any() and not positive.all():
            areas[label] = roc_auc_score(positive, scores[used, label])
    return areas


def macro_auc(targets: np.ndarray, scores: np.ndarray) -> float:
    """Mean of `label_aucs` over the labels that have a positive and a negative; not a number without any.

    Raises:
        DataError: as `label_aucs`.
    """
    areas = label_aucs(targets, scores)
    areas = areas[~np.isnan(areas)]
    return float(areas.mean()) if len(areas) else float("nan")
