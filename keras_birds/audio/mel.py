"""Clips become log-mel or MFCC images: librosa's arithmetic, batched, without librosa."""

from collections.abc import Sequence

import numpy as np

from keras_birds.config import AudioConfig, MelConfig

MIN_DB = -100.0
"""The least mel power that counts, in dB relative to 1."""

_MIN_POWER = np.float32(10 ** (MIN_DB / 10))
_DB_PER_NEPER = np.float32(10 / np.log(10))
# What stays in the processor's cache: 1.5 to 3 times as fast as all frames of a clip at once.
_CHUNK_FRAMES = 128


def slaney_filterbank(
    sample_rate_hz: int, n_fft: int, n_mels: int, f_min_hz: float, f_max_hz: float
) -> np.ndarray:
    """Triangular mel filters of equal area on Slaney's scale, float32 `[n_mels, 1 + n_fft // 2]`.

    Equal to `librosa.filters.mel` with its defaults; from M. Slaney, Auditory Toolbox, 1998.
    """
    edges_hz = mel_to_hz(np.linspace(_hz_to_mel(f_min_hz), _hz_to_mel(f_max_hz), n_mels + 2))
    bins_hz = np.fft.rfftfreq(n_fft, 1 / sample_rate_hz)
    widths_hz = np.diff(edges_hz)
    slopes = edges_hz[:, None] - bins_hz
    rising = -slopes[:-2] / widths_hz[:-1, None]
    falling = slopes[2:] / widths_hz[1:, None]
    area = 2.0 / (edges_hz[2:] - edges_hz[:-2])
    return (np.maximum(0, np.minimum(rising, falling)) * area[:, None]).astype(np.float32)


# Slaney's mel scale: linear up to 1 kHz, logarithmic from there.
LINEAR_HZ_PER_MEL = 200.0 / 3
LOG_START_HZ = 1000.0
LOG_START_MEL = LOG_START_HZ / LINEAR_HZ_PER_MEL
LOG_STEP = np.log(6.4) / 27.0


def _hz_to_mel(hz: float) -> float:
    if hz < LOG_START_HZ:
        return hz / LINEAR_HZ_PER_MEL
    return float(LOG_START_MEL + np.log(hz / LOG_START_HZ) / LOG_STEP)


def mel_to_hz(mel: np.ndarray) -> np.ndarray:
    """Frequencies in Hz of places on Slaney's mel scale, of the same shape."""
    logarithmic = LOG_START_HZ * np.exp(LOG_STEP * (mel - LOG_START_MEL))
    return np.where(mel < LOG_START_MEL, mel * LINEAR_HZ_PER_MEL, logarithmic)


class MelTransform:
    """Turns clips into a model's input, each by itself: a clip's image never depends on its batch-mates.

    Power spectrogram (periodic Hann window, centred frames, zeros beyond the ends), Slaney mel filters, dB
    relative to the clip's maximum with a floor at `top_db`, then min-max to [0, 1]. A clip without contrast,
    such as silence, gives zeros. With `feature = "mfcc"` the orthonormal DCT-II over the mel axis of the dB
    comes before min-max.

    Equal to `librosa.feature.melspectrogram`, `power_to_db(ref=np.max)` and `feature.mfcc` within 1e-4. Safe
    to share between threads.

    Args:
        audio: sample rate and clip length.
        mel: everything else.

    Attributes:
        context_samples: how far the first and the last frame reach beyond a clip's ends.
        num_frames: in a clip.
        num_rows: of `native`: mel bands or cepstral coefficients.
    """

    def __init__(self, audio: AudioConfig, mel: MelConfig):
        import scipy.sparse  # late, as scipy.fft below: a tenth of a second that models of sound do without

        self.audio = audio
        self.mel = mel
        self.context_samples = mel.n_fft // 2
        self.num_frames = self.frames_of(audio.clip_samples)
        self.num_rows = mel.n_mfcc if mel.feature == "mfcc" else mel.n_mels
        steps = np.arange(mel.n_fft) / mel.n_fft
        self._window = (0.5 - 0.5 * np.cos(2 * np.pi * steps)).astype(np.float32)
        filters = slaney_filterbank(audio.sample_rate_hz, mel.n_fft, mel.n_mels, mel.f_min_hz, mel.f_max_hz)
        used = np.flatnonzero(filters.any(axis=0))
        self._bins = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
        # A frequency bin lies in at most two triangles: sparse rows take a tenth of a dense product's time.
        self._filters = scipy.sparse.csr_array(filters[:, self._bins])

    def frames_of(self, n_samples: int) -> int:
        """Frames in a recording of `n_samples`."""
        return 1 + (n_samples + 2 * self.context_samples - self.mel.n_fft) // self.mel.hop_samples

    def native(self, clips: np.ndarray | Sequence[np.ndarray], has_context: bool = False) -> np.ndarray:
        """Images at their own resolution, float32 `[n, num_rows, frames]` in [0, 1].

        Args:
            clips: float32 `[n, samples]` at the configured rate. NaN gives NaN: decode refuses it.
            has_context: whether they hold `context_samples` more at either end, where zeros stand otherwise.
        """
        n_samples = len(clips[0]) if len(clips) else self.audio.clip_samples
        n_samples -= 2 * self.context_samples * has_context
        out = np.empty((len(clips), self.num_rows, self.frames_of(n_samples)), np.float32)
        for image, clip in zip(out, clips, strict=True):
            image[:] = self.normalise(self.decibels(clip, has_context))
        return out

    def images(self, clips: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Model input: clips, float32 `[n, samples]`, to float32 `[n, height, width, 1]` in [0, 1]."""
        return self.resize(self.native(clips))

    def resize(self, native: np.ndarray) -> np.ndarray:
        """Stretches `native` images to `[n, height, width, 1]`."""
        return resize_bilinear(native, self.mel.height, self.mel.width)[..., None]

    def decibels(self, samples: np.ndarray, has_context: bool = False) -> np.ndarray:
        """Mel power of `[n]` samples in dB relative to 1, at least `MIN_DB`: float32 `[n_mels, frames]`."""
        samples = np.asarray(samples, np.float32)
        padded = samples if has_context else np.pad(samples, self.context_samples)
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.mel.n_fft)[:: self.mel.hop_samples]
        out = np.empty((self.mel.n_mels, len(frames)), np.float32)
        for start in range(0, len(frames), _CHUNK_FRAMES):
            chunk = slice(start, start + _CHUNK_FRAMES)
            out[:, chunk] = self._decibels(frames[chunk])
        return out

    def _decibels(self, frames: np.ndarray) -> np.ndarray:
        import scipy.fft

        spectrum = scipy.fft.rfft(frames * self._window, axis=-1, overwrite_x=True)[:, self._bins]
        power = np.square(spectrum.real)
        power += np.square(spectrum.imag)
        db = np.asarray(self._filters @ power.T)
        np.maximum(db, _MIN_POWER, out=db)
        np.log(db, out=db)
        db *= _DB_PER_NEPER
        return db

    def normalise(self, db: np.ndarray) -> np.ndarray:
        """Takes dB of any reference, `[n_mels, frames]`, to [0, 1] over the clip, through the DCT first for MFCC."""
        db = db - db.max()
        np.maximum(db, np.float32(-self.mel.top_db), out=db)
        if self.mel.feature == "mfcc":
            import scipy.fft

            db = scipy.fft.dct(db, axis=0, type=2, norm="ortho")[: self.mel.n_mfcc]
        low, high = db.min(), db.max()
        if high <= low:
            return np.zeros_like(db)
        db -= low
        db *= np.float32(1) / (high - low)
        return np.minimum(db, np.float32(1), out=db)


def resize_bilinear(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes `[n, h, w]` to float32 `[n, height, width]`: two taps per axis, half-pixel centres, no antialias.

    Equal to `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)` within 1e-5.
    """
    images = np.asarray(images, np.float32)
    if images.shape[1:] == (height, width):
        return images
    left, right, weight = _taps(images.shape[2], width)
    top, bottom, weight_down = _taps(images.shape[1], height)
    out = np.empty((len(images), height, width), np.float32)
    for image, target in zip(images, out, strict=True):
        wide = image if image.shape[1] == width else _blend(image, left, right, weight, axis=1)
        target[:] = wide if len(wide) == height else _blend(wide, top, bottom, weight_down[:, None], axis=0)
    return out


def _taps(size: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    place = np.maximum(0, (np.arange(target) + 0.5) * (size / target) - 0.5)
    first = np.minimum(place.astype(np.intp), size - 1)
    return first, np.minimum(first + 1, size - 1), (place - first).astype(np.float32)


def _blend(
    image: np.ndarray, first: np.ndarray, second: np.ndarray, weight: np.ndarray, axis: int
) -> np.ndarray:
    low = image.take(first, axis)
    step = image.take(second, axis)
    step -= low
    step *= weight
    step += low
    return step
