from datetime import UTC, datetime, timedelta, timezone

import pytest

from keras_birds.errors import ConfigError
from keras_birds.results.recording_time import named_place, start_clock

MORNING = datetime(2023, 5, 10, 7, 30)


# AudioMoth, triggered and with a serial number; Song Meter SM3 with GPS, split, with a zone, microseconds; Frontier
# Labs; Arbimon; BirdNET-Pi; and with a separator each.
RECORDERS = """
AM1_20230510_073000.ogg 20230510_073000T.WAV 24F319055FDF2902_20230510_073000.WAV SM304472_0+1_20230510$073000.wav
2MM01234_20230510_073000_000.wav 2MM01234_20230510_073000-0400.wav S4A01234_20230510_073000_123456.wav
S20230510T073000.4793+1000_E20230510T080031.9803+1000_-12.34567+78.98102.wav Lac-2023-05-10_07-30.flac
2023-05-10-birdnet-07:30:00.wav Turdus_merula-87-2023-05-10-birdnet-RTSP_1-07:30:00.mp3
20230510T073000Z_rec_[-21.1440+149.6960].flac 20230510-073000.wav site20230510073000.wav
2023-05-10T07:30:00.123Z.flac 2023_05_10_07_30_00.flac 2023-05-10-07-30-00.wav
"""


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        *((x, None) for x in RECORDERS.split()),
        ("2023-05-10 07.30.00.wav", None),
        ("Wald, 'Süd'\n栗林_20230510_073000.wav", None),
        (
            "/data/20220101_000000/rec/AM1_20230510_073000.ogg",
            None,
        ),  # the folder's name isn't the recording's
        ("https://example.org/AM1_20230510%24073000.ogg?when=20220101_000000", None),
        ("zip://rec/AM1_20230510_073000.ogg::s3://bucket/20220101_000000.zip", None),
        ("20239999_073000_20230510_073000.wav", None),  # the first is no date
        ("Süd_REC_20230510_073000_x.wav", "REC_%Y%m%d_%H%M%S"),
        ("WAT_NC_03_230510_073000_df100.wav", "%y%m%d_%H%M%S"),
        ("67403784.230510073000.wav", ".%y%m%d%H%M%S"),  # SoundTrap
        ("Teich 10.05.2023 07h30 (2).wav", "%d.%m.%Y %Hh%M"),
        ("Bat Spring-10May23-07,30,00.wav", "%d%b%y-%H,%M,%S"),
        ("2023-130-07.30AM.wav", "%Y-%j-%I.%M%p"),
        ("20230510_073000+1000.wav", "%Y%m%d_%H%M%S%z"),  # the recorder's clock, zone or not
        ("a 100% 20230510_0730.wav", "100%% %Y%m%d_%H%M"),
        ("(2023.05.10[0730.wav", "(%Y.%m.%d[%H%M"),
    ],
)
def test_names_tell_the_start_as_recorders_write_it_or_a_pattern_anywhere(name, pattern):
    assert start_clock(name, pattern).replace(tzinfo=None) == MORNING


@pytest.mark.parametrize(
    ("name", "offset_min"),
    [
        ("S20230510T073000.4793+1000_E20230510T080031.9803+1000_-12.34567+78.98102.wav", 600),
        ("20230510T073000-0330_REC.flac", -210),
        ("20230510T073000Z.flac", 0),
        # Counters, a trigger, and no zone at all.
        *((f"20230510_073000{x}.wav", None) for x in ("-0002", "+0015", "T", "Zaun", "+10000", "")),
    ],
)
def test_names_tell_zones_that_there_are_and_no_counters(name, offset_min):
    zone = None if offset_min is None else timezone(timedelta(minutes=offset_min))
    assert start_clock(name) == MORNING.replace(tzinfo=zone)


def test_frontier_labs_days_with_a_blank_and_places():
    assert start_clock("201905 8T073000_REC.flac") == datetime(2019, 5, 8, 7, 30)
    assert named_place("20230510T073000Z_rec_[-21.1440+149.6960].flac") == (-21.144, 149.696)
    assert named_place("S20230510T073000.4793+1000_E20230510T080031.9803+1000_REC.wav") is None


def test_audiomoth_hexadecimal_seconds_are_utc_and_a_pattern_may_give_the_hour_only():
    assert start_clock("20230510_07.wav", "%Y%m%d_%H") == datetime(2023, 5, 10, 7)
    assert start_clock("5AFEA4E0.WAV") == datetime(2018, 5, 18, 10, 3, 12, tzinfo=UTC)
    assert start_clock("5E9089F0.flac") == datetime(2020, 4, 10, 15, 0, tzinfo=UTC)
    # Digits only, and AudioMoth's capitals.
    assert start_clock("58123456.WAV") == datetime(2016, 10, 27, 17, 7, 34, tzinfo=UTC)


# AudioMoth's numbers in small letters, more likely hashes; of 2088; of 1978: a Batlogger's; within a word.
# No time, counters, no date, numbers within longer ones, half a separator, a year of two digits.
OTHERS = """
58123456.wav 5afea4e0.wav DEADBEEF.WAV 10160435.WAV X5AFEA4E0.WAV
soundscape_8358733_5.ogg 20230510.wav 20230510_0012.wav 20231310_073000.wav 20230510_076000.wav
2023-05-10_07-30-61.wav 2023-02-30_07-30.wav 120230510_073000.wav 20230510_0730001.wav 20230510_07300.wav
18230510_073000.wav 2023-0510_073000.wav 230510_073000.wav
"""
# Another date, none, numbers within longer ones, small letters, a suffix.
OTHER_PATTERNS = """
AM1_20230510_073000.ogg REC_20231310_073000.wav REC_20230510_0730001.wav REC_20230510_07300.wav
rec_20230510_073000.wav x.REC_20230510_073000
"""


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        *((x, None) for x in ("", *OTHERS.split())),
        *((x, "REC_%Y%m%d_%H%M%S") for x in OTHER_PATTERNS.split()),
        ("12320230510_073000.wav", "%Y%m%d_%H%M%S"),
        ("20230510_073000.wav", "%y%m%d_%H%M%S"),
    ],
)
def test_other_names_tell_nothing(name, pattern):
    assert start_clock(name, pattern) is None


NO_HOUR = ["", "%Y%m%d", "%H%M%S", "%m%d_%H%M%S", "%Y%m_%H%M%S", "%Y%m%d_%M%S", "%Y%m%d_%I%M"]


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        *((x, "date and an hour") for x in NO_HOUR),
        ("%Y%m%d_%H%Q", "unknown %Q"),
        ("%Y%m%d_%H%", "unknown %"),
        ("%Y%m%d_%H_%Y", "%Y twice"),
    ],
)
def test_a_pattern_without_a_date_and_an_hour_is_refused(pattern, problem):
    with pytest.raises(ConfigError, match=f"^.*{problem}.*$") as caught:
        start_clock("a.wav", pattern)
    assert repr(pattern) in str(caught.value)
