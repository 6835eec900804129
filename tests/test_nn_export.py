"""Parity: a saved model scores the same in Keras and in ONNX Runtime."""

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from placeholder import LABELS, make_metadata, make_model
from yardstick import copy_weights, gratings, make_yardstick

from keras_birds.config import Config
from keras_birds.errors import ModelError
from keras_birds.inference.classifier import load
from keras_birds.models.engines import OnnxEngine
from keras_birds.models.keras_engine import KerasEngine, load_keras_model
from keras_birds.models.logits import sigmoid
from keras_birds.models.onnx_export import example_images, export_onnx
from keras_birds.nn.build import build_model, dtype_policy

MEL = {"height": 64, "width": 64}
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def scored_fold(tmp_path_factory):
    """The real network with the yardstick's weights, saved, exported and scored; read-only."""
    folder = tmp_path_factory.mktemp("torch") / "fold0"
    folder.mkdir()
    config = Config(mel=MEL)
    model = build_model(config, len(LABELS))
    copy_weights(make_yardstick(len(LABELS), 64), model)
    images = gratings(16, 64, 64)
    scores = sigmoid(model.predict_on_batch(images))
    assert scores.std(axis=0).min() > 100 * TOLERANCE, "the images must be told apart"
    model.save(folder / "model.keras")
    metadata = make_metadata("torch/fold0", audio=config.audio, mel=config.mel)
    metadata.write_json(folder / "model.json")
    export_onnx(folder / "model.keras", folder / "model.onnx", metadata)
    return folder, images, scores


def test_scores_of_a_torch_model_are_the_same_in_onnx_runtime(scored_fold):
    folder, images, expected = scored_fold
    engine = OnnxEngine(folder / "model.onnx")
    assert engine.metadata.model_id == "torch/fold0"
    assert sorted(x.name for x in folder.iterdir()) == ["model.json", "model.keras", "model.onnx"]
    for n in (1, 5):
        np.testing.assert_allclose(sigmoid(engine.logits(images[:n])), expected[:n], rtol=0, atol=TOLERANCE)


def test_both_engines_score_a_recording_alike(scored_fold, write_tone):
    clip = write_tone("clip.ogg", 2000.0, seconds=33.0, rate=44_100)
    with_onnx, with_keras = (load(scored_fold[0], engine=x).score_file(clip) for x in ("onnx", "keras"))
    assert with_onnx.scores.shape == (7, len(LABELS))
    np.testing.assert_allclose(with_keras.scores, with_onnx.scores, rtol=0, atol=TOLERANCE)


def test_the_graph_is_as_the_contract_says(scored_fold):
    session = onnxruntime.InferenceSession(scored_fold[0] / "model.onnx")
    (x,), (y,) = session.get_inputs(), session.get_outputs()
    assert (x.name, x.shape, x.type) == ("mel", ["batch", 64, 64, 1], "tensor(float)")
    assert (y.name, y.shape, y.type) == ("logits", ["batch", len(LABELS)], "tensor(float)")


def test_a_bfloat16_model_is_exported_in_float32(tmp_path):
    with dtype_policy("mixed_bfloat16"):
        keras.utils.set_random_seed(2)
        mixed = build_model(Config(mel=MEL), len(LABELS))
        mixed.save(tmp_path / "model.keras")
        export_onnx(tmp_path / "model.keras", tmp_path / "model.onnx", make_metadata(mel=Config(mel=MEL).mel))
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    exact = build_model(Config(mel=MEL), len(LABELS))
    exact.set_weights(mixed.get_weights())
    images = np.random.default_rng(2).random((2, 64, 64, 1), np.float32)
    logits = OnnxEngine(tmp_path / "model.onnx").logits(images)
    np.testing.assert_allclose(logits, exact.predict_on_batch(images), rtol=0, atol=TOLERANCE)
    types = {x.data_type for x in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert onnx.TensorProto.BFLOAT16 not in types


def test_a_model_that_is_ill_conditioned_only_where_no_sound_is_gets_exported(tmp_path):
    """As trained networks are: on uniform noise, which no mel image resembles, their rounding errors are large."""
    ops = keras.ops
    base = make_model()
    image = keras.Input(base.inputs[0].shape[1:])
    roughness = ops.mean(ops.abs(image[:, 1:] - image[:, :-1]), axis=(1, 2, 3))
    rounding = ops.mean(image, axis=(1, 2, 3)) - ops.mean(ops.mean(image, axis=2), axis=(1, 2))
    error = ops.relu(roughness - 0.25) * rounding * 1e9
    model = keras.Model(image, base(image) + ops.expand_dims(error, -1))
    metadata = make_metadata()
    images = example_images(metadata)
    assert images.shape == (3, *model.inputs[0].shape[1:])
    assert np.abs(np.diff(images, axis=1)).mean(axis=(1, 2, 3)).max() < 0.25
    noise = np.random.default_rng(0).random(images.shape, np.float32)
    assert np.abs(model.predict_on_batch(noise) - base.predict_on_batch(noise)).max() > 100 * TOLERANCE
    model.save(tmp_path / "model.keras")
    export_onnx(tmp_path / "model.keras", tmp_path / "model.onnx", metadata)
    assert OnnxEngine(tmp_path / "model.onnx").metadata == metadata


def test_a_model_that_is_not_what_its_metadata_says_is_not_exported(tmp_path):
    make_model().save(tmp_path / "model.keras")
    metadata = make_metadata(labels=type(LABELS)(LABELS.items[:2]))
    message = r"model\.keras: .*32, 32, 1\] -> \[batch, 2\]\. Received: .*batch, 4\]"
    with pytest.raises(ModelError, match=message) as caught:
        export_onnx(tmp_path / "model.keras", tmp_path / "model.onnx", metadata)
    # Also where another process says so: without the error's class before it.
    assert str(caught.value).startswith(str(tmp_path / "model.keras"))
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("keep", [0, 10, 3000])
def test_a_damaged_keras_file_is_one_line(tmp_path, keep):
    path = tmp_path / "model.keras"
    make_model().save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.keras: must be a whole \.keras file") as caught:
        load_keras_model(path)
    assert "\n" not in str(caught.value)


def test_a_keras_file_without_metadata_says_to_copy_the_folder(tmp_path):
    make_model().save(tmp_path / "model.keras")
    with pytest.raises(ModelError, match=r"neither model\.onnx nor model\.json"):
        KerasEngine(tmp_path / "model.keras")


def test_code_in_a_keras_file_is_not_run(tmp_path):
    inputs = keras.Input((32, 32, 1))
    outputs = keras.layers.Dense(4)(keras.layers.Flatten()(keras.layers.Lambda(lambda x: x)(inputs)))
    keras.Model(inputs, outputs).save(tmp_path / "model.keras")
    with pytest.raises(ModelError, match="whole"):
        load_keras_model(tmp_path / "model.keras")
