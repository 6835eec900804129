"""What the writers of detections write, other programs read back as it was."""

import csv
import json
import os
from datetime import datetime
from pathlib import PurePath

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from odd_names import ODD_NAMES

from keras_birds.errors import DataError, KerasBirdsError, ModelError
from keras_birds.inference.recording_status import RecordingStatus
from keras_birds.results.detections import detection_schema
from keras_birds.results.writers.files import recording_path
from keras_birds.results.writers.submission import write_submission
from keras_birds.results.writers.tables import FORMATS, write_tables

BAND_HZ = (50.0, 14_000.0)
ENDINGS = {
    "parquet": ".parquet",
    "csv": ".csv",
    "json": ".json",
    "raven": ".Table.1.selections.txt",
    "audacity": ".audacity.txt",
    "kaleidoscope": ".kaleidoscope.csv",
    "birdnet": ".BirdNET.results.csv",
}
NAMES = ODD_NAMES | {
    "long": b"/disk/" + b"x" * 255,
    "URL": b"https://host.org/a%20b.wav?sig=" + b"A/b" * 200,
    "upwards": b"../../../etc/passwd",
    "absolute": b"/etc/passwd",
}
FROG = {"label": "1139490", "scientific_name": "Lithobates palmipes", "common_name": "Amazon River Frog"}
CRICKET = {"label": "47067", "scientific_name": "Gryllus assimilis"}
NOISE = {"label": "noise"}


def recording(file="a.wav", *rows, status="ok", seconds=60.0, sample_rate_hz=32_000):
    """One recording and its table; each row is given by what differs from a plain one."""
    plain = {
        "file": file.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
        "channel": 0,
        "start_s": 2.5,
        "end_s": 7.5,
        "label": "noise",
        "scientific_name": "",
        "common_name": "",
        "score": 0.9,
        "model_id": "demo-1",
    }
    table = pa.Table.from_pylist([{**plain, **x} for x in rows], schema=detection_schema())
    recording = RecordingStatus(
        file, status, seconds=seconds, sample_rate_hz=sample_rate_hz, detections=len(rows)
    )
    return recording, table


def write(form, recordings, out, **options):
    paths = write_tables(form, iter(recordings), out, BAND_HZ, **options)
    assert not [x for x in out.rglob("*") if x.name.startswith(".")]
    return paths


def written(form, recordings, out) -> bytes:
    (path,) = write(form, recordings, out)
    assert path == out / f"detections{ENDINGS[form]}"
    return path.read_bytes()


TWO = (
    recording(
        "/disk/site/a.wav",
        FROG | {"start_time": datetime(2025, 6, 1, 5, 30, 2, 500_000)},
        CRICKET | {"channel": 2, "start_s": 1 / 3, "end_s": 5 + 1 / 3, "score": 1.25e-7},
        seconds=60.25,
    ),
    recording("gone.wav", status="missing", seconds=0.0),
    recording("b.wav", seconds=10.5),
    recording(
        "b,c.wav", NOISE | {"channel": 1, "start_s": 1e-10, "end_s": 5.0000000001}, sample_rate_hz=16_000
    ),
)
"""A recording in a folder with two detections, a failed one, one without detections and one at a low rate."""


def test_csv_bytes(tmp_path):
    assert written("csv", TWO, tmp_path).decode() == (
        "file,channel,start_s,end_s,start_time,label,scientific_name,common_name,score,model_id\n"
        "/disk/site/a.wav,0,2.5,7.5,2025-06-01T05:30:02.500,1139490,Lithobates palmipes,Amazon River Frog,0.9,demo-1\n"
        "/disk/site/a.wav,2,0.333333,5.333333,,47067,Gryllus assimilis,,1.25e-07,demo-1\n"
        '"b,c.wav",1,0.0,5.0,,noise,,,0.9,demo-1\n'
    )


def test_json_bytes(tmp_path):
    text = written("json", TWO[2:], tmp_path).decode()
    assert text == (
        '[\n{"file": "b,c.wav", "channel": 1, "start_s": 0.0, "end_s": 5.0, "start_time": null, "label": "noise", '
        '"scientific_name": "", "common_name": "", "score": 0.9, "model_id": "demo-1"}\n]\n'
    )


def test_raven_bytes(tmp_path):
    """Begin and end run on over the files with scores, 60.25 s and 10.5 s; 16 kHz ends at 8 kHz."""
    assert written("raven", TWO, tmp_path).decode() == (
        "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tBegin Path\t"
        "File Offset (s)\tCommon Name\tScientific Name\tSpecies Code\tConfidence\n"
        "1\tSpectrogram 1\t1\t2.5\t7.5\t50.0\t14000.0\t/disk/site/a.wav\t"
        "2.5\tAmazon River Frog\tLithobates palmipes\t1139490\t0.9\n"
        "2\tSpectrogram 1\t2\t0.333333\t5.333333\t50.0\t14000.0\t/disk/site/a.wav\t"
        "0.333333\tGryllus assimilis\tGryllus assimilis\t47067\t1.25e-07\n"
        "3\tSpectrogram 1\t1\t70.75\t75.75\t50.0\t8000.0\tb,c.wav\t"
        "0.0\tnoise\tnoise\tnoise\t0.9\n"
    )


def test_raven_boxes_have_a_height_whatever_the_sample_rate(tmp_path):
    rates = [recording("slow.wav", NOISE, sample_rate_hz=80), recording("any.wav", NOISE, sample_rate_hz=0)]
    lines = written("raven", rates, tmp_path).decode().splitlines()[1:]
    assert [x.split("\t")[5:7] for x in lines] == [["0.0", "40.0"], ["50.0", "14000.0"]]


def test_raven_per_recording_begins_at_zero_in_each(tmp_path):
    paths = write("raven", TWO, tmp_path, per_recording=True)
    rows = [pd.read_csv(x, sep="\t") for x in paths]
    assert [list(x["Begin Time (s)"]) for x in rows] == [[2.5, 0.333333], [], [0.0]]
    assert [list(x["Selection"]) for x in rows] == [[1, 2], [], [1]]


def test_audacity_bytes(tmp_path):
    assert written("audacity", TWO, tmp_path).decode() == (
        "2.500000\t7.500000\tAmazon River Frog 0.90\n"
        "0.333333\t5.333333\tGryllus assimilis 0.00\n"
        "70.750000\t75.750000\tnoise 0.90\n"
    )


def test_kaleidoscope_bytes(tmp_path):
    """Channels count from 0 there, and a small distance is a sure match."""
    assert written("kaleidoscope", TWO, tmp_path).decode() == (
        "INDIR,FOLDER,IN FILE,CHANNEL,OFFSET,DURATION,TOP1MATCH,TOP1DIST,MANUAL ID\n"
        "/disk,site,a.wav,0,2.5,5.0,Amazon River Frog,0.1,\n"
        "/disk,site,a.wav,1,0.333333,5.0,Gryllus assimilis,1,\n"
        ',,"b,c.wav",0,0.0,5.0,noise,0.1,\n'
    )


def test_birdnet_bytes(tmp_path):
    assert written("birdnet", TWO, tmp_path).decode() == (
        "Start (s),End (s),Scientific name,Common name,Confidence,File\n"
        "2.5,7.5,Lithobates palmipes,Amazon River Frog,0.9000,/disk/site/a.wav\n"
        "0.333333,5.333333,Gryllus assimilis,Gryllus assimilis,0.0000,/disk/site/a.wav\n"
        '0.0,5.0,noise,noise,0.9000,"b,c.wav"\n'
    )


def test_parquet_is_the_tables_one_after_another(tmp_path):
    (path,) = write("parquet", TWO, tmp_path)
    table = pq.read_table(path)
    assert table.schema.equals(detection_schema())
    assert table.equals(pa.concat_tables([x for recording, x in TWO if not recording.failed]))
    assert list(pd.read_parquet(path)["label"]) == ["1139490", "47067", "noise"]


def test_parquet_puts_small_recordings_into_few_row_groups(tmp_path):
    recordings = [recording(f"{i}.wav", NOISE, NOISE) for i in range(2100)]
    (path,) = write("parquet", recordings, tmp_path)
    file = pq.ParquetFile(path)
    assert (file.num_row_groups, file.metadata.num_rows) == (1, 4200)
    assert file.read()["file"].to_pylist() == [f"{i}.wav" for i in range(2100) for _ in range(2)]


@pytest.mark.parametrize("form", FORMATS)
def test_without_a_detection_the_file_is_there_with_its_header(form, tmp_path):
    failed = recording("bad.wav", status="corrupt")
    (none,) = write(form, [failed], tmp_path / "none")
    (empty, silent) = write(
        form,
        [recording("a.wav"), failed, recording("s.wav", status="silent")],
        tmp_path / "empty",
        per_recording=True,
    )
    assert none.read_bytes() == empty.read_bytes() == silent.read_bytes()
    assert len(list((tmp_path / "empty").rglob("*.*"))) == 2
    if form == "parquet":
        assert pq.read_table(none).schema.equals(detection_schema())
    elif form == "json":
        assert json.loads(none.read_text()) == []
    else:
        assert len(none.read_text().splitlines()) == (form != "audacity")


@pytest.mark.parametrize("form", FORMATS)
def test_any_name_survives(form, tmp_path):
    """Byte for byte where the format can, with tabs and line breaks as spaces where it can't."""
    common = 'Ñandú, "鳥"\tof\ntwo\rlines'
    files = [os.fsdecode(x) for x in NAMES.values()]
    recordings = [recording(x, NOISE | {"common_name": common}) for x in files]
    (combined,) = write(form, recordings, tmp_path)
    single = write(form, recordings, tmp_path, per_recording=True)
    assert len(set(single)) == len(files)
    spaces = str.maketrans("\t\n\r", "   ")
    for rows in (read(form, combined), [row for x in single for row in read(form, x)]):
        if form == "parquet":
            assert [x["file"] for x in rows] == [
                x.decode("utf-8", "backslashreplace") for x in NAMES.values()
            ]
        elif form == "raven":
            assert [x["Begin Path"] for x in rows] == [x.translate(spaces) for x in files]
            assert rows[0]["Common Name"] == common.translate(spaces)
        elif form == "audacity":
            assert [x[2] for x in rows] == [common.translate(spaces) + " 0.90"] * len(files)
        elif form == "kaleidoscope":
            assert [os.path.join(x["INDIR"], x["FOLDER"], x["IN FILE"]) for x in rows] == files  # noqa: PTH118
            assert rows[0]["TOP1MATCH"] == common
        else:
            column = {"birdnet": ("File", "Common name")}.get(form, ("file", "common_name"))
            assert [x[column[0]] for x in rows] == files
            assert rows[0][column[1]] == common


def read(form, path):
    if form == "parquet":
        return pq.read_table(path).to_pylist()
    if form == "json":
        return json.loads(path.read_text(encoding="utf-8"))
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        if form == "audacity":
            return list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        if form == "raven":
            return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        return list(csv.DictReader(file))


def test_no_kind_of_line_break_stays_in_a_tab_separated_table(tmp_path):
    text = written("raven", [recording("a\x0b\x0c\x85\u2028\u2029b.wav", NOISE)], tmp_path).decode()
    assert len(text.splitlines()) == 2
    assert "\ta     b.wav\t" in text


def test_no_two_recordings_share_a_path_and_none_leaves_the_folder():
    """Among them those that a careless rule would put in one place, or where a folder must be."""
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
    folders = {parent for x in paths for parent in x.parents}
    assert not folders & set(paths)
    for path in paths:
        assert not path.is_absolute()
        assert path.name.endswith(".csv")
        assert not {"", ".", ".."} & set(path.parts)
        assert max(len(x.encode()) for x in path.parts) <= 200


@pytest.mark.parametrize(
    ("file", "path"),
    [
        ("rec/a b.wav", "rec/a b.wav.csv"),
        ("/disk/rec/a.wav", "root/disk/rec/a.wav.csv"),
        ("s3://bucket/rec/a.wav", "url/s3/bucket/rec/a.wav.csv"),
        ("鳥/ñandú 🐦.ogg", "鳥/ñandú 🐦.ogg.csv"),
        ("../a\n.wav", "%2E%2E/a%0A.wav.csv"),
        (".hidden/..b. /a.wav", "%2Ehidden/%2E.b.%20/a.wav.csv"),
        ("root/a.wav", "roo%74/a.wav.csv"),
        ("a.CSV/a.wav", "a.CS%56/a.wav.csv"),
    ],
)
def test_a_recordings_table_is_found_by_its_name(file, path):
    assert recording_path(file, ".csv") == PurePath(path)


def test_recordings_are_read_once_and_never_held(tmp_path):
    """Held, the tables alone would take over 80 MB."""
    _, table = recording("a.wav", *[FROG] * 500)
    whole = pa.array(range(500))
    before, peak = pa.total_allocated_bytes(), 0

    def stream():
        nonlocal peak
        for i in range(2000):
            yield RecordingStatus(f"{i}.wav", "ok", seconds=60.0), table.take(whole)
            peak = max(peak, pa.total_allocated_bytes() - before)

    write_tables("parquet", stream(), tmp_path, BAND_HZ)
    assert peak < 30e6


def test_a_file_is_there_whole_or_as_it_was(tmp_path):
    def broken():
        yield from TWO
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tables("csv", broken(), tmp_path, BAND_HZ)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(KerasBirdsError, match=r"can't be made\. Received: "):
        write_tables("csv", TWO, tmp_path / "file" / "out", BAND_HZ)


def test_an_unknown_format_is_named_before_anything_is_read(tmp_path):
    def unread():
        pytest.fail("read")
        yield

    with pytest.raises(KerasBirdsError, match=r"one of parquet, csv, .*Received: fmt='xls'"):
        write_tables("xls", unread(), tmp_path, BAND_HZ)


def windows(file, *ends_s, window_s=5.0, labels=("b", "a"), status="ok", dtype=np.float16):
    """Window scores of one recording: label k of window i scores (i + 1) / 10 + k / 100."""
    ends = np.array(ends_s, dtype=np.float64)
    scores = {
        label: np.array([(i + 1) / 10 + k / 100 for i in range(len(ends))], dtype)
        for k, label in enumerate(labels)
    }
    return RecordingStatus(file, status), pa.table({"start_s": ends - window_s, "end_s": ends, **scores})


def submit(recordings, out, labels=("b", "a"), **options):
    path = write_submission(iter(recordings), labels, 5.0, out, **options).path
    assert path == out / "submission.csv"
    assert list(out.iterdir()) == [path]
    return path.read_text()


def test_submission_bytes(tmp_path):
    recordings = [
        windows("/test/soundscape_1.ogg", 5.0, 10.0),
        windows("lost.ogg", 5.0, status="corrupt"),
        windows("https://host/soundscape_2.ogg?v=1.5", 5.0, dtype=np.float32),
    ]
    assert submit(recordings, tmp_path / "new") == (
        "row_id,b,a\n"
        "soundscape_1_5,0.0999756,0.109985\n"
        "soundscape_1_10,0.199951,0.209961\n"
        "soundscape_2_5,0.1,0.11\n"
    )


def test_submission_has_the_columns_of_the_real_sample(birdclef_meta_dir, tmp_path):
    sample = birdclef_meta_dir / "sample_submission.csv"
    expected = pd.read_csv(sample)
    labels = [str(x) for x in expected.columns[1:]]
    assert len(labels) == 206
    trained = [*reversed(labels), "extra"]
    text = submit(
        [windows("soundscape_8358733.ogg", 5, 10, 15, labels=trained)],
        tmp_path,
        trained,
        sample_submission=sample,
    )
    table = pd.read_csv(tmp_path / "submission.csv")
    assert text.splitlines()[0] == sample.read_text().splitlines()[0]
    assert list(table["row_id"]) == list(expected["row_id"])
    scores = [[(i + 1) / 10 + k / 100 for k in reversed(range(206))] for i in range(3)]
    np.testing.assert_allclose(table.drop(columns="row_id"), scores, rtol=1e-3)


def test_only_full_windows_have_a_row(tmp_path):
    recordings = [
        windows("short.ogg", 3.2, window_s=3.2),
        windows("a.ogg", 5.0, 10.0),
        windows(os.fsdecode(b'caf\xe9,"\r1.ogg'), 5.0),
        (RecordingStatus("none.ogg", "ok"), windows("none.ogg", 5.0)[1].slice(0, 0)),
        (
            RecordingStatus("tail.ogg", "ok"),
            pa.concat_tables([windows("", 5.0)[1], windows("", 7.2, window_s=2.2)[1]]),
        ),
        windows("noise.ogg", 5.0 + 1e-9),
    ]
    path = write_submission(recordings, "ba", 5.0, tmp_path).path
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = [os.fsencode(x["row_id"]) for x in csv.DictReader(file)]
    assert rows == [b"a_5", b"a_10", b'caf\xe9,"\r1_5', b"tail_5", b"noise_5"]
    assert submit([], tmp_path / "new") == "row_id,b,a\n"


def test_a_stem_that_comes_twice_names_both_files(tmp_path):
    recordings = [windows("x/s_1.ogg", 5.0), windows("s_2.ogg", 5.0), windows("y/s_1.wav", 10.0)]
    recordings.append(windows("z/s_2.ogg", 5.0))
    with pytest.raises(DataError, match=r"Received: x/s_1\.ogg and y/s_1\.wav\."):
        write_submission(recordings, "ba", 5.0, tmp_path)
    same = [windows("s.ogg", 5.0)] * 2
    with pytest.raises(DataError, match=r"Received: s\.ogg has two windows that end at 5\.0 s"):
        write_submission(same, "ba", 5.0, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_windows_that_end_between_two_seconds_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"Received: s\.ogg has a window that ends at 7\.5 s\."):
        write_submission([windows("s.ogg", 5.0, 7.5, 10.0)], "ba", 5.0, tmp_path)
    with pytest.raises(DataError, match=r"Received: s\.ogg has two windows that end at 5\.0 s\."):
        write_submission([windows("s.ogg", 5.0, 5.0)], "ba", 5.0, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_labels_of_the_sample_that_the_model_lacks_are_named(tmp_path):
    sample = tmp_path / "sample.csv"
    sample.write_text("row_id,a,b,n1,n2,n3,n4,n5,n6\n")
    with pytest.raises(ModelError, match=r"6 that it lacks: n1, n2, n3, n4, n5, \.\.\.\."):
        write_submission([], "ab", 5.0, tmp_path / "out", sample)
    sample.write_text("row_id,a,n1\n")
    with pytest.raises(ModelError, match=r"1 that it lacks: n1\. "):
        write_submission([], "ab", 5.0, tmp_path / "out", sample)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["", "\n", "row_id\n", "id,a,b\n", b"\xff\xfe\x00", None], ids=repr)
def test_what_is_no_sample_submission_is_refused(content, tmp_path):
    sample = tmp_path / "sample.csv"
    if content is not None:
        sample.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=r"sample submission|can't be read"):
        write_submission([], "ab", 5.0, tmp_path / "out", sample)
    assert not (tmp_path / "out").exists()


def test_rows_without_scores_are_those_of_the_sample(tmp_path):
    sample = tmp_path / "sample.csv"
    rows = ["s_1_5,0.005,0.004", "s_1_10,0.005,0.004", "s_2_5,0.003,0.004", "other_5,1,1", "s_3_5,0,0", ""]
    sample.write_text("\n".join(["row_id,b,a", *rows]))
    recordings = [
        windows("x/s_1.ogg", 4.0, window_s=4.0),
        windows("x/s_3.ogg", 5.0),
    ]
    unscored = ["x/s_2.ogg", "x/s_4.ogg"]
    submission = write_submission(iter(recordings), "ba", 5.0, tmp_path / "out", sample, unscored)
    assert submission.path.read_text().splitlines()[1:] == [
        "s_3_5,0.0999756,0.109985",
        "s_1_5,0.005,0.004",
        "s_1_10,0.005,0.004",
        "s_2_5,0.003,0.004",
    ]
    assert (submission.unscored_rows, submission.absent) == (3, ("x/s_4.ogg",))
    assert write_submission(iter(recordings), "ba", 5.0, tmp_path, None, unscored).absent == tuple(unscored)
    sample.write_text("row_id,b,a\ns_2_5,0.003\n")
    with pytest.raises(DataError, match=r"sample\.csv: s_2_5 has 1 for 2 labels"):
        write_submission(iter(recordings), "ba", 5.0, tmp_path / "new", sample, unscored)
    assert not (tmp_path / "new" / "submission.csv").exists()
