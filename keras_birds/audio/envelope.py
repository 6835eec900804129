"""The outline of a recording's waveform."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_birds.audio.stream import open_stream
from keras_birds.config import AudioConfig
from keras_birds.errors import AudioError

_RATE_HZ = 8000  # enough for an outline, and half the work of more
_CELL_SAMPLES = 16


class Envelope(NamedTuple):
    """The least and the greatest sample of each cell of a recording, float32 `[cell]`; the last may be shorter."""

    low: np.ndarray
    high: np.ndarray
    cell_s: float
    seconds: float


def read_envelope(
    name: str | Path,
    audio: AudioConfig | None = None,
    max_cells: int = 1000,
    max_s: float = float("inf"),
    on_block: Callable[[float], None] = lambda _: None,
) -> Envelope:
    """Decodes a recording and outlines it.

    Args:
        name: as for `open_stream`.
        audio: of the model, for its decoder; the outline holds what one of another speed hears.
        max_cells: at most so many cells, at least half of it where the recording is as long as its header promises and
            has that many samples.
        max_s: a longer recording is refused, whatever its header says.
        on_block: is told how many seconds are decoded; what it raises stops the decoding.

    Raises:
        AudioError: if the recording can't be read, or is too long.
        ConfigError: if the decoder or a package that a URL needs can't be loaded.
    """
    size, rest, bounds = _CELL_SAMPLES, np.zeros(0, np.float32), [np.zeros((2, 0), np.float32)]
    audio = audio or AudioConfig()
    rough = AudioConfig(sample_rate_hz=_RATE_HZ, decoder=audio.decoder)
    if audio.speed != 1:
        rough = rough.model_copy(update={"sample_rate_hz": audio.sample_rate_hz, "speed": audio.speed})
    rate_hz = rough.resample_hz
    with open_stream(name, rough) as stream:
        _check_length(name, stream.seconds_expected, max_s)
        while stream.seconds_expected * rate_hz > size * max_cells:
            size *= 2
        for block in stream.blocks:
            samples = np.concatenate([rest, block[:, 0]])
            whole = len(samples) // size * size
            cells, rest = samples[:whole].reshape(-1, size), samples[whole:]
            bounds.append(np.stack([cells.min(axis=1), cells.max(axis=1)]))
            _check_length(name, stream.seconds_read, max_s)
            on_block(stream.seconds_read)
    if len(rest):
        bounds.append(np.array([[rest.min()], [rest.max()]]))
    low, high = np.concatenate(bounds, axis=1)
    while len(low) > max_cells:  # of a length that the header left out
        pairs = np.arange(0, len(low), 2)
        low, high, size = np.minimum.reduceat(low, pairs), np.maximum.reduceat(high, pairs), 2 * size
    return Envelope(low, high, size / rate_hz, stream.seconds_read)


def _check_length(name: str | Path, seconds: float, max_s: float) -> None:
    if seconds > max_s:
        raise AudioError(name, f"is longer than {max_s / 60:g} min", "unreadable")
