"""The mel image as a layer, so that an exported model can take sound."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import scipy.fft
from keras import ops

from keras_birds.audio.mel import MIN_DB, resize_bilinear, slaney_filterbank
from keras_birds.config import AudioConfig, MelConfig


@keras.saving.register_keras_serializable(package="keras_birds")
class LogMelSpectrogram(keras.layers.Layer):
    """Clips `[batch, clip_samples]` to images `[batch, height, width, 1]`, as `MelTransform` computes them.

    Within 1e-3 of the NumPy transform. The Fourier transform is two small matrix products a frame (Cooley and Tukey
    1965, with n_fft as a product of two factors near its square root), which every backend and every export format
    has, at a sixth of the arithmetic of one large product. For a length without factors it is one.

    Args:
        audio: as for `MelTransform`.
        mel: as for `MelTransform`.
        kwargs: as for `keras.layers.Layer`.

    Raises:
        ValueError: when built, if clips don't have the length of the settings.
    """

    def __init__(
        self, audio: AudioConfig | Mapping[str, Any], mel: MelConfig | Mapping[str, Any], **kwargs: Any
    ):
        # Decibels need the range of float32 under every policy.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.audio = audio if isinstance(audio, AudioConfig) else AudioConfig(**audio)
        self.mel = mel if isinstance(mel, MelConfig) else MelConfig(**mel)
        n1, n2 = _factors(self.mel.n_fft)
        steps = np.arange(self.mel.n_fft) / self.mel.n_fft
        self._window = (0.5 - 0.5 * np.cos(2 * np.pi * steps)).astype(np.float32).reshape(n1, n2)
        self._first, self._twiddle, self._second = _fourier(n1, n2)
        self._filters = _filters(self.audio, self.mel, n1, n2)
        rows, self._cepstrum = self.mel.n_mels, None
        if self.mel.feature == "mfcc":
            rows = self.mel.n_mfcc
            cosines = scipy.fft.dct(np.eye(self.mel.n_mels), axis=1, type=2, norm="ortho")
            self._cepstrum = np.ascontiguousarray(cosines[:, :rows].astype(np.float32))
        padding = 2 * (self.mel.n_fft // 2) - self.mel.n_fft
        self._num_frames = 1 + (self.audio.clip_samples + padding) // self.mel.hop_samples
        self._stretch = _stretch(rows, self.mel.height), _stretch(self._num_frames, self.mel.width)

    def build(self, input_shape: Any) -> None:
        """Checks the length of the clips."""
        if tuple(input_shape[1:]) != (self.audio.clip_samples,):
            raise ValueError(
                f"clips must have the shape [batch, {self.audio.clip_samples}]. Received: input_shape={input_shape}"
            )
        super().build(input_shape)

    def call(self, clips: Any) -> Any:
        """Float32 samples to float32 images in [0, 1]."""
        # NumPy's arrays become tensors first: in a product with torch's, tracing would take the result as a constant.
        window, cosine, sine, first = (
            ops.convert_to_tensor(x) for x in (self._window, *self._twiddle, self._first)
        )
        # [batch, frame, n1, n2]
        frames = ops.reshape(self._frames(clips), (-1, self._num_frames, *self._window.shape)) * window
        inner = ops.matmul(first, frames)
        half = self._first.shape[0] // 2
        real, imaginary = inner[:, :, :half], inner[:, :, half:]
        turned = [real * cosine - imaginary * sine, real * sine + imaginary * cosine]
        # [batch, frame, k1, n2 real and imaginary] to [batch, frame, k1, k2 real and imaginary]
        spectrum = ops.square(ops.matmul(ops.concatenate(turned, axis=3), self._second))
        width = self._second.shape[1] // 2
        power = spectrum[..., :width] + spectrum[..., width:]
        power = ops.reshape(power, (-1, self._num_frames, half * width))
        mel = ops.maximum(ops.matmul(power, self._filters), 10 ** (MIN_DB / 10))
        db = ops.log(mel) * (10 / np.log(10))
        db = ops.maximum(db - ops.max(db, axis=(1, 2), keepdims=True), -self.mel.top_db)
        if self._cepstrum is not None:
            db = ops.matmul(db, self._cepstrum)
        low, high = (find(db, axis=(1, 2), keepdims=True) for find in (ops.min, ops.max))
        # A clip without contrast is zeros: there is nothing to divide by.
        images = (db - low) / ops.where(high > low, high - low, ops.ones_like(high))
        rows, columns = self._stretch
        if columns is not None:
            images = ops.swapaxes(ops.matmul(ops.swapaxes(images, 1, 2), columns), 1, 2)
        if rows is not None:
            images = ops.matmul(images, rows)
        return ops.expand_dims(ops.swapaxes(images, 1, 2), -1)

    def _frames(self, clips: Any) -> Any:
        """`[batch, frame, n_fft]`: hops side by side, as many as a frame holds. No format lacks slices."""
        n_fft, hop = self.mel.n_fft, self.mel.hop_samples
        hops_a_frame = -(-n_fft // hop)
        n_hops = self._num_frames + hops_a_frame - 1
        margin = n_fft // 2
        behind = n_hops * hop - self.audio.clip_samples - margin
        padded = ops.pad(clips, [[0, 0], [margin, max(0, behind)]])[:, : n_hops * hop]
        hops = ops.reshape(padded, (-1, n_hops, hop))
        beside = [hops[:, k : k + self._num_frames] for k in range(hops_a_frame)]
        return ops.concatenate(beside, axis=2)[:, :, :n_fft]

    def compute_output_shape(self, input_shape: Any) -> Any:
        """An image a clip."""
        return (input_shape[0], self.mel.height, self.mel.width, 1)

    def get_config(self) -> dict[str, Any]:
        """Arguments to make an equal one with."""
        settings = {"audio": self.audio.model_dump(), "mel": self.mel.model_dump()}
        return {k: v for k, v in super().get_config().items() if k != "dtype"} | settings


def _factors(n_fft: int) -> tuple[int, int]:
    """`n1 * n2 = n_fft`, as near to each other as they can be, the larger first."""
    n2 = max(x for x in range(1, int(n_fft**0.5) + 1) if n_fft % x == 0)
    return n_fft // n2, n2


def _fourier(n1: int, n2: int) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], np.ndarray]:
    """The products `[2 * k1, n1]` (real, then imaginary) and `[2 * n2, 2 * k2]`; between them, turns `[k1, n2]`.

    With sample `n2 * i + j` and bin `k1 + n1 * k2`: the sum over i, a turn by `j * k1 / n_fft`, the sum over j. Of a
    real frame the bins with `k1` up to `n1 / 2` are enough: the others are the conjugates of some of them.
    """
    k1 = np.arange(n1 // 2 + 1)
    angle = -2 * np.pi * np.outer(k1, np.arange(n1)) / n1
    first = np.concatenate([np.cos(angle), np.sin(angle)])
    turn = -2 * np.pi * np.outer(k1, np.arange(n2)) / (n1 * n2)
    angle = -2 * np.pi * np.outer(np.arange(n2), np.arange(n2)) / n2
    cosine, sine = np.cos(angle), np.sin(angle)
    second = np.block([[cosine, sine], [-sine, cosine]])
    turns = np.cos(turn).astype(np.float32), np.sin(turn).astype(np.float32)
    return first.astype(np.float32), turns, second.astype(np.float32)


def _filters(audio: AudioConfig, mel: MelConfig, n1: int, n2: int) -> np.ndarray:
    """The mel filters over bins in the order in which `_fourier` gives them, `[k1 * n2 + k2, n_mels]`."""
    filters = slaney_filterbank(audio.sample_rate_hz, mel.n_fft, mel.n_mels, mel.f_min_hz, mel.f_max_hz)
    out = np.zeros((n1 // 2 + 1, n2, mel.n_mels), np.float32)
    for k in range(filters.shape[1]):
        k2, k1 = divmod(k, n1)
        if k1 > n1 // 2:
            k1, k2 = n1 - k1, n2 - 1 - k2
        out[k1, k2] += filters[:, k]
    return out.reshape(-1, mel.n_mels)


def _stretch(size: int, target: int) -> np.ndarray | None:
    """`resize_bilinear` of one axis as a product with `[size, target]`; `None` where nothing changes."""
    if size == target:
        return None
    return np.ascontiguousarray(resize_bilinear(np.eye(size)[None], size, target)[0])
