import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from keras_birds.evaluation.bootstrap import Interval, interval, macro_auc_draws, resamples


def _example(n=60, labels=5, seed=0):
    rng = np.random.default_rng(seed)
    targets = rng.choice([0.0, 1.0, -1.0], (n, labels), p=[0.6, 0.3, 0.1]).astype("float32")
    # Rounded, so that scores are tied.
    scores = np.round(rng.random((n, labels)) * 0.7 + 0.3 * (targets > 0), 1).astype("float32")
    return targets, scores


def test_resamples_are_draws_with_replacement_and_repeat():
    counts = resamples(50, 400)
    assert counts.shape == (400, 50)
    assert (counts.sum(axis=1) == 50).all()
    assert counts.mean() == 1
    # The share of recordings that a sample lacks is 1/e.
    assert (counts == 0).mean() == pytest.approx(np.exp(-1), abs=0.02)
    np.testing.assert_array_equal(counts, resamples(50, 400))
    assert resamples(0, 3).shape == (3, 0)


def test_draws_are_scikit_learns_weighted_areas():
    targets, scores = _example()
    targets[:, 4] = 0
    targets[7, 4] = 1
    draws = macro_auc_draws(targets, scores, 40)
    for counts, draw in zip(resamples(60, 40), draws, strict=True):
        areas = []
        for label in range(5):
            used = (targets[:, label] >= 0) & (counts > 0)
            positive = targets[used, label] > 0
            if positive.any() and not positive.all():
                areas.append(roc_auc_score(positive, scores[used, label], sample_weight=counts[used]))
        assert draw == pytest.approx(np.mean(areas), abs=1e-12)


def test_what_no_label_qualifies_for_is_not_a_number():
    targets, scores = _example()
    assert np.isnan(macro_auc_draws(np.zeros_like(targets), scores, 5)).all()
    undefined = interval(float("nan"), np.full(5, np.nan))
    assert np.isnan([undefined.value, undefined.low, undefined.high]).all()


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    """The mean of standard normal numbers, a hundred times."""
    rng, covered = np.random.default_rng(1), 0
    counts = resamples(80, 500)
    for _ in range(100):
        x = rng.normal(0, 1, 80)
        found = interval(float(x.mean()), counts @ x / 80)
        assert found.low < found.value < found.high
        covered += found.low <= 0 <= found.high
    assert 88 <= covered <= 99


def test_an_interval_reads_well():
    assert str(Interval(0.91234, 0.9, 0.92)) == "0.9123 (0.9000 to 0.9200)"
