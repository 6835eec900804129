"""What has to be the same on torch, jax and tensorflow; `make test` runs this file on each.

Everything else of nn/ and training/ is tested on torch, the default. References are PyTorch's functions, NumPy or
scikit-learn, never another run of the code.
"""

import math
import zipfile

import keras
import numpy as np
import pandas as pd
import pytest
import torch
from keras import ops
from layer_test import as_array, through_file
from placeholder import make_metadata
from small_run import Watcher, files_below, make_config
from torch.nn import functional
from yardstick import copy_weights, gratings, make_yardstick

from keras_birds.audio.mel import MelTransform
from keras_birds.config import AudioConfig, Config, MelConfig
from keras_birds.errors import TrainingError
from keras_birds.models.keras_engine import KerasEngine
from keras_birds.models.preset_checks import check_keras_config, check_keras_weights
from keras_birds.nn import layers
from keras_birds.nn.augment import MelMixUp, build_augment
from keras_birds.nn.birdnet import SPECTROGRAMS, BirdNetFrontEnd, ChannelScale, mel_filters
from keras_birds.nn.build import build_model
from keras_birds.nn.clip_augmentation import PitchShift, SpecAugment, TimeShift, TimeStretch, Volume
from keras_birds.nn.embedding_heads import embedding_head, prototype_head
from keras_birds.nn.heads import FRAME_LOGITS, AttentionMean, Rivalry, attention_logits
from keras_birds.nn.log_mel import LogMelSpectrogram
from keras_birds.nn.losses import MaskedBinaryCrossentropy, MixedLoss, SoftAUC
from keras_birds.nn.metrics import MaskedMacroAUC, macro_auc
from keras_birds.training import callbacks
from keras_birds.training.averaging import AverageWeights
from keras_birds.training.callbacks import BEST, CHECKPOINT, MONITOR, Checkpoint, load_checkpoint
from keras_birds.training.network import compile_model

ON_JAX = keras.config.backend() == "jax"
JIT = False if keras.config.backend() == "torch" else "auto"


@pytest.fixture(scope="module", autouse=True)
def quick_compiler():
    """jax takes less trouble over what runs once."""
    if ON_JAX:
        import jax

        jax.config.update("jax_disable_most_optimizations", True)


def normal(*shape, seed=0, mean=0.0):
    return np.random.default_rng(seed).normal(mean, 1, shape).astype("float32")


def first(x):
    """As torch's functions take images: channels first."""
    return torch.from_numpy(x).permute(0, 3, 1, 2)


def last(x):
    return x.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("kind", ["full", "depthwise"])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 2), (5, 1)])
def test_convolutions_are_torchs_with_symmetric_padding(kind, kernel, stride):
    settings = {"use_bias": True, "activation": "silu" if kernel == 3 else None}
    if kind == "full":
        layer, groups, order = layers.SymmetricConv2D(4, kernel, stride, **settings), 1, (3, 2, 0, 1)
    else:
        layer = layers.SymmetricDepthwiseConv2D(kernel, stride, depth_multiplier=2, **settings)
        groups, order = 5, (2, 3, 0, 1)
    layer.build((None, None, None, 5))
    weights = [normal(*x.shape, seed=1) for x in layer.weights]
    layer.set_weights(weights)
    x = normal(2, 7, 10, 5)
    kernel_, bias = torch.from_numpy(weights[0].transpose(order)), torch.from_numpy(weights[1].ravel())
    kernel_ = kernel_.reshape(-1, 5 // groups, kernel, kernel)
    expected = functional.conv2d(first(x), kernel_, bias, stride, kernel // 2, groups=groups)
    expected = last(functional.silu(expected) if kernel == 3 else expected)
    found = as_array(layer(x))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    assert layer(keras.Input((None, 10, 5))).shape == (None, None, *expected.shape[2:])


@pytest.mark.parametrize(
    ("activation", "dtype", "tolerance"),
    [(None, "float32", 1e-5), ("silu", "float32", 1e-5), ("silu", "mixed_bfloat16", 0.02)],
)
def test_batch_norm_is_torchs_in_training_inference_and_frozen(activation, dtype, tolerance):
    layer = layers.BatchNorm(activation=activation, dtype=dtype)
    layer.build((None, None, None, 5))
    gamma, beta, mean, variance = (np.abs(normal(5, seed=k)) + 0.1 for k in range(4))
    layer.set_weights([gamma, beta, mean, variance])
    x = normal(4, 5, 3, 5, mean=1.0)
    arrays = [torch.from_numpy(a.copy()) for a in (mean, variance, gamma, beta)]
    for training, trainable in ((True, True), (False, True), (True, False)):
        layer.trainable = trainable
        expected = functional.batch_norm(first(x), *arrays, training and trainable, 0.1, 1e-5)
        expected = functional.silu(expected) if activation else expected
        found = layer(x, training=training)
        assert keras.backend.standardize_dtype(found.dtype) == dtype.removeprefix("mixed_")
        found = as_array(ops.cast(found, "float32"))
        np.testing.assert_allclose(found, last(expected), rtol=10 * tolerance, atol=tolerance)
        # Keras averages the biased variance, torch the unbiased one.
        arrays[1] = torch.from_numpy(0.9 * variance + 0.1 * x.var((0, 1, 2)))
        for average, wanted in ((layer.moving_mean, arrays[0]), (layer.moving_variance, arrays[1])):
            assert keras.backend.standardize_dtype(average.dtype) == "float32"
            np.testing.assert_allclose(as_array(average), wanted, rtol=tolerance)


def test_birdnets_front_end_is_the_real_part_of_a_fourier_transform_through_mel_filters():
    clips = normal(2, 144_000)
    scaled = 2 * (clips - clips.min(1, keepdims=True)) / np.ptp(clips, 1)[:, None] - 1
    expected = []
    for spectrogram in SPECTROGRAMS:
        n_fft, hop = spectrogram[:2]
        frames = np.lib.stride_tricks.sliding_window_view(scaled, n_fft, axis=1)[:, ::hop]
        real = np.fft.rfft(frames * np.hanning(n_fft + 1)[:-1]).real
        mel = real @ mel_filters(spectrogram)[:, ::-1]
        expected.append(np.abs(mel) ** (2 / (1 + np.exp(1.23))))
    expected = np.stack(expected, axis=-1).transpose(0, 2, 1, 3)
    found = as_array(BirdNetFrontEnd()(clips))
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert np.abs(found - expected).mean() < 1e-4
    layer = ChannelScale()
    layer.build((None, None, None, 2))
    layer.set_weights([np.float32([2, 3]), np.float32([1, -1])])
    np.testing.assert_allclose(as_array(layer(found)), found * [2, 3] + [1, -1], rtol=1e-5, atol=1e-5)


def test_means_gates_and_stochastic_depth_which_drops_whole_clips_at_its_rate_while_training():
    x, gate = normal(3, 5, 7, 4, mean=2.0), normal(3, 1, 1, 4, seed=1)
    means = as_array(layers.GlobalMean(keepdims=True)(x))
    np.testing.assert_allclose(means, x.mean((1, 2), keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(as_array(layers.ScaleChannels()([x, gate])), x * gate, rtol=1e-6)

    layer, number, rate = layers.StochasticDepthAdd(0.3, seed=1), 4000, 0.3
    shortcut, branch = normal(number, 2, 1, 3), np.abs(normal(number, 2, 1, 3, seed=1)) + 0.5
    added = as_array(layer([shortcut, branch], training=True)) - shortcut
    is_dropped = np.abs(added).max(axis=(1, 2, 3)) < 1e-6
    np.testing.assert_allclose(added[~is_dropped], branch[~is_dropped] / (1 - rate), rtol=1e-4, atol=1e-5)
    # Five standard deviations.
    assert is_dropped.mean() == pytest.approx(rate, abs=5 * (rate * (1 - rate) / number) ** 0.5)
    plain = as_array(layer([shortcut, branch], training=False))
    np.testing.assert_allclose(plain, shortcut + branch, rtol=1e-6)


def test_labels_give_way_to_what_is_surer_of_the_same_clip():
    scores = np.float32([[6, 6, -9], [6, -9, -9], [-9, -9, -9]])
    found = as_array(Rivalry()(scores))
    np.testing.assert_allclose(
        found, scores - 0.5 * np.log1p(np.exp(scores).sum(1, keepdims=True)), rtol=1e-5
    )
    assert found[0, 0] < found[1, 0]
    np.testing.assert_allclose(as_array(Rivalry(0.0)(scores)), scores)
    with pytest.raises(ValueError, match=r"from 0 to 1. Received: share=1.5"):
        Rivalry(1.5)


def test_the_attention_head_is_the_attentive_mean_of_its_frames():
    """At first a plain one; dropout takes a channel from all frames."""
    inputs = keras.Input((3, 5, 7))
    model = keras.Model(inputs, attention_logits(inputs, 4, 0.5))
    assert not any(x.any() for x in model.get_layer("attention").get_weights())
    model.set_weights([normal(*x.shape, seed=k) for k, x in enumerate(model.get_weights())])
    features = normal(6, 3, 5, 7)
    (kernel, bias), (attention, _) = (model.get_layer(x).get_weights() for x in (FRAME_LOGITS, "attention"))
    means = features.mean(axis=1)
    frames, weights = means @ kernel + bias, np.exp(means @ attention)
    expected = (frames * weights).sum(1) / weights.sum(1)
    np.testing.assert_allclose(as_array(model(features)), expected, rtol=1e-3, atol=1e-4)
    dropped = keras.Model(inputs, model.get_layer("dropout").output)
    is_zero = as_array(dropped(np.ones_like(features), training=True)) == 0
    assert 0 < is_zero.mean() < 1
    np.testing.assert_array_equal(is_zero, np.broadcast_to(is_zero[:, :1], is_zero.shape))


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize(("smoothing", "gamma"), [(0, 0), (0.2, 2.0)])
def test_the_loss_is_the_mean_over_unmasked_targets(from_logits, smoothing, gamma):
    rng = np.random.default_rng(0)
    targets = rng.choice([0.0, 0.5, 1.0, -1.0], (16, 6)).astype("float32")
    logits = rng.normal(0, 3, (16, 6))
    probabilities = 1 / (1 + np.exp(-logits))
    smooth = targets * (1 - smoothing) + 0.5 * smoothing
    losses = (np.logaddexp(0, logits) - logits * smooth) * np.abs(smooth - probabilities) ** gamma
    weights = np.array([1, 2, 3, 1, 5, 0.5])
    for positive_weights, factor in ((None, 1.0), (weights.tolist(), 1 + (weights - 1) * targets)):
        loss = MaskedBinaryCrossentropy(from_logits, smoothing, gamma, positive_weights)
        found = loss(targets, (logits if from_logits else probabilities).astype("float32"))
        assert float(found) == pytest.approx((losses * factor)[targets >= 0].mean(), rel=1e-4)


def test_soft_auc_is_the_logistic_loss_of_pairs_weighted_by_how_far_their_targets_differ():
    """Of one label with hard targets it is that of every positive with every negative."""
    rng = np.random.default_rng(0)
    targets, logits = rng.choice([0.0, 0.3, 1.0, -1.0], (9, 4)).astype("float32"), normal(9, 4, seed=1) * 3
    weights = losses = 0.0
    for label in range(4):
        for i in np.flatnonzero(targets[:, label] >= 0):
            for j in np.flatnonzero((targets[:, label] >= 0) & (targets[:, label] < targets[i, label])):
                weight = targets[i, label] - targets[j, label]
                weights += weight
                losses += weight * np.logaddexp(0, logits[j, label] - logits[i, label])
    assert float(SoftAUC()(targets, logits)) == pytest.approx(losses / weights, rel=1e-5)
    mixed = MixedLoss(MaskedBinaryCrossentropy(), SoftAUC(), 0.25)
    expected = 0.75 * float(MaskedBinaryCrossentropy()(targets, logits)) + 0.25 * losses / weights
    assert float(mixed(targets, logits)) == pytest.approx(expected, rel=1e-5)
    assert isinstance(make_dense(soft_auc=0.25).loss, MixedLoss)


@pytest.mark.parametrize("from_logits", [True, False])
def test_the_metric_is_near_scikit_learns(from_logits):
    """Also of tiny probabilities; masked scores would move it far, and a label without positives does not count."""
    rng = np.random.default_rng(0)
    targets = rng.choice([0.0, 1.0, -1.0], (2000, 12), p=[0.85, 0.05, 0.1]).astype("float32")
    targets[:, 0] = 0
    logits = rng.normal(-11, 1.5, targets.shape) + 1.5 * (targets > 0)
    logits = np.where(targets < 0, 15, logits).astype("float32")
    metric = MaskedMacroAUC(12, from_logits)
    scores = logits if from_logits else 1 / (1 + np.exp(-logits))
    for part in np.split(np.arange(2000), 4):
        metric.update_state(targets[part], scores[part])
    assert float(metric.result()) == pytest.approx(macro_auc(targets, logits), abs=0.002)
    assert 0.7 < macro_auc(targets, logits) < 0.9
    assert np.isnan(float(MaskedMacroAUC(2).result()))


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 65},
        {"n_fft": 600, "height": 32, "width": 32},
        {"n_fft": 509},  # a prime
        {"feature": "mfcc", "n_mfcc": 20},
        {"n_fft": 2048, "hop_samples": 1255},
        None,
    ],
)
def test_the_mel_layer_is_the_numpy_transform(changes):
    """Of each clip by itself, whatever its level, and of silence."""
    small = {"n_fft": 512, "hop_samples": 250, "n_mels": 48, "f_max_hz": 8000.0, "height": 48, "width": 64}
    audio = AudioConfig(sample_rate_hz=16_000, clip_s=1.0) if changes else AudioConfig()
    mel = MelConfig(**small | changes) if changes else MelConfig()
    t, rng = np.arange(audio.clip_samples) / audio.sample_rate_hz, np.random.default_rng(0)
    chirps = [np.sin(2 * np.pi * f * t * (1 + 0.2 * t)) + rng.normal(0, 0.03, len(t)) for f in (400, 1700)]
    clips = np.stack([chirps[0], 1e4 * chirps[1], 0 * t]).astype(np.float32)
    found = as_array(LogMelSpectrogram(audio, mel)(ops.convert_to_tensor(clips)))
    expected = MelTransform(audio, mel).images(clips)
    assert found.shape == expected.shape == (3, mel.height, mel.width, 1)
    assert np.abs(found - expected).max() < 1e-3
    assert np.abs(found - expected).mean() < 1e-5
    assert not found[2].any()


@pytest.mark.parametrize("cls", [SpecAugment, TimeShift, TimeStretch, PitchShift, Volume])
def test_augmentation_of_tensors_is_that_of_arrays(cls):
    """Equal draws give equal images through the backend and through NumPy."""
    layer, images = cls(probability=1.0, seed=3), np.random.default_rng(0).random((6, 32, 32, 1), np.float32)
    draws, again = np.random.default_rng(5), np.random.default_rng(5)

    def uniform(*shape):
        return ops.convert_to_tensor(draws.random(shape, np.float32))

    on_backend = as_array(layer._transform(ops, ops.convert_to_tensor(images), uniform))
    in_numpy = layer._transform(np, images, lambda *shape: again.random(shape, np.float32))
    np.testing.assert_allclose(on_backend, in_numpy, atol=2e-4 if cls is PitchShift else 1e-5)
    np.testing.assert_array_equal(as_array(layer(images, training=False)), images)
    assert not np.array_equal(as_array(cls(probability=1.0, seed=3)(images, training=True)), images)


@pytest.mark.parametrize("on_arrays", [False, True])
def test_mixup_blends_images_and_labels_with_one_weight_a_clip_and_keeps_masks(on_arrays):
    rng, layer = np.random.default_rng(0), MelMixUp(0.5, seed=2)
    images, more = rng.random((8, 4, 4, 1), np.float32), rng.choice([-1, 0, 1], (8, 5), p=[0.2, 0.4, 0.4])
    labels = np.hstack([np.eye(8), more]).astype("float32")
    if on_arrays:
        mixed, found = layer.augment_arrays(images, labels, rng)
    else:
        mixed, found = map(as_array, layer({"images": images, "labels": labels}).values())
    weights = found[:, :8]
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(mixed, np.tensordot(weights, images, 1), atol=1e-5)
    masked = (weights > 0) @ (more < 0)
    np.testing.assert_allclose(found[:, 8:], np.where(masked, -1, weights @ more), atol=1e-6)
    assert (np.count_nonzero(weights, axis=1) == 2).sum() >= 4
    assert len(np.unique(weights.diagonal().round(4))) >= 4


def test_training_augments_alike():
    """The values were computed on torch: nothing of a backend enters."""
    on = {name: {"probability": 0.5} for name in ("time_stretch", "pitch_shift", "volume")}
    rng = np.random.default_rng(0)
    images, labels = rng.random((8, 64, 64, 1), np.float32), np.eye(8, dtype="float32")
    images, labels = build_augment(Config.parse({"augment": on}))(images, labels, 7)
    assert images.astype("float64").mean() == pytest.approx(0.3838835, abs=1e-6)
    assert labels.max(axis=1).mean() == pytest.approx(0.9072850, abs=1e-6)


def test_the_network_is_plain_pytorchs_through_a_file_and_a_step_of_training(shallow_network, tmp_path):
    """Also moving averages; of the variances, which torch takes unbiased, the last batch's share within a part."""
    stages = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 1, 2, 5)]
    module = make_yardstick(3, 32, stages)
    config = make_config(model={"dropout": 0.0, "drop_path": 0.0})
    model = build_model(config, 3)
    copy_weights(module, model)
    images = gratings(5, 32, 32, seed=2)
    with torch.no_grad():
        expected = module.eval()(first(images)).numpy()
    assert expected.std(0).min() > 0.01
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, atol=1e-4)
    found = through_file(model, tmp_path).predict(images, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-4)

    x, targets = gratings(4, 32, 32, seed=3), np.eye(4, 3, dtype="float32")
    targets[3, 1] = -1
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(0.1), MaskedBinaryCrossentropy(), jit_compile=JIT)
    model.fit(x, targets, batch_size=4, epochs=1, verbose=0)
    found = model.get_weights()
    step = torch.optim.SGD(module.parameters(), 0.1)
    logits, wanted = module.train()(first(x)), torch.from_numpy(targets)
    functional.binary_cross_entropy_with_logits(logits[wanted >= 0], wanted[wanted >= 0]).backward()
    step.step()
    copy_weights(module, model)
    changed = [np.abs(a - b).max() > 1e-4 for a, b in zip(before, found, strict=True)]
    assert np.mean(changed) > 0.7
    for weight, old, new in zip(model.weights, before, found, strict=True):
        if "seed_generator" in weight.path or "variance" in weight.path:
            continue
        change = as_array(weight) - old
        np.testing.assert_allclose(new - old, change, rtol=0.02, atol=0.01 * np.abs(change).max() + 1e-7)


def make_dense(steps_per_epoch=5, features=4, **training):
    """A small network, compiled as training compiles its own."""
    model = keras.Sequential([keras.Input((features,)), keras.layers.Dense(3)])
    compile_model(model, make_config(**training), steps_per_epoch)
    return model


def test_the_learning_rate_rises_then_falls_at_every_step():
    model = make_dense(4, epochs=3, weight_decay=0.03, warmup_epochs=0.5)
    assert isinstance(model.optimizer, keras.optimizers.AdamW)
    assert model.optimizer.weight_decay == 0.03
    assert isinstance(model.loss, MaskedBinaryCrossentropy)
    rates = []
    for _ in range(13):
        rates.append(float(as_array(model.optimizer.learning_rate)))
        logs = model.train_on_batch(np.ones((2, 4)), np.array([[1.0, 0, -1], [0, 1, 1]]), return_dict=True)
    assert set(logs) == {"loss", "macro_auc"}
    fall = (1 + np.cos(np.pi * np.arange(11) / 10)) / 2
    np.testing.assert_allclose(rates, [0, 2.5e-3, *(1e-6 + (5e-3 - 1e-6) * fall)], rtol=1e-4, atol=1e-9)


def test_the_kept_epoch_is_kept_and_the_last_one_gone_on_with(tmp_path):
    """Of equals the first is best; while the macro-AUC isn't defined, the last."""
    model, other, history, watcher = make_dense(), make_dense(), [], Watcher()
    aucs = [math.nan, math.nan, 0.5, 0.9, 0.7, 0.9, math.nan]
    for epoch, (area, kept_epoch) in enumerate(zip(aucs, [1, 2, 3, 4, 4, 4, 4], strict=True), 1):
        model.train_on_batch(np.ones((2, 4)), np.eye(3)[:2])
        model.set_weights([np.full_like(x, epoch) for x in model.get_weights()])
        callback = Checkpoint(tmp_path, history, 9, "best", watcher)
        callback.set_model(model)
        callback.on_epoch_begin(epoch - 1)
        callback.on_epoch_end(epoch - 1, {"loss": 0.1 * epoch, MONITOR: area})
        assert watcher.lines[-1].startswith(f"epoch {epoch}/9  loss 0.{epoch}000")
        assert ("best so far" in watcher.lines[-1]) == (kept_epoch == epoch)
        with np.load(tmp_path / BEST) as best:
            assert {best[str(i)].mean() for i in range(len(best) - 1)} == {kept_epoch}
        history = load_checkpoint(tmp_path, other)
        assert callbacks.kept_epoch(history, "best") == kept_epoch
        assert callbacks.kept_epoch(history, "last") == epoch
        assert {x.mean() for x in other.get_weights()} == {epoch}
        assert [x["loss"] for x in history] == [0.1 * e for e in range(1, epoch + 1)]
        for a, b in zip(model.optimizer.variables, other.optimizer.variables, strict=True):
            np.testing.assert_array_equal(as_array(a), as_array(b))
    assert int(as_array(other.optimizer.iterations)) == len(aucs)
    assert files_below(tmp_path) == {CHECKPOINT, BEST}
    with pytest.raises(TrainingError, match=r"checkpoint\.npz: the checkpoint must be of this network"):
        load_checkpoint(tmp_path, make_dense(features=5))
    (tmp_path / CHECKPOINT).write_bytes(b"PK half a file")
    with pytest.raises(TrainingError, match=r"must be a checkpoint that .* the fold's folder"):
        load_checkpoint(tmp_path, other)
    # Durations are told in two units.
    expected = {0.4: "0 s", 59.4: "59 s", 61: "1 min 01 s", 3599: "59 min 59 s", 7500: "2 h 05 min"}
    assert {x: callbacks.duration(x) for x in expected} == expected


def test_a_resumed_training_ends_as_an_uninterrupted_one(tmp_path):
    """Weights, optimizer, learning rate and the draws of dropout; the file keeps loss and metric."""
    rng, whole, parted = np.random.default_rng(1), tmp_path / "whole", tmp_path / "parted"
    x, targets = normal(16, 16), rng.choice([0.0, 1.0, -1.0], (16, 3)).astype("float32")
    whole.mkdir()
    parted.mkdir()

    def fit(folder, epochs):
        keras.utils.set_random_seed(0)
        parts = keras.Input((16,)), keras.layers.Dense(8), keras.layers.Dropout(0.5), keras.layers.Dense(3)
        model = keras.Sequential(parts)
        compile_model(model, make_config(epochs=3), 4)
        begun = load_checkpoint(folder, model)
        each = [callbacks.SeedEachEpoch(7), Checkpoint(folder, begun, 3, "last", Watcher())]
        settings = {"batch_size": 4, "epochs": epochs, "shuffle": False, "verbose": 0}
        model.fit(x, targets, initial_epoch=len(begun), callbacks=each, **settings)
        return model, pd.DataFrame(each[1].history).drop(columns="seconds")

    fit(parted, 1)
    (expected, steps), (resumed, found) = fit(whole, 3), fit(parted, 3)
    pd.testing.assert_frame_equal(found, steps, rtol=1e-5)
    for a, b in zip(resumed.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    saved = through_file(resumed, parted)
    before, after = (m.evaluate(x, targets, verbose=0, return_dict=True) for m in (resumed, saved))
    assert after == pytest.approx(before, rel=1e-5)
    assert set(after) == {"loss", "macro_auc"}


def test_averaged_weights_are_the_mean_over_last_epochs_with_statistics_of_their_own(tmp_path):
    """Also where a checkpoint lies between; the averages of batch normalisation are plain means over the batches."""
    keras.utils.set_random_seed(0)
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), layers.BatchNorm()], name="inner")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3)(inner(inputs)))
    compile_model(model, make_config(epochs=4), 2)
    seen = []
    for epoch in range(4):
        average = AverageWeights(model, 1)
        average.set_model(model)
        load_checkpoint(tmp_path, model, average.variables)
        model.train_on_batch(normal(8, 4, seed=epoch), np.eye(8, 3))
        seen.append([as_array(x) for x in model.trainable_variables])
        average.on_epoch_end(epoch)
        callback = Checkpoint(tmp_path, [], 4, "last", Watcher(), average.variables)
        callback.set_model(model)
        callback.on_epoch_end(epoch, {})
    batches = [normal(5, 4, seed=9), normal(5, 4, seed=10, mean=2.0), normal(5, 4, seed=11)]
    average.apply(model, batches)
    expected = [np.mean(x, axis=0) for x in zip(*seen[1:], strict=True)]
    for x, mean in zip(model.trainable_variables, expected, strict=True):
        np.testing.assert_allclose(as_array(x), mean, rtol=1e-4, atol=1e-6)
    norm, outputs = inner.layers[-1], [x @ expected[0] + expected[1] for x in batches]
    means, variances = ([f(x, axis=0) for x in outputs] for f in (np.mean, np.var))
    np.testing.assert_allclose(as_array(norm.moving_mean), np.mean(means, 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(as_array(norm.moving_variance), np.mean(variances, 0), rtol=1e-4)
    assert norm.momentum == 0.9


def test_an_attention_engine_scores_any_number_of_clips_and_gives_frames(tmp_path):
    inputs = keras.Input((32, 32, 1))
    frames = keras.layers.Reshape((8, 4), name=FRAME_LOGITS)(keras.layers.MaxPooling2D((4, 8))(inputs))
    keras.Model(inputs, AttentionMean()([frames, frames])).save(tmp_path / "model.keras")
    make_metadata().write_json(tmp_path / "model.json")
    engine, images = KerasEngine(tmp_path / "model.keras"), normal(5, 32, 32, 1)
    frames = images.reshape(5, 8, 4, 4, 8).max(axis=(2, 4))
    logits = (frames * np.exp(frames)).sum(axis=1) / np.exp(frames).sum(axis=1)
    for n in (1, 3, 5):
        np.testing.assert_allclose(engine.frame_logits(images[:n]), frames[:n], atol=1e-5)
        np.testing.assert_allclose(engine.logits(images[:n]), logits[:n], atol=1e-5)


@pytest.mark.usefixtures("shallow_network")
@pytest.mark.parametrize("head", ["pool", "attention", embedding_head, prototype_head])
def test_every_network_may_be_shared_and_keras_loads_its_files(head, tmp_path):
    if isinstance(head, str):
        model = build_model(Config.parse({"model": {"head": head}}, "test"), 3)
    else:
        embedding = keras.Input((16,))
        model = keras.Model(embedding, head(embedding, 3, dropout=0.1))
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        archive.extractall(tmp_path / "shared")
    check_keras_config(tmp_path / "shared" / "config.json")
    check_keras_weights(tmp_path / "shared" / "model.weights.h5")
    again = keras.saving.load_model(tmp_path / "shared")
    for a, b in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
