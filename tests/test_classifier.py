"""Scores of recordings, from windows to an answer: in ONNX Runtime and in Keras, however many threads there are."""

import _thread
import itertools
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import soundfile
import soxr
from placeholder import AUDIO, LABELS, MEL, TONES_HZ, make_metadata, write_constant_model

import keras_birds
from keras_birds.audio.clips import fill
from keras_birds.audio.mel import MelTransform
from keras_birds.audio.stream import open_stream
from keras_birds.config import AudioConfig
from keras_birds.errors import AudioError, ConfigError, DataError, ModelError
from keras_birds.inference.aggregate import RankedLabel, aggregate, aggregated, top_labels
from keras_birds.inference.classifier import Classifier
from keras_birds.inference.scorer import RecordingStatus, ScoreOptions, score_recordings
from keras_birds.labels import LabelSet

RATE, CLIP = AUDIO.sample_rate_hz, AUDIO.clip_samples


@pytest.fixture(scope="module")
def classifier(placeholder_run):
    return keras_birds.load(placeholder_run)


@pytest.fixture
def record(tmp_path):
    """Writes a tone of each label in turn, 1.3 s each, so that no two windows are alike; the file and its samples."""

    def write(seconds: float):
        t = np.arange(round(seconds * RATE)) / RATE
        hz = np.take(TONES_HZ, (t / 1.3).astype(int), mode="wrap")
        noise = np.random.default_rng(0).normal(0, 0.01, len(t))
        samples = (0.3 * np.sin(2 * np.pi * hz * t) + noise).astype(np.float32)
        soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
        return tmp_path / "a.wav", samples

    return write


def expected_scores(clips: list[np.ndarray], logit_scales=(20.0, 10.0)) -> np.ndarray:
    """What the placeholder run's members compute, in NumPy: the mean of their probabilities."""
    images = MelTransform(AUDIO, MEL).images(np.stack(clips))
    bands = images.reshape(len(clips), len(LABELS), -1).max(axis=2)
    return np.mean([scipy.special.expit(x * bands - 0.9 * x) for x in logit_scales], axis=0)


def scores_of(frame) -> np.ndarray:
    return frame[list(LABELS)].to_numpy()


def test_scores_are_a_row_a_window_and_what_is_short_is_repeated(placeholder_run, classifier, record):
    in_keras = keras_birds.load(placeholder_run, engine="keras")
    members = [(keras_birds.load(placeholder_run / f"fold{k}"), x) for k, x in enumerate((20.0, 10.0))]
    for seconds, overlap_s, starts_s, ends_s in (
        (5.5, 0.0, [0, 2, 4], [2, 4, 5.5]),
        (0.7, 0.0, [0], [0.7]),
        (5.5, 1.25, [0, 0.75, 1.5, 2.25, 3.0, 3.75], [2, 2.75, 3.5, 4.25, 5.0, 5.5]),
    ):
        path, samples = record(seconds)
        frame = classifier.scores(path, overlap_s)
        assert list(frame.columns) == ["start_s", "end_s", *LABELS]
        assert set(frame.dtypes[2:]) == {np.dtype(np.float32)}
        assert (frame["start_s"].tolist(), frame["end_s"].tolist()) == (starts_s, ends_s)
        clips = [fill(samples[round(x * RATE) :][:CLIP], CLIP) for x in starts_s]
        np.testing.assert_allclose(scores_of(frame), expected_scores(clips), atol=1e-5)
        assert classifier.score_file(path, overlap_s).recording.unscored_s == 0
        for member, scale in members:
            alone = scores_of(member.scores(path, overlap_s))
            np.testing.assert_allclose(alone, expected_scores(clips, [scale]), atol=1e-5)
        np.testing.assert_allclose(scores_of(in_keras.scores(path, overlap_s)), scores_of(frame), atol=1e-4)


def test_a_model_is_named_by_its_run_and_folds_or_a_json_beside_it(classifier, placeholder_run, tmp_path):
    assert classifier.model_id == "20250601-101500/fold0+fold1"
    assert classifier.labels.items == LABELS.items
    for name in ("model.keras", "model.json"):
        shutil.copy(placeholder_run / "fold0" / name, tmp_path / name)
    alone = keras_birds.load(tmp_path / "model.keras")
    assert (alone.model_id, alone.audio.decoder) == ("20250601-101500/fold0", "soundfile")
    assert keras_birds.load(placeholder_run, decoder="tfio").audio.decoder == "tfio"
    with pytest.raises(ConfigError, match=r"audio\.decoder: .*Received: 'vlc'"):
        keras_birds.load(placeholder_run, decoder="vlc")


def test_streams_and_arrays_get_the_scores_of_a_file(classifier, record):
    path, samples = record(40.5)
    chunks, frame = list(classifier.stream(path, 1.0)), classifier.scores(path, 1.0)
    assert [len(x[0]) for x in chunks] == [16, 16, 8]
    start_s, end_s, scores = (np.concatenate(x) for x in zip(*chunks, strict=True))
    np.testing.assert_array_equal([start_s, end_s], [frame["start_s"], frame["end_s"]])
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, scores_of(frame), atol=1e-6)
    windows = classifier.predict(samples, RATE)
    np.testing.assert_allclose(windows, scores_of(classifier.scores(path)), atol=1e-6)
    clips = np.stack([samples[:CLIP], samples[CLIP : 2 * CLIP]])
    for sound in (clips.astype(np.float64), clips[:, : CLIP // 3]):
        found = classifier.predict(sound, RATE)
        assert (found.dtype, found.shape) == (np.float32, (2, 4))
        np.testing.assert_allclose(found, expected_scores([fill(x, CLIP) for x in sound]), atol=1e-5)
    tone = 0.3 * np.sin(2 * np.pi * TONES_HZ[2] * np.arange(2 * 44_100) / 44_100)
    for sound in (tone, np.stack([tone, tone])):
        assert set(classifier.predict(sound, 44_100).argmax(axis=1)) == {2}


def test_an_array_that_is_no_sound_is_refused(classifier):
    for clips, rate, said in (
        (np.zeros((1, 2, 9)), RATE, r"\[samples\] or \[n, samples\]\. Received: float64 \[1, 2, 9\]"),
        (np.zeros(RATE, np.int16), RATE, r"floating-point samples .* Received: int16 \[16000\]"),
        (np.float32(0), RATE, r"Received: float32 \[\]"),
        (np.zeros((0, RATE)), RATE, r"at least 0\.05 s of sound"),
        (np.zeros(799), RATE, r"at least 0\.05 s of sound, .* Received: shape \[799\] at 16000 Hz"),
        (np.zeros(700), 0, "sample_rate_hz"),
        (np.zeros((700, 2)), RATE, "mean of a recording's channels"),
        (np.full(RATE, np.nan), RATE, "NaN or infinity"),
        (np.zeros((2, 3 * RATE)), RATE, r"at most as long .* 2 s\. Received: 3 s\. Pass one recording as"),
    ):
        with pytest.raises(DataError, match=said):
            classifier.predict(clips, rate)


def test_members_that_differ_are_refused_naming_both_files_unless_only_training_uses_it(tmp_path):
    names = [str(tmp_path / f"fold{k}" / "model.onnx") for k in range(2)]
    write_constant_model(Path(names[0]), [0.0] * 4)
    for changes, said in (
        ({"labels": LabelSet(LABELS.items[::-1])}, "differ in order at position 1: 1139490 / amakin1"),
        ({"mel": MEL.model_copy(update={"top_db": 60.0})}, r"mel settings.* mel\.top_db is 80\.0 in "),
        ({"audio": AUDIO.model_copy(update={"clip_s": 3.0})}, r"audio settings.* audio\.clip_s is 2\.0 in "),
    ):
        write_constant_model(Path(names[1]), [0.0] * 4, make_metadata(**changes))
        with pytest.raises(ModelError, match=said) as caught:
            keras_birds.load(tmp_path)
        assert [x in str(caught.value) for x in (*names, "\n")] == [True, True, False]
    other = make_metadata(audio=AUDIO.model_copy(update={"crop": "random"}), licence="", metrics={})
    write_constant_model(Path(names[1]), [2.0] * 4, other)
    scores = keras_birds.load(tmp_path).score_clips(np.zeros((3, CLIP), np.float32))
    np.testing.assert_allclose(scores, np.full((3, 4), (0.5 + scipy.special.expit(2.0)) / 2), rtol=1e-6)
    with pytest.raises(ModelError, match="at least one model"):
        Classifier([])


def test_nan_logits_are_an_error_and_huge_ones_are_sure(tmp_path):
    clip = np.zeros((1, CLIP), np.float32)
    path = write_constant_model(tmp_path / "model.onnx", [0.0, 1.0, np.nan, 2.0])
    with pytest.raises(ModelError, match=r"model\.onnx: .* each of 4 labels\. Received: .* 1 of them NaN"):
        keras_birds.load(path).score_clips(clip)
    path = write_constant_model(tmp_path / "model.onnx", [1e30, -1e30, 0.0, -1000.0])
    np.testing.assert_array_equal(keras_birds.load(path).score_clips(clip), np.float32([[1, 0, 0.5, 0]]))


def test_the_mean_or_maximum_over_windows_is_ranked_and_equal_ones_keep_the_labels_order():
    scores = np.random.default_rng(0).random((7, 4), np.float32)
    np.testing.assert_allclose(aggregate(scores), scores.mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(aggregate(scores, "max"), scores.max(axis=0))
    assert {aggregate(scores.astype(float), x).dtype for x in ("mean", "max")} == {np.dtype(np.float32)}
    with pytest.raises(ConfigError, match=r"mean, max\. Received: median"):
        aggregate(scores, "median")

    # Enough of them that a sort which isn't stable mixes them.
    many = LabelSet(map(str, range(300)))
    ranked = top_labels(many, np.tile(np.float32([0.25, 0.75, 0.5]), 100), 299)
    assert ranked[:2] == (RankedLabel(1, many.items[1], 0.75), RankedLabel(2, many.items[4], 0.75))
    order = [x for first in (1, 2, 0) for x in range(first, 300, 3)]
    assert [x.label.name for x in ranked] == [str(x) for x in order[:299]]


@pytest.fixture
def recordings(tmp_path, write_tone):
    """Short and long ones, with three that can't be read."""
    seconds = (0.5, 37.3, 4.0, 2.0, 11.1) * 3
    names = [write_tone(f"{k}.wav", TONES_HZ[k % 4], seconds=s) for k, s in enumerate(seconds)]
    (tmp_path / "text.wav").write_text("no audio" * 100)
    noise = np.random.default_rng(0).normal(0, 0.1, 60 * RATE).astype(np.float32)
    noise[-5] = np.nan
    soundfile.write(tmp_path / "nan.wav", noise, RATE, "FLOAT")
    names[4:4] = [tmp_path / f"{name}.wav" for name in ("text", "none", "nan")]
    return names


def test_scores_are_the_same_whatever_the_threads_and_the_batch(classifier, recordings, write_tone):
    expected = list(score_recordings(classifier, recordings, ScoreOptions(0.5, workers=1, batch_size=1)))
    assert [x.recording.file for x in expected] == [str(x) for x in recordings]
    found = [(x.recording.status, x.recording.windows, len(x.scores)) for x in expected[:7]]
    failed = [(x, 0, 0) for x in ("corrupt", "missing", "corrupt")]
    assert found == [("ok", n, n) for n in (1, 25, 3, 1)] + failed
    assert expected[6].recording.reason == "holds NaN samples"
    for ask in (classifier.scores, lambda path: list(classifier.stream(path))):
        with pytest.raises(AudioError, match="holds NaN samples"):
            ask(recordings[6])
    best = {Path(x.recording.file).stem: set(x.scores.argmax(axis=1)) for x in expected[:4] + expected[7:]}
    assert best == {str(k): {k % 4} for k in range(15)}
    parts: dict = {}
    for x in score_recordings(classifier, recordings, ScoreOptions(0.5, part_windows=10)):
        assert x.is_last or len(x.scores) >= 10
        parts.setdefault(x.recording.file, []).append(x)
    for whole, (*most, last) in zip(expected, parts.values(), strict=True):
        assert (last.recording, bool(most)) == (
            whole.recording,
            len(whole.scores) > 20 or "nan" in whole.recording.file,
        )
        for name in ("start_s", "end_s", "channel", "scores") if not last.recording.failed else ():
            np.testing.assert_allclose(
                np.concatenate([getattr(x, name) for x in (*most, last)]), getattr(whole, name), atol=1e-6
            )
        for method in ("mean", "max") if not last.recording.failed else ():
            ((_, found),) = aggregated([*most, last], method)
            np.testing.assert_allclose(found, aggregate(whole.scores, method), atol=1e-6)
    for workers, batch_size in ((1, 7), (2, 1), (3, 4), (9, 64)):
        options = ScoreOptions(0.5, workers=workers, batch_size=batch_size)
        for a, b in zip(score_recordings(classifier, iter(recordings), options), expected, strict=True):
            assert a.recording == b.recording or np.isnan(a.recording.seconds_expected)
            np.testing.assert_array_equal([a.start_s, a.end_s], [b.start_s, b.end_s])
            np.testing.assert_allclose(a.scores, b.scores, atol=1e-6)
    # Many bad files in a row neither stall the work nor change its order.
    good = write_tone("good.wav", seconds=2)
    files = [good.with_name(f"none{k}.wav") for k in range(200)]
    files[70:70], files[150:150] = [good], [good]
    for workers in (1, 2, 9):
        found = score_recordings(classifier, files, ScoreOptions(workers=workers))
        assert [(x.recording.file, len(x.scores)) for x in found] == [(str(x), x == good) for x in files]


def test_the_outcome_tells_what_was_read_and_progress_adds_up_to_the_audio(classifier, write_tone):
    path = write_tone("a.flac", seconds=4.5, rate=44_100, channels=2)
    (found,) = score_recordings(classifier, [path])
    file = {"size_bytes": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}
    assert found.recording == RecordingStatus(str(path), "ok", "", 4.5, 4.5, 44_100, 2, 2, 0.5, **file)
    path = write_tone("a.wav", seconds=21.2, channels=2)
    for options in ({}, {"channel": "all"}, {"overlap_s": 1.5}, {"workers": 1}):
        told = []
        list(score_recordings(classifier, [path], ScoreOptions(**options), told.append))
        assert (sum(told), len(told) > 2) == (pytest.approx(21.2), True), options


def test_channels_are_mixed_or_picked_or_all_scored(classifier, tmp_path):
    t, path = np.arange(4 * RATE) / RATE, tmp_path / "a.wav"
    noise = np.random.default_rng(0).normal(0, 0.005, (len(t), 1))
    tones = 0.5 * np.sin(2 * np.pi * np.outer(t, [TONES_HZ[0], TONES_HZ[3]])) + noise
    soundfile.write(path, tones, RATE)
    options = [ScoreOptions(channel=x) for x in (1, 2, "all", "mix", 3)]
    one, two, both, mixed, none = (next(score_recordings(classifier, [path], x)) for x in options)
    assert [x.scores.argmax(axis=1).tolist() for x in (one, two, both)] == [[0, 0], [3, 3], [0, 3, 0, 3]]
    assert [x.channel.tolist() for x in (two, both, mixed)] == [[2, 2], [1, 2, 1, 2], [0, 0]]
    assert both.start_s.tolist() == [0, 0, 2, 2]
    assert (np.sort(mixed.scores, axis=1)[:, 2] > 0.3).all(), "both tones are in the mix"
    assert (none.recording.status, none.recording.reason) == ("unreadable", "has no channel 3: it has 2")


@pytest.mark.parametrize("form", ["FLOAT WAV", "PCM_16 RF64", "PCM_24 FLAC"])
def test_a_stream_in_blocks_is_what_resampling_at_once_gives(tmp_path, form):
    (subtype, container), path = form.split(), tmp_path / "odd.name"
    rate = 384_000 if container == "FLAC" else 22_050
    samples = np.random.default_rng(0).normal(0, 0.1, (round(11.3 * rate), 3)).astype(np.float32)
    soundfile.write(path, samples, rate, subtype, format=container)
    with open_stream(path, AudioConfig()) as stream:
        blocks = list(stream.blocks)
    assert len(blocks) > 1
    whole = soxr.resample(soundfile.read(path, dtype="float32")[0].mean(axis=1), rate, 32_000, quality="HQ")
    np.testing.assert_allclose(np.concatenate(blocks)[:, 0], whole, atol=1e-6)
    assert (stream.status, stream.seconds_read) == ("ok", len(samples) / rate)


def engine_threads() -> int:
    return sum(x.name == "keras-birds" for x in threading.enumerate())


def test_names_are_read_as_needed_and_threads_end_with_the_iterator_and_on_ctrl_c(classifier, write_tone):
    path, taken = write_tone("a.wav", seconds=2), []
    list(score_recordings(classifier, [path] * 3))
    assert not engine_threads()
    found = score_recordings(classifier, (taken.append(k) or path for k in range(1000)))
    for _ in range(3):
        next(found)
    time.sleep(0.2)
    assert engine_threads()
    assert len(taken) < 80
    found.close()
    assert not engine_threads()
    # Also those that wait for room.
    threading.Timer(1.5, _thread.interrupt_main).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(score_recordings(classifier, itertools.repeat(path), ScoreOptions(workers=40)))
    assert time.monotonic() - began < 15
    assert not engine_threads()


def test_an_error_of_the_model_or_of_the_names_is_raised(classifier, tmp_path, recordings):
    path = write_constant_model(tmp_path / "model.onnx", [np.nan] * 4)
    with pytest.raises(ModelError, match="of them NaN"):
        list(score_recordings(keras_birds.load(path), recordings))
    assert not engine_threads()

    def names():
        yield recordings[0]
        raise ConfigError("the list broke off")

    with pytest.raises(ConfigError, match="broke off"):
        list(score_recordings(classifier, names()))
    assert not engine_threads()


def test_options_that_cannot_be_used_are_refused_at_once(classifier):
    no_step = r"overlap must be .* less than the clip's 2 s\. Received: "
    for options, said in (
        ({"workers": 0}, "workers must be at least 1"),
        ({"batch_size": -1}, "batch_size must"),
        ({"overlap_s": 2.0}, no_step),
        ({"overlap_s": -0.5}, no_step),
    ):
        with pytest.raises(ConfigError, match=said):
            score_recordings(classifier, [], ScoreOptions(**options))
    with pytest.raises(ConfigError, match=no_step):
        next(classifier.stream("none.wav", 2.0))
