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

    def call(*arguments, code=0):
        return run("--model", placeholder_run, *arguments, code=code)

    return call


@pytest.fixture
def answers(predict):
    """What JSON says of each file."""

    def call(*arguments, code=0):
        return json.loads(predict(*arguments, "--format", "json", code=code)[0])

    return call


def tops(rows) -> dict[str, str]:
    """The first label of each file that has one."""
    return {Path(row["file"]).name: row["top"][0]["label"] for row in rows if row["top"]}


def write(path, samples, rate=RATE, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **kwargs)
    return path


def tone(hz, seconds=2.0, amplitude=0.4):
    return amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)


def child(*arguments, **kwargs):
    """The command in a process of its own, as `python cli.py predict ...`."""
    command = [sys.executable, str(CLI), "predict", *map(str, arguments)]
    return subprocess.Popen(
        command,
        env=ENVIRONMENT,
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs},
    )


def one_line(err, said):
    """Whether stderr is one line, an error with these words."""
    assert re.fullmatch(r"Error: [^\n]*\n", err), err
    assert said in err


# What is printed


@pytest.fixture
def seven_labels(tmp_path):
    """A model whose probabilities are known: g, f, e, ... from the most to the least."""
    labels = LabelSet([Label(x, common_name=f"Bird {x}") for x in "abcdefg"])
    logits = [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]
    return write_constant_model(tmp_path / "seven.onnx", logits, make_metadata("seven", labels=labels))


def test_the_five_most_probable_labels_are_printed_as_a_table(run, seven_labels, write_tone):
    path = write_tone("a.wav", seconds=4.5)
    out, err = run(path, "--model", seven_labels)
    assert out == (
        f"{path}  4.5 s, 2 windows, the last 0.5 s not scored\n"
        "  Rank  Label  Common name  Probability\n"
        "     1  g      Bird g            0.9526\n"
        "     2  f      Bird f            0.8808\n"
        "     3  e      Bird e            0.7311\n"
        "     4  d      Bird d            0.5000\n"
        "     5  c      Bird c            0.2689\n"
        "\n"
    )
    assert err == ""


def test_csv_and_json_say_the_same(predict, answers, write_tone):
    paths = [write_tone(f"{i}, a.ogg", hz, seconds=3) for i, hz in enumerate(TONES_HZ)]
    rows = answers(*paths)
    assert [x["file"] for x in rows] == list(map(str, paths))
    assert list(tops(rows).values()) == list(LABELS)
    assert {(x["status"], x["reason"], x["windows"], x["model_id"]) for x in rows} == {
        ("ok", "", 2, MODEL_ID)
    }
    table = list(csv.DictReader(io.StringIO(predict(*paths, "--format", "csv")[0])))
    flat = [{"file": x["file"], **ranked} for x in rows for ranked in x["top"]]
    assert table == [{k: str(v) for k, v in x.items()} | {"score": f"{x['score']:.6g}"} for x in flat]
    assert len(table) == 16


@pytest.mark.parametrize(
    ("name", "options", "begins"),
    [
        ("a.csv", (), "file,rank,label,"),
        ("a.JSON", (), "[\n{"),
        ("a.txt", (), "/"),
        ("a.csv", ("--format", "json"), "[\n{"),
        ("a", ("--format", "csv"), "file,rank,label,"),
    ],
)
def test_out_gets_the_format_of_its_name_unless_another_is_asked_for(
    predict, write_tone, tmp_path, name, options, begins
):
    (tmp_path / name).write_text("of yesterday")
    out, err = predict(write_tone("clip.ogg"), "--out", tmp_path / name, *options)
    assert (tmp_path / name).read_text().startswith(begins)
    assert out == ""
    assert err == f"1 recording scored: {tmp_path / name}\n"
    assert [x for x in tmp_path.iterdir() if "tmp" in x.suffix] == []


# How recordings are scored


def test_max_finds_what_only_one_window_holds_and_mean_does_not(answers, tmp_path):
    samples = np.concatenate([tone(TONES_HZ[0], 8.0), tone(TONES_HZ[2], 2.0), tone(TONES_HZ[0], 6.0)])
    path = write(tmp_path / "a.flac", samples)
    scores = {}
    for method in ("mean", "max"):
        (row,) = answers(path, "--aggregate", method)
        assert row["windows"] == 8
        scores[method] = {x["label"]: x["score"] for x in row["top"]}
    once, often = LABELS[2], LABELS[0]
    assert scores["max"][once] > 0.5
    assert scores["mean"][once] == pytest.approx(scores["max"][once] / 8, abs=0.01)
    assert scores["mean"][often] == pytest.approx(scores["max"][often] * 7 / 8, abs=0.01)


@pytest.mark.parametrize("overlap", ["2", "nan", "much"])
def test_an_overlap_that_leaves_no_step_is_a_wrong_call(predict, write_tone, overlap):
    out, err = predict(write_tone("a.wav"), "--overlap", overlap, code=2)
    assert out == ""
    assert "overlap" in err
    assert overlap in err


# Which model


@pytest.mark.parametrize(
    ("model", "model_id"),
    [
        ("", MODEL_ID),
        ("fold0/model.onnx", "20250601-101500/fold0"),
        ("fold1/model.keras", "20250601-101500/fold1"),
    ],
)
def test_the_model_is_a_run_a_fold_or_a_file(run, placeholder_run, write_tone, model, model_id):
    out, err = run(write_tone("a.wav", TONES_HZ[3]), "--model", placeholder_run / model, "--format", "json")
    rows = json.loads(out)
    assert rows[0]["model_id"] == model_id
    assert tops(rows) == {"a.wav": "amakin1"}
    assert err == ""


def test_the_newest_run_is_the_default_and_its_model_is_told(run, placeholder_run, write_tone):
    path = write_tone("a.wav", TONES_HZ[2], seconds=2)
    old = write_constant_model(Path("runs/z-old/fold0/model.onnx"), [9.0] * 4, make_metadata("z-old/fold0"))
    os.utime(old, (1000, 1000))
    shutil.copytree(placeholder_run, "runs/a-new")
    out, err = run(path)
    assert err == f"Model: {MODEL_ID}\n"
    assert re.search(r"^ +1 +bkcdon ", out, re.MULTILINE)
    os.utime(old, (9e9, 9e9))
    assert run(path)[1] == "Model: z-old/fold0\n"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cut.onnx", "must be a whole ONNX file"),
        ("other.onnx", "Received: image -> logits"),
        ("nan.onnx", "4 of them NaN"),
        ("cut.keras", "must be a whole .keras file"),
        ("alone.keras", "must have its metadata beside it"),
    ],
)
def test_a_model_that_cannot_be_used_is_one_line(run, placeholder_run, write_tone, tmp_path, name, said):
    fold, path = placeholder_run / "fold0", tmp_path / name
    if name in ("other.onnx", "nan.onnx"):
        is_nan = name == "nan.onnx"
        write_constant_model(path, [np.nan if is_nan else 0.0] * 4, input_name="mel" if is_nan else "image")
    else:
        whole = (fold / f"model{path.suffix}").read_bytes()
        keep = {"cut": len(whole) // 2, "alone": len(whole)}[path.stem]
        path.write_bytes(whole[:keep])
    if name == "cut.keras":
        shutil.copy(fold / "model.json", path.with_suffix(".json"))
    out, err = run(write_tone("a.wav", seconds=2), "--model", path, code=1)
    assert out == ""
    one_line(err, f"{path}: ")
    assert said in err


# Wrong calls


def test_a_wrong_call_says_what_is_wrong(predict, run, write_tone, tmp_path):
    path = write_tone("a.wav")
    (tmp_path / "no-audio").mkdir()
    (tmp_path / "no-audio" / "notes.txt").touch()
    wrong = {
        (): "Missing argument 'INPUTS...'",
        (tmp_path / "none.wav",): "none.wav' (No such file",
        (path, tmp_path / "none"): "none' (No such file",
        (tmp_path / "no-audio",): "must hold recordings. Received none in",
        (path, "--top-k", "0"): "--top-k",
        (path, "--aggregate", "median"): "--aggregate",
        (path, "--format", "xml"): "--format",
        (path, "--out", tmp_path / "none" / "a.csv"): f"there is no folder {tmp_path / 'none'}",
        (path, "--out", tmp_path): "All detections, in a folder: `keras-birds detect INPUTS --out FOLDER`",
        (
            path,
            "--out",
            tmp_path / "a.parquet",
        ): "must be a file that ends in .txt, .csv, .json, or --format must say",
        (path, "--threshold", "0.5"): "No such option '--threshold'",
        (path, "--channel", "all", "--figure", tmp_path / "a.png"): "pass --channel mix or a number",
        (path, "--figure", tmp_path / "none" / "a.png"): f"there is no folder {tmp_path / 'none'}",
        (path, "--figure", tmp_path / "a.pdf"): "must end in .png",
        (path, write_tone("b.wav"), "--figure", tmp_path / "a.png"): "draws one recording. Received: 2",
    }
    for arguments, said in wrong.items():
        out, err = predict(*arguments, code=2)
        assert out == ""
        assert said in err, arguments
    assert (
        "must be an existing file or folder, or one of animals."
        in run(path, "--model", tmp_path / "none", code=2)[1]
    )
    assert not (tmp_path / "a.png").exists()


# What people have on their disks


def write_bad_files(folder):
    """What fails, and what only warns, each with words of the reason."""
    good = write(folder / "good.ogg", tone(TONES_HZ[1], 5.0))
    (folder / "empty.wav").touch()
    (folder / "text.ogg").write_text("<html>404 not found</html>\n" * 50)
    write(folder / "no-length.wav", np.zeros(0))
    write(folder / "no-rate.wav", tone(1000))
    content = bytearray((folder / "no-rate.wav").read_bytes())
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
    warning = {"silent.flac": "all samples are zero"}
    write(folder / "silent.flac", np.zeros(3 * RATE))
    for suffix in ("ogg", "wav", "flac"):
        # A tone alone would be a single page of OGG.
        samples = tone(TONES_HZ[2], 10.0) + np.random.default_rng(0).normal(0, 0.02, 10 * RATE)
        cut = write(folder / f"cut.{suffix}", samples)
        cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 6 // 10])
        warning[cut.name] = "read "
    return failing, warning


def test_bad_files_are_named_with_their_reason_and_the_others_are_scored(predict, tmp_path):
    folder = tmp_path / "rec"
    failing, warning = write_bad_files(folder)
    answered = tmp_path / "a.json"
    out, err = predict(folder, "--out", answered, code=1)
    assert out == ""
    lines = err.splitlines()
    for kind, files in (("Failed", failing), ("Warning", warning)):
        for name, reason in files.items():
            (line,) = [x for x in lines if x.startswith(f"{kind}: {folder / name}: ")]
            assert reason in line
    assert lines[-2:] == [f"5 recordings scored: {answered}", "7 of 12 files failed."]
    assert len(lines) == len(failing) + len(warning) + 2

    rows = {Path(x["file"]).name: x for x in json.loads(answered.read_text())}
    assert set(rows) == {*failing, *warning, "good.ogg"}
    for name in failing:
        assert rows[name]["top"] == []
        assert rows[name]["reason"]
        assert rows[name]["status"] in ("empty", "corrupt", "too short")
    assert rows["silent.flac"]["status"] == "silent"
    assert max(x["score"] for x in rows["silent.flac"]["top"]) < 0.01
    for suffix in ("ogg", "wav", "flac"):
        row = rows[f"cut.{suffix}"]
        assert row["status"] == "partial"
        assert 3 < row["seconds"] < 8
        assert row["top"][0]["label"] == LABELS[2]
    assert rows["good.ogg"]["status"] == "ok"
    assert rows["good.ogg"]["top"][0]["label"] == LABELS[1]

    out, err = predict(folder, "--no-strict", "--format", "csv")
    assert {Path(x["file"]).name for x in csv.DictReader(io.StringIO(out))} == {*warning, "good.ogg"}
    assert "7 of 12 files failed." in err


def test_channels_that_cancel_each_other_out_are_told_and_one_of_them_is_drawn(predict, answers, tmp_path):
    path = write(tmp_path / "a.wav", np.stack([tone(1200, 6.0), -tone(1200, 6.0)], axis=1))
    _, err = predict(path)
    assert re.match(r"Warning: .*a\.wav: its channels nearly cancel each other out .*--channel", err)
    _, err = predict(path, "--channel", 2, "--figure", tmp_path / "a.png")
    assert err == f"Figure: {tmp_path / 'a.png'}\n"
    assert len(places_of(pixels(tmp_path / "a.png"), LOUDEST)[0]) > 1000
    assert tops(answers(path, "--channel", 2)) == {"a.wav": LABELS[1]}


# The figure


def pixels(path) -> np.ndarray:
    """uint8 `[height, width, 3]`."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    return np.round(imread(path)[..., :3] * 255).astype(np.uint8)


def places_of(image, colour) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of an image's pixels of a colour."""
    rows, columns = np.nonzero((np.abs(image.astype(int) - colour) < 12).all(axis=2))
    return rows, columns


LOUDEST = (252, 253, 191)  # the end of matplotlib's magma
BAR = (42, 111, 151)


def test_the_figure_shows_the_tone_where_it_is_and_a_bar_for_each_label(predict, write_tone, tmp_path):
    heights = []
    for name, hz in (("low", TONES_HZ[0]), ("high", TONES_HZ[3])):
        figure = tmp_path / f"{name} [1] $x$.png"
        _, err = predict(write_tone(f"{name} $x$ 鳥.ogg", hz, seconds=12), "--figure", figure)
        assert err == f"Figure: {figure}\n"
        image = pixels(figure)
        assert image.shape[1] == 1100
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 200
        heights.append(np.median(places_of(image, LOUDEST)[0]))
        assert len(places_of(image, BAR)[0]) > 3000
    assert heights[0] > heights[1] + 150, "low tones are drawn below high ones"


def test_silence_is_drawn_dark_and_each_short_call_in_a_long_recording_is_seen(predict, tmp_path):
    samples = np.zeros(180 * RATE)
    figure = tmp_path / "a.png"

    def bright_columns(name):
        predict(write(tmp_path / name, samples), "--figure", figure)
        columns = np.unique(places_of(pixels(figure), LOUDEST)[1])
        return columns[columns < 1000]  # the colour bar is to the right

    assert len(bright_columns("silent.flac")) == 0
    for start_s in (20, 55, 90, 125, 160):
        samples[start_s * RATE : start_s * RATE + 400] = tone(TONES_HZ[1], 400 / RATE)
    columns = bright_columns("calls.flac")
    assert np.count_nonzero(np.diff(columns) > 10) + 1 == 5


# Full disks, closed pipes, Ctrl-C


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


@pytest.fixture
def many_files(tmp_path):
    """Makes a folder of links to one recording; their names fill a pipe's buffer soon."""

    def make(count):
        first = write(tmp_path / "one.wav", tone(1200))
        folder = tmp_path / "many"
        folder.mkdir()
        for i in range(count):
            os.link(first, folder / f"{i:05}{'-' * 200}.wav")
        return folder

    return make


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(("reader", "form"), [("head -1", "csv")])
def test_a_closed_pipe_ends_the_command_without_a_word(many_files, placeholder_run, reader, form):
    command = [sys.executable, CLI, "predict", many_files(200), "--model", placeholder_run, "--format", form]
    script = f'"$@" | {reader}; echo "code ${{PIPESTATUS[0]}}" >&2'
    done = subprocess.run(
        ["bash", "-c", script, "bash", *map(str, command)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == "code 1\n"
    header = "file,rank,label,scientific_name,common_name,class_name,score\n"
    assert done.stdout == (header if reader == "head -1" else "")


def test_ctrl_c_ends_the_command_with_one_word_and_leaves_no_half_file(many_files, placeholder_run, tmp_path):
    folder = many_files(5000)
    (folder / "0.wav").touch()
    answered = tmp_path / "out" / "a.csv"
    answered.parent.mkdir()
    process = child(folder, "--model", placeholder_run, "--out", answered)
    # Named on stderr as soon as scoring begins.
    assert process.stderr.readline().startswith(f"Failed: {folder / '0.wav'}")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "Stopped."
    assert list(answered.parent.iterdir()) == []
