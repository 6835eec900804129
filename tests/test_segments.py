"""`keras-birds segments`: the right detections are picked, and the files hold their sound."""

import csv
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from placeholder import LABELS, TONES_HZ

from keras_birds.audio import reader
from keras_birds.audio.remote import file_fingerprint
from keras_birds.errors import ConfigError
from keras_birds.inference.recording_status import RecordingStatus
from keras_birds.inference.scorer import RecordingScores
from keras_birds.labels import LabelSet
from keras_birds.results.detections import DetectionRules, detection_schema
from keras_birds.results.results import Results, read_detections
from keras_birds.results.segments import SEGMENT_COLUMNS, SegmentPicker, cut_segments

FOLDERS = {
    "1139490": "1139490",
    "a/b": "a%2Fb",
    'say "who"\nnow': "say %22who%22%0Anow",
    "鳥 ñandú": "鳥 ñandú",
    "..": "%2E%2E",
}


def results_of(folder, recordings, labels=LABELS, window_s=2.0):
    """A folder of results: for each file scores `[window, label]`, everything a detection."""
    rules = DetectionRules.of(labels, 0.0)
    with Results(folder, labels, "m", rules, {"test": True}) as results:
        for file, scores in recordings.items():
            scores = np.asarray(scores, np.float32)
            start_s = np.arange(len(scores)) * window_s
            recording = status_of(file)
            channel = np.zeros(len(scores), np.int16)
            results.add(RecordingScores(recording, start_s, start_s + window_s, channel, scores))
        results.finish()
    return folder


def status_of(file):
    size, mtime_ns = file_fingerprint(file)
    return RecordingStatus(str(file), "ok", size_bytes=size, mtime_ns=mtime_ns)


def table_of(rows, file="a.wav"):
    """A table of detections; rows are (start_s, end_s, label, score) or with a channel at the end."""
    columns = ("start_s", "end_s", "label", "score", "channel")
    plain = {"file": file, "scientific_name": "", "common_name": "", "model_id": "m", "channel": 0}
    rows = [plain | dict(zip(columns, x, strict=False)) for x in rows]
    return pa.Table.from_pylist(rows, schema=detection_schema())


def picked(recordings, **options):
    """File, start and score of what is picked of `{file: rows}`."""
    picker = SegmentPicker(**options)
    for file, rows in recordings.items():
        picker.add(RecordingStatus(file, "ok"), table_of(rows, file).to_batches())
    return [(x.recording.file, x.start_s, round(x.score, 4)) for x in picker.picked()]


def many(count=300, labels=("x",), seed=0):
    """Recordings with ten windows each, scores as a model gives them: most low."""
    rng = np.random.default_rng(seed)
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


@pytest.fixture
def noise(tmp_path):
    """Writes noise, whose every part differs."""

    def write(name, seconds=20.0, rate=16_000, channels=1, subtype=None):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.random.default_rng(1).normal(0, 0.1, (round(seconds * rate), channels))
        with soundfile.SoundFile(os.fsencode(path), "w", rate, channels, subtype) as file:
            # libsndfile's Vorbis encoder crashes on very long single writes.
            for start in range(0, len(samples), rate):
                file.write(samples[start : start + rate])
        return path

    return write


def test_each_clip_holds_its_label_s_tone_as_the_recording_has_it(
    run_command, segments, placeholder_run, tmp_path
):
    rate, order = 44_100, (2, 0, 3, 1)
    t = np.arange(8 * rate) / rate
    tones = np.concatenate([0.5 * np.sin(2 * np.pi * TONES_HZ[k] * t) for k in order])
    samples = np.stack([tones, tones], axis=1) + np.random.default_rng(0).normal(0, 0.005, (len(tones), 2))
    recording = tmp_path / "disk" / "P1_20250601_053000.flac"
    recording.parent.mkdir()
    soundfile.write(recording, samples, rate)
    native, _ = soundfile.read(recording, dtype="int16")
    arguments = ("detect", recording.parent, "--model", placeholder_run, "--threshold", 0, "--top-k", 1)
    assert run_command(*arguments, "--out", tmp_path / "results")[0] == 0

    clips = tmp_path / "clips"
    out, err = segments(tmp_path / "results", "--out", clips, "--seconds", 1.5)
    assert (out, err) == (f"{clips / 'segments.csv'}\n", f"16 clips of 4 labels: {clips}\n")
    rows = read(clips)
    assert tuple(rows[0]) == SEGMENT_COLUMNS
    assert [x["label"] for x in rows] == sorted(x["label"] for x in rows)
    for row in rows:
        label = LABELS.index(row["label"])
        item = LABELS.items[label]
        start, end_s = row["start_s"].removesuffix(".0"), float(row["end_s"])
        assert 8 * order.index(label) <= float(start) < 8 * order.index(label) + 8
        begin_s, stop_s = float(row["clip_start_s"]), float(row["clip_end_s"])
        assert begin_s + stop_s == pytest.approx(float(start) + end_s)
        assert (
            row
            | {
                "clip": f"{item.name}/{float(row['score']):.3f}_P1_20250601_053000_{start}s.flac",
                "scientific_name": item.scientific_name,
                "common_name": item.common_name,
                **{"file": str(recording), "channel": "0", "review": ""},
            }
            == row
        )
        clip, clip_rate = soundfile.read(clips / row["clip"], dtype="int16")
        assert (clip_rate, clip.shape) == (rate, (round(1.5 * rate), 2))
        np.testing.assert_array_equal(clip, native[round(begin_s * rate) :][: len(clip)])
        power = np.abs(np.fft.rfft(clip.mean(axis=1)))
        assert np.argmax(power) / 1.5 == pytest.approx(TONES_HZ[label], abs=2)
    assert {x.relative_to(clips).as_posix() for x in clips.rglob("*.flac")} == {x["clip"] for x in rows}


def test_best_are_the_highest_scores_of_each_label_whatever_the_order():
    recordings = many(labels=("x", "y"))
    found = picked(recordings, per_label=25)
    assert found == picked(dict(reversed(recordings.items())), per_label=25)
    for label, mine in (("x", found[:25]), ("y", found[25:])):
        scores = sorted(round(p, 4) for rows in recordings.values() for _, _, x, p in rows if x == label)
        assert [x[2] for x in mine] == scores[:-26:-1]


def test_one_clip_a_spot():
    overlapping = {"a.wav": [(2.5 * k, 2.5 * k + 5, "x", 0.5 + (k % 5) / 20) for k in range(40)]}
    for pick in ("best", "random", "balanced"):
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
    for seconds, starts in ((1, [0, 3, 6]), (3, [0, 3, 6]), (5, [0, 6])):
        assert [x[1] for x in picked(touching, seconds=seconds)] == starts


def test_random_is_seeded_fair_and_no_respecter_of_scores():
    recordings, options = many(), {"pick": "random", "per_label": 600}
    found = picked(recordings, **options)
    assert found == picked(dict(reversed(recordings.items())), **options)
    assert found != picked(recordings, seed=43, **options)
    every = [p for rows in recordings.values() for *_, p in rows]
    assert len(set(found)) == 600
    assert np.mean([x[2] for x in found]) == pytest.approx(np.mean(every), abs=0.03)
    assert np.histogram([x[1] for x in found], 10, (0, 50))[0].min() > 35


def test_balanced_takes_as_many_of_each_tenth_of_the_scores():
    recordings, options = many(2000), {"pick": "balanced", "per_label": 100}
    every = np.histogram([p for rows in recordings.values() for *_, p in rows], 10, (0, 1))[0]
    assert every[0] > 50 * every[8] > 0
    found = picked(recordings, **options)
    assert found == picked(dict(reversed(recordings.items())), **options)
    counts = np.histogram([x[2] for x in found], 10, (0, 1))[0]
    # What the rare tenths lack comes from the others.
    scarce = every < counts.max()
    np.testing.assert_array_equal(counts[scarce], every[scarce])
    assert np.ptp(counts[~scarce]) <= 1
    assert counts.sum() == 100


def test_balanced_with_fewer_clips_than_tenths_spreads_them():
    recordings = {f"{k}.wav": [(0, 5, "x", (k % 10) / 10 + 0.05)] for k in range(100)}
    for per_label, expected in ((1, [5]), (2, [2, 7]), (5, [1, 3, 5, 7, 9]), (12, [*range(10), 2, 7])):
        tenths = sorted(int(x[2] * 10) for x in picked(recordings, pick="balanced", per_label=per_label))
        assert tenths == sorted(expected)
    # 0.3 and 0.7 aren't in float32 what they are in decimals; 1 is in the last tenth.
    edges = {f"{k}.wav": [(0, 5, "x", k / 10)] for k in range(1, 11)}
    assert len(picked(edges, pick="balanced", per_label=9)) == 9


def test_labels_and_the_least_score():
    rows = [(0, 5, "1139490", 0.9), (5, 10, "1139490", 0.7), (10, 15, "owl", 0.8), (15, 20, "1e5", 0.8)]
    table = table_of(rows)
    names = pa.array(["Rana Palmipes", "Rana Palmipes", "Strix", ""])
    table = table.set_column(table.schema.get_field_index("scientific_name"), "scientific_name", names)

    def found(*labels, **options):
        picker = SegmentPicker(labels=labels, **options)
        picker.add(RecordingStatus("a.wav", "ok"), table.to_batches())
        return [(x.label, x.start_s) for x in picker.picked()], picker.not_found

    assert found("1139490") == ([("1139490", 0), ("1139490", 5)], [])
    assert found("strix", "100000", "hawk") == ([("owl", 10)], ["100000", "hawk"])
    assert found("RANA PALMIPES", "1e5", min_score=0.8) == ([("1139490", 0), ("1e5", 15)], [])
    assert found(min_score=0.95) == ([], [])


@pytest.mark.parametrize("pick", ["best", "random", "balanced"])
def test_a_recording_may_come_in_pieces(pick):
    rng = np.random.default_rng(0)
    table = table_of([(2.5 * w, 2.5 * w + 5, x, rng.random()) for w in range(400) for x in ("x", "y", "z")])
    found = []
    for chunk in (7, 5000):
        picker = SegmentPicker(pick=pick, per_label=50, labels=("x", "z"))
        picker.add(RecordingStatus("a.wav", "ok"), table.to_batches(max_chunksize=chunk))
        found.append([(x.label, x.start_s, x.score) for x in picker.picked()])
    assert found[0] == found[1]
    assert len(found[0]) == 100


def test_wrong_options_are_refused(tmp_path):
    nan = float("nan")
    wrong = {
        "pick": ["worst"],
        "per_label": [0],
        "seconds": [nan, 0.09, 600.1],
        "min_score": [nan, -0.1, 1.1],
    }
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} must be .*Received: {value}"):
                SegmentPicker(**{name: value})
    with pytest.raises(ConfigError, match=r"--format must be one of flac, wav\. Received: mp3"):
        cut_segments([], tmp_path / "clips", fmt="mp3")


def test_names_that_no_file_system_takes(segments, noise, tmp_path):
    names = [
        *(b'a "b".wav', b"two\nlines.wav", "鳥 ñ.wav".encode(), b"caf\xe9.wav", b"x" * 250 + b".wav"),
        *(b"%0A.wav", b"p/same.wav", b"q/same.wav", b"q/SAME.wav"),
    ]
    files = [str(noise(os.fsdecode(x), seconds=5.0)) for x in names]
    labels = LabelSet(FOLDERS)
    scores = np.full((1, len(labels)), 0.75)
    results_of(tmp_path / "results", dict.fromkeys(files, scores), labels, window_s=5.0)
    segments(tmp_path / "results", "--out", tmp_path / "clips")
    rows = read(tmp_path / "clips")
    assert {(x["label"], x["file"]) for x in rows} == {(x, y) for x in labels for y in files}
    assert len({x["clip"].casefold() for x in rows}) == len(rows) == len(labels) * len(files)
    assert {x["label"]: x["clip"].partition("/")[0] for x in rows} == FOLDERS
    assert {x.name for x in (tmp_path / "clips").iterdir()} == {*FOLDERS.values(), "segments.csv"}
    stems = ("a %22b%22_0s", "two%0Alines_0s", "鳥 ñ_0s", "%250A_0s", "same_0s", "SAME_0s_2", "same_0s_3")
    frog = {Path(x["clip"]).name for x in rows if x["label"] == "1139490"}
    assert {f"0.750_{x}.flac" for x in stems} < frog
    assert len([x for x in frog if x.startswith("0.750_caf%")]) == 1
    assert {soundfile.info(tmp_path / "clips" / x["clip"]).frames for x in rows} == {5 * 16_000}


def test_recordings_that_are_gone_changed_or_damaged_are_named_and_the_others_go_on(
    segments, noise, tmp_path
):
    names = ("good.wav", "gone.wav", "touched.wav", "text.wav", "folder.wav", "cut.flac")
    files = {x: noise(x) for x in names}
    results_of(tmp_path / "results", {x: np.full((10, 4), 0.5) for x in files.values()})
    before = {x.name: x.read_bytes() for x in (tmp_path / "results").rglob("*") if x.is_file()}
    files["gone.wav"].unlink()
    os.utime(files["touched.wav"], ns=(1, 1))
    files["folder.wav"].unlink()
    files["folder.wav"].mkdir()
    # As a disk does with a bad sector: size and stamp stay.
    for name, kept in (("text.wav", 0), ("cut.flac", 0.25)):
        status, data = files[name].stat(), files[name].read_bytes()
        start = data[: int(kept * len(data))]
        files[name].write_bytes(start + bytes(len(data) - len(start)))
        os.utime(files[name], ns=(status.st_atime_ns, status.st_mtime_ns))

    clips = tmp_path / "clips"
    out, err = segments(tmp_path / "results", "--out", clips, "--seconds", 2, "--per-label", 60, code=1)
    *lines, summary, last = err.splitlines()
    told = {Path(x.split(": ")[1]).name: x.split(": ", 2)[2] for x in lines}
    assert set(told) == set(names) - {"good.wav"}
    assert told["gone.wav"] == "no such file (40 clips)"
    assert told["touched.wav"].startswith("has changed since it was scored: ")
    assert told["text.wav"].startswith("is not audio")
    assert told["folder.wav"].endswith("(40 clips)")
    assert told["cut.flac"].startswith("nothing decodes at ")
    rows = read(clips)
    count = Counter(Path(x["file"]).name for x in rows)
    assert count == {"good.wav": 40, "cut.flac": count["cut.flac"]}
    assert 4 <= count["cut.flac"] <= 12
    assert summary == f"{len(rows)} clips of 4 labels: {clips}"
    assert last == f"{240 - len(rows)} clips of 5 recordings failed."
    assert all((clips / x["clip"]).is_file() for x in rows)
    assert out == f"{clips / 'segments.csv'}\n"
    assert before == {x.name: x.read_bytes() for x in (tmp_path / "results").rglob("*") if x.is_file()}


def test_relative_names_need_the_folder_of_the_prediction(segments, noise, tmp_path, monkeypatch):
    noise("rec/a.wav")
    monkeypatch.chdir(tmp_path)
    results_of(tmp_path / "results", {"rec/a.wav": np.full((2, 4), 0.5)})
    segments("results", "--out", "clips")
    monkeypatch.chdir(tmp_path / "rec")
    _, err = segments("../results", "--out", "clips", code=1)
    assert "Failed: rec/a.wav: no such file: relative names count from the folder in which detect ran" in err


def test_wrong_folders_and_nothing_to_cut_are_one_line_and_change_nothing(segments, noise, tmp_path):
    file, clips = noise("a.wav"), tmp_path / "clips"
    results = results_of(tmp_path / "results", {file: np.full((2, 4), 0.5)})
    for out in (results, file):
        _, err = segments(results, "--out", out, code=2)
        assert err.startswith(f"Error: --out must be a new or an empty folder. Received: {out}, which holds")
        with pytest.raises(ConfigError):
            cut_segments([], out)
    (tmp_path / "other").mkdir()
    for folder, options, said in (
        (tmp_path / "other", (), "must be a folder that `keras-birds detect --out FOLDER` left"),
        (results, ("--min-score", 0.6), "Error: there must be detections to cut"),
        (
            results,
            ("--label", "hawk"),
            "Warning: no detection of hawk\nError: there must be detections to cut",
        ),
    ):
        assert said in segments(folder, "--out", clips, *options, code=1)[1]
    shard = results / "detections" / "000001.parquet"
    data = shard.read_bytes()
    shard.write_bytes(b"PAR1 no more")
    assert "must hold the tables that its journal names" in segments(results, "--out", clips, code=1)[1]
    shard.unlink()
    assert "wait for its end" in segments(results, "--out", clips, code=1)[1]
    assert not clips.exists()
    shard.write_bytes(data)
    clips.mkdir()
    segments(results, "--out", clips)
    assert len(read(clips)) == 4


def test_an_unfinished_folder_is_read_as_it_is_while_another_process_writes_it(tmp_path):
    out = tmp_path / "out"
    with Results(out, LABELS, "m", DetectionRules.of(LABELS), {}) as results:
        for score in (0.5, 0.75):
            zero = np.zeros(1)
            scores = np.full((1, 4), score, np.float32)
            results.add(
                RecordingScores(RecordingStatus("a.wav", "ok"), zero, zero + 2, np.int16(zero), scores)
            )
            results.flush()
        names = sorted(out.rglob("*"))
        found = [(x.file, next(rows)["score"].to_pylist()) for x, rows in read_detections(out)]
        assert found == [("a.wav", [0.75] * 4)]
        assert sorted(out.rglob("*")) == names


def cut_one(path, tmp_path, start_s=6.0, end_s=8.0, **options):
    """The clip of one detection: samples, its file, and the row of the table; or why there is none."""
    picker, problems = SegmentPicker(), []
    picker.add(status_of(path), table_of([(start_s, end_s, "x", 0.9)], str(path)).to_batches())
    out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
    cut_segments(picker.picked(), out, on_problem=lambda *x: problems.append(x), **options)
    if problems:
        return problems[0][1]
    (row,) = read(out)
    return soundfile.read(out / row["clip"], always_2d=True)[0], soundfile.info(out / row["clip"]), row


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
def test_samples_stay_as_they_are(noise, tmp_path, subtype, form, expected, error):
    path = noise("a.ogg" if subtype == "VORBIS" else "a.wav", rate=24_000, channels=2, subtype=subtype)
    whole, _ = soundfile.read(path)
    clip, info, row = cut_one(path, tmp_path, fmt=form)
    assert (info.format, info.subtype, info.samplerate, info.channels) == (form.upper(), expected, 24_000, 2)
    assert (row["clip_start_s"], row["clip_end_s"]) == ("4.5", "9.5")
    np.testing.assert_allclose(clip, whole[108_000:228_000], rtol=0, atol=1.01 * error)


def test_clips_are_shorter_at_the_ends_of_a_recording_and_flac_has_few_channels(noise, tmp_path):
    path = noise("a.flac", seconds=9.0)
    whole, _ = soundfile.read(path, always_2d=True)
    for start_s, end_s, begin_s, stop_s in ((0, 2, 0, 3.5), (7, 9, 5.5, 9), (8.5, 9, 6.25, 9)):
        clip, _, row = cut_one(path, tmp_path, start_s, end_s)
        assert (float(row["clip_start_s"]), float(row["clip_end_s"])) == (begin_s, stop_s)
        np.testing.assert_array_equal(clip, whole[round(begin_s * 16_000) : round(stop_s * 16_000)])
    np.testing.assert_array_equal(cut_one(path, tmp_path, seconds=600.0)[0], whole)
    path = noise("a.wav", channels=12)
    assert cut_one(path, tmp_path) == "12 channels at 16000 Hz can't be written as flac: pass --format wav"
    assert cut_one(path, tmp_path, fmt="wav")[1].channels == 12


def test_a_long_recording_is_sought_not_decoded(noise, tmp_path, monkeypatch):
    path = noise("a.ogg", seconds=300.0)
    whole, _ = soundfile.read(path, always_2d=True)
    decoded = []
    read_blocks = reader.Reader._raw_blocks

    def counted(self, *arguments):
        for frames in read_blocks(self, *arguments):
            decoded.append(len(frames))
            yield frames

    monkeypatch.setattr(reader.Reader, "_raw_blocks", counted)
    clip, _, _ = cut_one(path, tmp_path, 250.0, 252.0)
    assert sum(decoded) == 5 * 16_000
    np.testing.assert_allclose(clip, whole[3_976_000:4_056_000], atol=2**-16)


def test_after_ctrl_c_the_table_names_the_clips_that_are_there(noise, tmp_path):
    results = results_of(tmp_path / "results", {noise(f"{k}.wav"): np.full((4, 4), 0.5) for k in range(3)})
    picker, done = SegmentPicker(), []
    for recording, table in read_detections(results):
        picker.add(recording, table)

    def interrupt(count):
        done.append(count)
        if len(done) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_segments(picker.picked(), tmp_path / "clips", on_done=interrupt)
    rows = read(tmp_path / "clips")
    assert len(rows) == 7
    assert {tmp_path / "clips" / x["clip"] for x in rows} == set((tmp_path / "clips").rglob("*.flac"))
