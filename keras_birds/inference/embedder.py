"""Gives embeddings where scores are asked for, so that one engine reads, cuts and computes for both."""

from collections.abc import Sequence

import numpy as np

from keras_birds.config import AudioConfig
from keras_birds.models.ensemble import Ensemble


class Embedder:
    """A model whose scores of a window are its embedding, for `score_recordings`.

    Args:
        ensemble: the model.
        audio: how recordings are cut; `None` for as the model says.

    Raises:
        ModelError: if it gives no embeddings, or each of several members its own.
    """

    def __init__(self, ensemble: Ensemble, audio: AudioConfig | None = None):
        ensemble.embedding_engine()
        self._ensemble = ensemble
        self.audio, self.batch_size = audio or ensemble.audio, ensemble.batch_size
        self.labels = range(ensemble.embedding_size)
        """Columns of what `score_clips` gives."""

    def score_clips(
        self, clips: np.ndarray | Sequence[np.ndarray], batch_size: int | None = None
    ) -> np.ndarray:
        """Embeddings of clips `[n, clip_samples]`, float32 `[n, size]`, so many at a time."""
        return self._ensemble.embed_clips(clips, batch_size)
