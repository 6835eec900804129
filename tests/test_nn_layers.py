"""The layers' contract, and the network's blocks where test_backend_parity.py doesn't go."""

import re

import keras
import numpy as np
import pytest
import torch
from keras import ops
from layer_test import as_array, assert_close, example, run_layer_test
from placeholder import AUDIO, MEL
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from keras_birds.nn import torch_kernels
from keras_birds.nn.augment import MelMixUp
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
from keras_birds.nn.log_mel import LogMelSpectrogram

EPSILON = 1e-5
IMAGES = (4, 32, 32, 1)
AUGMENTATIONS = (SpecAugment, TimeShift, TimeStretch, PitchShift, Volume)
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
        (LogMelSpectrogram(AUDIO, MEL), (2, 32_000), (2, 32, 32, 1), (0, 0)),
        (MelMixUp(0.4, probability=0.9, seed=3), BATCH, BATCH, (0, 0)),
        *((cls(probability=1.0, seed=3), IMAGES, IMAGES, (0, 0)) for cls in AUGMENTATIONS),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, keras.layers.Layer) else "",
)
def test_layers_keep_their_contract(tmp_path, layer, inputs, outputs, num_weights):
    run_layer_test(layer, inputs, outputs, num_weights, tmp_path)


def normal(*shape, seed=0, mean=0.0):
    return np.random.default_rng(seed).normal(mean, 1, shape).astype("float32")


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


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (SpecAugment(), (2, 3, 4), "input_shape"),
        (LogMelSpectrogram(AUDIO, MEL), (1, 8000), r"clips must have the shape \[batch, 32000\]"),
    ],
)
def test_wrong_shapes_are_refused(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer(np.ones(shape, "float32"))


def batch_norm(channels, activation="silu", rank=4):
    """With weights that no initialiser gives."""
    layer = BatchNorm(activation=activation)
    layer.build((*[None] * (rank - 1), channels))
    layer.set_weights([np.abs(normal(channels, seed=k)) + 0.1 for k in range(4)])
    return layer


@pytest.mark.parametrize("shape", [(6, 5), (1, 1, 1, 5), (2, 3, 4, 2, 5)])
def test_batch_norm_takes_any_rank_and_a_single_value(shape):
    ours, x = batch_norm(5, rank=len(shape)), normal(*shape)
    stock = keras.layers.BatchNormalization(momentum=0.9, epsilon=EPSILON)
    stock.build((None, *shape[1:]))
    stock.set_weights(ours.get_weights())
    for training in (True, False):
        assert_close(ours(x, training=training), ops.silu(stock(x, training=training)))
    assert_close(ours.get_weights(), stock.get_weights())


LARGE = (3, 121, 127, 24)
"""1.1 million values in 46,101 rows, which no power of two divides: the last chunk is a short one."""


def saved_bytes(call):
    """What autograd keeps between forward and backward pass, and the outputs."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = call()
    return sum(kept.values()), outputs


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("kind", ["norm", "gate", "mean"])
def test_memory_saving_steps_give_the_plain_outputs_and_gradients(kind, in_order):
    """Relative to the largest: sums of a million numbers that cancel have no better scale."""
    x = torch.from_numpy(normal(*LARGE, mean=0.5) * np.linspace(0.1, 1, LARGE[-1], dtype="float32"))
    gate = torch.from_numpy(normal(LARGE[0], 1, 1, LARGE[-1], seed=1)).requires_grad_()
    layer = batch_norm(LARGE[-1])
    scale, offset, mean, variance = (w.value for w in layer.weights)
    x.requires_grad_()

    def norm():
        y = functional.batch_norm(x.permute(0, 3, 1, 2), None, None, scale, offset, True)
        return functional.silu(y).permute(0, 2, 3, 1)

    # Bytes that are kept, in sizes of `x`: of ours at most, of the plain step at least.
    ours, plain, inputs, step, most, least = {
        "norm": (lambda: layer(x, training=True), norm, (x, scale, offset), "_BatchNormSilu", 1.01, 1.9),
        "gate": (lambda: ScaleChannels()([x, gate]), lambda: x * gate, (x, gate), "_ScaleChannels", 1.01, 1),
        "mean": (lambda: GlobalMean()(x), lambda: x.mean((1, 2)), (x,), "Mul", 0.01, 0),
    }[kind]
    old = mean.detach().clone(), variance.detach().clone()
    (kept, outputs), (plainly_kept, expected) = saved_bytes(ours), saved_bytes(plain)
    steps = outputs.grad_fn.name(), outputs.grad_fn.next_functions[0][0].name()
    assert any(x.startswith(step) for x in steps)
    size = x.numel() * 4
    assert kept <= most * size
    assert plainly_kept >= least * size
    upstream = torch.from_numpy(normal(*outputs.shape, seed=3))
    if not in_order:
        upstream = upstream.transpose(0, 1).contiguous().transpose(0, 1)
    found, wanted = (torch.autograd.grad(y, inputs, upstream) for y in (outputs, expected))
    for a, b in zip((outputs, *found), (expected, *wanted), strict=True):
        b = as_array(b)
        np.testing.assert_allclose(as_array(a), b, rtol=0, atol=1e-5 * np.abs(b).max())
    if kind == "norm":
        values = x.detach().numpy().reshape(-1, LARGE[-1]).astype("float64")
        for average, before, value in zip(
            (mean, variance), old, (values.mean(0), values.var(0)), strict=True
        ):
            np.testing.assert_allclose(average, 0.9 * before + 0.1 * value, rtol=2e-5)


def test_the_plain_step_is_taken_where_nothing_is_saved():
    x = torch.zeros(1, 32, 1024, 32, requires_grad=True).permute(0, 3, 1, 2)
    assert torch_kernels.saves_memory(x)
    for other in (x[:, :, :-1], x.detach(), x.contiguous(), x.bfloat16()):
        assert not torch_kernels.saves_memory(other)
    outputs = batch_norm(32, "relu")(x.permute(0, 2, 3, 1), training=True)
    assert outputs.grad_fn.name().startswith("Relu")


def test_stochastic_depth_draws_by_its_seed_and_drops_nothing_at_rate_zero():
    shortcut, branch = inputs = example([(64, 2, 1, 3), (64, 2, 1, 3)])
    drawn = [as_array(StochasticDepthAdd(0.5, k)(inputs, training=True)) for k in (1, 1, 2)]
    assert [np.array_equal(drawn[0], x) for x in drawn] == [True, True, False]
    for rate, training in ((0.9, None), (0.0, True)):
        outputs = as_array(StochasticDepthAdd(rate)(inputs, training=training))
        np.testing.assert_array_equal(outputs, shortcut + branch)
