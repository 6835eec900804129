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
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def recording(tmp_path):
    """9.5 s at 22 kHz: a tone of each label in turn, 3 s each."""
    t = np.arange(3 * 22_050) / 22_050
    samples = np.concatenate([0.5 * np.sin(2 * np.pi * hz * t + 0.7) for hz in TONES_HZ])
    soundfile.write(tmp_path / "a.wav", np.append(samples, np.zeros(11_025)), 22_050, "FLOAT")
    return tmp_path / "a.wav"


@pytest.mark.parametrize(("batch", "samples"), [("batch", SAMPLES), (1, "samples"), (2, SAMPLES), (4, "n")])
def test_sound_at_the_models_rate_goes_in_and_scores_come_out(tmp_path, labels, recording, batch, samples):
    path = write_model(tmp_path / "model.onnx", batch, samples)
    frame = Classifier([WaveformEngine(path, read_label_lines(labels), RATE, WINDOW_S)]).scores(recording)
    assert frame["start_s"].tolist() == [0, 3, 6]
    expected = scipy.special.expit(np.where(np.eye(3) > 0, 20 * 0.25 - 1, -1))
    np.testing.assert_allclose(frame[list(LABELS)].to_numpy(), expected, atol=0.01)


def test_probabilities_are_kept_as_they_are(tmp_path, labels, recording):
    path = write_model(tmp_path / "a.onnx"), write_model(tmp_path / "b.onnx", 4, SAMPLES, "Sigmoid", 3, True)
    a, b, wrong = (
        Classifier([WaveformEngine(path[k], read_label_lines(labels), RATE, WINDOW_S, output)])
        for k, output in ((0, "logits"), (1, "probabilities"), (0, "probabilities"))
    )
    np.testing.assert_allclose(a.score_file(recording).scores, b.score_file(recording).scores, atol=1e-5)
    with pytest.raises(ModelError, match=r"must be from 0 to 1\. Received: .*--output logits"):
        wrong.score_file(recording)


@pytest.mark.parametrize(
    ("made", "window_s", "said"),
    [
        ({"samples": SAMPLES}, 5.0, r"must take float \[batch, 240000\].*Received: x .*144000"),
        ({"num_labels": 2}, WINDOW_S, r"one output \[batch, 3\].*Received: out .*\['batch', 2\]"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused_with_what_it_is(tmp_path, labels, made, window_s, said):
    path = write_model(tmp_path / "model.onnx", **made)
    with pytest.raises(ModelError, match=said):
        WaveformEngine(path, read_label_lines(labels), RATE, window_s)


def test_label_lines_give_names_where_they_hold_them(tmp_path, labels):
    read = read_label_lines(labels)
    assert [(x.name, x.scientific_name, x.common_name) for x in read.items] == [
        (LABELS[0], "Turdus merula", "Common Blackbird"),
        (LABELS[1], "", ""),
        (LABELS[2], "Pica pica", "Eurasian Magpie"),
    ]
    (tmp_path / "none.txt").write_text("\n\n")
    with pytest.raises(DataError, match="one label a line"):
        read_label_lines(tmp_path / "none.txt")
    with pytest.raises(DataError, match=r"gone\.txt: --labels must be readable"):
        read_label_lines(tmp_path / "gone.txt")


@pytest.fixture
def run(run_command, tmp_path, labels, recording):
    def call(command, activation, *options):
        model = write_model(tmp_path / "foreign.onnx", activation=activation)
        foreign = ("--model", model, "--labels", labels, "--sample-rate", RATE, "--window-s", WINDOW_S)
        return run_command(command, recording, *foreign, *options)

    return call


@pytest.mark.parametrize("command", ["predict", "detect"])
def test_the_commands_tell_probabilities_read_as_logits(run, tmp_path, command):
    for number, (activation, options, is_told) in enumerate(
        (("Sigmoid", (), True), ("Sigmoid", ("--output", "probabilities"), False), ("Identity", (), False))
    ):
        out = tmp_path / f"out{number}"
        more = ("--out", out, "--format", "raven") if command == "detect" else ()
        code, _, err = run(command, activation, *options, *more)
        assert code == 0, err
        assert ("Pass --output probabilities" in err) == is_told
    if command == "detect":
        table = (out / "detections.Table.1.selections.txt").read_text()
        assert "Common Blackbird\tTurdus merula\t" in table


def test_a_regional_list_goes_on_without_what_the_model_does_not_know(run, tmp_path):
    species = tmp_path / "region.txt"
    species.write_text("Pica pica_Elster\nCorvus corax_Kolkrabe\nHuman vocal\n", encoding="utf-8")
    options = ("--out", tmp_path / "out", "--species", species)
    code, _, err = run("detect", "Identity", *options, "--strict-species")
    assert (code, "knows. Received: Corvus corax_Kolkrabe" in err) == (1, True)
    code, _, err = run("detect", "Identity", *options)
    assert code == 0
    assert "Warning: " in err
    assert "the model doesn't know Corvus corax_Kolkrabe; left out" in err
    found = (tmp_path / "out" / "detections.csv").read_text()
    assert "Pica pica" in found
    assert "Turdus" not in found
