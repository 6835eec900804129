"""Binary cross-entropy that leaves out masked targets, alone or with a teacher's term."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

_LEAST = 1e-7
# Of an embedding less the mean: blends of two means are off by rounding.
_LEAST_LENGTH = 1e-3


@keras.saving.register_keras_serializable(package="keras_birds")
class MaskedBinaryCrossentropy(keras.losses.Loss):
    """Binary cross-entropy, averaged over the targets that are not -1.

    Called on targets `[batch, label]` in 0 to 1, or -1 for those to ignore, and predictions of the same shape.
    A batch without any unmasked target gives 0. A prediction that is not a number makes the loss not a
    number, masked or not: a broken network must not hide behind a mask.

    Args:
        from_logits: whether predictions are logits (stable at any magnitude) or probabilities (clipped to
            [1e-7, 1 - 1e-7]).
        label_smoothing: moves targets to 0.5 by this share (Szegedy et al. 2016, arXiv:1512.00567).
        focal_gamma: above 0, each loss is scaled by `|target - probability| ** focal_gamma`, so that what is
            well told counts less (Lin et al. 2017, arXiv:1708.02002, without its class weight).
        positive_weights: `[label]`, how much more a target of 1 counts than one of 0; `None` for equally much.
        kwargs: as for `keras.losses.Loss`. The reduction `"sum_over_batch_size"` gives the mean over all unmasked
            targets of a batch; others work on values `[batch]` whose mean is that mean.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        from_logits: bool = True,
        label_smoothing: float = 0.0,
        focal_gamma: float = 0.0,
        positive_weights: Sequence[float] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**{"name": "masked_binary_crossentropy", **kwargs})
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"`label_smoothing` must be in [0, 1). Received: label_smoothing={label_smoothing}"
            )
        if focal_gamma < 0:
            raise ValueError(f"`focal_gamma` must be at least 0. Received: focal_gamma={focal_gamma}")
        self.from_logits, self.label_smoothing, self.focal_gamma = from_logits, label_smoothing, focal_gamma
        self.positive_weights = None if positive_weights is None else [float(x) for x in positive_weights]

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Losses `[batch]`, each a clip's sum over its unmasked labels times batch / unmasked targets."""
        unmasked = ops.cast(y_true >= 0, y_pred.dtype)
        targets = ops.maximum(y_true, 0)
        if self.label_smoothing:
            targets = targets * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        if self.from_logits:
            losses = ops.binary_crossentropy(targets, y_pred, from_logits=True)
        else:
            likely = ops.clip(y_pred, _LEAST, 1 - _LEAST)
            losses = -targets * ops.log(likely) - (1 - targets) * ops.log1p(-likely)
        if self.focal_gamma:
            probabilities = ops.sigmoid(y_pred) if self.from_logits else y_pred
            # The gradient of a power below 1 has no end at 0.
            distance = ops.maximum(ops.abs(targets - probabilities), _LEAST)
            losses = losses * distance**self.focal_gamma
        if self.positive_weights is not None:
            weights = ops.convert_to_tensor(self.positive_weights, y_pred.dtype)
            losses = losses * (1 + (weights - 1) * ops.maximum(y_true, 0))
        # Multiplied, not selected: 0 times "not a number" stays not a number.
        totals = ops.sum(losses * unmasked, axis=-1)
        batch_size = ops.cast(ops.shape(y_pred)[0], y_pred.dtype)
        return totals * (batch_size / ops.maximum(ops.sum(unmasked), 1))

    def get_config(self) -> dict[str, Any]:
        """Arguments to make an equal one with."""
        names = ("from_logits", "label_smoothing", "focal_gamma", "positive_weights", "dtype")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="keras_birds")
class TaughtBinaryCrossentropy(MaskedBinaryCrossentropy):
    """Masked binary cross-entropy of the labels, and how far what is predicted beside them is from a teacher's.

    Called on targets and predictions `[batch, label + size]`, the labels first, then an embedding. The teacher's
    term is 1 minus the cosine between both embeddings, the target's less the teacher's mean: what all clips have in
    common would hide what tells them apart. A target that is the mean itself says that the teacher didn't hear the
    clip: it has no term. As the mean is taken off here, a blend of two targets is the target of the blend.

    Args:
        teacher_mean: `[size]`, of the teacher's embeddings.
        teacher_weight: of the term beside the cross-entropy, above 0.
        kwargs: as for `MaskedBinaryCrossentropy`. Both terms are means: over all unmasked targets of a batch,
            and over all its clips that the teacher heard.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, teacher_mean: Sequence[float], teacher_weight: float = 1.0, **kwargs: Any):
        super().__init__(**{"name": "taught_binary_crossentropy", **kwargs})
        if not len(teacher_mean):
            raise ValueError(f"`teacher_mean` must have values. Received: teacher_mean={teacher_mean}")
        if teacher_weight <= 0:
            raise ValueError(f"`teacher_weight` must be above 0. Received: teacher_weight={teacher_weight}")
        self.teacher_mean, self.teacher_weight = [float(x) for x in teacher_mean], teacher_weight

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Losses `[batch]`."""
        size = len(self.teacher_mean)
        losses = super().call(y_true[:, :-size], y_pred[:, :-size])
        wanted = y_true[:, -size:] - ops.convert_to_tensor(self.teacher_mean, y_pred.dtype)
        given = y_pred[:, -size:]
        lengths = ops.sqrt(ops.sum(ops.square(wanted), axis=-1))
        heard = ops.cast(lengths > _LEAST_LENGTH, y_pred.dtype)
        products = ops.sum(wanted * given, axis=-1) / ops.maximum(lengths, _LEAST_LENGTH)
        cosines = products * ops.rsqrt(ops.sum(ops.square(given), axis=-1) + _LEAST)
        batch_size = ops.cast(ops.shape(y_pred)[0], y_pred.dtype)
        share = batch_size / ops.maximum(ops.sum(heard), 1)
        return losses + self.teacher_weight * (1 - cosines) * heard * share

    def get_config(self) -> dict[str, Any]:
        """Arguments to make an equal one with."""
        names = ("teacher_mean", "teacher_weight")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
