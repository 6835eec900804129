"""`keras-birds data check`: the manifest, the figure and the exit code."""

import os
import shutil
import tracemalloc
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import soundfile

from keras_birds.config import DataConfig
from keras_birds.data.catalog import read_catalog
from keras_birds.data.check import check_recordings
from keras_birds.plots.class_distribution import class_distribution
from keras_birds.plots.figure import save_png

RATE = 32_000
# Of the bars: the class with the most recordings comes first.
COLORS = ("#2a6f97", "#e07a1f", "#2f9e6e", "#b0417e")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def run(run_command, out):
    """Runs `data check`: its exit code, what it prints, and all problems in its file."""

    def call(*arguments):
        code, text, err = run_command("data", "check", *arguments, "--out", out)
        file = out / "problems.txt"
        return code, text or err, file.read_text(errors="replace").splitlines() if file.exists() else None

    return call


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


@pytest.fixture
def data_dir(tmp_path):
    """A folder per label, all of it in order: 2 s of "wren" in stereo, 1 s of "1139490" at half the rate."""
    folder = tmp_path / "birds"
    for label in ("wren", "1139490"):
        (folder / label).mkdir(parents=True)
    soundfile.write(folder / "wren" / "a.ogg", np.stack([noise(2), noise(2, 1)], axis=1), RATE)
    soundfile.write(folder / "1139490" / "b.flac", noise(0.5), RATE // 2)
    return folder


def read_manifest(folder):
    manifest = pd.read_csv(folder / "manifest.csv", keep_default_na=False)
    assert ",".join(manifest) == "path,seconds,sample_rate_hz,channels,status,reason"
    return manifest


def test_real_recordings_are_all_ok(run, animals_dir, out):
    code, text, problems = run(animals_dir, "--workers", 2)
    assert (code, problems) == (0, None)
    assert text.splitlines() == [
        "440 recordings, 11 labels, 0.61 hours: 440 ok",
        "No problems.",
        f"Manifest: {out / 'manifest.csv'}",
        f"Figure:   {out / 'class-distribution.png'}",
    ]
    manifest = read_manifest(out)
    assert list(manifest["path"]) == list(read_catalog(animals_dir, DataConfig()).recordings["path"])
    same = manifest[["status", "reason", "sample_rate_hz", "channels"]].drop_duplicates()
    assert same.to_numpy().tolist() == [["ok", "", RATE, 1]]
    np.testing.assert_allclose(manifest["seconds"], 5, atol=0.01)
    assert sorted(x.name for x in out.iterdir()) == ["class-distribution.png", "manifest.csv"]


def test_every_bad_file_is_there_with_its_reason(run, data_dir, out):
    bad, with_nan = data_dir / "bad", noise(2)
    with_nan[777] = np.nan
    bad.mkdir()
    contents = {
        "nan.wav": with_nan,
        "one.wav": noise(1)[:1],
        "nothing.wav": np.zeros(0),
        "cut.ogg": noise(10),
    }
    for name, samples in {**contents, "silent.flac": np.zeros((2 * RATE, 2))}.items():
        soundfile.write(bad / name, samples, RATE, subtype="FLOAT" if name == "nan.wav" else None)
    os.truncate(bad / "cut.ogg", (bad / "cut.ogg").stat().st_size * 6 // 10)
    (bad / "text.ogg").write_text("<html>404 not found</html>\n" * 50)
    for name in ("bad/empty.ogg", "stray.wav", "notes.zzz", "._hidden.wav"):
        (data_dir / name).touch()
    code, text, problems = run(data_dir)
    assert code == 1
    assert text.startswith("9 recordings, 3 labels, ")
    told = [
        "bad/empty.ogg: is empty (0 bytes) (empty)",
        "bad/nan.wav: holds NaN samples (corrupt)",
        "bad/nothing.wav: holds no samples (empty)",
        "bad/one.wav: holds 1 sample; at least 0.05 s is needed (too short)",
        "bad/silent.flac: all samples are zero (silent)",
        "bad/text.ogg: is not audio (corrupt)",
        f". holds 1 file of unknown kind, left out: {str(data_dir / 'notes.zzz')!r}; name those that are sound",
        "stray.wav lies in no label's folder, left out",
    ]
    assert text.splitlines()[1:-2] == ["9 problems:", *(f"  {x}" for x in problems)]
    assert problems[1:] == told
    assert problems[0].startswith("bad/cut.ogg: read ")
    manifest = read_manifest(out)
    assert list(manifest["status"]) == [
        *("ok", "partial", "empty", "corrupt", "empty", "too short", "silent", "corrupt", "ok")
    ]
    assert list(manifest["sample_rate_hz"]) == [RATE // 2, RATE, 0, RATE, 0, 0, RATE, 0, RATE]
    assert list(manifest["channels"]) == [1, 1, 0, 1, 0, 0, 2, 0, 2]
    assert list(manifest["seconds"].drop(1)) == [1, 0, 0, 0, 0, 2, 0, 2]
    assert 4.5 < manifest["seconds"][1] < 7


def test_problems_of_tables_and_files_are_told_together(run, data_dir, out):
    (data_dir / "taxonomy.csv").write_text("primary_label\nwren\n")
    (data_dir / "1139490" / "empty.wav").touch()
    rows = ["wren/a.ogg,wren", "wren/gone.ogg,wren", "1139490/b.flac,1139490", "1139490/empty.wav,wren"]
    (data_dir / "calls.csv").write_text("\n".join(["file,primary_label", *rows]) + "\n")
    settings = ["data.table=calls.csv", "data.audio_dir=", "data.column_path=file"]
    code, text, problems = run(data_dir, *(f"--set={x}" for x in settings))
    assert code == 1
    assert text.startswith("4 recordings, 1 label, 0.00 hours: 2 ok, 1 ")
    assert problems == [
        "calls.csv row 3: the file must exist. Received: wren/gone.ogg",
        "calls.csv row 4: the primary label must be in taxonomy.csv. Received: '1139490'",
        "1139490/empty.wav: is empty (0 bytes) (empty)",
    ]
    manifest = read_manifest(out)
    assert list(manifest["status"]) == ["ok", "missing", "ok", "empty"]
    assert manifest["reason"][1] == "no such file"


def test_twenty_problems_are_printed_all_are_in_the_file_and_mended_ones_go(run, data_dir, out):
    bad = [data_dir / "wren" / f"empty{i:02}.wav" for i in range(21)]
    for path in bad:
        path.touch()
    code, text, problems = run(data_dir)
    assert (code, text.count("is empty (0 bytes)"), len(problems)) == (1, 20, 21)
    assert f"  and 1 more in {out / 'problems.txt'}\n" in text
    for path in bad[1:]:
        path.unlink()
    assert run(data_dir)[1].splitlines()[1:3] == ["1 problem:", f"  {problems[0]}"]
    soundfile.write(bad[0], noise(1), RATE)
    code, text, problems = run(data_dir)
    assert (code, problems) == (0, None)
    assert "3 ok\nNo problems." in text


def test_a_name_that_is_not_utf_8_is_a_problem_and_kept_as_it_is(run, data_dir, out):
    name = b"r\xe9.wav"
    try:
        Path(os.fsdecode(os.fsencode(data_dir / "wren") + b"/" + name)).touch()
    except OSError:
        pytest.skip("this file system wants names in UTF-8")
    code, text, _ = run(data_dir)
    assert code == 1
    assert "  a file's name must be UTF-8. Received: wren/r\\udce9.wav; rename it\n" in text
    assert "  wren/r?.wav: is empty (0 bytes) (empty)\n" in text
    assert all(name in (out / x).read_bytes() for x in ("problems.txt", "manifest.csv"))


@pytest.mark.parametrize("arguments", ["--set data.tabel=x.csv", "--config nowhere", "--workers 0"])
def test_a_wrong_call(run, data_dir, arguments):
    code, err, _ = run(data_dir, *arguments.split())
    assert code == 2
    assert arguments.split()[0].replace("--set", "data.table") in err


def test_the_results_lie_in_the_current_folder_under_the_data_sets_name(run_command, data_dir, monkeypatch):
    monkeypatch.chdir(data_dir.parent)
    assert run_command("data", "check", "birds")[0] == 0
    assert sorted(x.name for x in Path("birds-check").iterdir()) == ["class-distribution.png", "manifest.csv"]


def test_the_figure_shows_each_classes_recordings_the_class_with_most_first(tmp_path, data_dir):
    for name in ("c.ogg", "d.ogg"):
        shutil.copy(data_dir / "wren/a.ogg", data_dir / "wren" / name)
    (data_dir / "taxonomy.csv").write_text(
        "primary_label,class_name,common_name\n1139490,Insecta,鈴虫\nwren,Aves,Wren $x_1$\ngnu,Mammalia,\n"
    )
    save_png(class_distribution(read_catalog(data_dir, DataConfig())), tmp_path / "a.png", 120)
    pixels = np.round(255 * matplotlib.image.imread(tmp_path / "a.png")[..., :3]).astype(int)
    assert 100 < pixels.shape[0] < 1000
    assert 800 < pixels.shape[1] < 2000
    colors = [[int(x[i : i + 2], 16) for i in (1, 3, 5)] for x in COLORS]
    areas = [int((pixels == x).all(axis=-1).sum()) for x in colors]
    assert areas[0] > 2 * areas[1] > 1000
    assert areas[2:] == [0, 0]


def test_memory_does_not_grow_with_a_recordings_length(tmp_path):
    with soundfile.SoundFile(tmp_path / "a.wav", "w", RATE, 1) as file:
        for _ in range(10):
            file.write(noise(60))
    tracemalloc.start()
    found = check_recordings([tmp_path / "a.wav"], RATE)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found["status"][0], found["seconds"][0]) == ("ok", 600)
    assert peak_bytes < 0.5 * 600 * RATE * 4
