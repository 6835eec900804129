"""Logits, probabilities, and what turns these into shares of right answers; that travels in the model's metadata."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic.dataclasses import dataclass

Method = Literal["platt", "isotonic"]


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities in float32, without overflow at either end."""
    logits = np.asarray(logits, np.float32)
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1, small) / (1 + small)


def logit(probabilities: np.ndarray) -> np.ndarray:
    """Float64 logits; probabilities nearer to 0 or 1 than 1e-7 count as that near."""
    likely = np.clip(np.asarray(probabilities, np.float64), 1e-7, 1 - 1e-7)
    return np.asarray(np.log(likely) - np.log1p(-likely))


def shifted(probabilities: np.ndarray, sensitivity: float) -> np.ndarray:
    """Probabilities after BirdNET-Analyzer's `--sensitivity`, float32: `sigmoid(clip(logit + 10 (s - 1), -20, 20))`.

    That is `flat_sigmoid` of BirdNET-Analyzer 2 (`birdnet_analyzer/model.py`, with the sensitivity for its bias): 1.0
    changes nothing, 1.25 makes 0.25 to 0.80. Versions before it, birdnetlib and BirdNET-Pi take the logit times 2 - s.
    """
    return sigmoid(np.clip(logit(probabilities) + 10 * (sensitivity - 1), -20, 20))


@dataclass(frozen=True)
class LabelCalibration:
    """How one label's scores are read.

    Attributes:
        positives: that it was fitted to.
        parameters: of Platt's method the logit's slope and offset; of isotonic the knots' scores, then as many
            calibrated ones; empty where the label is left as it is.
        refused: why it is left as it is; else empty.
        threshold: the least calibrated score with the wanted precision, if there is one.
        threshold_interval: its 95 % interval.
    """

    positives: int
    parameters: tuple[float, ...] = ()
    refused: str = ""
    threshold: float | None = None
    threshold_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Calibration:
    """How all labels' scores are read, in the model's order.

    Attributes:
        method: Platt's or isotonic regression.
        precision: that the thresholds were chosen for.
        error_before: expected calibration error of the scores as they were.
        error_after: that of calibrated scores, fitted without the fold that they are measured on.
        labels: of each label.
    """

    method: Method
    precision: float
    error_before: float
    error_after: float
    labels: tuple[LabelCalibration, ...]

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Calibrates probabilities `[..., label]`; labels that were refused stay as they are."""
        out = np.array(scores, np.float32)
        for i, label in enumerate(self.labels):
            if label.parameters:
                out[..., i] = calibrate(self.method, label.parameters, out[..., i])
        return out


def calibrate(method: str, parameters: Sequence[float], scores: np.ndarray) -> np.ndarray:
    """Calibrates one label's probabilities, of any shape; a higher score never becomes a lower one."""
    if method == "platt":
        slope, offset = parameters
        return np.asarray(1 / (1 + np.exp(-(slope * logit(scores) + offset))))
    half = len(parameters) // 2
    return np.asarray(np.interp(scores, parameters[:half], parameters[half:]))
