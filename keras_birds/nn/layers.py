"""Building blocks of the network: convolution, normalisation, channel gates and stochastic depth.

Weights, shapes and results are those of the stock Keras layers on every backend. On torch each block makes one
call of `torch.nn.functional` on a channels-first view of the channels-last tensor, which copies nothing: the
stock layers decompose batch normalisation into many passes and pad asymmetrically with a copy.
"""

from typing import Any

import keras
from keras import ops

_ON_TORCH = keras.config.backend() == "torch"
if _ON_TORCH:
    import torch
    from torch.nn import functional

    from keras_birds.nn import torch_kernels

_PACKAGE = "keras_birds"


def _channels_first(x: Any) -> Any:
    return x.permute(0, 3, 1, 2)


def _channels_last(x: Any) -> Any:
    return x.permute(0, 2, 3, 1)


def _is_symbolic(x: Any) -> bool:
    return not isinstance(x, torch.Tensor) or x.device.type == "meta"


def _require(layer: keras.layers.Layer, **values: Any) -> None:
    """Refuses arguments of the stock layer whose effect this one leaves out."""
    for name, value in values.items():
        if getattr(layer, name) != value:
            raise ValueError(
                f"`{name}` of {type(layer).__name__} must be {value!r}. Received: {name}={getattr(layer, name)!r}. "
                "The layer of Keras that it extends takes others"
            )


class _SymmetricPadding:
    """Pads `kernel_size // 2` on every side, as PyTorch and timm do, where Keras' "same" is asymmetric."""

    kernel_size: tuple[int, int]
    strides: tuple[int, int]
    activation: Any
    bias: Any

    def _require_symmetric(self) -> None:
        _require(self, padding="valid", data_format="channels_last", dilation_rate=(1, 1))
        if not all(k % 2 for k in self.kernel_size):
            raise ValueError(f"`kernel_size` must be odd. Received: kernel_size={self.kernel_size}")

    def _pad(self, inputs: Any) -> Any:
        pads = [(k // 2, k // 2) for k in self.kernel_size]
        return ops.pad(inputs, [(0, 0), *pads, (0, 0)]) if max(self.kernel_size) > 1 else inputs

    def _convolve(self, inputs: Any, weight: Any, groups: int) -> Any:
        """On torch: `weight` is `[filters, channels / groups, height, width]`."""
        bias = None if self.bias is None else ops.convert_to_tensor(self.bias)
        padding = [k // 2 for k in self.kernel_size]
        x = _channels_first(inputs)
        x = functional.conv2d(x, weight, bias, self.strides, padding, groups=groups)
        return self.activation(_channels_last(x))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """`[batch, ceil(height / stride), ceil(width / stride), channels]` for odd kernels."""
        sizes = zip(input_shape[1:3], self.kernel_size, strict=True)
        padded = [None if n is None else n + 2 * (k // 2) for n, k in sizes]
        return super().compute_output_shape((input_shape[0], *padded, input_shape[3]))  # type: ignore[misc]


@keras.saving.register_keras_serializable(package=_PACKAGE)
class SymmetricConv2D(_SymmetricPadding, keras.layers.Conv2D):
    """`keras.layers.Conv2D` without bias, padded by `kernel_size // 2` on each side.

    Args:
        filters: number of output channels.
        kernel_size: odd height and width of the kernel.
        strides: step over rows and columns.
        use_bias: whether to add a bias.
        kwargs: as for `keras.layers.Conv2D`, but for `padding`, `data_format`, `dilation_rate` and `groups`.

    Raises:
        ValueError: if an argument asks for what the layer doesn't do.

    Input `[batch, height, width, channels]`, output `[batch, ceil(height / s), ceil(width / s), filters]`.
    """

    def __init__(
        self, filters: int, kernel_size: int = 1, strides: int = 1, use_bias: bool = False, **kwargs: Any
    ):
        kwargs = {"padding": "valid", "data_format": "channels_last", **kwargs}
        super().__init__(filters, kernel_size, strides, use_bias=use_bias, **kwargs)
        self._require_symmetric()
        _require(self, groups=1)

    def call(self, inputs: Any) -> Any:
        """Convolves `inputs` `[batch, height, width, channels]`."""
        if not _ON_TORCH or _is_symbolic(inputs):
            return super().call(self._pad(inputs))
        return self._convolve(inputs, ops.convert_to_tensor(self.kernel).permute(3, 2, 0, 1), groups=1)


@keras.saving.register_keras_serializable(package=_PACKAGE)
class SymmetricDepthwiseConv2D(_SymmetricPadding, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` without bias, padded by `kernel_size // 2` on each side.

    Arguments and errors as of `SymmetricConv2D`; input and output have the same number of channels.
    """

    def __init__(self, kernel_size: int, strides: int = 1, use_bias: bool = False, **kwargs: Any):
        kwargs = {"padding": "valid", "data_format": "channels_last", **kwargs}
        super().__init__(kernel_size, strides, use_bias=use_bias, **kwargs)
        self._require_symmetric()

    def call(self, inputs: Any) -> Any:
        """Convolves each channel of `inputs` `[batch, height, width, channels]` by itself."""
        if not _ON_TORCH or _is_symbolic(inputs):
            return super().call(self._pad(inputs))
        kernel = ops.convert_to_tensor(self.kernel)
        height, width, channels, multiplier = kernel.shape
        weight = kernel.permute(2, 3, 0, 1).reshape(channels * multiplier, 1, height, width)
        return self._convolve(inputs, weight, groups=channels)


@keras.saving.register_keras_serializable(package=_PACKAGE)
class BatchNorm(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` over the last axis, with PyTorch's constants.

    Keras' momentum of 0.99 leaves the moving averages near their start after the hundred steps of a small data set.

    Args:
        momentum: of the moving averages.
        epsilon: added to the variance.
        activation: applied to the outcome.
        kwargs: as for `keras.layers.BatchNormalization`, but for `axis`, `center`, `scale` and `synchronized`.

    Raises:
        ValueError: if an argument asks for what the layer doesn't do.
    """

    def __init__(
        self, momentum: float = 0.9, epsilon: float = 1e-5, activation: str | None = None, **kwargs: Any
    ):
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)
        _require(self, axis=-1, center=True, scale=True, synchronized=False)
        self.activation = keras.activations.get(activation)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalises `inputs` `[batch, ..., channels]`."""
        if not _ON_TORCH or _is_symbolic(inputs) or inputs.ndim != 4 or mask is not None:
            return self.activation(super().call(inputs, training=training, mask=mask))
        x = _channels_first(inputs)
        scale, offset = ops.convert_to_tensor(self.gamma), ops.convert_to_tensor(self.beta)
        if not training or not self.trainable:
            mean, variance = (ops.convert_to_tensor(x) for x in (self.moving_mean, self.moving_variance))
            outputs = functional.batch_norm(x, mean, variance, scale, offset, False, 0.0, self.epsilon)
            return self.activation(_channels_last(outputs))
        count = x.shape[0] * x.shape[2] * x.shape[3]
        if count < 2:
            return self.activation(super().call(inputs, training=training))
        if self.activation is keras.activations.silu and torch_kernels.saves_memory(x):
            outputs, mean, variance = torch_kernels.batch_norm_silu(x, scale, offset, self.epsilon)
            self._update_averages(mean, variance)
            return _channels_last(outputs)
        # Momentum 1 makes torch write this batch's statistics into the buffers; its variance is the unbiased
        # one, Keras averages the biased one.
        mean, variance = torch.zeros_like(scale), torch.ones_like(scale)
        outputs = functional.batch_norm(x, mean, variance, scale, offset, True, 1.0, self.epsilon)
        self._update_averages(mean, variance * ((count - 1) / count))
        return self.activation(_channels_last(outputs))

    def _update_averages(self, mean: Any, variance: Any) -> None:
        step = 1.0 - self.momentum
        with torch.no_grad():
            for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
                average.value.data.lerp_(value.to(average.value.dtype), step)

    def get_config(self) -> dict[str, Any]:
        """Arguments to make an equal one with."""
        return {**super().get_config(), "activation": keras.activations.serialize(self.activation)}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class GlobalMean(keras.layers.GlobalAveragePooling2D):
    """`keras.layers.GlobalAveragePooling2D` as a sum, whose gradient is a view: torch's of a mean is a buffer."""

    def call(self, inputs: Any) -> Any:
        """Averages `inputs` `[batch, height, width, channels]` over height and width."""
        if not _ON_TORCH or _is_symbolic(inputs):
            return super().call(inputs)
        if not inputs.requires_grad:  # so that an exported graph has one node for it
            means = functional.adaptive_avg_pool2d(_channels_first(inputs), 1)
            return _channels_last(means) if self.keepdims else means.flatten(1)
        return inputs.sum((1, 2), keepdim=self.keepdims) * (1 / (inputs.shape[1] * inputs.shape[2]))


@keras.saving.register_keras_serializable(package=_PACKAGE)
class ScaleChannels(keras.layers.Layer):
    """Multiplies each channel of each clip by its gate.

    Called on `[features, gate]`, `[batch, height, width, channels]` and `[batch, 1, 1, channels]`.
    """

    def call(self, inputs: Any) -> Any:
        """Multiplies the two."""
        features, gate = inputs
        if _ON_TORCH and not _is_symbolic(features):
            x = _channels_first(features)
            if torch_kernels.saves_memory(x):
                return _channels_last(torch_kernels.scale_channels(x, _channels_first(gate)))
        return features * gate


@keras.saving.register_keras_serializable(package=_PACKAGE)
class StochasticDepthAdd(keras.layers.Layer):
    """Adds a residual branch to its shortcut, dropping the branch for some clips while training.

    Args:
        rate: probability that a clip loses the branch; the kept ones are scaled by `1 / (1 - rate)`.
        seed: of the draws.
        kwargs: as for `keras.layers.Layer`.

    Called on `[shortcut, branch]`, two tensors of one shape `[batch, ...]`.

    Source: Huang et al. 2016, "Deep Networks with Stochastic Depth", arXiv:1603.09382.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"`rate` must be in [0, 1). Received: rate={rate}")
        self.rate, self.seed = rate, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Adds the two."""
        shortcut, branch = inputs
        if not training or not self.rate:
            return shortcut + branch
        shape = (ops.shape(branch)[0],) + (1,) * (len(branch.shape) - 1)
        keep = 1.0 - self.rate
        draw = keras.random.uniform(shape, seed=self.seed_generator)
        scale = ops.cast(draw < keep, branch.dtype) / keep
        if _ON_TORCH and not _is_symbolic(branch):
            return torch.addcmul(shortcut, branch, scale)
        return shortcut + branch * scale

    def get_config(self) -> dict[str, Any]:
        """Arguments to make an equal one with."""
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
