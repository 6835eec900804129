"""Layers, loss and metric of learning without labels; `make test` runs this file on torch, jax and tensorflow."""

import keras
import numpy as np
import pytest
from layer_test import (
    as_array,
    assert_close,
    assert_config_round_trips,
    example,
    run_layer_test,
    through_file,
)

from keras_birds.config import Config
from keras_birds.nn.contrastive import (
    BilinearSimilarity,
    ContrastiveCrossentropy,
    CosineSimilarity,
    MatchedViews,
    ProjectionHead,
)
from keras_birds.nn.views import TwoViews, view_columns, view_starts

N = 4


@pytest.fixture
def batch():
    """Logits of eight views of four clips, and labels: none, one shared by the first two clips, and a masked one."""
    labels = np.array([[0, 1, -1], [0, 0.6, 0], [1, 0, -1], [0, 0.4, -1]] * 2, "float32")
    return labels, np.random.default_rng(0).normal(0, 3, (2 * N, 2 * N)).astype("float32")


def plain_loss(logits, groups):
    """By the papers' formulas, in float64 and one view after another."""
    losses = []
    for i, row in enumerate(logits.astype("float64")):
        others = [j for j in range(len(row)) if j != i]
        total = np.log(np.exp(row[others]).sum())
        losses.append(-np.mean([row[j] - total for j in others if j % N in groups[i % N]]))
    return np.array(losses)


@pytest.mark.parametrize("use_labels", [False, True])
def test_the_loss_is_the_papers_formula(batch, use_labels):
    labels, logits = batch
    groups = [{0, 1}, {0, 1}, {2}, {3}] if use_labels else [{k} for k in range(N)]
    loss = ContrastiveCrossentropy(use_labels, reduction=None)
    np.testing.assert_allclose(as_array(loss(labels, logits)), plain_loss(logits, groups), rtol=1e-5)
    assert_config_round_trips(loss)
    # A view isn't compared with itself; and what is broken isn't hidden.
    odd = logits + np.eye(2 * N, dtype="float32") * 100
    np.testing.assert_allclose(as_array(loss(labels, odd)), as_array(loss(labels, logits)), rtol=1e-5)
    logits[2, 3] = np.nan
    assert np.isnan(as_array(loss(labels, logits))[2])


def test_the_metric_counts_views_whose_nearest_is_the_other(batch):
    labels, _ = batch
    logits = np.eye(2 * N, k=N, dtype="float32") + np.eye(2 * N, k=-N, dtype="float32") + 5 * np.eye(2 * N)
    logits[0, 1] = 2
    metric = MatchedViews()
    metric.update_state(labels, logits.astype("float32"))
    assert float(metric.result()) == 1 - 1 / (2 * N)
    assert_config_round_trips(CosineSimilarity(0.2))


@pytest.mark.parametrize(("similarity", "num_weights"), [("cosine", (7, 5)), ("bilinear", (4, 4))])
def test_a_projection_head_keeps_the_contract(tmp_path, similarity, num_weights):
    run_layer_test(ProjectionHead(6, similarity), (4, 5), (4, 6), num_weights, tmp_path)


def test_similarities_are_the_formulas():
    x = example((6, 5)) - 0.5
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert_close(CosineSimilarity(0.2)(x), unit @ unit.T / 0.2)
    bilinear = BilinearSimilarity()
    found = bilinear(x)
    assert_close(found, x @ as_array(bilinear.kernel) @ x.T)


@pytest.mark.parametrize("similarity", [CosineSimilarity(0.5), BilinearSimilarity()])
def test_a_model_learns_which_views_are_of_one_clip_and_is_kept_in_a_file(tmp_path, similarity):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12,))
    head = ProjectionHead(8, "cosine" if isinstance(similarity, CosineSimilarity) else "bilinear")
    model = keras.Model(inputs, similarity(head(inputs)))
    model.compile(keras.optimizers.Adam(1e-2), ContrastiveCrossentropy(), metrics=[MatchedViews()])
    clips, noise = np.random.default_rng(1).normal(0, 1, (16, 12)), np.random.default_rng(2)
    views = np.concatenate([clips, clips]) + noise.normal(0, 0.7, (32, 12))
    views, targets = views.astype("float32"), np.zeros((32, 1), "float32")
    before = [as_array(x) for x in model.trainable_weights]
    history = model.fit(views, targets, epochs=30, batch_size=32, shuffle=False, verbose=0).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    assert history["matched_views"][-1] > history["matched_views"][0] + 0.2
    assert not any(
        np.array_equal(a, as_array(b)) for a, b in zip(before, model.trainable_weights, strict=True)
    )
    loaded = through_file(model, tmp_path)
    assert_close(loaded.predict(views, verbose=0), model.predict(views, verbose=0), atol=1e-4)
    found, expected = (x.evaluate(views, targets, batch_size=32, verbose=0) for x in (loaded, model))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: CosineSimilarity(0.0), "temperature=0.0"),
        (lambda: ProjectionHead(0), "units=0"),
        (lambda: ProjectionHead(4, "dot"), "similarity='dot'"),
    ],
)
def test_wrong_arguments_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_views_lie_apart_where_there_is_room():
    starts = view_starts(2000, 20, 8, np.random.default_rng(0))
    assert (np.sort(np.abs(starts[0] - starts[1]))[[0, -1]] == [8, 12]).all()
    assert (starts[0] < starts[1]).mean() == pytest.approx(0.5, abs=0.05)
    assert {starts.min(), starts.max()} == {0, 12}
    half = Config.parse({"mel": {"width": 63}, "audio": {"clip_s": 5.0}, "contrastive": {"view_s": 2.5}})
    assert view_columns(half) == 31
    crowded = view_starts(2000, 20, 11, np.random.default_rng(0))
    assert {*crowded.ravel().tolist()} == set(range(10))


def test_views_are_parts_of_their_clip_each_augmented_by_itself():
    images, targets = example((5, 4, 20, 1)), example((5, 3))
    seen = []

    def augment(views, targets, seed):
        seen.append((views.copy(), seed))
        return views + 1, targets

    views, labels = TwoViews(8, augment)(images, targets, (1, 2, 3))
    parts, seed = seen[0]
    np.testing.assert_array_equal(views, parts + 1)
    np.testing.assert_array_equal(labels, np.concatenate([targets, targets]))
    for k, part in enumerate(parts):
        clip = images[k % 5]
        assert any(np.array_equal(part, clip[:, i : i + 8]) for i in range(13))
    assert not np.array_equal(parts[:5], parts[5:])
    again, _ = TwoViews(8, augment)(images, targets, (1, 2, 3))
    np.testing.assert_array_equal(again, views)
    TwoViews(8, augment)(images, targets, (1, 2, 4))
    assert seen[1][1] == seed != seen[2][1]
