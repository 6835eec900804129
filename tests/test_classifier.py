"""Scores of recordings, from windows to an answer, in ONNX Runtime and in Keras."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import soundfile
from constant_model import write_constant_model
from placeholder import AUDIO, LABELS, MEL, TONES_HZ, make_metadata

import keras_birds
from keras_birds.audio.clips import fill
from keras_birds.audio.mel import MelTransform
from keras_birds.errors import AudioError, ConfigError, DataError, ModelError
from keras_birds.inference.aggregate import RankedLabel, aggregate, top_labels
from keras_birds.inference.classifier import Classifier
from keras_birds.labels import Label, LabelSet

RATE = AUDIO.sample_rate_hz
CLIP = AUDIO.clip_samples


@pytest.fixture
def classifier(placeholder_run):
    return keras_birds.load(placeholder_run)


def tone_sequence(seconds: float) -> np.ndarray:
    """A tone of each label in turn, 1.3 s each, so that no two windows are alike."""
    t = np.arange(round(seconds * RATE)) / RATE
    hz = np.take(TONES_HZ, (t / 1.3).astype(int), mode="wrap")
    noise = np.random.default_rng(0).normal(0, 0.01, len(t))
    return (0.3 * np.sin(2 * np.pi * hz * t) + noise).astype(np.float32)


@pytest.fixture
def record(tmp_path):
    """Writes `tone_sequence` without loss; gives the file and its samples."""

    def write(seconds: float):
        samples = tone_sequence(seconds)
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


@pytest.mark.parametrize(
    ("seconds", "overlap_s", "starts_s", "ends_s"),
    [
        (6.0, 0.0, [0, 2, 4], [2, 4, 6]),
        (5.5, 0.0, [0, 2, 4], [2, 4, 5.5]),
        (0.7, 0.0, [0], [0.7]),
        (5.5, 1.25, [0, 0.75, 1.5, 2.25, 3.0, 3.75], [2, 2.75, 3.5, 4.25, 5.0, 5.5]),
    ],
)
def test_scores_are_a_row_a_window_and_what_is_short_is_repeated(
    classifier, record, seconds, overlap_s, starts_s, ends_s
):
    path, samples = record(seconds)
    frame = classifier.scores(path, overlap_s)
    assert list(frame.columns) == ["start_s", "end_s", *LABELS]
    assert set(frame.dtypes[2:]) == {np.dtype(np.float32)}
    assert (frame["start_s"].tolist(), frame["end_s"].tolist()) == (starts_s, ends_s)
    starts = [round(x * RATE) for x in starts_s]
    expected = expected_scores([fill(samples[x : x + CLIP], CLIP) for x in starts])
    np.testing.assert_allclose(scores_of(frame), expected, atol=1e-5)
    assert len(frame) == 1 or np.ptp(expected, axis=0).max() > 0.1, "windows must differ"
    assert classifier.score_file(path, overlap_s).recording.unscored_s == 0


@pytest.mark.parametrize("overlap_s", [2.0, 5.0, -0.5])
def test_an_overlap_that_leaves_no_step_is_refused(classifier, record, overlap_s):
    path, _ = record(5.0)
    for ask in (classifier.scores, classifier.score_file, lambda *args: list(classifier.stream(*args))):
        with pytest.raises(ConfigError, match=r"overlap must be .* less than the clip's 2 s\. Received: "):
            ask(path, overlap_s)


def test_stream_gives_the_scores_batch_by_batch(classifier, record):
    path, _ = record(40.5)
    chunks, frame = list(classifier.stream(path, 1.0)), classifier.scores(path, 1.0)
    assert [len(x[0]) for x in chunks] == [16, 16, 8]
    start_s, end_s, scores = (np.concatenate(x) for x in zip(*chunks, strict=True))
    np.testing.assert_array_equal([start_s, end_s], [frame["start_s"], frame["end_s"]])
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, scores_of(frame), atol=1e-6)


def test_an_array_gets_the_scores_of_a_file_of_it(classifier, record):
    path, samples = record(5.5)
    in_file = scores_of(classifier.scores(path))
    np.testing.assert_allclose(classifier.predict(samples, RATE), in_file, atol=1e-6)
    # 5.5 s are three windows; 20 s more than one batch of them.
    assert classifier.predict(tone_sequence(40.0), RATE).shape == (20, 4)
    clips = np.stack([samples[:CLIP], samples[CLIP : 2 * CLIP]])
    for sound in (clips.astype(np.float64), clips[:, : CLIP // 3]):
        found = classifier.predict(sound, RATE)
        assert (found.dtype, found.shape) == (np.float32, (2, 4))
        np.testing.assert_allclose(found, expected_scores([fill(x, CLIP) for x in sound]), atol=1e-5)
    tone = 0.3 * np.sin(2 * np.pi * TONES_HZ[2] * np.arange(2 * 44_100) / 44_100)
    for sound in (tone, tone[None], np.stack([tone, tone])):
        assert set(classifier.predict(sound, 44_100).argmax(axis=1)) == {2}


@pytest.mark.parametrize(
    ("clips", "rate", "said"),
    [
        (np.zeros((1, 2, 9)), RATE, r"\[samples\] or \[n, samples\]\. Received: float64 \[1, 2, 9\]"),
        (np.zeros(RATE, np.int16), RATE, r"floating-point samples .* Received: int16 \[16000\]"),
        (np.float32(0), RATE, r"Received: float32 \[\]"),
        (np.zeros((0, RATE)), RATE, r"at least 0\.05 s of sound"),
        (np.zeros(799), RATE, r"at least 0\.05 s of sound\. Received: shape \[799\] at 16000 Hz"),
        (np.zeros(700), 0, "at 0 Hz"),
        (np.full(RATE, np.nan), RATE, "NaN or infinity"),
        (np.zeros((2, 3 * RATE)), RATE, r"at most as long .* 2 s\. Received: 3 s\. Pass one recording as"),
    ],
)
def test_an_array_that_is_no_sound_is_refused(classifier, clips, rate, said):
    with pytest.raises(DataError, match=said):
        classifier.predict(clips, rate)


def test_a_file_that_cannot_be_read_has_no_scores(classifier, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"not audio" * 100)
    with pytest.raises(AudioError, match="is not audio"):
        classifier.scores(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("suffix", "rate", "channels"), [("wav", 8_000, 1), ("flac", 44_100, 2), ("ogg", 32_000, 1)]
)
def test_any_format_rate_and_channels_give_a_tone_its_label(classifier, write_tone, suffix, rate, channels):
    for i, hz in enumerate(TONES_HZ):
        if hz < rate / 2:
            path = write_tone(f"{i}.{suffix}", hz, seconds=4.0, rate=rate, channels=channels)
            assert scores_of(classifier.scores(path)).argmax(axis=1).tolist() == [i, i], hz


def test_an_ensemble_is_the_mean_of_its_members_probabilities(placeholder_run, classifier, record):
    path, _ = record(6.0)
    members = [scores_of(keras_birds.load(placeholder_run / x).scores(path)) for x in ("fold0", "fold1")]
    assert np.abs(members[0] - members[1]).max() > 0.05
    np.testing.assert_allclose(scores_of(classifier.scores(path)), np.mean(members, axis=0), atol=1e-6)
    assert classifier.model_id == "20250601-101500/fold0+fold1"
    assert classifier.labels.items == LABELS.items


def test_both_engines_give_the_same_scores(placeholder_run, classifier, record, tmp_path):
    path, _ = record(7.3)
    expected = scores_of(classifier.scores(path, 0.5))
    in_keras = keras_birds.load(placeholder_run, engine="keras")
    np.testing.assert_allclose(scores_of(in_keras.scores(path, 0.5)), expected, atol=1e-4)
    # A .keras file by itself: the metadata is read from the JSON beside it.
    for name in ("model.keras", "model.json"):
        shutil.copy(placeholder_run / "fold0" / name, tmp_path / name)
    alone = keras_birds.load(tmp_path / "model.keras")
    fold = keras_birds.load(placeholder_run / "fold0")
    np.testing.assert_allclose(scores_of(alone.scores(path)), scores_of(fold.scores(path)), atol=1e-4)
    assert alone.model_id == "20250601-101500/fold0"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": LabelSet(LABELS.items[::-1])}, "differ in order at position 1: 1139490 / amakin1"),
        (
            {"labels": LabelSet([*LABELS.items[:3], Label("rubthr1")])},
            "only in .*: rubthr1; only in .*: amakin1",
        ),
        ({"mel": MEL.model_copy(update={"top_db": 60.0})}, r"mel settings.* mel\.top_db is 80\.0 in "),
        ({"audio": AUDIO.model_copy(update={"clip_s": 3.0})}, r"audio settings.* audio\.clip_s is 2\.0 in "),
    ],
)
def test_members_that_differ_are_refused_naming_both_files(tmp_path, changes, said):
    names = [str(tmp_path / f"fold{k}" / "model.onnx") for k in range(2)]
    for name, metadata in zip(names, (make_metadata(), make_metadata(**changes)), strict=True):
        write_constant_model(Path(name), [0.0] * 4, metadata)
    with pytest.raises(ModelError, match=said) as caught:
        keras_birds.load(tmp_path)
    assert [x in str(caught.value) for x in (*names, "\n")] == [True, True, False]


def test_members_may_differ_in_what_only_training_uses(tmp_path):
    write_constant_model(tmp_path / "fold0" / "model.onnx", [0.0] * 4)
    other = make_metadata(audio=AUDIO.model_copy(update={"crop": "random"}), licence="", metrics={})
    write_constant_model(tmp_path / "fold1" / "model.onnx", [2.0] * 4, other)
    scores = keras_birds.load(tmp_path).score_clips(np.zeros((3, CLIP), np.float32))
    np.testing.assert_allclose(scores, np.full((3, 4), (0.5 + scipy.special.expit(2.0)) / 2), rtol=1e-6)


def test_a_classifier_without_members_is_refused():
    with pytest.raises(ModelError, match="at least one model"):
        Classifier([])


def test_nan_logits_are_an_error_and_huge_ones_are_sure(tmp_path):
    clip = np.zeros((1, CLIP), np.float32)
    path = write_constant_model(tmp_path / "model.onnx", [0.0, 1.0, np.nan, 2.0])
    with pytest.raises(ModelError, match=r"model\.onnx: .* each of 4 labels\. Received: .* 1 of them NaN"):
        keras_birds.load(path).score_clips(clip)
    path = write_constant_model(tmp_path / "model.onnx", [1e30, -1e30, 0.0, -1000.0])
    np.testing.assert_array_equal(keras_birds.load(path).score_clips(clip), np.float32([[1, 0, 0.5, 0]]))


def test_the_decoder_may_be_chosen_and_an_unknown_one_is_a_wrong_call(placeholder_run):
    assert keras_birds.load(placeholder_run, decoder="tfio").audio.decoder == "tfio"
    assert keras_birds.load(placeholder_run).audio.decoder == "soundfile"
    with pytest.raises(ConfigError, match=r"audio\.decoder: .*Received: 'vlc'"):
        keras_birds.load(placeholder_run, decoder="vlc")


def test_aggregate_is_the_mean_or_the_maximum_over_windows():
    scores = np.random.default_rng(0).random((7, 4), np.float32)
    np.testing.assert_allclose(aggregate(scores), scores.mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(aggregate(scores, "max"), scores.max(axis=0))
    assert {aggregate(scores.astype(float), x).dtype for x in ("mean", "max")} == {np.dtype(np.float32)}
    with pytest.raises(ConfigError, match=r"mean, max\. Received: median"):
        aggregate(scores, "median")


def test_top_labels_are_ranked_and_equal_ones_keep_the_labels_order():
    top = top_labels(LABELS, np.float32([0.25, 0.75, 0.5, 0.75]), 3)
    items = LABELS.items
    assert top == tuple(
        RankedLabel(*x) for x in ((1, items[1], 0.75), (2, items[3], 0.75), (3, items[2], 0.5))
    )
    # Enough of them that a sort which isn't stable mixes them.
    many = LabelSet(map(str, range(300)))
    scores = np.tile(np.float32([0.25, 0.75, 0.5]), 100)
    ranked = [x.label.name for x in top_labels(many, scores, 300)]
    assert ranked == [str(x) for first in (1, 2, 0) for x in range(first, 300, 3)]
