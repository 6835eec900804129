import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from placeholder import AUDIO, LABELS, TONES_HZ

import keras_birds
from keras_birds.errors import ModelError
from keras_birds.export.half import halve_weights
from keras_birds.export.metadata import ModelMetadata
from keras_birds.export.waveform import waveform_model
from keras_birds.inference.classifier import Classifier
from keras_birds.inference.engines import OnnxEngine, logit, sigmoid

pytestmark = pytest.mark.skipif(keras.config.backend() != "torch", reason="graphs are traced by torch")


@pytest.fixture(scope="module")
def exported(placeholder_run, tmp_path_factory):
    """The placeholder's two folds as one graph that takes sound."""
    members = [onnx.load(placeholder_run / f"fold{k}" / "model.onnx") for k in range(2)]
    metadata = ModelMetadata.read_onnx(placeholder_run / "fold0" / "model.onnx")
    path = tmp_path_factory.mktemp("export") / "sound.onnx"
    onnx.save(waveform_model(members, metadata), path)
    return path


def clips():
    rng = np.random.default_rng(0)
    t = np.arange(AUDIO.clip_samples) / AUDIO.sample_rate_hz
    return np.stack([0.5 * np.sin(2 * np.pi * x * t) + rng.normal(0, 0.01, len(t)) for x in TONES_HZ]).astype(
        "float32"
    )


@pytest.mark.parametrize("batch", [1, 4])
def test_sound_goes_in_and_the_ensembles_probabilities_come_out(exported, placeholder_run, batch):
    classifier = keras_birds.load(placeholder_run)
    sound = clips()[:batch]
    session = onnxruntime.InferenceSession(exported)
    (found,) = session.run(["probabilities"], {"waveform": sound})
    np.testing.assert_allclose(found, classifier.probabilities(classifier.inputs(sound)), atol=1e-5)
    assert list(found.argmax(axis=1)) == list(range(batch))


def test_metadata_and_operators_are_what_others_can_use(exported, placeholder_run):
    model = onnx.load(exported)
    assert ModelMetadata.read_onnx(exported).labels == LABELS
    assert [x.name for x in model.graph.input] == ["waveform"]
    assert {x.domain for x in model.opset_import} == {""}
    assert not {"DFT", "STFT", "Gather"} & {x.op_type for x in model.graph.node if x.name.startswith("sound")}


def test_predict_takes_it(exported, placeholder_run, write_tone, run_command):
    tone = write_tone("tone.wav", TONES_HZ[2], seconds=5, rate=16_000)
    expected = keras_birds.load(placeholder_run).scores(tone)
    found = keras_birds.load(exported).scores(tone)
    np.testing.assert_allclose(found[list(LABELS)], expected[list(LABELS)], atol=1e-5)
    code, out, _ = run_command("predict", tone, "--model", exported, "--format", "csv")
    assert code == 0
    assert out.splitlines()[1].split(",")[2] == LABELS[2]


def test_half_precision_weights_and_sound_go_together(exported):
    halved = halve_weights(onnx.load(exported))
    session = onnxruntime.InferenceSession(halved.SerializeToString())
    (found,) = session.run(None, {"waveform": clips()})
    (expected,) = onnxruntime.InferenceSession(exported).run(None, {"waveform": clips()})
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_images_and_sound_are_no_ensemble(exported, placeholder_run):
    with pytest.raises(ModelError, match=r"must take the same\. Received: mel in"):
        Classifier([OnnxEngine(placeholder_run / "fold0" / "model.onnx"), OnnxEngine(exported)])


def test_the_logit_is_the_sigmoids_inverse():
    logits = np.linspace(-12, 12, 9, dtype=np.float32)
    np.testing.assert_allclose(logit(sigmoid(logits)), logits, atol=0.2)
    assert np.isfinite(logit(np.array([0, 1], np.float32))).all()
