"""Logits and the probabilities that they stand for."""

import numpy as np

_LEAST = 1e-7


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities in float32, without overflow at either end."""
    logits = np.asarray(logits, np.float32)
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1, small) / (1 + small)


def logit(probabilities: np.ndarray) -> np.ndarray:
    """Float64 logits; probabilities nearer to 0 or 1 than 1e-7 count as that near."""
    likely = np.clip(np.asarray(probabilities, np.float64), _LEAST, 1 - _LEAST)
    return np.asarray(np.log(likely) - np.log1p(-likely))
