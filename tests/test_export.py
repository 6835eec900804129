"""What `keras-birds export` writes, opened as a program without keras-birds would."""

import json
import zipfile

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
from constant_model import make_onnx
from onnx import TensorProto, helper, numpy_helper
from placeholder import AUDIO, LABELS, MEL, TONES_HZ, make_metadata, write_fold

import keras_birds
from keras_birds.app.example import write_example
from keras_birds.audio.mel import MelTransform
from keras_birds.config import Config
from keras_birds.errors import ModelError
from keras_birds.export import formats
from keras_birds.export.exporter import export_model
from keras_birds.export.other_formats import open_interpreter
from keras_birds.export.weight_compression import (
    MIN_ELEMENTS,
    halve_weights,
    quantize_weights,
    whole_weights,
)
from keras_birds.inference.classifier import Classifier
from keras_birds.models.engines import OnnxEngine
from keras_birds.models.find import bundled_models
from keras_birds.models.metadata import ModelMetadata
from keras_birds.nn.build import build_model
from keras_birds.nn.efficientnet import BACKBONE

pytestmark = pytest.mark.skipif(keras.config.backend() != "torch", reason="graphs are traced by torch")


def clips():
    t = np.arange(AUDIO.clip_samples) / AUDIO.sample_rate_hz
    noise = np.random.default_rng(0).normal(0, 0.01, (len(TONES_HZ), len(t)))
    return (0.5 * np.sin(2 * np.pi * np.outer(TONES_HZ, t)) + noise).astype("float32")


@pytest.fixture
def check(placeholder_run):
    """Compares what a function of any batch gives with the placeholder's probabilities."""

    def call(function, tolerance=1e-4):
        expected = keras_birds.load(placeholder_run).score_clips(clips())
        for batch in (1, 4):
            np.testing.assert_allclose(function(clips()[:batch]), expected[:batch], atol=tolerance)

    return call


@pytest.fixture
def export(run_command, tmp_path):
    """Runs the command, comparing on a file of each clip."""
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for label, clip in zip(LABELS, clips(), strict=True):
        soundfile.write(sounds / f"{label}.wav", clip, AUDIO.sample_rate_hz)

    def call(*arguments):
        code, said, err = run_command("export", *arguments, "--clips", sounds)
        assert (code, err) == (0, "")
        assert f"on 4 clips of {sounds} probabilities differ by at most" in said
        assert "the same label on top in 100.0%" in said
        return said

    return call


@pytest.fixture(scope="module")
def exported(placeholder_run, tmp_path_factory):
    """The placeholder's two folds as one graph that takes sound."""
    path = tmp_path_factory.mktemp("export") / "sound.onnx"
    paths = [placeholder_run / f"fold{k}" / "model.onnx" for k in range(2)]
    parity = export_model(paths, path, "waveform", "float32", clips())
    assert parity.max_difference < 1e-5
    return path


# --- ONNX ------------------------------------------------------------------------------------------------------------


def test_sound_goes_in_and_the_ensembles_probabilities_come_out(exported, placeholder_run, check):
    session = onnxruntime.InferenceSession(exported)
    check(lambda x: session.run(["probabilities"], {"waveform": x})[0], 1e-5)
    model, metadata = onnx.load(exported), ModelMetadata.read_onnx(exported)
    assert (metadata.labels, metadata.model_id) == (LABELS, f"{placeholder_run.name}/fold0+fold1")
    assert metadata.metrics == {}
    # Operators that others can use.
    assert {x.domain for x in model.opset_import} == {""}
    of_the_mel = {x.op_type for x in model.graph.node if not x.name.startswith("model")}
    assert of_the_mel & {"MatMul", "DFT", "STFT", "Gather"} == {"MatMul"}


def test_predict_takes_it_and_no_ensemble_mixes_it_with_images(exported, placeholder_run, write_tone):
    tone = write_tone("tone.wav", TONES_HZ[2], seconds=5, rate=16_000)
    wanted, found = (keras_birds.load(x).scores(tone)[list(LABELS)] for x in (placeholder_run, exported))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    with pytest.raises(ModelError, match=r"must take the same\. Received: mel in"):
        Classifier([OnnxEngine(placeholder_run / "fold0" / "model.onnx"), OnnxEngine(exported)])


@pytest.mark.parametrize(
    ("input_kind", "precision", "size_mb"), [("mel", "float16", 8.7), ("waveform", "int8-weights", 5.0)]
)
def test_weights_of_fewer_bits_are_smaller_and_near(tmp_path, run_command, input_kind, precision, size_mb):
    """Of the shipped model, on the test sounds; its own file is no other's."""
    out = tmp_path / "small.onnx"
    write_example(tmp_path / "example.flac")
    options = ("--input", input_kind, "--precision", precision, "--out", out)
    code, said, _ = run_command("export", "animals", *options)
    assert (code, "on 3 test sounds probabilities differ" in said) == (0, True)
    assert out.stat().st_size < size_mb * 1e6
    found = keras_birds.load(out)
    assert found.engines[0].input_kind == input_kind
    top = found.scores(tmp_path / "example.flac")[list(found.labels)].idxmax(axis=1)
    assert list(top) == ["chirping_birds"] * 2 + ["cat"] * 2 + ["chirping_birds"] * 2


def test_float16_weights_are_cast_once_and_come_back():
    rng = np.random.default_rng(0)
    model = make_onnx(
        """(float[8, 200] x) => (float[8, 200] logits)
        { a = MatMul(x, weight) b = MatMul(a, weight) c = Mul(b, bias) logits = Add(c, large) }""",
        weight=rng.normal(0, 1, (200, 200)),
        large=np.full((8, 200), 1e6),  # beyond float16
        bias=rng.normal(0, 1, 1),
    )
    helper.set_model_props(model, make_metadata().onnx_props())
    before = model.SerializeToString()
    halved = halve_weights(model)
    assert model.SerializeToString() == before
    assert list(halved.metadata_props) == list(model.metadata_props)
    assert {x.name: x.data_type for x in halved.graph.initializer} == {
        "weight_float16": TensorProto.FLOAT16,
        "large": TensorProto.FLOAT,
        "bias": TensorProto.FLOAT,
    }
    assert [x.op_type for x in halved.graph.node].count("Cast") == 1
    x = rng.normal(0, 1, (8, 200)).astype("float32")
    answers = [
        onnxruntime.InferenceSession(m.SerializeToString()).run(None, {"x": x})[0] - 1e6
        for m in (model, halved)
    ]
    assert 0 < np.abs(answers[1] - answers[0]).max() < 2e-3 * np.abs(answers[0]).max()

    shipped = onnx.load(bundled_models()["animals"])
    whole = whole_weights(shipped)
    assert not [x for x in whole.graph.initializer if x.data_type == TensorProto.FLOAT16]
    assert whole_weights(whole) is whole
    again, original = (
        {x.name: x.raw_data for x in m.graph.initializer} for m in (halve_weights(whole), shipped)
    )
    assert again == original


def test_int8_weights_are_off_by_half_a_level_at_most():
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(0, 1, (16, 4, 3, 3)) * np.logspace(-3, 2, 16)[:, None, None, None],
        "m": rng.normal(0, 1, (16, 8)),
        "other": rng.normal(0, 1, (MIN_ELEMENTS, 8)),
    }
    weights["w"][3] = 0
    model = make_onnx(
        f"""(float[{MIN_ELEMENTS}, 4, 8, 8] x) => (float[{MIN_ELEMENTS}, 8] logits) {{
        c = Conv(x, w) g = GlobalAveragePool(c) f = Flatten(g) p = MatMul(f, m) logits = Add(p, other) }}""",
        **weights,
    )
    found = {x.name: numpy_helper.to_array(x) for x in quantize_weights(model).graph.initializer}
    assert found.keys() == {"w_int8", "w_scale", "m_int8", "m_scale", "other"}
    for name, axis in (("w", (1, 2, 3)), ("m", (0,))):
        assert found[f"{name}_int8"].dtype == np.int8
        restored = found[f"{name}_int8"] * found[f"{name}_scale"]
        limit = np.abs(weights[name]).max(axis=axis, keepdims=True) / 254
        assert (np.abs(restored - weights[name]) <= limit * 1.001 + 1e-12).all()


# --- other formats ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_openvino(placeholder_run, tmp_path, export, check, precision):
    import openvino

    out = tmp_path / "birds.xml"
    export(placeholder_run, "--out", out, "--precision", precision)
    assert sorted(x.name for x in tmp_path.glob("*.*")) == ["birds.bin", "birds.xml"]
    model = openvino.Core().read_model(out)
    assert model.get_rt_info(["framework", "labels"]).value.split("\n") == list(LABELS)
    metadata = json.loads(model.get_rt_info(["framework", "keras_birds"]).value)
    assert ModelMetadata.from_dict(metadata).labels == LABELS
    compiled = openvino.Core().compile_model(model, "CPU")
    check(lambda x: compiled({"waveform": x})["probabilities"], 2e-2)


def test_torch(placeholder_run, tmp_path, export, check):
    import torch

    out = tmp_path / "birds.pt2"
    export(placeholder_run, "--out", out)
    extra = {"keras_birds.json": ""}
    program = torch.export.load(out, extra_files=extra).module()
    assert ModelMetadata.from_dict(json.loads(extra["keras_birds.json"])).labels == LABELS
    check(lambda x: program(torch.from_numpy(x)).numpy())


def run_litert(path, inputs, input_kind="waveform"):
    runner = open_interpreter(path).get_signature_runner()
    return next(iter(runner(**{input_kind: inputs}).values()))


@pytest.mark.slow
def test_litert(placeholder_run, tmp_path, export, check):
    out = tmp_path / "birds.tflite"
    assert "Next: docs/edge.md" in export(placeholder_run, "--out", out)
    archive = zipfile.ZipFile(out)
    assert archive.read("labels.txt").decode().split("\n") == list(LABELS)
    metadata = ModelMetadata.from_dict(json.loads(archive.read("keras_birds.json")))
    assert metadata.model_id == f"{placeholder_run.name}/fold0+fold1"
    check(lambda x: run_litert(out, x))


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A fold of an EfficientNet with random weights, scales and statistics; images, and its logits of them."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "fold0"
    model, rng = build_model(Config(audio=AUDIO, mel=MEL), len(LABELS)), np.random.default_rng(0)
    for layer in model.get_layer(BACKBONE).layers:
        if layer.name.endswith("_bn"):
            gamma, beta, mean, variance = (x.shape for x in layer.get_weights())
            scales = rng.uniform(0.5, 1.5, gamma), rng.normal(0, 0.1, beta)
            layer.set_weights([*scales, rng.normal(0, 0.1, mean), rng.uniform(0.5, 1.5, variance)])
    write_fold(folder, model)
    images = MelTransform(AUDIO, MEL).images(clips())
    return folder, images, model.predict(images, verbose=0)


@pytest.mark.slow
def test_torch_takes_any_batch_of_a_network_that_saves_memory_in_training(network, tmp_path):
    import torch

    folder, images, logits = network
    out = tmp_path / "network.pt2"
    export_model([folder / "model.onnx"], out, "mel", "float32", clips(), "torch")
    program = torch.export.load(out).module()
    for batch in (1, 3, 40):
        found = program(torch.from_numpy(np.resize(images, (batch, *images.shape[1:])))).numpy()
        np.testing.assert_allclose(found, np.resize(logits, (batch, logits.shape[1])), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "share", "tolerance"),
    [("float32", 1.05, 1e-3), ("float16", 0.56, 0.02), ("int8-weights", 0.36, 0.1)],
)
def test_litert_of_fewer_bits(network, tmp_path, precision, share, tolerance):
    folder, images, logits = network
    out = tmp_path / "small.tflite"
    parity = export_model([folder / "model.onnx"], out, "mel", precision, clips(), "litert")
    assert parity.clips == len(LABELS)
    assert out.stat().st_size < share * (folder / "model.onnx").stat().st_size
    off = np.abs(run_litert(out, images, "mel") - logits).max() / np.abs(logits).max()
    assert (0 if precision == "float32" else 1e-5) < off < tolerance


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", ["onnx", "openvino"])
def test_a_file_that_gives_something_else_is_not_written(placeholder_run, tmp_path, fmt):
    """As if the Keras model beside were another than the ONNX file, from which the export is made."""
    folder = tmp_path / "fold0"
    folder.mkdir()
    for fold, name in ((0, "model.onnx"), (1, "model.keras")):
        (folder / name).write_bytes((placeholder_run / f"fold{fold}" / name).read_bytes())
    out = tmp_path / f"out{formats.SUFFIX[fmt]}"
    with pytest.raises(ModelError, match=r"must give the original's probabilities within 0\.0001"):
        export_model([folder / "model.onnx"], out, "waveform", "float32", clips(), fmt)
    assert [x.name for x in tmp_path.iterdir()] == ["fold0"]


def test_recordings_that_cannot_be_read_are_told(placeholder_run, tmp_path, run_command, write_tone):
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds" / "broken.wav").write_bytes(b"RIFF nothing")
    command = ("export", placeholder_run, "--out", tmp_path / "a.onnx", "--clips", tmp_path / "sounds")
    code, _, err = run_command(*command)
    assert (code, "must hold recordings that can be read. Received: none in" in err) == (1, True)
    write_tone("sounds/other.wav", TONES_HZ[3], seconds=1, rate=16_000)
    code, said, err = run_command(*command)
    assert (code, "broken.wav: " in err, "on 1 clips of" in said) == (0, True, True)


def test_what_can_not_be_is_told_at_once(placeholder_run, exported, tmp_path, run_command, monkeypatch):
    no_run = "--prune needs a run, whose recordings to train on. Received: "
    for code, model, out, more, said in (
        (2, "animals", "a.tflite", (), "without animals.keras beside it; --format onnx and openvino"),
        (2, placeholder_run, "a.pt2", ("--precision", "float16"), "of --precision float32"),
        (2, placeholder_run, "a.onnx", ("--format", "litert"), "must end in .tflite for litert"),
        (2, placeholder_run, "a.zip", (), "must end in .onnx, .xml, .tflite, .pt2"),
        (2, placeholder_run, "b/a.onnx", (), "there is no folder"),
        (2, placeholder_run, "a.onnx", ("--prune", "1"), "0<x<1"),
        (2, placeholder_run, "a.onnx", ("--prune", "0.3"), no_run),
        (2, "animals", "a.onnx", ("--prune", "0.3"), no_run),
        (2, placeholder_run / "fold0" / "model.onnx", "a.onnx", ("--prune", "0.3"), no_run),
        (1, placeholder_run, "a.onnx", ("--input", "mel"), "must be of one model. Received: 2 folds"),
        (1, exported, "a.onnx", (), "must be a model that takes mel. Received: waveform"),
    ):
        found, _, err = run_command("export", model, "--out", tmp_path / out, *more)
        assert (found, err.count(said)) == (code, 1)
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    code, _, err = run_command("export", placeholder_run, "--out", tmp_path / "a.xml")
    assert "--format openvino needs openvino: pip install 'keras-birds[export]'" in err
    assert not list(tmp_path.iterdir())
