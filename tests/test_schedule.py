"""Which parts of recordings are heard: by the sun, by the clock, by minutes of the hour."""

import numpy as np
import pandas as pd
import pytest
from test_embed_cli import write_embedding_model

from keras_birds.audio.recorder import Origin
from keras_birds.audio.schedule import Schedule
from keras_birds.audio.sun import sun_position
from keras_birds.errors import ConfigError

DONANA = Origin("2023-05-10T00:00:00", 120, 37.0, -6.4)
DAY_S = np.arange(0, 86_400.0, 1)


def heard(schedule, origin=DONANA):
    """When it begins and ends within a day, in UTC, seconds."""
    wanted = schedule.wants(origin, DAY_S)
    edges = np.flatnonzero(np.diff(wanted))
    return wanted, [(float(x) + 1 - 60 * (origin.utc_offset_min or 0)) for x in edges]


def test_the_sun_stands_where_the_almanac_has_it_at_twilight_at_sunrise_and_at_noon():
    # As astral 3.2 has them, without the air's refraction: dawn, sunrise, noon, sunset, dusk of 10 May 2023 at Doñana,
    # then of 1 March 2024 at Tromsø.
    for place, day, times, heights in (
        ((37.0, -6.4), "2023-05-10", ("04:53:44", "05:22:21", "12:22:02", "19:22:12", "19:50:54"), (70.63,)),
        (
            (69.65, 18.96),
            "2024-03-01",
            ("05:07:13", "06:08:00", "10:56:28", "15:46:32", "16:47:33"),
            (13.04,),
        ),
    ):
        utc = np.array([f"{day}T{x}" for x in times], "datetime64[ms]")
        found, rises = sun_position(utc, *place)
        np.testing.assert_allclose(found, [-6, -0.833, *heights, -0.833, -6], atol=0.02)
        assert (rises[:2].all(), rises[3:].any()) == (True, False)


@pytest.mark.parametrize(
    ("when", "begins", "ends"),
    [
        ("dusk-dawn", "19:50:54", "04:53:44"),
        ("night", "19:22:12", "05:22:21"),
        ("day", "05:22:21", "19:22:12"),
    ],
)
def test_a_night_begins_and_ends_by_the_sun_in_utc_whatever_the_local_clock(when, begins, ends):
    wanted, edges = heard(Schedule(when))
    seconds = [
        sum(int(x) * y for x, y in zip(t.split(":"), (3600, 60, 1), strict=True)) for t in (begins, ends)
    ]
    np.testing.assert_allclose(sorted(edges), sorted(seconds), atol=10)
    assert wanted[0] == (when != "day")


def test_dawn_and_dusk_are_the_rising_and_the_falling_sun_and_nothing_is_left_of_a_polar_night():
    dawn, dusk = (heard(Schedule(x))[0] for x in ("dawn", "dusk"))
    assert not (dawn & dusk).any()
    assert 1.2 < dawn.sum() / 3600 < 2
    assert np.flatnonzero(dawn).max() < 12 * 3600 < np.flatnonzero(dusk).min()
    svalbard = Origin("2024-06-20T00:00:00", 120, 78.2, 15.6)
    assert Schedule("day").wants(svalbard, DAY_S).all()
    for schedule, origin in ((Schedule("dusk-dawn"), svalbard), (Schedule("night", "1/10"), svalbard)):
        assert not schedule.wants(origin, DAY_S).any()
        assert "has not at its latitude" in schedule.outside(origin)
    assert Schedule("night").outside(DONANA) == "outside --when night"


def test_clock_times_go_over_midnight_and_minutes_are_those_of_the_clock_or_the_recording_s_own():
    late = Origin("2023-05-10T21:58:30")
    at_s = np.array([0.0, 89, 90, 6 * 3600 + 89, 6 * 3600 + 90])
    assert Schedule("22:00-04:00").wants(late, at_s).tolist() == [False, False, True, True, False]
    assert Schedule("04:00-22:00").wants(late, at_s).tolist() == [True, True, False, False, True]
    at_s = np.array([0.0, 59, 60, 89, 90, 149, 150, 600, 689, 690])
    by_clock = [False, False, False, False, True, True, False, False, False, True]
    assert Schedule(sample="1/10").wants(late, at_s).tolist() == by_clock
    own = [True, True, False, False, False, False, False, True, False, False]
    assert Schedule(sample="1/10").wants(Origin(), at_s).tolist() == own
    assert Schedule("22:00-22:05", "1/10").wants(late, at_s).tolist() == [*by_clock[:-1], False]


def test_what_a_schedule_needs_and_nothing_tells_is_said_and_never_guessed():
    began = "2023-05-10T00:00:00"
    for origin, by_sun, by_clock in (
        (Origin(), "when it was recorded", "when it was recorded"),
        (Origin(began), "where it was recorded", ""),
        (Origin(began, None, 37.0, -6.4), "--timezone", ""),
        (DONANA, "", ""),
    ):
        for schedule, said in ((Schedule("dusk"), by_sun), (Schedule("22:00-04:00"), by_clock)):
            lacks = schedule.lacks(origin)
            assert said in lacks
            assert bool(lacks) == bool(said)
        assert not Schedule(sample="1/10").lacks(origin)


@pytest.mark.parametrize(
    "when", ["moonrise", "22-4", "22:00", "25:00-04:00", "22:60-23:00", "04:00-04:00", "00:00-24:00"]
)
@pytest.mark.parametrize("sample", ["", "10/1"])
def test_what_is_no_time_of_day_is_refused(when, sample):
    with pytest.raises(ConfigError, match=f"Received: {when}"):
        Schedule(when, sample)
    for wrong in ("0/10", "10/10", "1/10000", "1:10"):
        with pytest.raises(ConfigError, match="--sample must be"):
            Schedule(sample=wrong)


@pytest.fixture
def night(tmp_path, write_tone):
    """Of 130 s each: from half past, so that a minute of the clock lies within; at noon; and who knows when."""
    for name in ("A_20250601_215830.flac", "B_20250601_215830.mp3", "C_20250601_120000.wav", "D.wav"):
        write_tone(f"disk/{name}", 1200, 130, rate=44_100)
    return tmp_path / "disk"


def test_only_the_wanted_windows_are_scored_as_if_all_were_from_sound_and_from_a_store(
    night, tmp_path, run_command
):
    model = write_embedding_model(tmp_path / "model.onnx")

    def detect(out, source, *more, code=0):
        cut = () if source.suffix == ".emb" else ("--overlap", "1")
        arguments = ("detect", source, "--out", tmp_path / out, "--model", model, "--threshold", "0", *cut)
        found, _, err = run_command(*arguments, *more)
        assert found == code, err
        frames = []
        for name in ("detections.csv", "manifest.csv") if code < 2 else ():
            frame = pd.read_csv(tmp_path / out / name)
            frames.append(frame.assign(file=frame["file"].str.rpartition("/")[2]))
        return *frames, err

    whole, _, _ = detect("whole", night)
    found, manifest, said = detect("out", night, "--when", "22:00-22:01", code=1)
    assert "4 recordings: 2 scored, 1 skipped, as nothing of them is wanted, 1 failed" in said
    assert manifest.set_index("file")["status"].to_dict() == {
        **{"A_20250601_215830.flac": "ok", "B_20250601_215830.mp3": "ok"},
        **{"C_20250601_120000.wav": "skipped", "D.wav": "no time or place"},
    }
    np.testing.assert_allclose(manifest["seconds"], [130, 130, 130, 0], atol=0.1)
    middle = (whole["start_s"] + whole["end_s"]) / 2
    wanted = whole[whole["file"].str.contains("2158") & (middle >= 90)]
    columns = ["file", "start_s", "label", "score"]
    key = {"by": columns[:3], "ignore_index": True}
    pd.testing.assert_frame_equal(
        found[columns].sort_values(**key), wanted[columns].sort_values(**key), atol=1e-4
    )
    np.testing.assert_allclose(manifest["scored_s"], [41, 41, 0, 0], atol=0.1)
    assert 'when is "night", was "22:00-22:01"' in detect("out", night, "--when", "night", code=2)[-1]
    refused = detect("season", night, "--when", "night", "--format", "birdclef", code=2)[-1]
    assert "a row for every window: leave out --when" in refused
    _, sampled, _ = detect("sampled", night, "--sample", "1/10")
    np.testing.assert_allclose(sampled["scored_s"], [41, 41, 60, 60], atol=0.1)  # of D its own first minute
    assert (
        run_command("embed", night, "--model", model, "--overlap", "1", "--out", tmp_path / "s.emb")[0] == 0
    )
    stored, kept, _ = detect("stored", tmp_path / "s.emb", "--when", "22:00-22:01", code=1)
    same = ["file", "status", "windows", "scored_s"]
    pd.testing.assert_frame_equal(
        kept[same].sort_values("file", ignore_index=True),
        manifest[same].sort_values("file", ignore_index=True),
    )
    assert len(stored) == len(found)
