"""`read_catalog`: what a data set holds, and all that is wrong with it at once."""

import shutil

import numpy as np
import pandas as pd
import pytest
from sounds import touch

from keras_birds.config import DataConfig
from keras_birds.data.catalog import data_hash, read_catalog
from keras_birds.errors import DataError
from keras_birds.labels import Label, LabelSet, near_duplicates

LABELS = ("wren", "1139490", "007")


def row(filename, label="wren", secondary="['']", **cells):
    return {"filename": filename, "primary_label": label, "secondary_labels": secondary, **cells}


@pytest.fixture
def birdclef(tmp_path):
    """Writes BirdCLEF's layout, each file of the table there unless `absent` names it."""

    def write(rows, labels=LABELS, absent=()):
        pd.DataFrame(rows).to_csv(tmp_path / "train.csv", index=False)
        taxonomy = "".join(f"{x},Avis {x},Aves\n" for x in labels)
        (tmp_path / "taxonomy.csv").write_text("primary_label,scientific_name,class_name\n" + taxonomy)
        (tmp_path / "train_audio").mkdir(exist_ok=True)
        touch(tmp_path / "train_audio", *(x["filename"] for x in rows if x["filename"] not in absent))
        return tmp_path

    return write


def problems_of(root, **data):
    return read_catalog(root, DataConfig(**data)).problems


def test_birdclef_layout(birdclef):
    names, nan = ["wren/a.ogg", "1139490/b.ogg", "007/c.ogg"], np.nan
    rows = [
        row(names[0], rating="3.5", collection="XC", author="Ana", latitude="5.7", longitude="-73.25"),
        row(names[1], "1139490", "['wren', '007']", rating="0.0", license="cc0"),
        row(names[2], "007"),
    ]
    root = birdclef(rows, labels=(*LABELS, "NA"))
    catalog = read_catalog(root, DataConfig())
    catalog.require_clean()
    assert catalog.labels.names == (*LABELS, "NA")
    assert catalog.labels.items[1] == Label("1139490", "Avis 1139490", class_name="Aves")
    assert catalog.relative_paths == [f"train_audio/{x}" for x in names]
    expected = {
        "path": [str(root / "train_audio" / x) for x in names],
        "label": LABELS,
        "secondary": [(), ("wren", "007"), ()],
        "row": [2, 3, 4],
        "rating": [3.5, 0, nan],
        "latitude": [5.7, nan, nan],
        "longitude": [-73.25, nan, nan],
        "author": ["Ana", "", ""],
        "collection": ["XC", "", ""],
        "license": ["", "cc0", ""],
    }
    found = catalog.recordings[list(expected)]
    pd.testing.assert_frame_equal(found, pd.DataFrame(expected), check_dtype=False)


def test_a_folder_per_label_needs_no_table(tmp_path):
    touch(tmp_path, "wren/b.wav", "wren/a.ogg", "wren/2024/may/c.FLAC", "007/d.mp3")
    touch(tmp_path, "wren/notes.txt", "wren/.hidden.wav", "wren/.trash/e.wav", ".cache/f.wav", "papers/g.pdf")
    (tmp_path / "empty").mkdir()
    catalog = read_catalog(tmp_path, DataConfig())
    assert (catalog.problems, catalog.left_out) == ([], [])
    assert catalog.labels.names == ("007", "wren")
    assert catalog.relative_paths == ["007/d.mp3", "wren/a.ogg", "wren/b.wav", "wren/2024/may/c.FLAC"]
    table = catalog.recordings
    assert list(table["label"]) == ["007", "wren", "wren", "wren"]
    assert table[["row", "secondary", "author"]].drop_duplicates().to_numpy().tolist() == [[0, (), ""]]
    assert table[["rating", "latitude", "longitude"]].isna().all(axis=None)

    # Folders below the audio folder go before, and take the taxonomy's order.
    base = tmp_path / "train_audio"
    touch(base, "wren/a.ogg", "007/b.ogg", "zebra/c.ogg", "stray.wav", "._a.wav", "wren/b.zzz")
    (tmp_path / "taxonomy.csv").write_text("primary_label\nwren\n007\n")
    catalog = read_catalog(tmp_path, DataConfig())
    assert catalog.labels.names == ("wren", "007")
    assert catalog.relative_paths == [f"train_audio/{x}" for x in ("007/b.ogg", "wren/a.ogg", "zebra/c.ogg")]
    assert catalog.problems == ["the primary label must be in taxonomy.csv. Received: 'zebra'"]
    unknown = f"1 file of unknown kind, left out: {str(base / 'wren/b.zzz')!r}; name those that are sound"
    stray = (str(base / "stray.wav"), "lies in no label's folder, left out")
    assert catalog.left_out == [(str(base), f"holds {unknown}"), stray]


KEYS = ("path", "label", "secondary", "rating", "collection", "author", "latitude", "longitude")
NAMES = ("file", "species", "others", "quality", "source", "recordist", "lat", "lon")


def test_any_csv_is_read_by_its_own_column_names_which_must_be_there(tmp_path):
    columns = {f"column_{key}": name for key, name in zip(KEYS, NAMES, strict=True)}
    settings = {"table": "calls.csv", "audio_dir": "", **columns}
    (tmp_path / "calls.csv").write_text(
        f"{','.join(NAMES)},site,common_name\n"
        "x/1.wav,42,['wren'],4,own,Bo,1,2,007,The Answer\n2.wav,wren,,,,,,,8,\n"
    )
    touch(tmp_path, "x/1.wav", "2.wav")
    catalog = read_catalog(tmp_path, DataConfig(**settings))
    assert catalog.problems == []
    assert catalog.labels.items == (Label("42", common_name="The Answer"), Label("wren"))
    assert catalog.relative_paths == ["x/1.wav", "2.wav"]
    found = catalog.recordings.iloc[0][[*KEYS[1:], "site"]].tolist()
    assert found == ["42", ("wren",), 4, "own", "Bo", 1, 2, "007"]

    (tmp_path / "calls.csv").write_text("file,species\nx/1.wav,wren\n")
    assert problems_of(tmp_path, **settings) == [
        f"calls.csv must have the column {column} (data.{key}). Received: file, species"
        for key, column in list(columns.items())[2:]
    ]


def test_secondary_labels_are_a_literal_and_never_run(birdclef):
    good = {"['']": (), "[]": (), "": (), "nan": (), " None ": (), " ['wren', 'wren', ''] ": ("wren",)}
    good["[\"wren\", '1139490', '007 ']"] = ("wren", "1139490", "007")
    bad = ["a", "['a'", "('a', 'b')", "['a', 7]", "{'a': 1}", "[" * 5000, "x" * 60, "x" * 61]
    bad += ["__import__('os').abort()", "[open('/', 'r').name]"]
    rows = [row(f"{i}.ogg", secondary=x) for i, x in enumerate([*good, *bad])]
    catalog = read_catalog(birdclef(rows), DataConfig())
    assert list(catalog.recordings["secondary"]) == [*good.values(), *[()] * len(bad)]
    assert catalog.problems == [
        f"train.csv row {line}: secondary_labels must be a list of strings such as ['a', 'b']. "
        f"Received: {cell if len(cell) <= 60 else cell[:60] + '...'!r}"
        for line, cell in enumerate(bad, 2 + len(good))
    ]


def test_filters_leave_out_rows_that_are_then_not_checked(birdclef):
    cells = {"1.5": "XC", "2.0": "iNat", "5": "CSA", "0.0": "XC", "": "", "nan": "XC", "1": "CSA"}
    rows = [row(f"{i}.ogg", rating=x, collection=y) for i, (x, y) in enumerate(cells.items())]
    rows[-1] |= {"primary_label": "zebra", "latitude": "north"}
    root, rated = birdclef(rows, absent=["6.ogg"]), {"min_rating": 2.0}
    assert len(problems_of(root)) == 3
    both, collections = rated | {"collections": ("XC",)}, {"collections": ("XC", "iNat")}
    for settings, kept in ((rated, [3, 4, 5, 6, 7]), (collections, [2, 3, 5, 7]), (both, [5, 7])):
        catalog = read_catalog(root, DataConfig(**settings))
        assert (catalog.problems, list(catalog.recordings["row"])) == ([], kept)


TWICE, POLE = "a recording must be listed once. Received: ", {"latitude": "-90", "longitude": "180"}
GNU = "a secondary label must be in taxonomy.csv. Received: 'gnu'; add it or set data.secondary=ignore"


def test_all_problems_at_once_each_with_its_rows(birdclef):
    cases = [
        (row("a.ogg"), ""),
        (row("gone.ogg"), "the file must exist. Received: gone.ogg"),
        (row("c.ogg", "zebra"), "the primary label must be in taxonomy.csv. Received: 'zebra'"),
        (row("d.ogg", secondary="['gnu', 'wren']"), GNU),
        (row("a.ogg"), TWICE + "a.ogg, which row 2 has"),
        (row("f.ogg", rating="good"), "rating must be a number. Received: 'good'"),
        (row("g.ogg", latitude="91"), "latitude must be a number from -90 to 90. Received: '91'"),
        (row("h.ogg", longitude="-181"), "longitude must be a number from -180 to 180. Received: '-181'"),
        (row("i.ogg", rating="inf", **POLE), "rating must be a number. Received: 'inf'"),
        (row("j.ogg", ""), "primary_label must not be empty"),
        (row("./d.ogg"), TWICE + "./d.ogg, which row 5 has"),
        (None, "a row must have the header's 6 cells. Received: 2"),
    ]
    root = birdclef([x for x, _ in cases[:-1]], absent=["gone.ogg"])
    with (root / "train.csv").open("a") as file:
        file.write("wren,['']\n")
    catalog = read_catalog(root, DataConfig())
    told = [f"train.csv row {i}: {problem}" for i, (_, problem) in enumerate(cases, 2) if problem]
    assert sorted(catalog.problems) == sorted(told)
    assert list(catalog.recordings["row"]) == list(range(2, 13))
    assert not any("gnu" in x for x in problems_of(root, secondary="ignore"))
    assert any("gnu" in x for x in problems_of(root, secondary="mask"))
    with pytest.raises(DataError, match=r"one of the 3 known. Received: 'gnu'"):
        catalog.targets(DataConfig())


def test_a_path_that_leaves_the_folder_is_no_recording(birdclef):
    inside = ["a.ogg", "wren/a.ogg", "./wren/a b.ogg", "wren/..a.ogg", "wren/ñ…/a.ogg"]
    outside = ["", ".", "/etc/passwd", "../a.ogg", "wren/../../a.ogg", "wren/..", "C:\\a.ogg", "C:a.ogg"]
    outside += ["..\\a.ogg", "\\\\host\\share\\a.ogg", "\\a.ogg", "a\0.ogg"]
    catalog = read_catalog(birdclef([row(x) for x in inside + outside], absent=outside), DataConfig())
    assert catalog.problems == [
        f"train.csv row {line}: filename must be a path below train_audio. Received: {path!r}"
        for line, path in enumerate(outside, 2 + len(inside))
    ]
    assert catalog.relative_paths == [f"train_audio/{x.removeprefix('./')}" for x in inside]


def test_row_numbers_are_lines_of_the_file(tmp_path):
    touch(tmp_path, "train_audio/a.ogg")
    lines = ["filename,primary_label,remark", 'a.ogg,wren,"two', 'lines, and ""quoted"""', "", "b.ogg,wren,"]
    lines += ['"c\nd.ogg",wren,', "e.ogg,wren,"]
    (tmp_path / "train.csv").write_text("\r\n".join(lines) + "\r\n", encoding="utf-8-sig", newline="")
    catalog = read_catalog(tmp_path, DataConfig())
    assert list(catalog.recordings["row"]) == [2, 5, 6, 8]
    assert catalog.recordings["remark"][0] == 'two\r\nlines, and "quoted"'
    assert catalog.problems == [
        f"train.csv row {line}: the file must exist. Received: {name}"
        for line, name in ((5, "b.ogg"), (6, "c\\nd.ogg"), (8, "e.ogg"))
    ]


def test_what_is_wrong_with_whole_tables(tmp_path):
    touch(tmp_path / "train_audio", *(f"{x}.ogg" for x in "abcdef"))
    header, zebra = "filename,primary_label\n", "the primary label must be in taxonomy.csv. Received: 'zebra'"
    rated = "filename,primary_label,rating,collection\na.ogg,wren,1,XC\n"
    left_none = "data.min_rating and data.collections must leave some of the 1 recordings of train.csv. "
    left_none += "Received: {} and ['XC'], which leave none"
    absent = "train.csv must have the column {} (data.column_{}). Received: {}".format

    def told(train=rated, taxonomy="primary_label\nwren\n", **settings):
        (tmp_path / "train.csv").write_text(train)
        (tmp_path / "taxonomy.csv").write_text(taxonomy)
        return problems_of(tmp_path, **settings)

    assert told(header) == ["train.csv must list at least one recording. Received: none"]
    keys = (("filename", "path"), ("primary_label", "label"))
    assert told("") == [absent(*x, "no columns") for x in keys]
    assert told(header + "a.ogg,wren\n", min_rating=1, collections=("XC",)) == [
        *(absent(x, x, "filename, primary_label") for x in ("rating", "collection")),
        left_none.format(1),
    ]
    assert told(min_rating=3, collections=("XC",)) == [left_none.format(3)]
    away = f"data.audio_dir must be a folder. Received: {tmp_path / 'x'}, so none of the 1 recordings of train.csv"
    assert told(audio_dir="x") == [f"{away} is there"]
    unknown = ["data.collections must be among 'CSA', 'XC'. Received: 'Xeno'"]
    assert told(rated + "b.ogg,wren,1,CSA\n", collections=("XC", "Xeno")) == unknown
    twice = ["train.csv row 1: column names must be unique. Received twice: filename"]
    assert told("filename,primary_label,filename\na.ogg,wren,a.ogg\n") == twice
    for listed, rows in (("ab", "2, 3"), ("abcde", "2, 3, 4, 5, 6"), ("abcdef", "2, 3, 4, 5, 6 and 1 more")):
        table = header + "".join(f"{x}.ogg,zebra\n" for x in listed)
        assert told(table) == [f"train.csv rows {rows}: {zebra}"]
    assert told(taxonomy='primary_label\nwren\n""\n007\nwren\n') == [
        "taxonomy.csv row 3: primary_label must not be empty",
        "taxonomy.csv row 5: a label must be listed once. Received: 'wren' again",
    ]
    nothing = "taxonomy.csv must list at least one label. Received: none"
    assert told(header + "a.ogg,zebra\n", "primary_label\n") == [nothing, f"train.csv row 2: {zebra}"]
    other = ["taxonomy.csv must have the column primary_label. Received: code, name"]
    assert told(taxonomy="code,name\nwren,Wren\n") == other
    assert told("filename,code\na.ogg,x\n", "code,primary_label\nx,y\n", column_label="code") == []
    none = ["data.taxonomy must name a CSV in the data set's folder. Received: none.csv"]
    (tmp_path / "train.csv").write_text(rated)
    assert problems_of(tmp_path, taxonomy="none.csv") == none
    assert problems_of(tmp_path, taxonomy="") == []


def test_labels_are_taken_without_white_space_around_them_and_not_spelled_in_two_ways(tmp_path):
    for label in ("dog", "dog ", "Dog", "cat"):
        touch(tmp_path, f"train_audio/{label}/{label.strip()}{len(label)}.ogg")
    catalog = read_catalog(tmp_path, DataConfig())
    assert list(catalog.labels) == ["Dog", "cat", "dog"]
    rule = "labels must differ by more than case, spaces or Unicode form. Received: 'Dog' and 'dog'; spell them alike"
    assert catalog.problems == [rule]
    rows = "Dog/Dog3.ogg,Dog,[]\ndog/dog3.ogg, dog ,\"['Dog ']\"\n"
    (tmp_path / "train.csv").write_text("filename,primary_label,secondary_labels\n" + rows)
    assert problems_of(tmp_path) == [f"train.csv row 3: {rule}"]
    (tmp_path / "taxonomy.csv").write_text("primary_label\ndog \n")
    assert problems_of(tmp_path) == [
        "train.csv row 2: the primary label must be in taxonomy.csv. Received: 'Dog'",
        f"train.csv row 3: {GNU.replace('gnu', 'Dog')}",
    ]


def test_require_clean_lists_twenty_and_counts_the_rest(birdclef):
    for n, rest in ((1, ""), (20, ""), (21, "; and 1 more, which `keras-birds data check` lists")):
        names = [f"wren/{i:02}.ogg" for i in range(n)]
        root = birdclef([row(name) for name in names], absent=names)
        catalog = read_catalog(root, DataConfig())
        with pytest.raises(DataError) as caught:
            catalog.require_clean()
        told = f"{n} problem{'s' * (n > 1)}: {'; '.join(catalog.problems[:20])}"
        assert str(caught.value) == f"{root}: a data set must have no problems. Received {told}{rest}"


UTF_8 = r"a table must be a CSV in UTF-8. Received: .*Save it as CSV with UTF-8 encoding$"


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        ("train.csv", "é\n".encode("latin-1"), {}, f"train.csv: {UTF_8}"),
        ("taxonomy.csv", "é\n".encode("utf-16"), {}, f"taxonomy.csv: {UTF_8}"),
        ("taxonomy.csv", b"a;b\nwren;Aves\n", {}, "Received: 'a;b', which looks semicolon-separated"),
        ("train.csv", b"a\tb\nwren\tAves\n", {}, r"Received: 'a\\tb', which looks tab-separated"),
        ("a/b.pdf", b"", {}, "must have the table train.csv or a folder of audio .* Received: {root}"),
        ("a/b.ogg", b"", {"table": "c.csv"}, "data.table must name a CSV .* Received: c.csv, not a file"),
    ],
)
def test_what_is_no_data_set_is_refused(tmp_path, name, content, settings, message):
    touch(tmp_path, name, content=content)
    with pytest.raises(DataError, match=message.replace("{root}", str(tmp_path))):
        read_catalog(tmp_path, DataConfig(**settings))
    with pytest.raises(DataError, match=rf"a data set must be a folder. Received: {tmp_path / 'none'}$"):
        read_catalog(tmp_path / "none", DataConfig())


def test_targets(birdclef):
    cells = [("wren", "[]"), ("007", "['wren', '1139490']"), ("wren", "['wren', '007']")]
    root = birdclef([row(f"{i}.ogg", *x) for i, x in enumerate(cells)])
    quarter = {"secondary_weight": 0.25}
    kinds = ({}, 1), (quarter, 0.25), (quarter | {"secondary": "mask"}, -1), ({"secondary": "ignore"}, 0)
    for settings, s in kinds:
        targets = read_catalog(root, DataConfig(**settings)).targets(DataConfig(**settings))
        assert targets.dtype == np.float32
        assert targets.tolist() == [[1, 0, 0], [s, s, 1], [1, 0, s]]


def test_the_hash_depends_on_what_is_learned_from_and_neither_on_place_nor_on_order(birdclef, tmp_path):
    rows = [row("wren/a.ogg"), row("007/b.ogg", "007", "['wren', '1139490']")]

    def digest(changed, **settings):
        return data_hash(read_catalog(birdclef(changed, **settings), DataConfig()))

    root, other = birdclef(rows), tmp_path / "elsewhere"
    shutil.copytree(root, other)
    others = (rows[:1], [rows[0], row("007/b.ogg", "007")], [rows[0], row("007/b.ogg", "1139490")])
    digests = [digest(x) for x in (rows, *others, [row("wren/a.ogg", secondary="['007']"), rows[1]])]
    digests.append(digest(rows, labels=LABELS[::-1]))
    pd.DataFrame([{**x, "author": "Ana"} for x in rows[::-1]]).to_csv(other / "train.csv", index=False)
    assert data_hash(read_catalog(other, DataConfig())) == digests[0]
    for change in (lambda x: x.write_bytes(b"longer"), lambda x: x.unlink()):
        change(other / "train_audio/wren/a.ogg")
        digests.append(data_hash(read_catalog(other, DataConfig())))
    assert [len(x) for x in set(digests)] == [64] * 8


def test_a_label_set_keeps_the_order_and_the_strings_and_finds_names_that_people_take_for_one():
    names = ("1139490", "compau", "0022", "22")
    labels = LabelSet(names)
    assert (tuple(labels), labels.names, labels[1:3]) == (names, names, names[1:3])
    assert [labels.index(name) for name in labels] == list(range(len(labels))) == [0, 1, 2, 3]
    assert ("0022" in labels, 22 in labels) == (True, False)
    with pytest.raises(DataError, match=r"one of the 4 known\. Received: 'c'"):
        labels.index("c")
    told = LabelSet([Label("1139490", "Pitangus sulphuratus", "Great Kiskadee", "Aves"), *names[1:]])
    assert len({labels, told}) == 1
    assert labels not in (LabelSet(names[::-1]), list(names))
    for labels, message in (
        (["a", 1139490], r"non-empty string\. Received: 1139490"),
        (["a", ""], r"non-empty string\. Received: ''"),
        (["c", "a", "b", "a", "c"], r"unique\. Received twice: a, c$"),
    ):
        with pytest.raises(DataError, match=message):
            LabelSet(labels)
    names = ["dog", "caf\u00e9", "Dog", "red  fox", "cafe\u0301", "red fox", "DOG", "dogs", "dog"]
    groups = [("dog", "Dog", "DOG"), ("caf\u00e9", "cafe\u0301"), ("red  fox", "red fox")]
    assert near_duplicates(names) == groups
