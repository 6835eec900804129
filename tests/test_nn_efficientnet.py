"""EfficientNet-B0 against its paper on every backend, and against plain PyTorch on torch."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest
from layer_test import as_array, as_plain

from keras_birds.config import Config
from keras_birds.nn.build import build_model
from keras_birds.nn.efficientnet import EfficientNetB0
from keras_birds.nn.layers import BatchNorm, StochasticDepthAdd, SymmetricConv2D, SymmetricDepthwiseConv2D
from keras_birds.nn.losses import MaskedBinaryCrossentropy

ON_TORCH = keras.config.backend() == "torch"
torch_only = pytest.mark.skipif(
    not ON_TORCH, reason="compares with PyTorch, or is slow where calls are compiled"
)
BASELINE = Path(__file__).resolve().parents[1] / "benchmarks" / "torch_baseline.py"

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


def images(number, height=SIZE, width=SIZE, seed=0):
    """Gratings in [0, 1], whose features differ from image to image."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:height, :width]
    made = []
    for _ in range(number):
        waves = [np.sin(row * a + column * b + c) for a, b, c in rng.uniform(-1.5, 1.5, (3, 3))]
        made.append(np.clip(rng.uniform(0.2, 0.8) + rng.uniform(0.1, 0.4) * np.sum(waves, axis=0), 0, 1))
    return np.stack(made)[..., None].astype("float32")


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


@pytest.mark.parametrize("row", range(len(TABLE_1)))
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


def test_kernels_begin_at_the_scale_of_their_fan_out(backbone):
    for name, deviation in (
        ("stem_conv", (2 / (9 * 32)) ** 0.5),
        ("top_conv", (2 / 1280) ** 0.5),
        ("stage4_block2_expand_conv", (2 / 240) ** 0.5),
        ("stage7_block1_depthwise_conv", (2 / 25) ** 0.5),
    ):
        kernel = backbone.get_layer(name).get_weights()[0]
        # Four standard deviations of a deviation from so many draws.
        assert kernel.std() == pytest.approx(deviation, rel=4 / (2 * kernel.size) ** 0.5)


@pytest.mark.parametrize("size", [(224, 224), (128, 256), (100, 75), (33, 31), (1, 65), (None, 96)])
def test_any_size_gives_a_map_of_a_32nd_rounded_up(sizeless, size):
    expected = tuple(None if n is None else -(-n // 32) for n in size)
    assert sizeless.compute_output_shape((None, *size, 1)) == (None, *expected, 1280)


# Each size is compiled anew on jax and tensorflow.
@pytest.mark.parametrize("size", [(128, 256), (100, 75), (33, 64), (1, 1)] if ON_TORCH else [(33, 40)])
def test_real_images_of_any_size(sizeless, size):
    outputs = sizeless.predict(images(2, *size), verbose=0)
    assert outputs.shape == (2, -(-size[0] // 32), -(-size[1] // 32), 1280)
    assert np.isfinite(outputs).all()


def test_images_are_taken_as_they_are(sizeless):
    kinds = (keras.layers.Rescaling, keras.layers.Normalization)
    assert not any(isinstance(layer, kinds) for layer in sizeless.layers)
    assert sizeless.get_layer("stem_conv").input is sizeless.inputs[0]
    x = images(2, 33, 40)
    in_unit_range, in_bytes = (sizeless.predict(y, verbose=0) for y in (x, 255 * x))
    assert np.abs(in_unit_range - in_bytes).max() > 0.1 * np.abs(in_bytes).max()


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
    for again in (EfficientNetB0.from_config(config), keras.saving.deserialize_keras_object(form)):
        assert type(again) is EfficientNetB0
        assert as_plain(again.get_config()) == as_plain(config)
        assert [w.path for w in again.weights] == [w.path for w in backbone.weights]


def test_a_saved_model_answers_as_before(tmp_path, model):
    again = keras.models.clone_model(model)
    again.set_weights(model.get_weights())
    for layer in again.get_layer("efficientnet_b0").layers:
        if isinstance(layer, BatchNorm):
            # At 1, and with moving averages that never saw a batch, the signal dies in fifty layers.
            layer.gamma.assign(np.full(layer.gamma.shape, 1.4, "float32"))
    before = again.predict(images(3), verbose=0)
    largest = np.abs(before).max()
    assert before.std(axis=0).mean() > 0.05 * largest, "the images must be told apart"
    again.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert type(loaded.get_layer("efficientnet_b0")) is EfficientNetB0
    np.testing.assert_allclose(loaded.predict(images(3), verbose=0), before, rtol=0, atol=1e-5 * largest)


def test_the_head_stays_in_float32_under_a_bfloat16_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = build_model(make_config(), NUM_LABELS)
    finally:
        keras.config.set_dtype_policy("float32")
    backbone, head = mixed.get_layer("efficientnet_b0"), mixed.get_layer("logits")
    convolutions = [x for x in backbone.layers if isinstance(x, SymmetricConv2D | SymmetricDepthwiseConv2D)]
    assert {x.compute_dtype for x in convolutions} == {"bfloat16"}
    assert (head.compute_dtype, head.variable_dtype) == ("float32", "float32")
    assert keras.backend.standardize_dtype(mixed.output.dtype) == "float32"
    assert {keras.backend.standardize_dtype(w.dtype) for w in mixed.weights} == {"float32"}
    if ON_TORCH:
        exact = build_model(make_config(), NUM_LABELS)
        exact.set_weights(mixed.get_weights())
        logits, expected = (x.predict(images(3), verbose=0) for x in (mixed, exact))
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected, rtol=0, atol=0.1 * np.abs(expected).max())
        assert not np.array_equal(logits, expected)


# Elsewhere the step is compiled for long: tests/test_nn_training.py trains there.
@torch_only
def test_training_changes_every_weight_and_lowers_the_loss():
    keras.utils.set_random_seed(0)
    model = build_model(make_config(), NUM_LABELS)
    before = model.get_weights()
    # As training does: Dynamo takes longer than it saves.
    loss = MaskedBinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-3), loss, jit_compile=False)
    x, targets = images(NUM_LABELS), np.eye(NUM_LABELS, dtype="float32")
    history = model.fit(x, targets, batch_size=NUM_LABELS, epochs=12, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert np.mean(history["loss"][-2:]) < 0.7 * history["loss"][0]
    for weight, old, new in zip(model.weights, before, model.get_weights(), strict=True):
        assert not np.array_equal(old, new), f"{weight.path} did not change"


@torch_only
def test_clips_lose_blocks_and_features_while_training_only():
    x = images(4)
    for settings, is_random in (({}, True), ({"dropout": 0.0, "drop_path": 0.0}, False)):
        model = build_model(make_config(**settings), NUM_LABELS)
        first, second = (as_array(model(x, training=True).detach()) for _ in range(2))
        assert np.allclose(first, second, atol=1e-5) != is_random
        np.testing.assert_array_equal(*(as_array(model(x, training=False).detach()) for _ in range(2)))


def copy_weights(module, model):
    """From the yardstick's network to ours, in the order in which both compute."""
    from torch import nn

    backbone = model.get_layer("efficientnet_b0")
    parts = (SymmetricConv2D, SymmetricDepthwiseConv2D, BatchNorm)
    ours = [layer for layer in backbone.layers if isinstance(layer, parts)]
    theirs = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    for layer, part in zip(ours, theirs, strict=True):
        if isinstance(part, nn.BatchNorm2d):
            values = [part.weight, part.bias, part.running_mean, part.running_var]
        else:
            order = (2, 3, 0, 1) if isinstance(layer, SymmetricDepthwiseConv2D) else (2, 3, 1, 0)
            values = [part.weight.permute(order), *([] if part.bias is None else [part.bias])]
        layer.set_weights([x.detach().numpy() for x in values])
    model.get_layer("logits").set_weights(
        [module.head.weight.detach().numpy().T, module.head.bias.detach().numpy()]
    )


@torch_only
def test_is_the_network_of_the_plain_pytorch_yardstick():
    import torch

    spec = importlib.util.spec_from_file_location("torch_baseline", BASELINE)
    baseline = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(baseline)
    torch.manual_seed(0)
    module = baseline.EfficientNetB0(NUM_LABELS, dropout=0.0, drop_path=0.0)
    model = build_model(make_config(dropout=0.0, drop_path=0.0), NUM_LABELS)
    num_buffers = sum(b.numel() for name, b in module.named_buffers() if "num_batches" not in name)
    assert sum(p.numel() for p in module.parameters()) == sum(
        w.value.numel() for w in model.trainable_weights
    )
    assert num_buffers == sum(w.value.numel() for w in model.non_trainable_weights)

    # Moving averages of real activations, perturbed: with made-up ones the signal dies in fifty layers.
    rng = torch.Generator().manual_seed(1)
    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
            norm.weight.uniform_(0.7, 1.3, generator=rng)
            norm.bias.normal_(0, 0.2, generator=rng)
        module.train()(torch.from_numpy(images(16, seed=1)).permute(0, 3, 1, 2))
        for norm in norms:
            noise = torch.randn(norm.running_mean.shape, generator=rng)
            norm.running_mean += 0.1 * norm.running_var.sqrt() * noise
            norm.running_var += 0.1 * norm.running_var.mean()
            norm.momentum = 0.1
        module.head.weight *= 10
    copy_weights(module, model)

    x = images(5, seed=2)
    planes = torch.from_numpy(x).permute(0, 3, 1, 2)
    for training in (False, True):
        theirs = module.train(training)(planes)
        assert theirs.std(0).min() > 0.01, "the images must be told apart"
        ours = model(x, training=training)
        np.testing.assert_allclose(as_array(ours.detach()), theirs.detach(), rtol=0, atol=1e-4)
