"""The outline of a recording's waveform, in flat memory however long it is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_birds.audio.stream import open_stream
from keras_birds.errors import AudioError

_RATE_HZ = 8000  # enough for an outline, and half the work of more
_CELL_SAMPLES = 16


@dataclass(frozen=True, eq=False)
class Envelope:
    """The least and the greatest sample of each cell of a recording.

    Args:
        low: float32 `[cell]`.
        high: float32 `[cell]`.
        cell_s: length of a cell; the last may be shorter.
        seconds: length of the recording.
    """

    low: np.ndarray
    high: np.ndarray
    cell_s: float
    seconds: float


def read_envelope(
    name: str | Path,
    decoder: str = "soundfile",
    max_cells: int = 1000,
    max_s: float = float("inf"),
    on_block: Callable[[float], None] = lambda _: None,
) -> Envelope:
    """Decodes a recording and outlines it.

    Args:
        name: as for `open_stream`.
        decoder: as for `open_stream`.
        max_cells: at most so many cells, at least half of it where the recording has that many samples.
        max_s: a longer recording is refused, whatever its header says.
        on_block: is told how many seconds are decoded; what it raises stops the decoding.

    Raises:
        AudioError: if the recording can't be read, or is too long.
        ConfigError: if the decoder or a package that a URL needs can't be loaded.
    """
    cells = _Cells(max_cells)
    with open_stream(name, _RATE_HZ, decoder) as stream:
        _check_length(name, stream.seconds_expected, max_s)
        for block in stream.blocks:
            cells.add(block[:, 0])
            _check_length(name, stream.seconds_read, max_s)
            on_block(stream.seconds_read)
    low, high = cells.finish()
    return Envelope(low, high, cells.size / _RATE_HZ, stream.seconds_read)


def _check_length(name: str | Path, seconds: float, max_s: float) -> None:
    if seconds > max_s:
        raise AudioError(name, f"is longer than {max_s / 60:g} min", "unreadable")


class _Cells:
    """Cells that double their size when they become too many."""

    def __init__(self, max_cells: int):
        self.size = _CELL_SAMPLES
        self._max_cells = max_cells
        self._bounds = np.zeros((2, 0), np.float32)
        self._rest = np.zeros(0, np.float32)

    def add(self, samples: np.ndarray) -> None:
        samples = np.concatenate([self._rest, samples])
        whole = len(samples) // self.size * self.size
        self._rest = samples[whole:]
        self._append(samples[:whole].reshape(-1, self.size))

    def finish(self) -> np.ndarray:
        """Lows and highs, `[2, cell]`."""
        if len(self._rest):
            self._append(self._rest[None])
        return self._bounds

    def _append(self, cells: np.ndarray) -> None:
        self._bounds = np.concatenate([self._bounds, [cells.min(axis=1), cells.max(axis=1)]], axis=1)
        while self._bounds.shape[1] > self._max_cells:
            if self._bounds.shape[1] % 2:
                # What has no partner is the beginning of the next cell: an outline of it stands for its samples.
                self._rest = np.concatenate([np.resize(self._bounds[:, -1], self.size), self._rest])
                self._bounds = self._bounds[:, :-1]
            low, high = self._bounds.reshape(2, -1, 2)
            self._bounds = np.stack([low.min(axis=1), high.max(axis=1)])
            self.size *= 2
