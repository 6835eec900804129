"""`keras-birds predict`, as a user runs it, on good files and on all that people have on their disks."""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread
from placeholder import LABELS, TONES_HZ, make_metadata, write_constant_model

from keras_birds.labels import Label, LabelSet

RATE = 16_000
LOUDEST, BAR = (252, 253, 191), (42, 111, 151)
"""Colours of a figure: the end of matplotlib's magma, and of the bars."""


@pytest.fixture
def predict(run_command, placeholder_run):
    """Stdout and stderr of the command, with one model unless another is named, if its exit code is as told."""

    def call(*arguments, code=0):
        model = () if "--model" in arguments else ("--model", placeholder_run)
        exit_code, out, err = run_command("predict", *model, *arguments)
        assert exit_code == code, err
        return out, err

    return call


def tops(json_text) -> dict[str, str]:
    """The first label of each file that has one."""
    return {Path(x["file"]).name: x["top"][0]["label"] for x in json.loads(json_text) if x["top"]}


def tone(hz, seconds=2.0):
    return 0.4 * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)


def write(path, samples):
    soundfile.write(path, samples, RATE)
    return path


def test_the_five_most_probable_labels_are_printed_as_a_table(predict, write_tone, tmp_path):
    labels = LabelSet([Label(x, common_name=f"Bird {x}") for x in "abcdefg"])
    metadata = make_metadata("seven", labels=labels)
    model = write_constant_model(tmp_path / "seven.onnx", [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0], metadata)
    path = write_tone("a.wav", seconds=4.5)
    assert predict(path, "--model", model) == (
        f"{path}  4.5 s, 2 windows, the last 0.5 s not scored\n"
        "  Rank  Label  Common name  Probability\n"
        "     1  g      Bird g            0.9526\n"
        "     2  f      Bird f            0.8808\n"
        "     3  e      Bird e            0.7311\n"
        "     4  d      Bird d            0.5000\n"
        "     5  c      Bird c            0.2689\n"
        "\n",
        "",
    )


def test_csv_and_json_say_the_same(predict, write_tone):
    paths = [write_tone(f"{i}, a.ogg", hz, seconds=3) for i, hz in enumerate(TONES_HZ)]
    text, _ = predict(*paths, "--format", "json")
    rows = json.loads(text)
    assert [x["file"] for x in rows] == list(map(str, paths))
    assert list(tops(text).values()) == list(LABELS)
    told = {(x["status"], x["reason"], x["windows"], x["model_id"]) for x in rows}
    assert told == {("ok", "", 2, "20250601-101500/fold0+fold1")}
    table = list(csv.DictReader(io.StringIO(predict(*paths, "--format", "csv")[0])))
    flat = [{"file": x["file"], **ranked} for x in rows for ranked in x["top"]]
    assert table == [{k: str(v) for k, v in x.items()} | {"score": f"{x['score']:.6g}"} for x in flat]
    assert len(table) == 16


def test_out_gets_the_format_of_its_name_unless_another_is_asked_for(predict, write_tone, tmp_path):
    path = write_tone("clip.ogg")
    for name, options, begins in (
        ("a.csv", (), "file,rank,label,"),
        ("a.JSON", (), "[\n{"),
        ("a.txt", (), "/"),
        ("a.csv", ("--format", "json"), "[\n{"),
        ("a", ("--format", "csv"), "file,rank,label,"),
    ):
        (tmp_path / name).write_text("of yesterday")
        said = predict(path, "--out", tmp_path / name, *options)
        assert said == ("", f"1 recording scored: {tmp_path / name}\n")
        assert (tmp_path / name).read_text().startswith(begins)
    assert [x for x in tmp_path.iterdir() if "tmp" in x.suffix] == []
    _, err = predict(path, "--out", "/dev/full", code=1)  # a device needs no suffix
    assert err.startswith("Error: /dev/full can't be written. Received: No space left on device")
    assert err.count("\n") == 1


def test_max_finds_what_only_one_window_holds_and_mean_does_not(predict, tmp_path):
    path = write(tmp_path / "a.flac", np.concatenate([tone(TONES_HZ[0], 14.0), tone(TONES_HZ[2])]))
    texts = [predict(path, "--aggregate", x, "--format", "json")[0] for x in ("mean", "max")]
    mean, most = ({x["label"]: x["score"] for x in json.loads(text)[0]["top"]} for text in texts)
    assert most[LABELS[2]] > 0.5
    for label, windows in ((LABELS[2], 1), (LABELS[0], 7)):
        assert mean[label] == pytest.approx(most[label] * windows / 8, abs=0.01)


def test_the_model_may_be_a_file_and_a_broken_one_is_one_line(predict, placeholder_run, write_tone, tmp_path):
    path, whole = write_tone("a.wav", TONES_HZ[2], seconds=2), placeholder_run / "fold0" / "model.keras"
    for model in ("fold0/model.onnx", "fold1/model.keras"):
        out, err = predict(path, "--model", placeholder_run / model, "--format", "json")
        assert json.loads(out)[0]["model_id"] == f"20250601-101500/{model[:5]}"
        assert (tops(out), err) == ({"a.wav": "bkcdon"}, "")
    (tmp_path / "cut.keras").write_bytes(whole.read_bytes()[:-9000])
    shutil.copy(whole.with_suffix(".json"), tmp_path / "cut.json")
    shutil.copy(whole, tmp_path / "alone.keras")
    write_constant_model(tmp_path / "other.onnx", [0.0] * 4, input_name="image")
    for name, said in (
        ("other.onnx", "Received: image -> logits"),
        ("cut.keras", "must be a whole .keras file"),
        ("alone.keras", "must have its metadata beside it"),
    ):
        out, err = predict(path, "--model", tmp_path / name, code=1)
        assert out == ""
        assert re.fullmatch(f"Error: {tmp_path / name}: .*{said}.*\n", err)


def test_a_wrong_call_says_what_is_wrong(predict, write_tone, tmp_path):
    path, none, png = write_tone("a.wav"), tmp_path / "none", tmp_path / "a.png"
    (tmp_path / "no-audio").mkdir()
    (tmp_path / "no-audio" / "notes.txt").touch()
    no_folder, no_form = f"there is no folder {none}", "ends in .txt, .csv, .json, or --format"
    for arguments, said in (
        ((), "Missing argument 'INPUTS...'"),
        ((path, none), "none' (No such file"),
        ((tmp_path / "no-audio",), "must hold recordings. Received none in"),
        ((path, "--model", none), "must be an existing file or folder, or one of animals."),
        (
            (path, "--model", "birdnet"),
            "Received: birdnet. Add it once with `keras-birds models add birdnet`",
        ),
        ((path, "--top-k", "0"), "--top-k"),
        ((path, "--overlap", "2"), "less than the clip's 2 s. Received: 2"),
        ((path, "--overlap", "nan"), "overlap"),
        ((path, "--out", none / "a.csv"), no_folder),
        ((path, "--out", tmp_path), "All detections, in a folder: `keras-birds detect INPUTS --out FOLDER`"),
        ((path, "--out", tmp_path / "a.parquet"), no_form),
        ((path, "--threshold", "0.5"), "No such option '--threshold'"),
        ((path, "--channel", "all", "--figure", png), "pass --channel mix or a number"),
        ((path, "--figure", none / "a.png"), no_folder),
        ((path, "--figure", tmp_path / "a.pdf"), "must end in .png"),
        ((path, write_tone("b.wav"), "--figure", png), "draws one recording. Received: 2"),
    ):
        out, err = predict(*arguments, code=2)
        assert (out, said in err) == ("", True), arguments
    assert not png.exists()


def test_bad_files_are_named_with_their_reason_and_the_others_are_scored(predict, tmp_path):
    folder, answered = tmp_path / "rec", tmp_path / "a.json"
    folder.mkdir()
    (folder / "empty.wav").touch()
    write(folder / "one.wav", np.full(1, 0.5))
    write(folder / "silent.flac", np.zeros(3 * RATE))
    write(folder / "good.ogg", tone(TONES_HZ[1], 5.0))
    # A tone alone would be a single page of OGG.
    noise = np.random.default_rng(0).normal(0, 0.02, 10 * RATE)
    cut = write(folder / "cut.ogg", tone(TONES_HZ[2], 10.0) + noise)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 6 // 10])
    out, err = predict(folder, "--out", answered, code=1)
    rows = {Path(x["file"]).name: x for x in json.loads(answered.read_text())}
    assert (out, err.replace(f"{folder}/", "")) == (
        "",
        f"Warning: cut.ogg: {rows['cut.ogg']['reason']} (partial)\n"
        "Failed: empty.wav: is empty (0 bytes) (empty)\n"
        "Failed: one.wav: holds 1 sample; at least 0.05 s is needed (too short)\n"
        "Warning: silent.flac: all samples are zero (silent)\n"
        f"3 recordings scored: {answered}\n2 of 5 files failed.\n",
    )
    assert rows["one.wav"]["reason"] == "holds 1 sample; at least 0.05 s is needed"
    statuses = {"cut": "partial", "empty": "empty", "good": "ok", "one": "too short", "silent": "silent"}
    assert {name.split(".")[0]: x["status"] for name, x in rows.items()} == statuses
    assert tops(answered.read_text()).items() >= {"cut.ogg": LABELS[2], "good.ogg": LABELS[1]}.items()
    assert rows["silent.flac"]["top"][0]["score"] < 0.01
    assert rows["one.wav"]["top"] == rows["empty.wav"]["top"] == []
    assert 3 < rows["cut.ogg"]["seconds"] < 8
    out, err = predict(folder, "--no-strict", "--format", "csv")
    found = {Path(x["file"]).name for x in csv.DictReader(io.StringIO(out))}
    assert (found, "2 of 5 files failed." in err) == ({"silent.flac", "cut.ogg", "good.ogg"}, True)


def pixels(path, colour) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a picture's pixels of a colour."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    image = np.round(imread(path)[..., :3] * 255)
    assert image.shape[1] == 1100
    return np.nonzero((np.abs(image - colour) < 12).all(axis=2))


def test_channels_that_cancel_each_other_out_are_told_and_one_of_them_is_drawn(predict, tmp_path):
    path = write(tmp_path / "a.wav", np.stack([tone(1200, 6.0), -tone(1200, 6.0)], axis=1))
    said = r"Warning: .*a\.wav: its channels nearly cancel each other out .*--channel"
    assert re.match(said, predict(path)[1])
    out, err = predict(path, "--channel", 2, "--figure", tmp_path / "a.png", "--format", "json")
    assert err == f"Figure: {tmp_path / 'a.png'}\n"
    assert len(pixels(tmp_path / "a.png", LOUDEST)[0]) > 1000
    assert tops(out) == {"a.wav": LABELS[1]}


def test_the_figure_shows_tones_and_short_calls_where_they_are_and_a_bar_for_each_label(predict, tmp_path):
    figure = tmp_path / "a [1] $x$.png"

    def bright(name, samples):
        _, err = predict(write(tmp_path / f"{name} $x$ 鳥.flac", samples), "--figure", figure)
        assert err.endswith(f"Figure: {figure}\n")
        rows, columns = pixels(figure, LOUDEST)
        return rows, np.unique(columns[columns < 1000])  # the colour bar is to the right

    heights = [np.median(bright("tone", tone(hz, 12))[0]) for hz in (TONES_HZ[0], TONES_HZ[3])]
    assert heights[0] > heights[1] + 150, "low tones are drawn below high ones"
    assert len(pixels(figure, BAR)[0]) > 3000
    samples = np.zeros(180 * RATE)
    assert len(bright("silent", samples)[1]) == 0
    for start_s in (20, 55, 90, 125, 160):
        samples[start_s * RATE : start_s * RATE + 400] = tone(TONES_HZ[1], 400 / RATE)
    assert np.count_nonzero(np.diff(bright("calls", samples)[1]) > 10) + 1 == 5
