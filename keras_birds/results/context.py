"""A window's scores in the light of those around it: the mean of neighbours, and the best of the same minute."""

from dataclasses import dataclass

import numpy as np

from keras_birds.errors import ConfigError
from keras_birds.inference.scorer import RecordingScores
from keras_birds.results.voices import TOUCHING_S

BLOCK_S = 60.0
"""Of a recording, as long as the files of BirdCLEF: a longer one is weighed minute by minute."""


@dataclass(frozen=True)
class Context:
    """What becomes of a recording's scores by those of other windows, each channel by itself: first the mean.

    Args:
        smooth_windows: the mean over so many neighbouring windows, an odd number, as of `smooth`; 1 changes nothing.
        file_level: each score times the mean of so many windows, those with the label's best scores in the same minute
            of the recording, as BirdCLEF's competitors weigh a one-minute file; `None` changes nothing.

    Raises:
        ConfigError: if a number is out of range.
    """

    smooth_windows: int = 1
    file_level: int | None = None

    def __post_init__(self) -> None:
        if self.smooth_windows < 1 or self.smooth_windows % 2 == 0:
            raise ConfigError(f"--smooth must be an odd number of windows. Received: {self.smooth_windows}")
        if self.file_level is not None and self.file_level < 1:
            raise ConfigError(f"--file-level must be at least 1. Received: {self.file_level}")

    @property
    def changes(self) -> bool:
        """Whether scores do not stay as they are."""
        return self.smooth_windows > 1 or self.file_level is not None

    def scores(self, found: RecordingScores, kept: np.ndarray | None = None) -> np.ndarray:
        """Float32 `[window, label]`; `kept` are the windows that count, int `[n]`, `None` for all."""
        if not self.changes:
            return found.scores
        kept = np.arange(len(found.scores)) if kept is None else kept
        scores = np.zeros_like(found.scores)
        for number in np.unique(found.channel[kept]):
            rows = kept[found.channel[kept] == number]
            gaps = np.flatnonzero(found.start_s[rows[1:]] > found.end_s[rows[:-1]] + TOUCHING_S) + 1
            for run in np.split(rows, gaps):
                scores[run] = smooth(found.scores[run], self.smooth_windows)
            if self.file_level is not None:
                edges = np.flatnonzero(np.diff(found.start_s[rows] // BLOCK_S)) + 1
                for block in np.split(rows, edges):
                    scores[block] *= np.sort(scores[block], axis=0)[-self.file_level :].mean(axis=0)
        return scores

    def begin_of(self, start_s: float) -> float:
        """Where the first window begins whose scores those of a window that begins at `start_s` are weighed with."""
        return start_s // BLOCK_S * BLOCK_S if self.file_level is not None else start_s


NO_CONTEXT = Context()
"""Changes nothing."""


def smooth(scores: np.ndarray, windows: int) -> np.ndarray:
    """The mean over `windows` neighbouring windows, over fewer at the ends, nearer ones counting more.

    Weights fall evenly from a window to both sides, 1:2:1 of three. docs/recipe.md has what equal weights gave.

    Args:
        scores: float32 `[window, label]`, in time order.
        windows: an odd number.
    """
    from scipy.ndimage import correlate1d

    most = windows // 2 + 1
    weights = most - abs(np.arange(windows) - windows // 2)
    totals, counts = (
        correlate1d(x, weights, axis=0, output=np.float64, mode="constant")
        for x in (scores, np.ones((len(scores), 1), np.float32))
    )
    return (totals / counts).astype(np.float32)
