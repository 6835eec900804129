"""The engine: every recording's scores, in order, however many threads there are."""

import _thread
import itertools
import os
import shutil
import subprocess
import threading
import time
from collections import deque

import numpy as np
import pytest
import soundfile
from constant_model import write_constant_model
from placeholder import AUDIO, TONES_HZ

import keras_birds
from keras_birds.audio.decode import decode
from keras_birds.audio.stream import open_stream
from keras_birds.errors import AudioError, ConfigError, ModelError
from keras_birds.inference.scorer import ScoreOptions, score_recordings

RATE = AUDIO.sample_rate_hz


@pytest.fixture
def classifier(placeholder_run):
    return keras_birds.load(placeholder_run)


@pytest.fixture
def recordings(tmp_path, write_tone):
    """Short and long ones, with two that can't be read."""
    names = [
        write_tone(f"{k}.wav", TONES_HZ[k % 4], seconds=s)
        for k, s in enumerate((0.5, 37.3, 4.0, 2.0, 11.1) * 3)
    ]
    (tmp_path / "text.wav").write_text("no audio" * 100)
    names[4:4] = [tmp_path / "text.wav", tmp_path / "none.wav"]
    return names


def test_scores_are_the_same_whatever_the_threads_and_the_batch(classifier, recordings):
    expected = list(score_recordings(classifier, recordings, ScoreOptions(0.5, workers=1, batch_size=1)))
    assert [x.recording.file for x in expected] == [str(x) for x in recordings]
    assert [x.recording.status for x in expected[3:7]] == ["ok", "corrupt", "missing", "ok"]
    assert [len(x.scores) for x in expected[:6]] == [1, 25, 3, 1, 0, 0]
    assert [x.recording.windows for x in expected[:6]] == [1, 25, 3, 1, 0, 0]
    for workers, batch_size in ((1, 7), (2, 1), (3, 4), (9, 64)):
        options = ScoreOptions(0.5, workers=workers, batch_size=batch_size)
        for a, b in zip(score_recordings(classifier, iter(recordings), options), expected, strict=True):
            assert a.recording == b.recording or np.isnan(a.recording.seconds_expected)
            np.testing.assert_array_equal(a.start_s, b.start_s)
            np.testing.assert_array_equal(a.end_s, b.end_s)
            np.testing.assert_allclose(a.scores, b.scores, atol=1e-6)


def test_each_score_belongs_to_its_window_and_recording(classifier, recordings):
    for found in score_recordings(classifier, recordings, ScoreOptions(workers=4, batch_size=3)):
        if not found.recording.failed:
            k = int(os.path.basename(found.recording.file).split(".")[0])  # noqa: PTH119
            assert set(found.scores.argmax(axis=1)) == {k % 4}


def test_the_outcome_tells_what_was_read(classifier, write_tone):
    path = write_tone("a.flac", seconds=4.5, rate=44_100, channels=2)
    (found,) = score_recordings(classifier, [path])
    recording = found.recording
    assert (recording.status, recording.sample_rate_hz, recording.channels, recording.windows) == (
        "ok",
        44_100,
        2,
        2,
    )
    assert (recording.seconds, recording.seconds_expected) == (4.5, 4.5)
    assert recording.unscored_s == pytest.approx(0.5)
    assert recording.size_bytes == path.stat().st_size
    assert recording.mtime_ns == path.stat().st_mtime_ns


def test_channels_are_mixed_or_picked_or_all_scored(classifier, tmp_path):
    t = np.arange(4 * RATE) / RATE
    noise = np.random.default_rng(0).normal(0, 0.005, len(t))
    tones = np.stack([0.5 * np.sin(2 * np.pi * hz * t) + noise for hz in (TONES_HZ[0], TONES_HZ[3])], axis=1)
    soundfile.write(tmp_path / "a.wav", tones, RATE)

    def best(channel):
        (found,) = score_recordings(classifier, [tmp_path / "a.wav"], ScoreOptions(channel=channel))
        return found, found.scores.argmax(axis=1).tolist()

    assert best(1)[1] == [0, 0]
    assert best(2)[1] == [3, 3]
    found, labels = best("all")
    assert labels == [0, 3, 0, 3]
    assert found.channel.tolist() == [1, 2, 1, 2]
    assert found.start_s.tolist() == [0, 0, 2, 2]
    mixed, _ = best("mix")
    assert mixed.channel.tolist() == [0, 0]
    assert (np.sort(mixed.scores, axis=1)[:, 2] > 0.3).all(), "both tones are in the mix"
    (none,) = score_recordings(classifier, [tmp_path / "a.wav"], ScoreOptions(channel=3))
    assert (none.recording.status, none.recording.reason) == ("unreadable", "has no channel 3: it has 2")


@pytest.mark.parametrize("rate", [22_050, 384_000])
@pytest.mark.parametrize("form", ["FLOAT WAV", "PCM_16 RF64", "PCM_24 FLAC"])
def test_a_stream_is_what_decode_gives_at_once(tmp_path, form, rate):
    subtype, form = form.split()
    samples = np.random.default_rng(0).normal(0, 0.1, (round(11.3 * rate), 3)).astype(np.float32)
    soundfile.write(tmp_path / "odd.name", samples, rate, subtype, format=form)
    with open_stream(tmp_path / "odd.name", 32_000) as stream:
        blocks = list(stream.blocks)
    whole = decode(tmp_path / "odd.name", 32_000)
    assert len(blocks) > 1
    np.testing.assert_allclose(np.concatenate(blocks)[:, 0], whole.samples, atol=1e-6)
    assert (
        (stream.status, stream.seconds_read)
        == (whole.status, whole.seconds_read)
        == ("ok", len(samples) / rate)
    )


@pytest.mark.parametrize("form", ["flac", "ogg", "mp3", "wav"])
def test_a_damaged_stream_gives_what_decode_gives(tmp_path, write_tone, form):
    path = write_tone(f"a.{form}", seconds=40)
    data = bytearray(path.read_bytes())
    half = len(data) // 2
    flipped = bytes(x ^ 0xFF for x in data[half : half + 5000])
    damages = {"cut": data[:half], "flipped": data[:half] + flipped + data[half + 5000 :]}
    for name, damaged in damages.items():
        path.write_bytes(damaged)
        whole = decode(path, 32_000)
        with open_stream(path, 32_000) as stream:
            samples = np.concatenate([*stream.blocks])[:, 0]
        assert (stream.status, stream.reason) == (whole.status, whole.reason), name
        np.testing.assert_allclose(samples, whole.samples, atol=1e-6)
        assert stream.seconds_read > 10


def test_nan_anywhere_fails_the_file(classifier, tmp_path):
    samples = np.random.default_rng(0).normal(0, 0.1, 60 * RATE).astype(np.float32)
    samples[-5] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, RATE, "FLOAT")
    (found,) = score_recordings(classifier, [tmp_path / "a.wav"])
    assert (found.recording.status, found.recording.reason) == ("corrupt", "holds NaN samples")
    assert len(found.scores) == found.recording.windows == 0
    with pytest.raises(AudioError, match="holds NaN samples"):
        list(classifier.stream(tmp_path / "a.wav"))


def engine_threads():
    return [x for x in threading.enumerate() if x.name == "keras-birds"]


def test_threads_end_with_the_work_and_when_nobody_wants_the_rest(classifier, recordings):
    list(score_recordings(classifier, recordings))
    assert not engine_threads()
    rest = score_recordings(classifier, recordings)
    next(rest)
    assert engine_threads()
    rest.close()
    assert not engine_threads()


def test_ctrl_c_ends_the_threads_also_those_that_wait_for_room(classifier, write_tone):
    path = write_tone("a.wav", seconds=2)
    timer = threading.Timer(1.5, _thread.interrupt_main)
    timer.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        deque(score_recordings(classifier, itertools.repeat(path), ScoreOptions(workers=40)), maxlen=0)
    assert time.monotonic() - began < 15
    assert not engine_threads()


def test_a_model_that_gives_no_number_stops_the_work_and_its_threads(tmp_path, recordings):
    path = write_constant_model(tmp_path / "model.onnx", [np.nan] * 4)
    with pytest.raises(ModelError, match="of them NaN"):
        list(score_recordings(keras_birds.load(path), recordings))
    assert not engine_threads()


def test_an_error_in_the_list_of_names_is_raised(classifier, recordings):
    def names():
        yield recordings[0]
        raise ConfigError("the list broke off")

    with pytest.raises(ConfigError, match="broke off"):
        list(score_recordings(classifier, names()))
    assert not engine_threads()


def test_names_are_read_as_they_are_needed(classifier, write_tone):
    path, taken = write_tone("a.wav", seconds=2), []

    def names():
        for k in range(1000):
            taken.append(k)
            yield path

    found = score_recordings(classifier, names())
    for _ in range(3):
        next(found)
    time.sleep(0.2)
    assert len(taken) < 80
    found.close()


@pytest.mark.parametrize("options", [{"workers": 0}, {"batch_size": -1}, {"overlap_s": 2.0}])
def test_options_that_cannot_be_used_are_refused_at_once(classifier, options):
    with pytest.raises(ConfigError):
        score_recordings(classifier, [], ScoreOptions(**options))


@pytest.mark.parametrize("options", [{}, {"channel": "all"}, {"overlap_s": 1.5}, {"workers": 1}], ids=str)
def test_progress_adds_up_to_the_audio(classifier, write_tone, options):
    told = []
    path = write_tone("a.wav", seconds=21.2, channels=2)
    list(score_recordings(classifier, [path], ScoreOptions(**options), told.append))
    assert sum(told) == pytest.approx(21.2)
    assert len(told) > 2


def test_many_bad_files_in_a_row_neither_stall_the_work_nor_change_its_order(
    classifier, tmp_path, write_tone
):
    good = write_tone("good.wav", seconds=2)
    files = [tmp_path / f"none{k}.wav" for k in range(200)]
    files[70:70], files[150:150] = [good], [good]
    for workers in (1, 2, 9):
        found = list(score_recordings(classifier, files, ScoreOptions(workers=workers)))
        assert [x.recording.file for x in found] == list(map(str, files))
        assert [len(x.scores) for x in found] == [int(x == good) for x in files]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_what_ffmpeg_reads_is_streamed_as_decode_reads_it(classifier, write_tone, tmp_path):
    source = write_tone("a.wav", TONES_HZ[2], seconds=30, rate=44_100, channels=2)
    command = ["ffmpeg", "-loglevel", "error", "-i", source, "-c:a", "aac", tmp_path / "a.m4a"]
    subprocess.run(command, check=True)
    whole = decode(tmp_path / "a.m4a", RATE)
    with open_stream(tmp_path / "a.m4a", RATE) as stream:
        blocks = list(stream.blocks)
    assert len(blocks) > 3
    np.testing.assert_allclose(np.concatenate(blocks)[:, 0], whole.samples, atol=1e-5)
    assert (stream.status, stream.channels, stream.sample_rate_hz) == ("ok", 2, 44_100)
    (found,) = score_recordings(classifier, [tmp_path / "a.m4a"], ScoreOptions(channel="all"))
    assert set(found.scores.argmax(axis=1)) == {2}
    assert set(found.channel) == {1, 2}
    (tmp_path / "cut.m4a").write_bytes((tmp_path / "a.m4a").read_bytes()[:3000])
    (broken,) = score_recordings(classifier, [tmp_path / "cut.m4a"])
    assert broken.recording.failed
