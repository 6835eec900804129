"""What training and `keras-birds export` write, opened as a program without keras-birds would."""

import json
import sys
import zipfile

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
import torch
from onnx import TensorProto, helper, numpy_helper
from placeholder import AUDIO, LABELS, MEL, TONES_HZ, make_metadata, make_model, make_onnx, write_fold
from yardstick import copy_weights, gratings, make_yardstick

import keras_birds
from keras_birds.app.example import write_example
from keras_birds.config import Config
from keras_birds.errors import ModelError
from keras_birds.export import formats
from keras_birds.export.exporter import export_model
from keras_birds.export.weight_compression import MIN_ELEMENTS, halve_weights, quantize_weights, whole_weights
from keras_birds.inference.classifier import Classifier
from keras_birds.models.engines import OnnxEngine
from keras_birds.models.example_sound import example_inputs
from keras_birds.models.find import bundled_models
from keras_birds.models.keras_engine import KerasEngine, load_keras_model
from keras_birds.models.metadata import ModelMetadata
from keras_birds.models.onnx_export import export_onnx
from keras_birds.nn.build import build_model

pytestmark = pytest.mark.skipif(keras.config.backend() != "torch", reason="graphs are traced by torch")


def clips():
    t = np.arange(AUDIO.clip_samples) / AUDIO.sample_rate_hz
    noise = np.random.default_rng(0).normal(0, 0.01, (len(TONES_HZ), len(t)))
    return (0.5 * np.sin(2 * np.pi * np.outer(TONES_HZ, t)) + noise).astype("float32")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A fold of an EfficientNet with the yardstick's weights; images, and its logits of them."""
    model = build_model(Config(audio=AUDIO, mel=MEL), len(LABELS))
    copy_weights(make_yardstick(len(LABELS), 32), model)
    images = gratings(16, 32, 32)
    logits = model.predict_on_batch(images)
    assert logits.std(axis=0).min() > 0.05, "the images must be told apart"
    return write_fold(tmp_path_factory.mktemp("runs") / "fold0", model), images, logits


def test_a_network_has_the_same_logits_in_onnx_runtime(network):
    folder, images, logits = network
    assert sorted(x.name for x in folder.iterdir()) == ["model.json", "model.keras", "model.onnx"]
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (x,), (y, embedding) = session.get_inputs(), session.get_outputs()
    assert (embedding.name, embedding.shape) == ("embedding", ["batch", 1280])
    assert (x.name, x.shape, x.type) == ("mel", ["batch", 32, 32, 1], "tensor(float)")
    assert (y.name, y.shape, y.type) == ("logits", ["batch", len(LABELS)], "tensor(float)")
    for engine in (OnnxEngine(folder / "model.onnx"), KerasEngine(folder / "model.keras")):
        for n in (1, 4):
            np.testing.assert_allclose(engine.logits(images[:n]), logits[:n], rtol=1e-4, atol=1e-4)


def test_a_keras_file_that_contradicts_its_metadata_or_cannot_be_used_is_one_line(tmp_path):
    path = tmp_path / "model.keras"
    make_model().save(path)
    metadata = make_metadata(labels=type(LABELS)(LABELS.items[:2]))
    # The file comes first, also where another process says so: without the error's class before it.
    message = rf"^{tmp_path}/model\.keras: .*32, 32, 1\] -> \[batch, 2\]\. Received: .*batch, 4\]"
    with pytest.raises(ModelError, match=message):
        export_onnx(path, tmp_path / "model.onnx", metadata)
    assert not (tmp_path / "model.onnx").exists()
    # On rough images, which are no sound's, a trained network's own rounding errors would refuse it.
    assert np.abs(np.diff(example_inputs(make_metadata(), "mel"), axis=1)).mean(axis=(1, 2, 3)).max() < 0.25
    with pytest.raises(ModelError, match=r"neither model\.onnx nor model\.json"):
        KerasEngine(path)
    image = keras.Input((32, 32, 1))
    code = keras.layers.Lambda(lambda x: x)(image)  # must not be run
    keras.Model(image, keras.layers.Dense(4)(keras.layers.Flatten()(code))).save(tmp_path / "code.keras")
    whole = path.read_bytes()
    for content in (b"", whole[:10], whole[:3000], (tmp_path / "code.keras").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"model\.keras: must be a whole \.keras file.*\Z"):
            load_keras_model(path)


def open_onnx(path):
    session, model = onnxruntime.InferenceSession(path), onnx.load(path)
    # Operators that others can use.
    assert {x.domain for x in model.opset_import} == {""}
    of_the_mel = {x.op_type for x in model.graph.node if not x.name.startswith("model")}
    assert of_the_mel & {"MatMul", "DFT", "STFT", "Gather"} == {"MatMul"}
    metadata = session.get_modelmeta().custom_metadata_map["keras_birds"]
    return metadata, lambda x: session.run(["probabilities"], {"waveform": x})[0]


def open_openvino(path):
    import openvino

    model = openvino.Core().read_model(path)
    assert model.get_rt_info(["framework", "labels"]).value.split("\n") == list(LABELS)
    compiled = openvino.Core().compile_model(model, "CPU")
    metadata = model.get_rt_info(["framework", "keras_birds"]).value
    return metadata, lambda x: compiled({"waveform": x})["probabilities"]


def open_torch(path):
    extra = {"keras_birds.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    return extra["keras_birds.json"], lambda x: program(torch.from_numpy(x)).numpy()


def open_litert(path):
    from ai_edge_litert.interpreter import Interpreter

    archive, runner = zipfile.ZipFile(path), Interpreter(str(path)).get_signature_runner()
    assert archive.read("labels.txt").decode().split("\n") == list(LABELS)
    (taken,), (given,) = runner.get_input_details(), runner.get_output_details()
    return archive.read("keras_birds.json"), lambda x: runner(**{taken: x})[given]


@pytest.mark.parametrize(
    ("suffix", "opened", "precision", "tolerance"),
    [
        (".onnx", open_onnx, "float32", 1e-5),
        (".xml", open_openvino, "float32", 2e-2),
        (".xml", open_openvino, "float16", 2e-2),
        (".pt2", open_torch, "float32", 1e-4),
        pytest.param(".tflite", open_litert, "float32", 1e-4, marks=pytest.mark.slow),
    ],
)
def test_sound_to_probabilities(placeholder_run, tmp_path, run_command, suffix, opened, precision, tolerance):
    (tmp_path / "sounds").mkdir()
    for label, clip in zip(LABELS, clips(), strict=True):
        soundfile.write(tmp_path / "sounds" / f"{label}.wav", clip, AUDIO.sample_rate_hz)
    out, where = tmp_path / f"birds{suffix}", ("--clips", tmp_path / "sounds", "--precision", precision)
    code, said, err = run_command("export", placeholder_run, "--out", out, *where)
    assert (code, err) == (0, "")
    assert f"on 4 clips of {tmp_path / 'sounds'} probabilities differ by at most" in said
    assert "the same label on top in 100.0%" in said
    assert ("Next: docs/edge.md" in said) == (suffix != ".onnx")
    files = ["birds.bin", "birds.xml"] if suffix == ".xml" else [out.name]
    assert sorted(x.name for x in tmp_path.glob("*.*")) == files
    text, function = opened(out)
    metadata = ModelMetadata.from_dict(json.loads(text))
    assert (metadata.labels, metadata.metrics) == (LABELS, {})
    assert metadata.model_id == f"{placeholder_run.name}/fold0+fold1"
    expected = keras_birds.load(placeholder_run).score_clips(clips())
    for batch in (1, 4):
        np.testing.assert_allclose(function(clips()[:batch]), expected[:batch], atol=tolerance)


def test_predict_takes_it_and_it_is_not_mixed_with_images(placeholder_run, tmp_path, write_tone, run_command):
    tone, out = write_tone("tone.wav", TONES_HZ[2], seconds=5, rate=16_000), tmp_path / "sound.onnx"
    folds = [placeholder_run / f"fold{k}" / "model.onnx" for k in range(2)]
    assert export_model(folds, out, "waveform", "float32", clips()).max_difference < 1e-5
    wanted, found = (keras_birds.load(x).scores(tone)[list(LABELS)] for x in (placeholder_run, out))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    _, printed, _ = run_command("predict", tone, "--model", out, "--format", "csv")
    assert printed.splitlines()[1].split(",")[1:3] == ["1", "bkcdon"]
    with pytest.raises(ModelError, match=r"must take the same\. Received: mel in"):
        Classifier([OnnxEngine(folds[0]), OnnxEngine(out)])
    half = ("export", out, "--out", tmp_path / "half.onnx", "--precision", "float16")
    assert run_command(*half)[0] == 0
    np.testing.assert_allclose(keras_birds.load(half[3]).scores(tone)[list(LABELS)], wanted, atol=0.01)
    code, _, err = run_command(*half, "--input", "mel")
    assert (code, "--input mel needs a model that takes mel. Received: one that takes sound" in err) == (
        1,
        True,
    )


@pytest.fixture(scope="module")
def sound_run(tmp_path_factory):
    """A run of two folds that take sound: other heads on the same embedding."""
    run = tmp_path_factory.mktemp("runs") / "sound"
    for fold in range(2):
        sound = keras.Input((AUDIO.clip_samples,), name="waveform")
        keras.utils.set_random_seed(0)
        embedding = keras.layers.Dense(16, "tanh", name="embedding")(sound)
        keras.utils.set_random_seed(fold)
        write_fold(run / f"fold{fold}", keras.Model(sound, keras.layers.Dense(len(LABELS))(embedding)))
    return run


@pytest.mark.parametrize(
    ("suffix", "opened"),
    [
        (".onnx", lambda path: ("", keras_birds.load(path).score_clips)),
        (".xml", open_openvino),
        (".pt2", open_torch),
        pytest.param(".tflite", open_litert, marks=pytest.mark.slow),
    ],
)
def test_models_of_sound_share_what_is_the_same(sound_run, tmp_path, run_command, suffix, opened):
    code, _, err = run_command("export", sound_run, "--out", tmp_path / f"sound{suffix}")
    assert (code, err) == (0, "")
    one = (sound_run / "fold0" / "model.onnx").stat().st_size
    assert sum(x.stat().st_size for x in tmp_path.iterdir()) < 1.5 * one
    expected = keras_birds.load(sound_run).score_clips(clips())
    np.testing.assert_allclose(opened(tmp_path / f"sound{suffix}")[1](clips()), expected, atol=0.01)


def test_an_embedding_is_given_beside_the_probabilities_where_there_is_one(
    sound_run, placeholder_run, tmp_path, run_command
):
    for model, size in (("animals", 1280), (sound_run, 16)):
        out, original = tmp_path / f"{size}.onnx", keras_birds.load(model)
        code, _, err = run_command("export", model, "--out", out, "--embedding")
        assert (code, err) == (0, "")
        exported = keras_birds.load(out)
        sounds = np.random.default_rng(0).normal(0, 0.1, (2, original.audio.clip_samples)).astype(np.float32)
        expected = original.engines[0].embeddings(original.inputs(sounds))
        assert expected.shape == (2, size)
        np.testing.assert_allclose(exported.embed_clips(sounds), expected, atol=0.01 * np.abs(expected).max())
        np.testing.assert_allclose(exported.score_clips(sounds), original.score_clips(sounds), atol=1e-3)
    for model, suffix, said in (
        (placeholder_run, "onnx", "2 folds, each"),
        (sound_run, "xml", "--format onnx"),
    ):
        code, _, err = run_command("export", model, "--out", tmp_path / f"no.{suffix}", "--embedding")
        assert (code != 0, said in err) == (True, True), err


def test_birdnet_is_exported(birdnet_model, tmp_path, run_command):
    code, said, err = run_command("export", "birdnet", "--out", tmp_path / "b.onnx")
    assert (code, err, "the same label on top in 100.0%" in said) == (0, "", True)
    assert "CC BY-NC-SA" in ModelMetadata.read_onnx(tmp_path / "b.onnx").licence
    (given,) = onnxruntime.InferenceSession(tmp_path / "b.onnx").get_outputs()
    assert (given.name, given.shape) == ("probabilities", ["batch", 6522])


def test_models_of_sound_are_not_compared_on_digital_silence(tmp_path):
    """On which alone these two differ."""
    sound = keras.Input((AUDIO.clip_samples,))
    unit = keras.layers.UnitNormalization()(sound)
    one = keras.layers.Dot(axes=1)([unit, unit])
    keras.Model(sound, keras.layers.Dense(4, kernel_initializer="ones")(one)).save(tmp_path / "model.keras")
    graph = f"""(float[batch, {AUDIO.clip_samples}] waveform) => (float[batch, 4] logits)
        {{ zero = MatMul(waveform, zeros) logits = Add(zero, ones) }}"""
    model = make_onnx(graph, zeros=np.zeros((AUDIO.clip_samples, 4)), ones=np.ones(4))
    helper.set_model_props(model, make_metadata().onnx_props())
    onnx.save(model, tmp_path / "model.onnx")
    half = np.zeros((2, AUDIO.clip_samples), np.float32)
    assert (
        export_model([tmp_path / "model.onnx"], tmp_path / "a.onnx", "waveform", "float32", half).clips == 2
    )


@pytest.mark.parametrize("small", [("mel", "float16", 8.7), ("waveform", "int8-weights", 5.0)])
def test_weights_of_fewer_bits_are_smaller_and_near(tmp_path, run_command, small):
    """Of the shipped model, on the test sounds; its own file is no other's."""
    (input_kind, precision, size_mb), out = small, tmp_path / "small.onnx"
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
    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    types = {x.name: x.data_type for x in halved.graph.initializer}
    assert types == {"weight_float16": half, "large": single, "bias": single}
    assert [x.op_type for x in halved.graph.node].count("Cast") == 1
    sessions = [onnxruntime.InferenceSession(x.SerializeToString()) for x in (model, halved)]
    x = rng.normal(0, 1, (8, 200)).astype("float32")
    exact, near = (session.run(None, {"x": x})[0] - 1e6 for session in sessions)
    assert 0 < np.abs(near - exact).max() < 2e-3 * np.abs(exact).max()
    shipped = onnx.load(bundled_models()["animals"])
    whole = whole_weights(shipped)
    assert half not in {x.data_type for x in whole.graph.initializer}
    assert whole_weights(whole) is whole
    again = {x.name: x.raw_data for x in halve_weights(whole).graph.initializer}
    assert again == {x.name: x.raw_data for x in shipped.graph.initializer}


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "opened", "precision", "share", "tolerance"),
    [
        (".pt2", open_torch, "float32", 2, 1e-5),
        (".tflite", open_litert, "float32", 1.05, 1e-5),
        (".tflite", open_litert, "float16", 0.56, 0.02),
        (".tflite", open_litert, "int8-weights", 0.36, 0.005),
    ],
)
def test_other_formats_take_any_batch(network, tmp_path, suffix, opened, precision, share, tolerance):
    folder, images, logits = network
    out, expected = tmp_path / f"small{suffix}", logits
    fmt = {v: k for k, v in formats.SUFFIX.items()}[suffix]
    parity = export_model([folder / "model.onnx"], out, "mel", precision, clips(), fmt)
    assert parity.clips == len(LABELS)
    assert out.stat().st_size < share * (folder / "model.onnx").stat().st_size
    function = opened(out)[1]
    assert (np.abs(function(images) - logits).max() > 1e-3) == (precision != "float32")
    if precision == "int8-weights":  # far off with these weights, in ONNX Runtime as well
        graph = quantize_weights(onnx.load(folder / "model.onnx")).SerializeToString()
        (expected,) = onnxruntime.InferenceSession(graph).run(["logits"], {"mel": images})
    for n in (1, 3, 40):
        found = function(np.resize(images, (n, *images.shape[1:])))
        wanted = np.resize(expected, (n, len(LABELS)))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(logits).max())


def test_a_file_that_gives_something_else_is_not_written(placeholder_run, tmp_path, run_command):
    """As if the Keras model beside were another than the ONNX file, from which the export is made."""
    folder = tmp_path / "fold0"
    folder.mkdir()
    for fold, file in ((0, "model.onnx"), (1, "model.keras")):
        (folder / file).write_bytes((placeholder_run / f"fold{fold}" / file).read_bytes())
    for name in ("out.onnx", "out.xml"):
        code, _, err = run_command("export", folder, "--out", tmp_path / name)
        assert (code, "must give the original's probabilities within 0.0001" in err) == (1, True)
    assert [x.name for x in tmp_path.iterdir()] == ["fold0"]


def test_recordings_that_cannot_be_read_are_told(placeholder_run, tmp_path, run_command, write_tone):
    command = ("export", placeholder_run, "--out", tmp_path / "a.onnx", "--clips", tmp_path / "sounds")
    other = write_tone("sounds/other.wav", TONES_HZ[3], seconds=1, rate=16_000)
    other.with_name("broken.wav").write_bytes(b"RIFF nothing")
    code, said, err = run_command(*command)
    assert (code, "broken.wav: " in err, "on 1 clips of" in said) == (0, True, True)
    other.unlink()
    code, _, err = run_command(*command)
    assert (code, "must hold recordings that can be read. Received: none in" in err) == (1, True)


def test_what_can_not_be_is_told_at_once(placeholder_run, tmp_path, run_command, monkeypatch):
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
    ):
        found, _, err = run_command("export", model, "--out", tmp_path / out, *more)
        assert (found, err.count(said)) == (code, 1)
    monkeypatch.setitem(sys.modules, "openvino", None)
    code, _, err = run_command("export", placeholder_run, "--out", tmp_path / "a.xml")
    assert (
        "--format openvino needs openvino. Received: not installed here. Install it: pip install 'keras"
        in err
    )
    assert not list(tmp_path.iterdir())
