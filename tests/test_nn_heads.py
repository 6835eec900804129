import keras
import numpy as np
import pytest
from layer_test import as_array

from keras_birds.nn.heads import FRAME_LOGITS, attention_logits, pooled_logits

SHAPE, NUM_LABELS = (3, 5, 7), 4
FEATURES = np.random.default_rng(0).normal(0, 1, (6, *SHAPE)).astype("float32")


def _model(head, dropout=0.0):
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, head(inputs, NUM_LABELS, dropout))


def test_attention_begins_as_the_plain_average():
    attention, pooled = _model(attention_logits), _model(pooled_logits)
    assert not any(as_array(x).any() for x in attention.get_layer("attention").weights)
    pooled.get_layer("logits").set_weights(attention.get_layer(FRAME_LOGITS).get_weights())
    answers = attention.predict(FEATURES, verbose=0)
    assert np.ptp(answers) > 0.1
    np.testing.assert_allclose(answers, pooled.predict(FEATURES, verbose=0), atol=1e-5)


@pytest.mark.parametrize("head", [pooled_logits, attention_logits])
def test_training_reaches_every_weight_and_the_logits_stay_float32(head):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = _model(head, dropout=0.5)
    finally:
        keras.config.set_dtype_policy("float32")
    assert keras.backend.standardize_dtype(model.output.dtype) == "float32"
    before = [as_array(x).copy() for x in model.trainable_weights]
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(FEATURES, np.ones((6, NUM_LABELS)), epochs=2, verbose=0)
    for old, weight in zip(before, model.trainable_weights, strict=True):
        # A bias of the attention moves all frames alike, and so does nothing.
        assert not np.array_equal(old, as_array(weight)) or weight.path.endswith("attention/bias")


def test_dropout_drops_a_channel_in_all_frames_of_a_clip():
    model = _model(attention_logits, dropout=0.5)
    dropped = keras.Model(model.inputs[0], model.get_layer("dropout").output)
    out = as_array(dropped(np.ones((6, *SHAPE), "float32"), training=True))
    assert 0 < (out == 0).mean() < 1
    np.testing.assert_array_equal(out == 0, np.broadcast_to(out[:, :1] == 0, out.shape))
