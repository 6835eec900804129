"""`read_catalog`: what a data set holds, and all that is wrong with it at once."""

import csv
import shutil
import time

import numpy as np
import pandas as pd
import pytest

from keras_birds.config import DataConfig
from keras_birds.data.catalog import data_hash, read_catalog
from keras_birds.data.tables import is_inside, parse_secondary
from keras_birds.errors import DataError

COLUMNS = (
    *("primary_label", "secondary_labels", "type", "filename", "collection", "rating", "url", "latitude"),
    *("longitude", "scientific_name", "common_name", "author", "license"),
)
LABELS = ("wren", "1139490", "007")


def row(filename, label="wren", **cells):
    return {"primary_label": label, "secondary_labels": "['']", "filename": filename, **cells}


def write_csv(path, rows, columns=COLUMNS):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def touch(root, *names):
    """Files of some bytes: the tables' reader lists them and never opens one."""
    for size, name in enumerate(names, 1):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "birds"
    folder.mkdir()
    return folder


@pytest.fixture
def birdclef(root):
    """Writes BirdCLEF's layout, each file of the table there unless `absent` names it."""

    def write(rows, labels=LABELS, absent=()):
        write_csv(root / "train.csv", rows)
        taxonomy = [
            {"primary_label": x, "scientific_name": f"Avis {x}", "class_name": "Aves"} for x in labels
        ]
        columns = ("primary_label", "inat_taxon_id", "scientific_name", "common_name", "class_name")
        write_csv(root / "taxonomy.csv", taxonomy, columns)
        (root / "train_audio").mkdir()
        touch(root / "train_audio", *(x["filename"] for x in rows if x["filename"] not in absent))
        return root

    return write


def problems_of(root, **data):
    """All problems, each of them one line."""
    problems = read_catalog(root, DataConfig(**data)).problems
    assert not any("\n" in problem or "\r" in problem for problem in problems)
    return problems


def failure(root, **data):
    with pytest.raises(DataError) as caught:
        read_catalog(root, DataConfig(**data))
    message = str(caught.value)
    assert "\n" not in message
    assert "Received: " in message
    return message


def test_birdclef_layout(birdclef):
    known = {"rating": "3.5", "collection": "XC", "author": "Ana", "latitude": "5.7", "longitude": "-73.25"}
    names = ["wren/a.ogg", "1139490/b.ogg", "007/c.ogg"]
    root = birdclef(
        [
            row(names[0], **known),
            row(names[1], "1139490", secondary_labels="['wren', '007']", rating="0.0", license="cc0"),
            row(names[2], "007"),
        ],
        labels=(*LABELS, "NA"),
    )
    catalog = read_catalog(root, DataConfig())
    assert catalog.problems == []
    catalog.require_clean()
    assert catalog.labels.names == (*LABELS, "NA")
    assert catalog.labels.items[1].scientific_name == "Avis 1139490"
    assert catalog.labels.items[1].class_name == "Aves"
    table = catalog.recordings
    assert list(table["path"]) == [str(root / "train_audio" / x) for x in names]
    assert catalog.relative_paths == [f"train_audio/{x}" for x in names]
    assert list(table["label"]) == ["wren", "1139490", "007"]
    assert list(table["secondary"]) == [(), ("wren", "007"), ()]
    assert list(table["row"]) == [2, 3, 4]
    for column, value in (("rating", [3.5, 0, np.nan]), ("latitude", [5.7] + 2 * [np.nan])):
        np.testing.assert_array_equal(table[column], value)
    assert list(table["author"]) == ["Ana", "", ""]
    assert list(table["collection"]) == ["XC", "", ""]
    assert list(table["license"]) == ["", "cc0", ""]


def test_a_folder_per_label_needs_no_table(root):
    touch(root, "wren/b.wav", "wren/a.ogg", "wren/2024/may/c.FLAC", "007/d.mp3")
    touch(root, "wren/notes.txt", "wren/.hidden.wav", "wren/.trash/e.wav", ".cache/f.wav", "papers/g.pdf")
    (root / "empty").mkdir()
    catalog = read_catalog(root, DataConfig())
    assert catalog.problems == []
    assert catalog.labels.names == ("007", "wren")
    assert catalog.relative_paths == ["007/d.mp3", "wren/a.ogg", "wren/b.wav", "wren/2024/may/c.FLAC"]
    table = catalog.recordings
    assert list(table["label"]) == ["007", "wren", "wren", "wren"]
    assert list(table["row"]) == [0] * 4
    assert list(table["secondary"]) == [()] * 4
    assert table[["rating", "latitude", "longitude"]].isna().all(axis=None)


def test_what_lies_beside_label_folders_is_named(root):
    touch(
        root,
        "train_audio/wren/a.ogg",
        "train_audio/stray.wav",
        "train_audio/._a.wav",
        "train_audio/wren/b.zzz",
    )
    catalog = read_catalog(root, DataConfig())
    assert catalog.relative_paths == ["train_audio/wren/a.ogg"]
    base = root / "train_audio"
    reason = (
        f"holds 1 file of unknown kind, left out: {str(base / 'wren' / 'b.zzz')!r}; name those that are sound"
    )
    assert catalog.left_out == [
        (str(base), reason),
        (str(base / "stray.wav"), "lies in no label's folder, left out"),
    ]
    assert catalog.problems == []


def test_a_folder_per_label_takes_the_taxonomys_order_and_must_be_in_it(root):
    touch(root, "wren/a.ogg", "007/b.ogg", "zebra/c.ogg")
    write_csv(root / "taxonomy.csv", [{"primary_label": x} for x in ("wren", "007")], ["primary_label"])
    catalog = read_catalog(root, DataConfig())
    assert catalog.labels.names == ("wren", "007")
    assert catalog.problems == ["the primary label must be in taxonomy.csv. Received: 'zebra'"]


CALLS = {
    "table": "calls.csv",
    "audio_dir": "",
    "column_path": "file",
    "column_label": "species",
    "column_secondary": "others",
    "column_rating": "quality",
    "column_collection": "source",
    "column_author": "recordist",
    "column_latitude": "lat",
    "column_longitude": "lon",
}


def test_any_csv_is_read_by_its_own_column_names(root):
    cells = dict(
        zip(list(CALLS.values())[2:], ("x/1.wav", "42", "['wren']", "4", "own", "Bo", "1", "2"), strict=True)
    )
    rows = [
        {**cells, "site": "007", "common_name": "The Answer"},
        {"file": "2.wav", "species": "wren", "site": "8"},
    ]
    write_csv(root / "calls.csv", rows, [*cells, "site", "common_name"])
    touch(root, "x/1.wav", "2.wav")
    catalog = read_catalog(root, DataConfig(**CALLS))
    assert catalog.problems == []
    assert catalog.labels.names == ("42", "wren")
    assert catalog.labels.items[0].common_name == "The Answer"
    assert catalog.relative_paths == ["x/1.wav", "2.wav"]
    first = catalog.recordings.iloc[0]
    assert (first["label"], first["secondary"], first["rating"]) == ("42", ("wren",), 4.0)
    assert (first["collection"], first["author"]) == ("own", "Bo")
    assert (first["latitude"], first["longitude"]) == (1.0, 2.0)
    assert first["site"] == "007"


def test_a_mapped_column_that_is_not_there_is_told(root):
    write_csv(root / "calls.csv", [{"file": "1.wav", "species": "wren"}], ["file", "species"])
    touch(root, "1.wav")
    problems = problems_of(root, **CALLS)
    assert [x.split(". ")[0] for x in problems] == [
        f"calls.csv must have the column {CALLS[f'column_{key}']} (data.column_{key})"
        for key in ("secondary", "rating", "collection", "author", "latitude", "longitude")
    ]
    assert all(x.endswith("Received: file, species") for x in problems)
    write_csv(root / "calls.csv", [{"file": "1.wav"}], ["file"])
    with pytest.raises(DataError, match=r"must have the column species \(data.column_label\)"):
        read_catalog(root, DataConfig(**CALLS)).require_clean()


CELLS = [("['']", ()), ("[]", ()), ("", ()), ("nan", ()), ("['a']", ("a",)), (" ['a', 'a', ''] ", ("a",))]


@pytest.mark.parametrize(("cell", "expected"), [*CELLS, ('["a", "b c", \'007\']', ("a", "b c", "007"))])
def test_secondary_labels_are_a_literal(cell, expected):
    assert parse_secondary(cell) == (expected, "")


@pytest.mark.parametrize("cell", ["a", "['a'", "('a', 'b')", "['a', 7]", "{'a': 1}", "[" * 5000])
def test_what_is_no_list_of_strings_is_reported_with_its_row(birdclef, cell):
    root = birdclef([row("wren/a.ogg"), row("wren/b.ogg", secondary_labels=cell)])
    shown = repr(cell if len(cell) <= 60 else cell[:60] + "...")
    rule = "secondary_labels must be a list of strings such as ['a', 'b']"
    assert problems_of(root) == [f"train.csv row 3: {rule}. Received: {shown}"]


def test_code_in_a_cell_is_never_run(birdclef, tmp_path):
    touched = tmp_path / "touched"
    cells = [f"__import__('os').system('touch {touched}')", f"[open({str(touched)!r}, 'w').name]"]
    problems = problems_of(birdclef([row(f"wren/{i}.ogg", secondary_labels=x) for i, x in enumerate(cells)]))
    assert [x[:33] for x in problems] == [f"train.csv row {i}: secondary_labels" for i in (2, 3)]
    assert not touched.exists()


def test_min_rating_leaves_out_lower_ones_and_keeps_the_unrated(birdclef):
    ratings = ["1.5", "2.0", "5", "0.0", "", "nan"]
    root = birdclef([row(f"wren/{i}.ogg", rating=rating) for i, rating in enumerate(ratings)])
    kept = read_catalog(root, DataConfig(min_rating=2.0))
    assert [x[-5] for x in kept.relative_paths] == ["1", "2", "3", "4", "5"]
    assert list(kept.recordings["row"]) == [3, 4, 5, 6, 7]
    assert len(read_catalog(root, DataConfig())) == 6


def test_collections_stay_where_they_are_named(birdclef):
    names = ["XC", "iNat", "CSA", "XC"]
    root = birdclef([row(f"wren/{i}.ogg", collection=name) for i, name in enumerate(names)])
    kept = read_catalog(root, DataConfig(collections=("XC", "CSA")))
    assert kept.problems == []
    assert list(kept.recordings["collection"]) == ["XC", "CSA", "XC"]
    assert problems_of(root, collections=("XC", "Xeno")) == [
        "data.collections must be among 'CSA', 'XC', 'iNat'. Received: 'Xeno'"
    ]


def test_rows_that_are_left_out_are_not_checked(birdclef):
    root = birdclef(
        [row("wren/a.ogg", rating="4"), row("wren/b.ogg", "zebra", rating="1", latitude="north")],
        absent=["wren/b.ogg"],
    )
    assert len(problems_of(root)) == 3
    assert problems_of(root, min_rating=3) == []


def test_filters_that_leave_nothing_are_a_problem(birdclef):
    root = birdclef([row("wren/a.ogg", rating="1", collection="XC")])
    assert problems_of(root, min_rating=3, collections=("XC",)) == [
        "data.min_rating and data.collections must leave some of the 1 recordings of train.csv. Received: "
        "3 and ['XC'], which leave none"
    ]


def test_all_problems_at_once_each_with_its_rows(birdclef):
    root = birdclef(
        [
            row("wren/a.ogg"),
            row("wren/gone.ogg"),
            row("zebra/c.ogg", "zebra"),
            row("wren/d.ogg", secondary_labels="['gnu', 'wren']"),
            row("wren/a.ogg"),
            row("wren/f.ogg", rating="good"),
            row("wren/g.ogg", latitude="91", longitude="-180.5"),
            row("../h.ogg"),
            row("wren/i.ogg", ""),
            row("wren/./d.ogg"),
        ],
        absent=["wren/gone.ogg"],
    )
    with (root / "train.csv").open("a") as file:
        file.write("wren,['']\n")
    catalog = read_catalog(root, DataConfig())
    assert sorted(catalog.problems) == sorted(
        [
            "train.csv row 3: the file must exist. Received: wren/gone.ogg",
            "train.csv row 4: the primary label must be in taxonomy.csv. Received: 'zebra'",
            "train.csv row 5: a secondary label must be in taxonomy.csv. Received: 'gnu'; add it or set "
            "data.secondary=ignore",
            "train.csv row 6: a recording must be listed once. Received: wren/a.ogg, which row 2 has",
            "train.csv row 7: rating must be a number. Received: 'good'",
            "train.csv row 8: latitude must be a number from -90 to 90. Received: '91'",
            "train.csv row 8: longitude must be a number from -180 to 180. Received: '-180.5'",
            "train.csv row 9: filename must be a path below train_audio. Received: '../h.ogg'",
            "train.csv row 10: primary_label must not be empty",
            "train.csv row 11: a recording must be listed once. Received: wren/./d.ogg, which row 5 has",
            "train.csv row 12: a row must have the header's 13 cells. Received: 2",
        ]
    )
    assert list(catalog.recordings["row"]) == [2, 3, 4, 5, 6, 7, 8, 10, 11]
    with pytest.raises(DataError, match=r"one of the 3 known. Received: 'gnu'"):
        catalog.targets(DataConfig())


OUTSIDE = [
    "",
    ".",
    "/etc/passwd",
    "../a.ogg",
    "wren/../../a.ogg",
    "wren/..",
    "C:\\a.ogg",
    "C:a.ogg",
    "..\\a.ogg",
]


@pytest.mark.parametrize("path", [*OUTSIDE, "\\\\host\\share\\a.ogg", "a\0.ogg"])
def test_a_path_that_leaves_the_folder_is_no_recording(birdclef, path):
    assert not is_inside(path)
    root = birdclef([row("wren/a.ogg"), row("wren/b.ogg")])
    write_csv(root / "train.csv", [row("wren/a.ogg"), row(path)])
    catalog = read_catalog(root, DataConfig())
    assert catalog.problems == [
        f"train.csv row 3: filename must be a path below train_audio. Received: {path!r}"
    ]
    assert catalog.relative_paths == ["train_audio/wren/a.ogg"]


@pytest.mark.parametrize("path", ["a.ogg", "wren/a.ogg", "./wren/a b.ogg", "wren/..a.ogg", "wren/ñ…/a.ogg"])
def test_a_path_inside_is_one(path):
    assert is_inside(path)


def test_secondary_labels_outside_the_taxonomy_may_be_ignored(birdclef):
    root = birdclef([row("wren/a.ogg", secondary_labels="['gnu']")])
    assert problems_of(root, secondary="mask") != []
    assert problems_of(root, secondary="ignore") == []


def test_the_same_problem_in_many_rows_is_one_line(birdclef):
    root = birdclef([row(f"zebra/{i}.ogg", "zebra") for i in range(8)])
    assert problems_of(root) == [
        "train.csv rows 2, 3, 4, 5, 6 and 3 more: the primary label must be in taxonomy.csv. "
        "Received: 'zebra'"
    ]


def test_row_numbers_are_lines_of_the_file(root):
    touch(root, "train_audio/a.ogg")
    lines = [
        "filename,primary_label,remark",
        'a.ogg,wren,"two',
        'lines, and ""quoted"""',
        "",
        "b.ogg,wren,",
        '"c\nd.ogg",wren,',
        "e.ogg,wren,",
    ]
    (root / "train.csv").write_text("\r\n".join(lines) + "\r\n", encoding="utf-8-sig", newline="")
    catalog = read_catalog(root, DataConfig())
    assert list(catalog.recordings["row"]) == [2, 5, 6, 8]
    assert catalog.recordings["remark"][0] == 'two\r\nlines, and "quoted"'
    assert catalog.problems == [
        "train.csv row 5: the file must exist. Received: b.ogg",
        "train.csv row 6: the file must exist. Received: c\\nd.ogg",
        "train.csv row 8: the file must exist. Received: e.ogg",
    ]


def test_a_table_without_recordings_or_columns(root):
    (root / "train.csv").write_text("filename,primary_label\n")
    assert problems_of(root) == ["train.csv must list at least one recording. Received: none"]
    (root / "train.csv").write_text("")
    assert problems_of(root) == [
        "train.csv must have the column filename (data.column_path). Received: no columns",
        "train.csv must have the column primary_label (data.column_label). Received: no columns",
    ]
    (root / "train.csv").write_text("filename,primary_label,filename\na.ogg,wren,b.ogg\n")
    assert "train.csv row 1: column names must be unique. Received twice: filename" in problems_of(root)


def test_without_its_audio_folder_a_table_has_one_problem(birdclef):
    root = birdclef([row(f"wren/{i}.ogg") for i in range(30)])
    shutil.rmtree(root / "train_audio")
    assert problems_of(root) == [
        f"data.audio_dir must be a folder. Received: {root / 'train_audio'}, so none of the 30 recordings of "
        "train.csv is there"
    ]


def test_what_is_wrong_with_the_taxonomy_is_told_by_its_rows(birdclef):
    root = birdclef([row("wren/a.ogg")], labels=("wren", "", "007", "wren"))
    assert problems_of(root) == [
        "taxonomy.csv row 3: primary_label must not be empty",
        "taxonomy.csv row 5: a label must be listed once. Received: 'wren' again",
    ]
    (root / "taxonomy.csv").write_text("primary_label\n")
    assert "taxonomy.csv must list at least one label. Received: none" in problems_of(root)
    (root / "taxonomy.csv").write_text("code,name\nwren,Wren\n")
    assert problems_of(root) == ["taxonomy.csv must have the column primary_label. Received: code, name"]
    assert problems_of(root, taxonomy="none.csv") == [
        "data.taxonomy must name a CSV in the data set's folder. Received: none.csv"
    ]
    assert problems_of(root, taxonomy="") == []


def test_labels_are_taken_without_the_white_space_around_them_and_not_spelled_in_two_ways(root):
    for label in ("dog", "dog ", "Dog", "cat"):
        touch(root, f"train_audio/{label}/{label.strip()}{len(label)}.ogg")
    catalog = read_catalog(root, DataConfig())
    assert list(catalog.labels) == ["Dog", "cat", "dog"]
    rule = "labels must differ by more than case, spaces or Unicode form. Received: 'Dog' and 'dog'; spell them alike"
    assert catalog.problems == [rule]
    (root / "train.csv").write_text(
        "filename,primary_label,secondary_labels\nDog/Dog3.ogg,Dog,[]\ndog/dog3.ogg, dog ,\"['Dog ']\"\n"
    )
    catalog = read_catalog(root, DataConfig())
    assert catalog.problems == [f"train.csv row 3: {rule}"]
    assert catalog.recordings["secondary"][1] == ("Dog",)
    (root / "taxonomy.csv").write_text("primary_label\ndog \n")
    assert problems_of(root) == [
        "train.csv row 2: the primary label must be in taxonomy.csv. Received: 'Dog'",
        "train.csv row 3: a secondary label must be in taxonomy.csv. Received: 'Dog'; add it or set "
        "data.secondary=ignore",
    ]


@pytest.mark.parametrize("number", [1, 20, 25])
def test_require_clean_lists_twenty_and_counts_the_rest(birdclef, number):
    names = [f"wren/{i:02}.ogg" for i in range(number)]
    catalog = read_catalog(birdclef([row(name) for name in names], absent=names), DataConfig())
    with pytest.raises(DataError) as caught:
        catalog.require_clean()
    message = str(caught.value)
    count = "1 problem" if number == 1 else f"{number} problems"
    assert message.startswith(
        f"{catalog.root}: a data set must have no problems. Received {count}: "
        "train.csv row 2: the file must exist"
    )
    assert message.count("the file must exist") == min(number, 20)
    rest = "; and 5 more, which `keras-birds data check` lists"
    assert message.endswith(rest if number == 25 else f"wren/{number - 1:02}.ogg")
    assert "\n" not in message


@pytest.mark.parametrize("name", ["train.csv", "taxonomy.csv"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_table_that_is_not_utf_8(birdclef, name, encoding):
    root = birdclef([row("wren/a.ogg", author="Peña")])
    text = (root / name).read_text(encoding="utf-8") + "é\n"
    (root / name).write_text(text, encoding=encoding)
    message = failure(root)
    assert message.startswith(f"{root / name}: a table must be a CSV in UTF-8. Received: ")
    assert message.endswith("Save it as CSV with UTF-8 encoding")


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolon"), ("\t", "tab")])
def test_a_table_with_another_separator_is_told_as_such(birdclef, separator, name):
    root = birdclef([row("wren/a.ogg")])
    (root / "taxonomy.csv").write_text(f"primary_label{separator}class_name\nwren{separator}Aves\n")
    assert (
        f"Received: {'primary_label' + separator + 'class_name'!r}, which looks {name}-separated"
        in failure(root)
    )


def test_no_data_set(root):
    assert failure(root / "none") == f"a data set must be a folder. Received: {root / 'none'}"
    assert "a data set must have the table train.csv or a folder of audio files for each label" in failure(
        root
    )
    touch(root, "notes.txt", "papers/a.pdf")
    assert str(root) in failure(root)
    message = failure(root, table="calls.csv")
    assert message.startswith("data.table must name a CSV in the data set's folder. Received: calls.csv")


@pytest.mark.parametrize(
    ("settings", "secondary"),
    [
        ({}, 1.0),
        ({"secondary_weight": 0.25}, 0.25),
        ({"secondary": "mask", "secondary_weight": 0.25}, -1.0),
        ({"secondary": "ignore"}, 0.0),
    ],
)
def test_targets(birdclef, settings, secondary):
    root = birdclef(
        [
            row("wren/a.ogg"),
            row("007/b.ogg", "007", secondary_labels="['wren', '1139490']"),
            row("wren/c.ogg", secondary_labels="['wren', '007']"),
        ]
    )
    data = DataConfig(**settings)
    targets = read_catalog(root, data).targets(data)
    assert targets.dtype == np.float32
    s = secondary
    np.testing.assert_array_equal(targets, np.float32([[1, 0, 0], [s, s, 1], [1, 0, s]]))


def test_the_hash_depends_neither_on_place_nor_on_order(birdclef, tmp_path):
    rows = [row("wren/a.ogg"), row("007/b.ogg", "007", secondary_labels="['wren', '1139490']")]
    root, other = birdclef(rows), tmp_path / "elsewhere"
    first = data_hash(read_catalog(root, DataConfig()))
    assert len(first) == 64
    shutil.copytree(root, other)
    write_csv(other / "train.csv", [{**x, "author": "Ana"} for x in reversed(rows)])
    assert data_hash(read_catalog(other, DataConfig())) == first


def test_the_hash_changes_with_what_is_learned_from(birdclef):
    rows = [row("wren/a.ogg"), row("007/b.ogg", "007")]
    root = birdclef(rows)

    def digest(changed=rows):
        write_csv(root / "train.csv", changed)
        return data_hash(read_catalog(root, DataConfig()))

    digests = [
        digest(),
        digest([rows[0]]),
        digest([row("wren/a.ogg"), row("007/b.ogg", "1139490")]),
        digest([row("wren/a.ogg", secondary_labels="['007']"), rows[1]]),
        digest([row("wren/a.ogg", secondary_labels="['1139490']"), rows[1]]),
    ]
    with (root / "train_audio/wren/a.ogg").open("ab") as file:
        file.write(b"x")
    digests.append(digest())
    (root / "train_audio/wren/a.ogg").unlink()
    digests.append(digest())
    taxonomy = (root / "taxonomy.csv").read_text().splitlines()
    (root / "taxonomy.csv").write_text("\n".join([taxonomy[0], *taxonomy[:0:-1]]) + "\n")
    digests.append(digest())
    assert len(set(digests)) == len(digests)


def test_the_competitions_tables(birdclef_meta_dir):
    start = time.perf_counter()
    catalog = read_catalog(birdclef_meta_dir, DataConfig(table="train_reconstructed.csv"))
    assert time.perf_counter() - start < 20
    submission = pd.read_csv(birdclef_meta_dir / "sample_submission.csv", nrows=0)
    assert list(catalog.labels) == list(submission.columns[1:])
    table = pd.read_csv(birdclef_meta_dir / "train_reconstructed.csv", dtype=str, keep_default_na=False)
    assert list(catalog.recordings["label"]) == list(table["primary_label"])
    assert list(catalog.recordings["row"]) == list(range(2, 28_544))
    listed = table["secondary_labels"].str.findall(r"'([^']+)'")
    assert [list(x) for x in catalog.recordings["secondary"]] == list(listed)
    strange = {name for names in listed for name in names if name not in catalog.labels}
    assert catalog.problems[0].startswith("data.audio_dir must be a folder.")
    assert len(catalog.problems) == 1 + len(strange)
