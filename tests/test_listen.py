import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from placeholder import AUDIO, LABELS, TONES_HZ
from sounds import encoded, tone

import keras_birds
from keras_birds.audio.live_input import LiveBuffer, hear, pipe_blocks
from keras_birds.audio.stream import as_taken
from keras_birds.errors import AudioError, ConfigError
from keras_birds.inference.classifier import listen

RATE_HZ = AUDIO.sample_rate_hz


def read_all(content, *arguments):
    pipe = io.BytesIO(content)
    rate_hz, blocks = pipe_blocks(pipe, *arguments or (None, None, None))
    found = np.concatenate(list(blocks))
    assert not pipe.read()
    return rate_hz, found


PIPED = [("PCM_16", 1, "WAV", "s16"), ("PCM_24", 2, "WAVEX", "s24"), ("PCM_32", 3, "WAV", "s32")]


@pytest.mark.parametrize(("subtype", "channels", "form", "raw"), [*PIPED, ("FLOAT", 1, "WAVEX", "f32")])
def test_what_comes_on_a_pipe_is_what_libsndfile_reads(subtype, channels, form, raw):
    samples = np.random.default_rng(0).uniform(-1, 1, (5000, channels))
    content = encoded(samples, form, subtype)
    expected, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    raw_samples = encoded(samples, "RAW", subtype) + b"\1"
    for rate_hz, found in (read_all(content), read_all(raw_samples, 32_000, channels, raw)):
        assert rate_hz == 32_000
        np.testing.assert_array_equal(found, expected)
    defaults = read_all(encoded(samples, "RAW", "PCM_16"), 32_000, None, None)
    assert defaults[1].shape == (5000 * channels, 1)


@pytest.mark.parametrize("size", [None, 0, 0x7FFFF000, 0xFFFFFFFF])
def test_a_wav_on_a_pipe_ends_with_its_samples_where_it_says_how_many(size):
    """What follows them, as a Song Meter's `wamd`, is no sound; without a length all that comes is."""
    content = encoded(tone(1))
    told = content[40:44] if size is None else struct.pack("<I", size)
    chunks = b"LIST\3\0\0\0abc\0data" + told + content[44:]
    _, found = read_all(content[:36] + chunks + (b"wamd\xd0\7\0\0" + b"\7" * 2000) * (size is None))
    np.testing.assert_array_equal(found, read_all(content)[1])


@pytest.mark.parametrize(
    ("content", "rate_hz", "error", "message"),
    [
        (b"", 16_000, AudioError, "nothing came"),
        (b"\0" * 100, None, ConfigError, "--rate must tell"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", None, AudioError, "WAV header is invalid"),
        (encoded(tone(1), subtype="ULAW"), None, AudioError, "format 7 with 8 bits"),
    ],
)
def test_what_cannot_be_heard_is_told(content, rate_hz, error, message):
    with pytest.raises(error, match=message):
        read_all(content, rate_hz, None, None)


def test_a_pipe_waits_for_a_full_buffer_a_microphone_loses_the_oldest_sound_and_errors_are_told():
    buffer = LiveBuffer(1000, max_s=0.5)
    blocks = [np.full((100, 1), k, np.float32) for k in range(50)]
    thread = hear(iter(blocks), buffer)
    time.sleep(0.2)
    assert buffer._held <= 600
    np.testing.assert_array_equal(np.concatenate(list(buffer)), np.concatenate(blocks))
    thread.join(5)
    assert buffer.lost_s == 0
    # A microphone doesn't wait: the oldest sound goes, and times stay true.
    buffer = LiveBuffer(1000, max_s=0.5, waits=False)
    for k in range(1, 11):
        buffer.put(np.full((100, 1), k, np.float32))
    buffer.close()
    found = np.concatenate(list(buffer))[:, 0]
    np.testing.assert_array_equal(found, np.repeat([0, 0, 0, 0, 0, 6, 7, 8, 9, 10], 100))
    assert buffer.lost_s == pytest.approx(0.5)

    def broken():
        yield np.zeros((10, 1), np.float32)
        raise AudioError("-", "broke off")

    buffer = LiveBuffer(1000)
    hear(broken(), buffer)
    with pytest.raises(AudioError, match="broke off"):
        list(buffer)
    buffer.close()
    assert buffer.put(np.zeros((1, 1), np.float32)) is False


def test_the_scores_are_those_of_the_file_and_times_do_not_drift(placeholder_run, tmp_path):
    classifier = keras_birds.load(placeholder_run)
    samples = np.concatenate([tone(3.1, 44_100, x) for x in TONES_HZ])
    soundfile.write(tmp_path / "a.wav", samples, 44_100, subtype="FLOAT")
    expected = classifier.scores(tmp_path / "a.wav", overlap_s=1.3)
    blocks = (samples[k : k + 4410, None] for k in range(0, len(samples), 4410))
    windows = list(listen(classifier, as_taken(blocks, 44_100, classifier.audio), 1.3, np.zeros(len(LABELS))))
    assert [x.start_s for x in windows] == list(expected["start_s"])
    np.testing.assert_allclose([x.end_s for x in windows], expected["end_s"], atol=1e-3)
    for window, row in zip(windows, expected[list(LABELS)].to_dict("records"), strict=True):
        assert {x.label.name: x.score for x in window.detections} == pytest.approx(row, abs=1e-3)
    with pytest.raises(AudioError, match="holds NaN samples"):
        list(listen(classifier, [np.full((2 * RATE_HZ, 1), np.nan, np.float32)], 0.0, np.zeros(len(LABELS))))


def test_the_command_says_what_it_hears_as_it_comes(placeholder_run, tmp_path):
    (tmp_path / "species.txt").write_text("White-tipped Dove\n")
    command = [sys.executable, "-m", "keras_birds", "listen", "-", "--model", placeholder_run]
    options = ["--format", "json", "--rate", str(RATE_HZ), "--species", tmp_path / "species.txt"]
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, *options], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        for start_s in (0, 2):
            process.stdin.write((tone(2, RATE_HZ, TONES_HZ[1]) * 32767).astype("<i2").tobytes())
            process.stdin.flush()
            # The line is here while the pipe is still open.
            line = json.loads(process.stdout.readline())
            assert (line["start_s"], line["label"]) == (start_s, "whtdov")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, b"")
    assert b"Heard 4.0 s: 2 detections\n" in err
    assert b"Traceback" not in err


def test_wrong_calls_and_no_sound_end_in_one_line(placeholder_run, run_command, monkeypatch):
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert run_command("listen", "-", "--model", placeholder_run) == (1, "", "Error: -: nothing came\n")
    code, _, err = run_command("listen", "--rate", "16000")
    assert (code, "pass - as well" in err) == (2, True)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    code, _, err = run_command("listen", "--model", placeholder_run)
    assert (code, "A microphone needs sounddevice. Received: not installed here" in err) == (2, True)
