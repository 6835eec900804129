import keras
import numpy as np
import pytest
from layer_test import through_file

from keras_birds.config import Config
from keras_birds.nn.build import build_model, prune
from keras_birds.nn.efficientnet import STAGES

CONFIG = Config.parse(
    {"mel": {"height": 32, "width": 64}, "model": {"pretrained": "none", "head": "attention"}}
)


@pytest.fixture(scope="module")
def model():
    """With statistics and scales as after training: none is 0 or 1."""
    keras.utils.set_random_seed(0)
    found, rng = build_model(CONFIG, 5), np.random.default_rng(0)
    for layer in found.get_layer("efficientnet_b0").layers:
        if layer.name.endswith("_bn"):
            shape = (2, *layer.gamma.shape)
            scales, shifts = rng.uniform(0.5, 1.5, shape), rng.normal(0, 0.1, shape)
            layer.set_weights([scales[0], *shifts, scales[1]])
    return found


IMAGES = np.random.default_rng(1).uniform(0, 1, (3, 32, 64, 1)).astype("float32")


def test_channels_that_add_nothing_can_go_without_a_trace(model):
    """A scale and a shift of 0 make a channel 0: it adds nothing to the projection, nor to the gate."""
    silent = keras.models.clone_model(model)
    silent.set_weights(model.get_weights())
    rng = np.random.default_rng(2)
    for layer in silent.get_layer("efficientnet_b0").layers:
        if layer.name.endswith("depthwise_bn") and not layer.name.startswith("stage2"):
            gamma, beta, *rest = layer.get_weights()
            gone = rng.permutation(len(gamma))[: len(gamma) // 2]
            gamma[gone] = beta[gone] = 0
            layer.set_weights([gamma, beta, *rest])
    expected = silent.predict(IMAGES, verbose=0)
    assert np.abs(expected).max() > 1e-3
    for ratio in (0.0, 0.5):
        smaller = prune(silent, CONFIG, ratio)
        np.testing.assert_allclose(smaller.predict(IMAGES, verbose=0), expected, rtol=1e-3, atol=1e-5)


def test_the_shapes_are_really_smaller(model, tmp_path):
    smaller = prune(model, CONFIG, 0.3)
    backbone = smaller.get_layer("efficientnet_b0")
    for row, stage in enumerate(STAGES[1:], start=3):
        kernel = backbone.get_layer(f"stage{row}_block{min(2, stage.num_blocks)}_expand_conv").kernel
        assert kernel.shape[3] % 8 == 0
        assert kernel.shape[3] / (6 * kernel.shape[2]) == pytest.approx(0.7, abs=0.05)
    assert smaller.count_params() < 0.8 * model.count_params()
    again = through_file(smaller, tmp_path)
    np.testing.assert_array_equal(again.predict(IMAGES, verbose=0), smaller.predict(IMAGES, verbose=0))


@pytest.mark.parametrize("ratio", [-0.1, 1.0])
def test_a_ratio_out_of_range_is_refused(model, ratio):
    with pytest.raises(ValueError, match="`ratio` must be from 0 to below 1"):
        prune(model, CONFIG, ratio)
