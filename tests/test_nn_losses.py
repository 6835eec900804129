import keras
import numpy as np
import pytest
from keras import ops
from layer_test import run_loss_test

from keras_birds.nn.losses import MaskedBinaryCrossentropy


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    targets = rng.choice([0.0, 0.5, 1.0, -1.0], (16, 6)).astype("float32")
    return targets, rng.normal(0, 4, (16, 6)).astype("float32")


def test_passes_the_shared_test(tmp_path):
    run_loss_test(MaskedBinaryCrossentropy(), tmp_path)
    run_loss_test(MaskedBinaryCrossentropy(label_smoothing=0.1, focal_gamma=1.5), tmp_path)


def test_masked_predictions_change_nothing(batch):
    targets, logits = batch
    other = np.where(targets < 0, 7.0, logits).astype("float32")
    loss = MaskedBinaryCrossentropy()
    assert float(loss(targets, other)) == float(loss(targets, logits))


def test_equals_the_stock_loss_without_masks(batch):
    targets, logits = np.abs(batch[0]), batch[1]
    stock = keras.losses.BinaryCrossentropy(from_logits=True)(targets, logits)
    assert float(MaskedBinaryCrossentropy()(targets, logits)) == pytest.approx(float(stock), rel=1e-6)


@pytest.mark.parametrize("from_logits", [True, False])
def test_smoothing_and_focus_equal_the_stock_losses_without_masks(batch, from_logits):
    targets, logits = np.abs(batch[0]), batch[1]
    predictions = logits if from_logits else 1 / (1 + np.exp(-logits))
    stock = keras.losses.BinaryCrossentropy(from_logits=from_logits, label_smoothing=0.2)
    smooth = MaskedBinaryCrossentropy(from_logits=from_logits, label_smoothing=0.2)
    assert float(smooth(targets, predictions)) == pytest.approx(float(stock(targets, predictions)), rel=1e-4)
    hard = (targets > 0.5).astype("float32")
    stock = keras.losses.BinaryFocalCrossentropy(from_logits=from_logits, gamma=2.0)
    focal = MaskedBinaryCrossentropy(from_logits=from_logits, focal_gamma=2.0)
    assert float(focal(hard, predictions)) == pytest.approx(float(stock(hard, predictions)), rel=1e-4)


def test_smoothing_and_focus_leave_masked_targets_out(batch):
    targets, logits = batch
    loss = MaskedBinaryCrossentropy(label_smoothing=0.2, focal_gamma=1.5)
    other = np.where(targets < 0, 7.0, logits).astype("float32")
    assert float(loss(targets, other)) == float(loss(targets, logits))


@pytest.mark.parametrize(
    "wrong", [{"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"focal_gamma": -1.0}]
)
def test_wrong_arguments_are_named(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        MaskedBinaryCrossentropy(**wrong)


def test_huge_logits_stay_exact():
    targets = np.array([[1.0, 0.0, 1.0, 0.0]], "float32")
    logits = np.array([[-1000.0, 1000.0, 1000.0, -1000.0]], "float32")
    assert float(MaskedBinaryCrossentropy()(targets, logits)) == 500.0


def test_an_all_masked_batch_gives_zero(batch):
    assert float(MaskedBinaryCrossentropy()(np.full((4, 6), -1.0), batch[1][:4])) == 0.0


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("target", [1.0, -1.0])
def test_a_broken_prediction_is_not_hidden(target, from_logits):
    targets, predictions = np.array([[target, 0.0]], "float32"), np.array([[np.nan, 0.5]], "float32")
    assert np.isnan(float(MaskedBinaryCrossentropy(from_logits=from_logits)(targets, predictions)))


def test_sample_weights_scale_clips(batch):
    targets, logits = np.abs(batch[0]), batch[1]
    loss, weights = MaskedBinaryCrossentropy(), np.array([2.0] * 8 + [0.0] * 8, "float32")
    assert float(loss(targets, logits, sample_weight=weights)) == pytest.approx(
        float(loss(targets[:8], logits[:8])), rel=1e-5
    )


def test_gradient_of_one_logit():
    """Training on one zero-initialised weight: the gradient at logit 0 is sigmoid(0) - target, masked ones give 0."""
    inputs = keras.Input((1,))
    dense = keras.layers.Dense(3, use_bias=False, kernel_initializer="zeros")
    model = keras.Model(inputs, dense(inputs))
    model.compile(keras.optimizers.SGD(1.0), MaskedBinaryCrossentropy())
    model.fit(np.ones((1, 1)), np.array([[1.0, 0.0, -1.0]]), verbose=0)
    np.testing.assert_allclose(ops.convert_to_numpy(dense.kernel), [[0.25, -0.25, 0.0]], atol=1e-6)
