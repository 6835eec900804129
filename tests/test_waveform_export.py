import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from placeholder import AUDIO, LABELS, TONES_HZ

import keras_birds
from keras_birds.app.example import write_example
from keras_birds.errors import ModelError
from keras_birds.export.end_to_end import end_to_end_graph
from keras_birds.export.exporter import export_model
from keras_birds.export.weight_compression import halve_weights, quantize_weights, whole_weights
from keras_birds.inference.classifier import Classifier
from keras_birds.models.bundled import bundled_models
from keras_birds.models.engines import OnnxEngine
from keras_birds.models.logits import logit, sigmoid
from keras_birds.models.metadata import ModelMetadata

pytestmark = pytest.mark.skipif(keras.config.backend() != "torch", reason="graphs are traced by torch")


@pytest.fixture(scope="module")
def exported(placeholder_run, tmp_path_factory):
    """The placeholder's two folds as one graph that takes sound."""
    members = [onnx.load(placeholder_run / f"fold{k}" / "model.onnx") for k in range(2)]
    metadata = ModelMetadata.read_onnx(placeholder_run / "fold0" / "model.onnx")
    path = tmp_path_factory.mktemp("export") / "sound.onnx"
    onnx.save(end_to_end_graph(members, metadata), path)
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


def test_the_command_writes_a_run_as_one_file_and_tells_how_near_it_is(
    placeholder_run, tmp_path, run_command, write_tone
):
    tone = write_tone("sounds/tone.wav", TONES_HZ[1], seconds=5, rate=16_000)
    write_tone("sounds/other.wav", TONES_HZ[3], seconds=1, rate=16_000)
    (tmp_path / "sounds" / "broken.wav").write_bytes(b"RIFF nothing")
    out = tmp_path / "birds.onnx"
    code, said, err = run_command("export", placeholder_run, "--out", out, "--clips", tmp_path / "sounds")
    assert code == 0
    assert "broken.wav: " in err
    assert f"on 2 clips of {tmp_path / 'sounds'} probabilities differ by at most" in said
    assert "the same label on top in 100.0%" in said
    metadata = ModelMetadata.read_onnx(out)
    assert metadata.model_id == f"{placeholder_run.name}/fold0+fold1"
    found = keras_birds.load(out).scores(tone)[list(LABELS)]
    np.testing.assert_allclose(found, keras_birds.load(placeholder_run).scores(tone)[list(LABELS)], atol=1e-5)


@pytest.mark.parametrize("takes", ["mel", "waveform"])
def test_weights_of_fewer_bits_are_smaller_and_near(tmp_path, run_command, takes, folder_of_example):
    sizes = {}
    for precision in ("float32", "float16", "int8-weights"):
        out = tmp_path / f"{precision}.onnx"
        code, _, _ = run_command(
            "export", "animals", "--input", takes, "--precision", precision, "--out", out
        )
        assert code == 0
        sizes[precision] = out.stat().st_size
        found = keras_birds.load(out)
        assert found.engines[0].takes == takes
        top = found.scores(folder_of_example / "example.flac")[list(found.labels)].idxmax(axis=1)
        assert list(top) == ["chirping_birds"] * 2 + ["cat"] * 2 + ["chirping_birds"] * 2
    assert sizes["float16"] < 0.55 * sizes["float32"]
    assert sizes["int8-weights"] < 0.31 * sizes["float32"]


@pytest.fixture(scope="module")
def folder_of_example(tmp_path_factory):
    folder = tmp_path_factory.mktemp("example")
    write_example(folder / "example.flac")
    return folder


def test_weights_survive_half_precision_and_back():
    model = onnx.load(bundled_models()["animals"])
    whole = whole_weights(model)
    assert not [x for x in whole.graph.initializer if x.data_type == onnx.TensorProto.FLOAT16]
    assert whole_weights(whole) is whole
    again = halve_weights(whole)
    assert {x.name: x.raw_data for x in again.graph.initializer} == {
        x.name: x.raw_data for x in model.graph.initializer
    }


def test_int8_weights_are_off_by_half_a_level_at_most():
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(0, 1, (16, 4, 3, 3)) * np.logspace(-3, 2, 16)[:, None, None, None],
        "m": rng.normal(0, 1, (16, 8)),
    }
    weights["w"][3] = 0
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3]),
        onnx.helper.make_node("GlobalAveragePool", ["c"], ["g"]),
        onnx.helper.make_node("Flatten", ["g"], ["f"]),
        onnx.helper.make_node("MatMul", ["f", "m"], ["y"]),
    ]
    values = [
        onnx.helper.make_tensor_value_info(x, 1, y) for x, y in (("x", ["n", 4, 8, 8]), ("y", ["n", 8]))
    ]
    held = [onnx.numpy_helper.from_array(v.astype("float32"), k) for k, v in weights.items()]
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:], held)
    quantized = quantize_weights(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    )
    found = {x.name: onnx.numpy_helper.to_array(x) for x in quantized.graph.initializer}
    for name, axis in (("w", (1, 2, 3)), ("m", (0,))):
        assert found[f"{name}_int8"].dtype == np.int8
        restored = found[f"{name}_int8"] * found[f"{name}_scale"]
        limit = np.abs(weights[name]).max(axis=axis, keepdims=True) / 254
        assert (np.abs(restored - weights[name]) <= limit * 1.001 + 1e-12).all()


def test_wrong_calls_are_told(placeholder_run, tmp_path, run_command):
    code, _, err = run_command("export", placeholder_run, "--input", "mel", "--out", tmp_path / "a.onnx")
    assert code == 1
    assert "a file that takes mel must be of one model. Received: 2 folds" in err
    for out, said in (
        (tmp_path / "a.bin", "must end in .onnx"),
        (tmp_path / "b" / "a.onnx", "there is no folder"),
    ):
        code, _, err = run_command("export", placeholder_run, "--out", out)
        assert code == 2
        assert said in err
    for model in ("animals", placeholder_run, placeholder_run / "fold0" / "model.onnx"):
        code, _, err = run_command("export", model, "--prune", 0.3, "--out", tmp_path / "a.onnx")
        assert code == 2
        assert "--prune needs a run, whose recordings to train on. Received: " in err
    assert not list(tmp_path.rglob("*.onnx"))


def test_an_export_that_gives_something_else_is_not_written(placeholder_run, tmp_path):
    """As if the model beside were another: the file would not be what it says."""
    folder = tmp_path / "fold0"
    folder.mkdir()
    onnx_model = onnx.load(placeholder_run / "fold0" / "model.onnx")
    onnx.save(onnx_model, folder / "model.onnx")
    (folder / "model.keras").write_bytes((placeholder_run / "fold1" / "model.keras").read_bytes())
    out = tmp_path / "out.onnx"
    with pytest.raises(ModelError, match=r"must give the original's probabilities within 0\.0001"):
        export_model([folder / "model.onnx"], out, "waveform", "float32", clips())
    assert not out.exists()
