import numpy as np
import pytest
from layer_test import assert_config_round_trips, compiled, example, through_file

from keras_birds.errors import DataError
from keras_birds.nn.metrics import MaskedMacroAUC, label_aucs, macro_auc

NUM_LABELS = 206


def _sigmoid(logits):
    return 1 / (1 + np.exp(-logits.astype("float64")))


def _sparse(num_clips=5000, seed=0):
    """206 rare labels, a few of them absent, and scores between about 1e-6 and 1e-3."""
    rng = np.random.default_rng(seed)
    rates = rng.uniform(0.0005, 0.02, NUM_LABELS)
    rates[:6] = 0
    targets = (rng.random((num_clips, NUM_LABELS)) < rates).astype("float32")
    logits = rng.normal(-11, 1.5, (num_clips, NUM_LABELS)) + targets * rng.uniform(0, 3, NUM_LABELS)
    return targets, logits.astype("float32")


def _streamed(metric, targets, scores, batch_size=1000):
    for start in range(0, len(targets), batch_size):
        metric.update_state(targets[start : start + batch_size], scores[start : start + batch_size])
    return float(metric.result())


def test_it_resets_and_keeps_its_settings_in_a_file(tmp_path):
    metric, targets = MaskedMacroAUC(4, num_thresholds=50), np.round(example((16, 4)))
    assert_config_round_trips(metric)
    scores, inputs = example((16, 4), seed=1), example((16, 5), seed=2)
    value = _streamed(metric, targets, scores)
    state = metric.stateless_update_state(metric.stateless_reset_state(), targets, scores)
    assert float(metric.stateless_result(state)) == value
    metric.reset_state()
    assert _streamed(metric, targets, scores, 8) == pytest.approx(value, rel=1e-5)
    model = compiled(metrics=[metric])
    history = model.fit(inputs, targets, batch_size=8, verbose=0, validation_data=(inputs, targets)).history
    assert np.isfinite(history["macro_auc"]).all()
    for again in (model, through_file(model, tmp_path)):
        found = again.evaluate(inputs, targets, verbose=0, return_dict=True)["macro_auc"]
        assert found == pytest.approx(history["val_macro_auc"][-1], rel=1e-5)


@pytest.mark.parametrize("from_logits", [True, False])
def test_is_near_scikit_learn_on_sparse_labels_and_tiny_probabilities(from_logits):
    targets, logits = _sparse()
    probabilities = _sigmoid(logits).astype("float32")
    assert np.median(probabilities) < 1e-4
    exact = macro_auc(targets, probabilities)
    streamed = _streamed(
        MaskedMacroAUC(NUM_LABELS, from_logits=from_logits), targets, logits if from_logits else probabilities
    )
    assert 0.7 < exact < 0.95
    assert streamed == pytest.approx(exact, abs=0.002)


def test_masked_targets_do_not_count():
    targets, logits = _sparse(1000, seed=1)
    rng = np.random.default_rng(2)
    masked = np.where(rng.random(targets.shape) < 0.5, -1.0, targets).astype("float32")
    logits = np.where(masked < 0, 19.0, logits).astype("float32")
    exact = macro_auc(masked, logits)
    assert _streamed(MaskedMacroAUC(NUM_LABELS, from_logits=True), masked, logits) == pytest.approx(
        exact, abs=0.002
    )
    assert abs(exact - macro_auc(np.abs(masked), logits)) > 0.05


def test_ties_count_half_and_absent_labels_not_at_all():
    targets = np.array([[1, 1, 0], [0, 1, 0], [1, 1, 0], [0, 1, 0]], "float32")
    scores = np.array([[0.5, 0.1, 0.2], [0.5, 0.2, 0.3], [0.5, 0.3, 0.4], [0.5, 0.4, 0.5]], "float32")
    assert _streamed(MaskedMacroAUC(3), targets, scores) == pytest.approx(0.5, abs=1e-6)
    assert macro_auc(targets, scores) == 0.5
    np.testing.assert_array_equal(label_aucs(targets, scores), [0.5, np.nan, np.nan])


def test_extremes_and_perfect_order():
    targets = np.array([[0], [0], [1], [1]], "float32")
    assert _streamed(MaskedMacroAUC(1), targets, np.array([[0.0], [1e-8], [0.5], [1.0]])) == 1.0
    assert _streamed(MaskedMacroAUC(1), 1 - targets, np.array([[0.0], [1e-8], [0.5], [1.0]])) == 0.0
    logits = np.array([[-1e4], [-5], [5], [np.inf]], "float32")
    assert _streamed(MaskedMacroAUC(1, from_logits=True), targets, logits) == 1.0


def test_fractional_targets_count_as_positive_from_a_half():
    targets = np.array([[0.5], [0.4], [0.0], [1.0]], "float32")
    scores = np.array([[0.8], [0.6], [0.1], [0.9]], "float32")
    assert macro_auc(targets, scores) == 1.0
    assert _streamed(MaskedMacroAUC(1), targets, scores) == 1.0


def test_sample_weights_leave_clips_out():
    targets, logits = _sparse(400, seed=3)
    weights = (np.arange(400) < 200).astype("float32")
    metric = MaskedMacroAUC(NUM_LABELS, from_logits=True)
    metric.update_state(targets, logits, sample_weight=weights)
    assert float(metric.result()) == pytest.approx(macro_auc(targets[:200], logits[:200]), abs=0.002)


def test_without_any_label_to_rate_it_is_not_a_number():
    assert np.isnan(float(MaskedMacroAUC(2).result()))
    assert np.isnan(macro_auc(np.ones((3, 2)), np.ones((3, 2))))


def test_a_broken_score_is_not_hidden():
    targets, logits = _sparse(200, seed=4)
    logits[3, 100] = np.nan
    assert np.isnan(_streamed(MaskedMacroAUC(NUM_LABELS, from_logits=True), targets, logits))
    with pytest.raises(DataError, match="Received: 1 clips"):
        macro_auc(targets, logits)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="num_labels=0"):
        MaskedMacroAUC(0)
    with pytest.raises(ValueError, match="num_thresholds=1"):
        MaskedMacroAUC(3, num_thresholds=1)
    with pytest.raises(DataError, match=r"Received: \[3, 2\] and \[3, 3\]"):
        macro_auc(np.ones((3, 2)), np.ones((3, 3)))
