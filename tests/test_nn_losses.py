import keras
import numpy as np
import pytest
from layer_test import as_array, assert_config_round_trips, compiled, example, through_file

from keras_birds.nn.losses import MaskedBinaryCrossentropy


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    targets = rng.choice([0.0, 0.5, 1.0, -1.0], (16, 6)).astype("float32")
    return targets, rng.normal(0, 4, (16, 6)).astype("float32")


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1, "focal_gamma": 1.5}])
def test_it_trains_keeps_its_settings_in_a_file_and_leaves_masked_targets_out(tmp_path, batch, settings):
    targets, logits = batch
    loss = MaskedBinaryCrossentropy(**settings)
    assert float(loss(targets, np.where(targets < 0, 7, logits))) == float(loss(targets, logits))
    assert_config_round_trips(loss)
    model, inputs, targets = compiled(6, loss), example((16, 5)), batch[0]
    losses = model.fit(inputs, targets, epochs=20, batch_size=16, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    loaded = through_file(model, tmp_path)
    assert type(loaded.loss) is MaskedBinaryCrossentropy
    found, expected = (x.evaluate(inputs, targets, verbose=0) for x in (loaded, model))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("from_logits", [True, False])
def test_equals_the_stock_losses_without_masks(batch, from_logits):
    targets, logits = np.abs(batch[0]), batch[1]
    predictions = logits if from_logits else 1 / (1 + np.exp(-logits))
    hard = (targets > 0.5).astype("float32")
    stock, focal = keras.losses.BinaryCrossentropy, keras.losses.BinaryFocalCrossentropy
    for theirs, ours, wanted in (
        (stock(from_logits), {}, targets),
        (stock(from_logits, label_smoothing=0.2), {"label_smoothing": 0.2}, targets),
        (focal(from_logits=from_logits, gamma=2.0), {"focal_gamma": 2.0}, hard),
    ):
        found = MaskedBinaryCrossentropy(from_logits, **ours)(wanted, predictions)
        assert float(found) == pytest.approx(float(theirs(wanted, predictions)), rel=1e-4)


@pytest.mark.parametrize(
    "wrong", [{"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"focal_gamma": -1.0}]
)
def test_wrong_arguments_are_named(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        MaskedBinaryCrossentropy(**wrong)


def test_huge_logits_stay_exact_and_an_all_masked_batch_gives_zero():
    logits = np.array([[-1000.0, 1000.0, 1000.0, -1000.0]], "float32")
    assert float(MaskedBinaryCrossentropy()(np.array([[1.0, 0.0, 1.0, 0.0]], "float32"), logits)) == 500.0
    assert float(MaskedBinaryCrossentropy()(np.full((1, 4), -1.0), logits)) == 0.0


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
    np.testing.assert_allclose(as_array(dense.kernel), [[0.25, -0.25, 0.0]], atol=1e-6)
