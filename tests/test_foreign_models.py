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
from keras_birds.export.exporter import export_model
from keras_birds.models.foreign import ForeignModel, add_foreign
from keras_birds.models.label_file import read_labels
from keras_birds.models.library import remove_model

LINES = "\n".join(FOREIGN_LABELS)


@pytest.fixture
def recording(tmp_path):
    """9.5 s at 22 kHz: a tone of each label in turn, 3 s each."""
    t = np.arange(3 * 22_050) / 22_050
    samples = np.concatenate([0.5 * np.sin(2 * np.pi * hz * t + 0.7) for hz in TONES_HZ])
    soundfile.write(tmp_path / "a.wav", np.append(samples, np.zeros(11_025)), 22_050, "FLOAT")
    return tmp_path / "a.wav"


@pytest.fixture(autouse=True)
def library(tmp_path, monkeypatch):
    (tmp_path / "labels.txt").write_text(LINES, encoding="utf-8")
    monkeypatch.setenv("KERAS_BIRDS_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def add(folder, name="tones", window_s=WINDOW_S, output=None, embedding=None, **made):
    """Makes a model and adds it; what was said."""
    path, said = write_model(folder / "model.onnx", **made), []
    add_foreign(
        ForeignModel(path, folder / "labels.txt", RATE, window_s, output, embedding), name, said.append
    )
    return said


def test_sound_at_the_models_rate_goes_in_and_scores_come_out(tmp_path, recording):
    expected = scipy.special.expit(np.where(np.eye(3) > 0, 20 * 0.25 - 1, -1))
    more = {"activation": "Sigmoid", "extra_output": True, "embedding": "x2"}
    for name, made, kind, size in (
        ("a", {"samples": SAMPLES}, "logits", 0),
        ("b", {"batch": 1}, "logits", 0),
        ("c", {"batch": 2, "samples": SAMPLES, "output": "logits"}, "logits", 0),
        ("d", {"batch": 4, "samples": "n", **more}, "probabilities", SAMPLES),
    ):
        (said,) = add(tmp_path, name, **made)
        classifier = keras_birds.load(name)
        engine = classifier.engines[0]
        assert (said.endswith(f"taken as {kind}"), engine.embedding_size) == (True, size)
        frame = classifier.scores(recording)
        assert frame["start_s"].tolist() == [0, 3, 6]
        np.testing.assert_allclose(frame.iloc[:, 2:].to_numpy(), expected, atol=0.01)
        out = tmp_path / f"{name}.onnx"
        export_model([engine.path], out, "waveform", "float32", np.zeros((3, SAMPLES), np.float32))
        np.testing.assert_allclose(keras_birds.load(out).scores(recording), frame, atol=1e-5)
    clips = np.ones((3, SAMPLES), np.float32)
    np.testing.assert_allclose(engine.embeddings(clips), 20 * clips)


def test_a_model_that_does_not_fit_is_refused_with_what_it_is_and_nothing_stays(tmp_path, library):
    for made, said in (
        ({"samples": SAMPLES, "window_s": 5.0}, r"must take float \[batch, 240000\].*Received: x .*144000"),
        ({"num_labels": 2}, r"one output \[batch, 3\].*Received: out \[batch, 2\]"),
        ({"output": "probabilities"}, r"from 0 to 1\. Received: .* in out; pass --output logits"),
        ({"embedding": "y", "extra_output": True}, r"Received: y, with x2 \[batch, 144000\]"),
        ({"activation": "Log"}, r"scores must be finite\. Received: \d of 9 in out"),
    ):
        with pytest.raises(ModelError, match=rf"model\.onnx: .*{said}"):
            add(tmp_path, **made)
    path = write_model(tmp_path / "split.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, size_threshold=0, location="w.data")
    with pytest.raises(ModelError, match=r"split\.onnx: the file must hold the model's weights.* one file"):
        add_foreign(ForeignModel(path, tmp_path / "labels.txt", RATE, WINDOW_S), "tones")
    assert not list(library.iterdir())
    assert "Warning: all are from 0 to 1" in add(tmp_path, activation="Sigmoid", output="logits")[1]
    (library / "tones" / "model.json").unlink()
    with pytest.raises(
        ModelError, match=r"is added once, with `keras-birds models add .*model\.onnx --labels"
    ):
        keras_birds.load("tones")
    remove_model("tones")


def test_label_files_give_names_where_they_hold_them(tmp_path):
    blackbird, magpie = (f"{x.partition('_')[0]}|{x.replace('_', '|')}|" for x in FOREIGN_LABELS[::2])
    found = [blackbird, "Human vocal|||", magpie]
    table = "common_name,label,class_name\nFrog,f,Amphibia\nDog,d,\n"
    for name, text, expected in (
        ("a.txt", LINES, found),
        ("a.csv", LINES, found),
        ("titled.csv", f"inat2024\n{LINES}", found),
        ("table.csv", table, ["f||Frog|Amphibia", "d||Dog|"]),
        ("empty.txt", "\n\n", "one a line"),
        ("other.csv", "a,b\n1,2\n", "a column label or name"),
        ("twice.txt", "a_b\na_b\n", "must be unique"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        if isinstance(expected, str):
            with pytest.raises(DataError, match=expected):
                read_labels(tmp_path / name)
        else:
            items = read_labels(tmp_path / name, {3}).items
            assert ["|".join(vars(x).values()) for x in items] == expected


def test_a_model_that_hears_slowed_recordings_finds_the_same_in_their_own_seconds(
    run_command, tmp_path, recording
):
    model = write_model(tmp_path / "tones.onnx")
    options = ("--sample-rate", RATE, "--window-s", WINDOW_S, "--labels", tmp_path / "labels.txt")
    for more in ((), ("--name", "slow", "--speed", "0.5")):
        assert run_command("models", "add", model, *options, *more)[0] == 0
    soundfile.write(tmp_path / "fast.wav", soundfile.read(recording)[0], 44_100, "FLOAT")
    slowed = keras_birds.load("slow").scores(tmp_path / "fast.wav")
    own = keras_birds.load("tones").scores(recording)
    np.testing.assert_allclose(slowed["start_s"], own["start_s"] / 2)
    np.testing.assert_allclose(slowed.iloc[:, 2:], own.iloc[:, 2:], atol=1e-5)


def test_the_commands_find_it_by_name(run_command, tmp_path, recording):
    model = write_model(tmp_path / "foreign.onnx", activation="Sigmoid")
    options = ("--sample-rate", RATE, "--window-s", WINDOW_S, "--labels", tmp_path / "labels.txt")
    code, printed, _ = run_command("models", "add", model, *options)
    assert (code, printed[:44]) == (0, "Added foreign: 3 labels, licence not given, ")
    for call, said in (
        ((model, *options), "must be added once"),
        ((model, "--name", "animals", *options), "no shipped model's"),
        ((model, *options[:4]), "--labels, --sample-rate and --window-s must be given"),
        (("birdnet", *options[2:]), "--labels, --window-s can't be given for birdnet"),
        (("model.pt",), "or an ONNX model (.onnx). Received: model.pt"),
    ):
        code, _, err = run_command("models", "add", *call)
        assert (code, said in err) == (2, True)
    model.unlink()
    printed = run_command("info", "foreign")[1]
    assert [x in printed for x in ("source       foreign.onnx (SHA-256 ", "outputs      probabilities")] == [
        True
    ] * 2
    printed = run_command("predict", recording, "--model", "foreign", "--format", "json")[1]
    assert json.loads(printed)[0]["model_id"] == "foreign"
    species = tmp_path / "region.txt"
    species.write_text("Pica pica_Elster\nCorvus corax_Kolkrabe\nHuman vocal\n", encoding="utf-8")
    call = ("detect", recording, "--model", "foreign", "--out", tmp_path / "out", "--species", species)
    for more, expected, said in (
        ("--strict-species", 1, "knows. Received: Corv"),
        ("--merge", 0, "doesn't know Corv"),
    ):
        code, _, err = run_command(*call, more)
        assert (code, said in err) == (expected, True)
    found = (tmp_path / "out" / "detections.csv").read_text()
    assert ("Pica pica,Eurasian Magpie" in found, "Turdus" in found) == (True, False)
