import keras
import numpy as np
import pytest
from layer_test import through_file

from keras_birds.audio.mel import MelTransform
from keras_birds.config import AudioConfig, MelConfig
from keras_birds.nn.log_mel import LogMelSpectrogram

AUDIO = AudioConfig(sample_rate_hz=16_000, clip_s=1.0)
MEL = MelConfig(n_fft=512, hop_samples=250, n_mels=48, f_max_hz=8000.0, height=48, width=65)
PUBLISHED = AudioConfig(), MelConfig()
QUICK = AudioConfig(), MelConfig(n_fft=2048, hop_samples=1255, height=128, width=128)


def clips_of(audio, n=3):
    rng = np.random.default_rng(0)
    t = np.arange(audio.clip_samples) / audio.sample_rate_hz
    tones = [np.sin(2 * np.pi * f * t * (1 + 0.2 * t)) for f in (400, 1700, 5000)[:n]]
    return np.stack([0.3 * x + rng.normal(0, 0.01, len(t)) for x in tones]).astype(np.float32)


def images_of(layer, clips):
    return keras.ops.convert_to_numpy(layer(keras.ops.convert_to_tensor(clips)))


@pytest.mark.parametrize(
    ("audio", "mel"),
    [
        (AUDIO, MEL),
        (AUDIO, MEL.model_copy(update={"height": 32, "width": 32})),
        (AUDIO, MEL.model_copy(update={"n_fft": 600})),
        (AUDIO, MEL.model_copy(update={"n_fft": 509})),  # a prime
        (AUDIO, MEL.model_copy(update={"feature": "mfcc", "n_mfcc": 20})),
        PUBLISHED,
        QUICK,
    ],
)
def test_the_layer_is_the_numpy_transform(audio, mel):
    clips = clips_of(audio)
    expected = MelTransform(audio, mel).images(clips)
    found = images_of(LogMelSpectrogram(audio, mel), clips)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-3
    assert np.abs(found - expected).mean() < 1e-5


def test_a_clip_does_not_depend_on_its_batch_mates_and_silence_is_zeros():
    layer, clips = LogMelSpectrogram(AUDIO, MEL), clips_of(AUDIO)
    batch = np.concatenate([clips[:1], 1e4 * clips[1:2], np.zeros_like(clips[:1])])
    found = images_of(layer, batch)
    np.testing.assert_allclose(found[0], images_of(layer, clips[:1])[0], atol=1e-6)
    np.testing.assert_allclose(found[1], images_of(layer, clips[1:2])[0], atol=1e-4)
    assert not found[2].any()


def test_a_model_with_the_layer_survives_its_file(tmp_path):
    inputs, clips = keras.Input((AUDIO.clip_samples,)), clips_of(AUDIO)
    model = keras.Model(inputs, LogMelSpectrogram(AUDIO, MEL, name="mel")(inputs))
    assert model.output_shape == (None, 48, 65, 1)
    found = through_file(model, tmp_path).predict(clips, verbose=0)
    np.testing.assert_array_equal(found, model.predict(clips, verbose=0))


def test_other_lengths_are_refused():
    with pytest.raises(ValueError, match=r"clips must have the shape \[batch, 16000\]"):
        LogMelSpectrogram(AUDIO, MEL)(np.zeros((1, 8000), np.float32))
