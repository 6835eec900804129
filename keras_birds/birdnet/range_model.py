"""What occurs where and when: BirdNET's range model."""

import hashlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from keras_birds.birdnet.tflite import read_tflite
from keras_birds.errors import ModelError
from keras_birds.labels import LabelSet
from keras_birds.models.calibration import sigmoid

FILE = "range.npz"
"""Its name in a model's folder."""

THRESHOLD = 0.03
"""Least probability of occurrence of what may be detected; BirdNET-Analyzer's own."""

WEEKS = 48
"""Of a year, four a month, from 1 to 48."""


_LEARNT = 0.01

NO_SPECIES = frozenset(
    {
        *(
            "Dog",
            "Engine",
            "Environmental",
            "Fireworks",
            "Gun",
            "Human non-vocal",
            "Human vocal",
            "Human whistle",
        ),
        *("Noise", "Power tools", "Siren"),
    }
)
"""BirdNET's labels that live nowhere."""


class RangeModel:
    """A small network from place and week to the probability that each label occurs there then.

    Args:
        weights: kernel `[in, out]` and bias `[out]` of each dense layer, in order.
        phase: of the sines that place and week become, float32 `[48]`.
        labels: of its outputs, in order.
        learnt: whether it was taught where a label lives, bool `[label]`; `None` for all.
    """

    # Degrees and weeks as shares of their range, the full turn and the amplitude: float16 in the model's file.
    _STEPS = np.array([1 / 180, 1 / 360, 1 / WEEKS], np.float16).astype(np.float32)
    _TURN, _GAIN = np.float32(np.float16(2 * np.pi)), np.float32(np.float16(np.sqrt(2)))

    def __init__(
        self,
        weights: Iterable[tuple[np.ndarray, np.ndarray]],
        phase: np.ndarray,
        labels: LabelSet,
        learnt: np.ndarray | None = None,
    ):
        self.labels = labels
        self.learnt = np.ones(len(labels), bool) if learnt is None else learnt
        self._weights = [(k.astype(np.float32), b.astype(np.float32)) for k, b in weights]
        self._phase = phase.astype(np.float32)

    def __call__(
        self, latitude: np.ndarray | float, longitude: np.ndarray | float, week: np.ndarray | int
    ) -> np.ndarray:
        """Probabilities of occurrence, float32 `[place, label]`.

        Args:
            latitude: degrees north, `[place]` or one for all.
            longitude: degrees east, `[place]` or one for all.
            week: 1 to 48, `[place]` or one for all; -1 for the whole year.
        """
        places = np.broadcast_arrays(*(np.atleast_1d(x) for x in (latitude, longitude, week)))
        north, east, weeks = (x.astype(np.float32) for x in places)
        where = np.stack([north + 90, east + 180, weeks - 1], axis=-1) * self._STEPS
        x = self._GAIN * np.sin(where[..., None] * self._TURN + self._phase)
        x[:, 2] *= ((weeks >= 1) & (weeks <= WEEKS))[:, None]
        x = x.reshape(len(x), -1)
        for kernel, bias in self._weights[:-1]:
            x = np.maximum(x @ kernel + bias, 0)
        kernel, bias = self._weights[-1]
        return sigmoid(x @ kernel + bias)

    @cached_property
    def digest(self) -> str:
        """By which another model is told from this one."""
        digest = hashlib.sha256("\n".join(self.labels).encode())
        for kernel, _ in self._weights:
            digest.update(np.ascontiguousarray(kernel).tobytes())
        return digest.hexdigest()

    @classmethod
    def read_tflite(cls, path: str | Path, labels: LabelSet) -> "RangeModel":
        """Reads the published file, float16 inside; raises `ModelError` if it is another."""
        operators = read_tflite(path).operators
        half = {x.outputs[0]: x.constants[0] for x in operators if x.kind == "DEQUANTIZE" and x.constants}
        dense = [
            [half[i] for i in x.inputs[1:] if i in half] for x in operators if x.kind == "FULLY_CONNECTED"
        ]
        phases = [x for x in half.values() if x.shape == (WEEKS,)]
        shapes = [tuple(x.shape for x in pair) for pair in dense]
        if (
            [x[:1] for x in shapes[:1]] != [((256, 3 * WEEKS),)]
            or len(phases) != 1
            or shapes[-1][0][0] != len(labels)
        ):
            raise ModelError(
                f"{path}: must be BirdNET's range model for {len(labels)} labels. Received: layers {shapes}"
            )
        return cls([(kernel.T, bias) for kernel, bias in dense], phases[0], labels)

    def find_learnt(self) -> np.ndarray:
        """Whether each label occurs anywhere, bool `[label]`: at least 0.01 on a grid of 2 degrees over the whole year.

        Of BirdNET's 172 don't: what is no species, but also its frogs, insects and mammals and some eighty birds, which
        have all the same probabilities as noise everywhere.
        """
        best = np.zeros(len(self.labels), np.float32)
        for latitude in range(-60, 76, 2):
            best = np.maximum(best, self(latitude, np.arange(-180, 180, 2), -1).max(axis=0))
        return best >= _LEARNT

    def save(self, folder: Path) -> None:
        """Writes `range.npz`, in float16 as the published file has it, with what `find_learnt` finds."""
        arrays = {"phase": self._phase}
        for i, (kernel, bias) in enumerate(self._weights):
            arrays |= {f"kernel{i}": kernel, f"bias{i}": bias}
        half: dict[str, Any] = {name: x.astype(np.float16) for name, x in arrays.items()}
        np.savez(folder / FILE, labels=np.array(list(self.labels)), learnt=self.find_learnt(), **half)

    @classmethod
    def load(cls, folder: Path) -> "RangeModel":
        """Reads what `save` wrote; raises `ModelError` if it isn't there or is damaged."""
        path = folder / FILE
        try:
            with np.load(path) as data:
                count = sum(x.startswith("kernel") for x in data)
                weights = [(data[f"kernel{i}"], data[f"bias{i}"]) for i in range(count)]
                labels = LabelSet(map(str, data["labels"]))
                return cls(weights, data["phase"], labels, data.get("learnt"))
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{path}: must be a range model. Received: {error}") from None
