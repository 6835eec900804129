"""Losses that leave out masked targets: cross-entropy, a soft ROC-AUC, and a mix of two."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

_LEAST = 1e-7


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
class SoftAUC(keras.losses.Loss):
    """How far each label's clips are from being in the right order: a smooth stand-in for 1 - ROC-AUC.

    Called on targets `[batch, label]` in 0 to 1, or -1 for those to ignore, and logits of the same shape. For each
    label and each pair of clips of the batch, of which one has the higher target, `log(1 + exp(lower - higher))` of
    their logits; the mean of it, pairs weighted by the difference of their targets. A batch without such a pair gives
    0; a logit that is not a number makes the loss not a number, masked or not. Arrays `[batch, batch, label]` are in
    memory at once.

    Args:
        kwargs: as for `keras.losses.Loss`. The reduction `"sum_over_batch_size"` gives the mean over a batch's pairs;
            others work on values `[batch]`, each of the pairs in which a clip is the higher one, whose mean is that.

    Source: Gao and Zhou 2015, "On the Consistency of AUC Pairwise Optimization", arXiv:1208.0645, of logistic loss on
    pairs; the weights extend it to soft targets.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**{"name": "soft_auc", **kwargs})

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Losses `[batch]`, each a clip's weighted sum over pairs times batch / sum of all weights."""
        unmasked = ops.cast(y_true >= 0, y_pred.dtype)
        above = ops.maximum(y_true[:, None] - y_true[None], 0) * unmasked[:, None] * unmasked[None]
        losses = ops.softplus(y_pred[None] - y_pred[:, None])
        totals = ops.sum(above * losses, axis=(1, 2))
        batch_size = ops.cast(ops.shape(y_pred)[0], y_pred.dtype)
        return totals * (batch_size / ops.maximum(ops.sum(above), _LEAST))

    def get_config(self) -> dict[str, Any]:
        """Arguments to make an equal one with."""
        return {**super().get_config(), "dtype": self.dtype}


@keras.saving.register_keras_serializable(package="keras_birds")
class MixedLoss(keras.losses.Loss):
    """`(1 - share) * first + share * second`.

    Args:
        first: a loss of one value a clip, as those of this module.
        second: another one.
        share: of the second, 0 to 1.
        kwargs: as for `keras.losses.Loss`.

    Raises:
        ValueError: if the share is out of range.
    """

    def __init__(self, first: keras.losses.Loss, second: keras.losses.Loss, share: float, **kwargs: Any):
        super().__init__(**{"name": "mixed_loss", **kwargs})
        if not 0 <= share <= 1:
            raise ValueError(f"`share` must be in [0, 1]. Received: share={share}")
        self.first, self.second, self.share = first, second, share

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Losses `[batch]`."""
        first, second = (x.call(y_true, y_pred) for x in (self.first, self.second))
        return (1 - self.share) * first + self.share * second

    def get_config(self) -> dict[str, Any]:
        """Arguments to make an equal one with."""
        parts = {x: keras.saving.serialize_keras_object(getattr(self, x)) for x in ("first", "second")}
        return {**super().get_config(), **parts, "share": self.share, "dtype": self.dtype}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MixedLoss":
        """Makes one from `get_config`."""
        parts = {x: keras.saving.deserialize_keras_object(config[x]) for x in ("first", "second")}
        return cls(**{**config, **parts})
