"""EfficientNet-B0 against plain PyTorch, and what of its paper that does not show."""

import keras
import numpy as np
import pytest
import torch
from layer_test import as_array, assert_config_round_trips
from yardstick import copy_weights, gratings, make_yardstick

from keras_birds.config import Config
from keras_birds.nn.build import build_model, dtype_policy
from keras_birds.nn.efficientnet import BACKBONE, EfficientNetB0
from keras_birds.nn.heads import FRAME_LOGITS
from keras_birds.nn.layers import StochasticDepthAdd
from keras_birds.nn.losses import MaskedBinaryCrossentropy

NUM_LABELS = 7
SIZE = 64
DROP_PATH = 0.32

# timm's efficientnet_b0 has 5,288,548: without its head for 1000 classes, and one input channel instead of three.
NUM_PARAMETERS = 5_288_548 - 1000 * (1280 + 1) - 2 * 3 * 3 * 32


def make_config(**model):
    return Config.parse({"mel": {"height": SIZE, "width": SIZE}, "model": model})


@pytest.fixture(scope="module")
def backbone():
    """For images of any size; read-only."""
    keras.utils.set_random_seed(0)
    return EfficientNetB0(drop_path=DROP_PATH)


def test_is_the_network_of_the_plain_pytorch_yardstick():
    module = make_yardstick(NUM_LABELS, SIZE)
    model = build_model(make_config(dropout=0.0, drop_path=0.0), NUM_LABELS)
    assert model.count_params() == NUM_PARAMETERS + 42_016 + (1280 + 1) * NUM_LABELS
    assert sum(w.numpy().size for w in model.get_layer(BACKBONE).trainable_weights) == NUM_PARAMETERS
    copy_weights(module, model)
    images = gratings(5, SIZE, SIZE, seed=2)
    for training in (False, True):
        with torch.no_grad():
            expected = module.train(training)(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
            found = as_array(model(images, training=training))
        assert expected.std(0).min() > 0.01
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_drop_path_grows_linearly_from_zero_where_blocks_have_a_shortcut(backbone):
    rates = [x.rate for x in backbone.layers if isinstance(x, StochasticDepthAdd)]
    assert rates == pytest.approx([DROP_PATH * k / 16 for k in (2, 4, 6, 7, 9, 10, 12, 13, 14)])


@pytest.mark.parametrize(
    ("name", "fan_out"),
    [
        ("stem_conv", 9 * 32),
        ("top_conv", 1280),
        ("stage4_block2_expand_conv", 240),
        ("stage7_block1_depthwise_conv", 25),
    ],
)
def test_kernels_begin_at_the_scale_of_their_fan_out(backbone, name, fan_out):
    kernel = backbone.get_layer(name).get_weights()[0]
    # Four standard deviations of a deviation from so many draws.
    assert kernel.std() == pytest.approx((2 / fan_out) ** 0.5, rel=4 / (2 * kernel.size) ** 0.5)


@pytest.mark.parametrize("size", [(224, 224), (128, 256), (100, 75), (33, 31), (1, 65), (None, 96)])
def test_any_size_gives_a_map_of_a_32nd_rounded_up(backbone, size):
    expected = tuple(None if n is None else -(-n // 32) for n in size)
    assert backbone.compute_output_shape((None, *size, 1)) == (None, *expected, 1280)


def test_settings_reach_the_network():
    model = build_model(make_config(dropout=0.35, drop_path=0.16), NUM_LABELS)
    assert model.get_layer("dropout").rate == 0.35
    rates = [x.rate for x in model.get_layer(BACKBONE).layers if isinstance(x, StochasticDepthAdd)]
    assert max(rates) == pytest.approx(0.16 * 14 / 16)
    assert not model.compiled
    wide = build_model(Config.parse({"mel": {"height": 64, "width": 128}}), 206)
    assert (wide.input_shape, wide.output_shape) == ((None, 64, 128, 1), (None, 206))


def test_settings_round_trip(backbone):
    expected = {"input_shape": (None, None, 1), "drop_path": DROP_PATH, "block_widths": None}
    assert backbone.get_config() == expected | {"name": BACKBONE}
    assert_config_round_trips(backbone)


@pytest.mark.parametrize("head", ["pool", "attention"])
def test_under_a_bfloat16_policy_convolutions_are_in_it_and_logits_and_weights_in_float32(head):
    with dtype_policy("mixed_bfloat16"):
        mixed = build_model(make_config(head=head), NUM_LABELS)
    convolutions = [x for x in mixed.get_layer(BACKBONE).layers if isinstance(x, keras.layers.Conv2D)]
    assert {x.compute_dtype for x in convolutions} == {"bfloat16"}
    after = {x.compute_dtype for x in mixed.layers if x.name in (FRAME_LOGITS, "attention", "logits")}
    assert after == {"float32"}
    assert {keras.backend.standardize_dtype(w.dtype) for w in mixed.weights} == {"float32"}
    exact = build_model(make_config(head=head), NUM_LABELS)
    exact.set_weights(mixed.get_weights())
    logits, expected = (x.predict(gratings(3, SIZE, SIZE), verbose=0) for x in (mixed, exact))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=0, atol=0.1 * np.abs(expected).max())
    assert not np.array_equal(logits, expected)


def test_training_changes_every_weight_and_lowers_the_loss():
    keras.utils.set_random_seed(0)
    model = build_model(make_config(), NUM_LABELS)
    before = model.get_weights()
    # As training does: Dynamo takes longer than it saves.
    loss = MaskedBinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-3), loss, jit_compile=False)
    x, targets = gratings(NUM_LABELS, SIZE, SIZE), np.eye(NUM_LABELS, dtype="float32")
    history = model.fit(x, targets, batch_size=NUM_LABELS, epochs=12, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert np.mean(history["loss"][-2:]) < 0.7 * history["loss"][0]
    for weight, old, new in zip(model.weights, before, model.get_weights(), strict=True):
        assert not np.array_equal(old, new), f"{weight.path} did not change"


def test_clips_lose_blocks_and_features_while_training_only():
    x = gratings(4, SIZE, SIZE)
    for settings, training, is_random in (
        ({"dropout": 0.0}, True, True),
        ({"drop_path": 0.0}, True, True),
        ({"dropout": 0.0, "drop_path": 0.0}, True, False),
        ({}, False, False),
    ):
        model = build_model(make_config(**settings), NUM_LABELS)
        first, second = (as_array(model(x, training=training).detach()) for _ in range(2))
        assert np.allclose(first, second, atol=1e-5) != is_random
