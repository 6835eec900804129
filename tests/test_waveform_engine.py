"""ONNX models of others, from sound to scores, made here as BirdNET's and Perch's exports are shaped."""

import numpy as np
import onnx
import pytest
import scipy.special
import soundfile
from onnx import TensorProto, helper, numpy_helper

from keras_birds.errors import DataError, ModelError
from keras_birds.inference.classifier import Classifier
from keras_birds.labels import LabelSet
from keras_birds.models.engines import WaveformEngine, read_label_lines

RATE, WINDOW_S = 48_000, 3.0
SAMPLES = round(RATE * WINDOW_S)
LABELS = ("Turdus merula_Common Blackbird", "Human vocal", "Pica pica_Eurasian Magpie")
TONES_HZ = (1000.0, 3000.0, 7000.0)


def write_model(path, batch="batch", samples="samples", activation=None, num_labels=3, extra_output=False):
    """Logits are the power at each label's tone: `20 * amplitude ** 2 - 1`; with `"Sigmoid"` probabilities."""
    t = np.arange(SAMPLES) / RATE
    phases = 2 * np.pi * np.outer(t, TONES_HZ[:num_labels])
    weights = {
        "sine": np.sin(phases) * 2 / SAMPLES,
        "cosine": np.cos(phases) * 2 / SAMPLES,
        "scale": np.array(20.0),
        "bias": np.array(-1.0),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "sine"], ["a"]),
        helper.make_node("MatMul", ["x", "cosine"], ["b"]),
        helper.make_node("Mul", ["a", "a"], ["aa"]),
        helper.make_node("Mul", ["b", "b"], ["bb"]),
        helper.make_node("Add", ["aa", "bb"], ["power"]),
        helper.make_node("Mul", ["power", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["out" if activation is None else "logits"]),
    ]
    nodes += [helper.make_node(activation, ["logits"], ["out"])] if activation else []
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, num_labels])]
    if extra_output:  # embeddings, as many such models give them beside the scores
        outputs.insert(0, helper.make_tensor_value_info("x2", TensorProto.FLOAT, [batch, SAMPLES]))
        nodes.append(helper.make_node("Mul", ["x", "scale"], ["x2"]))
    graph = helper.make_graph(
        nodes,
        "tones",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, samples])],
        outputs,
        [numpy_helper.from_array(np.float32(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def recording(tmp_path):
    """9.5 s at 22 kHz: a tone of each label in turn, 3 s each."""
    t = np.arange(round(9.5 * 22_050)) / 22_050
    samples = np.concatenate([0.5 * np.sin(2 * np.pi * hz * t[: 3 * 22_050] + 0.7) for hz in TONES_HZ])
    soundfile.write(tmp_path / "a.wav", np.append(samples, np.zeros(11_025)), 22_050, "FLOAT")
    return tmp_path / "a.wav"


@pytest.mark.parametrize("batch", ["batch", 1, 4])
@pytest.mark.parametrize("samples", ["samples", SAMPLES])
def test_sound_at_the_models_rate_goes_in_and_scores_come_out(tmp_path, labels, recording, batch, samples):
    path = write_model(tmp_path / "model.onnx", batch, samples)
    classifier = Classifier([WaveformEngine(path, read_label_lines(labels), RATE, WINDOW_S)])
    frame = classifier.scores(recording)
    assert frame["start_s"].tolist() == [0, 3, 6]
    expected = scipy.special.expit(np.where(np.eye(3) > 0, 20 * 0.25 - 1, -1))
    np.testing.assert_allclose(frame[list(LABELS)].to_numpy(), expected, atol=0.01)


def test_probabilities_are_kept_as_they_are(tmp_path, labels, recording):
    read = read_label_lines(labels)
    logits = WaveformEngine(write_model(tmp_path / "a.onnx"), read, RATE, WINDOW_S)
    path = write_model(tmp_path / "b.onnx", activation="Sigmoid", extra_output=True)
    probabilities = WaveformEngine(path, read, RATE, WINDOW_S, "probabilities")
    a, b = (Classifier([x]).score_file(recording).scores for x in (logits, probabilities))
    np.testing.assert_allclose(a, b, atol=1e-5)
    wrong = WaveformEngine(tmp_path / "a.onnx", read, RATE, WINDOW_S, "probabilities")
    with pytest.raises(ModelError, match=r"must be from 0 to 1\. Received: .*--output logits"):
        Classifier([wrong]).score_file(recording)


def test_the_command_scores_with_it(run_command, tmp_path, labels, recording):
    path = write_model(tmp_path / "foreign.onnx")
    options = ("--model", path, "--labels", labels, "--sample-rate", RATE, "--window-s", WINDOW_S)
    code, out, err = run_command("predict", recording, *options, "--top-k", 1, "--aggregate", "max")
    assert code == 0, err
    assert "Common Blackbird" in out or "Eurasian Magpie" in out or "Human vocal" in out
    code, _, err = run_command("detect", recording, *options, "--out", tmp_path / "out", "--format", "raven")
    assert code == 0, err
    table = (tmp_path / "out" / "detections.Table.1.selections.txt").read_text()
    assert "Common Blackbird\tTurdus merula\t" in table
    assert table.count("\n") > 3


@pytest.mark.parametrize(
    ("made", "asked", "said"),
    [
        ({"samples": SAMPLES}, {"window_s": 5.0}, r"must take float \[batch, 240000\].*Received: x .*144000"),
        ({"num_labels": 2}, {}, r"one output \[batch, 3\].*Received: out \['batch', 2\]"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused_with_what_it_is(tmp_path, labels, made, asked, said):
    path = write_model(tmp_path / "model.onnx", **made)
    asked = {"sample_rate_hz": RATE, "window_s": WINDOW_S, **asked}
    with pytest.raises(ModelError, match=said):
        WaveformEngine(path, read_label_lines(labels), **asked)


def test_label_lines_give_names_where_they_hold_them(tmp_path, labels):
    read = read_label_lines(labels)
    assert list(read) == list(LABELS)
    assert read.items[0].scientific_name == "Turdus merula"
    assert read.items[0].common_name == "Common Blackbird"
    assert (read.items[1].scientific_name, read.items[1].common_name) == ("", "")
    assert isinstance(read, LabelSet)
    (tmp_path / "none.txt").write_text("\n\n")
    with pytest.raises(DataError, match="one label a line"):
        read_label_lines(tmp_path / "none.txt")
    with pytest.raises(DataError, match=r"gone\.txt: --labels must be readable"):
        read_label_lines(tmp_path / "gone.txt")


@pytest.mark.parametrize("command", ["predict", "detect"])
def test_probabilities_read_as_logits_are_told(run_command, tmp_path, labels, recording, command):
    out = ("--out", tmp_path / "out") if command == "detect" else ()
    for activation, options, is_told in (
        ("Sigmoid", (), True),
        ("Sigmoid", ("--output", "probabilities"), False),
        (None, (), False),
    ):
        path = write_model(tmp_path / f"{activation}{len(options)}.onnx", activation=activation)
        foreign = ("--model", path, "--labels", labels, "--sample-rate", RATE, "--window-s", WINDOW_S)
        here = [*out[:1], *(tmp_path / f"{activation}{len(options)}" for _ in out[1:])]
        code, _, err = run_command(command, recording, *foreign, *options, *here)
        assert code == 0, err
        assert ("Pass --output probabilities" in err) == is_told


def test_a_regional_list_goes_on_without_what_the_model_does_not_know(
    run_command, tmp_path, labels, recording
):
    model = ("--model", write_model(tmp_path / "m.onnx"), "--labels", labels)
    options = (*model, "--sample-rate", RATE, "--window-s", WINDOW_S, "--out", tmp_path / "out")
    species = tmp_path / "region.txt"
    species.write_text("Pica pica_Elster\nCorvus corax_Kolkrabe\nHuman vocal\n", encoding="utf-8")
    code, _, err = run_command("detect", recording, *options, "--species", species, "--strict-species")
    assert (code, "knows. Received: Corvus corax_Kolkrabe" in err) == (1, True)
    code, _, err = run_command("detect", recording, *options, "--species", species)
    assert code == 0
    assert "Warning: " in err
    assert "the model doesn't know Corvus corax_Kolkrabe; left out" in err
    found = (tmp_path / "out" / "detections.csv").read_text()
    assert "Pica pica" in found
    assert "Turdus" not in found
