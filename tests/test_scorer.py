"""The engine: every recording's scores, in order, however many threads there are."""

import _thread
import itertools
import shutil
import subprocess
import threading
import time
from collections import deque
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from constant_model import write_constant_model
from placeholder import AUDIO, TONES_HZ

import keras_birds
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
    seconds = (0.5, 37.3, 4.0, 2.0, 11.1) * 3
    names = [write_tone(f"{k}.wav", TONES_HZ[k % 4], seconds=s) for k, s in enumerate(seconds)]
    (tmp_path / "text.wav").write_text("no audio" * 100)
    names[4:4] = [tmp_path / "text.wav", tmp_path / "none.wav"]
    return names


def test_scores_are_the_same_whatever_the_threads_and_the_batch(classifier, recordings):
    expected = list(score_recordings(classifier, recordings, ScoreOptions(0.5, workers=1, batch_size=1)))
    assert [x.recording.file for x in expected] == [str(x) for x in recordings]
    found = [(x.recording.status, x.recording.windows, len(x.scores)) for x in expected[:6]]
    assert found == [("ok", n, n) for n in (1, 25, 3, 1)] + [("corrupt", 0, 0), ("missing", 0, 0)]
    tones = [Path(x.recording.file).stem for x in expected if not x.recording.failed]
    best = [set(x.scores.argmax(axis=1)) for x in expected if not x.recording.failed]
    assert best == [{int(k) % 4} for k in tones]
    for workers, batch_size in ((1, 7), (2, 1), (3, 4), (9, 64)):
        options = ScoreOptions(0.5, workers=workers, batch_size=batch_size)
        for a, b in zip(score_recordings(classifier, iter(recordings), options), expected, strict=True):
            assert a.recording == b.recording or np.isnan(a.recording.seconds_expected)
            np.testing.assert_array_equal([a.start_s, a.end_s], [b.start_s, b.end_s])
            np.testing.assert_allclose(a.scores, b.scores, atol=1e-6)


def test_the_outcome_tells_what_was_read(classifier, write_tone):
    path = write_tone("a.flac", seconds=4.5, rate=44_100, channels=2)
    ((found, *_),) = map(astuple, score_recordings(classifier, [path]))
    stat = path.stat()
    read = ("ok", "", 4.5, 4.5, 44_100, 2, 2, 0.5, 0, stat.st_size, stat.st_mtime_ns, "")
    assert found == (str(path), *read)


def test_channels_are_mixed_or_picked_or_all_scored(classifier, tmp_path):
    t = np.arange(4 * RATE) / RATE
    noise = np.random.default_rng(0).normal(0, 0.005, (len(t), 1))
    tones = 0.5 * np.sin(2 * np.pi * np.outer(t, [TONES_HZ[0], TONES_HZ[3]])) + noise
    soundfile.write(tmp_path / "a.wav", tones, RATE)
    one, two, both, mixed, none = (
        next(score_recordings(classifier, [tmp_path / "a.wav"], ScoreOptions(channel=x)))
        for x in (1, 2, "all", "mix", 3)
    )
    assert [x.scores.argmax(axis=1).tolist() for x in (one, two, both)] == [[0, 0], [3, 3], [0, 3, 0, 3]]
    assert [x.channel.tolist() for x in (two, both, mixed)] == [[2, 2], [1, 2, 1, 2], [0, 0]]
    assert both.start_s.tolist() == [0, 0, 2, 2]
    assert (np.sort(mixed.scores, axis=1)[:, 2] > 0.3).all(), "both tones are in the mix"
    assert (none.recording.status, none.recording.reason) == ("unreadable", "has no channel 3: it has 2")


@pytest.mark.parametrize("rate", [22_050, 384_000])
@pytest.mark.parametrize("form", ["FLOAT WAV", "PCM_16 RF64", "PCM_24 FLAC"])
def test_a_stream_in_blocks_is_what_resampling_at_once_gives(tmp_path, form, rate):
    (subtype, form), path = form.split(), tmp_path / "odd.name"
    samples = np.random.default_rng(0).normal(0, 0.1, (round(11.3 * rate), 3)).astype(np.float32)
    soundfile.write(path, samples, rate, subtype, format=form)
    with open_stream(path, 32_000) as stream:
        blocks = list(stream.blocks)
    assert len(blocks) > 1
    whole = soxr.resample(soundfile.read(path, dtype="float32")[0].mean(axis=1), rate, 32_000, quality="HQ")
    np.testing.assert_allclose(np.concatenate(blocks)[:, 0], whole, atol=1e-6)
    assert (stream.status, stream.seconds_read) == ("ok", len(samples) / rate)


def test_nan_anywhere_fails_the_file(classifier, tmp_path):
    samples = np.random.default_rng(0).normal(0, 0.1, 60 * RATE).astype(np.float32)
    samples[-5] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, RATE, "FLOAT")
    (found,) = score_recordings(classifier, [tmp_path / "a.wav"])
    recording = found.recording
    assert (recording.status, recording.reason) == ("corrupt", "holds NaN samples")
    assert len(found.scores) == recording.windows == 0
    with pytest.raises(AudioError, match="holds NaN samples"):
        list(classifier.stream(tmp_path / "a.wav"))


@pytest.fixture
def engine_threads():
    """How many run; none may be left at the end."""

    def count():
        return sum(x.name == "keras-birds" for x in threading.enumerate())

    yield count
    assert not count()


def test_threads_end_with_the_work_and_when_nobody_wants_the_rest(classifier, recordings, engine_threads):
    list(score_recordings(classifier, recordings))
    assert not engine_threads()
    rest = score_recordings(classifier, recordings)
    next(rest)
    assert engine_threads()
    rest.close()


def test_ctrl_c_ends_the_threads_also_those_that_wait_for_room(classifier, write_tone, engine_threads):
    path = write_tone("a.wav", seconds=2)
    threading.Timer(1.5, _thread.interrupt_main).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        deque(score_recordings(classifier, itertools.repeat(path), ScoreOptions(workers=40)), maxlen=0)
    assert time.monotonic() - began < 15


def test_an_error_of_the_model_or_of_the_list_of_names_is_raised(
    classifier, tmp_path, recordings, engine_threads
):
    path = write_constant_model(tmp_path / "model.onnx", [np.nan] * 4)
    with pytest.raises(ModelError, match="of them NaN"):
        list(score_recordings(keras_birds.load(path), recordings))

    def names():
        yield recordings[0]
        raise ConfigError("the list broke off")

    with pytest.raises(ConfigError, match="broke off"):
        list(score_recordings(classifier, names()))


def test_names_are_read_as_they_are_needed(classifier, write_tone):
    path, taken = write_tone("a.wav", seconds=2), []
    names = (taken.append(k) or path for k in range(1000))
    found = score_recordings(classifier, names)
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
    told, path = [], write_tone("a.wav", seconds=21.2, channels=2)
    list(score_recordings(classifier, [path], ScoreOptions(**options), told.append))
    assert (sum(told), len(told) > 2) == (pytest.approx(21.2), True)


def test_many_bad_files_in_a_row_neither_stall_the_work_nor_change_its_order(classifier, write_tone):
    good = write_tone("good.wav", seconds=2)
    files = [good.with_name(f"none{k}.wav") for k in range(200)]
    files[70:70], files[150:150] = [good], [good]
    for workers in (1, 2, 9):
        found = score_recordings(classifier, files, ScoreOptions(workers=workers))
        assert [(x.recording.file, len(x.scores)) for x in found] == [(str(x), x == good) for x in files]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_what_ffmpeg_reads_is_scored(classifier, write_tone, tmp_path):
    source = write_tone("a.wav", TONES_HZ[2], seconds=30, rate=44_100, channels=2)
    command = ["ffmpeg", "-loglevel", "error", "-i", source, "-c:a", "aac", tmp_path / "a.m4a"]
    subprocess.run(command, check=True)
    (tmp_path / "cut.m4a").write_bytes((tmp_path / "a.m4a").read_bytes()[:3000])
    files = [tmp_path / "a.m4a", tmp_path / "cut.m4a"]
    found, broken = score_recordings(classifier, files, ScoreOptions(channel="all"))
    recording = found.recording
    assert (recording.status, recording.channels, recording.sample_rate_hz) == ("ok", 2, 44_100)
    assert (set(found.scores.argmax(axis=1)), set(found.channel)) == ({2}, {1, 2})
    assert broken.recording.failed
