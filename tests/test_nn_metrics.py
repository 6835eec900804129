import numpy as np
import pytest
from layer_test import assert_config_round_trips, compiled, example, through_file

from keras_birds.config import Config
from keras_birds.errors import DataError
from keras_birds.labels import LabelSet
from keras_birds.nn.build import build_model
from keras_birds.nn.metrics import MaskedMacroAUC, label_aucs, macro_auc


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
    for again in (model, through_file(model, tmp_path)):
        found = again.evaluate(inputs, targets, verbose=0, return_dict=True)["macro_auc"]
        assert found == pytest.approx(history["val_macro_auc"][-1], rel=1e-5)


@pytest.mark.parametrize(
    ("targets", "scores", "expected"),
    [
        ([[1, 1, 0], [0, 1, 0]], [[0.5, 0.1, 0.2], [0.5, 0.2, 0.3]], [0.5, np.nan, np.nan]),  # a tie
        ([[0], [0], [1], [1]], [[0.0], [1e-8], [0.5], [1.0]], [1]),
        ([[1], [1], [0], [0]], [[0.0], [1e-8], [0.5], [1.0]], [0]),
        ([[0.5], [0.49], [0], [1]], [[0.8], [0.6], [0.1], [0.9]], [1]),
        ([[0], [1], [-1]], [[0.2], [0.3], [0.25]], [1]),
        ([[1], [1]], [[0.2], [0.3]], [np.nan]),
    ],
)
def test_both_give_the_known_area(targets, scores, expected):
    targets, scores = np.array(targets, "float32"), np.array(scores, "float32")
    np.testing.assert_array_equal(label_aucs(targets, scores), expected)
    mean = expected[0]
    assert macro_auc(targets, scores) == pytest.approx(mean, nan_ok=True)
    assert _streamed(MaskedMacroAUC(len(expected)), targets, scores) == pytest.approx(mean, nan_ok=True)


def test_endless_logits_count_and_a_broken_score_is_not_hidden():
    targets, logits = np.array([[0], [0], [1], [1]]), np.array([[-1e4], [-5], [5], [np.inf]], "float32")
    assert _streamed(MaskedMacroAUC(1, from_logits=True), targets, logits) == 1.0
    logits[1:3] = np.nan
    assert np.isnan(_streamed(MaskedMacroAUC(1, from_logits=True), targets, logits))
    with pytest.raises(DataError, match="Received: 3 clips"):
        macro_auc(targets, logits)


def test_sample_weights_leave_clips_out():
    targets, scores = np.round(example((400, 6))), example((400, 6), seed=1)
    for weights in (np.arange(400) < 200, np.repeat(np.arange(400) < 200, 6).reshape(400, 6)):
        metric = MaskedMacroAUC(6)
        metric.update_state(targets, scores, sample_weight=weights)
        assert float(metric.result()) == pytest.approx(macro_auc(targets[:200], scores[:200]), abs=0.002)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: MaskedMacroAUC(0), ValueError, "num_labels=0"),
        (lambda: MaskedMacroAUC(3, num_thresholds=1), ValueError, "num_thresholds=1"),
        (lambda: MaskedMacroAUC(5).update_state(np.ones((4, 5)), np.ones((4, 3))), ValueError, r"\(4, 3\)"),
        (lambda: build_model(Config(), LabelSet(["a"])), ValueError, r"len\(labels\)"),
        (lambda: macro_auc(np.ones((3, 2)), np.ones((3, 3))), DataError, r"\[3, 2\] and \[3, 3\]"),
    ],
)
def test_wrong_arguments_are_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
