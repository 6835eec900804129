"""Windows with people's voices leave no trace in results, clips and live lines."""

import csv

import numpy as np
import pytest
import soundfile

from keras_birds.audio.remote import file_fingerprint
from keras_birds.errors import ModelError
from keras_birds.inference.classifier import LiveWindow
from keras_birds.inference.scorer import RecordingScores, RecordingStatus
from keras_birds.labels import LabelSet
from keras_birds.results.detections import DetectionRules
from keras_birds.results.results import Results, read_detections
from keras_birds.results.segments import SegmentPicker, cut_segments
from keras_birds.results.voices import QuietWindows, voice_columns, without_voices

LABELS = LabelSet(["Turdus merula", "Human vocal", "Human whistle"])
VOICES = [0, 0, 0, 0.5, 0, 0, 0]


def recording(voices, hop_s=3.0, channels=1, **about):
    """Windows of 3 s with a bird in each; `voices` is a probability for each, on the last channel."""
    start_s = np.repeat(np.arange(len(voices)) * hop_s, channels)
    channel = np.tile(np.arange(channels), len(voices))
    scores = np.full((len(start_s), 3), [0.9, 0.01, 0.01], np.float32)
    scores[channel == channels - 1, 2] = np.float32(voices)
    status = RecordingStatus(**{"file": "a.wav", "status": "ok", "windows": len(start_s), **about})
    return RecordingScores(status, start_s, start_s + 3, channel.astype(np.int16), scores)


def test_windows_that_overlap_or_touch_a_voice_are_left_out_on_every_channel():
    for found, starts, voices, left_out_s in (
        (recording(VOICES), [0, 3, 15, 18], 3, ((6.0, 15.0),)),
        (recording(VOICES, hop_s=1.0), [], 7, ((0.0, 9.0),)),  # one that ends at 3 s, where the voice begins
        (recording([0] * 5 + VOICES, hop_s=1.0, channels=2), [0, 1, 2, 3, 4], 14, ((5.0, 14.0),)),
        (recording([0.49] * 2), [0, 3], 0, ()),
    ):
        kept = without_voices(found, voice_columns(LABELS), 0.5)
        assert sorted(set(kept.start_s)) == starts
        assert (kept.recording.voices, kept.recording.left_out_s) == (voices, left_out_s)
    with pytest.raises(ModelError, match="1 labels, none of them as BirdNET's Human vocal"):
        DetectionRules.of(LabelSet(["Turdus merula"]), no_voices=0.5)


def test_detections_scores_and_clips_hold_nothing_of_it(tmp_path):
    path, out = tmp_path / "a.wav", tmp_path / "out"
    soundfile.write(path, np.repeat(np.float32([0.1, 0.1, 0.5, 0.5, 0.5, 0.1, 0.1]), 3 * 8000), 8000)
    size, mtime_ns = file_fingerprint(str(path))
    found = recording(VOICES, file=str(path), seconds=21.0, size_bytes=size, mtime_ns=mtime_ns)
    found.scores[[1, 5], 0] = 0.3, 0.6  # on either side of the gap, over which no mean is taken
    rules = DetectionRules.of(LABELS, no_voices=0.5, smooth_windows=3)
    with Results(out, LABELS, "m", rules, {}, keep_scores=True) as results:
        results.add(found)
        results.finish()
        table = next(next(iter(results.read("detections")))[1])
        assert sum(x.num_rows for x in next(iter(results.read("scores")))[1]) == 4
    assert np.round(table["score"].to_pylist(), 3).tolist() == [0.7, 0.5, 0.7, 0.8]
    (row,) = csv.DictReader((out / "manifest.csv").read_text().splitlines())
    assert (row["windows"], row["voices"], row["detections"]) == ("7", "3", "4")
    picker = SegmentPicker(seconds=8.0)
    for status, rows in read_detections(out):
        picker.add(status, rows)
    cut_segments(picker.picked(), tmp_path / "clips", 8.0, "wav")
    loudest = [abs(soundfile.read(x)[0]).max() for x in (tmp_path / "clips").rglob("*.wav")]
    assert loudest == pytest.approx([0.1, 0.1], abs=1e-3)  # 0.5 where windows were left out


def test_live_windows_wait_until_no_voice_can_touch_them():
    def heard(hop_s):
        for k, voice in enumerate(VOICES):
            told.append(k)
            yield LiveWindow(k * hop_s, k * hop_s + 3, (), np.float32([0.9, voice, 0]))

    told = []
    quiet = QuietWindows(heard(3.0), LABELS, 0.5, 3.0)
    assert [(x.start_s, told[-1]) for x in quiet] == [(0.0, 1), (3.0, 2), (15.0, 6), (18.0, 6)]
    assert (quiet.left_out, quiet.heard_s) == (3, 21.0)
    assert list(QuietWindows(heard(1.0), LABELS, 0.5, 1.0)) == []
    assert len(list(QuietWindows(heard(1.0), LABELS, None, 1.0))) == 7
