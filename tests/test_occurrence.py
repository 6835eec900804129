"""What occurs where and when: a made-up range model of three labels, and BirdNET's own."""

import json
from datetime import date, datetime

import numpy as np
import pandas as pd
import pytest
from placeholder import LABELS, make_metadata, write_constant_model

from keras_birds.birdnet.range_model import RangeModel
from keras_birds.errors import DataError
from keras_birds.labels import LabelSet
from keras_birds.results.detections import read_species
from keras_birds.results.occurrence import Occurrence, Site, read_sites, week_of

DOVE, PAURAQUE = "Leptotila verreauxi", "Nyctidromus albicollis"
EQUATOR, POLE = Site("*", 0, 0), Site("*", 90, 0)


def made_up(share=0.0):
    """The dove lives at the equator, the pauraque in the middle of the year; sines at their highest give 1.41."""
    kernel = np.zeros((3 * 48, 3))
    kernel[0, 0], kernel[48, 0], kernel[96, 1] = 10, share, 10
    return RangeModel(
        [(kernel, np.float32([0, 0, -10]))], np.full(48, -np.pi / 2), LabelSet([DOVE, PAURAQUE, "Noise"])
    )


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Added models: one that hears every label of the placeholder in every clip, with a range model."""
    monkeypatch.setenv("KERAS_BIRDS_MODELS", str(tmp_path / "models"))
    folder = tmp_path / "models" / "made"
    write_constant_model(folder / "model.onnx", [3.0, 2.0, 1.0, -5.0])
    make_metadata().write_json(folder / "model.json")
    made_up().save(folder)
    return folder


def names(presence, labels=LABELS):
    return [x for x, allowed in zip(labels, presence.allowed, strict=True) if allowed]


def test_weeks_are_quarters_of_months():
    days = {(1, 1): 1, (1, 7): 1, (1, 8): 2, (1, 31): 4, (2, 29): 8, (5, 10): 18, (6, 1): 21, (12, 31): 48}
    assert {day: week_of(date(2024, *day)) for day in days} == days


def test_labels_occur_where_and_when_the_range_model_says_and_what_it_does_not_know_stays():
    dove, pauraque, others = "whtdov", "bkcdon", ["1139490", "amakin1"]
    for site, week, day, found in (
        (EQUATOR, None, datetime(2025, 7, 1), [dove, pauraque]),
        (EQUATOR, None, datetime(2025, 1, 1), [dove]),
        (EQUATOR, 48, datetime(2025, 7, 1), [dove]),
        (POLE, None, datetime(2025, 7, 1), [pauraque]),
        (POLE, None, None, [pauraque]),  # 0.5 over the whole year
    ):
        presence = Occurrence(LABELS, made_up(), [site], week).of("a.wav", day)
        assert sorted(names(presence)) == sorted([*found, *others])
        assert np.isnan(presence.probabilities).tolist() == [True, False, False, True]
    made = Occurrence(LabelSet(["dog", "Noise", DOVE]), made_up(), [POLE])
    assert (names(made.of("a.wav", None), ["dog", "Noise", DOVE]), made.unknown) == (["dog", "Noise"], [])
    east, west = (Occurrence(LABELS, made_up(3), [Site("*", 50, x)]).of("a.wav", None) for x in (180, -180))
    np.testing.assert_array_equal(east.probabilities, west.probabilities)


def test_sites_are_found_by_folders_and_names_and_the_first_counts(tmp_path):
    path = tmp_path / "sites.csv"
    path.write_text("pattern,latitude,longitude\nplots/3,1,0\nA?_*.wav,2,0\n/disk/plots,3,0\ns3://b/p*,4,0\n")
    places = Occurrence(LABELS, made_up(), read_sites(path))
    for file, latitude in {
        "x/plots/3/A1_9.wav": 1,
        "plots/31/A1_9.wav": 2,
        "plots/31/A1_9.wav.ogg": None,
        "/disk/plots/31/b.wav": 3,
        "/mnt/disk/plots/31/b.wav": None,
        "s3://b/p7/a.wav?versionId=1": 4,
    }.items():
        found = places.of(file, None)
        assert (None if found is None else found.latitude) == latitude, file
    for rows, said in {
        "x,91,0\n": "row 2: A latitude must be from -90 to 90 degrees. Received: 91",
        "y,1,0\nx,north,0\n": "row 3: .*must be numbers of degrees. Received: north, 0",
        ",1,0\n": "row 2: a site must have a pattern",
        "": "at least one row",
    }.items():
        path.write_text("pattern,latitude,longitude\n" + rows)
        with pytest.raises(DataError, match=f"{path}: .*{said}"):
            read_sites(path)


def test_detect_leaves_out_what_does_not_occur_and_counts_it(library, run_command, write_tone, tmp_path):
    disk, out = tmp_path / "disk", tmp_path / "out"
    for name in ("south/P_20250701_120000.wav", "north/P_20250101_120000.wav", "south/undated.wav", "P.wav"):
        write_tone(f"disk/{name}", seconds=4)
    sites = tmp_path / "sites.csv"
    sites.write_text("pattern,latitude,longitude\nsouth,0,0\nnorth,90,0\n")
    command = ("detect", disk, "--model", "made", "--out", out, "--sites", sites)
    code, _, err = run_command(*command, "--format", "csv", "--format", "json", "--format", "parquet")
    assert code == 0, err
    for said in (
        "doesn't know 2 of 4 labels",
        "; 4 left out as unlikely",
        "1 of the recordings tell no",
        "1 of the recordings match no",
    ):
        assert said in err
    manifest = pd.read_csv(out / "manifest.csv", index_col="file", keep_default_na=False)
    manifest.index = [x.removeprefix(f"{disk}/") for x in manifest.index]
    assert manifest[["place", "week", "unlikely"]].T.to_dict("list") == {
        "P.wav": ["no site", 0, 0],
        "north/P_20250101_120000.wav": ["90, 0", 1, 4],
        "south/P_20250701_120000.wav": ["0, 0", 25, 0],
        "south/undated.wav": ["0, 0", -1, 0],
    }
    table = pd.read_csv(out / "detections.csv", dtype={"label": str})
    assert table.groupby(table["file"].str.contains("north"))["label"].nunique().to_dict() == {
        False: 3,
        True: 1,
    }
    dove = table[(table["label"] == "whtdov") & table["file"].str.contains("undated")]["occurrence"]
    assert dove.to_numpy() == pytest.approx(1, abs=1e-4)
    assert table[table["label"] == "1139490"]["occurrence"].isna().all()
    likely = [x["occurrence"] for x in json.loads((out / "detections.json").read_text())]
    expected = [None if np.isnan(x) else x for x in table["occurrence"]]
    assert likely == expected
    assert pd.read_parquet(out / "detections.parquet")["occurrence"].isna().equals(table["occurrence"].isna())
    code, _, err = run_command(*command, "--week", 3)
    assert (code, "week is 3, was null" in err) == (2, True)


def test_what_can_not_be_a_place_is_refused_by_its_option(library, run_command, write_tone, tmp_path):
    (tmp_path / "sites.csv").write_text("pattern,latitude,longitude\n*,0,0\n")
    recording, sites = write_tone("a.wav"), ("--sites", tmp_path / "sites.csv")
    for options, said in (
        (("--lat", 37), "Received: --lat 37 alone"),
        (("--lon", -6.4), "Received: --lon -6.4 alone"),
        (("--lat", 91, "--lon", 0), "--lat"),
        (("--lat", "nan", "--lon", 0), "latitude must be from -90 to 90 degrees. Received: nan"),
        (("--lat", 1, "--lon", 2, "--week", 49), "--week"),
        (("--week", 3), "--week needs a place"),
        (("--lat", 1, "--lon", 2, *sites), "--sites says where"),
    ):
        code, _, err = run_command("detect", recording, "--model", "made", "--out", tmp_path / "o", *options)
        assert (code, said in err) == (2, True), err
    (library / "range.npz").unlink()
    code, _, err = run_command("predict", recording, "--model", "made", "--lat", 1, "--lon", 2)
    assert (code, "models add birdnet" in err) == (1, True)


def test_species_of_a_place_are_a_list_that_detect_takes_and_predict_answers_with_them(
    library, run_command, write_tone, tmp_path
):
    path = tmp_path / "list.txt"
    place = ("--lat", 0, "--lon", 0, "--week", 1)
    assert run_command("species", *place, "--out", path)[0] == 0
    assert path.read_text() == f"{DOVE}_White-tipped Dove\n"
    assert read_species(path, LABELS) == ((False, True, False, False), [])
    rows = json.loads(run_command("species", *place[:4], "--format", "json")[1])
    assert [(x["scientific_name"], round(x["occurrence"], 2)) for x in rows] == [(DOVE, 1.0), (PAURAQUE, 0.5)]
    _, out, _ = run_command("predict", write_tone("a.wav"), "--model", "made", "--format", "csv", *place)
    assert [x.split(",")[2] for x in out.splitlines()[1:]] == ["1139490", "whtdov", "amakin1"]


def test_birdnets_range_model_is_that_of_litert(birdnet_model):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    from keras_birds.birdnet.add import birdnet_source

    rng = np.random.default_rng(0)
    places = np.stack(
        [rng.uniform(-90, 90, 200), rng.uniform(-180, 180, 200), rng.integers(1, 49, 200)], axis=1
    )
    places[:10, 2] = -1
    with birdnet_source() as source:
        model = interpreter.Interpreter(str(source.range_model))
        model.allocate_tensors()
        expected = []
        for place in places.astype(np.float32):
            model.set_tensor(model.get_input_details()[0]["index"], place[None])
            model.invoke()
            expected.append(model.get_tensor(model.get_output_details()[0]["index"])[0])
    found = RangeModel.load(birdnet_model)(*places.T)
    assert np.abs(found - expected).max() < 1e-5
    assert ((found >= 0.03) == (np.array(expected) >= 0.03)).all()
