"""Binary cross-entropy that leaves out masked targets."""

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
        name: of the loss.
        reduction: `"sum_over_batch_size"` gives the mean over all unmasked targets of a batch; others are as for
            `keras.losses.Loss`, on values `[batch]` whose mean is that mean.
        dtype: of the arithmetic.
    """

    def __init__(
        self,
        from_logits: bool = True,
        name: str = "masked_binary_crossentropy",
        reduction: str = "sum_over_batch_size",
        dtype: Any = None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.from_logits = from_logits

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Losses `[batch]`, each a clip's sum over its unmasked labels times batch / unmasked targets."""
        unmasked = ops.cast(y_true >= 0, y_pred.dtype)
        targets = ops.maximum(y_true, 0)
        if self.from_logits:
            losses = ops.binary_crossentropy(targets, y_pred, from_logits=True)
        else:
            likely = ops.clip(y_pred, _LEAST, 1 - _LEAST)
            losses = -targets * ops.log(likely) - (1 - targets) * ops.log1p(-likely)
        # Multiplied, not selected: 0 times "not a number" stays not a number.
        totals = ops.sum(losses * unmasked, axis=-1)
        batch_size = ops.cast(ops.shape(y_pred)[0], y_pred.dtype)
        return totals * (batch_size / ops.maximum(ops.sum(unmasked), 1))

    def get_config(self) -> dict[str, Any]:
        """What `__init__` takes."""
        return {**super().get_config(), "from_logits": self.from_logits, "dtype": self.dtype}
