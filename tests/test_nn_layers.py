"""The layers' contract, and the network's blocks where test_backend_parity.py doesn't go."""

import re

import keras
import numpy as np
import pytest
import torch
from keras import ops
from layer_test import as_array, assert_close, example, run_layer_test
from torch.autograd.graph import saved_tensors_hooks

from keras_birds.nn import torch_kernels
from keras_birds.nn.clip_augmentation import PitchShift, SpecAugment, TimeShift, TimeStretch, Volume
from keras_birds.nn.heads import AttentionMean, FrequencyMean
from keras_birds.nn.layers import (
    BatchNorm,
    GlobalMean,
    ScaleChannels,
    StochasticDepthAdd,
    SymmetricConv2D,
    SymmetricDepthwiseConv2D,
)
from keras_birds.nn.mixing import MelMixUp

EPSILON = 1e-5
IMAGES = (4, 32, 32, 1)
BATCH = {"images": (4, 8, 8, 1), "labels": (4, 5)}


@pytest.mark.parametrize(
    ("layer", "inputs", "outputs", "num_weights"),
    [
        (SymmetricConv2D(4, 3, 2), (3, 7, 6, 2), (3, 4, 3, 4), (1, 1)),
        (SymmetricDepthwiseConv2D(5, 2), (3, 7, 6, 4), (3, 4, 3, 4), (1, 1)),
        (BatchNorm(activation="silu"), (3, 4, 5, 2), (3, 4, 5, 2), (4, 2)),
        (GlobalMean(keepdims=True), (3, 4, 5, 2), (3, 1, 1, 2), (0, 0)),
        (ScaleChannels(), [(3, 4, 5, 2), (3, 1, 1, 2)], (3, 4, 5, 2), (0, 0)),
        (StochasticDepthAdd(0.5, seed=7), [(4, 3, 3, 2)] * 2, (4, 3, 3, 2), (0, 0)),
        (FrequencyMean(), (2, 3, 5, 7), (2, 5, 7), (0, 0)),
        (AttentionMean(), [(2, 5, 4), (2, 5, 4)], (2, 4), (0, 0)),
        (MelMixUp(0.4, probability=0.9, seed=3), BATCH, BATCH, (0, 0)),
        *((cls(probability=1.0, seed=3), IMAGES, IMAGES, (0, 0)) for cls in (SpecAugment, TimeShift)),
        *(
            (cls(probability=1.0, seed=3), IMAGES, IMAGES, (0, 0))
            for cls in (TimeStretch, PitchShift, Volume)
        ),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, keras.layers.Layer) else "",
)
def test_layers_keep_their_contract(tmp_path, layer, inputs, outputs, num_weights):
    run_layer_test(layer, inputs, outputs, num_weights, tmp_path)


def normal(*shape, seed=0, mean=0.0):
    return np.random.default_rng(seed).normal(mean, 1, shape).astype("float32")


def randomise(layer, seed=1):
    """Gives every weight a value that no initialiser gives; variances stay positive."""
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        values = rng.normal(0.3, 0.5, weight.shape)
        weight.assign(np.abs(values) + 0.1 if "variance" in weight.path else values)
    return layer


def assert_close_to_the_largest(actual, expected, tolerance=1e-5):
    """Equal relative to the largest value: sums of a million numbers that cancel have no better scale."""
    expected = as_array(expected)
    np.testing.assert_allclose(as_array(actual), expected, rtol=0, atol=tolerance * np.abs(expected).max())


def norm_pair(activation=None, shape=(None, None, None, 5), **kwargs):
    """Ours and the stock layer with the same random weights and moving averages."""
    ours = BatchNorm(activation=activation, **kwargs)
    stock = keras.layers.BatchNormalization(momentum=0.9, epsilon=EPSILON, **kwargs)
    ours.build(shape)
    stock.build(shape)
    ours.set_weights(randomise(stock).get_weights())
    return ours, stock


def stock_outputs(stock, activation, x, training):
    return keras.activations.get(activation)(stock(x, training=training))


@pytest.mark.parametrize(
    ("cls", "arguments", "kwargs", "message"),
    [
        (SymmetricConv2D, (4, 3), {"dilation_rate": 2}, "of SymmetricConv2D must be (1, 1). Received"),
        (SymmetricConv2D, (4, 3), {"groups": 2}, "`groups` of SymmetricConv2D must be 1. Received: groups=2"),
        (SymmetricConv2D, (4, 3), {"padding": "same"}, "`padding` of SymmetricConv2D must be 'valid'"),
        (SymmetricConv2D, (4, 2), {}, "`kernel_size` must be odd. Received: kernel_size=(2, 2)"),
        (SymmetricDepthwiseConv2D, (3,), {"dilation_rate": (2, 1)}, "Received: dilation_rate=(2, 1)"),
        (SymmetricDepthwiseConv2D, (3,), {"data_format": "channels_first"}, "must be 'channels_last'"),
        (BatchNorm, (), {"axis": 1}, "`axis` of BatchNorm must be -1. Received: axis=1"),
        (BatchNorm, (), {"center": False}, "must be True. Received: center=False"),
        (BatchNorm, (), {"scale": False}, "must be True. Received: scale=False"),
        (StochasticDepthAdd, (1.0,), {}, "`rate` must be in [0, 1). Received: rate=1.0"),
        (StochasticDepthAdd, (-0.1,), {}, "Received: rate=-0.1"),
        (SpecAugment, (1.5,), {}, "probability=1.5"),
        (SpecAugment, (0.5, (0.5, (1, 3), (9, 3))), {}, "time_masks[2]=(9, 3)"),
        (SpecAugment, (), {"frequency_masks": (1.5, (1, 3), (3, 9))}, "frequency_masks[0]=1.5"),
        (
            SpecAugment,
            (),
            {"frequency_masks": (1.0, (-1, 3), (3, 9))},
            "low >= 0. Received: frequency_masks[1]",
        ),
        (SpecAugment, (), {"gain": (1.2, 0.8)}, "gain=(1.2, 0.8)"),
        (TimeStretch, ((0.0, 1.0),), {}, "rate=(0.0, 1.0)"),
        (PitchShift, (), {"f_min_hz": 5000, "f_max_hz": 100}, "f_min_hz=5000"),
        (Volume, (), {"top_db": 0}, "top_db=0"),
        (MelMixUp, (0,), {}, "alpha=0"),
        (MelMixUp, (0.5, -1), {}, "probability=-1"),
    ],
)
def test_wrong_arguments_are_named(cls, arguments, kwargs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        cls(*arguments, **kwargs)


def test_images_need_a_height_and_a_width():
    with pytest.raises(ValueError, match="input_shape"):
        SpecAugment()(np.ones((2, 3, 4)))


@pytest.mark.parametrize("shape", [(6, 5), (1, 1, 1, 5), (2, 3, 4, 2, 5)])
def test_batch_norm_takes_any_rank_and_a_single_value(shape):
    ours, stock = norm_pair("silu", (None, *shape[1:]))
    x = normal(*shape)
    for training in (True, False):
        assert_close(ours(x, training=training), stock_outputs(stock, "silu", x, training))
    assert_close(ours.get_weights(), stock.get_weights())


@pytest.mark.parametrize("activation", [None, "silu"])
def test_frozen_batch_norm_uses_its_moving_averages(activation):
    ours, _ = norm_pair(activation)
    ours.trainable = False
    x, before = normal(4, 5, 3, 5, mean=3.0), ours.get_weights()
    gamma, beta, mean, variance = before
    expected = (x - mean) / np.sqrt(variance + EPSILON) * gamma + beta
    if activation:
        expected = expected / (1 + np.exp(-expected))
    np.testing.assert_allclose(as_array(ours(x, training=True)), expected, rtol=1e-4, atol=1e-5)
    for old, new in zip(before, ours.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_half_precision_keeps_statistics_in_float32():
    ours, stock = norm_pair("silu", dtype="mixed_bfloat16")
    conv = SymmetricConv2D(4, 3, 2, dtype="mixed_bfloat16")
    stock_conv = keras.layers.Conv2D(4, 3, 2, use_bias=False, dtype="mixed_bfloat16")
    x = normal(4, 6, 5, 5, mean=1.0)
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    conv(x), stock_conv(padded)
    conv.set_weights(stock_conv.get_weights())
    for training in (True, False):
        outputs = ours(x, training=training)
        assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"
        expected = ops.cast(stock_outputs(stock, "silu", x, training), "float32")
        assert_close_to_the_largest(ops.cast(outputs, "float32"), expected, 0.01)
    for a, b in zip(ours.weights, stock.weights, strict=True):
        assert keras.backend.standardize_dtype(a.dtype) == "float32"
        np.testing.assert_allclose(as_array(a), as_array(b), rtol=0.01)
    outputs, expected = (ops.cast(y, "float32") for y in (conv(x), stock_conv(padded)))
    assert_close_to_the_largest(outputs, expected, 0.01)


def make_network(is_ours):
    """Convolution, normalisation, SiLU, depthwise convolution, normalisation, in ours or in stock layers."""
    x = inputs = keras.Input((9, 8, 3))
    if is_ours:
        x = BatchNorm(activation="silu")(SymmetricConv2D(6, 3, 2)(x))
        x = BatchNorm()(SymmetricDepthwiseConv2D(5)(x))
    else:
        x = keras.layers.Conv2D(6, 3, 2, use_bias=False)(keras.layers.ZeroPadding2D(1)(x))
        x = keras.layers.Activation("silu")(keras.layers.BatchNormalization(momentum=0.9, epsilon=EPSILON)(x))
        x = keras.layers.DepthwiseConv2D(5, use_bias=False)(keras.layers.ZeroPadding2D(2)(x))
        x = keras.layers.BatchNormalization(momentum=0.9, epsilon=EPSILON)(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalMaxPooling2D()(x)))
    model.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=False)
    return model


def test_training_gives_the_weights_that_stock_layers_get():
    """Through `fit`, compiled where the backend compiles: gradients and moving averages, several steps long."""
    ours, stock = make_network(True), make_network(False)
    before = randomise(stock).get_weights()
    ours.set_weights(before)
    images, targets = normal(12, 9, 8, 3), normal(12, 2, seed=1)
    for model in (ours, stock):
        model.fit(images, targets, batch_size=4, epochs=2, shuffle=False, verbose=0)
    for old, a, b in zip(before, ours.get_weights(), stock.get_weights(), strict=True):
        assert np.abs(b - old).max() > 1e-3
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert_close(ours.predict(images, verbose=0), stock.predict(images, verbose=0), atol=1e-4)


def gradients(layer, x, upstream, **call):
    """Gradients of `sum(layer(x) * upstream)` by torch's autograd: of `x`, then of each trainable weight."""
    x = ops.convert_to_tensor(x).detach().clone().requires_grad_(True)
    weights = [w.value for w in layer.trainable_weights]
    for weight in weights:
        weight.grad = None
    (layer(x, **call) * ops.convert_to_tensor(upstream)).sum().backward()
    return [as_array(t.grad) for t in (x, *weights)]


LARGE = (3, 121, 127, 24)
"""1.1 million values in 46,101 rows, which no power of two divides: the last chunk is a short one."""


def saved_bytes(layer, x):
    """What autograd keeps between forward and backward pass, and the outputs."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = layer(x, training=True)
    return sum(kept.values()), outputs


def names_of_steps(outputs):
    """Names of the two last steps of autograd's graph."""
    step = outputs.grad_fn
    return step.name(), step.next_functions[0][0].name()


def test_the_memory_saving_kernel_gives_the_plain_outputs_statistics_and_gradients(monkeypatch):
    ours, stock = norm_pair("silu", (None, None, None, LARGE[-1]))
    other = BatchNorm.from_config(ours.get_config())
    other.build((None, None, None, LARGE[-1]))
    other.set_weights(ours.get_weights())
    whole = keras.Sequential([stock, keras.layers.Activation("silu")])
    for layer in (ours, other, stock):
        layer.moving_mean.assign(np.zeros(LARGE[-1]))
        layer.moving_variance.assign(np.zeros(LARGE[-1]))
    x, upstream = normal(*LARGE, mean=0.5), normal(*LARGE, seed=3)
    x[..., :8] *= 0.1

    tensor = torch.from_numpy(x).requires_grad_(True)
    kept, outputs = saved_bytes(ours, tensor)
    assert "_BatchNormSiluBackward" in names_of_steps(outputs)
    assert x.nbytes <= kept < 1.01 * x.nbytes
    weights = ours.get_weights()
    found = gradients(ours, x, upstream, training=True)

    expected_outputs = whole(x, training=True)
    assert_close_to_the_largest(outputs, expected_outputs)
    # torch adds the 46,101 values of a channel in float32, on one thread all in a row: off by 1.3e-5 of the variance.
    for a, b in zip(weights, stock.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5)
    for a, b in zip(found, gradients(whole, x, upstream, training=True), strict=True):
        assert_close_to_the_largest(a, b)

    monkeypatch.setattr(torch_kernels, "_LEAST_ELEMENTS", x.size + 1)
    kept, plain_outputs = saved_bytes(other, tensor)
    assert "_BatchNormSiluBackward" not in names_of_steps(plain_outputs)
    assert kept > 1.9 * x.nbytes
    assert_close_to_the_largest(outputs, plain_outputs)
    for a, b in zip(weights, other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    for a, b in zip(found, gradients(other, x, upstream, training=True), strict=True):
        assert_close_to_the_largest(a, b)


@pytest.mark.parametrize("in_order", [True, False])
def test_gates_and_means_of_large_inputs_have_the_plain_gradients(in_order):
    x = torch.from_numpy(normal(*LARGE, mean=0.5)).requires_grad_(True)
    gate = torch.from_numpy(normal(LARGE[0], 1, 1, LARGE[-1], seed=1)).requires_grad_(True)
    upstream = torch.from_numpy(normal(*LARGE, seed=3))
    if not in_order:
        upstream = upstream.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    outputs = ScaleChannels()([x, gate])
    assert "_ScaleChannelsBackward" in names_of_steps(outputs)
    means = GlobalMean(keepdims=True)(x)
    found = torch.autograd.grad((outputs * upstream).sum() + (1e5 * means**2).sum(), (x, gate))
    total = (x * gate * upstream).sum() + (1e5 * x.mean((1, 2), keepdim=True) ** 2).sum()
    for a, b in zip(found, torch.autograd.grad(total, (x, gate)), strict=True):
        assert_close_to_the_largest(a, b)


def test_the_memory_saving_kernel_takes_gradients_in_any_order_of_memory():
    ours, _ = norm_pair("silu", (None, None, None, LARGE[-1]))
    x = normal(*LARGE)
    expected = gradients(ours, x, normal(*LARGE, seed=3), training=True)
    upstream = torch.from_numpy(normal(*LARGE, seed=3).transpose(0, 3, 1, 2).copy()).permute(0, 2, 3, 1)
    assert not upstream.is_contiguous()
    for a, b in zip(gradients(ours, x, upstream, training=True), expected, strict=True):
        assert_close_to_the_largest(a, b)


@pytest.mark.parametrize("reason", ["small", "without gradients", "channels first", "another activation"])
def test_elsewhere_the_plain_path_is_taken(reason):
    x = torch.from_numpy(normal(*((1, 8, 8, 24) if reason == "small" else LARGE)))
    if reason == "channels first":
        x = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    x.requires_grad_(reason != "without gradients")
    assert torch_kernels.saves_memory(x.permute(0, 3, 1, 2)) == (reason == "another activation")
    activation = "relu" if reason == "another activation" else "silu"
    ours, stock = norm_pair(activation, (None, None, None, 24))
    ours.trainable_weights[0].value.requires_grad_(reason != "without gradients")
    outputs = ours(x, training=True)
    if reason != "without gradients":
        assert "_BatchNormSiluBackward" not in names_of_steps(outputs)
    assert_close_to_the_largest(outputs.detach(), stock_outputs(stock, activation, x.detach(), True))


def test_stochastic_depth_draws_by_its_seed_and_drops_nothing_in_inference_nor_at_rate_zero():
    shortcut, branch = inputs = example([(64, 2, 1, 3), (64, 2, 1, 3)])
    first, again, other = (as_array(StochasticDepthAdd(0.5, k)(inputs, training=True)) for k in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    for rate, training in ((0.9, False), (0.9, None), (0.0, True)):
        outputs = as_array(StochasticDepthAdd(rate)(inputs, training=training))
        np.testing.assert_array_equal(outputs, shortcut + branch)
