"""What of a recording's scores becomes a detection."""

import re
from dataclasses import replace
from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from keras_birds.errors import ConfigError, DataError
from keras_birds.inference.aggregate import rank_average
from keras_birds.inference.scorer import RecordingScores, RecordingStatus
from keras_birds.labels import Label, LabelSet
from keras_birds.results.context import Context, smooth
from keras_birds.results.detections import DetectionRules, detection_schema, read_species
from keras_birds.results.digest import Digest
from keras_birds.results.origin import Origins

LABELS = LabelSet(
    [Label("1139490", "Lithobates palmipes", "Amazon River Frog"), Label("whtdov"), Label("bkcdon")]
)


def recording(scores, hop_s=5.0, channels=(0,), file="A_20230510_235955.ogg"):
    """Scores `[window, label]`, the same for each channel."""
    scores = np.repeat(np.float32(scores), len(channels), axis=0)
    window, channel = np.divmod(np.arange(len(scores)), len(channels))
    start_s, channels = window * hop_s, np.int16(channels)[channel]
    status = RecordingStatus(file, "ok", origin=Origins().of(file))
    return RecordingScores(status, start_s, start_s + 5, channels, scores)


def rules(**options):
    return DetectionRules.of(LABELS, **options)


def detect(found, with_rules):
    return digest(found, with_rules)[1]


def digest(found, with_rules, part_windows=999, labels=LABELS):
    """What is kept of the scores, the detections and the summary of a recording that comes in parts."""
    taken, kept = Digest(found.recording, labels, with_rules, "run/fold0"), []
    for start in range(0, max(1, len(found.scores)), part_windows):
        columns = (found.start_s, found.end_s, found.channel, found.scores)
        part = (x[start : start + part_windows] for x in columns)
        is_last = start + part_windows >= len(found.scores)
        kept += taken.add(RecordingScores(found.recording, *part, is_last))
    scores = np.concatenate([x.scores for x, _ in kept])
    return scores, pa.concat_tables([x for _, x in kept]), taken.summary()


def found_in(scores, hop_s=5.0, **options):
    """Begin, end, label and score of what is detected."""
    table = detect(recording(scores, hop_s), rules(**options)).to_pylist()
    return [(x["start_s"], x["end_s"], x["label"], round(x["score"], 6)) for x in table]


SCORES = [[0.1, 0.9, 0.3], [0.25, 0.8, 0.2499], [0.0, 0.0, 0.0], [0.5, 0.26, 0.6]]


def test_scores_at_the_threshold_or_above_are_detections_by_time_and_then_score(tmp_path):
    assert found_in(SCORES) == [
        (0.0, 5.0, "whtdov", 0.9),
        (0.0, 5.0, "bkcdon", 0.3),
        (5.0, 10.0, "whtdov", 0.8),
        (5.0, 10.0, "1139490", 0.25),
        (15.0, 20.0, "bkcdon", 0.6),
        (15.0, 20.0, "1139490", 0.5),
        (15.0, 20.0, "whtdov", 0.26),
    ]
    path = tmp_path / "thresholds.csv"
    path.write_text("threshold,label\n0.5,1139490\n0.9,whtdov\n0,bkcdon\n")
    labels = [x[2] for x in found_in(SCORES, threshold=path)]
    assert labels == ["whtdov", "bkcdon", "bkcdon", "bkcdon", "bkcdon", "1139490"]
    # The best of a window among the wanted species.
    assert [x[2] for x in found_in(SCORES, top_k=1)] == ["whtdov", "whtdov", "bkcdon"]
    best = [x[2:] for x in found_in(SCORES, top_k=1, species=(True, False, True))]
    assert best == [("bkcdon", 0.3), ("1139490", 0.25), ("bkcdon", 0.6)]


def test_rows_hold_what_the_schema_promises():
    table = detect(recording(SCORES, channels=(1, 2)), rules(threshold=0.85)).cast(detection_schema())
    row = {
        **{
            "file": "A_20230510_235955.ogg",
            "model_id": "run/fold0",
            "scientific_name": "",
            "common_name": "",
        },
        **{"channel": 1, "start_s": 0.0, "end_s": 5.0, "start_time": datetime(2023, 5, 10, 23, 59, 55)},
        "start_time_utc": None,
        **{"label": "whtdov", "score": pytest.approx(0.9), "occurrence": None},
    }
    assert table.to_pylist() == [row, row | {"channel": 2}]
    late = detect(recording(SCORES), rules(threshold=0.55)).to_pylist()[-1]
    assert (late["label"], late["start_time"]) == ("bkcdon", datetime(2023, 5, 11, 0, 0, 10))
    named = detect(recording([[0.9, 0, 0]], file="a.ogg"), rules()).to_pylist()[0]
    assert (named["scientific_name"], named["common_name"]) == ("Lithobates palmipes", "Amazon River Frog")
    assert named["start_time"] is None
    for scores in (np.zeros((3, 3)), np.zeros((0, 3))):
        assert detect(recording(scores), rules()).cast(detection_schema()).num_rows == 0
        assert digest(recording(scores), rules())[2].num_rows == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("label,threshold\n1139490,0.5\nwhtdov,0.5\n", "none for bkcdon"),
        ("label,threshold\n1139490,0.5\nwhtdov,0.5\nbkcdon,1\nrubthr1,0.1\n", "rubthr1"),
        ("label,threshold\n1139490,high\n", "row 2: a threshold must be a number. Received: 'high'"),
        ("label,threshold\n1139490,-0.1\n", "row 2: the threshold must be from 0 to 1. Received: -0.1"),
        ("label,threshold\n1139490,nan\n", "row 2: the threshold must be from 0 to 1. Received: nan"),
        ("species,p\na,1\n", "must have the columns label, threshold. Received: species, p"),
        ("", "must have the columns label, threshold. Received: none"),
        ("label;threshold\n1139490;0.5\n", "semicolon-separated"),
        ("label,threshold\n1139490,0.5\nwhtdov,0.5\n1139490,0.6\n", "1139490 in rows 2 and 4"),
    ],
)
def test_wrong_thresholds_are_refused_naming_the_file_and_what_is_wrong(tmp_path, text, said):
    path = tmp_path / "thresholds.csv"
    path.write_text(text)
    with pytest.raises((ConfigError, DataError), match=f"{re.escape(str(path))}.*{re.escape(said)}"):
        rules(threshold=path)


def test_a_species_list_holds_names_of_any_kind_and_unknown_ones_are_told(tmp_path):
    path = tmp_path / "species.txt"
    path.write_text("# wanted\nwhtdov\n\nlithobates Palmipes_Frosch\nTurdus merula_Amsel\nrubthr1\n")
    assert read_species(path, LABELS) == ((True, True, False), ["Turdus merula_Amsel", "rubthr1"])
    with pytest.raises(DataError, match=r"species\.txt: .* knows\. Received: Turdus merula_Amsel, rubthr1"):
        read_species(path, LABELS, strict=True)
    for name in ("lithobates palmipes", "AMAZON river frog"):
        path.write_text(name)
        assert read_species(path, LABELS) == ((True, False, False), [])
    for text, said in {
        "# nothing\n": "at least one name",
        "Turdus merula\n": "knows. Received: Turdus merula",
        "whtdov;dove\nbkcdon;pauraque\n": "semicolon-separated",
    }.items():
        path.write_text(text)
        with pytest.raises(DataError, match=said):
            read_species(path, LABELS)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"merge": True},
        {"smooth_windows": 5, "no_voices": 0.9},
        {"smooth_windows": 3, "file_level": 2, "no_voices": 0.9},
        {"file_level": 1},
    ],
)
@pytest.mark.parametrize("hop_s", [1.0, 5.0])
def test_a_recording_in_parts_gives_what_it_gives_as_a_whole(hop_s, options):
    labels = LabelSet(["whtdov", "bkcdon", "Human vocal"])
    scores = np.random.default_rng(1).random((60, 3), np.float32)
    scores[:, 2] **= 9
    found = replace(recording(scores, hop_s, channels=(1, 2)), scores=np.repeat(scores, 2, axis=0))
    with_rules = DetectionRules.of(labels, threshold=0.4, **options)
    kept, table, summary = digest(found, with_rules, labels=labels)
    assert 0 < table.num_rows < len(kept) * 3
    for part_windows in (1, 7, 40):
        parts = digest(found, with_rules, part_windows, labels)
        np.testing.assert_array_equal(parts[0], kept)
        # Sums of a mean that slides differ in their last bit by where it began.
        for a, b in zip(parts[1:], (table, summary), strict=True):
            pd.testing.assert_frame_equal(pd.DataFrame(a.to_pylist()), pd.DataFrame(b.to_pylist()), rtol=1e-6)


def test_smoothing_is_the_weighted_mean_over_neighbours_of_a_channel_and_over_fewer_at_the_ends():
    scores = np.random.default_rng(0).random((9, 3), np.float32)
    for n in (1, 3, 5, 21):
        weights = np.maximum(0, n // 2 + 1 - abs(np.subtract.outer(np.arange(9), np.arange(9))))
        expected = weights @ scores / weights.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(smooth(scores, n), expected, atol=1e-6)
    assert smooth(scores[:0], 3).shape == (0, 3)
    found = recording(SCORES, channels=(1, 2))
    found.scores[1::2] = 0
    table = detect(found, rules(smooth_windows=3)).to_pylist()
    assert {x["channel"] for x in table} == {1}
    assert (table[0]["start_s"], table[0]["label"]) == (0.0, "whtdov")
    assert table[0]["score"] == pytest.approx(np.float32(SCORES)[:2, 1] @ [2, 1] / 3, abs=1e-6)


def test_a_score_is_weighed_with_the_best_of_its_minute_and_channel():
    scores = np.random.default_rng(0).random((30, 3), np.float32)
    found = replace(recording(scores, hop_s=5.0, channels=(1, 2)), scores=np.repeat(scores, 2, axis=0))
    found.scores[1::2] = 0.5
    kept = np.flatnonzero(found.start_s != 10.0)
    expected = found.scores.copy()
    expected[1::2] = 0.25
    for minute in (np.r_[0:2, 3:12], np.arange(12, 24), np.arange(24, 30)):
        expected[2 * minute] *= np.sort(scores[minute], axis=0)[-2:].mean(axis=0)
    expected[4:6] = 0  # isn't kept, and counts for nothing
    np.testing.assert_allclose(Context(file_level=2).scores(found, kept), expected, rtol=1e-6)
    many = Context(smooth_windows=3, file_level=99).scores(found)
    means = smooth(scores, 3)
    np.testing.assert_allclose(many[:24:2], means[:12] * means[:12].mean(axis=0), rtol=1e-5)
    with pytest.raises(ConfigError, match=r"--file-level must be at least 1\. Received: 0"):
        rules(file_level=0)


def test_models_are_averaged_by_the_order_of_windows_with_the_values_of_their_mean():
    """The second model's probabilities lie far higher, and would decide a mean alone."""
    low, high = [0.01, 0.03, 0.02, 0.04], [0.4, 0.2, 0.3, 0.1]
    members = np.float32([low, high]).T[:, :, None]
    np.testing.assert_allclose(rank_average(members)[:, 0], np.full(4, np.mean([low, high])), atol=0.01)
    members[:, 1, 0] = 0.1, 0.3, 0.2, 0.25
    means = np.sort(members.mean(axis=1), axis=0)[:, 0]
    # Mean ranks 1, 3.5, 2, 3.5: two windows share the highest places.
    expected = [means[0], means[2:].mean(), means[1], means[2:].mean()]
    np.testing.assert_allclose(rank_average(members)[:, 0], expected, rtol=1e-6)
    rng = np.random.default_rng(0)
    members = rng.random((50, 3, 2), np.float32)
    np.testing.assert_allclose(rank_average(members**3).argsort(0), rank_average(members).argsort(0))
    for count in (0, 1):
        np.testing.assert_allclose(rank_average(members[:count]), members[:count].mean(axis=1))


def test_windows_that_touch_or_overlap_become_one_event_with_the_best_score():
    scores = [[0.3, 0, 0], [0.9, 0, 0.5], [0, 0, 0], [0.4, 0, 0.7], [0.5, 0, 0.1]]
    assert found_in(scores, merge=True) == [
        (0.0, 10.0, "1139490", 0.9),
        (5.0, 10.0, "bkcdon", 0.5),
        (15.0, 20.0, "bkcdon", 0.7),
        (15.0, 25.0, "1139490", 0.5),
    ]
    # With an overlap of half a window the gap of one window is bridged.
    expected = [(0.0, 15.0, "1139490", 0.9), (2.5, 12.5, "bkcdon", 0.7)]
    assert found_in(scores, hop_s=2.5, merge=True) == expected


def test_the_summary_has_the_best_the_two_best_and_the_count_of_windows():
    for scores, expected in (
        (SCORES, [("whtdov", 0.9, 0.85, 3), ("bkcdon", 0.6, 0.45, 2), ("1139490", 0.5, 0.375, 2)]),
        (SCORES[:1], [("whtdov", 0.9, 0.9, 1), ("bkcdon", 0.3, 0.3, 1)]),
    ):
        table = digest(recording(scores), rules())[2].to_pylist()
        found = [(x["label"], round(x["max"], 6), round(x["mean_top2"], 6), x["windows"]) for x in table]
        assert found == expected
    assert (table[0]["file"], table[0]["scientific_name"]) == ("A_20230510_235955.ogg", "")
