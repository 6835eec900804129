"""BirdNET 2.4's network: three seconds of sound to the logits of 6,522 species.

Rebuilt from the graph of the published model file, layer for layer. Source: Kahl et al. 2021, "BirdNET: A deep learning
solution for avian diversity monitoring", Ecological Informatics 61, 101236; the model file's graph is that of version
2.4 (BirdNET-Analyzer, https://github.com/birdnet-team/BirdNET-Analyzer). Its weights are CC BY-NC-SA 4.0.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from keras_birds.nn.layers import (
    GlobalMean,
    ScaleChannels,
    StochasticDepthAdd,
    SymmetricConv2D,
    SymmetricDepthwiseConv2D,
)

SAMPLE_RATE_HZ, CLIP_SAMPLES = 48_000, 144_000
EMBEDDING, EMBEDDING_SIZE = "embedding", 1024
"""Name of the layer whose output is the embedding of a clip, and its length."""

LOGITS = "logits"


class Spectrogram(NamedTuple):
    """One of the two spectrograms that the network sees side by side."""

    n_fft: int
    hop_samples: int
    f_min_hz: float
    f_max_hz: float


SPECTROGRAMS = (Spectrogram(2048, 278, 0, 3000), Spectrogram(1024, 280, 500, 15_000))
_N_MELS, _FRAMES = 96, 511
_LEAST_POWER = 1e-30  # the slope of a power below 1 has no end at 0


class Stage(NamedTuple):
    """Blocks of one resolution; the first halves it. `squeezed` channels open the gates; 0 for none."""

    num_blocks: int
    channels: int
    expanded: int
    squeezed: int


STAGES = (Stage(3, 36, 72, 0), Stage(4, 72, 288, 18), Stage(5, 108, 864, 27), Stage(4, 192, 1536, 48))


def periodic_hann(n_fft: int) -> np.ndarray:
    """A window, float64 `[n_fft]`."""
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft))


def mel_filters(spectrogram: Spectrogram) -> np.ndarray:
    """Triangles on HTK's mel scale, not normalised, the lowest first: float64 `[n_fft // 2 + 1, mel bin]`.

    As TensorFlow's `linear_to_mel_weight_matrix`, which leaves out the mean.
    """
    hz = np.linspace(0, SAMPLE_RATE_HZ / 2, spectrogram.n_fft // 2 + 1)
    mel, f_min, f_max = (1127 * np.log1p(x / 700) for x in (hz, spectrogram.f_min_hz, spectrogram.f_max_hz))
    edges = np.linspace(f_min, f_max, _N_MELS + 2)
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    mel = mel[:, None]
    filters = np.maximum(0, np.minimum((mel - low) / (middle - low), (high - mel) / (high - middle)))
    filters[0] = 0
    return np.asarray(filters)


def spectrogram_weights(window: np.ndarray, filters: np.ndarray) -> list[np.ndarray]:
    """What the front end computes a spectrogram with, float32: the window; mel cosines `[n_fft, mel bin]`; their sums.

    The network casts the complex transform to its real part before the filters, so that everything up to the square is
    linear in the samples: cosines and filters make one matrix, the highest mel bin first. The sums `[mel bin]` are what
    it gives for the window itself.
    """
    n_fft, bins = len(window), len(filters)
    cosines = np.cos(2 * np.pi * (np.outer(np.arange(n_fft), np.arange(bins)) % n_fft) / n_fft)
    mel_cosines = cosines @ filters[:, ::-1].astype(np.float64)
    return [x.astype(np.float32) for x in (window, mel_cosines, window.astype(np.float64) @ mel_cosines)]


@keras.saving.register_keras_serializable(package="keras_birds")
class BirdNetFrontEnd(layers.Layer):
    """Clips `[batch, samples]` to two spectrograms as the channels of one image `[batch, 96, 511, 2]`.

    Each clip is scaled to [-1, 1] by its own minimum and maximum. A spectrogram's power is raised to
    `sigmoid(-magnitude_scale)`, of which there is one for each: weights, trained with the rest. Always float32: a power
    of about 0.2 blows up the rounding of half floats.

    It blows up that of float32 as well, where a clip holds digital silence: scaled, that is a constant whose spectrum
    has nothing but what the published network's product of window and samples rounds away. So this one product is
    rounded likewise, and its spectrum computed to the last digit; all else is relative to silence.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**{**kwargs, "dtype": "float32"})

    def build(self, input_shape: Any) -> None:
        """Makes all weights; raises `ValueError` for clips of another length than 3 s at 48 kHz."""
        if tuple(input_shape[1:]) != (CLIP_SAMPLES,):
            raise ValueError(
                f"clips must have the shape [batch, {CLIP_SAMPLES}]. Received: input_shape={input_shape}"
            )
        self.magnitude_scale = self.add_weight(
            shape=(len(SPECTROGRAMS),), initializer=keras.initializers.Constant(1.23), name="magnitude_scale"
        )
        self._constants = [
            [
                self.add_weight(shape=x.shape, initializer=_fixed(x), trainable=False, name=f"{name}_{i}")
                for name, x in zip(("window", "mel_cosines", "sums"), values, strict=True)
            ]
            for i, values in enumerate(
                spectrogram_weights(periodic_hann(x.n_fft), mel_filters(x)) for x in SPECTROGRAMS
            )
        ]
        super().build(input_shape)

    def call(self, clips: Any) -> Any:
        """Float32 samples to float32 images."""
        lowest = ops.min(clips, axis=1, keepdims=True)
        clips = clips - lowest
        highest = ops.max(clips, axis=1, keepdims=True)
        # Of a clip without a sample at 0 its lowest or highest one.
        silence = ops.maximum(ops.minimum(-lowest, highest), 0)
        clips, silence = ((_quotient(x, highest + 1e-6) - 0.5) * 2 for x in (clips, silence))
        clips, exponents = (clips - silence)[..., None], ops.sigmoid(-self.magnitude_scale)
        images = []
        for i, (spectrogram, (window, mel_cosines, sums)) in enumerate(
            zip(SPECTROGRAMS, self._constants, strict=True)
        ):
            kernel = (window[:, None] * mel_cosines)[:, None]
            x = ops.conv(
                clips, kernel, strides=spectrogram.hop_samples, padding="valid", data_format="channels_last"
            )
            of_silence = silence * sums - ops.matmul(_rounded_away(silence, window), mel_cosines)
            power = ops.maximum(ops.square(x + of_silence[:, None]), _LEAST_POWER)
            images.append(ops.transpose(ops.power(power, exponents[i]), (0, 2, 1)))
        return ops.transpose(ops.stack(images, axis=1), (0, 2, 3, 1))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """`[batch, 96, 511, 2]`."""
        return (input_shape[0], _N_MELS, _FRAMES, len(SPECTROGRAMS))


def _fixed(values: np.ndarray) -> Any:
    return lambda shape, dtype: ops.reshape(ops.convert_to_tensor(values, dtype), shape)


def _quotient(x: Any, divisor: Any) -> Any:
    """`x / divisor` as float32 rounds it: the power of about 0.2 makes much of another last digit in quiet sound."""
    if keras.config.backend() != "jax":
        return x / divisor
    from jax.lax import optimization_barrier

    # Without barriers XLA multiplies by the reciprocal, and what follows gets more digits than float32 has.
    return optimization_barrier(x / optimization_barrier(ops.broadcast_to(divisor, x.shape)))


def _rounded_away(a: Any, b: Any) -> Any:
    """The exact product of two float32 tensors minus their rounded one (Dekker 1971, doi:10.1007/BF01397083)."""
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    return (a_high * b_high - a * b) + a_high * b_low + a_low * b_high + a_low * b_low


def _halves(x: Any) -> tuple[Any, Any]:
    """Two of 12 bits each, whose products are exact."""
    large = x * 4097
    high = large - (large - x)
    return high, x - high


@keras.saving.register_keras_serializable(package="keras_birds")
class ChannelScale(layers.Layer):
    """A trainable scale and offset for each channel of `[batch, ..., channels]`: a batch normalisation that was folded.

    There are no averages to move: a `BatchNormalization` with the same numbers would change them in training.
    """

    def build(self, input_shape: Any) -> None:
        """Makes both weights `[channels]`."""
        self.scale = self.add_weight(shape=input_shape[-1:], initializer="ones", name="scale")
        self.offset = self.add_weight(shape=input_shape[-1:], initializer="zeros", name="offset")
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """Scales and shifts."""
        if keras.config.backend() == "torch" and len(inputs.shape) == 4:
            # On a view, for the exported graph: ONNX Runtime takes several times as long over channels that come last.
            x = ops.transpose(inputs, (0, 3, 1, 2))
            scale, offset = (ops.reshape(w, (-1, 1, 1)) for w in (self.scale, self.offset))
            return ops.transpose(x * scale + offset, (0, 2, 3, 1))
        return inputs * self.scale + self.offset


def birdnet_backbone(drop_path: float = 0.0) -> keras.Model:
    """Builds the network up to its embedding, with random weights.

    Args:
        drop_path: largest rate of stochastic depth, reached linearly in the last block.

    Returns:
        A model from clips `[batch, 144000]`, float32 at 48 kHz, to embeddings `[batch, 1024]`.
    """
    clips = keras.Input((CLIP_SAMPLES,), name="waveform", dtype="float32")
    x = BirdNetFrontEnd(name="front_end")(clips)
    x = ChannelScale(name="front_end_scale")(x)
    x = layers.ZeroPadding2D(((1, 1), (3, 4)), name="stem_pad")(x)
    x = layers.Conv2D(24, (4, 8), strides=2, activation="relu", name="stem_conv")(x)
    pools = [layers.MaxPooling2D((1, 2), name="stem_max"), layers.AveragePooling2D((1, 2), name="stem_mean")]
    x = layers.Concatenate(name="stem_pool")([pool(x) for pool in pools])
    x = SymmetricConv2D(24, 1, use_bias=True, name="stem_mix")(x)
    num_blocks, done = sum(stage.num_blocks for stage in STAGES), 0
    for i, stage in enumerate(STAGES, 1):
        for j in range(1, stage.num_blocks + 1):
            x = _block(x, stage, 2 if j == 1 else 1, drop_path * done / num_blocks, f"stage{i}_block{j}")
            done += 1
    x = ChannelScale(name="top_scale")(x)
    x = layers.Activation("relu", name="top_relu")(x)
    x = layers.Conv2D(EMBEDDING_SIZE, 3, activation="relu", name="top_conv")(x)
    x = layers.GlobalAveragePooling2D(name=EMBEDDING)(x)
    return keras.Model(clips, x, name="birdnet_backbone")


def _block(x: Any, stage: Stage, stride: int, drop_rate: float, name: str) -> Any:
    """An inverted residual block (Sandler et al. 2018, arXiv:1801.04381), with gates where the stage has them."""
    shortcut = x
    x = SymmetricConv2D(stage.expanded, 1, use_bias=True, activation="silu", name=f"{name}_expand")(x)
    x = SymmetricDepthwiseConv2D(3, stride, use_bias=True, activation="silu", name=f"{name}_depthwise")(x)
    if stage.squeezed:
        gate = GlobalMean(keepdims=True, name=f"{name}_mean")(x)
        gate = SymmetricConv2D(stage.squeezed, 1, activation="silu", name=f"{name}_squeeze")(gate)
        gate = SymmetricConv2D(stage.expanded, 1, activation="sigmoid", name=f"{name}_excite")(gate)
        x = ScaleChannels(name=f"{name}_gate")([x, gate])
    x = SymmetricConv2D(stage.channels, 1, name=f"{name}_project")(x)
    return x if stride > 1 else StochasticDepthAdd(drop_rate, name=f"{name}_add")([shortcut, x])
