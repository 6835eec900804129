"""`keras-birds detect`, as people use it: on disks with bad files, killed, and started again."""

import csv
import io
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
from placeholder import AUDIO, LABELS, TONES_HZ, write_constant_model

import keras_birds
from keras_birds.inference.aggregate import rank_average
from keras_birds.inference.members import MemberScorer
from keras_birds.inference.scorer import score_recordings

RATE = AUDIO.sample_rate_hz


@pytest.fixture
def detect(run_command, placeholder_run):
    def call(*arguments, code=0, model=placeholder_run):
        found, out, err = run_command("detect", *arguments, "--model", model)
        assert found == code, err
        return out, err

    return call


@pytest.fixture
def disk(tmp_path, write_tone):
    """Recordings in folders, as a recorder writes them."""
    for k in range(6):
        write_tone(f"disk/plot{k % 2}/P{k}_20250601_{k + 4:02d}5930.wav", TONES_HZ[k % 4], seconds=10 + k)
    return tmp_path / "disk"


def read(folder, name="detections.csv"):
    return pd.read_csv(folder / name, dtype={"label": str}, keep_default_na=False)


def table_of(folder):
    return read(folder).sort_values(["file", "start_s", "label"], ignore_index=True)


def test_recordings_without_a_time_are_told_where_others_have_one(detect, disk, tmp_path, write_tone):
    timeless = write_tone("disk/plot0/P9_20250601_056000.wav")
    _, err = detect(disk, "--out", tmp_path / "out")
    assert f"; 1 of the recordings tell no time, the first {timeless}; " in err
    assert "tell no time" not in detect(timeless, "--out", tmp_path / "one")[1]


def test_detections_manifest_summary_and_activity_of_a_disk(detect, disk, tmp_path):
    folder = tmp_path / "out"
    out, err = detect(disk, "--out", folder, "--overlap", 1)
    assert "6 recordings: 6 scored; " in err
    listed = ["manifest.csv", "detections.csv", "summary.csv", "activity.csv", "activity.png"]
    assert [Path(x).name for x in out.splitlines()] == listed
    manifest, table, summary, activity = (read(folder, x) for x in listed[:4])
    columns = "file,channel,start_s,end_s,start_time,start_time_utc,label,scientific_name,common_name,score,"
    columns += "model_id,occurrence"
    assert ",".join(table) == columns
    for k, (_, rows) in enumerate(table.sort_values("start_time").groupby("file", sort=False)):
        best = rows.loc[rows.groupby("start_s")["score"].idxmax()]
        assert set(best["label"]) == {LABELS[k % 4]}
        assert best["start_s"].tolist() == list(np.arange(9 + k))
        assert best["start_time"].iloc[0] == f"2025-06-01T{k + 4:02d}:59:30.000"
    assert (table["score"] >= 0.25).all()
    assert manifest["status"].tolist() == ["ok"] * 6
    assert manifest["detections"].sum() == activity["detections"].sum() == len(table)
    assert set(summary["label"]) >= set(LABELS)
    assert sorted(set(activity["hour"])) == [4, 5, 6, 7, 8, 9]
    assert (folder / "activity.png").read_bytes().startswith(b"\x89PNG")


def test_every_format_combined_and_per_recording_of_a_list_on_stdin(detect, disk, tmp_path, monkeypatch):
    forms, out = ("csv", "json", "parquet", "raven", "audacity", "kaleidoscope", "birdnet"), tmp_path / "out"
    names = io.BytesIO(b"\0".join(os.fsencode(x) for x in sorted(disk.rglob("*.wav"))))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=names))
    _, err = detect("-", "--out", out, *(x for form in forms for x in ("--format", form)))
    assert len(read(out, "manifest.csv")) == 6
    assert "\x1b" not in err  # no terminal, no bar: plain lines
    assert len({x.name for x in out.glob("detections.*")}) == len(forms)
    assert len(pd.read_parquet(out / "detections.parquet")) == len(read(out))
    detect(disk, "--out", out, "--format", "raven", "--per-recording")
    assert len(list((out / "raven").rglob("*.selections.txt"))) == 6


def test_a_submission_holds_every_full_window_of_every_soundscape(detect, tmp_path, write_tone):
    sounds, out = tmp_path / "soundscapes", tmp_path / "out"
    for k in range(3):
        write_tone(f"soundscapes/soundscape_{k}.ogg", TONES_HZ[k], seconds=20.4)
    for k in (3, 4):
        (sounds / f"soundscape_{k}.ogg").write_text("no sound")
    rows = "row_id,amakin1,1139490,whtdov\nsoundscape_0_2,0,0,0\nsoundscape_3_2,0.1,0.1,0.1"
    (tmp_path / "sample.csv").write_text(rows)
    sample = ("--sample-submission", tmp_path / "sample.csv")
    _, err = detect(sounds, "--out", out, "--format", "birdclef", *sample, code=1)
    assert "submission.csv: 1 row has no scores and holds what the sample submission has there" in err
    assert f"no row for {sounds / 'soundscape_4.ogg'}, which can't be read" in err
    table = read(out, "submission.csv")
    expected = [f"soundscape_{k}_{s}" for k in range(3) for s in range(2, 21, 2)]
    assert table["row_id"].tolist() == [*expected, "soundscape_3_2"]
    assert table.iloc[:10]["1139490"].min() > 0.7


def test_a_submission_is_averaged_by_rank_and_weighed_in_its_context(
    detect, placeholder_run, run_command, tmp_path, write_tone
):
    sounds, out = tmp_path / "soundscapes", tmp_path / "out"
    for k in range(2):
        write_tone(f"soundscapes/s_{k}.wav", TONES_HZ[k], seconds=16)
    _, err = detect(sounds, "--out", out, "--format", "birdclef", "--average", "rank", "--file-level", "2")
    assert "2 recordings: 2 scored" in err
    classifier = keras_birds.load(placeholder_run)
    found = list(score_recordings(MemberScorer(classifier), sorted(sounds.iterdir())))
    members = np.concatenate([x.scores for x in found]).reshape(16, len(classifier.engines), -1)
    ranked = np.split(rank_average(members.astype(np.float16)), 2)
    expected = np.concatenate([x * np.sort(x, axis=0)[-2:].mean(axis=0) for x in ranked])
    table = read(out, "submission.csv")
    np.testing.assert_allclose(table[list(classifier.labels)], expected, rtol=1e-4, atol=1e-6)
    again = ("--out", out, "--format", "birdclef", "--average", "rank", "--file-level", "2")
    assert "0 scored, 2 scored before" in detect(sounds, *again)[1]
    pd.testing.assert_frame_equal(read(out, "submission.csv"), table)
    model = ("detect", sounds, "--out", tmp_path / "new", "--average", "rank", "--model")
    for more, said in {
        (placeholder_run,): "only a submission does",
        (placeholder_run, "--format", "birdclef", "--format", "csv"): "--format birdclef alone",
        (placeholder_run, "--format", "birdclef", "--sensitivity", "1.2"): "Received: --sensitivity as well",
        (placeholder_run / "fold0", "--format", "birdclef"): "several folds. Received: one model",
    }.items():
        code, _, err = run_command(*model, *more)
        assert code == 2
        assert said in " ".join(err.split())
    assert not (tmp_path / "new").exists()


def test_the_same_command_redoes_what_changed_and_others_are_refused(detect, disk, tmp_path, write_tone):
    done, new = ("--out", tmp_path / "out"), ("--out", tmp_path / "new")
    detect(disk, *done)
    before = table_of(tmp_path / "out")
    assert "6 recordings: 0 scored, 6 scored before" in detect(disk, *done)[1]
    pd.testing.assert_frame_equal(table_of(tmp_path / "out"), before)
    changed = write_tone("disk/plot0/P0_20250601_045930.wav", TONES_HZ[3], seconds=4)
    (disk / "plot1" / "new.wav").symlink_to(changed)
    (disk / "plot1" / "P1_20250601_055930.wav").write_text("no sound")
    assert "7 recordings: 2 scored, 4 scored before, 1 failed" in detect(disk, *done, code=1)[1]
    table = read(tmp_path / "out")
    rows = table[table["file"] == str(changed)]
    assert (rows["end_s"].max(), set(rows["label"])) == (4, {LABELS[3]})
    assert not table["file"].str.contains("P1_").any()
    assert not table.duplicated(["file", "start_s", "label"]).any()
    for arguments, said in {
        (disk, *done, "--overlap", "1"): "overlap_s is 1.0, was 0.0",
        (disk, *done, "--threshold", "0.5"): "thresholds is 0.5, was 0.25",
        (disk, *done, "--keep-scores"): "keep_scores is true, was false",
        (disk, *done, "--merge"): "merge is true, was false",
        (disk, "--out", disk): "must be a new or empty folder",
        (disk,): "Missing option '--out'",
        (disk, *new, "--channel", "0"): "mix, all or a number from 1. Received: 0",
        (disk, *new, "--threshold", "high"): "Received: high",
        (disk, *new, "--threshold", "1.5"): "from 0 to 1. Received: 1.5",
        (disk, *new, "--smooth", "2"): "odd number of windows. Received: 2",
        (disk, *new, "--time-pattern", "REC"): "REC",
        (disk, *new, "--provider", "abacus"): "Received: abacus",
        (tmp_path / "none", *new): "none' (No such file",
    }.items():
        _, err = detect(*arguments, code=2)
        assert said in err, arguments
    assert not (tmp_path / "new").exists()
    model = write_constant_model(tmp_path / "model.onnx", [0.0] * 4)
    detect(changed, *new, model=model)
    write_constant_model(model, [1.0] * 4)
    assert "model_sha256 is" in detect(changed, *new, model=model, code=2)[1]


def test_what_was_found_on_a_disk_that_is_unplugged_stays_until_it_is_back(detect, disk, tmp_path):
    out, absent = tmp_path / "out", "not among the recordings of this run"
    command = (disk / "plot0", disk / "plot1" / "*.wav", "--out", out, "--keep-scores")
    detect(*command)
    names = [x.name for x in sorted(disk.rglob("*.wav"))]
    before, parts = table_of(out), ("detections", "summary", "scores")
    sizes = [len(pd.read_parquet(out / x)) for x in parts]

    def check(not_seen):
        pd.testing.assert_frame_equal(table_of(out), before)
        assert [len(pd.read_parquet(out / x)) for x in parts] == sizes
        manifest = read(out, "manifest.csv")
        told = {Path(x.file).name: x.not_seen for x in manifest.itertuples() if x.not_seen}
        assert (set(manifest["status"]), told) == ({"ok"}, not_seen)

    # One folder's mount point is empty, the glob matches nothing.
    disk.rename(tmp_path / "unplugged")
    (disk / "plot0").mkdir(parents=True)
    assert "plot0: it holds no recordings" in detect(*command, code=1)[1]
    check(dict.fromkeys(names, absent))
    # A folder that is gone altogether, and a list that names what isn't there.
    shutil.rmtree(disk)
    (tmp_path / "list.csv").write_text(f"file\n{disk}/plot1/P1_20250601_055930.wav")
    _, err = detect(disk / "plot0", tmp_path / "list.csv", *command[2:], code=1)
    assert re.search("(?s)plot0: No such file or directory.* 1 not seen this time", err)
    check({x: "no such file" if x.startswith("P1") else absent for x in names})
    (tmp_path / "unplugged").rename(disk)
    assert "6 recordings: 0 scored, 6 scored before" in detect(*command)[1]
    check({})


def test_channels_count_once_and_are_told_apart(detect, tmp_path, write_tone):
    tones = [soundfile.read(write_tone("tone.wav", TONES_HZ[k], 20, RATE))[0] for k in (0, 3)]
    soundfile.write(tmp_path / "a.wav", np.stack(tones, axis=1), RATE)
    _, err = detect(tmp_path / "a.wav", "--out", tmp_path / "out", "--channel", "all", "--threshold", 0.5)
    assert "0.01 h of audio" in err  # 20 s, not 40
    best = read(tmp_path / "out").groupby("channel")["label"].agg(set).to_dict()
    assert best == {1: {LABELS[0]}, 2: {LABELS[3]}}


def test_60_mutated_files_are_all_accounted_for_and_none_is_made_up(detect, tmp_path, write_tone):
    rng, suffixes, bad = np.random.default_rng(0), ("wav", "flac", "ogg", "mp3"), tmp_path / "bad"
    good = [write_tone(f"good.{x}", TONES_HZ[1], seconds=6).read_bytes() for x in suffixes]
    bad.mkdir()
    for k in range(60):
        data, place = good[k % 4], int(rng.integers(len(good[k % 4])))
        flipped = np.frombuffer(data, np.uint8) ^ (rng.random(len(data)) < 1e-3)
        middle = (bytes(4999), good[k % 4 - 1][:99], rng.bytes(99))[k // 4 % 3]
        mutated = (data[:place], flipped.tobytes(), data[:place] + middle + data[place:])[k % 3]
        (bad / f"{k}.{suffixes[k % 4 - (k % 5 == 0)]}").write_bytes(mutated)
    (bad / os.fsdecode(b"caf\xe9.wav")).write_bytes(good[0])
    (bad / "empty.wav").touch()
    (bad / "dangling.wav").symlink_to(tmp_path / "gone.wav")
    detect(bad, "--out", tmp_path / "out", code=1)
    with (tmp_path / "out" / "manifest.csv").open(newline="", errors="surrogateescape") as file:
        manifest = list(csv.DictReader(file))
    assert sorted(x["file"] for x in manifest) == sorted(map(str, bad.iterdir()))
    assert {x["status"] for x in manifest} >= {"ok", "partial", "corrupt", "empty"}
    for row in manifest:
        has_scores = row["status"] in ("ok", "partial", "silent")
        assert (int(row["windows"]) > 0) == has_scores
        # What decodes must be as long as samples that soundfile finds there, within a block.
        assert 0 < float(row["seconds"]) < 10 if has_scores else row["reason"], row


_SLOWED = """
import sys, time
import keras_birds.results.sink as sink, keras_birds.models.ensemble as ensemble
from keras_birds.cli.main import main
sink._SHARD_S = 0.15
probabilities = ensemble.Ensemble.probabilities
ensemble.Ensemble.probabilities = lambda *x: time.sleep(0.04) or probabilities(*x)
main()
"""


@pytest.mark.slow
def test_ten_kills_at_random_moments_lose_and_double_nothing(tmp_path, write_tone):
    rng, log = np.random.default_rng(), tmp_path / "log.txt"  # other moments every time
    model = write_constant_model(tmp_path / "model.onnx", [0.5, -0.5, -3.0, 2.0])
    for k in range(150):
        write_tone(f"disk/{k:03d}.flac", TONES_HZ[k % 4], seconds=float(3 + k % 17))
    (tmp_path / "disk" / "bad.flac").write_text("no audio")
    command = [sys.executable, "-c", _SLOWED, "detect", "disk", "--model", model]
    command += ["--overlap", "1", "--keep-scores", "--out"]

    def start(out):
        with log.open("wb") as stderr:
            return subprocess.Popen([*command, out], cwd=tmp_path, stderr=stderr)

    assert start("whole").wait(200) == 1
    killed = 0
    for _ in range(10):
        process = start("out")
        time.sleep(rng.uniform(1.0, 3.5))
        process.kill()
        killed += process.wait() < 0
    assert killed >= 5, "the work was over before it was killed"
    assert start("out").wait(200) == 1
    assert "scored before" in log.read_text()
    whole, out = tmp_path / "whole", tmp_path / "out"
    for load in (
        table_of,
        lambda x: read(x, "manifest.csv").sort_values("file", ignore_index=True),
        lambda x: pd.read_parquet(x / "scores").sort_values(["file", "start_s"], ignore_index=True),
    ):
        pd.testing.assert_frame_equal(load(out), load(whole), atol=1e-5)
    assert not [x for x in out.rglob("*") if x.name.startswith(".")]
