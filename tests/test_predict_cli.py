"""`keras-birds predict`, as a user runs it, on good files and on all that people have on their disks."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from constant_model import write_constant_model
from matplotlib.image import imread
from placeholder import LABELS, TONES_HZ, make_metadata

from keras_birds.labels import Label, LabelSet

CLI = Path(__file__).resolve().parents[1] / "cli.py"
MODEL_ID = "20250601-101500/fold0+fold1"
RATE = 16_000
# As in a user's shell: where Python doesn't buffer its output, a closed pipe and a full disk look different.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
LOUDEST, BAR = (252, 253, 191), (42, 111, 151)
"""Colours of a figure: the end of matplotlib's magma, and of the bars."""


@pytest.fixture
def run(run_command, monkeypatch, tmp_path):
    """Runs the command in this process, in an empty folder: stdout and stderr, if the exit code is as told."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*arguments, code=0):
        exit_code, out, err = run_command("predict", *arguments)
        assert exit_code == code, err
        return out, err

    return call


@pytest.fixture
def predict(run, placeholder_run):
    """`run` with the placeholder model."""
    return partial(run, "--model", placeholder_run)


def tops(json_text) -> dict[str, str]:
    """The first label of each file that has one."""
    return {Path(x["file"]).name: x["top"][0]["label"] for x in json.loads(json_text) if x["top"]}


def write(path, samples, rate=RATE, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **kwargs)
    return path


def tone(hz, seconds=2.0):
    return 0.4 * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)


def child(*arguments, stdout=subprocess.PIPE):
    """The command in a process of its own, as `python cli.py predict ...`."""
    command = [sys.executable, CLI, "predict", *arguments]
    return subprocess.Popen(command, env=ENVIRONMENT, text=True, stdout=stdout, stderr=subprocess.PIPE)


def one_line(err, said):
    """Whether stderr is one line, an error with these words."""
    assert re.fullmatch(r"Error: [^\n]*\n", err), err
    assert said in err


def test_the_five_most_probable_labels_are_printed_as_a_table(run, write_tone, tmp_path):
    labels = LabelSet([Label(x, common_name=f"Bird {x}") for x in "abcdefg"])
    metadata = make_metadata("seven", labels=labels)
    model = write_constant_model(tmp_path / "seven.onnx", [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0], metadata)
    path = write_tone("a.wav", seconds=4.5)
    assert run(path, "--model", model) == (
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
    assert told == {("ok", "", 2, MODEL_ID)}
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


def test_max_finds_what_only_one_window_holds_and_mean_does_not(predict, tmp_path):
    samples = np.concatenate([tone(TONES_HZ[0], 8.0), tone(TONES_HZ[2], 2.0), tone(TONES_HZ[0], 6.0)])
    path, scores = write(tmp_path / "a.flac", samples), {}
    for method in ("mean", "max"):
        (row,) = json.loads(predict(path, "--aggregate", method, "--format", "json")[0])
        assert row["windows"] == 8
        scores[method] = {x["label"]: x["score"] for x in row["top"]}
    once, often = LABELS[2], LABELS[0]
    assert scores["max"][once] > 0.5
    assert scores["mean"][once] == pytest.approx(scores["max"][once] / 8, abs=0.01)
    assert scores["mean"][often] == pytest.approx(scores["max"][often] * 7 / 8, abs=0.01)


def test_the_model_is_a_fold_a_file_or_by_default_the_newest_run(run, placeholder_run, write_tone):
    path = write_tone("a.wav", TONES_HZ[2], seconds=2)
    for model, model_id in (("fold0/model.onnx", "fold0"), ("fold1/model.keras", "fold1")):
        out, err = run(path, "--model", placeholder_run / model, "--format", "json")
        assert json.loads(out)[0]["model_id"] == f"20250601-101500/{model_id}"
        assert (tops(out), err) == ({"a.wav": "bkcdon"}, "")
    old = write_constant_model(Path("runs/z-old/fold0/model.onnx"), [9.0] * 4, make_metadata("z-old/fold0"))
    os.utime(old, (1000, 1000))
    shutil.copytree(placeholder_run, "runs/a-new")
    out, err = run(path)
    assert err == f"Model: {MODEL_ID}\n"
    assert re.search(r"^ +1 +bkcdon ", out, re.MULTILINE)
    os.utime(old, (9e9, 9e9))
    assert run(path)[1] == "Model: z-old/fold0\n"


def test_a_model_that_cannot_be_used_is_one_line(run, placeholder_run, write_tone, tmp_path):
    path, whole = write_tone("a.wav", seconds=2), (placeholder_run / "fold0" / "model.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(whole[: len(whole) // 2])
    shutil.copy(placeholder_run / "fold0" / "model.json", tmp_path / "cut.json")
    (tmp_path / "alone.keras").write_bytes(whole)
    write_constant_model(tmp_path / "other.onnx", [0.0] * 4, input_name="image")
    for name, said in (
        ("other.onnx", "Received: image -> logits"),
        ("cut.keras", "must be a whole .keras file"),
        ("alone.keras", "must have its metadata beside it"),
    ):
        out, err = run(path, "--model", tmp_path / name, code=1)
        assert out == ""
        one_line(err, f"{tmp_path / name}: ")
        assert said in err


def test_a_wrong_call_says_what_is_wrong(predict, write_tone, tmp_path):
    path, none, png = write_tone("a.wav"), tmp_path / "none", tmp_path / "a.png"
    (tmp_path / "no-audio").mkdir()
    (tmp_path / "no-audio" / "notes.txt").touch()
    no_folder = f"there is no folder {none}"
    for arguments, said in (
        ((), "Missing argument 'INPUTS...'"),
        ((path, none), "none' (No such file"),
        ((tmp_path / "no-audio",), "must hold recordings. Received none in"),
        ((path, "--model", none), "must be an existing file or folder, or one of animals."),
        ((path, "--top-k", "0"), "--top-k"),
        ((path, "--aggregate", "median"), "--aggregate"),
        ((path, "--format", "xml"), "--format"),
        ((path, "--overlap", "2"), "less than the clip's 2 s. Received: 2"),
        ((path, "--overlap", "nan"), "overlap"),
        ((path, "--out", none / "a.csv"), no_folder),
        ((path, "--out", tmp_path), "All detections, in a folder: `keras-birds detect INPUTS --out FOLDER`"),
        (
            (path, "--out", tmp_path / "a.parquet"),
            "must be a file that ends in .txt, .csv, .json, or --format",
        ),
        ((path, "--threshold", "0.5"), "No such option '--threshold'"),
        ((path, "--channel", "all", "--figure", png), "pass --channel mix or a number"),
        ((path, "--figure", none / "a.png"), no_folder),
        ((path, "--figure", tmp_path / "a.pdf"), "must end in .png"),
        ((path, write_tone("b.wav"), "--figure", png), "draws one recording. Received: 2"),
    ):
        out, err = predict(*arguments, code=2)
        assert out == ""
        assert said in err, arguments
    assert not png.exists()


def write_bad_files(folder):
    """What fails, and what only warns, each with words of the reason."""
    good = write(folder / "good.ogg", tone(TONES_HZ[1], 5.0))
    (folder / "empty.wav").touch()
    (folder / "text.ogg").write_text("<html>404 not found</html>\n" * 50)
    write(folder / "no-length.wav", np.zeros(0))
    content = bytearray(write(folder / "no-rate.wav", tone(1000)).read_bytes())
    content[24:28] = bytes(4)
    (folder / "no-rate.wav").write_bytes(content)
    write(folder / "one-sample.wav", np.full(1, 0.5))
    samples = tone(1000)
    samples[77] = np.nan
    write(folder / "nan.wav", samples, subtype="FLOAT")
    (folder / "header.ogg").write_bytes(good.read_bytes()[:60])
    failing = {
        "empty.wav": "is empty (0 bytes)",
        "text.ogg": "is not audio",
        "no-length.wav": "holds no samples",
        "no-rate.wav": "0 Hz",
        "one-sample.wav": "holds 1 sample;",
        "nan.wav": "holds NaN samples",
        "header.ogg": "",
    }
    write(folder / "silent.flac", np.zeros(3 * RATE))
    # A tone alone would be a single page of OGG.
    samples = tone(TONES_HZ[2], 10.0) + np.random.default_rng(0).normal(0, 0.02, 10 * RATE)
    cut = write(folder / "cut.ogg", samples)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 6 // 10])
    return failing, {"silent.flac": "all samples are zero", "cut.ogg": "read "}


def test_bad_files_are_named_with_their_reason_and_the_others_are_scored(predict, tmp_path):
    folder, answered = tmp_path / "rec", tmp_path / "a.json"
    failing, warning = write_bad_files(folder)
    out, err = predict(folder, "--out", answered, code=1)
    assert out == ""
    lines = err.splitlines()
    for kind, files in (("Failed", failing), ("Warning", warning)):
        for name, reason in files.items():
            (line,) = [x for x in lines if x.startswith(f"{kind}: {folder / name}: ")]
            assert reason in line
    assert lines[-2:] == [f"3 recordings scored: {answered}", "7 of 10 files failed."]
    assert len(lines) == len(failing) + len(warning) + 2
    rows = {Path(x["file"]).name: x for x in json.loads(answered.read_text())}
    assert set(rows) == {*failing, *warning, "good.ogg"}
    assert all(rows[x]["reason"] and rows[x]["top"] == [] for x in failing)
    assert {rows[x]["status"] for x in failing} == {"empty", "corrupt", "too short"}
    scored = {x: (rows[x]["status"], rows[x]["top"][0]["label"]) for x in ("cut.ogg", "good.ogg")}
    assert scored == {"cut.ogg": ("partial", LABELS[2]), "good.ogg": ("ok", LABELS[1])}
    assert 3 < rows["cut.ogg"]["seconds"] < 8
    assert rows["silent.flac"]["status"] == "silent"
    assert rows["silent.flac"]["top"][0]["score"] < 0.01
    out, err = predict(folder, "--no-strict", "--format", "csv")
    assert {Path(x["file"]).name for x in csv.DictReader(io.StringIO(out))} == {*warning, "good.ogg"}
    assert "7 of 10 files failed." in err


def pixels(path) -> np.ndarray:
    """uint8 `[height, width, 3]`."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    return np.round(imread(path)[..., :3] * 255).astype(np.uint8)


def places_of(image, colour) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of an image's pixels of a colour."""
    return np.nonzero((np.abs(image.astype(int) - colour) < 12).all(axis=2))


def test_channels_that_cancel_each_other_out_are_told_and_one_of_them_is_drawn(predict, tmp_path):
    path = write(tmp_path / "a.wav", np.stack([tone(1200, 6.0), -tone(1200, 6.0)], axis=1))
    said = r"Warning: .*a\.wav: its channels nearly cancel each other out .*--channel"
    assert re.match(said, predict(path)[1])
    out, err = predict(path, "--channel", 2, "--figure", tmp_path / "a.png", "--format", "json")
    assert err == f"Figure: {tmp_path / 'a.png'}\n"
    assert len(places_of(pixels(tmp_path / "a.png"), LOUDEST)[0]) > 1000
    assert tops(out) == {"a.wav": LABELS[1]}


def test_the_figure_shows_the_tone_where_it_is_and_a_bar_for_each_label(predict, write_tone, tmp_path):
    heights = []
    for name, hz in (("low", TONES_HZ[0]), ("high", TONES_HZ[3])):
        figure = tmp_path / f"{name} [1] $x$.png"
        _, err = predict(write_tone(f"{name} $x$ 鳥.ogg", hz, seconds=12), "--figure", figure)
        assert err == f"Figure: {figure}\n"
        image = pixels(figure)
        assert image.shape[1] == 1100
        heights.append(np.median(places_of(image, LOUDEST)[0]))
        assert len(places_of(image, BAR)[0]) > 3000
    assert heights[0] > heights[1] + 150, "low tones are drawn below high ones"


def test_silence_is_drawn_dark_and_each_short_call_in_a_long_recording_is_seen(predict, tmp_path):
    samples, figure = np.zeros(180 * RATE), tmp_path / "a.png"

    def bright_columns(name):
        predict(write(tmp_path / name, samples), "--figure", figure)
        columns = np.unique(places_of(pixels(figure), LOUDEST)[1])
        return columns[columns < 1000]  # the colour bar is to the right

    assert len(bright_columns("silent.flac")) == 0
    for start_s in (20, 55, 90, 125, 160):
        samples[start_s * RATE : start_s * RATE + 400] = tone(TONES_HZ[1], 400 / RATE)
    assert np.count_nonzero(np.diff(bright_columns("calls.flac")) > 10) + 1 == 5


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_devices_that_are_full_are_one_line(predict, placeholder_run, write_tone, tmp_path):
    path = write_tone("a.wav", seconds=2)
    one_line(predict(path, "--out", "/dev/full", code=1)[1], "/dev/full can't be written. Received: No space")
    figure = tmp_path / "full.png"
    figure.symlink_to("/dev/full")
    one_line(predict(path, "--figure", figure, code=1)[1], f"{figure} can't be written. Received: No space")
    assert Path("/dev/full").is_char_device()
    with Path("/dev/full").open("w") as full:
        process = child(path, "--model", placeholder_run, stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    one_line(err, "No space left on device")


def many_files(tmp_path, count):
    """A folder of links to one recording; their names fill a pipe's buffer soon."""
    first, folder = write(tmp_path / "one.wav", tone(1200)), tmp_path / "many"
    folder.mkdir()
    for i in range(count):
        os.link(first, folder / f"{i:05}{'-' * 200}.wav")
    return folder


def test_a_closed_pipe_ends_the_command_without_a_word(placeholder_run, tmp_path):
    with child(many_files(tmp_path, 200), "--model", placeholder_run, "--format", "csv") as process:
        header = process.stdout.readline()
        process.stdout.close()
        assert (process.stderr.read(), process.wait(60)) == ("", 1)
    assert header == "file,rank,label,scientific_name,common_name,class_name,score\n"


def test_ctrl_c_ends_the_command_with_one_word_and_leaves_no_half_file(placeholder_run, tmp_path):
    folder, answered = many_files(tmp_path, 5000), tmp_path / "out" / "a.csv"
    (folder / "0.wav").touch()
    answered.parent.mkdir()
    process = child(folder, "--model", placeholder_run, "--out", answered)
    # Named on stderr as soon as scoring begins.
    assert process.stderr.readline().startswith(f"Failed: {folder / '0.wav'}")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.strip()) == (130, "Stopped.")
    assert list(answered.parent.iterdir()) == []
