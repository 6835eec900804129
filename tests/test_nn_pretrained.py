import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from layer_test import as_array
from yardstick import gratings

from keras_birds.config import Config
from keras_birds.errors import ConfigError, ModelError
from keras_birds.nn.build import build_model, dtype_policy
from keras_birds.nn.efficientnet import EfficientNetB0
from keras_birds.training import pretrained
from keras_birds.training.pretrained import IMAGENET, fetch_pretrained

with pretrained.suppress_output():
    from keras_hub.models import EfficientNetBackbone

# As keras-hub converts timm's efficientnet_b0 (keras_hub/src/utils/timm/convert_efficientnet.py).
B0 = {
    **{f"stackwise_{x}_coefficients": [1.0] * 7 for x in ("width", "depth")},
    "stackwise_squeeze_and_excite_ratios": [0.25] * 7,
    "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
    "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
    "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
    "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
    "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
    "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
    "stackwise_block_types": ["v1"] * 7,
    **{"min_depth": None, "dropout": 0, "projection_activation": None},
    **{"include_stem_padding": True, "stem_conv_padding": "valid"},
    **{"use_depth_divisor_as_min_depth": True, "cap_round_filter_decrease": True},
    **{"batch_norm_momentum": 0.9, "batch_norm_epsilon": 1e-5},
}
FILES = ("config.json", "model.weights.h5")


@pytest.fixture(scope="module")
def hub_backbone():
    """keras-hub's B0 with random weights, and normalisations near what real activations have.

    With arbitrary ones the signal dies on its way through fifty layers and different networks agree, or rounding grows
    and equal ones don't.
    """
    keras.utils.set_random_seed(0)
    backbone, rng = EfficientNetBackbone(**B0), np.random.default_rng(0)
    for weight in (w for layer in backbone.layers for w in layer.weights):
        if weight.name in ("gamma", "beta", "bias"):
            weight.assign(rng.normal(weight.name == "gamma", 0.2, weight.shape))
    norms = [layer for layer in backbone.layers if layer.name.endswith("_bn")]
    for layer in norms:
        layer.momentum = 0.0
    backbone(gratings(16, 64, 64, 3, seed=0), training=True)
    for layer in norms:
        variance = as_array(layer.moving_variance)
        layer.moving_variance.assign(variance + 0.1 * variance.mean())
    return backbone


@pytest.fixture(scope="module")
def preset_dir(hub_backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("b0")
    hub_backbone.save_to_preset(str(folder))
    return folder


@pytest.fixture(scope="module")
def loaded(preset_dir):
    network = EfficientNetB0()
    fetch_pretrained(str(preset_dir)).apply(network)
    return network


def copy_preset(preset_dir, folder, **changes):
    """The same preset with another config."""
    folder.mkdir(parents=True)
    settings = json.loads((preset_dir / FILES[0]).read_text())
    settings["config"].update(changes)
    (folder / FILES[0]).write_text(json.dumps(settings))
    shutil.copy(preset_dir / FILES[1], folder)
    return folder


@pytest.mark.parametrize("size", [(64, 64), (65, 97)])
def test_agrees_with_keras_hub_on_mono_images(hub_backbone, loaded, size):
    ours = as_array(loaded(gratings(2, *size, seed=1), training=False))
    theirs = as_array(hub_backbone(gratings(2, *size, 3, seed=1), training=False))
    assert ours.shape == theirs.shape == (2, -(-size[0] // 32), -(-size[1] // 32), 1280)
    assert (theirs[0] - theirs[1]).std() > 0.005
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_weights_stay_float32_under_a_bfloat16_policy(preset_dir, loaded):
    with dtype_policy("bfloat16"):
        weights = fetch_pretrained(str(preset_dir))
    array = weights.arrays["top_conv/kernel"]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, as_array(loaded.get_layer("top_conv").kernel))


def test_apply_refuses_missing_and_misshapen_arrays_before_copying(preset_dir):
    weights, network = fetch_pretrained(str(preset_dir)), EfficientNetB0()
    del weights.arrays["stage4_block1_squeeze_reduce/bias"]
    weights.arrays["top_bn/gamma"] = np.ones(7, "float32")
    before = network.get_weights()
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="other")
    for model, message in (
        (network, r"1 missing there: stage4_block1_squeeze_reduce/bias; 1 of another shape: top_bn"),
        (other, r"contains EfficientNetB0\. Received: other"),
    ):
        with pytest.raises(ModelError, match=message):
            weights.apply(model)
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_norm_epsilon": 1e-3}, "batch norm epsilon 0.001, not 1e-05"),
        ({"activation": "relu6"}, "activation relu6, not silu"),
        ({"stackwise_strides": [1, 2, 2, 1, 1, 2, 1]}, r"strides \[1, 2, 2, 1, 1, 2, 1\], not"),
        ({"include_stem_padding": False, "stem_conv_padding": "same"}, "stem padding another, not symmetric"),
    ],
)
def test_same_weights_of_another_arithmetic_are_refused(preset_dir, tmp_path, changes, words):
    folder = copy_preset(preset_dir, tmp_path / "other", **changes)
    with pytest.raises(ModelError, match=words):
        fetch_pretrained(str(folder))


def test_broken_folders_are_told_in_one_line(preset_dir, tmp_path):
    folder = copy_preset(preset_dir, tmp_path / "cut")
    (folder / FILES[1]).write_bytes((preset_dir / FILES[1]).read_bytes()[:100_000])
    (copy_preset(preset_dir, tmp_path / "text") / FILES[0]).write_text("{")
    deeper = B0 | {"stackwise_depth_coefficients": [1.1] * 7}
    EfficientNetBackbone(**deeper).save_to_preset(str(tmp_path / "deeper"))
    for preset, kind, message in (
        (tmp_path / "nowhere", ConfigError, r"Received: .*nowhere\. Check the path"),
        ("s3://x", ConfigError, r"kaggle:// or hf://\. Received: s3://x"),
        (tmp_path, ModelError, r"must hold config\.json"),
        (folder, ModelError, "complete keras-hub preset"),
        (tmp_path / "text", ModelError, "complete keras-hub preset"),
        (tmp_path / "deeper", ModelError, "left over there: batch_normalization_49/gamma"),
    ):
        with pytest.raises(kind, match=message) as caught:
            fetch_pretrained(str(preset))
        assert "\n" not in str(caught.value)


def test_without_network_one_line_says_what_to_do_and_loading_prints_nothing(offline, preset_dir):
    code = f"""if True:
        import sys
        from keras_birds.errors import ModelError
        from keras_birds.training.pretrained import fetch_pretrained
        for preset in ("imagenet", "hf://keras/efficientnet_b0_ra_imagenet"):
            try: fetch_pretrained(preset)
            except ModelError as error: print(error)
        fetch_pretrained({str(preset_dir)!r})
        assert "keras_hub" not in sys.modules"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    rule = r".*Received: {}.* no network.* --set model\.pretrained=none, .*model\.pretrained=DIR\n"
    assert re.fullmatch(rule.format(r"imagenet \(kaggle://") + rule.format("hf://keras"), done.stdout)
    assert done.stderr == ""


def test_a_host_that_never_answers_is_given_up(offline, monkeypatch):
    monkeypatch.setattr(pretrained, "REACH_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.delenv("https_proxy")
        with pytest.raises(ModelError, match=r"can't be fetched: no answer within 0\.5 s"):
            fetch_pretrained("imagenet")


def test_imagenet_comes_from_the_cache_without_network(offline, preset_dir, loaded):
    from kagglehub.cache import Cache
    from kagglehub.handle import parse_model_handle

    cache, handle = Cache(), parse_model_handle(IMAGENET.removeprefix("kaggle://"))
    for name in FILES:
        path = Path(cache.get_path(handle, name))
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(preset_dir / name, path)
        cache.mark_as_complete(handle, name)
    # Into the backbone inside a whole model.
    model = build_model(Config.parse({"mel": {"height": 64, "width": 64}}), num_labels=3)
    head = model.get_layer("logits").get_weights()
    fetch_pretrained("imagenet").apply(model)
    wanted = (*loaded.get_weights(), *head)
    for ours, theirs in zip(model.get_weights(), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert EfficientNetBackbone.presets["efficientnet_b0_ra_imagenet"]["kaggle_handle"] == IMAGENET
