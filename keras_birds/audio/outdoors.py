"""Calls in a recording, and how they sound from afar: weaker, without their highest tones, and reverberant."""

from collections.abc import Sequence

import numpy as np
import scipy.fft
import scipy.signal

CRITICAL_M = 50.0
"""Where what comes back from trunks, leaves and ground is as strong as what comes straight: our choice for a wood."""

_HOP_S, _JOIN_S, _SHORTEST_S, _EDGE_S = 0.01, 0.4, 0.03, 0.02
_RUMBLE_HZ, _SILENCE_DB = 80.0, -90.0
_BELOW_PEAK_DB, _ABOVE_FLOOR_DB, _LEAST_RANGE_DB, _AS_LOUD_DB = 30.0, 6.0, 10.0, 10.0
_WINDOW_S, _LEAST_NOISE_S, _SUBTRACTED, _LEFT = 0.032, 0.5, 2.0, 0.1
_BAND_SHARE, _NARROWEST_HZ = 0.05, 100.0


def find_calls(samples: np.ndarray, rate_hz: int) -> list[tuple[int, int]]:
    """Where a recording `[n]` holds calls, by energy: first sample and the one after the last, in order.

    A call is there where the level is within 30 dB of the highest and 6 dB above the level that nine tenths of the
    recording exceed; what lies less than 0.4 s apart is one call. Calls of more than 10 dB less than the loudest are
    left out, as is anything below 80 Hz. A recording whose level hardly changes, as of cicadas, is one call; digital
    silence before and after is none of it. Of a silent recording there are none.
    """
    hop = round(_HOP_S * rate_hz)
    if len(samples) < hop:
        return []
    high = _above_rumble(samples, rate_hz)
    frames = high[: len(high) // hop * hop].reshape(-1, hop)
    level_db = 10 * np.log10(np.square(frames).mean(axis=1) + 1e-12)
    is_sound = level_db > _SILENCE_DB
    if not is_sound.any():
        return []
    peak_db, floor_db = level_db.max(), float(np.percentile(level_db[is_sound], 10))
    if peak_db - floor_db < _LEAST_RANGE_DB:
        is_call = is_sound
    else:
        least_db = max(peak_db - _BELOW_PEAK_DB, min(floor_db + _ABOVE_FLOOR_DB, peak_db - _LEAST_RANGE_DB))
        is_call = is_sound & (level_db >= least_db)
    at = np.flatnonzero(is_call)
    parts = np.split(at, np.flatnonzero(np.diff(at) > round(_JOIN_S / _HOP_S)) + 1)
    edge = round(_EDGE_S * rate_hz)
    return [
        (max(0, int(x[0]) * hop - edge), min(len(samples), (int(x[-1]) + 1) * hop + edge))
        for x in parts
        if (x[-1] + 1 - x[0]) * _HOP_S >= _SHORTEST_S and level_db[x].max() >= peak_db - _AS_LOUD_DB
    ]


def cut_call(
    samples: np.ndarray, rate_hz: int, span: tuple[int, int], calls: Sequence[tuple[int, int]] = ()
) -> np.ndarray:
    """A span of a recording `[n]`, faded in and out over 20 ms, without what it was recorded with: float64.

    That is what lies below 80 Hz, and by spectral subtraction (Boll 1979, https://doi.org/10.1109/TASSP.1979.1163209)
    the mean noise between the recording's `calls`, where a half second of it or more isn't digital silence.
    """
    call = _above_rumble(samples[slice(*span)], rate_hz)
    is_between = np.abs(samples) > 0
    for begin, end in calls:
        is_between[begin:end] = False
    size = 2 * round(_WINDOW_S * rate_hz / 2)
    if calls and is_between.sum() >= _LEAST_NOISE_S * rate_hz and len(call) >= size:
        transform = scipy.signal.ShortTimeFFT(scipy.signal.windows.hann(size, sym=False), size // 4, rate_hz)
        noise = transform.spectrogram(_above_rumble(samples[is_between], rate_hz)).mean(axis=1, keepdims=True)
        spectrum = transform.stft(call)
        power = np.square(np.abs(spectrum))
        left = np.maximum(1 - _SUBTRACTED * noise / np.maximum(power, 1e-30), _LEFT**2)
        call = transform.istft(spectrum * np.sqrt(left), k1=len(call))
    edge = min(round(_EDGE_S * rate_hz), len(call) // 2)
    ramp = 0.5 - 0.5 * np.cos(np.pi * np.arange(edge) / max(edge, 1))
    call[:edge] *= ramp
    call[len(call) - edge :] *= ramp[::-1]
    return call


def _above_rumble(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    band = scipy.signal.butter(2, _RUMBLE_HZ, "highpass", fs=rate_hz, output="sos")
    above: np.ndarray = scipy.signal.sosfilt(band, samples.astype(float))
    return above


class Spectrum:
    """Where the power of a sound `[n]` lies."""

    def __init__(self, samples: np.ndarray, rate_hz: int):
        self._hz = rate_hz / len(samples)  # of a bin
        # By Parseval, all of it is the mean square.
        power = 2 * np.square(np.abs(scipy.fft.rfft(samples))) / len(samples) ** 2
        self._below = np.concatenate([[0.0], np.cumsum(power)])

    def band(self) -> tuple[float, float]:
        """Between which frequencies in Hz nine tenths of the power lie; at least 100 Hz apart."""
        shares = self._below / self._below[-1]
        low_hz, high_hz = np.searchsorted(shares, [_BAND_SHARE, 1 - _BAND_SHARE]) * self._hz
        wider_hz = max(0.0, _NARROWEST_HZ - (high_hz - low_hz)) / 2
        return max(0.0, float(low_hz - wider_hz)), float(high_hz + wider_hz)

    def power(self, band: tuple[float, float]) -> float:
        """Mean power between two frequencies in Hz."""
        low, high = (min(round(x / self._hz), len(self._below) - 1) for x in band)
        return float(self._below[high] - self._below[low])


def air_absorption_db_per_m(hz: np.ndarray, celsius: float = 20.0, humidity: float = 70.0) -> np.ndarray:
    """How much the air takes from a tone on each metre, in dB, at sea level.

    The formula of ISO 9613-1:1993, equations 3 to 5 and annex B.

    Args:
        hz: frequencies, of any shape.
        celsius: temperature.
        humidity: relative, in percent.
    """
    kelvin, reference = celsius + 273.15, 293.15
    ratio = kelvin / reference
    saturation = 10 ** (-6.8346 * (273.16 / kelvin) ** 1.261 + 4.6151)
    water = humidity * saturation  # molar concentration of water vapour, in percent
    oxygen_hz = 24 + 4.04e4 * water * (0.02 + water) / (0.391 + water)
    nitrogen_hz = ratio**-0.5 * (9 + 280 * water * np.exp(-4.170 * (ratio ** (-1 / 3) - 1)))
    square = np.square(np.asarray(hz, float))
    oxygen = 0.01275 * np.exp(-2239.1 / kelvin) / (oxygen_hz + square / oxygen_hz)
    nitrogen = 0.1068 * np.exp(-3352.0 / kelvin) / (nitrogen_hz + square / nitrogen_hz)
    loss: np.ndarray = 8.686 * square * (1.84e-11 * ratio**0.5 + ratio**-2.5 * (oxygen + nitrogen))
    return loss


def reverberation(rate_hz: int, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """The answer of a place to a click, without the click itself: noise that falls by 60 dB in `seconds`; energy 1.

    As Moorer, "About this reverberation business", Computer Music Journal 3 (2), 1979, made that of concert halls.
    """
    n = round(seconds * rate_hz)
    if n < 1:
        return np.zeros(0)
    answer = rng.normal(size=n) * 10 ** (-3 * np.arange(n) / n)
    return answer / np.sqrt(np.square(answer).sum())


def from_afar(call: np.ndarray, rate_hz: int, distance_m: float, answer: np.ndarray) -> np.ndarray:
    """A call `[n]` as it is heard at a distance, float64 `[n + len(answer)]`; as loud as it is now at 1 m.

    It loses 6 dB with each doubling of the distance, what the air absorbs, and to it comes the answer of the place
    (`reverberation`), which is as strong as itself at `CRITICAL_M` and twice as strong, in amplitude, at twice that.
    """
    size = scipy.fft.next_fast_len(len(call) + len(answer), real=True)
    spectrum = scipy.fft.rfft(call, size)
    if len(answer):
        spectrum *= 1 + distance_m / CRITICAL_M * scipy.fft.rfft(answer, size)
    loss_db = air_absorption_db_per_m(scipy.fft.rfftfreq(size, 1 / rate_hz)) * distance_m
    spectrum *= 10 ** (-loss_db / 20) / distance_m
    heard: np.ndarray = scipy.fft.irfft(spectrum, size)[: len(call) + len(answer)]
    return heard
