"""Windows of recordings as training takes them: those that people reviewed, and those with soft labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_birds.audio.clips import center
from keras_birds.audio.decode import read_part
from keras_birds.audio.mel import MelTransform
from keras_birds.config import AudioConfig, MelConfig
from keras_birds.errors import AudioError, DataError


class Window(NamedTuple):
    """Part of a recording, in seconds from its start; it may end after the recording does."""

    path: Path | str
    """A path, or a URL, which is no `Path`."""
    start_s: float
    end_s: float

    def read(self, audio: AudioConfig) -> np.ndarray:
        """Its sound, float32 `[n]`; raises `DataError` if it doesn't decode."""
        try:
            return read_part(self.path, self.start_s, self.end_s, audio)
        except AudioError as error:
            rule = f"{self.path}: a recording to learn from must be readable"
            raise DataError(f"{rule}. Received: {error.reason}") from None


class WindowSource:
    """Images of windows, a `MelSource`; without `mel` their sound. Windows longer than a clip show their middle."""

    def __init__(self, windows: Sequence[Window], audio: AudioConfig, mel: MelConfig | None):
        self.windows = list(windows)
        self.audio, self.transform = audio, None if mel is None else MelTransform(audio, mel)
        self.usable, self.reasons = np.ones(len(windows), bool), [""] * len(windows)

    def __len__(self) -> int:
        return len(self.windows)

    def images(self, rows: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """Images of some windows, as `MelSource.images`; there are no other crops than the centre."""
        n, how = self.audio.clip_samples, self.audio.fill
        clips = [center(self.samples(int(row)), n, how) for row in rows]
        return np.stack(clips) if self.transform is None else self.transform.images(clips)

    def samples(self, row: int) -> np.ndarray:
        """A window's sound, float32 `[n]`; raises `DataError` if there is none."""
        window = self.windows[row]
        samples = window.read(self.audio)
        if not len(samples):
            rule = f"{window.path}: a window must lie in its recording"
            raise DataError(f"{rule}. Received: {window.start_s:g} to {window.end_s:g} s, after its end")
        return samples
