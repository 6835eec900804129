from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import soundfile
from placeholder import AUDIO, LABELS, MEL
from scored_run import write_scored_run

from keras_birds.audio.mel import MelTransform
from keras_birds.data import reviews as store
from keras_birds.data.reviews import Review, read_reviews, reviews_path, save_review
from keras_birds.errors import DataError, KerasBirdsError
from keras_birds.evaluation.calibrate import fit_calibration, reviewed_scores
from keras_birds.evaluation.run_scores import read_run

AT = "2025-06-01T05:30:00Z"
RIGHT = Review('a, "b".wav', 2.5, 7.5, "1139490", 0.75, "run/fold0+fold1", "right", "", AT)
WRONG = replace(RIGHT, start_s=0.0, end_s=5.0, verdict="wrong")
OTHER = replace(RIGHT, label="whtdov", verdict="other", true_label="bkcdon", model_id="my\rrun/fold0")


def test_reviews_survive_their_file_in_order_one_a_detection_and_threads_lose_none(tmp_path):
    path = reviews_path(tmp_path / RIGHT.file)
    assert path == tmp_path / 'a, "b".wav.reviews.csv'
    assert read_reviews(path) == []
    for review in (RIGHT, OTHER, WRONG):
        save_review(path, review)
    assert read_reviews(path) == [WRONG, RIGHT, OTHER]
    changed = replace(RIGHT, start_s=2.5004, verdict="wrong", score=1 / 3)
    save_review(path, changed)
    assert path.read_text().splitlines()[:3:2] == [
        "file,start_s,end_s,label,score,model_id,verdict,true_label,reviewed_at,reviewer",
        f'"a, ""b"".wav",2.500,7.500,1139490,0.333333,run/fold0+fold1,wrong,,{AT},',
    ]
    hers = replace(RIGHT, reviewer="Ada")
    save_review(path, hers)
    assert read_reviews(path)[2] == hers
    for key in (OTHER.key, OTHER.key, RIGHT.key):
        store.remove_review(path, key)
    assert read_reviews(path) == [WRONG, hers]
    for review in (WRONG, hers):
        store.remove_review(path, review.key)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KerasBirdsError, match="can't be written"):
        save_review(tmp_path / "gone" / "a.wav.reviews.csv", RIGHT)
    odd = replace(RIGHT, file="caf\udce9.wav")  # not UTF-8
    save_review(path, odd)
    assert read_reviews(path) == [odd]
    store.remove_review(path, odd.key)
    reviews = [replace(RIGHT, start_s=float(k), end_s=k + 5.0, reviewed_at=store.now()) for k in range(40)]
    with ThreadPoolExecutor(40) as pool:
        list(pool.map(partial(save_review, path), reviews))
    assert read_reviews(path) == reviews


def test_a_damaged_table_is_told_and_nothing_is_written_over_it(tmp_path):
    path = tmp_path / "a.wav.reviews.csv"
    save_review(path, RIGHT)
    header, row = (
        x.rpartition(",")[0] for x in path.read_text().splitlines()
    )  # as before there were reviewers
    path.write_text(f"{header}\n{row}\n{row.replace('05:30', '06:30')}\n")
    assert read_reviews(path) == [RIGHT], "repeated rows count once"
    twice = f"\n{row}\n{row.replace(',right,', ',wrong,')}"
    other = r"row 2: there must be a true_label with .* other, and only then. Received: "
    for before, after, said in (
        (",2.500", ",soon", "row 2: start_s must be a number. Received: 'soon'"),
        (",0.75,", ",nan,", "row 2: score must be a number"),
        (
            ",right,",
            ",maybe,",
            "row 2: verdict must be one of right, wrong, other, unsure. Received: 'maybe'",
        ),
        (",right,", ",other,", f"{other}'' with other"),
        (",right,", ",right,bat", f"{other}'bat'"),
        (",7.500", ",2.500", "row 2: a detection must end after it begins. Received: 2.500 to 2.500"),
        (",2.500", ",-0.1", "row 2: a detection must end after it begins"),
        (row, twice, ".*Received: rows 3 and 4 contradict each other on 1139490 at 2.5 s; keep"),
        (",score", "", ".*must have the columns file, start_s, .*Received: file, start_s, end_s, label, m"),
        (header, "\udcff", r".*must be a CSV in UTF-8"),
    ):
        damaged = f"{header}\n{row}\n".replace(before, after).encode("utf-8", "surrogateescape")
        path.write_bytes(damaged)
        for ask in (read_reviews, lambda path: save_review(path, RIGHT)):
            with pytest.raises(DataError, match=rf"^{path}: {said}"):
                ask(path)
        assert path.read_bytes() == damaged


@pytest.fixture
def folder(tmp_path):
    """With a recording of 8 s of noise, `a.wav`."""
    samples = np.random.default_rng(0).normal(0, 0.1, 8 * 16_000).astype(np.float32)
    (tmp_path / "plot 1").mkdir()
    soundfile.write(tmp_path / "plot 1/a.wav", samples, AUDIO.sample_rate_hz, subtype="FLOAT")
    return tmp_path / "plot 1"


def test_reviews_below_a_folder_come_with_their_recordings(folder):
    recording, review = folder / "a.wav", replace(RIGHT, file="a.wav")
    save_review(reviews_path(recording), review)
    assert list(store.find_reviews(folder.parent)) == [replace(review, file=str(recording))]
    save_review(folder / "b.wav.reviews.csv", replace(RIGHT, file="b.wav"))
    with pytest.raises(
        DataError, match=r"row 2: the recording must lie where file says. Received: no .*b\.wav"
    ):
        list(store.find_reviews(folder))
    save_review(folder / "b.wav.reviews.csv", replace(RIGHT, file="c.wav", start_s=0.5))
    with pytest.raises(DataError, match=r"row 3: file must be b\.wav. Received: c\.wav"):
        list(store.find_reviews(folder))
    (folder / "b.wav.reviews.csv").unlink()
    hits = folder.parent / "hits/marks.reviews.csv"
    hits.parent.mkdir()
    assert store.file_in(hits, recording) == str(recording)
    assert store.file_in(reviews_path(recording), recording) == "a.wav"
    for file in (str(recording), "../plot 1/a.wav"):
        save_review(hits, replace(review, file=file))
    assert [x.file for x in store.find_reviews(hits.parent)] == [str(recording)] * 2


def test_what_is_unsure_tells_nothing_and_what_reviewers_disagree_on_is_masked(folder):
    right = replace(RIGHT, file=str(folder / "a.wav"))
    said = [
        right,
        replace(right, verdict="wrong", reviewer="Ada"),
        replace(right, verdict="unsure", reviewer="Bo"),
    ]
    said += [replace(x, label="whtdov") for x in (OTHER, said[2])]
    said[3] = replace(said[3], file=right.file)
    window = right.file, 2.5, 7.5
    assert store.disagreements(said) == {(*window, "1139490"): said[:2]}
    assert store.settled(said) == {(*window, "whtdov"): 0, (*window, "bkcdon"): 1}
    source = store.ReviewedSource([*said, replace(said[2], start_s=0, end_s=5)], AUDIO, MEL, LABELS)
    assert (source.targets.tolist(), source.unsure, source.disagreements) == ([[-1, 0, 1, -1]], 3, 1)


def test_reviewed_windows_have_their_place_and_say_only_what_was_said(folder):
    file = str(folder / "a.wav")
    reviews = [replace(x, file=file, end_s=x.start_s + 2) for x in (RIGHT, WRONG, OTHER)]
    reviews.append(replace(reviews[0], start_s=1.0, end_s=7.0))  # an event longer than a clip
    source = store.ReviewedSource(reviews, AUDIO, MEL, LABELS)
    assert source.targets.tolist() == [[1, 0, 1, -1], [0, -1, -1, -1], [1, -1, -1, -1]]
    samples = soundfile.read(folder / "a.wav", dtype="float32")[0]
    clips = [samples[round(x * 16_000) : round((x + 2) * 16_000)] for x in (2.5, 0.0, 3.0)]
    np.testing.assert_array_equal(source.images(np.arange(3)), MelTransform(AUDIO, MEL).images(clips))


def test_a_review_that_cannot_be_used_is_named(folder):
    path, read = folder / "a.wav.reviews.csv", partial(store.read_reviewed, str(folder), AUDIO, MEL, LABELS)
    with pytest.raises(DataError, match=rf"Received: {folder}, without any \*\.reviews\.csv"):
        read()
    for changed, said in (
        ({"label": "bat"}, "labels of the data set. Received: bat at 2.5 s"),
        ({"start_s": 9.0, "end_s": 11.0}, r"row 2: .*must lie in.*9 to 11 s, after its end"),
        ({"start_s": 5.0, "end_s": 8.1}, r"row 2: .*must lie in.*5 to 8\.1 s, after its end"),
        (
            {"start_s": 3.0, "end_s": 8.0},
            "a recording to learn from must be readable. Received: is not audio",
        ),
    ):
        path.unlink(missing_ok=True)
        save_review(path, replace(RIGHT, file="a.wav", **changed))
        if "readable" in said:
            assert len(read()) == 1
            (folder / "a.wav").write_bytes(b"no sound")
        with pytest.raises(DataError, match=said):
            read()


def test_calibration_hears_the_reviews_of_its_own_run(folder, tmp_path, run_command):
    path = write_scored_run(tmp_path / "run", skill=2.5)
    # In the field, what scores 0.4 for the second label is always wrong.
    said = Review("a.wav", 0.0, 0.1, LABELS[1], 0.4, "run/fold0+fold1+fold2", "wrong")
    for k in range(60):
        save_review(folder / "a.wav.reviews.csv", replace(said, start_s=0.1 * k, end_s=0.1 * k + 0.1))
    save_review(folder / "a.wav.reviews.csv", replace(said, start_s=7, end_s=8, model_id="other/fold0"))
    run = read_run(path)
    plain = fit_calibration(run, "platt", 0.8, lambda *_: None)
    found = fit_calibration(run, "platt", 0.8, lambda *_: None, reviewed_scores(run, folder))
    scores = np.full((1, len(LABELS)), 0.4, np.float32)
    assert found.apply(scores)[0, 1] < 0.5 * plain.apply(scores)[0, 1]
    np.testing.assert_array_equal(found.apply(scores)[0, [0, 2, 3]], plain.apply(scores)[0, [0, 2, 3]])
    assert found.error_before == plain.error_before
    code, _, err = run_command("calibrate", path, "--reviews", folder)
    assert code == 0
    assert err.startswith("60 reviewed detections; 1 skipped, of other models or labels\n")
