"""What the writers of predictions write is read back by other programs as it was."""

import csv
import io
import json
import os
from pathlib import Path

import pytest
from odd_names import ODD_NAMES

from keras_birds.inference.aggregate import Prediction, RankedLabel
from keras_birds.inference.recording_status import RecordingStatus
from keras_birds.labels import Label
from keras_birds.results.report import (
    CSV_COLUMNS,
    CsvWriter,
    JsonWriter,
    TableWriter,
    describe_length,
    printable,
)

FROG = Label("1139490", "Lithobates palmipes", "Amazon River Frog", "Amphibia")
ODD = Label("odd,1", 'Avis "rara"', "Ñandú, 鳥\nof two lines", "")
TOP = (RankedLabel(1, FROG, 0.876543219), RankedLabel(2, ODD, 1.25e-7))


def prediction(path="a.wav", top=TOP, **fields):
    known = {"status": "ok", "seconds": 5.4, "windows": 1, "unscored_s": 0.4}
    return Prediction(RecordingStatus(str(path), **{**known, **fields}), top)


def failed(path="bad.wav"):
    return Prediction(RecordingStatus(str(path), "corrupt", "holds NaN samples"))


def write(path, errors, make_writer, *predictions):
    """Through a file, as the command does."""
    with path.open("w", encoding="utf-8", errors=errors, newline="") as file:
        writer = make_writer(file)
        for x in predictions:
            writer.add(x)
        writer.close()


def read_csv(path):
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES)
def test_csv_parses_back_whatever_the_file_is_called(tmp_path, name):
    path = tmp_path / "answers.csv"
    write(path, "surrogateescape", CsvWriter, prediction(os.fsdecode(name)), prediction("next.wav"))
    rows = read_csv(path)
    assert [os.fsencode(x["file"]) for x in rows] == [name] * 2 + [b"next.wav"] * 2
    assert tuple(rows[0]) == CSV_COLUMNS
    assert rows[0] | {"file": ""} == {
        "file": "",
        "rank": "1",
        "label": "1139490",
        "scientific_name": "Lithobates palmipes",
        "common_name": "Amazon River Frog",
        "class_name": "Amphibia",
        "score": "0.876543",
    }
    assert [rows[1][x] for x in CSV_COLUMNS[1:]] == [
        "2",
        "odd,1",
        'Avis "rara"',
        "Ñandú, 鳥\nof two lines",
        "",
        "1.25e-07",
    ]


def test_csv_has_its_header_without_rows_and_no_row_of_a_failed_file(tmp_path):
    path = tmp_path / "answers.csv"
    write(path, "surrogateescape", CsvWriter)
    assert path.read_text() == "file,rank,label,scientific_name,common_name,class_name,score\n"
    write(path, "surrogateescape", CsvWriter, failed(), prediction("good.wav"))
    assert [x["file"] for x in read_csv(path)] == ["good.wav", "good.wav"]


@pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES)
def test_json_parses_back_whatever_the_file_is_called(tmp_path, name):
    path = tmp_path / "answers.json"
    answers = prediction(os.fsdecode(name)), failed(os.fsdecode(name)), prediction()
    write(path, "backslashreplace", lambda x: JsonWriter(x, "run/fold0"), *answers)
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert [os.fsencode(x["file"]) for x in rows] == [name, name, b"a.wav"]
    assert rows[0] | {"file": ""} == {
        "file": "",
        "status": "ok",
        "reason": "",
        "seconds": 5.4,
        "unscored_s": 0.4,
        "windows": 1,
        "model_id": "run/fold0",
        "top": [
            {
                "rank": 1,
                "label": "1139490",
                "scientific_name": "Lithobates palmipes",
                "common_name": "Amazon River Frog",
                "class_name": "Amphibia",
                "score": 0.876543,
            },
            {
                "rank": 2,
                "label": "odd,1",
                "scientific_name": 'Avis "rara"',
                "common_name": "Ñandú, 鳥\nof two lines",
                "class_name": "",
                "score": 1.25e-7,
            },
        ],
    }


def test_json_holds_failed_files_with_their_reason_and_an_empty_top():
    stream = io.StringIO()
    writer = JsonWriter(stream, "m")
    writer.add(failed())
    writer.close()
    (row,) = json.loads(stream.getvalue())
    assert (row["file"], row["status"], row["reason"]) == ("bad.wav", "corrupt", "holds NaN samples")
    assert (row["top"], row["windows"], row["seconds"]) == ([], 0, 0)


def test_json_of_nothing_is_an_empty_list():
    stream = io.StringIO()
    JsonWriter(stream, "m").close()
    assert json.loads(stream.getvalue()) == []


def test_the_table_is_aligned_text_without_rows_of_failed_files():
    stream = io.StringIO()
    writer = TableWriter(stream)
    whtdov = RankedLabel(2, Label("whtdov", "Leptotila verreauxi", "White-tipped Dove"), 0.05)
    for x in (prediction("a/b.wav", (TOP[0], whtdov)), failed(), prediction("c.wav", TOP[:1], unscored_s=0)):
        writer.add(x)
    writer.close()
    assert stream.getvalue() == (
        "a/b.wav  5.4 s, 1 window, the last 0.4 s not scored\n"
        "  Rank  Label    Common name        Scientific name      Probability\n"
        "     1  1139490  Amazon River Frog  Lithobates palmipes       0.8765\n"
        "     2  whtdov   White-tipped Dove  Leptotila verreauxi       0.0500\n"
        "\n"
        "c.wav  5.4 s, 1 window\n"
        "  Rank  Label    Common name        Scientific name      Probability\n"
        "     1  1139490  Amazon River Frog  Lithobates palmipes       0.8765\n"
        "\n"
    )


def test_names_that_no_label_has_get_no_column():
    stream = io.StringIO()
    TableWriter(stream).add(
        prediction(top=(RankedLabel(1, Label("a"), 0.5), RankedLabel(2, Label("b"), 0.25)))
    )
    assert stream.getvalue().splitlines()[1:4] == [
        "  Rank  Label  Probability",
        "     1  a           0.5000",
        "     2  b           0.2500",
    ]


def test_any_terminal_can_show_a_name_that_is_not_utf_8():
    path = os.fsdecode(b"caf\xe9.wav")
    assert printable(Path(path)) == "caf\N{REPLACEMENT CHARACTER}.wav"
    out = io.StringIO()
    TableWriter(out).add(prediction(path))
    assert "caf\N{REPLACEMENT CHARACTER}.wav" in out.getvalue()
    out.getvalue().encode("utf-8")


def test_the_length_is_told_in_words():
    assert describe_length(prediction(seconds=5.0, unscored_s=0.0).recording) == "5.0 s, 1 window"
    assert (
        describe_length(prediction(seconds=60.0, windows=12, unscored_s=0.04).recording)
        == "60.0 s, 12 windows"
    )
    told = describe_length(prediction(seconds=10.46, windows=2, unscored_s=0.46).recording)
    assert told == "10.5 s, 2 windows, the last 0.5 s not scored"
