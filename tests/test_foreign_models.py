"""Models of others are scored with at their own rate and window, and refused where they don't fit."""

import numpy as np
import pytest
import scipy.special
import soundfile
from foreign import FOREIGN_LABELS, RATE, SAMPLES, TONES_HZ, WINDOW_S, write_model

from keras_birds.errors import DataError, ModelError
from keras_birds.inference.classifier import Classifier
from keras_birds.models.engines import WaveformEngine, read_label_lines


@pytest.fixture
def labels(tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join(FOREIGN_LABELS) + "\n", encoding="utf-8")
    return tmp_path / "labels.txt"


@pytest.fixture
def recording(tmp_path):
    """9.5 s at 22 kHz: a tone of each label in turn, 3 s each."""
    t = np.arange(3 * 22_050) / 22_050
    samples = np.concatenate([0.5 * np.sin(2 * np.pi * hz * t + 0.7) for hz in TONES_HZ])
    soundfile.write(tmp_path / "a.wav", np.append(samples, np.zeros(11_025)), 22_050, "FLOAT")
    return tmp_path / "a.wav"


@pytest.fixture
def score(tmp_path, labels, recording):
    def call(output, window_s=WINDOW_S, **made):
        path = write_model(tmp_path / "model.onnx", **made)
        engine = WaveformEngine(path, read_label_lines(labels), RATE, window_s, output)
        return Classifier([engine]).scores(recording)

    return call


def test_sound_at_the_models_rate_goes_in_and_scores_come_out(score):
    expected = scipy.special.expit(np.where(np.eye(3) > 0, 20 * 0.25 - 1, -1))
    for frame in (
        score("logits", samples=SAMPLES),
        score("logits", batch=1),
        score("logits", batch=2, samples=SAMPLES),
        score("probabilities", batch=4, samples="n", activation="Sigmoid", extra_output=True),
    ):
        assert frame["start_s"].tolist() == [0, 3, 6]
        np.testing.assert_allclose(frame.iloc[:, 2:].to_numpy(), expected, atol=0.01)


def test_a_graph_that_does_not_fit_is_refused_with_what_it_is(score):
    for made, said in (
        ({"samples": SAMPLES, "window_s": 5.0}, r"must take float \[batch, 240000\].*Received: x .*144000"),
        ({"num_labels": 2}, r"one output \[batch, 3\].*Received: out .*\['batch', 2\]"),
        ({}, r"must be from 0 to 1\. Received: .*--output logits"),
    ):
        with pytest.raises(ModelError, match=said):
            score("probabilities", **made)


def test_label_lines_give_names_where_they_hold_them(tmp_path, labels):
    assert [(x.name, x.scientific_name, x.common_name) for x in read_label_lines(labels).items] == [
        ("Turdus merula", "Turdus merula", "Common Blackbird"),
        (FOREIGN_LABELS[1], "", ""),
        ("Pica pica", "Pica pica", "Eurasian Magpie"),
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
        return run_command(command, recording, *foreign, *options)[::2]

    return call


def test_the_commands_tell_probabilities_read_as_logits(run, tmp_path):
    for activation, options, is_told in (
        ("Sigmoid", (), True),
        ("Sigmoid", ("--output", "probabilities"), False),
        ("Identity", (), False),
    ):
        out = tmp_path / f"{activation}{len(options)}"
        for call in (("predict",), ("detect", "--out", out, "--format", "raven")):
            code, err = run(call[0], activation, *options, *call[1:])
            assert (code, "Pass --output probabilities" in err) == (0, is_told)
    table = (out / "detections.Table.1.selections.txt").read_text()
    assert "Common Blackbird\tTurdus merula\t" in table


def test_a_regional_list_goes_on_without_what_the_model_does_not_know(run, tmp_path):
    species = tmp_path / "region.txt"
    species.write_text("Pica pica_Elster\nCorvus corax_Kolkrabe\nHuman vocal\n", encoding="utf-8")
    options = ("--out", tmp_path / "out", "--species", species)
    code, err = run("detect", "Identity", *options, "--strict-species")
    assert (code, "knows. Received: Corvus corax_Kolkrabe" in err) == (1, True)
    code, err = run("detect", "Identity", *options)
    told = "the model doesn't know Corvus corax_Kolkrabe; left out"
    assert (code, "Warning: " in err, told in err) == (0, True, True)
    found = (tmp_path / "out" / "detections.csv").read_text()
    assert ("Pica pica" in found, "Turdus" in found) == (True, False)
