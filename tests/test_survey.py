"""A season of results: effort, activity and detection histories, also as commands."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from keras_birds.audio.recorder import RecorderMetadata
from keras_birds.inference.scorer import RecordingScores, RecordingStatus
from keras_birds.labels import Label, LabelSet
from keras_birds.results.detections import DetectionRules
from keras_birds.results.hours import Tally, split_hours
from keras_birds.results.origin import Origins
from keras_birds.results.results import Results
from keras_birds.results.sites import read_deployments
from keras_birds.survey.effort import bin_name, bin_of
from keras_birds.survey.season import read_season

LABELS = LabelSet([Label("owl", "Strix aluco", "Tawny Owl"), Label("dove"), Label("Human vocal_Human vocal")])
WINDOW_S = 600.0
DEPLOYMENTS = (
    "deployment,site,latitude,longitude,start,end,pattern\n"
    "A1,A,37,-6,2023-05-01,2023-05-03,a\n"
    "C0,C,39,-6.5,2023-05-01,2023-05-01,c\n"
    "B1,B,38,-6,2023-05-01,2023-05-03,b\n"
    "C1,C,39,-6.5,2023-05-02 08:00,2023-05-10,c\n"
)


def recording(file, *scores, status="ok", lost_s=0.0, **others):
    """Windows of ten minutes; scores of each: of owl, dove and voice."""
    scores = np.array(scores, np.float32).reshape(-1, 3)
    start_s = np.arange(len(scores)) * WINDOW_S
    others |= {"seconds": len(scores) * WINDOW_S - lost_s, "windows": len(scores), "mtime_ns": 1}
    found = RecordingStatus(file, status, **others)
    return RecordingScores(found, start_s, start_s + WINDOW_S, np.zeros(len(scores), np.int16), scores)


NOTHING, OWL, FAINT, DOVE, VOICE = (0, 0, 0), (0.9, 0, 0), (0.4, 0, 0), (0, 0.6, 0), (0, 0, 1)
RECORDINGS = (
    recording("a/20230501_233000.wav", NOTHING, OWL, NOTHING, NOTHING, FAINT, NOTHING),
    recording("a/20230502_120000.wav", DOVE, OWL, VOICE, NOTHING, DOVE, DOVE),  # half an hour is left out
    recording("a/20230503_003000.wav", NOTHING, lost_s=300.0, status="partial"),
    recording("b/20230501_100000.wav", status="corrupt"),
    recording("b/20230503_050000.wav", NOTHING, NOTHING, OWL),
    recording("b/20230504_000000.wav", DOVE),  # after the end
    recording("b/notime.wav", OWL),
    recording("d/20230502_000000.wav", OWL),
    recording("b/20230501_110000.wav", status="skipped"),
    recording("b/20230503_070000.wav", NOTHING, chosen_s=((60.0, 240.0), (300.0, 420.0))),
)


@pytest.fixture
def results(tmp_path):
    """What `detect` leaves, and a table of deployments beside it."""
    (tmp_path / "deployments.csv").write_text(DEPLOYMENTS)
    return make_results(tmp_path / "results", RECORDINGS)


def make_results(folder, recordings, ends=True):
    rules = DetectionRules.of(LABELS, 0.3, origins=Origins(), no_voices=0.9)
    with Results(folder, LABELS, "m", rules, {"thresholds": 0.3, **Origins().settings}) as found:
        for x in recordings:
            found.add(x)
        if ends:
            found.finish()
    return folder


def rows(path: Path):
    return path.read_text().splitlines()[1:]


def test_spans_are_split_at_whole_hours_whatever_they_are():
    rng = np.random.default_rng(0)
    begin = rng.integers(0, 10**10, 300)
    end = begin + rng.integers(0, 20_000_000, 300) * (rng.random(300) < 0.9)
    begin[:2], end[:2] = (0, 3_600_000), (3_600_000, 7_200_000)
    span, hour, seconds = split_hours(begin, end)
    assert (np.diff(hour)[np.diff(span) == 0] == 1).all()
    assert ((seconds > 0) & (seconds <= 3600)).all()
    np.testing.assert_allclose(np.bincount(span, seconds, 300), (end - begin) / 1000)
    np.testing.assert_array_equal(hour[:2], [0, 1])
    march = np.array([datetime(2024, 3, 31, 23)], "datetime64[h]").astype(np.int64)
    assert [bin_name(int(bin_of(march, x)[0]), x) for x in ("hour", "day", "month")] == [
        "23",
        "2024-03-31",
        "2024-03",
    ]


def test_a_tally_sums_what_comes_in_pieces():
    rng = np.random.default_rng(0)
    columns, weights = (
        rng.integers(0, [[40], [1 << 20]], (2, 600_000)) // [[1], [1 << 16]],
        rng.random(600_000),
    )
    tally = Tally(2)
    for k in range(6):
        tally.add(columns[:, k::6], weights[k::6])
    (first, second), sums = tally.sums()
    expected = np.zeros((40, 16))
    np.add.at(expected, tuple(columns), weights)
    np.testing.assert_array_equal(np.flatnonzero(expected), first * 16 + second)
    np.testing.assert_allclose(sums, expected.ravel())


def test_what_was_scored_again_counts_once_also_in_a_folder_that_a_killed_run_left(results):
    again = [recording(RECORDINGS[k].recording.file, OWL) for k in (1, 3)]  # one that had failed
    make_results(results, again, ends=False)
    season = read_season(results)
    assert season.summary().startswith("2.3 h of 8 recordings at 1 of 1 sites; 7 detections of 2 labels")
    assert [x.why for x in season.left_out] == ["no time"]


def test_effort_and_activity_of_a_season(results, run_command, tmp_path):
    out = tmp_path / "out"
    code, said, err = run_command(
        "activity", results, "--deployments", tmp_path / "deployments.csv", "--out", out
    )
    assert code == 0
    assert all(Path(x).is_file() for x in said.splitlines())
    assert rows(out / "effort_day.csv") == [
        *("A,A1,2023-05-01,1,0.5", "A,A1,2023-05-02,1,1", "A,A1,2023-05-03,1,0.0833333"),
        *("B,B1,2023-05-01,0,0", "B,B1,2023-05-02,0,0", "B,B1,2023-05-03,2,0.583333"),
        *("C,C0,2023-05-01,0,0", "C,C1,2023-05-02,0,0", "C,C1,2023-05-03,0,0"),
    ]
    owl, dove = "owl,Strix aluco,Tawny Owl", "dove,,"
    assert rows(out / "activity_hour.csv") == [
        *(f"{dove},A,{x}" for x in ("0,0,0.583333", "12,3,0.5", "23,0,0.5")),
        *(f"{owl},A,{x}" for x in ("0,1,0.583333", "12,0,0.5", "23,1,0.5")),
        *(f"{owl},B,{x}" for x in ("5,1,0.5", "7,0,0.0833333")),
    ]
    assert rows(out / "activity_month.csv")[-1] == f"{owl},B,2023-05,1,0.583333"
    left_out = [x.split(",", 2)[:2] for x in rows(out / "left_out.csv")]
    assert left_out == [
        ["b/20230501_100000.wav", "failed"],
        ["b/20230504_000000.wav", "no site"],
        ["b/notime.wav", "no time"],
        ["d/20230502_000000.wav", "no site"],
    ]
    for line in ("1 of the recordings can't be read", "2 of the recordings match no site", "at 2 of 3 sites"):
        assert line in err
    again = run_command("activity", results, "--out", out)
    assert (again[0], "must be a new or an empty folder" in again[2]) == (2, True)


@pytest.mark.parametrize(
    ("options", "owl", "dove", "effort"),
    [
        ((), "1,1,0 NA,NA,1 NA,NA,NA", "0,1,0 NA,NA,0 NA,NA,NA", "0.5,1,0.0833333"),
        (("--threshold", 0.4), "1,1,0 NA,NA,1 NA,NA,NA", "0,1,0 NA,NA,0 NA,NA,NA", "0.5,1,0.0833333"),
        (("--threshold", 0.5), "1,0,0 NA,NA,1 NA,NA,NA", "0,1,0 NA,NA,0 NA,NA,NA", "0.5,1,0.0833333"),
        # The night from the 1st to the 2nd is whole.
        (("--begin-hour", 12), "1,0 NA,1 NA,NA", "0,1 NA,0 NA,NA", "1,0.583333"),
        (("--occasion-days", 2), "1,0 NA,1 NA,NA", "1,0 NA,0 NA,NA", "1.5,0.0833333"),
        (("--min-hours", 0.5), "1,1,NA NA,NA,1 NA,NA,NA", "0,1,NA NA,NA,0 NA,NA,NA", "0.5,1,0.0833333"),
        (("--from", "2023-05-02", "--to", "2023-05-02"), "1 NA NA", "1 NA NA", "1"),
    ],
)
def test_histories_are_1_0_or_na(results, run_command, tmp_path, options, owl, dove, effort):
    out, table = tmp_path / "out", ("--deployments", tmp_path / "deployments.csv")
    code, said, err = run_command("occupancy", results, *table, "--out", out, *options)
    assert (code, "NA on every occasion: " in err) == (0, True)
    assert all(Path(x).is_file() for x in said.splitlines())
    for label, cells in {"owl": owl, "dove": dove}.items():
        expected = [f"{x},{y}" for x, y in zip("ABC", cells.split(), strict=True)]
        assert rows(out / "history" / f"{label}.csv") == expected
    assert rows(out / "effort.csv")[0] == f"A,{effort}"
    assert rows(out / "sites.csv")[2] == "C,39,-6.5,2,0,0"
    assert run_command("occupancy", results, *table, "--out", out)[0] == 2


def test_what_an_occupancy_model_can_not_be_made_of_is_told(results, run_command, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("Strix aluco\nnightjar\n")
    table = ("--deployments", tmp_path / "deployments.csv")
    for options, status, said in (
        ((), 1, "recordings must be of sites"),
        (
            (*table, "--threshold", 0.2),
            2,
            "--threshold must be from that of the results, 0.3, to 1. Received: 0.2",
        ),
        (
            (*table, "--from", "2023-06-01", "--to", "2023-06-02"),
            1,
            "Received: nothing from 2023-06-01 to 2023-06-02",
        ),
        ((*table, "--from", "1999-06-01"), 1, "at most 1000 occasions"),
        ((*table, "--from", "2023-06-02", "--to", "2023-06-01"), 2, "--to must not be before --from"),
        ((*table, "--min-hours", 0.9), 0, "2 detections are in occasions that are NA"),
        ((*table, "--occasion-days", 2), 0, "the last occasion has 1 of 2 days"),
        ((*table, "--species", names, "--threshold", 1), 0, "no detections of nightjar"),
    ):
        code, out, err = run_command("occupancy", results, "--out", tmp_path / str(len(said)), *options)
        assert (code, said in err) == (status, True), err
    assert [x for x in out.splitlines() if "history" in x] == [
        str(tmp_path / str(len(said)) / "history" / "owl.csv")
    ]


def test_overlaps_and_clocks_that_go_back_are_told(results, tmp_path):
    def counted(name, hour, zone=""):
        x = recording(f"a/{name}", NOTHING)
        told = RecorderMetadata("GUANO", f"2023-05-02T{hour:02d}:00:00{zone}")
        return replace(x, recording=replace(x.recording, recorder=told))

    recordings = [
        recording("a/x20230501_100000.wav", NOTHING, NOTHING),
        *(recording(f"a/x20230501_10{x}.wav", NOTHING) for x in ("0500", "1600", "2600")),
        *(counted("REC1.wav", 7), counted("REC2.wav", 6), counted("REC3.wav", 7)),
        counted("other1.wav", 5),  # not of the same series
        *(counted("S1.wav", 12, "+02:00"), counted("S2.wav", 12, "+01:00")),  # an hour later
    ]
    folder = make_results(tmp_path / "other", recordings)
    season = read_season(folder, read_deployments(tmp_path / "deployments.csv"))
    assert season.told() == [
        "3 recordings begin while another one of the same deployment lasts, and what is in both counts twice. "
        "The first: a/x20230501_100500.wav of A1",
        "1 recording begins earlier than those before them by name: a clock was set back, or tells a wrong time. "
        "The first: a/REC2.wav",
    ]
