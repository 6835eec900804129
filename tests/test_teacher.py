"""A network that also learns what another model hears."""

import numpy as np
import pandas as pd
import pytest
import small_run as small
from layer_test import as_array, assert_config_round_trips
from small_run import Watcher, interrupt, make_config

from keras_birds.config import Config
from keras_birds.errors import ConfigError
from keras_birds.models.metadata import ModelMetadata
from keras_birds.nn.build import build_model
from keras_birds.nn.losses import TaughtBinaryCrossentropy
from keras_birds.training.run import open_run, prepare_run
from keras_birds.training.train import train


def test_its_loss_keeps_its_settings_and_names_wrong_ones():
    assert_config_round_trips(TaughtBinaryCrossentropy([0.5, 0.25], 2.0, label_smoothing=0.1))
    for wrong in ({"teacher_mean": []}, {"teacher_mean": [1.0], "teacher_weight": 0}):
        with pytest.raises(ValueError, match=f"Received: {list(wrong)[-1]}="):
            TaughtBinaryCrossentropy(**wrong)
    with pytest.raises(ConfigError, match=r"training\.teacher must be empty"):
        Config.load("birdnet", ["training.teacher=birdnet"])


@pytest.mark.parametrize("settings", [{}, {"keep": "last", "ema_momentum": 0.8}])
def test_what_is_kept_is_the_network_alone(birdnet_model, shallow_network, tmp_path, monkeypatch, settings):
    """Also after an interruption; recordings that the teacher can't hear are learnt without it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(small, "PER_LABEL_AND_FOLD", 4)
    data = small.make_data(tmp_path / "birds")
    head = {"head": "attention" if settings else "pool"}
    config, plain = (make_config(model=head, teacher=x, epochs=3, **settings) for x in ("birdnet", ""))
    whole = train(config, data, 0, tmp_path / "whole").folds[0]
    kept, network = whole.model, build_model(plain, 3)
    assert [tuple(x.shape) for x in kept.weights] == [tuple(x.shape) for x in network.weights]
    metadata = ModelMetadata.read_onnx(whole.folder / "model.onnx")
    assert (metadata.licence, "taught by" in metadata.source) == ("", True)
    parted, watcher = tmp_path / "parted", Watcher()
    interrupt(config, data, 0, parted, lambda lines, done: lines[-1].startswith("epoch 1/") and done == 2)
    resumed = train(config, data, 0, parted, resume=True, reporter=watcher).folds[0]
    assert "fold 0: goes on after epoch 1" in watcher.lines
    scores = [pd.read_parquet(x.folder / "oof.parquet") for x in (whole, resumed)]
    pd.testing.assert_frame_equal(*scores, rtol=0, atol=1e-4)
    untaught = train(plain, data, 0, tmp_path / "plain").folds[0].model
    assert (
        max(abs(as_array(a) - as_array(b)).max() for a, b in zip(kept.weights, untaught.weights, strict=True))
        > 1e-3
    )


def test_it_hears_each_recording_once(birdnet_model, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(small, "PER_LABEL_AND_FOLD", 12)
    data, config = small.make_data(tmp_path / "birds"), make_config(teacher="birdnet")
    run = prepare_run(config, data, 1, tmp_path / "run", False, Watcher())
    heard = run.teacher.embeddings
    lengths = np.linalg.norm(heard, axis=1)
    np.testing.assert_allclose(lengths, run.source.usable, atol=1e-5)
    label = run.targets.argmax(axis=1)[:, None] == run.targets.argmax(axis=1)
    alike = (heard - run.teacher_mean(1)) @ (heard - run.teacher_mean(1)).T
    assert alike[label].mean() > alike[~label].mean() + 0.01
    # In another process nothing is heard again, and batches are the same.
    other = open_run(run.out, config, data, None, run.teacher)
    for a, b in zip(run.training_data(1)[0], other.training_data(1)[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert b.shape == (small.BATCH_SIZE, 3 + heard.shape[1])
    with pytest.raises(ConfigError, match=r"training\.teacher must name a model .* Received: owl, which"):
        prepare_run(make_config(teacher="owl"), data, 0, tmp_path / "new", False, Watcher())
    assert not (tmp_path / "new").exists()
