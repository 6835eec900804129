"""Tables of annotations are read as the programs write them, and what is wrong is told with its row."""

import math
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from sounds import noise

from keras_birds.data.annotations import covered, read_annotations
from keras_birds.errors import DataError
from keras_birds.inference.scorer import RecordingStatus
from keras_birds.labels import Label, LabelSet
from keras_birds.results.detections import detection_schema
from keras_birds.results.writers.tables import FORMATS, write_tables

KNOWN = LabelSet(
    [Label("1139490", "Lithobates palmipes", "Amazon River Frog"), Label("eurbla", "Turdus merula")]
)
CSV = "file,start_s,end_s,label\n"
RAVEN = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)"


@pytest.fixture
def recordings(tmp_path):
    """Of 8 s each: two of one name, and one whose name has a point."""
    paths = [tmp_path / "rec" / x for x in ("north/a.wav", "south/a.wav", "b.1.flac")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise(8, 8000), 8000)
    return [str(x) for x in paths]


@pytest.fixture
def read(tmp_path, recordings):
    """Reads tables that are given as names and contents; recording, times and label of each row, and the whole."""

    def call(tables, known=None):
        folder = tmp_path / "tables"
        for name, content in tables.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        found = read_annotations(folder, recordings, known)
        return [(recordings.index(x.file), x.start_s, x.end_s, x.label) for x in found.rows], found

    return call


@pytest.mark.parametrize("fmt", FORMATS)
def test_what_our_writers_wrote_is_read_back_the_same(fmt, tmp_path, recordings):
    import pyarrow as pa

    wanted, written = [], []
    names = {
        x.name: {"scientific_name": x.scientific_name, "common_name": x.common_name} for x in KNOWN.items
    }
    for k, file in enumerate(recordings):
        rows = [(0.0, 2.5, "1139490", 0.5), (k + 1 / 3, 8.0, "eurbla", 0.25)]
        wanted += [(file, start_s, end_s, label, score) for start_s, end_s, label, score in rows]
        keys = ("start_s", "end_s", "label", "score")
        about = {"file": file, "channel": 0, "model_id": "m"}
        columns = [dict(zip(keys, x, strict=True)) | names[x[2]] | about for x in rows]
        table = pa.Table.from_pylist(columns, schema=detection_schema())
        written.append((RecordingStatus(file, "ok", seconds=8.0, sample_rate_hz=8000), table.to_batches()))
    one_by_one = fmt == "audacity"  # labels don't name their file
    write_tables(fmt, written, tmp_path / "out", (50.0, 3000.0), one_by_one)
    found = read_annotations(tmp_path / "out", recordings, KNOWN)
    assert found.problems == found.notes == []
    rows = [(x.file, x.start_s, x.end_s, x.label, x.score) for x in found.rows]
    wanted = [(*x[:-1], math.nan) for x in wanted] if fmt == "kaleidoscope" else wanted
    for row, expected in zip(rows, wanted, strict=True):
        assert (row[0], row[3]) == (expected[0], expected[3])
        np.testing.assert_allclose(row[1:3] + row[4:], expected[1:3] + expected[4:], atol=2e-6)
    if fmt == "raven":
        assert {(x.low_hz, x.high_hz) for x in found.rows} == {(50.0, 3000.0)}


def test_tables_of_every_program(read):
    birdnet = "Start (s),End (s),Scientific name,Common name,Confidence,File\n"
    rows, found = read(
        {
            # Windows' line ends, two views of a selection, and a second selection at the same place.
            "north/a.Table.1.selections.txt": f"{RAVEN}\tSpecies\r\n1\tWaveform 1\t1\t1\t2\t\t\tfrog\r\n"
            "1\tSpectrogram 1\t1\t1\t2\t100\t900\tfrog\r\n2\tSpectrogram 1\t1\t1\t2\t100\t900\tbat\r\n",
            # A sequence of files, named on Windows: the offset counts.
            "both.txt": f"{RAVEN}\tBegin Path\tFile Offset (s)\tAnnotation\n"
            "7\tSpectrogram 1\t1\t11\t12.5\t0\t9\tD:\\rec\\South\\A.WAV\t3\tfrog\n",
            "b.1.txt": "﻿2.000000\t2.500000\tfrog\n\\\t100.0\t-1.000000\n4\t4\tbat\n".encode("utf-16-le"),
            "k.csv": "INDIR,FOLDER,IN FILE,OFFSET,DURATION,TOP1MATCH,MANUAL ID\n"
            "D:\\x,north,a.wav,5,1.5,bat,frog\nD:\\x,north,a.wav,6,1,bat,\n",
            "birdnet/BirdNET_results.csv": birdnet
            + "6.0,9.0,Turdus merula,Eurasian Blackbird,0.8,/x/b.1.mp3\n",
            # As German spreadsheets save them.
            "excel.csv": "file;start_s;end_s;label\nb.1.flac;0,25;1,125;frog\nsouth/a.wav;;;\n",
            "README.txt": "What, when and where",
        }
    )
    found.require_clean()
    assert rows == [
        *((0, 1, 2, "bat"), (0, 1, 2, "frog"), (0, 5, 6.5, "frog"), (0, 6, 7, "bat"), (1, 3, 4.5, "frog")),
        *((2, 0.25, 1.125, "frog"), (2, 2, 2.5, "frog"), (2, 4, 4, "bat"), (2, 6, 8, "Eurasian Blackbird")),
    ]
    assert {(x.low_hz, x.line) for x in found.rows[:2]} == {(100, 3), (100, 4)}
    assert math.isnan(found.rows[6].high_hz), "-1 is no frequency"
    assert [x.split(":")[-1] for x in found.notes] == [
        " is no table of annotations, left out",
        " ends 1.00 s after its recording, cut there",
    ]
    # Labels of a model are found by their other names.
    table = {"north/a.Table.1.selections.txt": "start_s\tend_s\tlabel\n1\t2\tturdus_merula\n"}
    assert (0, 1, 2, "eurbla") in read(table, KNOWN)[0]


def test_nothing_heard_counts_as_listened_to(read, recordings):
    rows, found = read({"b.1.csv": ",,\n,,\n", "all.csv": CSV + "north/a.wav,,,"})
    assert (rows, found.recordings) == ([], [recordings[0], recordings[2]])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", CSV + "north/a.wav,7,12,x", "row 2: .*must lie in its recording, a.wav of 8.00 s"),
        ("x.csv", CSV + "b.1.flac,8,9,x", "row 2: .*Received: 8 to 9 s$"),
        ("x.csv", CSV + "b.1.flac,2,1,x", "row 2: an annotation must end after it begins"),
        ("x.csv", CSV + "\nb.1.flac,1,2,cat", "row 3: a label must be .* Received: 'cat'"),
        ("x.csv", CSV + "b.1.flac,1,2,", "row 2: an annotation must have a label"),
        ("x.csv", CSV + "a.wav,1,2,x", "row 2: it must be clear which .*north/a.wav, .*south"),
        ("x.csv", CSV + "c.wav,1,2,x", "row 2: .*one of the data set's. Received: c.wav"),
        ("x.csv", CSV + "b.1.flac,1,5,2,5,x", "row 2: .*4 cells. Received: 6, perhaps of dec"),
        ("x.csv", "file,start_s,label\nb.1.flac,1,x", "a column for the end, .*Received: file, start_s, l"),
        ("x.csv", "start_s,end_s,label\n1,2,x", "must name its recordings, or have the name of one"),
        ("b.1.txt", f"{RAVEN}\n1\tSpectrogram 1\t1\t1\t2\t3\t4", "one for the label, such as label"),
        # A decimal comma beside decimal points, or one that may be a thousand.
        ("b.1.txt", "1,5\t2.5\tx", "row 1: the start must be a number. Received: '1,5', a comma"),
        ("b.1.txt", "1,500\t1,900\tx", "row 1: the start must be a number. Received: '1,500', a comma"),
        ("b.1.txt", "0.5 1.5 siren", "must be a table of annotations, .* Received: something else"),
        ("b.1.txt", b"1\t2\tRos\xe9", "row 1: a label must be UTF-8"),
        ("x.csv", CSV + "b.1.flac,1,2," + "x" * 200_000, "must be readable text, .*larger than field limit"),
        ("x.parquet", "PAR1", "must be readable text, JSON or Parquet"),
    ],
)
def test_bad_input_is_told_with_file_and_row(name, content, said, read):
    with pytest.raises(DataError, match=f"annotations must have no problems.*{name}.*{said}"):
        read({name: content}, LabelSet(["x"]))[1].require_clean()


def test_repeated_rows_count_once_and_a_folder_without_tables_is_refused(read, recordings):
    rows, found = read({"b.1.txt": "1\t2\tx\n", "x.csv": CSV + "b.1.flac,1.0,2.0,x"})
    assert rows == [(2, 1, 2, "x")]
    assert found.notes == ["x.csv row 2: is the same as row 1 of b.1.txt, counted once"]
    with pytest.raises(DataError, match=r"there must be a table of annotations .* no \.txt"):
        read_annotations(found.rows[0].source.parent.parent / "rec", recordings)


def test_windows_know_what_annotations_cover(read):
    labels, start_s = LabelSet(["x", "y"]), np.arange(0, 20, 5.0)
    base = read({"b.1.txt": "1\t2\tx\n"})[1].rows[0]

    def targets(begin_s, end_s, share=0.5):
        rows = [replace(base, start_s=begin_s, end_s=end_s)]
        found = covered(rows, start_s, start_s + 5, labels, share)
        assert not found[:, 1].any()
        return found[:, 0].tolist()

    assert targets(1, 1.2) == [1, 0, 0, 0], "a call is shorter than a window"
    assert targets(2, 17) == [1, 1, 1, -1], "a song is longer; of the last window it fills too little"
    assert targets(4, 6) == targets(4, 6, 0.6) == [1, 1, 0, 0], "where no window holds enough, the best do"
    assert targets(4.5, 6) == [-1, 1, 0, 0]
    assert targets(5, 5) == [0, 1, 0, 0], "a point"
    rows = [replace(base, start_s=4.5, end_s=6), replace(base, start_s=1, end_s=2)]
    assert covered(rows, start_s, start_s + 5, labels, 0.5)[0, 0] == 1, "what is there stays"
