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


def recording(voices, hop_s=3.0, channels=(0,), file="a.wav", **about):
    """Windows of 3 s with a bird in each; `voices` is a probability for each, on the last channel."""
    count = len(voices) * len(channels)
    window, channel = np.divmod(np.arange(count), len(channels))
    scores = np.full((count, 3), [0.9, 0.01, 0.01], np.float32)
    is_last = channel == len(channels) - 1
    scores[is_last, 2] = np.float32(voices)
    status = RecordingStatus(str(file), "ok", windows=count, **about)
    return RecordingScores(status, window * hop_s, window * hop_s + 3, np.int16(channels)[channel], scores)


def kept(voices, least=0.5, **options):
    found = without_voices(recording(voices, **options), voice_columns(LABELS), least)
    return sorted(set(found.start_s.tolist())), found.recording


def test_windows_that_overlap_or_touch_a_voice_are_left_out_on_every_channel():
    quiet = [0, 0, 0, 0.5, 0, 0, 0]
    starts, status = kept(quiet)
    assert (starts, status.voices, status.left_out_s) == ([0, 3, 15, 18], 3, ((6.0, 15.0),))
    starts, status = kept(quiet, hop_s=1.0)  # the voice is from 3 to 6 s: a window at 0 ends where it begins
    assert (starts, status.voices) == ([], 7)
    starts, status = kept([0] * 8 + [0.5] + [0] * 8, hop_s=1.0, channels=(1, 2))
    assert (starts, status.voices) == ([0, 1, 2, 3, 4, 12, 13, 14, 15, 16], 14)
    assert kept([0.49] * 4)[0] == [0, 3, 6, 9]
    with pytest.raises(ModelError, match="Received: 1 labels, none of them as BirdNET's Human vocal"):
        DetectionRules.of(LabelSet(["Turdus merula"]), no_voices=0.5)


def test_detections_scores_summary_and_clips_hold_nothing_of_it(tmp_path):
    path, voices = tmp_path / "a.wav", [0, 0, 0, 0.9, 0, 0, 0]
    soundfile.write(path, np.repeat(np.float32([0.1, 0.1, 0.5, 0.5, 0.5, 0.1, 0.1]), 3 * 8000), 8000)
    size, mtime_ns = file_fingerprint(str(path))
    rules = DetectionRules.of(LABELS, no_voices=0.5, smooth_windows=3)
    found = recording(voices, file=path, seconds=21.0, size_bytes=size, mtime_ns=mtime_ns)
    found.scores[[1, 5], 0] = 0.3, 0.6  # either side of the gap
    with Results(tmp_path / "out", LABELS, "m", rules, {}, keep_scores=True) as results:
        assert results.add(found).detections == 4
        results.finish()
        table = next(next(iter(results.read("detections")))[1])
        assert sum(x.num_rows for x in next(iter(results.read("scores")))[1]) == 4
    assert np.round(table["score"].to_pylist(), 3).tolist() == [0.6, 0.6, 0.75, 0.75]  # no mean over the gap
    (row,) = csv.DictReader((tmp_path / "out" / "manifest.csv").read_text().splitlines())
    assert (row["windows"], row["voices"]) == ("7", "3")
    picker = SegmentPicker(seconds=8.0)
    for status, rows in read_detections(tmp_path / "out"):
        picker.add(status, rows)
    cut_segments(picker.picked(), tmp_path / "clips", 8.0, "wav")
    clips = [soundfile.read(x)[0] for x in (tmp_path / "clips").rglob("*.wav")]
    assert len(clips) == 2
    assert max(abs(x).max() for x in clips) == pytest.approx(0.1, abs=1e-3)  # 0.5 where windows were left out


def test_live_windows_wait_until_no_voice_can_touch_them():
    def heard(hop_s):
        for k, voice in enumerate([0, 0, 0, 0.9, 0, 0, 0]):
            told.append(k)
            yield LiveWindow(k * hop_s, k * hop_s + 3, (), np.float32([0.9, voice, 0]))

    told = []
    quiet = QuietWindows(heard(3.0), LABELS, 0.5, 3.0)
    seen = [(x.start_s, told[-1]) for x in quiet]
    assert seen == [(0.0, 1), (3.0, 2), (15.0, 6), (18.0, 6)]
    assert (quiet.left_out, quiet.heard_s) == (3, 21.0)
    assert [x.start_s for x in QuietWindows(heard(1.0), LABELS, 0.5, 1.0)] == []
    assert len(list(QuietWindows(heard(1.0), LABELS, None, 1.0))) == 7


def test_a_model_without_voices_is_refused_in_a_line(run_command, placeholder_run, write_tone, tmp_path):
    command = ("detect", write_tone("a.wav"), "--model", placeholder_run, "--out", tmp_path / "o")
    code, _, err = run_command(*command, "--no-voices", 0.5)
    assert (code, "--no-voices needs a model with a label" in err) == (1, True)
    assert not (tmp_path / "o").exists()
