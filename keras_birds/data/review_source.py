"""Reviewed windows as training material: what people said of a detection, and its image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_birds.audio.clips import center
from keras_birds.audio.mel import MelTransform
from keras_birds.audio.segment_reader import read_part
from keras_birds.config import AudioConfig, MelConfig
from keras_birds.data.reviews import Review, find_reviews
from keras_birds.errors import AudioError, DataError
from keras_birds.labels import LabelSet


class ReviewedSource:
    """Images of reviewed windows, a `MelSource`. Events longer than a clip show their middle.

    Args:
        windows: recordings and their reviews.
        audio: rate and clip length.
        mel: the transform.
        labels: of the targets.

    Attributes:
        targets: float32 `[window, label]`: 1 and 0 where the review says so, -1 for labels of which it says nothing.
        recordings: of each window.

    Raises:
        DataError: if a review names a label that isn't known.
    """

    def __init__(
        self, windows: Sequence[tuple[Path, Review]], audio: AudioConfig, mel: MelConfig, labels: LabelSet
    ):
        self.audio = audio
        self.transform = MelTransform(audio, mel)
        self.recordings = [path for path, _ in windows]
        self.targets = np.full((len(windows), len(labels)), -1, np.float32)
        for row, (path, review) in enumerate(windows):
            for label, target in review.targets.items():
                if label not in labels:
                    raise DataError(
                        f"{path}: reviews must name labels of the data set. Received: {label} at {review.start_s:g} s"
                    )
                self.targets[row, labels.index(label)] = target
        self._reviews = [review for _, review in windows]
        self.usable = np.ones(len(windows), bool)
        self.reasons = [""] * len(windows)

    def __len__(self) -> int:
        return len(self.recordings)

    def images(self, rows: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """Images of some windows, as `MelSource.images`; there are no other crops than the centre."""
        clips = [center(self.samples(int(row)), self.audio.clip_samples) for row in rows]
        return self.transform.images(clips)

    def samples(self, row: int) -> np.ndarray:
        """A window's sound, float32 `[n]`.

        Raises:
            DataError: if it doesn't decode.
        """
        path, review = self.recordings[row], self._reviews[row]
        try:
            return read_part(path, review.start_s, review.end_s, self.audio.sample_rate_hz)
        except AudioError as error:
            raise DataError(
                f"{path}: a reviewed recording must be readable. Received: {error.reason}"
            ) from None


def read_reviewed(folder: str, audio: AudioConfig, mel: MelConfig, labels: LabelSet) -> ReviewedSource:
    """All reviewed windows below a folder.

    Raises:
        DataError: if there are none, or one can't be used.
    """
    found = list(find_reviews(Path(folder)))
    if not found:
        raise DataError(
            f"data.reviews must be a folder with reviews. Received: {folder}, without any *.reviews.csv"
        )
    source = ReviewedSource(found, audio, mel, labels)
    for row in range(len(source)):
        source.samples(row)  # now, not in the middle of an epoch
    return source
