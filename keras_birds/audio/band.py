"""Keeps a band of frequencies of a sound, the same whether it comes whole, in blocks or as a part of a recording."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain

import numpy as np

from keras_birds.config import AudioConfig

_STOPPED_DB = 60.0
_LEAST_FFT, _FFT_A_FILTER = 1 << 15, 8


def band_passed(blocks: Iterable[np.ndarray], audio: AudioConfig, channels: int = 1) -> Iterator[np.ndarray]:
    """Blocks of what `audio.f_low_hz` and `f_high_hz` leave of float32 `[n, channels]`; nothing changes without them.

    A windowed sinc (Kaiser 1974, as in Oppenheim and Schafer, Discrete-Time Signal Processing, section 7.5), by the
    fast Fourier transform. The bounds are where half of the amplitude is left; a quarter of `f_low_hz` or an eighth of
    `f_high_hz` beyond them, the lesser, it is 60 dB down. Phase is linear and its delay taken away: nothing moves in
    time. A sample depends on `reach_samples` on either side, zeros beyond the ends: a part that is read with so much
    more is that part of the whole. Transforms begin at the same places whatever the blocks are.
    """
    if not reach_samples(audio):
        yield from blocks
        return
    response, size, reach = *_response(audio), reach_samples(audio)
    edge = np.zeros((reach, channels), np.float32)
    held = edge
    for block in chain(blocks, [edge]):
        held = np.concatenate([held, block])
        while len(held) >= size:
            yield _filtered(held[:size], response)[2 * reach :]
            held = held[size - 2 * reach :]
    if (left := len(held) - 2 * reach) > 0:
        padded = np.pad(held, ((0, size - len(held)), (0, 0)))
        yield _filtered(padded, response)[2 * reach :][:left]


def in_band(samples: np.ndarray, audio: AudioConfig) -> np.ndarray:
    """`band_passed` of one sound, float32 `[n]`."""
    if not len(samples) or not reach_samples(audio):
        return samples
    return np.concatenate(list(band_passed([samples[:, None]], audio)))[:, 0]


def reach_samples(audio: AudioConfig) -> int:
    """How far on either side a sample of `band_passed` depends on others; 0 without bounds."""
    widths_hz = [x for x in (audio.f_low_hz / 2, audio.f_high_hz / 4) if x]
    if not widths_hz:
        return 0
    # Kaiser's formula for the length of a filter.
    width = 2 * np.pi * min(widths_hz) / audio.sample_rate_hz
    return int(np.ceil((_STOPPED_DB - 7.95) / (2.285 * width) / 2))


def _filtered(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    import scipy.fft

    spectrum = scipy.fft.rfft(samples, axis=0)
    spectrum *= response[:, None]
    return np.asarray(scipy.fft.irfft(spectrum, len(samples), axis=0, overwrite_x=True))


@lru_cache(maxsize=8)
def _response(audio: AudioConfig) -> tuple[np.ndarray, int]:
    """The filter's spectrum, complex64 `[size // 2 + 1]`, and the size."""
    import scipy.fft
    import scipy.signal

    low_hz, high_hz, length = audio.f_low_hz, audio.f_high_hz, 2 * reach_samples(audio) + 1
    bounds_hz = [x for x in (low_hz, high_hz) if x]
    window = ("kaiser", scipy.signal.kaiser_beta(_STOPPED_DB))
    taps = scipy.signal.firwin(
        length, bounds_hz, window=window, pass_zero=not low_hz, fs=audio.sample_rate_hz
    )
    size = scipy.fft.next_fast_len(max(_LEAST_FFT, _FFT_A_FILTER * length), real=True)
    return scipy.fft.rfft(taps, size).astype(np.complex64), size
