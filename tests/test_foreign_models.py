"""Models of others are added once, after they scored sounds, and then found by name; what doesn't fit is refused."""

import json

import numpy as np
import onnx
import pytest
import scipy.special
import soundfile
from foreign import FOREIGN_LABELS, RATE, SAMPLES, TONES_HZ, WINDOW_S, write_model

import keras_birds
from keras_birds.errors import DataError, ModelError
from keras_birds.models.foreign import ForeignModel, add_foreign
from keras_birds.models.label_file import read_labels
from keras_birds.models.library import remove_model

TITLED = "inat2024\n" + "\n".join(FOREIGN_LABELS)


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


@pytest.fixture(autouse=True)
def library(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BIRDS_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def add(tmp_path, labels):
    """Makes a model, adds it and returns what was said; what is chosen of it comes in `choose`."""

    def call(name="tones", window_s=WINDOW_S, choose=None, **made):
        path, said = write_model(tmp_path / "model.onnx", **made), []
        add_foreign(ForeignModel(path, labels, RATE, window_s, **(choose or {})), name, said.append)
        return said

    return call


def test_sound_at_the_models_rate_goes_in_and_scores_come_out(add, recording):
    expected = scipy.special.expit(np.where(np.eye(3) > 0, 20 * 0.25 - 1, -1))
    with_embedding = {"activation": "Sigmoid", "extra_output": True}
    for i, (made, kind, size) in enumerate(
        (
            ({"samples": SAMPLES}, "logits", 0),
            ({"batch": 1}, "logits", 0),
            ({"batch": 2, "samples": SAMPLES, "choose": {"output": "logits"}}, "logits", 0),
            (
                {"batch": 4, "samples": "n", "choose": {"embedding": "x2"}, **with_embedding},
                "probabilities",
                SAMPLES,
            ),
        )
    ):
        (said,) = add(f"m{i}", **made)
        classifier = keras_birds.load(f"m{i}")
        engine = classifier.engines[0]
        assert (f"taken as {kind}" in said, engine.outputs.kind, engine.embedding_size) == (True, kind, size)
        frame = classifier.scores(recording)
        assert frame["start_s"].tolist() == [0, 3, 6]
        np.testing.assert_allclose(frame.iloc[:, 2:].to_numpy(), expected, atol=0.01)
    clips = np.ones((3, SAMPLES), np.float32)
    np.testing.assert_allclose(engine.embeddings(clips), 20 * clips)


def test_a_model_that_does_not_fit_is_refused_with_what_it_is_and_nothing_stays(add, tmp_path, library):
    many = {"extra_output": True}
    for made, said in (
        ({"samples": SAMPLES, "window_s": 5.0}, r"must take float \[batch, 240000\].*Received: x .*144000"),
        ({"num_labels": 2}, r"one output \[batch, 3\].*Received: out \[batch, 2\]"),
        (
            {"choose": {"output": "probabilities"}},
            r"must be from 0 to 1\. Received: .* in out; pass --output logits",
        ),
        ({"choose": {"embedding": "y"}, **many}, r"Received: y, with x2 \[batch, 144000\]"),
        ({"activation": "Log"}, r"scores must be finite\. Received: \d of 9 in out"),
    ):
        with pytest.raises(ModelError, match=rf"model\.onnx: .*{said}"):
            add(**made)
    assert not list(library.iterdir())
    (warned,) = [x for x in add(activation="Sigmoid", choose={"output": "logits"}) if "Warning" in x]
    assert "--output probabilities" in warned
    (library / "tones" / "model.json").unlink()
    with pytest.raises(
        ModelError, match=r"is added once, with `keras-birds models add .*model\.onnx --labels"
    ):
        keras_birds.load("tones")
    remove_model("tones")
    path = write_model(tmp_path / "split.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, size_threshold=0, location="w.data")
    with pytest.raises(ModelError, match=r"split\.onnx: the file must hold the model's weights.* one file"):
        add_foreign(ForeignModel(path, tmp_path / "labels.txt", RATE, WINDOW_S), "tones")
    assert not list(library.iterdir())


def test_label_files_give_names_where_they_hold_them(tmp_path):
    lines = [
        ("Turdus merula", "Turdus merula", "Common Blackbird", ""),
        (FOREIGN_LABELS[1], "", "", ""),
        ("Pica pica", "Pica pica", "Eurasian Magpie", ""),
    ]
    table = "common_name,label,class_name\nFrog,f,Amphibia\nDog,d,\n"
    for name, text, found in (
        ("a.txt", "\n".join(FOREIGN_LABELS), lines),
        ("titled.csv", TITLED, lines),
        ("a.csv", "\n".join(FOREIGN_LABELS), lines),
        ("table.csv", table, [("f", "", "Frog", "Amphibia"), ("d", "", "Dog", "")]),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        items = read_labels(tmp_path / name, {3, 5}).items
        assert [(x.name, x.scientific_name, x.common_name, x.class_name) for x in items] == found
    for name, text, said in (
        ("empty.txt", "\n\n", "one a line"),
        ("other.csv", "a,b\n1,2\n", "a column label or name"),
        ("twice.txt", "a_b\na_b\n", "must be unique"),
        ("gone.txt", None, "must be readable"),
    ):
        path = tmp_path / name
        if text:
            path.write_text(text)
        with pytest.raises(DataError, match=said):
            read_labels(path)


def test_the_commands_find_it_by_name(run_command, tmp_path, labels, recording):
    model = write_model(tmp_path / "foreign.onnx", activation="Sigmoid")
    options = ("--labels", labels, "--sample-rate", RATE, "--window-s", WINDOW_S)
    code, printed, err = run_command("models", "add", model, *options)
    assert (code, printed[:44]) == (0, "Added foreign: 3 labels, licence not given, ")
    assert "On test sounds, out is from" in err
    assert run_command("models", "add", model, *options)[0] == 2
    for call, said in (
        ((model, "--name", "animals", *options), "no shipped model's"),
        ((model, *options[:2]), "--labels, --sample-rate and --window-s must be given"),
        (("birdnet", *options[:2], *options[4:]), "--labels, --window-s can't be given for birdnet"),
        (("model.pt",), "or an ONNX model (.onnx). Received: model.pt"),
    ):
        code, _, err = run_command("models", "add", *call)
        assert (code, said in err) == (2, True)
    model.unlink()
    _, printed, _ = run_command("info", "foreign")
    assert ("source       foreign.onnx (SHA-256 " in printed, "outputs      probabilities" in printed) == (
        True,
        True,
    )
    code, printed, _ = run_command("predict", recording, "--model", "foreign", "--format", "json")
    assert json.loads(printed)[0]["model_id"] == "foreign"
    results = ("--model", "foreign", "--out", tmp_path / "out", "--format", "raven")
    species = tmp_path / "region.txt"
    species.write_text("Pica pica_Elster\nCorvus corax_Kolkrabe\nHuman vocal\n", encoding="utf-8")
    code, _, err = run_command("detect", recording, *results, "--species", species, "--strict-species")
    assert (code, "knows. Received: Corvus corax_Kolkrabe" in err) == (1, True)
    code, _, err = run_command("detect", recording, *results, "--species", species)
    assert (code, "Warning: " in err, "doesn't know Corvus corax_Kolkrabe; left out" in err) == (
        0,
        True,
        True,
    )
    table = (tmp_path / "out" / "detections.Table.1.selections.txt").read_text()
    assert ("Eurasian Magpie\tPica pica\t" in table, "Turdus" in table) == (True, False)
