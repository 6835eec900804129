"""Scores of a clip's moments, from the Keras model to the table of `predict --frames`."""

import keras
import numpy as np
import onnx
import pandas as pd
import pytest
import soundfile
from placeholder import AUDIO, LABELS, MEL, TONES_HZ, write_fold

import keras_birds
from keras_birds.config import Config
from keras_birds.errors import ModelError
from keras_birds.labels import LabelSet
from keras_birds.models.calibration import sigmoid
from keras_birds.models.engines import OnnxEngine
from keras_birds.models.keras_engine import KerasEngine, with_all_outputs
from keras_birds.nn.build import build_model
from keras_birds.nn.heads import FRAME_LOGITS, AttentionMean

RATE_HZ, FRAMES = AUDIO.sample_rate_hz, 8
FRAME_S = AUDIO.clip_s / FRAMES


def make_listener(scale=20.0):
    """The placeholder's idea, moment by moment: which band is loudest in each of eight frames."""
    inputs = keras.Input((MEL.height, MEL.width, 1))
    bands = keras.layers.MaxPooling2D((MEL.height // len(LABELS), MEL.width // FRAMES))(inputs)
    x = keras.layers.Reshape((FRAMES, len(LABELS)))(keras.layers.Permute((2, 1, 3))(bands))
    frames = keras.layers.Dense(len(LABELS), name=FRAME_LOGITS)
    attention = keras.layers.Dense(len(LABELS))
    model = keras.Model(inputs, AttentionMean()([frames(x), attention(x)]))
    frames.set_weights([scale * np.eye(len(LABELS)), np.full(len(LABELS), -0.9 * scale)])
    attention.set_weights([4 * np.eye(len(LABELS)), np.zeros(len(LABELS))])
    return model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two folds of the listener; read-only."""
    folder = tmp_path_factory.mktemp("listener")
    for fold, scale in enumerate((20.0, 10.0)):
        write_fold(folder / f"fold{fold}", make_listener(scale))
    return folder


@pytest.fixture
def call(tmp_path):
    """Five seconds of silence with the second label's tone from 2.5 to 3 s."""
    t = np.arange(5 * RATE_HZ) / RATE_HZ
    tone = np.where((t >= 2.5) & (t < 3), 0.5 * np.sin(2 * np.pi * TONES_HZ[1] * t), 0)
    soundfile.write(tmp_path / "call.wav", tone + np.random.default_rng(0).normal(0, 1e-3, len(t)), RATE_HZ)
    return tmp_path / "call.wav"


def test_the_attention_head_is_exported_with_its_frames_and_both_engines_agree(tmp_path):
    mel = {**MEL.model_dump(), "height": 32, "width": 96}
    config = Config.parse({"audio": AUDIO, "mel": mel, "model": {"head": "attention"}})
    model, rng = build_model(config, 3), np.random.default_rng(0)
    attention = model.get_layer("attention")
    attention.set_weights([rng.normal(0, 0.1, x.shape) for x in attention.get_weights()])
    folder = write_fold(tmp_path / "fold0", model, labels=LabelSet(["a", "b", "c"]), mel=config.mel)
    graph = onnx.load(folder / "model.onnx").graph
    assert [x.name for x in graph.output] == ["logits", "frame_logits", "embedding"]
    images = rng.random((2, 32, 96, 1), np.float32)
    expected = with_all_outputs(model)[0].predict(images, verbose=0)
    assert [x.shape for x in expected] == [(2, 3), (2, 3, 3), (2, 1280)]
    frames = keras.Model(model.input, model.get_layer("frames").output).predict(images, verbose=0)
    np.testing.assert_allclose(expected[2], frames.mean(axis=1), atol=1e-5)
    for engine in (OnnxEngine(folder / "model.onnx"), KerasEngine(folder / "model.keras")):
        assert (engine.num_frames, engine.embedding_size) == (3, 1280)
        given = engine.logits(images), engine.frame_logits(images), engine.embeddings(images)
        for found, wanted in zip(given, expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("engine", ["onnx", "keras"])
def test_frames_tell_where_a_call_is(run, call, engine):
    found, *each = (
        keras_birds.load(x, engine=engine).frame_scores(call) for x in (run, run / "fold0", run / "fold1")
    )
    # Two windows of two seconds, and the last second of the third.
    np.testing.assert_allclose(found["start_s"], np.arange(2.5 * FRAMES) * FRAME_S)
    np.testing.assert_allclose(found["end_s"], found["start_s"] + FRAME_S)
    scores = found["whtdov"].to_numpy()
    loud = (found["end_s"] > 2.55) & (found["start_s"] < 2.95)
    quiet = (found["start_s"] >= 2) & (found["end_s"] <= 4) & ~loud
    assert loud.sum() == 2
    assert scores[loud].min() > 0.4
    assert scores[quiet].max() < 0.5 * scores[loud].min()
    # An ensemble is the mean of its members' probabilities.
    np.testing.assert_allclose(scores, (each[0]["whtdov"] + each[1]["whtdov"]) / 2, atol=1e-6)
    member = keras_birds.load(run / "fold0", engine=engine)
    clip = soundfile.read(call, dtype="float32")[0][2 * RATE_HZ : 4 * RATE_HZ]
    logits = member.engines[0].frame_logits(member.inputs(clip[None]))[0]
    np.testing.assert_allclose(each[0][list(LABELS)][FRAMES : 2 * FRAMES], sigmoid(logits), atol=1e-5)


def test_frames_end_where_the_recording_ends(run, write_tone):
    found = keras_birds.load(run).frame_scores(write_tone("short.wav", TONES_HZ[0], 0.6, RATE_HZ))
    np.testing.assert_allclose(found[["start_s", "end_s"]], [[0, 0.25], [0.25, 0.5], [0.5, 0.6]])


def test_models_without_an_attention_head_are_refused(placeholder_run, run, call, run_command, tmp_path):
    with pytest.raises(ModelError, match=r"fold0/model\.onnx: frames need .* Received: no frames\."):
        keras_birds.load(placeholder_run).frame_scores(call)
    path = tmp_path / "frames.csv"
    for model, wrong, status, message in (
        (placeholder_run, (), 1, "--set model.head=attention"),
        (run, ("--calibrated",), 2, "--frames"),
        (run, ("--channel", "all"), 2, "--frames"),
    ):
        code, printed, err = run_command("predict", call, "--model", model, "--frames", path, *wrong)
        assert (code, printed, path.exists()) == (status, "", False)
        assert message in err


def test_the_command_writes_a_row_a_moment_and_label_of_the_channel_asked_for(
    run, call, run_command, tmp_path
):
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    samples, rate = soundfile.read(call)
    soundfile.write(tmp_path / "stereo.wav", np.stack([np.zeros_like(samples), samples], axis=1), rate)
    expected, path = keras_birds.load(run).frame_scores(call)["whtdov"], tmp_path / "frames.csv"
    options = ("--model", run, "--top-k", 2, "--aggregate", "max", "--frames", path)
    code, printed, err = run_command("predict", call, tmp_path / "broken.wav", *options)
    assert code == 1
    assert f"Frames: {path}" in err
    assert "whtdov" in printed
    rows = pd.read_csv(path)
    assert rows["file"].tolist() == [str(call)] * 2 * 20
    mine = rows.query("label == 'whtdov'")
    best = mine.loc[mine["score"].idxmax()]
    assert 2.25 <= best["start_s"] < 3
    assert (best["scientific_name"], best["common_name"]) == ("Leptotila verreauxi", "White-tipped Dove")
    np.testing.assert_allclose(mine["score"], expected, rtol=1e-5)
    code, _, err = run_command("predict", tmp_path / "stereo.wav", *options, "--channel", 2)
    assert code == 0, err
    np.testing.assert_allclose(pd.read_csv(path).query("label == 'whtdov'")["score"], expected, atol=1e-3)
