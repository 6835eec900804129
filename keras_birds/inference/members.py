"""Gives each member's scores where those of an ensemble are asked for, as the embedder gives embeddings."""

from collections.abc import Sequence

import numpy as np

from keras_birds.models.ensemble import Ensemble


class MemberScorer:
    """An ensemble whose scores of a window are all those of its members, for `score_recordings`."""

    def __init__(self, ensemble: Ensemble):
        self._ensemble = ensemble
        self.audio, self.batch_size = ensemble.audio, ensemble.batch_size
        self.labels = range(len(ensemble.engines) * len(ensemble.labels))
        """Columns of what `score_clips` gives: the first member's labels, then the second's, ..."""

    def score_clips(
        self, clips: np.ndarray | Sequence[np.ndarray], batch_size: int | None = None
    ) -> np.ndarray:
        """Probabilities of clips `[n, clip_samples]`, float32 `[n, member x label]`, so many at a time."""
        return self._ensemble.score_members(clips, batch_size).reshape(len(clips), -1)
