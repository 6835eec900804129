import threading
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from placeholder import AUDIO, LABELS, MEL
from scored_run import write_scored_run

from keras_birds.audio.mel import MelTransform
from keras_birds.data.reviews import (
    COLUMNS,
    Review,
    ReviewedSource,
    find_reviews,
    now,
    read_reviewed,
    read_reviews,
    remove_review,
    reviews_path,
    save_review,
)
from keras_birds.errors import DataError, KerasBirdsError
from keras_birds.evaluation.calibrate import fit_calibration, reviewed_scores
from keras_birds.evaluation.run_scores import read_run

RIGHT = Review(
    'a, "b".wav', 2.5, 7.5, "1139490", 0.75, "run/fold0+fold1", "right", "", "2025-06-01T05:30:00Z"
)
WRONG = replace(RIGHT, start_s=0.0, end_s=5.0, verdict="wrong")
OTHER = replace(RIGHT, label="whtdov", verdict="other", true_label="bkcdon")


def test_reviews_survive_their_file_in_order_and_one_detection_has_one(tmp_path):
    path = reviews_path(tmp_path / RIGHT.file)
    assert path == tmp_path / 'a, "b".wav.reviews.csv'
    assert read_reviews(path) == []
    for review in (RIGHT, OTHER, WRONG):
        save_review(path, review)
    assert read_reviews(path) == [WRONG, RIGHT, OTHER]
    save_review(path, replace(RIGHT, verdict="wrong"))
    assert read_reviews(path) == [WRONG, replace(RIGHT, verdict="wrong"), OTHER]
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)
    remove_review(path, OTHER.place)
    remove_review(path, OTHER.place)
    assert len(read_reviews(path)) == 2
    remove_review(path, RIGHT.place)
    remove_review(path, WRONG.place)
    assert list(tmp_path.iterdir()) == []


def test_threads_lose_no_review(tmp_path):
    path = tmp_path / "a.wav.reviews.csv"
    reviews = [replace(RIGHT, start_s=float(k), end_s=k + 5.0, reviewed_at=now()) for k in range(40)]
    threads = [threading.Thread(target=save_review, args=(path, x)) for x in reviews]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_reviews(path) == reviews


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"start_s": "soon"}, "row 2: start_s must be a number. Received: 'soon'"),
        ({"score": "nan"}, "row 2: score must be a number"),
        ({"verdict": "maybe"}, "row 2: verdict must be one of right, wrong, other. Received: 'maybe'"),
        ({"verdict": "other"}, "row 2: there must be a true_label with the verdict other"),
        ({"true_label": "bat"}, "row 2: there must be a true_label with the verdict other, and only then"),
        ({"end_s": "2.5"}, "row 2: a detection must end after it begins"),
    ],
)
def test_a_damaged_row_is_named_and_nothing_is_written_over_it(tmp_path, changed, said):
    path = tmp_path / "a.wav.reviews.csv"
    row = dict(zip(COLUMNS, ("a.wav", "2.5", "7.5", "cat", "0.5", "run/fold0", "right", "", ""), strict=True))
    path.write_text(",".join(COLUMNS) + "\n" + ",".join((row | changed).values()) + "\n")
    before = path.read_bytes()
    for use in (read_reviews, lambda x: save_review(x, RIGHT)):
        with pytest.raises(DataError, match=r"reviews\.csv") as caught:
            use(path)
        assert said in str(caught.value)
    assert path.read_bytes() == before


def test_reviews_that_contradict_each_other_are_refused_and_repeated_ones_count_once(tmp_path):
    path, wrong = tmp_path / "a.wav.reviews.csv", tmp_path / "b.wav.reviews.csv"
    save_review(path, RIGHT)
    header, row = path.read_text().splitlines()
    path.write_text(f"{header}\n{row}\n{row.replace('05:30', '06:30')}\n")
    assert read_reviews(path) == [RIGHT]
    wrong.write_text(f"{header}\n\n{row}\n{row.replace(',right,', ',wrong,')}\n")
    with pytest.raises(DataError, match=r"Received: rows 3 and 4 contradict each other on 1139490 at 2.5 s"):
        read_reviews(wrong)


def test_a_table_without_the_columns_or_not_text_is_refused(tmp_path):
    path = tmp_path / "a.wav.reviews.csv"
    path.write_text("file,start_s\na.wav,1\n")
    with pytest.raises(DataError, match=r"must have the columns file, start_s, .*Received: file, start_s"):
        read_reviews(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="must be a CSV in UTF-8"):
        read_reviews(path)


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(KerasBirdsError, match="can't be written"):
        save_review(tmp_path / "gone" / "a.wav.reviews.csv", RIGHT)


def write_sounds(folder, seconds=8.0):
    folder.mkdir(parents=True, exist_ok=True)
    samples = (
        np.random.default_rng(0).normal(0, 0.1, round(seconds * AUDIO.sample_rate_hz)).astype(np.float32)
    )
    soundfile.write(folder / "a.wav", samples, AUDIO.sample_rate_hz, subtype="FLOAT")
    return samples


def test_reviews_below_a_folder_come_with_their_recordings(tmp_path):
    write_sounds(tmp_path / "plot 1")
    recording = tmp_path / "plot 1" / "a.wav"
    save_review(reviews_path(recording), replace(RIGHT, file="a.wav"))
    assert list(find_reviews(tmp_path)) == [(recording, replace(RIGHT, file="a.wav"))]
    save_review(tmp_path / "b.wav.reviews.csv", replace(RIGHT, file="b.wav"))
    with pytest.raises(DataError, match=r"the recording must lie beside its reviews. Received: no b\.wav"):
        list(find_reviews(tmp_path))
    save_review(tmp_path / "b.wav.reviews.csv", replace(RIGHT, file="c.wav", start_s=0.5))
    with pytest.raises(DataError, match=r"row 2: file must be b\.wav. Received: c\.wav"):
        list(find_reviews(tmp_path))


def test_reviewed_windows_have_their_place_and_say_only_what_was_said(tmp_path):
    samples = write_sounds(tmp_path)
    recording = tmp_path / "a.wav"
    reviews = [replace(x, file="a.wav", end_s=x.start_s + 2) for x in (RIGHT, WRONG, OTHER)]
    reviews.append(replace(reviews[0], start_s=1.0, end_s=7.0))  # an event longer than a clip
    source = ReviewedSource([(recording, x) for x in reviews], AUDIO, MEL, LABELS)
    assert source.targets.tolist() == [[1, -1, -1, -1], [0, -1, -1, -1], [-1, 0, 1, -1], [1, -1, -1, -1]]
    rate_hz = AUDIO.sample_rate_hz
    first_s = (2.5, 0.0, 2.5, 3.0)
    clips = [samples[round(x * rate_hz) : round((x + 2) * rate_hz)] for x in first_s]
    np.testing.assert_array_equal(source.images(np.arange(4)), MelTransform(AUDIO, MEL).images(clips))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"label": "bat"}, "labels of the data set. Received: bat"),
        ({"start_s": 9.0, "end_s": 11.0}, r"row 2: .*must lie in.*9 to 11 s, after its end"),
        ({"start_s": 5.0, "end_s": 8.1}, r"row 2: .*must lie in.*5 to 8\.1 s, after its end"),
    ],
)
def test_a_review_that_cannot_be_used_is_named(tmp_path, changed, said):
    write_sounds(tmp_path)
    save_review(tmp_path / "a.wav.reviews.csv", replace(RIGHT, file="a.wav", **changed))
    with pytest.raises(DataError, match=said):
        read_reviewed(str(tmp_path), AUDIO, MEL, LABELS)


def test_a_review_up_to_the_end_is_taken_and_a_broken_recording_is_named(tmp_path):
    write_sounds(tmp_path)
    save_review(tmp_path / "a.wav.reviews.csv", replace(RIGHT, file="a.wav", start_s=3.0, end_s=8.0))
    assert len(read_reviewed(str(tmp_path), AUDIO, MEL, LABELS)) == 1
    (tmp_path / "a.wav").write_bytes(b"no sound")
    with pytest.raises(DataError, match="a reviewed recording must be readable"):
        list(find_reviews(tmp_path))


def test_calibration_hears_the_reviews_of_its_own_run(tmp_path):
    run = read_run(write_scored_run(tmp_path / "run", skill=2.5))
    folder = tmp_path / "field"
    write_sounds(folder, 400)
    # In the field, what scores 0.4 for the second label is always wrong.
    for k in range(60):
        said = Review("a.wav", 5.0 * k, 5.0 * k + 5, LABELS[1], 0.4, "run/fold0+fold1+fold2", "wrong")
        save_review(folder / "a.wav.reviews.csv", said)
    save_review(
        folder / "a.wav.reviews.csv", Review("a.wav", 399, 400, LABELS[1], 0.4, "other/fold0", "wrong")
    )
    reviewed = reviewed_scores(run, folder)
    assert (len(reviewed.targets), reviewed.skipped) == (60, 1)
    plain = fit_calibration(run, "platt", 0.8, lambda *_: None)
    found = fit_calibration(run, "platt", 0.8, lambda *_: None, reviewed)
    scores = np.full((1, len(LABELS)), 0.4, np.float32)
    assert found.apply(scores)[0, 1] < 0.5 * plain.apply(scores)[0, 1]
    np.testing.assert_array_equal(found.apply(scores)[0, [0, 2, 3]], plain.apply(scores)[0, [0, 2, 3]])
    assert found.error_before == plain.error_before


def test_the_command_says_what_it_took(tmp_path, run_command):
    run = write_scored_run(tmp_path / "run", skill=2.5)
    folder = tmp_path / "field"
    write_sounds(folder)
    save_review(folder / "a.wav.reviews.csv", replace(RIGHT, file="a.wav", model_id="run/fold0"))
    save_review(folder / "a.wav.reviews.csv", replace(OTHER, file="a.wav", model_id="else/fold0"))
    code, _, err = run_command("calibrate", run, "--reviews", folder)
    assert code == 0
    assert err.startswith("1 reviewed detections; 1 skipped, of other models or labels\n")
