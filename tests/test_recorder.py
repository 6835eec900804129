import os
import struct
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from sounds import tone

from keras_birds.audio.metadata import read_recorder_metadata
from keras_birds.audio.recorder import UNTOLD, RecorderMetadata
from keras_birds.config import AudioConfig
from keras_birds.inference.scorer import ScoreOptions, score_recordings

GUANO = b"""GUANO|Version:1.0
Make:Wildlife Acoustics, Inc.
Model:Song Meter Mini
Serial:SMA00646
WA|Song Meter|Audio settings:[{"rate":24000,"gain":18}]
Timestamp:2020-10-17 13:05:00+1:00
Loc Position:54.75656 -1.59106
Loc Elevation:
Temperature Int:-3.25
"""
SONG_METER = RecorderMetadata(
    *("GUANO", "2020-10-17T13:05:00+01:00", 54.75656, -1.59106),
    *("Wildlife Acoustics, Inc. Song Meter Mini SMA00646", "18 dB", -3.25),
)
MOTH = "AudioMoth 248D9B04645707D7"
COMMENT = f"Recorded at 19:30:00 09/08/2025 (UTC-5) by {MOTH} at low gain while battery was 4.2V."


def chunk(name, data, is_padded=True):
    return name + struct.pack("<I", len(data)) + data + b"\0" * (is_padded and len(data) % 2)


FORMAT = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16))
SOUND = np.random.default_rng(0).integers(-999, 999, 4000, np.int16).tobytes()
DATA, UNKNOWN, GUAN = chunk(b"data", SOUND), b"data\xff\xff\xff\xff" + SOUND, chunk(b"guan", GUANO)

JUNK = chunk(b"junk", bytes(3 << 20))


def wav(*chunks, magic=b"RIFF"):
    return magic + struct.pack("<I", sum(map(len, chunks)) + 4) + b"WAVE" + b"".join(chunks)


def info(comment):
    """As AudioMoths write it, in fields filled up with zeros."""
    fields = [chunk(b"ICMT", comment.encode().ljust(384, b"\0")), chunk(b"IART", MOTH.encode() + bytes(6))]
    return chunk(b"LIST", b"INFO" + b"".join(fields))


def wamd(values):
    entries = {0: b"\1\0", **values}
    return chunk(b"wamd", b"".join(struct.pack("<HI", k, len(x)) + x for k, x in entries.items()))


SM4 = {1: b"SM4", 2: b"S4A02641", 5: b"2025-02-20 17:00:00-05:00", 6: b"WGS84,12.5,S,70.25,W", 0x15: b"12.3C"}


@pytest.fixture
def told(tmp_path):
    def read(content):
        (tmp_path / "a.wav").write_bytes(content)
        return read_recorder_metadata(tmp_path / "a.wav")

    return read


LAYOUTS = {
    "behind the samples": wav(FORMAT, DATA, GUAN),
    "before the format": wav(GUAN, FORMAT, DATA),
    "pad bytes left out": wav(FORMAT, chunk(b"junk", b"abc", False), chunk(b"guan", GUANO, False), DATA),
    "odd samples without pad byte": wav(FORMAT, chunk(b"data", SOUND[:-1], False), GUAN),
    "truncated": wav(FORMAT, GUAN, DATA)[:-5000],
    "samples without length": wav(FORMAT, chunk(b"data", b"") + SOUND, GUAN),
    "samples of 2 GiB": wav(FORMAT, b"data\0\0\0\x80" + SOUND, GUAN),
    "samples of 4 GiB": wav(FORMAT, UNKNOWN, GUAN),
    "samples of 44 bytes": wav(FORMAT, chunk(b"data", SOUND[:44]) + SOUND[44:], GUAN),
    "zeros behind the samples": wav(FORMAT, DATA, bytes(9999), GUAN),
    "RF64": wav(
        chunk(b"ds64", struct.pack("<QQ", 0, len(SOUND))), FORMAT, UNKNOWN, GUAN, JUNK, magic=b"RF64"
    ),
    "megabytes of junk before": wav(FORMAT, JUNK, GUAN, DATA),
    "UTF-16": wav(FORMAT, chunk(b"guan", GUANO.decode().encode("utf-16")), DATA),
    "zeros, a mark, Latin-1": wav(FORMAT, chunk(b"guan", b"\xef\xbb\xbf" + GUANO + b"Note:\xfc\0"), DATA),
    "as flac keeps it": b"fLaC\x02" + (len(GUAN) + 4).to_bytes(3, "big") + b"riff" + GUAN,
}


@pytest.mark.parametrize("content", LAYOUTS.values(), ids=LAYOUTS)
def test_guano_is_found_wherever_and_however_it_stands(told, content):
    assert told(content) == SONG_METER


NOWHERE = {"latitude": None, "longitude": None}


@pytest.mark.parametrize(
    ("line", "changed", "problem"),
    [
        ("Timestamp:2021-05-01T04:00:00.1234567Z", {"began": "2021-05-01T04:00:00.123456+00:00"}, ""),
        ("Timestamp:2021-05-01 04:00:00", {"began": "2021-05-01T04:00:00"}, ""),
        ("Timestamp:1970-01-01T00:00:12", {"began": ""}, "before 2000"),
        ("Timestamp:2199-01-01T00:00:12Z", {"began": ""}, "in the future"),
        ("Timestamp:2021-13-01T04:00:00", {"began": ""}, "can't be read: '2021-13-01T04:00:00'"),
        ("Loc Position:0.0 0.0", NOWHERE, "0, 0, can't be"),
        ("Loc Position:54.7 190", NOWHERE, "54.7, 190, can't be"),
        ("Loc Position:N 40 26.767 W 79 58.933", NOWHERE, "can't be read: 'N 40 26.767 W 79 58.933'"),
        ("Loc Position:N51.5 W0.25", {"latitude": 51.5, "longitude": -0.25}, ""),
        ("Loc Position:51,5 -0,25", {"latitude": 51.5, "longitude": -0.25}, ""),
        ("Temperature Int:-273", {"temperature_c": None}, "-273, can't be"),
        ("no colon", {}, ""),
        ("OAD|Battery Voltage:4.1", {"battery_v": 4.1}, ""),
        ("WA|Song Meter|Audio settings:[{“rate”:24000,“gain”:“12.50”}]", {"gain": "12.5 dB"}, ""),
        ("WA|Song Meter|Audio settings:-\nOAD|Recording Settings:48000 GAIN 3", {"gain": "medium-high"}, ""),
    ],
)
def test_lines_of_guano_that_differ(told, line, changed, problem):
    # Of a key that stands twice the last counts.
    found = told(wav(FORMAT, DATA, chunk(b"guan", GUANO + line.encode())))
    assert problem in found.problems
    assert bool(problem) == bool(found.problems)
    assert replace(found, problems="") == replace(SONG_METER, **changed)


def test_wamd_with_what_is_unknown_cut_off_or_of_another_version(told):
    expected = RecorderMetadata(
        *("WAMD", "2025-02-20T17:00:00-05:00", -12.5, -70.25, "Wildlife Acoustics SM4 S4A02641", "", 12.3)
    )
    assert told(wav(FORMAT, wamd({0x0D: bytes(5 << 20), 0x77: b"?", **SM4, 0xFFFF: b"\0"}), DATA)) == expected
    # Echo Meter Touch: signs in place of letters; the temperature is cut off.
    found = told(wav(FORMAT, DATA, wamd({**SM4, 6: b"WGS84,-12.5,-70.25,55.6"}))[:-2])
    assert found == replace(expected, temperature_c=None, problems="WAMD is cut off.")
    unknown = "WAMD of version 2 isn't known, only 1."
    assert told(wav(wamd({**SM4, 0: b"\2\0"}))) == RecorderMetadata("WAMD", problems=unknown)


# Of firmware 1.0, 1.2, 1.4 and 1.5 to 1.11; then what is told of each.
SENTENCES = """
 by @ at gain setting 2 while battery state was > 5.0V
+00:00 medium None 5
 (UTC+2) by @ at gain setting 4 while battery state was less than 3.6V. Recording cancelled.
+02:00 high None 3.6 Recording cancelled.
 (UTC+5:30) by @ at low-medium gain setting while battery state was greater than 4.9V and temperature was -3.4C.
+05:30 low-medium -3.4 4.9
 (UTC-0:30) during deployment 248D9B04645707D7 using external microphone at high gain while battery was less than 2.5V.
-00:30 high None 2.5
 (UTC) by @ at low gain while battery was ?V and temperature was 1.0C. Recording stopped due to file size limit.
+00:00 low 1 None
 (UTC+99) by @ at low gain while battery was 4.0V. Recording stopped by magnetic switch.
 low None 4 AudioMoth's zone can't be read: '+99'. Recording stopped by magnetic switch.
"""
LINES = SENTENCES.strip("\n").splitlines()


@pytest.mark.parametrize(("sentence", "expected"), zip(LINES[::2], LINES[1::2], strict=True))
def test_sentences_of_audiomoths_of_all_firmware(told, sentence, expected):
    zone, gain, temperature_c, battery_v, *problems = expected.split(" ")
    temperature_c, battery_v = (None if x == "None" else float(x) for x in (temperature_c, battery_v))
    assert told(
        wav(FORMAT, info(f"Recorded at 19:30:00 09/08/2025{sentence.replace('@', MOTH)}"), DATA)
    ) == RecorderMetadata(
        *("AudioMoth", f"2025-08-09T19:30:00{zone}", None, None, MOTH, gain),
        *(temperature_c, battery_v, " ".join(problems)),
    )


def test_blocks_complete_each_other_and_contradictions_are_told(told):
    fraction = info(COMMENT.replace("30:00 ", "30:00.25 "))
    assert told(wav(FORMAT, fraction, DATA)).began == "2025-08-09T19:30:00.250000-05:00"
    found = told(wav(FORMAT, info(COMMENT), DATA, wamd(SM4), chunk(b"guan", GUANO.partition(b"Loc")[0])))
    times = "2020-10-17 13:05:00+01:00 and 2025-{}."
    assert found == replace(
        SONG_METER,
        **{"latitude": -12.5, "longitude": -70.25, "temperature_c": 12.3, "battery_v": 4.2},
        problems=f"GUANO and WAMD tell different times: {times.format('02-20 17:00:00-05:00')} "
        f"GUANO and AudioMoth tell different times: {times.format('08-09 19:30:00-05:00')}",
    )
    # A line that is cut off may end within a number.
    whole = wav(FORMAT, DATA, GUAN)
    cut = told(whole[: whole.index(b"Position") + 20])
    assert (cut.began, cut.latitude, cut.problems) == (SONG_METER.began, None, "GUANO is cut off.")
    whole = wav(FORMAT, info(COMMENT))
    assert told(whole[: whole.index(b"-5)")]) == UNTOLD


def test_comments_of_flac_and_ogg(tmp_path):
    guano = GUANO.decode().replace("\n", ";").replace('"', "")
    for name, text in (("a.flac", COMMENT), ("a.ogg", guano)):
        with soundfile.SoundFile(tmp_path / name, "w", 16000, 1) as file:
            file.comment = text
            file.write(tone(0.1, 16000))
    found = read_recorder_metadata(tmp_path / "a.flac")
    assert (found.source, found.began) == ("AudioMoth", "2025-08-09T19:30:00-05:00")
    assert read_recorder_metadata(tmp_path / "a.ogg") == SONG_METER
    tags = [b"SensorUid=00012AE7", b"RecordingStart=2020-11-07T00:00:00+1100", b"ChannelGain=40dB"]
    tags += [b"SensorLocation=-30.1228+145.4222", b"BatteryLevel=95% 12.81V"]
    data = struct.pack("<II", 0, len(tags)) + b"".join(struct.pack("<I", len(x)) + x for x in tags)
    (tmp_path / "f.flac").write_bytes(b"fLaC\x84" + len(data).to_bytes(3, "big") + data)
    assert read_recorder_metadata(tmp_path / "f.flac") == RecorderMetadata(
        *("Frontier Labs", "2020-11-07T00:00:00+11:00", -30.1228, 145.4222, "Frontier Labs 00012AE7"),
        *("40 dB", None, 12.81),
    )


class Loudness:
    audio, batch_size, labels = AudioConfig(sample_rate_hz=16_000, clip_s=1.0), 4, ("loud",)

    def score_clips(self, clips, batch_size=None):
        return np.array([[np.abs(x).max()] for x in clips], np.float32)


def test_scored_recordings_and_each_of_their_parts_carry_it_and_pipes_are_left_alone(tmp_path):
    long = chunk(b"data", (tone(20, 16000) * 9999).astype("<i2").tobytes())
    (tmp_path / "a.wav").write_bytes(wav(FORMAT, long, GUAN))
    (tmp_path / "damaged.wav").write_bytes(wav(GUAN))
    names = [str(tmp_path / x) for x in ("a.wav", "damaged.wav", "none.wav")]
    scored = [
        x.recording for x in score_recordings(Loudness(), names, ScoreOptions(part_windows=4, workers=1))
    ]
    assert [x.file for x in scored] == [*[names[0]] * (len(scored) - 2), *names[1:]]
    assert len(scored) > 4
    assert [x.recorder for x in scored] == [*[SONG_METER] * (len(scored) - 1), UNTOLD]
    os.mkfifo(tmp_path / "pipe.wav")
    assert read_recorder_metadata(tmp_path / "pipe.wav") == UNTOLD
    assert read_recorder_metadata("https://example.org/a.wav") == UNTOLD
