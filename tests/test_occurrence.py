"""What occurs where and when: a made-up range model of three labels, and BirdNET's own."""

import json
from datetime import date, datetime

import numpy as np
import pandas as pd
import pytest
from placeholder import LABELS, make_metadata, write_constant_model
from test_recorder import chunk, wav

from keras_birds.audio.recorder import Origin
from keras_birds.birdnet.range_model import RangeModel
from keras_birds.labels import Label, LabelSet
from keras_birds.results.detections import read_species
from keras_birds.results.occurrence import Occurrence, week_of

DOVE, PAURAQUE = "Leptotila verreauxi", "Nyctidromus albicollis"
PLACE = ("--lat", 0, "--lon", 0)


def made_up(eastness=0.0, learnt=None):
    """The dove lives at the equator, the pauraque in the middle of the year; sines at their highest give 1.41."""
    kernel, labels = np.zeros((3 * 48, 3)), LabelSet([DOVE, PAURAQUE, "Noise"])
    kernel[0, 0], kernel[48, 0], kernel[96, 1] = 10, eastness, 10
    return RangeModel([(kernel, np.float32([0, 0, -10]))], np.full(48, -np.pi / 2), labels, learnt)


@pytest.fixture
def run(tmp_path, monkeypatch, run_command):
    """Runs a command where a model is added that hears the same in every clip, with a range model."""
    monkeypatch.setenv("KERAS_BIRDS_MODELS", str(tmp_path / "models"))
    folder = tmp_path / "models" / "made"
    write_constant_model(folder / "model.onnx", [3.0, 2.0, 1.0, -5.0])
    make_metadata().write_json(folder / "model.json")
    made_up().save(folder)
    return run_command


def found_at(latitude, day=None, week=None, labels=LABELS, longitude=0.0, **made):
    """What may occur, and all probabilities."""
    origin = Origin(day.isoformat() if day else "", None, latitude, longitude)
    presence = Occurrence(labels, made_up(**made), week).of(origin)
    return {
        x for x, is_there in zip(labels, presence.allowed, strict=True) if is_there
    }, presence.probabilities


def test_labels_occur_where_and_when_the_range_model_says_and_what_it_does_not_know_stays():
    days = {(1, 7): 1, (1, 8): 2, (1, 31): 4, (2, 29): 8, (5, 10): 18, (6, 1): 21, (12, 31): 48}
    assert {day: week_of(date(2024, *day)) for day in days} == days
    dove, pauraque, others, july = "whtdov", "bkcdon", {"1139490", "amakin1"}, datetime(2025, 7, 1)
    assert found_at(0, july)[0] == {dove, pauraque} | others
    assert found_at(0, datetime(2025, 1, 1))[0] == found_at(0, july, 48)[0] == {dove} | others
    assert found_at(90, july)[0] == found_at(-90)[0] == {pauraque} | others  # 0.5 over the whole year
    assert np.isnan(found_at(90, july)[1]).tolist() == [True, False, False, True]
    other = LabelSet(["dog", "Noise", Label("gryass", *2 * ["Gryllus assimilis"]), DOVE])
    assert found_at(90, labels=other)[0] == {"dog", "Noise", "gryass"}
    assert found_at(90, learnt=np.array([False, True, True]))[0] == {dove, pauraque} | others
    east, west = (found_at(50, longitude=x, eastness=3)[1] for x in (180, -180))
    np.testing.assert_array_equal(east, west)


def test_detect_leaves_out_what_does_not_occur_and_counts_it(run, write_tone, tmp_path):
    disk, out, sites = tmp_path / "disk", tmp_path / "out", tmp_path / "sites.csv"
    for name in ("south/P_20250701_120000.wav", "north/P_20250101_120000.wav", "south/undated.wav", "P.wav"):
        write_tone(f"disk/{name}", seconds=4)
    sites.write_text("pattern,latitude,longitude\nsouth,0,1\nnorth,90,0\n")
    command = ("detect", disk, "--model", "made", "--out", out, "--sites", sites)
    err = run(*command, "--format", "csv", "--format", "json", "--format", "parquet")[2]
    for said in (
        "nothing of 2 of 4 labels",
        "; 4 left out as",
        "; 1 of the recordings tell",
        "; 1 of the recordings match",
    ):
        assert said in err
    manifest = pd.read_csv(out / "manifest.csv", keep_default_na=False, dtype=str).sort_values("file")
    rows = [["", "0", "0"], ["90", "1", "4"], ["0", "25", "0"], ["0", "-1", "0"]]
    assert manifest[["latitude", "week", "unlikely"]].to_numpy().tolist() == rows
    table = pd.read_csv(out / "detections.csv", dtype={"label": str})
    is_north, likely = table["file"].str.contains("north"), table["occurrence"]
    assert table.groupby(is_north)["label"].nunique().to_dict() == {False: 3, True: 1}
    undated = likely[(table["label"] == "whtdov") & table["file"].str.contains("undated")]
    assert undated.to_numpy() == pytest.approx(1, abs=1e-4)
    assert likely[table["label"] == "1139490"].isna().all()
    rows = json.loads((out / "detections.json").read_text())
    assert [x["occurrence"] for x in rows] == [None if np.isnan(x) else x for x in likely]
    assert pd.read_parquet(out / "detections.parquet")["occurrence"].isna().equals(likely.isna())
    code, _, err = run(*command, "--week", 3)
    assert (code, "week is 3, was null" in err) == (2, True)


def test_what_can_not_be_a_place_is_refused_by_its_option(run, write_tone, tmp_path):
    for options, said in (
        (("--lat", 37), "Received: --lat 37 alone"),
        (("--lon", -6.4), "Received: --lon -6.4 alone"),
        (("--lat", 91, "--lon", 0), "--lat"),
        (("--lat", "nan", "--lon", 0), "latitude must be from -90 to 90 degrees. Received: nan"),
        ((*PLACE, "--week", 49), "--week"),
        (("--week", 3), "--week needs a place"),
        ((*PLACE, "--sites", write_tone("a.wav")), "--sites says where"),
    ):
        command = ("detect", write_tone("a.wav"), "--model", "made", "--out", tmp_path / "o")
        code, _, err = run(*command, *options)
        assert (code, said in err) == (2, True), err


def test_predict_tells_of_the_best_label_that_a_place_ruled_out(run, write_tone, tmp_path):
    write_constant_model(tmp_path / "models" / "made" / "model.onnx", [0.0, 1.0, 3.0, -5.0])
    command = ("predict", write_tone("a.wav"), "--model", "made", "--format", "csv")
    told = "left out as it hardly occurs there and then: Common Pauraque in"
    for place, is_told in ((("--week", 1), True), (("--week", 24), False)):
        code, _, err = run(*command, *PLACE, *place)
        assert (code, told in err) == (0, is_told), err
    write_constant_model(tmp_path / "models" / "made" / "model.onnx", [-3.0, -2.0, -1.5, -5.0])
    assert told not in run(*command, *PLACE, "--week", 1)[2]


def test_species_are_a_list_that_detect_takes_and_predict_answers_with_them(run, write_tone, tmp_path):
    path, recording = tmp_path / "list.txt", write_tone("a.wav")
    assert run("species", *PLACE, "--week", 1, "--out", path)[0] == 0
    assert path.read_text() == f"{DOVE}_White-tipped Dove\n"
    assert read_species(path, LABELS) == ((False, True, False, False), [])
    rows = json.loads(run("species", *PLACE, "--format", "json")[1])
    assert [(x["scientific_name"], round(x["occurrence"], 2)) for x in rows] == [(DOVE, 1.0), (PAURAQUE, 0.5)]
    answer = run("predict", recording, "--model", "made", "--format", "csv", *PLACE, "--week", 1)[1]
    assert [x.split(",")[2] for x in answer.splitlines()[1:]] == ["1139490", "whtdov", "amakin1"]
    guano = chunk(b"guan", b"GUANO|Version: 1.0\nTimestamp: 2025-07-01 12:00:00\nLoc Position: 89.9 10.0")
    recording.write_bytes(wav(recording.read_bytes()[12:], guano))
    for options, found, said in (
        (("--occurrence", 0.03), "bkcdon", ""),
        (PLACE, "whtdov", "1 of the recordings have notes on time, place or recorder, the first "),
    ):
        answer, err = run("predict", recording, "--model", "made", "--format", "csv", *options, "--top-k", 2)[
            1:
        ]
        assert (answer.splitlines()[2].split(",")[2], said in err) == (found, True), err
    (tmp_path / "models" / "made" / "range.npz").unlink()
    code, _, err = run("predict", recording, "--model", "made", *PLACE)
    assert (code, "models add birdnet" in err) == (1, True)


def test_birdnets_range_model_is_that_of_litert(birdnet_model):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    from keras_birds.birdnet.add import birdnet_source

    rng = np.random.default_rng(0)
    places = np.stack([rng.uniform(-90, 90, 200), rng.uniform(-180, 180, 200), rng.integers(1, 49, 200)], 1)
    places[:10, 2] = -1
    with birdnet_source() as source:
        model = interpreter.Interpreter(str(source.range_model))
        model.allocate_tensors()
        expected = []
        for place in places.astype(np.float32):
            model.set_tensor(model.get_input_details()[0]["index"], place[None])
            model.invoke()
            expected.append(model.get_tensor(model.get_output_details()[0]["index"])[0])
    ranges = RangeModel.load(birdnet_model)
    found = ranges(*places.T)
    assert np.abs(found - expected).max() < 1e-5
    assert ((found >= 0.03) == (np.array(expected) >= 0.03)).all()
    assert ((~ranges.learnt).sum(), ranges.learnt[ranges.labels.index("Anaxyrus americanus")]) == (172, False)
