"""Sounds and what they are as files."""

import io

import numpy as np
import soundfile

RATE_HZ = 32_000


def tone(seconds, rate_hz=RATE_HZ, frequency_hz=1000.0):
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * frequency_hz * t)).astype(np.float32)


def noise(seconds, rate_hz=RATE_HZ, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * rate_hz)).astype(np.float32)


def touch(folder, *names, content=b"x"):
    """Files for what doesn't open them: the first has the content once, the second twice, and so on."""
    for count, name in enumerate(names, 1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content * count)


def encoded(samples, form="wav", subtype=None, rate_hz=RATE_HZ):
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, subtype, format=form)
    return file.getvalue()
