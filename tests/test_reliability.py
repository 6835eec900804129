import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from keras_birds.plots.reliability import calibration_error, reliability, reliability_figure


@pytest.fixture
def example():
    rng = np.random.default_rng(0)
    scores = rng.random((5000, 4)).astype("float32")
    targets = (rng.random((5000, 4)) < scores**2).astype("float32")
    targets[:50, 1] = -1
    return targets, scores


def test_bins_are_scikit_learns(example):
    targets, scores = example
    used = targets >= 0
    positive, score = calibration_curve(targets[used], scores[used], n_bins=10)
    found = reliability(targets, scores)
    np.testing.assert_allclose(found.positive, positive)
    np.testing.assert_allclose(found.score, score, rtol=1e-5)
    assert found.count.sum() == used.sum() == 19950
    assert list(found.count) == list(np.histogram(scores[used], 10, (0, 1))[0])


def test_the_error_is_the_mean_distance_from_the_diagonal(example):
    targets, scores = example
    # A score of s is right with probability s squared: the distance is s - s^2, on average 1/6.
    assert calibration_error(targets, scores) == pytest.approx(1 / 6, abs=0.02)
    assert calibration_error(targets, scores**2) == pytest.approx(0, abs=0.02)
    assert calibration_error(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]])) == 0
    assert np.isnan(calibration_error(np.array([[-1.0]]), np.array([[0.3]])))


def test_the_figure_has_a_line_and_a_histogram_a_curve(example):
    targets, scores = example
    curves = {"before": reliability(targets, scores), "after": reliability(targets, scores**2)}
    above, below = reliability_figure(curves, "All labels").axes
    assert (len(above.lines), len(below.patches)) == (3, 2)
    assert above.get_legend().get_texts()[1].get_text().startswith("before, expected calibration")
    np.testing.assert_allclose(above.lines[1].get_ydata(), curves["before"].positive)
