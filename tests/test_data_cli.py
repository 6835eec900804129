"""`keras-birds data check` and `data preview`: tables, figures and exit codes."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from matplotlib.image import imread

RATE = 32_000


@pytest.fixture
def check(run_command, monkeypatch, tmp_path):
    """Checks the data set `birds`: exit code, what is printed, all problems in their file, and the manifest."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, out="birds-check"):
        code, text, _ = run_command("data", "check", "birds", *arguments)
        file = Path(out, "problems.txt")
        problems = file.read_text(errors="replace").splitlines() if file.exists() else None
        manifest = pd.read_csv(f"{out}/manifest.csv", keep_default_na=False, encoding_errors="replace")
        return code, text, problems, manifest

    return call


@pytest.fixture
def data_dir(write_tone):
    """A folder per label, all of it in order: 2 s of "wren" in stereo, 0.5 s of "1139490" at half the rate."""
    write_tone("birds/1139490/b.flac", seconds=0.5, rate=RATE // 2)
    return write_tone("birds/wren/a.ogg", seconds=2, channels=2).parents[1]


def test_every_bad_file_is_there_with_its_reason(check, data_dir, write_tone):
    with_nan = np.ones(2 * RATE)
    with_nan[777] = np.nan
    cut = write_tone("birds/bad/cut.ogg", seconds=10)
    os.truncate(cut, cut.stat().st_size * 6 // 10)
    sounds = {
        "nan.wav": with_nan,
        "one.wav": [1.0],
        "nothing.wav": [],
        "silent.flac": np.zeros((2 * RATE, 2)),
    }
    for name, samples in sounds.items():
        soundfile.write(cut.parent / name, samples, RATE, subtype="FLOAT" if name == "nan.wav" else None)
    (cut.parent / "text.ogg").write_text("<html>404 not found</html>\n" * 50)
    for name in ("bad/empty.ogg", "stray.wav", "notes.zzz", "._hidden.wav"):
        (data_dir / name).touch()
    code, text, problems, manifest = check()
    assert (code, text.startswith("9 recordings, 3 labels, ")) == (1, True)
    assert text.splitlines()[1:-2] == ["9 problems:", *(f"  {x}" for x in problems)]
    assert problems[0].startswith("bad/cut.ogg: read ")
    assert problems[1:] == [
        "bad/empty.ogg: is empty (0 bytes) (empty)",
        "bad/nan.wav: holds NaN samples (corrupt)",
        "bad/nothing.wav: holds no samples (empty)",
        "bad/one.wav: holds 1 sample; at least 0.05 s is needed (too short)",
        "bad/silent.flac: all samples are zero (silent)",
        "bad/text.ogg: is not audio (corrupt)",
        ". holds 1 file of unknown kind, left out: 'birds/notes.zzz'; name those that are sound",
        "stray.wav lies in no label's folder, left out",
    ]
    statuses = ["ok", "partial", "empty", "corrupt", "empty", "too short", "silent", "corrupt", "ok"]
    assert list(manifest["status"]) == statuses
    assert list(manifest["sample_rate_hz"]) == [RATE // 2, RATE, 0, RATE, 0, 0, RATE, 0, RATE]
    assert list(manifest["channels"]) == [1, 1, 0, 1, 0, 0, 2, 0, 2]
    assert list(manifest["seconds"].drop(1)) == [0.5, 0, 0, 0, 0, 2, 0, 2]
    assert 4.5 < manifest["seconds"][1] < 7


def test_problems_of_tables_and_files_are_told_together(check, data_dir):
    (data_dir / "taxonomy.csv").write_text("primary_label\nwren\n")
    (data_dir / "1139490/empty.wav").touch()
    rows = ["wren/a.ogg,wren", "wren/gone.ogg,wren", "1139490/b.flac,1139490", "1139490/empty.wav,wren"]
    (data_dir / "calls.csv").write_text("\n".join(["file,primary_label", *rows]) + "\n")
    settings = ["data.table=calls.csv", "data.audio_dir=", "data.column_path=file"]
    code, text, problems, manifest = check(*(f"--set={x}" for x in settings))
    assert (code, text.startswith("4 recordings, 1 label, 0.00 hours: 2 ok, 1 ")) == (1, True)
    assert problems == [
        "calls.csv row 3: the file must exist. Received: wren/gone.ogg",
        "calls.csv row 4: the primary label must be in taxonomy.csv. Received: '1139490'",
        "1139490/empty.wav: is empty (0 bytes) (empty)",
    ]
    assert list(manifest["status"]) == ["ok", "missing", "ok", "empty"]
    assert manifest["reason"][1] == "no such file"


def test_twenty_problems_are_printed_all_are_in_the_file_and_mended_ones_go(check, data_dir, write_tone):
    bad = [data_dir / f"wren/empty{i:02}.wav" for i in range(21)]
    for path in bad:
        path.touch()
    code, text, problems, _ = check()
    assert (code, text.count("is empty (0 bytes)"), len(problems)) == (1, 20, 21)
    assert f"  and 1 more in {Path('birds-check/problems.txt')}\n" in text
    for path in bad[1:]:
        path.unlink()
    assert check()[1].splitlines()[1:3] == ["1 problem:", f"  {problems[0]}"]
    mended = write_tone("birds/wren/empty00.wav", seconds=36, rate=8000)
    guano = b"Timestamp:2023-05-10 07:30:00+02:00\nLoc Position:0 0\nModel:M\nGain:9\nTemperature Int:-1.5"
    with mended.open("ab") as file:
        file.write(b"guan" + len(guano).to_bytes(4, "little") + guano)
    code, text, problems, manifest = check("--workers", 2)
    assert (code, problems) == (0, None)
    assert text.splitlines() == [
        "3 recordings, 2 labels, 0.01 hours: 3 ok",
        "No problems.",
        f"2 recordings tell no time, the first {Path('birds/1139490/b.flac')}",
        "1 recording has notes on time, place or recorder, the first "
        f"{Path('birds/wren/empty00.wav')}: GUANO's place, 0, 0, can't be.",
        f"Manifest: {Path('birds-check/manifest.csv')}",
        f"Figure:   {Path('birds-check/class-distribution.png')}",
    ]
    assert manifest.to_csv(index=False, lineterminator="\n") == (
        "path,seconds,sample_rate_hz,channels,status,reason,"
        "start_time,utc_offset,latitude,longitude,recorder,gain,temperature_c,battery_v,notes\n"
        "birds/1139490/b.flac,0.5,16000,1,ok,,,,,,,,,,\n"
        "birds/wren/a.ogg,2.0,32000,2,ok,,,,,,,,,,\n"
        "birds/wren/empty00.wav,36.0,8000,1,ok,,"
        "2023-05-10T07:30:00,+02:00,,,M,9,-1.5,,\"GUANO's place, 0, 0, can't be.\"\n"
    )
    assert sorted(x.name for x in Path("birds-check").iterdir()) == ["class-distribution.png", "manifest.csv"]


def test_a_name_that_is_not_utf_8_is_a_problem_and_kept_as_it_is(check, data_dir):
    name = b"r\xe9.wav"
    try:
        Path(os.fsdecode(os.fsencode(data_dir / "wren") + b"/" + name)).touch()
    except OSError:
        pytest.skip("this file system wants names in UTF-8")
    code, text, *_ = check()
    assert (code, "  wren/r?.wav: is empty (0 bytes) (empty)\n" in text) == (1, True)
    assert "  a file's name must be UTF-8. Received: wren/r\\udce9.wav; rename it\n" in text
    assert all(name in Path("birds-check", x).read_bytes() for x in ("problems.txt", "manifest.csv"))


def test_the_figure_shows_each_classes_recordings_the_class_with_most_first(check, data_dir, write_tone):
    for name in "cd":
        write_tone(f"birds/wren/{name}.ogg", seconds=1)
    rows = "1139490,Insecta,鈴虫\nwren,Aves,Wren $x_1$\ngnu,Mammalia,\n"
    (data_dir / "taxonomy.csv").write_text(f"primary_label,class_name,common_name\n{rows}")
    check("--out", "a/b", out="a/b")
    pixels = np.round(255 * imread("a/b/class-distribution.png")[..., :3]).astype(int)
    assert 100 < pixels.shape[0] < 1000
    assert 800 < pixels.shape[1] < 2000
    colors = [list(bytes.fromhex(x)) for x in ("2a6f97", "e07a1f", "2f9e6e", "b0417e")]
    areas = [int((pixels == x).all(axis=-1).sum()) for x in colors]
    assert areas[0] > 2 * areas[1] > 1000
    assert areas[2:] == [0, 0]


@pytest.fixture
def preview(run_command, monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return lambda *arguments: run_command("data", "preview", *arguments, "--config", "smoke")


@pytest.fixture
def clip(write_tone):
    write_tone("clips/b.wav", 4000.0, seconds=6)
    return write_tone("clips/a.wav", 1000.0, seconds=3)


def drawn_panels(path):
    """How many panels of the grid, 310 pixels each, by 3, have something in their middle: one after another."""
    pixels = imread(path)[..., :3]
    rows = round(pixels.shape[0] / 310)
    height, width = pixels.shape[0] // rows, int(0.92 * pixels.shape[1]) // 3
    middles = [(int((r + 0.55) * height), int((c + 0.5) * width)) for r in range(rows) for c in range(3)]
    drawn = [bool((pixels[y - 30 : y + 30, x - 60 : x + 60] < 1).any()) for y, x in middles]
    assert drawn == sorted(drawn, reverse=True)
    return rows, sum(drawn)


def test_a_file_under_each_augmentation_and_a_background_if_it_is_mixed_in(preview, clip):
    assert preview(clip) == (0, "Figure: preview.png\n", "")
    assert drawn_panels("preview.png") == (4, 10)
    assert [x.name for x in Path.cwd().iterdir()] == ["preview.png"]
    assert sorted(x.name for x in clip.parent.iterdir()) == ["a.wav", "b.wav"]

    preview(clip, "--out", "mfcc.png", "--set=mel.feature=mfcc")
    assert drawn_panels("mfcc.png") == (3, 8)  # neither pitch nor volume
    mixed = (clip, "--out", "a.png", "--set=augment.background.probability=0.5")
    assert preview(*mixed, f"--set=data.background={clip.parent}")[0] == 0
    assert drawn_panels("a.png") == (4, 11)
    code, _, err = preview(*mixed, "--set=data.background=none")
    assert (code, "data.background must be a folder with recordings" in err) == (1, True)


def test_a_recording_of_the_data_set(preview, animals_dir):
    pixels = []
    for seed in (1, 1, 2):
        assert preview("--data", animals_dir, "--seed", seed, "--out=a.PNG") == (0, "Figure: a.PNG\n", "")
        pixels.append(imread("a.PNG"))
    first, again, other = pixels
    np.testing.assert_array_equal(first, again)
    # The first panel is the clip as it is: another seed chooses another recording.
    height, width = first.shape[0] // 3, first.shape[1] // 3
    middle = np.s_[height // 2 : int(0.8 * height), width // 3 : int(0.8 * width)]
    assert np.abs(first[middle] - other[middle]).mean() > 0.01


def test_a_corrupt_file_is_named_and_a_corrupt_neighbour_left_out(preview, clip, write_tone):
    bad = clip.with_name("aa.wav")
    bad.touch()
    empty = f"{bad}: is empty (0 bytes)\n"
    assert preview(bad) == (1, "", f"Error: {empty}")
    assert not Path("preview.png").exists()
    assert preview(clip)[::2] == (0, f"Left out: {empty}")
    bad.unlink()
    write_tone("clips/_.wav", 300.0, seconds=3)  # those that follow go before
    assert preview(clip, "--out", "b.png")[0] == 0
    assert Path("preview.png").read_bytes() == Path("b.png").read_bytes()
    write_tone("birds/wren/a.wav", seconds=1).with_name("b.wav").touch()
    code, _, err = preview("--data", "../birds")
    assert (code, "b.wav: is empty (0 bytes)\n" in err) == (1, True)
    assert "a preview needs two recordings that can be read. Received: 1 in ../birds\n" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("check . --set data.tabel=x.csv", "data.table"),
        ("check . --config nowhere", "--config"),
        ("check . --workers 0", "--workers"),
        ("preview none.ogg", "none.ogg"),
        ("preview clips/a.wav --data .", "give FILE or --data, not both"),
        ("preview clips/a.wav --out a.jpg", "must end in .png. Received: a.jpg"),
        ("preview --data none", "--data must be an existing folder"),
        ("preview clips/a.wav --out none/a.png", "there is no folder none"),
        ("preview clips/a.wav --seed -1", "--seed"),
    ],
)
def test_a_wrong_call(run_command, clip, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    code, _, err = run_command("data", *arguments.split())
    assert (code, told in err) == (2, True), err
