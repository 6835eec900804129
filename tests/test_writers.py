"""What the writers of detections write, other programs read back as it was."""

import csv
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import PurePath

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from odd_names import ODD_NAMES

from keras_birds.errors import DataError, KerasBirdsError, ModelError
from keras_birds.inference.scorer import RecordingStatus
from keras_birds.results.detections import detection_schema
from keras_birds.results.writers.files import recording_path
from keras_birds.results.writers.submission import write_submission
from keras_birds.results.writers.tables import FORMATS, write_tables
from keras_birds.text import storable

BAND_HZ = (50.0, 14_000.0)
NAMES = ODD_NAMES | {
    "long": b"/disk/" + b"x" * 255,
    "URL": b"https://host.org/a%20b.wav?sig=" + b"A/b" * 200,
    "upwards": b"../../../etc/passwd",
    "absolute": b"/etc/passwd",
}
MORNING = datetime(2025, 6, 1, 5, 30, 2, 500_000)
FROG = {"label": "1139490", "scientific_name": "Lithobates palmipes", "common_name": "Amazon River Frog"}
CRICKET = {"label": "47067", "scientific_name": "Gryllus assimilis"}
PLAIN = {
    **{"channel": 0, "start_s": 2.5, "end_s": 7.5, "label": "noise", "score": 0.9, "model_id": "demo-1"},
    **{"scientific_name": "", "common_name": ""},
}


def recording(file="a.wav", *rows, status="ok", seconds=60.0, sample_rate_hz=32_000):
    """One recording and its table; each row is given by what differs from a plain one."""
    plain = PLAIN | {"file": storable(file)}
    table = pa.Table.from_pylist([plain | x for x in rows], schema=detection_schema())
    return RecordingStatus(file, status, seconds=seconds, sample_rate_hz=sample_rate_hz), table.to_batches()


def write(form, recordings, out, **options):
    paths = write_tables(form, iter(recordings), out, BAND_HZ, **options)
    assert not [x for x in out.rglob("*") if x.name.startswith(".")]
    return paths


TWO = (
    recording(
        "/disk/site/a.wav",
        FROG | {"start_time": MORNING, "start_time_utc": MORNING.replace(tzinfo=UTC) - timedelta(hours=2)},
        CRICKET | {"channel": 2, "start_s": 1 / 3, "end_s": 5 + 1 / 3, "score": 1.25e-7, "occurrence": 0.25},
        seconds=60.25,
    ),
    recording("gone.wav", status="missing", seconds=0.0),
    recording("b.wav", seconds=10.5),
    recording("b,c.wav", {"channel": 1, "start_s": 1e-10, "end_s": 5.0000000001}, sample_rate_hz=16_000),
)
"""A recording in a folder with two detections, a failed one, one without detections and one at a low rate."""
BYTES = {
    "detections.csv": (
        "file,channel,start_s,end_s,start_time,start_time_utc,label,scientific_name,common_name,score,model_id,occurrence\n"
        "/disk/site/a.wav,0,2.5,7.5,2025-06-01T05:30:02.500,2025-06-01T03:30:02.500Z,1139490,"
        "Lithobates palmipes,Amazon River Frog,0.9,demo-1,\n"
        "/disk/site/a.wav,2,0.333333,5.333333,,,47067,Gryllus assimilis,,1.25e-07,demo-1,0.25\n"
        '"b,c.wav",1,0.0,5.0,,,noise,,,0.9,demo-1,\n'
    ),
    "detections.json": (
        '[\n{"file": "/disk/site/a.wav", "channel": 0, "start_s": 2.5, "end_s": 7.5, "start_time": '
        '"2025-06-01T05:30:02.500", "start_time_utc": "2025-06-01T03:30:02.500Z", "label": "1139490", '
        '"scientific_name": "Lithobates palmipes", '
        '"common_name": "Amazon River Frog", "score": 0.9, "model_id": "demo-1", "occurrence": null},\n'
        '{"file": "/disk/site/a.wav", "channel": 2, "start_s": 0.333333, "end_s": 5.333333, "start_time": null, '
        '"start_time_utc": null, '
        '"label": "47067", "scientific_name": "Gryllus assimilis", "common_name": "", "score": 1.25e-07, '
        '"model_id": "demo-1", "occurrence": 0.25},\n'
        '{"file": "b,c.wav", "channel": 1, "start_s": 0.0, "end_s": 5.0, "start_time": null, '
        '"start_time_utc": null, "label": "noise", '
        '"scientific_name": "", "common_name": "", "score": 0.9, "model_id": "demo-1", "occurrence": null}\n]\n'
    ),
    # Begin and end run on over the files with scores, 60.25 s and 10.5 s; 16 kHz ends at 8 kHz.
    "detections.Table.1.selections.txt": (
        "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tBegin Path\t"
        "File Offset (s)\tCommon Name\tScientific Name\tSpecies Code\tConfidence\n"
        "1\tSpectrogram 1\t1\t2.5\t7.5\t50.0\t14000.0\t/disk/site/a.wav\t"
        "2.5\tAmazon River Frog\tLithobates palmipes\t1139490\t0.9\n"
        "2\tSpectrogram 1\t2\t0.333333\t5.333333\t50.0\t14000.0\t/disk/site/a.wav\t"
        "0.333333\tGryllus assimilis\tGryllus assimilis\t47067\t1.25e-07\n"
        "3\tSpectrogram 1\t1\t70.75\t75.75\t50.0\t8000.0\tb,c.wav\t"
        "0.0\tnoise\tnoise\tnoise\t0.9\n"
    ),
    "detections.audacity.txt": (
        "2.500000\t7.500000\tAmazon River Frog 0.90\n"
        "0.333333\t5.333333\tGryllus assimilis 0.00\n"
        "70.750000\t75.750000\tnoise 0.90\n"
    ),
    # Channels count from 0 there, and a small distance is a sure match.
    "detections.kaleidoscope.csv": (
        "INDIR,FOLDER,IN FILE,CHANNEL,OFFSET,DURATION,TOP1MATCH,TOP1DIST,MANUAL ID\n"
        "/disk,site,a.wav,0,2.5,5.0,Amazon River Frog,0.1,\n"
        "/disk,site,a.wav,1,0.333333,5.0,Gryllus assimilis,1,\n"
        ',,"b,c.wav",0,0.0,5.0,noise,0.1,\n'
    ),
    "detections.BirdNET.results.csv": (
        "Start (s),End (s),Scientific name,Common name,Confidence,File\n"
        "2.5,7.5,Lithobates palmipes,Amazon River Frog,0.9000,/disk/site/a.wav\n"
        "0.333333,5.333333,Gryllus assimilis,Gryllus assimilis,0.0000,/disk/site/a.wav\n"
        '0.0,5.0,noise,noise,0.9000,"b,c.wav"\n'
    ),
}


@pytest.mark.parametrize(("form", "name"), zip(FORMATS[1:], BYTES, strict=True))
def test_bytes(form, name, tmp_path):
    assert write(form, TWO, tmp_path) == [tmp_path / name]
    assert (tmp_path / name).read_bytes().decode() == BYTES[name]


def test_raven_boxes_have_a_height_and_begin_at_zero_per_recording_and_a_label_is_one_line(tmp_path):
    rates = [recording("slow.wav", {}, sample_rate_hz=80), recording("any.wav", {}, sample_rate_hz=0)]
    (path,) = write("raven", rates, tmp_path)
    lines = path.read_text().splitlines()[1:]
    assert [x.split("\t")[5:7] for x in lines] == [["0.0", "40.0"], ["50.0", "14000.0"]]
    rows = [pd.read_csv(x, sep="\t") for x in write("raven", TWO, tmp_path, per_recording=True)]
    assert [list(x["Begin Time (s)"]) for x in rows] == [[2.5, 0.333333], [], [0.0]]
    assert [list(x["Selection"]) for x in rows] == [[1, 2], [], [1]]
    (path,) = write("audacity", [recording("a", {"common_name": "a\tb\nc\r\u2028d"})], tmp_path)
    assert path.read_bytes() == b"2.500000\t7.500000\ta b c  d 0.90\n"


def test_parquet_is_the_tables_one_after_another_and_never_holds_them_all(tmp_path):
    (path,) = write("parquet", TWO, tmp_path)
    table = pq.read_table(path)
    assert table.equals(pa.Table.from_batches([y for x, batches in TWO if not x.failed for y in batches]))
    # Small recordings share row groups.
    recordings = [recording(f"{i}.wav", {}, {}) for i in range(2100)]
    (path,) = write("parquet", recordings, tmp_path)
    file = pq.ParquetFile(path)
    assert (file.num_row_groups, file.metadata.num_rows) == (1, 4200)
    assert file.read()["file"].to_pylist() == [f"{i}.wav" for i in range(2100) for _ in range(2)]
    # Recordings are read once and never held, which would take over 80 MB.
    _, (batch,) = recording("a.wav", *[FROG] * 500)
    before, peak = pa.total_allocated_bytes(), 0

    def stream():
        nonlocal peak
        for i in range(2000):
            yield RecordingStatus(f"{i}.wav", "ok", seconds=60.0), [batch.take(pa.array(range(500)))]
            peak = max(peak, pa.total_allocated_bytes() - before)

    write_tables("parquet", stream(), tmp_path, BAND_HZ)
    assert peak < 30e6


@pytest.mark.parametrize("form", FORMATS)
def test_without_a_detection_the_file_is_there_with_its_header(form, tmp_path):
    failed = recording("bad.wav", status="corrupt")
    (none,) = write(form, [failed], tmp_path / "none")
    others = [recording("a.wav"), failed, recording("s.wav", status="silent")]
    (empty, silent) = write(form, others, tmp_path / "empty", per_recording=True)
    assert none.read_bytes() == empty.read_bytes() == silent.read_bytes()
    assert len(list((tmp_path / "empty").rglob("*.*"))) == 2
    if form == "json":
        assert none.read_text() == "[]\n"
    elif form != "parquet":
        assert len(none.read_text().splitlines()) == (form != "audacity")


@pytest.mark.parametrize("form", ["csv", "raven", "json", "parquet"])
def test_any_name_survives(form, tmp_path):
    """Byte for byte where the format can, with tabs and line breaks as spaces where it can't."""
    columns = ("Begin Path", "Common Name") if form == "raven" else ("file", "common_name")
    common = 'Ñandú, "鳥"\tof\ntwo\rlines\x0b\x0c\x85\u2028\u2029'
    files = [os.fsdecode(x) for x in NAMES.values()]
    recordings = [recording(x, {"common_name": common}) for x in files]
    single = write(form, recordings, tmp_path, per_recording=True)
    assert len(set(single)) == len(files)

    def read(path):
        if form == "parquet":
            return pq.read_table(path).to_pylist()
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            if form == "json":
                return json.load(file)
            unquoted = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
            return list(csv.DictReader(file, **(unquoted if form == "raven" else {})))

    expected = [(storable(x) if form == "parquet" else x, common) for x in files]
    if form == "raven":
        one_line = str.maketrans(dict.fromkeys("\t\n\r\x0b\x0c\x85\u2028\u2029", " "))
        expected = [(x.translate(one_line), y.translate(one_line)) for x, y in expected]
    for paths in (single, write(form, recordings, tmp_path)):
        assert [tuple(row[x] for x in columns) for path in paths for row in read(path)] == expected


def test_no_two_recordings_share_a_path_none_leaves_the_folder_and_each_is_found_by_its_name():
    long = "x" * 300
    files = [
        *map(os.fsdecode, NAMES.values()),
        *("r/a.wav", "s/a.wav", "/r/a.wav", "r/a.ogg", "r_a.wav", "r%2Fa.wav", "r\\a.wav", "root/r/a.wav"),
        *("s3://b/a.wav", "s3:/b/a.wav", "url/s3/b/a.wav", "gs://b/a.wav", "s3://b//a.wav", "s3://b/%/a.wav"),
        *("a", "a.csv/b", "a%", "a%25", "a.", "a%2E", "a ", "a?", "a%3F", ".", "..", "...", ".%2E", "%2E%2E"),
        *("caf\udce9.wav", "caf\\udce9.wav", "caf%ED%B3%A9.wav", "café.wav", "cafe\u0301.wav"),
        *(f"{long}1", f"{long}2", f"{long}1/a.wav", f"https://h/{long}1", "鳥" * 300, "鳥" * 301),
    ]
    paths = [recording_path(x, ".csv") for x in files]
    assert len(set(paths)) == len(set(files)) == len(files)
    assert not {parent for x in paths for parent in x.parents} & set(paths)
    for path in paths:
        assert path.name.endswith(".csv")
        assert not {"", "/", ".", ".."} & set(path.parts)
        assert max(len(x.encode()) for x in path.parts) <= 200
    # And where people look for it.
    for file, path in {
        "rec/a b.wav": "rec/a b.wav.csv",
        "/disk/rec/a.wav": "root/disk/rec/a.wav.csv",
        "s3://bucket/rec/a.wav": "url/s3/bucket/rec/a.wav.csv",
        "鳥/ñandú 🐦.ogg": "鳥/ñandú 🐦.ogg.csv",
        "../a\n.wav": "%2E%2E/a%0A.wav.csv",
        ".hidden/..b. /a.wav": "%2Ehidden/%2E.b.%20/a.wav.csv",
        "root/a.wav": "roo%74/a.wav.csv",
        "a.CSV/a.wav": "a.CS%56/a.wav.csv",
        "x" * 196 + "/a.wav": "x" * 196 + "/a.wav.csv",
        "x" * 196: "x" * 196 + ".csv",
    }.items():
        assert recording_path(file, ".csv") == PurePath(path)


def test_an_unknown_format_and_a_file_in_the_way_are_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(KerasBirdsError, match=r"can't be made\. Received: "):
        write_tables("csv", TWO, tmp_path / "file" / "out", BAND_HZ)
    with pytest.raises(KerasBirdsError, match=r"one of parquet, csv, .*Received: fmt='xls'"):
        write_tables("xls", [], tmp_path, BAND_HZ)


def windows(file, *ends_s, window_s=5.0, status="ok", dtype=np.float16):
    """Window scores of one recording: window i scores (i + 1) / 10 for b and 0.01 more for a."""
    ends = np.array(ends_s, dtype=np.float64)
    b = np.arange(1, len(ends) + 1) / 10
    columns = {"start_s": ends - window_s, "end_s": ends, "b": b.astype(dtype), "a": (b + 0.01).astype(dtype)}
    return RecordingStatus(file, status), pa.table(columns).to_batches()


def test_a_submission_has_a_row_for_each_full_window_and_the_samples_rows_for_others(tmp_path):
    recordings = [
        windows("x/soundscape_1.ogg", 5.0, 10.0),
        windows("lost.ogg", 5.0, status="corrupt"),
        windows("https://host/soundscape_2.ogg?v=1.5", 5.0, dtype=np.float32),
        windows("short.ogg", 3.2, window_s=3.2),
        windows(os.fsdecode(b'caf\xe9,"\r1.ogg'), 5.0),
        windows("none.ogg"),
        (RecordingStatus("tail.ogg", "ok"), windows("", 5.0)[1] + windows("", 7.2, window_s=2.2)[1]),
        windows("noise.ogg", 5.0 + 1e-9),
    ]
    path = write_submission(iter(recordings), "ba", 5.0, tmp_path / "new").path
    assert list((tmp_path / "new").iterdir()) == [path] == [tmp_path / "new" / "submission.csv"]
    assert path.read_bytes() == (
        b"row_id,b,a\n"
        b"soundscape_1_5,0.0999756,0.109985\n"
        b"soundscape_1_10,0.199951,0.209961\n"
        b"soundscape_2_5,0.1,0.11\n"
        b'"caf\xe9,""\r1_5",0.0999756,0.109985\n'
        b"tail_5,0.0999756,0.109985\n"
        b"noise_5,0.0999756,0.109985\n"
    )
    # Rows without scores are those of the sample.
    sample = tmp_path / "sample.csv"
    rows = ["s_1_5,0.005,0.004", "s_1_10,0.005,0.004", "s_2_5,0.003,0.004", "other_5,1,1", "s_3_5,0,0", ""]
    sample.write_text("\n".join(["row_id,b,a", *rows]))
    recordings = [windows("x/s_1.ogg", 4.0, window_s=4.0), windows("x/s_3.ogg", 5.0)]
    unscored = ["x/s_2.ogg", "x/s_4.ogg"]
    submission = write_submission(iter(recordings), "ba", 5.0, tmp_path / "out", sample, unscored)
    assert submission.path.read_text().splitlines()[1:] == ["s_3_5,0.0999756,0.109985", *rows[:3]]
    assert (submission.unscored_rows, submission.absent) == (3, ("x/s_4.ogg",))
    assert write_submission(iter(recordings), "ba", 5.0, tmp_path, None, unscored).absent == tuple(unscored)
    sample.write_text("row_id,b,a\ns_2_5,0.003\n")
    with pytest.raises(DataError, match=r"sample\.csv: s_2_5 has 1 for 2 labels"):
        write_submission(iter(recordings), "ba", 5.0, tmp_path / "none", sample, unscored)
    assert not (tmp_path / "none" / "submission.csv").exists()


def test_what_cannot_be_a_submission_is_told_and_leaves_nothing(tmp_path):
    one, two = windows("x/s_1.ogg", 5.0), windows("s_2.ogg", 5.0)
    for recordings, said in (
        ([one, two, windows("y/s_1.wav", 10.0)], r"x/s_1\.ogg and y/s_1\.wav\."),
        ([two, two], r"s_2\.ogg has two windows that end at 5\.0 s"),
        ([windows("s.ogg", 5.0, 5.0)], r"s\.ogg has two windows that end at 5\.0 s\."),
        ([windows("s.ogg", 5.0, 7.5, 10.0)], r"s\.ogg has a window that ends at 7\.5 s\."),
    ):
        with pytest.raises(DataError, match=f"Received: {said}"):
            write_submission(recordings, "ba", 5.0, tmp_path)
    assert list(tmp_path.iterdir()) == []
    sample = tmp_path / "sample.csv"
    for header, said in (
        ("a,b,n1,n2,n3,n4,n5,n6", r"6 that it lacks: n1, n2, n3, n4, n5, \.\.\.\."),
        ("a,n1,n2,n3,n4,n5", r"5 that it lacks: n1, n2, n3, n4, n5\. "),
    ):
        sample.write_text(f"row_id,{header}\n")
        with pytest.raises(ModelError, match=said):
            write_submission([], "ab", 5.0, tmp_path / "out", sample)
    for content in (b"", b"\n", b"row_id\n", b"id,a,b\n", b"\xff\xfe\x00", None):
        sample.unlink() if content is None else sample.write_bytes(content)
        with pytest.raises(DataError, match=r"sample submission|can't be read"):
            write_submission([], "ab", 5.0, tmp_path / "out", sample)
    assert not (tmp_path / "out").exists()
