"""Where and when recordings were made: files, tables and names, and what contradicts itself."""

import csv
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from test_embed_cli import write_embedding_model
from test_recorder import GUANO, chunk, wav

import keras_birds
from keras_birds.audio.recorder import Origin, RecorderMetadata
from keras_birds.embeddings.scoring import StoredRecordings
from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.errors import ConfigError
from keras_birds.inference.scorer import ScoreOptions
from keras_birds.results.origin import Origins
from keras_birds.results.sites import Site, read_deployments

NAME = "disk/A/20230510_073000.wav"
BERLIN = Site("A", 52.5, 13.4, "Europe/Berlin", "Meadow")
MOTH = RecorderMetadata("AudioMoth", "2023-05-10T05:30:00+00:00", recorder="AudioMoth 248D9B04645707D7")
GPS = RecorderMetadata("GUANO", "2023-05-10T07:30:00+02:00", 52.5001, 13.4, "SMA00646")
NAIVE = replace(GPS, began="2023-05-10T07:30:00")
AT = "2023-05-10T07:30:00"


def of(*rows, file=NAME, told=None, **options):
    return Origins(rows, **options).of(file, *[told] if told else [])


def test_files_come_first_then_tables_then_names_and_without_a_timezone_nothing_is_guessed():
    assert of() == Origin(AT)
    assert of(file="a.wav") == Origin()
    assert of(file="20230510_073000+0200.wav") == Origin(AT, 120)
    assert of(told=GPS) == Origin(AT, 120, 52.5001, 13.4)
    assert of(told=NAIVE, timezone="-03:30") == Origin(AT, -210, 52.5001, 13.4)
    assert of(BERLIN) == Origin(AT, 120, 52.5, 13.4, "Meadow")
    assert of(BERLIN, told=GPS) == Origin(AT, 120, 52.5001, 13.4, "Meadow")  # 11 m away
    assert of(BERLIN, told=MOTH, file="a/A/1.wav") == Origin(AT, 120, 52.5, 13.4, "Meadow")
    assert of(told=MOTH, timezone="America/Bogota", file="1.wav") == Origin("2023-05-10T00:30:00", -300)
    assert of(replace(BERLIN, timezone="", site=""), timezone="UTC") == Origin(AT, 0, 52.5, 13.4, "A")
    assert of(place=(0, 0)) == Origin(AT, None, 0, 0)  # said on purpose
    named = "S20230510T073000+0200_[+52.5000+013.4000].flac"
    assert of(file=named) == Origin(AT, 120, 52.5, 13.4)
    assert of(file="REC 05-10-23 07h.wav", time_pattern="%m-%d-%y %Hh") == Origin("2023-05-10T07:00:00")
    for options in ({"timezone": "Mars"}, {"place": (91, 0)}, {"time_pattern": "%H"}):
        with pytest.raises(ConfigError):
            Origins(**options)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (of(file="19700101_000312.wav"), "Its name tells 1970-01-01 00:03:12, which is before 2000"),
        (of(file="20990101_000312.wav"), "which is in the future"),
        (of(file="20230510_083000.wav", told=GPS), "1 h apart, as in another timezone"),
        (of(file="20230510_110030.wav", told=NAIVE), "3.5 h apart, as in another timezone"),
        (of(file="20230510_073230.wav", told=GPS), "its name 2023-05-10 07:32:30: 2.5 min apart"),
        (of(file="20220510_073000.wav", told=GPS), "365.0 days apart"),
        (of(file="20230510_073100.wav", told=GPS), ""),
        (of(file="20230510_053000.wav", told=GPS), ""),  # UTC
        (of(file="20230510_073000.wav", told=MOTH, timezone="Europe/Berlin"), ""),
        (of(file="20230510_003000-0500.wav", told=MOTH), ""),
        (of(told=GPS, place=(52.5, 13.5)), "It tells the place 52.5001, 13.4 itself, not 52.5, 13.5: 7 km"),
        (of(BERLIN, told=replace(GPS, longitude=13.41)), ""),
        (
            of(file="20230510T073000Z_[+00.0000+000.0000].flac"),
            "Its name tells the place 0, 0, which can't be",
        ),
        (of(BERLIN, file="B/20230510_073000.wav"), "No site has such a path."),
        (of(BERLIN, file="A/20231029_023000.wav"), "2023-10-29 02:30:00, when Europe/Berlin changes"),
        (of(BERLIN, file="A/20240331_023000.wav"), "2024-03-31 02:30:00, when Europe/Berlin changes"),
    ],
)
def test_what_contradicts_itself_or_can_not_be_is_told(found, said):
    assert (said in found.notes, bool(found.notes)) == (True, bool(said)), found


def test_unlikely_times_are_none_other_places_count_as_said_and_hours_that_clocks_skip_as_before():
    assert of(file="19700101_000312.wav").began == of(file="20990101_000312.wav").began == ""
    assert of(told=GPS, place=(52.5, 13.5)).longitude == 13.5
    assert of(Site("A", 1, 1), told=GPS).longitude == 13.4
    assert of(file="[-21.1440+149.6960].flac").longitude == 149.696
    assert of(file="[-21.1440+189.6960].flac").longitude is None
    offsets = [of(BERLIN, file=f"A/{x}.wav").utc_offset_min for x in ("20231029_023000", "20231029_033000")]
    assert offsets == [120, 60]


def test_deployments_are_found_by_the_local_time_of_their_own_timezone(tmp_path):
    path, head = (
        tmp_path / "d.csv",
        "deployment,site,latitude,longitude,start,end,recorder,pattern,timezone\n",
    )
    moth = "248D9B04645707D7"
    path.write_text(
        f"{head}E1,Elm,48,11,2023-05-10 07:00,2023-05-10 12:00,{moth},,Europe/Berlin\n"
        f"P1,Oak,-12,-77,2023-05-10 00:00,2023-05-10 06:59,{moth},,America/Lima\n"
    )
    origins = Origins(read_deployments(path))
    assert origins.of("1.wav", MOTH) == Origin(AT, 120, 48, 11, "Elm", "E1", origins.of("1.wav", MOTH).notes)
    later = replace(MOTH, began="2023-05-10T10:30:00+00:00")
    assert origins.of("1.wav", later).deployment == "P1"
    outside = origins.of("1.wav", replace(MOTH, began="2023-06-10T10:30:00+00:00"))
    assert (outside.site, outside.latitude, outside.began) == ("", None, "2023-06-10T10:30:00")
    assert "outside the deployment's" in outside.notes


def test_detect_tells_where_and_when_in_its_tables_from_sound_and_from_embeddings(
    tmp_path, write_tone, run_command
):
    for name in ("A/20201017_130500", "B/20201017_150500", "B/20201101_000000", "C/20201017_130500"):
        write_tone(f"disk/{name}.wav", seconds=3)
    song_meter, model = tmp_path / "disk/A/20201017_130500.wav", tmp_path / "model.onnx"
    song_meter.write_bytes(wav(song_meter.read_bytes()[12:], chunk(b"guan", GUANO)))
    (tmp_path / "disk" / "bad_20201017_180000.wav").write_text("no audio")
    write_embedding_model(model)
    table = tmp_path / "d.csv"
    table.write_text(
        "deployment,site,latitude,longitude,start,end,pattern,timezone\nA1,Elm,54.8,-1.6,2020-10-01,2020-11-30,A,\n"
        "B1,Oak,54.9,-1.6,2020-10-01,2020-10-31,B,Europe/Berlin\nB2,Oak,54.9,-1.6,2020-10-20,2020-10-25,B,UTC\n"
    )
    assert run_command("embed", tmp_path / "disk", "--model", model, "--out", tmp_path / "s.emb")[0] == 1
    stored = StoredRecordings(EmbeddingStore(tmp_path / "s.emb"), keras_birds.load(model))
    parts = stored.score(stored, stored.files, ScoreOptions(part_windows=1))
    recorders = {(Path(x.recording.file).parent.name, x.recording.recorder.gain) for x in parts}
    assert recorders == {("A", "18 dB"), ("B", ""), ("C", ""), ("disk", "")}
    found = {}
    for source in ("disk", "s.emb"):
        command = ("detect", tmp_path / source, "--model", model, "--out", tmp_path / f"of {source}")
        command += ("--threshold", 0, "--deployments", table, "--timezone", "Europe/London")
        code, _, err = run_command(*command)
        assert code == 1
        for said in ("deployments B1 and B2 have", "; 2 of the recordings match no deployment; 3 of the rec"):
            assert said in err
        with (tmp_path / f"of {source}" / "manifest.csv").open(newline="") as file:
            manifest = list(csv.DictReader(file))
        detections = pd.read_csv(tmp_path / f"of {source}" / "detections.csv", keep_default_na=False)
        found[source] = sorted(map(str, manifest)), detections.sort_values([*detections], ignore_index=True)
    assert found["disk"][0] == found["s.emb"][0]
    pd.testing.assert_frame_equal(found["disk"][1], found["s.emb"][1], rtol=0.01)
    rows = {str(x["file"]).partition("disk/")[2].removesuffix(".wav"): x for x in manifest}
    told = {
        "recorder": "Wildlife Acoustics, Inc. Song Meter Mini SMA00646",
        "gain": "18 dB",
        "deployment": "A1",
    }
    told |= {"latitude": "54.75656", "longitude": "-1.59106", "site": "Elm", "temperature_c": "-3.25"}
    assert {x: rows["A/20201017_130500"][x] for x in told} == told
    assert "5 km apart" in rows["A/20201017_130500"]["notes"]
    assert [(x["start_time"][11:], x["utc_offset"], x["deployment"]) for _, x in sorted(rows.items())] == [
        ("13:05:00", "+01:00", "A1"),
        ("15:05:00", "+02:00", "B1"),
        ("00:00:00", "+00:00", ""),
        ("13:05:00", "+01:00", ""),
        ("18:00:00", "+01:00", ""),
    ]
    times = set(zip(detections["start_time"], detections["start_time_utc"], strict=True))
    assert ("2020-10-17T15:05:02.000", "2020-10-17T13:05:02.000Z") in times
    code, _, err = run_command(*command[:-1], "Europe/Paris")
    assert (code, "timezone is" in err) == (2, True)
    code, _, err = run_command(*command, "--lat", 1, "--lon", 1)
    assert (code, "--deployments says where recordings were made: leave out" in err) == (2, True)
