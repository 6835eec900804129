"""BirdNET's network: its layers, its front end beside TensorFlow's, and what silence does to it."""

from functools import partial

import keras
import numpy as np
import pytest
from layer_test import as_array, run_layer_test

from keras_birds.nn.birdnet import (
    SPECTROGRAMS,
    BirdNetFrontEnd,
    ChannelScale,
    birdnet_backbone,
)
from keras_birds.nn.embedding_heads import Prototypes, embedding_head
from keras_birds.nn.heads import Rivalry

SECONDS = np.arange(144_000) / 48_000


def clips():
    """Noise, a chirp, a constant and digital silence."""
    noise = np.random.default_rng(0).normal(0, 0.1, 144_000)
    chirp = 0.3 * np.sin(2 * np.pi * (200 + 2000 * SECONDS) * SECONDS) + 0.01 * noise
    return np.stack([noise, chirp, np.full(144_000, 0.3), np.zeros(144_000)]).astype(np.float32)


@pytest.mark.parametrize(
    ("layer", "input_shape", "output_shape", "num_weights"),
    [
        (BirdNetFrontEnd, (2, 144_000), (2, 96, 511, 2), (7, 1)),
        (ChannelScale, (2, 3, 5, 4), (2, 3, 5, 4), (2, 2)),
        (ChannelScale, (2, 4), (2, 4), (2, 2)),
        (Rivalry, (2, 4), (2, 4), (0, 0)),
        (partial(Prototypes, 3), (2, 4), (2, 3), (3, 2)),
    ],
)
def test_layers(layer, input_shape, output_shape, num_weights, tmp_path):
    run_layer_test(layer(), input_shape, output_shape, num_weights, tmp_path)


def test_the_front_end_refuses_clips_of_another_length():
    with pytest.raises(ValueError, match=r"\[batch, 144000\]. Received: input_shape=\(2, 96000\)"):
        BirdNetFrontEnd().build((2, 96_000))


def test_the_front_end_is_tensorflows_stft_and_mel_filters():
    """Of the published graph: min-max, periodic Hann, real part, filters, square, power, the highest mel first."""
    tf = pytest.importorskip("tensorflow", reason="needs tensorflow")
    x = clips()
    layer = BirdNetFrontEnd()
    found = as_array(layer(x))
    low = x - x.min(axis=1, keepdims=True)
    scaled = (low / (low.max(axis=1, keepdims=True) + 1e-6) - 0.5) * 2
    for number, (n_fft, hop, f_min_hz, f_max_hz) in enumerate(SPECTROGRAMS):
        real = tf.math.real(tf.signal.stft(scaled, n_fft, hop, n_fft))
        filters = tf.signal.linear_to_mel_weight_matrix(96, n_fft // 2 + 1, 48_000, f_min_hz, f_max_hz)
        power = tf.square(tf.tensordot(real, filters, 1)).numpy() ** (1 / (1 + np.exp(1.23)))
        expected = power[..., ::-1].transpose(0, 2, 1)
        # Of silence there is rounding alone, which the power of 0.2 makes large.
        np.testing.assert_allclose(found[:2, ..., number], expected[:2], rtol=1e-3, atol=0.02)
        assert np.abs(found[:2, ..., number] - expected[:2]).mean() < 1e-4
        assert np.abs(found[2:, ..., number] - expected[2:]).max() < 0.1


@pytest.mark.parametrize("factor", [1, 0])
def test_silence_gives_numbers_and_gradients_that_are_numbers(factor):
    """Also where rounding leaves a power of exactly 0, whose slope has no end."""
    front_end = BirdNetFrontEnd()
    inputs = keras.Input((144_000,))
    model = keras.Model(inputs, front_end(ChannelScale()(inputs)))
    for x in front_end.non_trainable_weights:
        x.assign(factor * x)
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    model.fit(clips()[2:], np.ones((2, 96, 511, 2), np.float32), verbose=0)
    assert all(np.isfinite(x).all() for x in model.get_weights())


def test_the_front_end_and_the_logits_stay_float32_in_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        backbone = birdnet_backbone()
        logits = embedding_head(backbone.output, 3)
    finally:
        keras.config.set_dtype_policy("float32")
    front_end = backbone.get_layer("front_end")
    assert keras.backend.standardize_dtype(backbone.get_layer("stem_conv").compute_dtype) == "bfloat16"
    assert {front_end.compute_dtype, backbone.input.dtype, logits.dtype} == {"float32"}
    np.testing.assert_allclose(as_array(front_end(clips()[:2])), as_array(BirdNetFrontEnd()(clips()[:2])))
    assert backbone.output.shape == (None, 1024)
