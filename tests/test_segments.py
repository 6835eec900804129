"""`keras-birds segments`: the right detections are picked, and the files hold their sound."""

import csv
import os
import shutil
from collections import Counter
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from placeholder import LABELS

from keras_birds.audio import reader
from keras_birds.audio.remote import file_fingerprint
from keras_birds.errors import ConfigError
from keras_birds.inference.scorer import RecordingScores, RecordingStatus
from keras_birds.labels import Label, LabelSet
from keras_birds.results.detections import DetectionRules, detection_schema
from keras_birds.results.results import Results
from keras_birds.results.segments import PICKS, SEGMENT_COLUMNS, SegmentPicker, cut_segments


def results_of(folder, files, windows=2, score=0.5, labels=LABELS, window_s=2.0):
    """A folder of results: every label is detected in each window of each file."""
    start_s, scores = np.arange(windows) * window_s, np.full((windows, len(labels)), score, np.float32)
    with Results(folder, labels, "m", DetectionRules.of(labels, 0.0), {}) as results:
        for file in files:
            found = start_s, start_s + window_s, np.zeros(windows, np.int16), scores
            results.add(RecordingScores(status_of(file), *found))
        results.finish()
    return folder


def status_of(file):
    size, mtime_ns = file_fingerprint(file)
    return RecordingStatus(str(file), "ok", size_bytes=size, mtime_ns=mtime_ns)


def table_of(rows, file="a.wav"):
    """A table of detections; rows are (start_s, end_s, label, score), perhaps with channel and scientific name."""
    columns = ("start_s", "end_s", "label", "score", "channel", "scientific_name")
    plain = {"file": file, "scientific_name": "", "common_name": "", "model_id": "m", "channel": 0}
    rows = [plain | dict(zip(columns, x, strict=False)) for x in rows]
    return pa.Table.from_pylist(rows, schema=detection_schema())


def picked(recordings, max_chunksize=None, **options):
    """File, start and score of what is picked of `{file: rows}`."""
    picker = SegmentPicker(**options)
    for file, rows in recordings.items():
        picker.add(RecordingStatus(file, "ok"), table_of(rows, file).to_batches(max_chunksize))
    return [(x.recording.file, x.start_s, round(x.score, 4)) for x in picker.picked()]


def many(count=300, labels="x"):
    """Recordings with ten windows each, scores as a model gives them: most low."""
    rng = np.random.default_rng(0)
    return {
        f"{k}.wav": [(5.0 * w, 5.0 * w + 5, x, rng.beta(0.6, 3)) for w in range(10) for x in labels]
        for k in range(count)
    }


def read(folder):
    with (folder / "segments.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def segments(run_command):
    def call(*arguments, code=0):
        found, out, err = run_command("segments", *arguments)
        assert found == code, err
        return out, err

    return call


def test_the_table_has_a_row_for_each_clip_also_of_names_that_no_disk_takes(segments, write_tone, tmp_path):
    names = ("two\nlines.wav", "caf\udce9.wav", "%0A.wav", "p/same.wav", "q/SAME.wav", "q/same.wav")
    files, tone, clips = [str(tmp_path / x) for x in names], write_tone("tone.wav"), tmp_path / "clips"
    for file in files:
        Path(file).parent.mkdir(exist_ok=True)
        shutil.copy(tone, file)
    frog = Label("1139490", "Lithobates palmipes", "Amazon River Frog")
    labels = LabelSet([frog, Label('a/"b"\n'), Label("..")])
    results_of(tmp_path / "results", files, 1, 0.75, labels, window_s=5.0)
    printed = segments(tmp_path / "results", "--out", clips, "--seconds", 3, "--format", "wav")
    assert printed == (f"{clips / 'segments.csv'}\n", f"18 clips of 3 labels: {clips}\n")
    stems = ("two%0Alines_0s", "caf%ED%B3%A9_0s", "%250A_0s", "same_0s", "SAME_0s_2", "same_0s_3")
    rows = read(clips)
    assert {(x["clip"], x["file"]) for x in rows} == {
        (f"{folder}/0.750_{stem}.wav", file)
        for folder in ("1139490", "a%2F%22b%22%0A", "%2E%2E")
        for stem, file in zip(stems, files, strict=True)
    }
    assert [x["label"] for x in rows] == [x for x in sorted(labels) for _ in files]
    about = ("1139490/0.750_%250A_0s.wav", *astuple(frog)[:3], "0.75", str(tmp_path / "%0A.wav"), "0")
    assert rows[6] == dict(zip(SEGMENT_COLUMNS, (*about, "0.0", "5.0", "1.0", "4.0", ""), strict=True))
    assert {soundfile.info(clips / x["clip"]).frames for x in rows} == {3 * 32_000}


def test_one_clip_a_spot():
    overlapping = {"a.wav": [(2.5 * k, 2.5 * k + 5, "x", 0.5 + (k % 5) / 20) for k in range(40)]}
    for pick in PICKS:
        starts = sorted(x[1] for x in picked(overlapping, pick=pick, per_label=100))
        assert np.diff(starts).min() >= 5
        assert len(starts) >= 14
    # The best of the overlapping ones are never lost to a neighbour.
    assert {10.0 + 12.5 * k for k in range(8)} <= {x[1] for x in picked(overlapping)}
    # Other labels and recordings have spots of their own; channels haven't.
    rows = [(0, 5, "x", 0.9, 1), (0, 5, "x", 0.8, 2), (0, 5, "y", 0.7, 2)]
    assert len(picked({"a.wav": rows, "b.wav": rows})) == 4
    # Windows that touch are two spots, unless their clips would overlap.
    touching = {"a.wav": [(0, 3, "x", 0.9), (3, 6, "x", 0.8), (6, 9, "x", 0.7)]}
    for seconds, starts in ((3, [0, 3, 6]), (5, [0, 6])):
        assert [x[1] for x in picked(touching, seconds=seconds)] == starts


@pytest.mark.parametrize("pick", PICKS)
def test_neither_the_order_of_recordings_nor_their_pieces_count(pick):
    rng = np.random.default_rng(0)
    rows = [(2.5 * w, 2.5 * w + 5, x, rng.random()) for w in range(400) for x in ("x", "y", "z")]
    recordings = many(300, "xz") | {"a.wav": rows}
    options = {"pick": pick, "per_label": 50, "labels": ("x", "z")}
    found = picked(recordings, **options)
    assert len(found) == 100
    assert picked(dict(reversed(recordings.items())), 7, **options) == found


def test_best_are_the_highest_scores_and_random_is_seeded_fair_and_no_respecter_of_scores():
    recordings, options = many(), {"pick": "random", "per_label": 600}
    every = [p for rows in recordings.values() for *_, p in rows]
    highest = sorted((round(x, 4) for x in every), reverse=True)[:25]
    assert [x[2] for x in picked(recordings, per_label=25)] == highest
    found = picked(recordings, **options)
    assert found != picked(recordings, seed=43, **options)
    assert len(set(found)) == 600
    assert np.mean([x[2] for x in found]) == pytest.approx(np.mean(every), abs=0.03)
    assert np.histogram([x[1] for x in found], 10, (0, 50))[0].min() > 35


def test_balanced_takes_as_many_of_each_tenth_of_the_scores():
    recordings = many(2000)
    every = np.histogram([p for rows in recordings.values() for *_, p in rows], 10, (0, 1))[0]
    assert every[0] > 50 * every[8] > 0
    found = picked(recordings, pick="balanced", per_label=100)
    counts = np.histogram([x[2] for x in found], 10, (0, 1))[0]
    # What the rare tenths lack comes from the others.
    scarce = every < counts.max()
    np.testing.assert_array_equal(counts[scarce], every[scarce])
    assert np.ptp(counts[~scarce]) <= 1
    assert counts.sum() == 100
    recordings = {f"{k}.wav": [(0, 5, "x", (k % 10) / 10 + 0.05)] for k in range(100)}
    for per_label, expected in ((1, [5]), (2, [2, 7]), (5, [1, 3, 5, 7, 9]), (12, [*range(10), 2, 7])):
        tenths = sorted(int(x[2] * 10) for x in picked(recordings, pick="balanced", per_label=per_label))
        assert tenths == sorted(expected)
    # 0.3 and 0.7 aren't in float32 what they are in decimals; 1 is in the last tenth.
    edges = {f"{k}.wav": [(0, 5, "x", k / 10)] for k in range(1, 11)}
    assert len(picked(edges, pick="balanced", per_label=9)) == 9


def test_labels_and_the_least_score_and_wrong_options(tmp_path):
    frog, named = "1139490", (0, "Rana Palmipes")
    rows = [(0, 5, frog, 0.9, *named), (5, 10, frog, 0.7, *named), (10, 15, "owl", 0.8, 0, "Strix")]
    table = table_of([*rows, (15, 20, "1e5", 0.8)])

    def found(*labels, **options):
        picker = SegmentPicker(labels=labels, **options)
        picker.add(RecordingStatus("a.wav", "ok"), table.to_batches())
        return [(x.label, x.start_s) for x in picker.picked()], picker.not_found

    assert found("1139490") == ([(frog, 0), (frog, 5)], [])
    assert found("strix", "100000", "hawk") == ([("owl", 10)], ["100000", "hawk"])
    assert found("RANA PALMIPES", "1e5", min_score=0.8) == ([(frog, 0), ("1e5", 15)], [])
    assert found(min_score=0.95) == ([], [])
    nan, wrong = float("nan"), {"pick": ["worst"], "per_label": [0]}
    for name, values in (wrong | {"seconds": [nan, 0.09, 600.1], "min_score": [nan, -0.1, 1.1]}).items():
        for value in values:
            with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} must be .*Received: {value}"):
                SegmentPicker(**{name: value})
    with pytest.raises(ConfigError, match=r"--format must be one of flac, wav\. Received: mp3"):
        cut_segments([], tmp_path / "clips", fmt="mp3")


def test_recordings_gone_changed_or_damaged_are_named_and_others_go_on(segments, write_tone, tmp_path):
    names = ("good.wav", "gone.wav", "touched.wav", "text.wav", "folder.wav", "cut.flac")
    files, clips = {x: write_tone(x, seconds=20) for x in names}, tmp_path / "clips"
    results_of(tmp_path / "results", files.values(), 10)
    for name in ("gone.wav", "folder.wav"):
        files[name].unlink()
    files["folder.wav"].mkdir()
    os.utime(files["touched.wav"], ns=(1, 1))
    # As a disk does with a bad sector: size and stamp stay.
    for name, kept in (("text.wav", 0), ("cut.flac", 0.25)):
        status, data = files[name].stat(), files[name].read_bytes()
        files[name].write_bytes(data[: int(kept * len(data))].ljust(len(data), b"\0"))
        os.utime(files[name], ns=(status.st_atime_ns, status.st_mtime_ns))
    out, err = segments(tmp_path / "results", "--out", clips, "--seconds", 2, "--per-label", 60, code=1)
    *lines, summary, last = err.splitlines()
    told = {Path(x.split(": ")[1]).name: x.split(": ", 2)[2] for x in lines}
    assert set(told) == set(names) - {"good.wav"}
    assert (told["gone.wav"], told["folder.wav"][-10:]) == ("no such file (40 clips)", "(40 clips)")
    assert told["touched.wav"].startswith("has changed since it was scored: ")
    assert told["text.wav"].startswith("is not audio")
    assert told["cut.flac"].startswith("nothing decodes at ")
    rows = read(clips)
    count = Counter(Path(x["file"]).name for x in rows)
    assert count == {"good.wav": 40, "cut.flac": count["cut.flac"]}
    assert 4 <= count["cut.flac"] <= 12
    assert summary == f"{len(rows)} clips of 4 labels: {clips}"
    assert last == f"{240 - len(rows)} clips of 5 recordings failed."
    assert all((clips / x["clip"]).is_file() for x in rows)
    assert out == f"{clips / 'segments.csv'}\n"


def test_wrong_folders_and_nothing_to_cut_change_nothing(segments, write_tone, tmp_path, monkeypatch):
    file, clips = write_tone("rec/a.wav"), tmp_path / "clips"
    monkeypatch.chdir(tmp_path)
    results = results_of(tmp_path / "results", ["rec/a.wav"])
    before = {x: x.read_bytes() for x in results.rglob("*") if x.is_file()}
    for out in (results, file):
        _, err = segments(results, "--out", out, code=2)
        assert err.startswith(f"Error: --out must be a new or an empty folder. Received: {out}, which holds")
        with pytest.raises(ConfigError):
            cut_segments([], out)
    nothing = "Error: there must be detections to cut"
    for folder, options, said in (
        (file.parent, (), "must be a folder that `keras-birds detect --out FOLDER` left"),
        (results, ("--min-score", 0.6), nothing),
        (results, ("--label", "hawk"), f"Warning: no detection of hawk\n{nothing}"),
    ):
        assert said in segments(folder, "--out", clips, *options, code=1)[1]
    shard = results / "detections" / "000001.parquet"
    shard.write_bytes(b"PAR1 no more")
    assert "must hold the shards that its journal names" in segments(results, "--out", clips, code=1)[1]
    shard.unlink()
    assert "wait for its end" in segments(results, "--out", clips, code=1)[1]
    assert not clips.exists()
    shard.write_bytes(before[shard])
    clips.mkdir()
    segments(results, "--out", clips)
    assert len(read(clips)) == 4
    monkeypatch.chdir(file.parent)
    _, err = segments(results, "--out", "clips", code=1)
    assert (
        "Failed: rec/a.wav: no such file: relative names count from the folder in which `keras-birds` ran"
        in err
    )
    assert before == {x: x.read_bytes() for x in results.rglob("*") if x.is_file()}


def cut_one(path, tmp_path, start_s=6.0, end_s=8.0, **options):
    """The clip of one detection: samples, its file, and its begin and end in the table; or why there is none."""
    picker, problems = SegmentPicker(), []
    picker.add(status_of(path), table_of([(start_s, end_s, "x", 0.9)], str(path)).to_batches())
    out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
    cut_segments(picker.picked(), out, on_problem=lambda *x: problems.append(x), **options)
    if problems:
        return problems[0][1]
    (row,) = read(out)
    clip = out / row["clip"]
    span_s = float(row["clip_start_s"]), float(row["clip_end_s"])
    return soundfile.read(clip, always_2d=True)[0], soundfile.info(clip), span_s


@pytest.mark.parametrize(
    ("subtype", "form", "expected", "error"),
    [
        ("PCM_16", "flac", "PCM_16", 0),
        ("PCM_24", "flac", "PCM_24", 0),
        ("FLOAT", "flac", "PCM_24", 2**-24),
        ("FLOAT", "wav", "FLOAT", 0),
        ("PCM_U8", "flac", "PCM_16", 0),
        ("VORBIS", "flac", "PCM_16", 2**-16),
    ],
)
def test_samples_stay_and_are_sought(tmp_path, monkeypatch, subtype, form, expected, error):
    path, decoded = tmp_path / ("a.ogg" if subtype == "VORBIS" else "a.wav"), []
    soundfile.write(path, np.random.default_rng(1).normal(0, 0.1, (24_000 * 12, 2)), 24_000, subtype)
    whole, _ = soundfile.read(path)
    read_blocks = reader.Reader._raw_blocks

    def counted(self, *arguments):
        for frames in read_blocks(self, *arguments):
            decoded.append(len(frames))
            yield frames

    monkeypatch.setattr(reader.Reader, "_raw_blocks", counted)
    clip, info, span_s = cut_one(path, tmp_path, fmt=form)
    assert (info.format, info.subtype, info.samplerate, info.channels) == (form.upper(), expected, 24_000, 2)
    assert span_s == (4.5, 9.5)
    np.testing.assert_allclose(clip, whole[108_000:228_000], rtol=0, atol=1.01 * error)
    assert sum(decoded) == 5 * 24_000


def test_clips_are_shorter_at_the_ends_of_a_recording_and_flac_has_few_channels(write_tone, tmp_path):
    path = write_tone("a.flac", seconds=9.0)
    whole, _ = soundfile.read(path, always_2d=True)
    for start_s, end_s, *span_s in ((0, 2, 0, 3.5), (7, 9, 5.5, 9), (8.5, 9, 6.25, 9)):
        clip, _, found_s = cut_one(path, tmp_path, start_s, end_s)
        assert found_s == tuple(span_s)
        np.testing.assert_array_equal(clip, whole[slice(*(round(x * 32_000) for x in span_s))])
    np.testing.assert_array_equal(cut_one(path, tmp_path, seconds=600.0)[0], whole)
    path = write_tone("a.wav", seconds=9.0, channels=12)
    assert cut_one(path, tmp_path) == "12 channels at 32000 Hz can't be written as flac: pass --format wav"
    assert cut_one(path, tmp_path, fmt="wav")[1].channels == 12


def test_after_ctrl_c_the_table_names_the_clips_that_are_there(write_tone, tmp_path):
    picker, clips, path = SegmentPicker(), tmp_path / "clips", write_tone("a.wav")
    picker.add(status_of(path), table_of([(0, 1, x, 0.9) for x in "wxyz"], str(path)).to_batches())

    def interrupt(_):
        if len(list(clips.rglob("*.flac"))) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_segments(picker.picked(), clips, on_done=interrupt)
    assert [x["clip"] for x in read(clips)] == ["w/0.900_a_0s.flac", "x/0.900_a_0s.flac"]
