"""`keras-birds density`: intervals hold what they promise, and every review is found again or told."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile
from placeholder import LABELS

from keras_birds.audio.remote import file_fingerprint
from keras_birds.data.reviews import Review, reviews_path, save_review
from keras_birds.evaluation import density
from keras_birds.evaluation.density import Bins
from keras_birds.inference.scorer import RecordingScores, RecordingStatus
from keras_birds.results.detections import DetectionRules
from keras_birds.results.results import Results
from keras_birds.results.strata import BINS, WindowScores, bin_of, draw_rows, halving_edges

LABEL, N, CALL_FROM = "whtdov", 4000, 0.4


def season(seed, share=0.05):
    """Scores and truth of a season's windows: calls score higher, not always."""
    rng, truth = np.random.default_rng(seed), np.arange(N) < share * N
    return np.where(truth, rng.beta(2, 2, N), rng.beta(0.4, 6, N)).astype(np.float16).astype(
        np.float32
    ), truth


@pytest.mark.parametrize("share", [0.1, 0.005])
def test_the_interval_covers_the_truth_also_where_calls_are_rare(share):
    found = []
    for seed in range(150):
        scores, truth = season(seed, share)
        edges = halving_edges(scores, BINS)
        rows = draw_rows(edges, scores, 120, seed)
        bins = Bins.of(edges, scores, rows, truth[rows].astype(float))
        found.append(density.prevalence(bins, draws=400, seed=seed))
    assert np.mean([x.low <= share <= x.high for x in found]) >= 0.93
    assert np.mean([x.value for x in found]) == pytest.approx(share, rel=0.2)
    assert np.mean([x.high - x.low for x in found]) < 0.12


def test_bins_halve_and_are_drawn_alike_and_equal_scores_stay_together():
    scores, _ = season(0)
    edges = halving_edges(scores, BINS)
    np.testing.assert_allclose(np.bincount(bin_of(edges, scores))[:6], N / 2.0 ** np.arange(1, 7), rtol=0.05)
    first, again, other = (draw_rows(edges, scores, 60, x).tolist() for x in (3, 3, 4))
    assert np.bincount(bin_of(edges, scores[first])).tolist() == [6] * 10
    assert other != first == again
    assert draw_rows(edges, scores, 2 * N, 0).tolist() == list(range(N))
    tied = np.float32([0.2] * 90 + [0.5] * 10)
    assert halving_edges(tied, BINS).tolist() == np.float32([0, 0.2, 0.5, 1]).tolist()


def test_what_everybody_heard_is_known_and_what_nobody_heard_is_anything_that_fits():
    windows = np.array([50, 30, 20])
    known = Bins(np.array([0, 0.25, 0.5, 1]), windows, windows, np.array([0, 6, 18]))
    calls = density.known_calls(known, density.draw_rates(known))
    share, rows = density.share_of(calls, 100), density.at_thresholds(known, calls)
    assert (share.value, share.low, share.high) == (0.24, 0.24, 0.24)
    assert [(x.threshold, x.precision.value) for x in rows] == [(0, 0.24), (0.25, 0.48), (0.5, 0.9)]
    assert (rows[1].recall.value, rows[2].recall.low) == (1, 0.75)
    assert [density.threshold_for(x, rows) for x in (0.9, 0.95)] == [rows[2], None]
    assert density.reviews_to_halve(known).tolist() == [0, 0, 0]
    unheard = replace(known, reviewed=np.array([0, 30, 0]), right=np.array([0, 15, 0]))
    rates = density.draw_rates(unheard)
    assert (rates.value.tolist(), unheard.without_reviews.tolist()) == ([0.25, 0.5, 0.75], [0, 2])
    assert (rates.high[:, 0] <= rates.high[:, 1]).all()
    assert (rates.low[:, 2] >= rates.low[:, 1]).all()


def test_hours_are_those_of_the_scored_sound_of_all_channels():
    status = RecordingStatus("a.wav", "ok", seconds=3605.0, unscored_s=2.0, left_out_s=((7.0, 10.0),))
    windows = np.zeros(4, int), np.array([1, 2, 1, 2]), np.zeros(4), np.ones(4)
    assert WindowScores([status], *windows, {}).hours.tolist() == [2]


def test_so_many_more_reviews_halve_the_interval():
    size, rate, n = np.array([4000, 2000, 1000, 1000]), np.array([0.05, 0.2, 0.5, 0.9]), np.full(4, 40)
    widths = []
    for _ in range(2):
        bins = Bins(np.linspace(0, 1, 5), size, n, np.round(n * rate).astype(int))
        found = density.prevalence(bins)
        widths.append(found.high - found.low)
        n = n + density.reviews_to_halve(bins)
    assert 0.42 < widths[1] / widths[0] < 0.56


@pytest.fixture
def ask(tmp_path, run_command):
    """Scores of two days of recordings, 0.25 s windows; and a call of `density` on them."""
    rng, rules, start_s = np.random.default_rng(0), DetectionRules.of(LABELS, 0.5), 0.25 * np.arange(100)
    with Results(tmp_path / "results", LABELS, "m", rules, {}, keep_scores=True) as found:
        for day in ("20250601", "20250602"):
            path = tmp_path / f"P\udce9_{day}_060000.wav"
            soundfile.write(bytes(path), rng.normal(0, 0.1, 8000 * 25), 8000)
            size, mtime_ns = file_fingerprint(str(path))
            status = RecordingStatus(str(path), "ok", seconds=25.0, size_bytes=size, mtime_ns=mtime_ns)
            scores = rng.beta(0.5, 2, (100, len(LABELS))).astype(np.float32)
            found.add(RecordingScores(status, start_s, start_s + 0.25, np.zeros(100, np.int16), scores))
        found.finish()

    def call(command, *more, code=0):
        found, printed, err = run_command(command, *map(str, (tmp_path / "results", *more)))
        assert found == code, err
        return printed + err

    return call


def test_clips_are_drawn_reviewed_and_counted(ask, tmp_path):
    checked, out = tmp_path / "checked", tmp_path / "density"
    draw = ("segments", "--pick", "stratified", "--out", checked, "--seconds", "0.5")
    assert "give --label, no --min-score" in ask(*draw, code=2)
    assert f"Received: {LABEL}y. Is {LABEL} meant?" in ask(*draw, "--label", f"{LABEL}y", code=1)
    assert f"60 clips of 1 label: {checked}\n" in ask(*draw, "--label", LABEL, "--per-label", 60)
    reviews = ("density", "--reviews", checked, "--out", out)
    assert "without any" in ask(*reviews, code=1)
    rows = pd.read_csv(checked / "segments.csv", encoding="latin-1")  # a byte a character
    truth = np.where(rows["score"] >= CALL_FROM, "right", "wrong").tolist()
    say = lambda words: rows.assign(review=words).to_csv(  # noqa: E731
        checked / "segments.csv", index=False, encoding="latin-1"
    )
    say(["unsure", "", *truth[2:]])
    for k, label, verdict in ((1, LABEL, "right"), (2, LABEL, "wrong"), (3, "bkcdon", "right")):  # in the app
        clip = checked / rows["clip"][k]
        save_review(reviews_path(clip), Review(clip.name, 0, 0.5, label, 0.5, "m", verdict, reviewer="Ada"))
    told = ask(*reviews)
    assert "1 review of another label than the clip's: left out\n" in told
    assert f"{LABEL}: 1 unsure, left out\n{LABEL}: 1 left out, on which reviewers disagree\n" in told
    found = pd.read_csv(out / "density.csv")
    assert found["of"].fillna("").tolist() == ["", "2025-06-01", "2025-06-02"]
    scores = pd.concat(map(pd.read_parquet, tmp_path.glob("results/scores/*")))[LABEL].astype(float)
    whole = found.iloc[0]
    assert whole["prevalence_low"] <= (scores >= CALL_FROM).mean() <= whole["prevalence_high"]
    assert whole["per_hour"] == pytest.approx(whole["prevalence"] * 4 * 3600, rel=1e-3)
    thresholds = np.array(DetectionRules.of(LABELS, out / "thresholds.csv").thresholds)
    assert (thresholds == 1).tolist() == [x != LABEL for x in LABELS]
    assert (scores[scores >= thresholds.min()] >= CALL_FROM).mean() > 0.8
    bins = json.loads((out / "report.json").read_text())["labels"][LABEL]["bins"]
    assert sum(x["reviewed"] for x in bins) == 58
    assert "reviews of bkcdon in windows of the results. Received: none" in ask(
        *reviews, "--label", "bkcdon", code=1
    )
    say(["maybe", *truth[1:]])
    assert "row 2: review must be empty or one of right, wrong, other, unsure" in ask(*reviews, code=1)
    say(truth)
    strata = checked / "strata.csv"
    strata.write_text(strata.read_text().replace(",100,", ",99,"))
    assert "reviews must be of a draw from these results" in ask(*reviews, code=1)


def test_marks_of_recordings_count_as_chosen_by_chance_and_lost_scores_are_told(ask, tmp_path):
    for path in tmp_path.glob("*.wav"):
        for k in range(0, 100, 5):
            verdict = "right" if k < 25 else "wrong"
            said = Review(path.name, 0.25 * k, 0.25 * k + 0.25, LABEL, 0.5, "m", verdict)
            save_review(reviews_path(path), said)
    save_review(reviews_path(path), replace(said, start_s=0.1))
    reviews = ("density", "--reviews", tmp_path, "--out", tmp_path / "density")
    told = ask(*reviews, "--method", "posterior")
    assert "1 of windows that aren't in the results" in told
    assert "reviews are taken as a random choice in each bin" in told
    assert " 200        40     10 " in told
    for path in tmp_path.glob("results/scores/*"):
        path.unlink()
    assert "detect` with --keep-scores" in ask(*reviews, code=1)
