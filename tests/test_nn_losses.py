import keras
import numpy as np
import pytest
from layer_test import assert_config_round_trips, compiled, example, through_file

from keras_birds.nn.losses import MaskedBinaryCrossentropy, MixedLoss, SoftAUC


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    targets = rng.choice([0.0, 0.5, 1.0, -1.0], (16, 6)).astype("float32")
    return targets, rng.normal(0, 4, (16, 6)).astype("float32")


@pytest.mark.parametrize(
    "loss",
    [
        MaskedBinaryCrossentropy(),
        MaskedBinaryCrossentropy(label_smoothing=0.1, focal_gamma=1.5),
        SoftAUC(),
        MixedLoss(MaskedBinaryCrossentropy(focal_gamma=1.0), SoftAUC(), 0.4),
    ],
)
def test_it_trains_keeps_its_settings_in_a_file_and_leaves_masked_targets_out(tmp_path, batch, loss):
    targets, logits = batch
    assert float(loss(targets, np.where(targets < 0, 7, logits))) == float(loss(targets, logits))
    assert_config_round_trips(loss)
    model, inputs, targets = compiled(6, loss), example((16, 5)), batch[0]
    losses = model.fit(inputs, targets, epochs=20, batch_size=16, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    loaded = through_file(model, tmp_path)
    assert type(loaded.loss) is type(loss)
    found, expected = (x.evaluate(inputs, targets, verbose=0) for x in (loaded, model))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "wrong", [{"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"focal_gamma": -1.0}]
)
def test_wrong_arguments_are_named(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        MaskedBinaryCrossentropy(**wrong)
    with pytest.raises(ValueError, match=r"share=1\.5"):
        MixedLoss(SoftAUC(), SoftAUC(), 1.5)


@pytest.mark.parametrize(
    ("from_logits", "targets", "predictions", "expected"),
    [
        (True, [1, 0, 1, 0], [-1000, 1000, 1000, -1000], 500),
        (True, [-1, -1], [3, 4], 0),
        (False, [1, 0], [0, 0], -np.log(1e-7) / 2),
        *((x, [target, 0], [np.nan, 0.5], np.nan) for x in (True, False) for target in (1, -1)),
    ],
)
def test_extremes_stay_exact_and_a_broken_prediction_is_not_hidden(
    from_logits, targets, predictions, expected
):
    loss = MaskedBinaryCrossentropy(from_logits)
    found = loss(*(np.array([x], "float32") for x in (targets, predictions)))
    assert float(found) == pytest.approx(expected, rel=1e-5, nan_ok=True)


@pytest.mark.parametrize(
    ("targets", "logits", "expected"),
    [
        ([1, 0], [-1000, 1000], 2000),
        ([1, 1, -1], [3, 4, 5], 0),  # no pair
        ([1, 0, -1], [0, 0, np.nan], np.nan),
    ],
)
def test_soft_auc_of_extremes(targets, logits, expected):
    found = SoftAUC()(*(np.array(x, "float32")[:, None] for x in (targets, logits)))
    assert float(found) == pytest.approx(expected, rel=1e-5, nan_ok=True)


def test_sample_weights_scale_clips(batch):
    targets, logits = np.abs(batch[0]), batch[1]
    loss, weights = MaskedBinaryCrossentropy(), np.array([2.0] * 8 + [0.0] * 8, "float32")
    assert float(loss(targets, logits, sample_weight=weights)) == pytest.approx(
        float(loss(targets[:8], logits[:8])), rel=1e-5
    )


def test_gradient_of_one_logit():
    """At logit 0 it is sigmoid(0) - target, of the mean over two targets; a masked one has none."""
    logits = keras.ops.convert_to_tensor(np.zeros((1, 3), "float32")).requires_grad_()
    MaskedBinaryCrossentropy()(np.array([[1.0, 0.0, -1.0]]), logits).backward()
    np.testing.assert_allclose(logits.grad.cpu(), [[-0.25, 0.25, 0.0]], atol=1e-6)
