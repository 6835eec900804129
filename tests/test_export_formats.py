"""Each format's file, opened as a program without keras-birds would."""

import json
import zipfile

import keras
import numpy as np
import pytest
from placeholder import AUDIO, LABELS, MEL, TONES_HZ, make_metadata

import keras_birds
from keras_birds.audio.mel import MelTransform
from keras_birds.config import Config
from keras_birds.errors import ModelError
from keras_birds.export import formats
from keras_birds.export.exporter import export_model
from keras_birds.export.litert import open_interpreter
from keras_birds.models.metadata import ModelMetadata
from keras_birds.models.onnx_export import export_onnx
from keras_birds.nn.build import build_model
from keras_birds.nn.efficientnet import BACKBONE

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "torch", reason="each format has a backend of its own"
)


def clips():
    rng = np.random.default_rng(0)
    t = np.arange(AUDIO.clip_samples) / AUDIO.sample_rate_hz
    return np.stack([0.5 * np.sin(2 * np.pi * x * t) + rng.normal(0, 0.01, len(t)) for x in TONES_HZ]).astype(
        "float32"
    )


def expected(run):
    classifier = keras_birds.load(run)
    return classifier.probabilities(classifier.inputs(clips()))


def export(run_command, tmp_path, *arguments):
    """Each clip of the placeholder's in a file of its own is what the export is compared on."""
    import soundfile

    for label, clip in zip(LABELS, clips(), strict=True):
        soundfile.write(tmp_path / f"{label}.wav", clip, AUDIO.sample_rate_hz)
    code, said, err = run_command("export", *arguments, "--clips", tmp_path)
    assert (code, err) == (0, "")
    assert "the same label on top in 100.0%" in said
    return said


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_openvino(placeholder_run, tmp_path, run_command, precision):
    import openvino

    out = tmp_path / "birds.xml"
    export(run_command, tmp_path, placeholder_run, "--out", out, "--precision", precision)
    model = openvino.Core().read_model(out)
    assert model.get_rt_info(["framework", "labels"]).value.split("\n") == list(LABELS)
    metadata = json.loads(model.get_rt_info(["framework", "keras_birds"]).value)
    assert ModelMetadata.from_dict(metadata).labels == LABELS
    compiled = openvino.Core().compile_model(model, "CPU")
    for batch in (1, 4):
        found = compiled({"waveform": clips()[:batch]})["probabilities"]
        np.testing.assert_allclose(found, expected(placeholder_run)[:batch], atol=2e-2)
    (weights,) = {x.suffix: x for x in tmp_path.iterdir() if x.suffix == ".bin"}.values()
    assert weights.stem == "birds"


def test_torch(placeholder_run, tmp_path, run_command):
    import torch

    out = tmp_path / "birds.pt2"
    export(run_command, tmp_path, placeholder_run, "--out", out)
    extra = {"keras_birds.json": ""}
    program = torch.export.load(out, extra_files=extra).module()
    assert ModelMetadata.from_dict(json.loads(extra["keras_birds.json"])).labels == LABELS
    for batch in (1, 4):
        found = program(torch.from_numpy(clips()[:batch])).numpy()
        np.testing.assert_allclose(found, expected(placeholder_run)[:batch], atol=1e-4)


@pytest.mark.slow
def test_torch_takes_any_batch_of_a_network_that_saves_memory_in_training(network, tmp_path):
    import torch

    folder, images, logits = network
    out = tmp_path / "network.pt2"
    export_model([folder / "model.onnx"], out, "mel", "float32", clips(), "torch")
    program = torch.export.load(out).module()
    for batch in (1, 3, 40):
        many = np.resize(images, (batch, *images.shape[1:]))
        found = program(torch.from_numpy(many)).numpy()
        np.testing.assert_allclose(found, np.resize(logits, (batch, logits.shape[1])), rtol=1e-3, atol=1e-4)


def litert(path, inputs, takes="waveform"):
    hear = open_interpreter(path).get_signature_runner()
    return next(iter(hear(**{takes: inputs}).values()))


@pytest.mark.slow
def test_litert(placeholder_run, tmp_path, run_command):
    out = tmp_path / "birds.tflite"
    said = export(run_command, tmp_path, placeholder_run, "--out", out)
    assert "Next: docs/edge.md" in said
    archive = zipfile.ZipFile(out)
    assert archive.read("labels.txt").decode().split("\n") == list(LABELS)
    metadata = ModelMetadata.from_dict(json.loads(archive.read("keras_birds.json")))
    assert metadata.model_id == f"{placeholder_run.name}/fold0+fold1"
    for batch in (1, 4):
        np.testing.assert_allclose(litert(out, clips()[:batch]), expected(placeholder_run)[:batch], atol=1e-4)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A fold of an EfficientNet with random weights, scales and statistics; images, and its logits of them."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "run" / "fold0"
    folder.mkdir(parents=True)
    model, rng = build_model(Config(audio=AUDIO, mel=MEL), len(LABELS)), np.random.default_rng(0)
    for layer in model.get_layer(BACKBONE).layers:
        if layer.name.endswith("_bn"):
            gamma, beta, mean, variance = (x.shape for x in layer.get_weights())
            layer.set_weights(
                [
                    rng.uniform(0.5, 1.5, gamma),
                    rng.normal(0, 0.1, beta),
                    rng.normal(0, 0.1, mean),
                    rng.uniform(0.5, 1.5, variance),
                ]
            )
    model.save(folder / "model.keras")
    export_onnx(folder / "model.keras", folder / "model.onnx", make_metadata("run/fold0"))
    images = MelTransform(AUDIO, MEL).images(clips())
    logits = model.predict(images, verbose=0)
    return folder, images, logits


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
    off = np.abs(litert(out, images, "mel") - logits).max() / np.abs(logits).max()
    assert (0 if precision == "float32" else 1e-5) < off < tolerance


def test_a_file_that_gives_something_else_is_not_written(placeholder_run, tmp_path):
    """As if the Keras model beside were another than the ONNX file, from which OpenVINO's is made."""
    folder = tmp_path / "fold0"
    folder.mkdir()
    for fold, name in ((0, "model.onnx"), (1, "model.keras")):
        (folder / name).write_bytes((placeholder_run / f"fold{fold}" / name).read_bytes())
    with pytest.raises(ModelError, match=r"must give the original's probabilities within 0\.0001"):
        export_model(
            [folder / "model.onnx"], tmp_path / "out.xml", "waveform", "float32", clips(), "openvino"
        )
    assert [x.name for x in tmp_path.iterdir()] == ["fold0"]


def test_what_a_format_can_not_be_is_told_before_any_work(
    placeholder_run, tmp_path, run_command, monkeypatch
):
    for arguments, said in (
        (("animals", "--out", tmp_path / "a.tflite"), "is made from the Keras model. Received: "),
        (("animals", "--out", tmp_path / "a.tflite"), "--format onnx and openvino need none"),
        ((placeholder_run, "--out", tmp_path / "a.pt2", "--precision", "float16"), "of --precision float32"),
        (
            (placeholder_run, "--out", tmp_path / "a.onnx", "--format", "litert"),
            "must end in .tflite for litert",
        ),
        ((placeholder_run, "--out", tmp_path / "a.zip"), "must end in .onnx, .xml, .tflite, .pt2"),
        ((placeholder_run, "--out", tmp_path / "a.onnx", "--prune", "1"), "0<x<1"),
        ((placeholder_run, "--out", tmp_path / "a.onnx", "--prune", "0.3"), "--prune needs a run, whose"),
        (("animals", "--out", tmp_path / "a.onnx", "--prune", "0.3"), "--prune needs a run, whose"),
    ):
        found, _, err = run_command("export", *arguments)
        assert found == 2
        assert said in err
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    code, _, err = run_command("export", placeholder_run, "--out", tmp_path / "a.xml")
    assert code == 2
    assert "--format openvino needs openvino: pip install 'keras-birds[export]'" in err
    assert not list(tmp_path.iterdir())
