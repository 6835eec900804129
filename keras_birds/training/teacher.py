"""A teacher: what a larger model hears in each recording, for a network of one's own to learn from as well.

After Hinton et al. 2015, arXiv:1503.02531, and Romero et al. 2015, arXiv:1412.6550 (hints: features instead of answers,
through a layer that is thrown away). The teacher runs once a recording, not at each step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_birds.errors import DataError
from keras_birds.progress import Reporter
from keras_birds.training.backbone import AddedBackbone
from keras_birds.training.embeddings import EmbeddingSource


@dataclass(frozen=True, eq=False)
class Teacher:
    """What `training.teacher` hears.

    `embeddings` are float32 `[recording, size]`: the mean of a recording's windows, each cut to length 1 before, cut to
    length 1 again; zeros of recordings that couldn't be read. `source` tells which model it was.
    """

    embeddings: np.ndarray
    source: str

    def mean(self, rows: np.ndarray) -> np.ndarray:
        """Of some recordings' embeddings, float32 `[size]`; a `DataError` if none of them has one."""
        found = self.embeddings[rows]
        found = found[found.any(axis=1)]
        if not len(found):
            raise DataError(
                "training.teacher must hear recordings that are trained on. Received: none it can"
            )
        return found.mean(axis=0)

    def targets(self, labels: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Targets `[n, label]`, those of the recordings first, with the embeddings beside: `[n, label + size]`.

        Rows without an embedding get the mean, of which `TaughtBinaryCrossentropy` knows that there is nothing to
        learn; so mixup blends them like any other.
        """
        beside = np.tile(mean, (len(labels), 1))
        heard = np.flatnonzero(self.embeddings.any(axis=1))
        beside[heard] = self.embeddings[heard]
        return np.concatenate([labels, beside], axis=1)


def hear(model: AddedBackbone, paths: Sequence[str], reporter: Reporter) -> Teacher:
    """Lets a model hear recordings, cut as it wants them; what it heard is kept for other runs."""
    source = EmbeddingSource(model.path, model.metadata.audio, paths, reporter)
    rows = np.flatnonzero(source.usable)
    windows, counts = source.windows(rows)
    means = np.add.reduceat(_unit(windows), np.cumsum(counts) - counts, axis=0)
    embeddings = np.zeros((len(paths), windows.shape[1]), np.float32)
    embeddings[rows] = _unit(means)
    return Teacher(embeddings, f"trained here, taught by {model.metadata.model_id}")


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
