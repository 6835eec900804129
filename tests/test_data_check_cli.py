"""`keras-birds data check`: the manifest, the figure and the exit code."""

import os
import shutil
import tracemalloc
from functools import partial
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
COLUMNS = "path,seconds,sample_rate_hz,channels,status,reason"
# Of the bars: the class with the most recordings comes first.
COLORS = ("#2a6f97", "#e07a1f", "#2f9e6e", "#b0417e")


@pytest.fixture
def run(run_command, monkeypatch, tmp_path):
    """Runs `data check` in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return partial(run_command, "data", "check")


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


@pytest.fixture
def data_dir(tmp_path):
    """A folder per label, all of it in order: 2 s of "wren" in stereo, 1 s of "1139490" at 44.1 kHz."""
    folder = tmp_path / "birds"
    for label in ("wren", "1139490"):
        (folder / label).mkdir(parents=True)
    soundfile.write(folder / "wren" / "a.ogg", np.stack([noise(2), noise(2, 1)], axis=1), RATE)
    soundfile.write(folder / "1139490" / "b.flac", noise(1)[: RATE // 2], RATE // 2)
    return folder


def write_bad_files(folder):
    """One of each kind; returns name -> status, reason, rate in the header, channels."""
    folder.mkdir(parents=True)
    (folder / "empty.ogg").touch()
    (folder / "text.ogg").write_text("<html>404 not found</html>\n" * 50)
    cut = folder / "truncated.ogg"
    soundfile.write(cut, noise(10), RATE)
    os.truncate(cut, cut.stat().st_size * 6 // 10)
    with_nan = noise(2)
    with_nan[777] = np.nan
    soundfile.write(folder / "nan.wav", with_nan, RATE, subtype="FLOAT")
    for name, samples in (
        ("one.wav", noise(1)[:1]),
        ("silent.flac", np.zeros((2 * RATE, 2))),
        ("nothing.wav", np.zeros(0)),
    ):
        soundfile.write(folder / name, samples, RATE)
    return {
        "empty.ogg": ("empty", "is empty (0 bytes)", 0, 0),
        "nan.wav": ("corrupt", "holds NaN samples", RATE, 1),
        "nothing.wav": ("empty", "holds no samples", 0, 0),
        "one.wav": ("too short", "holds 1 sample; at least 0.05 s is needed", 0, 0),
        "silent.flac": ("silent", "all samples are zero", RATE, 2),
        "text.ogg": ("corrupt", "is not audio", 0, 0),
        "truncated.ogg": ("partial", "read ", RATE, 1),
    }


def read_manifest(folder):
    manifest = pd.read_csv(folder / "manifest.csv", keep_default_na=False)
    assert list(manifest) == COLUMNS.split(",")
    return manifest


def read_figure(catalog, folder):
    """The figure of classes and labels: its height and width in pixels, and of each colour the pixels."""
    save_png(class_distribution(catalog), folder / "figure.png", 120)
    pixels = np.round(255 * matplotlib.image.imread(folder / "figure.png")[..., :3]).astype(int)
    colors = [[int(x[i : i + 2], 16) for i in (1, 3, 5)] for x in COLORS]
    return *pixels.shape[:2], [int((pixels == x).all(axis=-1).sum()) for x in colors]


def test_real_recordings_are_all_ok(run, animals_dir, tmp_path):
    out_dir = tmp_path / "out"
    code, out, _ = run(animals_dir, "--out", out_dir, "--workers", 2)
    assert code == 0
    assert out.splitlines() == [
        "440 recordings, 11 labels, 0.61 hours: 440 ok",
        "No problems.",
        f"Manifest: {out_dir / 'manifest.csv'}",
        f"Figure:   {out_dir / 'class-distribution.png'}",
    ]
    manifest = read_manifest(out_dir)
    assert list(manifest["path"]) == list(read_catalog(animals_dir, DataConfig()).recordings["path"])
    same = manifest[["status", "reason", "sample_rate_hz", "channels"]].drop_duplicates()
    assert same.to_numpy().tolist() == [["ok", "", RATE, 1]]
    np.testing.assert_allclose(manifest["seconds"], 5, atol=0.01)
    assert sorted(x.name for x in out_dir.iterdir()) == ["class-distribution.png", "manifest.csv"]


def test_every_bad_file_is_there_with_its_reason(run, data_dir, tmp_path):
    expected = write_bad_files(data_dir / "bad")
    for name in ("stray.wav", "notes.zzz", "._hidden.wav"):
        (data_dir / name).touch()
    code, out, _ = run(data_dir, "--out", tmp_path / "out")
    assert code == 1
    assert out.startswith("9 recordings, 3 labels, ")
    assert "9 problems:\n" in out
    manifest = read_manifest(tmp_path / "out").set_index("path")
    assert len(manifest) == 9
    problems = (tmp_path / "out" / "problems.txt").read_text().splitlines()
    assert problems[7:] == [
        f". holds 1 file of unknown kind, left out: {str(data_dir / 'notes.zzz')!r}; name those that are sound",
        "stray.wav lies in no label's folder, left out",
    ]
    for name, (status, reason, *header) in expected.items():
        found = manifest.loc[str(data_dir / "bad" / name)]
        assert found["reason"].startswith(reason)
        assert [found[x] for x in ("status", "sample_rate_hz", "channels")] == [status, *header]
        line = f"bad/{name}: {found['reason']} ({status})"
        assert line in problems
        assert f"  {line}\n" in out
    seconds = manifest["seconds"]
    assert 4.5 < seconds[str(data_dir / "bad" / "truncated.ogg")] < 7
    assert seconds[str(data_dir / "bad" / "silent.flac")] == 2.0
    assert seconds[str(data_dir / "bad" / "nan.wav")] == 0.0
    assert (manifest["status"] == "ok").sum() == 2


def test_problems_of_tables_and_files_are_told_together(run, data_dir, tmp_path):
    (data_dir / "taxonomy.csv").write_text("primary_label\nwren\n")
    (data_dir / "1139490" / "empty.wav").touch()
    rows = ["wren/a.ogg,wren", "wren/gone.ogg,wren", "1139490/b.flac,1139490", "1139490/empty.wav,wren"]
    (data_dir / "calls.csv").write_text("\n".join(["file,primary_label", *rows]) + "\n")
    settings = ["data.table=calls.csv", "data.audio_dir=", "data.column_path=file"]
    code, out, _ = run(data_dir, "--out", tmp_path / "out", *(f"--set={x}" for x in settings))
    assert code == 1
    assert out.startswith("4 recordings, 1 label, 0.00 hours: 2 ok, 1 ")
    assert (tmp_path / "out" / "problems.txt").read_text().splitlines() == [
        "calls.csv row 3: the file must exist. Received: wren/gone.ogg",
        "calls.csv row 4: the primary label must be in taxonomy.csv. Received: '1139490'",
        "1139490/empty.wav: is empty (0 bytes) (empty)",
    ]
    manifest = read_manifest(tmp_path / "out")
    assert list(manifest["status"]) == ["ok", "missing", "ok", "empty"]
    assert list(manifest["reason"])[1] == "no such file"


def test_twenty_problems_are_printed_all_are_in_the_file_and_mended_ones_go(run, data_dir, tmp_path):
    bad, file = [data_dir / "wren" / f"empty{i:02}.wav" for i in range(23)], tmp_path / "out" / "problems.txt"
    for path in bad:
        path.touch()
    code, out, _ = run(data_dir, "--out", tmp_path / "out")
    assert code == 1
    assert out.count("is empty (0 bytes)") == 20
    assert f"  and 3 more in {file}\n" in out
    assert len(file.read_text().splitlines()) == 23
    for path in bad[3:]:
        path.unlink()
    _, out, _ = run(data_dir, "--out", tmp_path / "out")
    assert out.splitlines()[1:5] == ["3 problems:", *(f"  {x}" for x in file.read_text().splitlines())]
    for path in bad:
        soundfile.write(path, noise(1), RATE)
    code, out, _ = run(data_dir, "--out", tmp_path / "out")
    assert code == 0
    assert "No problems." in out
    assert not file.exists()
    assert len(read_manifest(tmp_path / "out")) == 25


def test_a_name_that_is_not_utf_8_is_a_problem_and_kept_as_it_is(run, data_dir, tmp_path):
    name = b"r\xe9.wav"
    try:
        Path(os.fsdecode(os.fsencode(data_dir / "wren") + b"/" + name)).touch()
    except OSError:
        pytest.skip("this file system wants names in UTF-8")
    code, out, _ = run(data_dir, "--out", tmp_path / "out")
    assert code == 1
    assert "  a file's name must be UTF-8. Received: wren/r\\udce9.wav; rename it\n" in out
    assert "  wren/r?.wav: is empty (0 bytes) (empty)\n" in out
    assert name in (tmp_path / "out" / "problems.txt").read_bytes()
    assert name in (tmp_path / "out" / "manifest.csv").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--set", "data.tabel=x.csv"], "data.table"),
        (["--config", "no"], "--config"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_a_wrong_call(run, data_dir, arguments, told):
    code, _, err = run(data_dir, *arguments)
    assert code == 2
    assert told in err


def test_the_figure_shows_each_classes_recordings_the_class_with_most_first(tmp_path, data_dir):
    for name in ("c.ogg", "d.ogg"):
        shutil.copy(data_dir / "wren/a.ogg", data_dir / "wren" / name)
    (data_dir / "taxonomy.csv").write_text(
        "primary_label,class_name,common_name\n1139490,Insecta,鈴虫\nwren,Aves,Wren $x_1$\ngnu,Mammalia,\n"
    )
    height, width, areas = read_figure(read_catalog(data_dir, DataConfig()), tmp_path)
    assert 100 < height < 1000
    assert 800 < width < 2000
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
