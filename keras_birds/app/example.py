"""A recording for the first look: birds and a cat, made from formulas, which the bundled model tells apart."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

NAME = "Example: birds and a cat (synthetic)"

_RATE_HZ = 32_000


def write_example(path: Path) -> None:
    """Writes 30 s of mono FLAC: whistles, calls like a cat's, and whistles again, over a faint hiss."""
    rng = np.random.default_rng(7)
    birds = *_phrases(0.5, 9.0, rng), *_phrases(21.0, 29.0, rng)
    sound = np.zeros(30 * _RATE_HZ)
    for place_s, note in (*birds, *((x, _meow()) for x in (11.0, 12.6, 16.5))):
        first = int(place_s * _RATE_HZ)
        sound[first : first + len(note)] += note / np.abs(note).max()
    samples = 0.3 * sound / np.abs(sound).max() + 0.003 * rng.normal(size=len(sound))
    soundfile.write(path, samples.astype(np.float32), _RATE_HZ, format="FLAC")


def _phrases(begin_s: float, end_s: float, rng: np.random.Generator) -> Iterator[tuple[float, np.ndarray]]:
    """Groups of whistles that rise and fall around 3.5 kHz, with their places."""
    place_s = begin_s
    while place_s < end_s - 1:
        for _ in range(rng.integers(3, 7)):
            length_s = rng.uniform(0.05, 0.12)
            t = np.linspace(0, 1, int(length_s * _RATE_HZ))
            bend = 0.35 * np.sin(np.pi * t * rng.uniform(1, 2.5) + rng.uniform(0, 3)) + rng.uniform(-0.1, 0.1)
            phase = 2 * np.pi * np.cumsum(3500 * (1 + bend)) / _RATE_HZ
            yield place_s, (np.sin(phase) + 0.25 * np.sin(2 * phase)) * np.hanning(len(t))
            place_s += length_s + rng.uniform(0.02, 0.08)
        place_s += rng.uniform(0.3, 1.0)


def _meow() -> np.ndarray:
    """Eleven harmonics of a tone that rises and falls, of which a formant lets some through."""
    t = np.linspace(0, 1, int(0.8 * _RATE_HZ))
    phase = 2 * np.pi * np.cumsum(500 * (1 + 0.5 * np.sin(np.pi * t**0.7))) / _RATE_HZ
    formant_hz = 900 + 1100 * np.sin(np.pi * t)
    voice = sum(np.exp(-(((500 * k - formant_hz) / 700) ** 2)) * np.sin(k * phase) for k in range(1, 12))
    return np.asarray(voice * np.sin(np.pi * t))
