"""`keras-birds segments`: the right detections are picked, and the files hold their sound."""

import csv
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from placeholder import LABELS, TONES_HZ

from keras_birds.audio import reader
from keras_birds.audio.remote import file_fingerprint
from keras_birds.errors import ConfigError, DataError
from keras_birds.inference.recording_status import RecordingStatus
from keras_birds.inference.scorer import RecordingScores
from keras_birds.labels import Label, LabelSet
from keras_birds.results.detections import DetectionRules, detection_schema
from keras_birds.results.results import Results, read_detections
from keras_birds.results.segments import SEGMENT_COLUMNS, SegmentPicker, check_new_folder, cut_segments

ODD = LabelSet(
    [
        Label("1139490", "Lithobates palmipes", "Amazon River Frog"),
        Label("a/b"),
        Label('say "who"\nnow', "Quis quis", "Who, who?"),
        Label("鳥 ñandú"),
        Label(".."),
        Label("1e5"),
    ]
)


def results_of(folder, recordings, labels=LABELS, window_s=2.0, hop_s=None):
    """A folder of results: for each file scores `[window, label]`, everything a detection."""
    rules = DetectionRules.of(labels, 0.0)
    with Results(folder, labels, "m", rules, {"test": True}) as results:
        for file, scores in recordings.items():
            scores = np.asarray(scores, np.float32)
            start_s = np.arange(len(scores)) * (hop_s or window_s)
            size, mtime_ns = file_fingerprint(file)
            recording = RecordingStatus(str(file), "ok", size_bytes=size, mtime_ns=mtime_ns)
            channel = np.zeros(len(scores), np.int16)
            results.add(RecordingScores(recording, start_s, start_s + window_s, channel, scores))
        results.finish()
    return folder


def table_of(rows, file="a.wav"):
    """A table of detections; rows are (start_s, end_s, label, score) or with a channel at the end."""
    plain = {"file": file, "scientific_name": "", "common_name": "", "model_id": "m"}
    return pa.Table.from_pylist(
        [
            {**plain, "start_s": a, "end_s": b, "label": x, "score": p, "channel": c[0] if c else 0}
            for a, b, x, p, *c in rows
        ],
        schema=detection_schema(),
    )


def picked(recordings, **options):
    """File, start and score of what is picked of `{file: rows}`."""
    picker = SegmentPicker(**options)
    for file, rows in recordings.items():
        picker.add(RecordingStatus(file, "ok"), table_of(rows, file))
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


def loudest_hz(samples, rate_hz):
    power = np.abs(np.fft.rfft(samples.mean(axis=1))) ** 2
    return np.argmax(power) * rate_hz / len(samples)


@pytest.fixture
def segments(run_command):
    def call(*arguments, code=0):
        found, out, err = run_command("segments", *arguments)
        assert found == code, err
        return out, err

    return call


@pytest.fixture
def noise(tmp_path):
    """Writes noise, whose every part differs: `noise("a.wav", seconds=20, rate=16000, channels=1, subtype=None)`."""

    def write(name, seconds=20.0, rate=16_000, channels=1, subtype=None):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.random.default_rng(1).normal(0, 0.1, (round(seconds * rate), channels))
        with soundfile.SoundFile(path, "w", rate, channels, subtype) as file:
            # libsndfile's Vorbis encoder crashes on very long single writes.
            for start in range(0, len(samples), rate):
                file.write(samples[start : start + rate])
        return path

    return write


def test_each_clip_holds_its_label_s_tone_as_the_recording_has_it(
    run_command, segments, placeholder_run, tmp_path
):
    rate, t = 44_100, np.arange(8 * 44_100) / 44_100
    order = (2, 0, 3, 1)
    rng = np.random.default_rng(0)
    tones = np.concatenate([0.5 * np.sin(2 * np.pi * TONES_HZ[k] * t) for k in order])
    samples = np.stack([tones, tones], axis=1) + rng.normal(0, 0.005, (len(tones), 2))
    recording = tmp_path / "disk" / "P1_20250601_053000.flac"
    recording.parent.mkdir()
    soundfile.write(recording, samples, rate)
    native, _ = soundfile.read(recording, dtype="int16")
    arguments = ("detect", recording.parent, "--model", placeholder_run, "--threshold", 0, "--top-k", 1)
    assert run_command(*arguments, "--out", tmp_path / "results")[0] == 0

    out, err = segments(tmp_path / "results", "--out", tmp_path / "clips", "--seconds", 1.5)
    assert out == f"{tmp_path / 'clips' / 'segments.csv'}\n"
    assert err == f"16 clips of 4 labels: {tmp_path / 'clips'}\n"
    rows = read(tmp_path / "clips")
    assert tuple(rows[0]) == SEGMENT_COLUMNS
    assert [x["label"] for x in rows] == sorted(x["label"] for x in rows)
    for row in rows:
        label = LABELS.index(row["label"])
        item = LABELS.items[label]
        assert (row["scientific_name"], row["common_name"]) == (item.scientific_name, item.common_name)
        assert (row["file"], row["channel"], row["review"]) == (str(recording), "0", "")
        assert 8 * order.index(label) <= float(row["start_s"]) < 8 * order.index(label) + 8
        begin_s, end_s = float(row["clip_start_s"]), float(row["clip_end_s"])
        assert (begin_s + end_s) / 2 == pytest.approx((float(row["start_s"]) + float(row["end_s"])) / 2)
        start = row["start_s"].removesuffix(".0")
        name = f"{row['label']}/{float(row['score']):.3f}_P1_20250601_053000_{start}s.flac"
        assert row["clip"] == name
        clip, clip_rate = soundfile.read(tmp_path / "clips" / name, dtype="int16")
        assert (clip_rate, clip.shape) == (rate, (round(1.5 * rate), 2))
        np.testing.assert_array_equal(clip, native[round(begin_s * rate) :][: len(clip)])
        assert loudest_hz(clip.astype(float), rate) == pytest.approx(TONES_HZ[label], abs=2)
    files = {x.relative_to(tmp_path / "clips").as_posix() for x in (tmp_path / "clips").rglob("*.flac")}
    assert files == {x["clip"] for x in rows}


def test_best_are_the_highest_scores_of_each_label_whatever_the_order():
    recordings = many(labels=("x", "y"))
    found = picked(recordings, per_label=25)
    assert found == picked(dict(reversed(recordings.items())), per_label=25)
    for label, mine in (("x", found[:25]), ("y", found[25:])):
        scores = sorted((round(p, 4) for rows in recordings.values() for _, _, x, p in rows if x == label))
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
    assert [x[1] for x in picked(touching, seconds=3)] == [0, 3, 6]
    assert [x[1] for x in picked(touching, seconds=1)] == [0, 3, 6]
    assert [x[1] for x in picked(touching, seconds=5)] == [0, 6]


def test_random_is_seeded_fair_and_no_respecter_of_scores():
    recordings = many()
    found = picked(recordings, pick="random", per_label=600)
    assert found == picked(dict(reversed(recordings.items())), pick="random", per_label=600)
    assert found != picked(recordings, pick="random", per_label=600, seed=43)
    every = [p for rows in recordings.values() for *_, p in rows]
    scores = np.array([x[2] for x in found])
    assert len(set(found)) == 600
    assert scores.mean() == pytest.approx(np.mean(every), abs=0.03)
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
    assert found == picked(dict(reversed(recordings.items())), pick="balanced", per_label=100)


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
        picker.add(RecordingStatus("a.wav", "ok"), table)
        return [(x.label, x.start_s) for x in picker.picked()], picker.not_found

    assert found("1139490") == ([("1139490", 0), ("1139490", 5)], [])
    assert found("strix", "100000", "hawk") == ([("owl", 10)], ["100000", "hawk"])
    assert found("RANA PALMIPES", "1e5", min_score=0.8) == ([("1139490", 0), ("1e5", 15)], [])
    assert found(min_score=0.95) == ([], [])


@pytest.mark.parametrize("pick", ["best", "random", "balanced"])
def test_a_recording_may_come_in_pieces(pick):
    rng = np.random.default_rng(0)
    rows = [(2.5 * w, 2.5 * w + 5, x, rng.random()) for w in range(400) for x in ("x", "y", "z")]
    table = table_of(rows)

    def found(chunk):
        picker = SegmentPicker(pick=pick, per_label=50, labels=("x", "z"))
        pieces = pa.Table.from_batches(table.to_batches(max_chunksize=chunk))
        picker.add(RecordingStatus("a.wav", "ok"), pieces)
        return [(x.label, x.start_s, x.score) for x in picker.picked()]

    assert found(7) == found(5000)
    assert len(found(7)) == 100


@pytest.mark.parametrize(
    "wrong",
    [
        {"pick": "worst"},
        {"per_label": 0},
        {"seconds": float("nan")},
        {"seconds": 601.0},
        {"min_score": float("nan")},
        {"min_score": 1.5},
    ],
    ids=str,
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ConfigError, match="Received: "):
        SegmentPicker(**wrong)


def test_names_that_no_file_system_takes(segments, noise, tmp_path):
    folder = os.fsencode(tmp_path)
    names = [
        b'a "b".wav',
        b"two\nlines.wav",
        "鳥 ñ.wav".encode(),
        b"caf\xe9.wav",
        b"x" * 250 + b".wav",
        b"%0A.wav",
    ]
    files = []
    for name in names:
        path = folder + b"/rec/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        os.replace(noise("plain.wav"), path)  # noqa: PTH105
        files.append(os.fsdecode(path))
    for place in ("p/same.wav", "q/same.wav", "q/SAME.wav"):
        files.append(str(noise(place)))
    scores = np.full((1, len(ODD)), 0.75)
    results_of(tmp_path / "results", dict.fromkeys(files, scores), ODD, window_s=5.0)
    segments(tmp_path / "results", "--out", tmp_path / "clips")
    rows = read(tmp_path / "clips")
    assert len(rows) == len(ODD) * len(files)
    assert {x["label"] for x in rows} == set(ODD)
    assert {x["file"] for x in rows} == set(files)
    assert len({x["clip"].casefold() for x in rows}) == len(rows)
    folders = {x["label"]: x["clip"].partition("/")[0] for x in rows}
    assert folders == {
        "1139490": "1139490",
        "a/b": "a%2Fb",
        'say "who"\nnow': "say %22who%22%0Anow",
        "鳥 ñandú": "鳥 ñandú",
        "..": "%2E%2E",
        "1e5": "1e5",
    }
    assert {x.name for x in (tmp_path / "clips").iterdir()} == {*folders.values(), "segments.csv"}
    frog = {Path(x["clip"]).name for x in rows if x["label"] == "1139490"}
    assert {
        "0.750_a %22b%22_0s.flac",
        "0.750_two%0Alines_0s.flac",
        "0.750_鳥 ñ_0s.flac",
        "0.750_%250A_0s.flac",
    } < frog
    assert len([x for x in frog if x.startswith("0.750_caf%")]) == 1
    assert {"0.750_same_0s.flac", "0.750_SAME_0s_2.flac", "0.750_same_0s_3.flac"} < frog
    for row in rows:
        assert soundfile.info(tmp_path / "clips" / row["clip"]).frames == 5 * 16_000


def test_recordings_that_are_gone_changed_or_damaged_are_named_and_the_others_go_on(
    segments, noise, tmp_path, monkeypatch
):
    names = ("good.wav", "gone.wav", "touched.wav", "text.wav", "folder.wav", "cut.flac")
    files = {x: noise(x) for x in names}
    results_of(tmp_path / "results", {x: np.full((10, 4), 0.5) for x in files.values()})
    before = {x.name: x.read_bytes() for x in (tmp_path / "results").rglob("*") if x.is_file()}
    files["gone.wav"].unlink()
    os.utime(files["touched.wav"], ns=(1, 1))
    status = files["text.wav"].stat()
    files["text.wav"].write_bytes(b"no audio " * (status.st_size // 9) + b"." * (status.st_size % 9))
    os.utime(files["text.wav"], ns=(status.st_atime_ns, status.st_mtime_ns))
    files["folder.wav"].unlink()
    files["folder.wav"].mkdir()
    # As a disk does with a bad sector: the header and the stamp stay.
    status, data = files["cut.flac"].stat(), files["cut.flac"].read_bytes()
    files["cut.flac"].write_bytes(data[: len(data) // 4] + bytes(len(data) - len(data) // 4))
    os.utime(files["cut.flac"], ns=(status.st_atime_ns, status.st_mtime_ns))

    out, err = segments(
        tmp_path / "results", "--out", tmp_path / "clips", "--seconds", 2, "--per-label", 60, code=1
    )
    *lines, summary, last = err.splitlines()
    told = {Path(x.split(": ")[1]).name: x.split(": ", 2)[2] for x in lines}
    assert told["gone.wav"] == "no such file (40 clips)"
    assert told["touched.wav"].startswith("has changed since it was scored: ")
    assert told["text.wav"] == "is not audio (40 clips)"
    assert told["folder.wav"].endswith("(40 clips)")
    assert told["cut.flac"].startswith("nothing decodes at ")
    assert set(told) == set(names) - {"good.wav"}
    rows = read(tmp_path / "clips")
    count = {x: sum(Path(r["file"]).name == x for r in rows) for x in names}
    assert count["good.wav"] == 40
    assert 4 <= count["cut.flac"] <= 12
    assert count["good.wav"] + count["cut.flac"] == len(rows)
    assert summary == f"{len(rows)} clips of 4 labels: {tmp_path / 'clips'}"
    assert last == f"{240 - len(rows)} clips of 5 recordings failed."
    assert all((tmp_path / "clips" / x["clip"]).is_file() for x in rows)
    assert out == f"{tmp_path / 'clips' / 'segments.csv'}\n"
    assert before == {x.name: x.read_bytes() for x in (tmp_path / "results").rglob("*") if x.is_file()}


def test_relative_names_need_the_folder_of_the_prediction(segments, noise, tmp_path, monkeypatch):
    noise("rec/a.wav")
    monkeypatch.chdir(tmp_path)
    results_of(tmp_path / "results", {"rec/a.wav": np.full((2, 4), 0.5)})
    segments("results", "--out", "clips")
    monkeypatch.chdir(tmp_path / "rec")
    _, err = segments("../results", "--out", "clips", code=1)
    assert "Failed: rec/a.wav: no such file: relative names count from the folder in which detect ran" in err


def test_an_out_that_holds_something_is_left_alone(segments, noise, tmp_path):
    results_of(tmp_path / "results", {noise("a.wav"): np.full((2, 4), 0.5)})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    for out in (tmp_path / "full", tmp_path / "a.wav", tmp_path / "results"):
        _, err = segments(tmp_path / "results", "--out", out, code=2)
        assert err.startswith("Error: --out must be a new or an empty folder. Received: ")
    assert [x.name for x in (tmp_path / "full").iterdir()] == ["note.txt"]
    (tmp_path / "empty").mkdir()
    segments(tmp_path / "results", "--out", tmp_path / "empty")
    with pytest.raises(ConfigError):
        check_new_folder(tmp_path / "empty")
    with pytest.raises(ConfigError):
        cut_segments([], tmp_path / "empty")


def test_what_is_no_folder_of_results_or_has_nothing_to_cut_is_one_line(segments, noise, tmp_path):
    out = ("--out", tmp_path / "clips")
    (tmp_path / "other").mkdir()
    _, err = segments(tmp_path / "other", *out, code=1)
    assert "must be a folder that `keras-birds detect --out FOLDER` left" in err
    results = results_of(tmp_path / "results", {noise("a.wav"): np.full((2, 4), 0.5)})
    _, err = segments(results, *out, "--min-score", 0.6, code=1)
    assert "there must be detections to cut" in err
    _, err = segments(results, *out, "--label", "hawk", code=1)
    assert err.startswith("Warning: no detection of hawk\nError: there must be detections to cut")
    (results / "detections" / "000001.parquet").write_bytes(b"PAR1 no more")
    _, err = segments(results, *out, code=1)
    assert "must hold the tables that its journal names" in err
    (results / "detections" / "000001.parquet").unlink()
    _, err = segments(results, *out, code=1)
    assert "wait for its end" in err
    assert not (tmp_path / "clips").exists()


def test_an_unfinished_folder_is_read_as_it_is_while_another_process_writes_it(noise, tmp_path):
    file = str(noise("a.wav"))

    def found(score, mtime_ns):
        recording = RecordingStatus(file, "ok", size_bytes=1, mtime_ns=mtime_ns)
        start_s = np.array([0.0])
        scores = np.full((1, 4), score, np.float32)
        return RecordingScores(recording, start_s, start_s + 2, np.zeros(1, np.int16), scores)

    with Results(tmp_path / "out", LABELS, "m", DetectionRules.of(LABELS), {}) as results:
        results.add(found(0.5, 1))
        results.flush()
        results.add(found(0.75, 2))
        results.flush()
        names = sorted(x.name for x in (tmp_path / "out").rglob("*"))
        ((recording, scores),) = (
            (x, rows.to_table()["score"].to_pylist()) for x, rows in read_detections(tmp_path / "out")
        )
        assert (recording.file, scores) == (file, [0.75] * 4)
        assert sorted(x.name for x in (tmp_path / "out").rglob("*")) == names
    with pytest.raises(DataError):
        list(read_detections(tmp_path / "none"))


def cut_one(path, tmp_path, start_s=6.0, end_s=8.0, **options):
    """The clip of one detection: samples, its file, and the row of the table."""
    picker = SegmentPicker()
    size, mtime_ns = file_fingerprint(path)
    recording = RecordingStatus(str(path), "ok", size_bytes=size, mtime_ns=mtime_ns)
    picker.add(recording, table_of([(start_s, end_s, "x", 0.9)], str(path)))
    out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
    problems = []
    cut_segments(picker.picked(), out, on_problem=lambda *x: problems.append(x), **options)
    rows = read(out)
    if not rows:
        return problems[0][1]
    clip = out / rows[0]["clip"]
    return soundfile.read(clip, always_2d=True)[0], soundfile.info(clip), rows[0]


@pytest.mark.parametrize(
    ("name", "subtype", "form", "expected"),
    [
        ("a.wav", "PCM_16", "flac", "PCM_16"),
        ("a.wav", "PCM_24", "flac", "PCM_24"),
        ("a.wav", "FLOAT", "flac", "PCM_24"),
        ("a.wav", "FLOAT", "wav", "FLOAT"),
        ("a.wav", "PCM_U8", "flac", "PCM_16"),
        ("a.ogg", "VORBIS", "flac", "PCM_16"),
    ],
)
def test_samples_stay_as_they_are(noise, tmp_path, name, subtype, form, expected):
    path = noise(name, rate=24_000, channels=2, subtype=subtype)
    whole, _ = soundfile.read(path)
    clip, info, row = cut_one(path, tmp_path, fmt=form)
    assert (info.format, info.subtype, info.samplerate, info.channels) == (form.upper(), expected, 24_000, 2)
    assert (row["clip_start_s"], row["clip_end_s"]) == ("4.5", "9.5")
    step = {"PCM_16": 2**-16, "PCM_24": 2**-24, "FLOAT": 1e-7}[expected]
    is_exact = subtype in ("PCM_16", "PCM_24", "PCM_U8", "FLOAT") and (subtype, form) != ("FLOAT", "flac")
    np.testing.assert_allclose(clip, whole[108_000:228_000], rtol=0, atol=0 if is_exact else 1.01 * step)


def test_clips_are_shorter_at_the_ends_of_a_recording(noise, tmp_path):
    path = noise("a.flac", seconds=9.0)
    whole, _ = soundfile.read(path, always_2d=True)
    for start_s, end_s, begin_s, stop_s in ((0, 2, 0, 3.5), (7, 9, 5.5, 9), (8.5, 9, 6.25, 9)):
        clip, _, row = cut_one(path, tmp_path, start_s, end_s)
        assert (float(row["clip_start_s"]), float(row["clip_end_s"])) == (begin_s, stop_s)
        np.testing.assert_array_equal(clip, whole[round(begin_s * 16_000) : round(stop_s * 16_000)])
    clip, _, row = cut_one(path, tmp_path, seconds=600.0)
    np.testing.assert_array_equal(clip, whole)


def test_what_flac_cannot_hold_says_so(noise, tmp_path):
    path = noise("a.wav", channels=12)
    assert cut_one(path, tmp_path) == "12 channels at 16000 Hz can't be written as flac: pass --format wav"
    assert cut_one(path, tmp_path, fmt="wav")[1].channels == 12


@pytest.mark.parametrize("name", ["a.flac", "a.ogg"])
def test_a_long_recording_is_sought_not_decoded(noise, tmp_path, monkeypatch, name):
    path = noise(name, seconds=300.0)
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
    picker = SegmentPicker()
    for recording, table in read_detections(results):
        picker.add(recording, table)
    done = []

    def interrupt(count):
        done.append(count)
        if len(done) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_segments(picker.picked(), tmp_path / "clips", on_done=interrupt)
    rows = read(tmp_path / "clips")
    files = {x.relative_to(tmp_path / "clips").as_posix() for x in (tmp_path / "clips").rglob("*.flac")}
    assert len(rows) == 7
    assert files == {x["clip"] for x in rows}
