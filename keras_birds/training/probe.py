"""How well a representation tells labels apart that it never learnt: by the nearest recordings of known labels."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_birds.data.source import MelSource
from keras_birds.embeddings.search import unit
from keras_birds.nn.efficientnet import BACKBONE
from keras_birds.nn.heads import POOLED
from keras_birds.nn.metrics import macro_auc
from keras_birds.progress import Reporter

PROBE = "probe_macro_auc"
_BATCH_SIZE = 32


@dataclass(frozen=True, eq=False)
class ProbeData:
    """What a representation is probed with: images and float32 `[recording, label]` targets of recordings by row.

    Those of `known_rows` tell the labels of `asked_rows`.
    """

    source: MelSource
    targets: np.ndarray
    known_rows: np.ndarray
    asked_rows: np.ndarray


class Probe(keras.callbacks.Callback):
    """After each epoch, the macro ROC-AUC of what the nearest recordings tell of held-out ones.

    Recordings are compared by the cosine of the backbone's features, means over an image, without augmentation. After
    Wu et al. 2018, "Unsupervised feature learning via non-parametric instance discrimination", arXiv:1805.01978, 3.4.

    Args:
        data: the recordings.
        neighbours: how many are asked, at most.
        reporter: gets progress, and what an untrained representation reaches.
    """

    def __init__(self, data: ProbeData, neighbours: int, reporter: Reporter):
        super().__init__()
        self.data, self.neighbours, self.reporter = data, neighbours, reporter
        self._encoder: keras.Model | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measures what there is before anything was learnt."""
        if epoch == 0:
            self.reporter.log(f"{PROBE} {self.measure(self.model):.4f} before the first epoch")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds it to what is known of the epoch, for the callbacks after this one."""
        if logs is not None:
            logs[PROBE] = self.measure(self.model)

    def measure(self, model: keras.Model) -> float:
        """The macro ROC-AUC with the weights that a model of `contrastive_model` has now."""
        if self._encoder is None:
            # Whole clips are wider than views.
            backbone = model.get_layer(BACKBONE)
            inputs = keras.Input(backbone.input_shape[1:])
            self._encoder = keras.Model(inputs, model.get_layer(POOLED)(backbone(inputs)))
        data, encoder = self.data, self._encoder
        rows = np.concatenate([data.known_rows, data.asked_rows])
        known, asked = np.split(self._embed(encoder, rows), [len(data.known_rows)])
        scores = neighbour_scores(asked, known, data.targets[data.known_rows], self.neighbours)
        return macro_auc(data.targets[data.asked_rows], scores)

    def _embed(self, encoder: keras.Model, rows: np.ndarray) -> np.ndarray:
        """Float32 `[n, channels]`."""
        found = []
        for i in range(0, len(rows), _BATCH_SIZE):
            self.reporter.progress("Probing recordings", i, len(rows))
            found.append(encoder.predict_on_batch(self.data.source.images(rows[i : i + _BATCH_SIZE])))
        self.reporter.progress("Probing recordings", 0, 0)
        return np.concatenate(found).astype(np.float32)


def neighbour_scores(
    asked: np.ndarray, known: np.ndarray, targets: np.ndarray, neighbours: int
) -> np.ndarray:
    """Scores `[asked, label]`: the mean over the nearest known ones of their label times their cosine.

    Args:
        asked, known: embeddings `[asked, size]` and `[known, size]`.
        targets: float32 `[known, label]`; -1, not known, counts as absent.
        neighbours: how many, at most all.
    """
    cosines = unit(asked) @ unit(known).T
    count = min(neighbours, cosines.shape[1])
    nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
    weights = np.take_along_axis(cosines, nearest, axis=1)
    scores: np.ndarray = (weights[..., None] * np.maximum(targets, 0)[nearest]).mean(axis=1)
    return scores
