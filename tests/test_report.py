"""What the writers of predictions write is read back by other programs as it was."""

import csv
import io
import json
import os

import pytest
from odd_names import ODD_NAMES

from keras_birds.inference.aggregate import Prediction, RankedLabel
from keras_birds.inference.scorer import RecordingStatus
from keras_birds.labels import Label
from keras_birds.results.report import CSV_COLUMNS, answer_writer, describe_length, describe_problem

FROG = Label("1139490", "Lithobates palmipes", "Amazon River Frog", "Amphibia")
ODD = Label("odd,1", 'Avis "rara"', "Ñandú, 鳥\nof two lines", "")
TOP = (RankedLabel(1, FROG, 0.876543219), RankedLabel(2, ODD, 1.25e-7))


def prediction(path="a.wav", top=TOP, **fields):
    known = {"status": "ok", "seconds": 5.4, "windows": 1, "unscored_s": 0.4}
    return Prediction(RecordingStatus(str(path), **{**known, **fields}), top)


def failed(path="bad.wav"):
    return Prediction(RecordingStatus(str(path), "corrupt", "holds NaN samples"))


def written(fmt, *predictions):
    stream = io.StringIO()
    writer = answer_writer(fmt, stream, "run/fold0")
    for x in predictions:
        writer.add(x)
    writer.close()
    return stream.getvalue()


@pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES)
def test_answers_parse_back_whatever_the_file_is_called(name):
    file = os.fsdecode(name)
    text = written("csv", failed(), prediction(file), prediction("next.wav"))
    rows = list(csv.reader(io.StringIO(text, newline="")))
    frog = ["1", "1139490", "Lithobates palmipes", "Amazon River Frog", "Amphibia", "0.876543"]
    odd = ["2", "odd,1", 'Avis "rara"', "Ñandú, 鳥\nof two lines", "", "1.25e-07"]
    assert rows == [list(CSV_COLUMNS), *([x, *y] for x in (file, "next.wav") for y in (frog, odd))]

    text = written("json", prediction(file), failed(file), prediction())
    found, bad, last = json.loads(text.encode("utf-8", "backslashreplace"))
    known = {"status": "ok", "reason": "", "seconds": 5.4, "unscored_s": 0.4, "windows": 1}
    names = ("rank", "label", "scientific_name", "common_name", "class_name", "score")
    top = [dict(zip(names, x, strict=True)) for x in ((1, *frog[1:5], 0.876543), (2, *odd[1:5], 1.25e-7))]
    assert found == {"file": file, **known, "model_id": "run/fold0", "top": top}
    assert last == found | {"file": "a.wav"}
    nothing = {"seconds": 0, "unscored_s": 0, "windows": 0, "top": []}
    assert bad == found | nothing | {"status": "corrupt", "reason": "holds NaN samples"}


def test_nothing_is_a_header_or_an_empty_list():
    assert written("csv") == "file,rank,label,scientific_name,common_name,class_name,score\n"
    assert json.loads(written("json")) == []


def test_the_table_is_aligned_text_without_rows_of_failed_files_and_columns_of_names_that_no_label_has():
    whtdov = RankedLabel(2, Label("whtdov", "Leptotila verreauxi", "White-tipped Dove"), 0.05)
    plain = (RankedLabel(1, Label("a"), 0.5), RankedLabel(2, Label("b"), 0.25))
    not_utf8 = prediction(os.fsdecode(b"caf\xe9.wav"), plain, unscored_s=0)
    assert written("table", prediction("a/b.wav", (TOP[0], whtdov)), failed(), not_utf8) == (
        "a/b.wav  5.4 s, 1 window, the last 0.4 s not scored\n"
        "  Rank  Label    Common name        Scientific name      Probability\n"
        "     1  1139490  Amazon River Frog  Lithobates palmipes       0.8765\n"
        "     2  whtdov   White-tipped Dove  Leptotila verreauxi       0.0500\n"
        "\n"
        "caf\N{REPLACEMENT CHARACTER}.wav  5.4 s, 1 window\n"
        "  Rank  Label  Probability\n"
        "     1  a           0.5000\n"
        "     2  b           0.2500\n"
        "\n"
    )


def test_length_and_problems_are_told_in_words():
    for seconds, windows, unscored_s, told in (
        (60.0, 12, 0.04, "60.0 s, 12 windows"),
        (10.46, 2, 0.46, "10.5 s, 2 windows, the last 0.5 s not scored"),
        (10.05, 2, 0.05, "10.1 s, 2 windows, the last 0.1 s not scored"),
    ):
        recording = prediction(seconds=seconds, windows=windows, unscored_s=unscored_s).recording
        assert describe_length(recording) == told
    for x, told in (
        (prediction(), ""),
        (failed(), "Failed: bad.wav: holds NaN samples (corrupt)"),
        (prediction(status="partial", reason="cut"), "Warning: a.wav: cut (partial)"),
        (prediction(not_seen="gone"), "Not seen: a.wav: gone; what was found in it before stays"),
    ):
        assert describe_problem(x.recording) == told
