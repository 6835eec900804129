"""ONNX models of others, from sound to scores, made here as BirdNET's and Perch's exports are shaped."""

import numpy as np
import onnx
import pytest
import scipy.special
import soundfile
from constant_model import make_onnx

from keras_birds.errors import DataError, ModelError
from keras_birds.inference.classifier import Classifier
from keras_birds.models.engines import WaveformEngine, read_label_lines

RATE, WINDOW_S = 48_000, 3.0
SAMPLES = round(RATE * WINDOW_S)
LABELS = ("Turdus merula_Common Blackbird", "Human vocal", "Pica pica_Eurasian Magpie")
TONES_HZ = (1000.0, 3000.0, 7000.0)


def write_model(
    path, batch="batch", samples="samples", activation="Identity", num_labels=3, extra_output=False
):
    """Logits are the power at each label's tone: `20 * amplitude ** 2 - 1`; with `"Sigmoid"` probabilities."""
    phases = 2 * np.pi * np.outer(np.arange(SAMPLES) / RATE, TONES_HZ[:num_labels])
    # Embeddings, as many such models give them beside the scores.
    extra = f"float[{batch}, {SAMPLES}] x2, " if extra_output else ""
    graph = f"""(float[{batch}, {samples}] x) => ({extra}float[{batch}, {num_labels}] out) {{
        a = MatMul(x, sine) b = MatMul(x, cosine) aa = Mul(a, a) bb = Mul(b, b) power = Add(aa, bb)
        scaled = Mul(power, scale) logits = Add(scaled, bias) out = {activation}(logits)
        {"x2 = Mul(x, scale)" if extra_output else ""} }}"""
    sine, cosine = np.sin(phases) * 2 / SAMPLES, np.cos(phases) * 2 / SAMPLES
    onnx.save(make_onnx(graph, sine=sine, cosine=cosine, scale=20.0, bias=-1.0), path)
    return path


@pytest.fixture
def labels(tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    return tmp_path / "labels.txt"


@pytest.fixture
def recording(tmp_path):
    """9.5 s at 22 kHz: a tone of each label in turn, 3 s each."""
    t = np.arange(3 * 22_050) / 22_050
    samples = np.concatenate([0.5 * np.sin(2 * np.pi * hz * t + 0.7) for hz in TONES_HZ])
    soundfile.write(tmp_path / "a.wav", np.append(samples, np.zeros(11_025)), 22_050, "FLOAT")
    return tmp_path / "a.wav"


@pytest.mark.parametrize(
    ("made", "output"),
    [
        ({"samples": SAMPLES}, "logits"),
        ({"batch": 1}, "logits"),
        ({"batch": 2, "samples": SAMPLES}, "logits"),
        ({"batch": 4, "samples": "n", "activation": "Sigmoid", "extra_output": True}, "probabilities"),
    ],
)
def test_sound_at_the_models_rate_goes_in_and_scores_come_out(tmp_path, labels, recording, made, output):
    path = write_model(tmp_path / "model.onnx", **made)
    engine = WaveformEngine(path, read_label_lines(labels), RATE, WINDOW_S, output)
    frame = Classifier([engine]).scores(recording)
    assert frame["start_s"].tolist() == [0, 3, 6]
    expected = scipy.special.expit(np.where(np.eye(3) > 0, 20 * 0.25 - 1, -1))
    np.testing.assert_allclose(frame[list(LABELS)].to_numpy(), expected, atol=0.01)


@pytest.mark.parametrize(
    ("made", "window_s", "said"),
    [
        ({"samples": SAMPLES}, 5.0, r"must take float \[batch, 240000\].*Received: x .*144000"),
        ({"num_labels": 2}, WINDOW_S, r"one output \[batch, 3\].*Received: out .*\['batch', 2\]"),
        ({}, WINDOW_S, r"must be from 0 to 1\. Received: .*--output logits"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused_with_what_it_is(
    tmp_path, labels, recording, made, window_s, said
):
    path = write_model(tmp_path / "model.onnx", **made)
    with pytest.raises(ModelError, match=said):
        Classifier([WaveformEngine(path, read_label_lines(labels), RATE, window_s, "probabilities")]).scores(
            recording
        )


def test_label_lines_give_names_where_they_hold_them(tmp_path, labels):
    assert [(x.name, x.scientific_name, x.common_name) for x in read_label_lines(labels).items] == [
        (LABELS[0], "Turdus merula", "Common Blackbird"),
        (LABELS[1], "", ""),
        (LABELS[2], "Pica pica", "Eurasian Magpie"),
    ]
    labels.write_text("\n\n")
    for path, said in ((labels, "one label a line"), (tmp_path / "gone.txt", "--labels must be readable")):
        with pytest.raises(DataError, match=f"{path}: .*{said}"):
            read_label_lines(path)


@pytest.fixture
def run(run_command, tmp_path, labels, recording):
    def call(command, activation, *options):
        model = write_model(tmp_path / "foreign.onnx", activation=activation)
        foreign = ("--model", model, "--labels", labels, "--sample-rate", RATE, "--window-s", WINDOW_S)
        return run_command(command, recording, *foreign, *options)

    return call


def test_the_commands_tell_probabilities_read_as_logits(run, tmp_path):
    out = tmp_path / "out"
    for activation, options, is_told in (
        ("Sigmoid", (), True),
        ("Sigmoid", ("--output", "probabilities"), False),
        ("Identity", (), False),
    ):
        for command, more in (
            ("predict", ()),
            ("detect", ("--out", out / f"{activation}{len(options)}", "--format", "raven")),
        ):
            code, _, err = run(command, activation, *options, *more)
            assert (code, "Pass --output probabilities" in err) == (0, is_told)
    table = (out / "Identity0" / "detections.Table.1.selections.txt").read_text()
    assert "Common Blackbird\tTurdus merula\t" in table


def test_a_regional_list_goes_on_without_what_the_model_does_not_know(run, tmp_path):
    species = tmp_path / "region.txt"
    species.write_text("Pica pica_Elster\nCorvus corax_Kolkrabe\nHuman vocal\n", encoding="utf-8")
    options = ("--out", tmp_path / "out", "--species", species)
    code, _, err = run("detect", "Identity", *options, "--strict-species")
    assert (code, "knows. Received: Corvus corax_Kolkrabe" in err) == (1, True)
    code, _, err = run("detect", "Identity", *options)
    told = "the model doesn't know Corvus corax_Kolkrabe; left out"
    assert (code, "Warning: " in err, told in err) == (0, True, True)
    found = (tmp_path / "out" / "detections.csv").read_text()
    assert ("Pica pica" in found, "Turdus" in found) == (True, False)
