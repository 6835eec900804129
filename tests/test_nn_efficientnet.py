"""EfficientNet-B0 against its paper and against plain PyTorch."""

import keras
import numpy as np
import pytest
import torch
from layer_test import as_array, as_plain
from yardstick import copy_weights, gratings, make_yardstick

from keras_birds.config import Config
from keras_birds.nn.build import build_model, dtype_policy
from keras_birds.nn.efficientnet import EfficientNetB0
from keras_birds.nn.layers import BatchNorm, StochasticDepthAdd, SymmetricConv2D, SymmetricDepthwiseConv2D
from keras_birds.nn.losses import MaskedBinaryCrossentropy

NUM_LABELS = 7
SIZE = 64
DROP_PATH = 0.32

# Tan and Le 2019, Table 1, stages 2 to 8: MBConv expansion and kernel, resolution of the stage's input at 224 x 224,
# channels, layers.
TABLE_1 = [
    (1, 3, 112, 16, 1),
    (6, 3, 112, 24, 2),
    (6, 5, 56, 40, 2),
    (6, 3, 28, 80, 3),
    (6, 5, 14, 112, 3),
    (6, 5, 14, 192, 4),
    (6, 3, 7, 320, 1),
]
NUM_BLOCKS = 16
# timm's efficientnet_b0 has 5,288,548: without its head for 1000 classes, and one input channel instead of three.
NUM_PARAMETERS = 5_288_548 - 1000 * (1280 + 1) - 2 * 3 * 3 * 32


def make_config(**model):
    return Config.parse({"mel": {"height": SIZE, "width": SIZE}, "model": model})


@pytest.fixture(scope="module")
def backbone():
    """For images of 224 x 224, as Table 1 has them; read-only."""
    keras.utils.set_random_seed(0)
    return EfficientNetB0((224, 224, 1), drop_path=DROP_PATH)


@pytest.fixture(scope="module")
def sizeless():
    """For images of any size; read-only."""
    keras.utils.set_random_seed(0)
    return EfficientNetB0()


@pytest.fixture(scope="module")
def model():
    """A whole network; read-only."""
    keras.utils.set_random_seed(0)
    return build_model(make_config(), NUM_LABELS)


@pytest.mark.parametrize("row", range(7))
def test_stages_are_those_of_the_paper(backbone, row):
    expansion, kernel, resolution, channels, num_blocks = TABLE_1[row]
    following = TABLE_1[row + 1][2] if row + 1 < len(TABLE_1) else 7
    names = {layer.name for layer in backbone.layers}
    num_input = TABLE_1[row - 1][3] if row else 32
    for block in range(1, num_blocks + 1):
        name = f"stage{row + 2}_block{block}"
        depthwise = backbone.get_layer(f"{name}_depthwise_conv")
        assert depthwise.input.shape[1:] == (resolution, resolution, num_input * expansion)
        assert depthwise.kernel_size == (kernel, kernel)
        assert (f"{name}_expand_conv" in names) == (expansion != 1)
        assert backbone.get_layer(f"{name}_squeeze_reduce").filters == num_input // 4
        resolution, num_input = following, channels
        assert backbone.get_layer(f"{name}_project_bn").output.shape[1:] == (following, following, channels)
        assert (f"{name}_add" in names) == (block > 1), "a shortcut wherever shapes allow one"
    assert f"stage{row + 2}_block{num_blocks + 1}_project_bn" not in names


def test_stem_and_top_are_those_of_the_paper(backbone):
    stem, top = backbone.get_layer("stem_conv"), backbone.get_layer("top_conv")
    assert (stem.filters, stem.kernel_size, stem.strides) == (32, (3, 3), (2, 2))
    assert (top.filters, top.kernel_size, top.strides) == (1280, (1, 1), (1, 1))
    assert backbone.output_shape == (None, 7, 7, 1280)


def test_every_convolution_is_padded_symmetrically_and_every_normalisation_averages_as_torch_does(backbone):
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.Conv2D):
            assert isinstance(layer, SymmetricConv2D)
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            assert isinstance(layer, SymmetricDepthwiseConv2D)
        if isinstance(layer, keras.layers.BatchNormalization):
            assert isinstance(layer, BatchNorm)
            assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)
            is_linear = layer.activation is keras.activations.linear
            assert is_linear == layer.name.endswith("project_bn")


def test_numbers_of_parameters(backbone, model):
    assert NUM_PARAMETERS == 4_006_972
    assert sum(int(np.prod(w.shape)) for w in backbone.trainable_weights) == NUM_PARAMETERS
    # A mean and a variance for each channel of each normalisation.
    widths = [layer.gamma.shape[0] for layer in backbone.layers if isinstance(layer, BatchNorm)]
    assert sum(int(np.prod(w.shape)) for w in backbone.non_trainable_weights) == 2 * sum(widths) == 42_016
    assert model.count_params() == NUM_PARAMETERS + 42_016 + (1280 + 1) * NUM_LABELS


def test_drop_path_grows_linearly_from_zero(backbone):
    index, rates = 0, {}
    for row, (*_, num_blocks) in enumerate(TABLE_1, 2):
        for block in range(1, num_blocks + 1):
            if block > 1:
                rates[f"stage{row}_block{block}_add"] = DROP_PATH * index / NUM_BLOCKS
            index += 1
    assert index == NUM_BLOCKS
    found = {x.name: x.rate for x in backbone.layers if isinstance(x, StochasticDepthAdd)}
    assert found == pytest.approx(rates)
    assert max(found.values()) == pytest.approx(DROP_PATH * 14 / 16)


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
def test_any_size_gives_a_map_of_a_32nd_rounded_up(sizeless, size):
    expected = tuple(None if n is None else -(-n // 32) for n in size)
    assert sizeless.compute_output_shape((None, *size, 1)) == (None, *expected, 1280)


def test_images_are_taken_as_they_are(sizeless):
    kinds = (keras.layers.Rescaling, keras.layers.Normalization)
    assert not any(isinstance(layer, kinds) for layer in sizeless.layers)
    assert sizeless.predict(gratings(2, 33, 40), verbose=0).shape == (2, 2, 2, 1280)


def test_settings_reach_the_network():
    model = build_model(make_config(dropout=0.35, drop_path=0.16), NUM_LABELS)
    assert model.get_layer("dropout").rate == 0.35
    rates = [x.rate for x in model.get_layer("efficientnet_b0").layers if isinstance(x, StochasticDepthAdd)]
    assert max(rates) == pytest.approx(0.16 * 14 / 16)
    assert model.input_shape == (None, SIZE, SIZE, 1)
    assert model.output_shape == (None, NUM_LABELS)
    assert not model.compiled
    wide = Config.parse({"mel": {"height": 64, "width": 128}})
    assert build_model(wide, 206).input_shape == (None, 64, 128, 1)


def test_settings_round_trip(backbone):
    config = backbone.get_config()
    expected = {"input_shape": (224, 224, 1), "drop_path": DROP_PATH, "block_widths": None}
    assert config == expected | {"name": "efficientnet_b0"}
    form = keras.saving.serialize_keras_object(backbone)
    again = keras.saving.deserialize_keras_object(form)
    assert type(again) is EfficientNetB0
    assert as_plain(again.get_config()) == as_plain(config)
    assert [w.path for w in again.weights] == [w.path for w in backbone.weights]


def test_under_a_bfloat16_policy_convolutions_are_in_it_and_logits_and_weights_in_float32():
    with dtype_policy("mixed_bfloat16"):
        mixed = build_model(make_config(), NUM_LABELS)
    backbone, head = mixed.get_layer("efficientnet_b0"), mixed.get_layer("logits")
    convolutions = [x for x in backbone.layers if isinstance(x, SymmetricConv2D | SymmetricDepthwiseConv2D)]
    assert {x.compute_dtype for x in convolutions} == {"bfloat16"}
    assert (head.compute_dtype, head.variable_dtype) == ("float32", "float32")
    assert {keras.backend.standardize_dtype(w.dtype) for w in mixed.weights} == {"float32"}
    exact = build_model(make_config(), NUM_LABELS)
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
    for settings, is_random in (({}, True), ({"dropout": 0.0, "drop_path": 0.0}, False)):
        model = build_model(make_config(**settings), NUM_LABELS)
        first, second = (as_array(model(x, training=True).detach()) for _ in range(2))
        assert np.allclose(first, second, atol=1e-5) != is_random
        np.testing.assert_array_equal(*(as_array(model(x, training=False).detach()) for _ in range(2)))


def test_is_the_network_of_the_plain_pytorch_yardstick():
    module = make_yardstick(NUM_LABELS, SIZE)
    model = build_model(make_config(dropout=0.0, drop_path=0.0), NUM_LABELS)
    copy_weights(module, model)
    images = gratings(5, SIZE, SIZE, seed=2)
    for training in (False, True):
        with torch.no_grad():
            expected = module.train(training)(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
            found = as_array(model(images, training=training))
        assert expected.std(0).min() > 0.01
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
