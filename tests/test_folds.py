"""Folds and the hidden test set, on made-up tables and on real ones."""

import csv
import math
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest

from keras_birds.config import DataConfig, FoldsConfig
from keras_birds.data.catalog import read_catalog
from keras_birds.data.folds import HIDDEN, Split, make_split
from keras_birds.errors import ConfigError, DataError
from keras_birds.run_layout import FULL


@lru_cache
def read_real(folder, table):
    return read_catalog(folder, DataConfig(table=table))


@pytest.fixture
def animals(animals_dir):
    return read_real(animals_dir, "train.csv")


@pytest.fixture
def birdclef(birdclef_meta_dir):
    return read_real(birdclef_meta_dir, "train_reconstructed.csv")


@pytest.fixture
def catalog_of(tmp_path):
    """A catalog of cells by column, `primary_label` among them; a split never opens a recording."""

    def read(**cells):
        n_rows = len(cells["primary_label"])
        columns = {"filename": [f"{i:03}.ogg" for i in range(n_rows)], **cells}
        with (tmp_path / "train.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
        return read_catalog(tmp_path, DataConfig())

    return read


def counts_by_label(catalog, split):
    """Recordings `[label, fold]`, the hidden ones first."""
    labels = catalog.recordings["label"].to_numpy()
    table = pd.crosstab(labels, split.fold)
    return table.reindex(columns=range(HIDDEN, split.n_folds), fill_value=0)


def require_partition(catalog, split):
    """Each recording is in one fold or hidden; a fold trains on the other folds, never on what is hidden."""
    everything = np.arange(len(catalog))
    validation = [split.validation_rows(k) for k in range(split.n_folds)]
    assert all(len(rows) for rows in validation)
    np.testing.assert_array_equal(np.sort(np.concatenate([*validation, split.hidden_rows])), everything)
    for k, rows in enumerate(validation):
        together = np.concatenate([split.train_rows(k), rows, split.hidden_rows])
        np.testing.assert_array_equal(np.sort(together), everything)


@pytest.mark.parametrize("name", ["animals", "birdclef"])
def test_every_recording_is_in_one_fold_or_hidden_and_labels_are_spread_evenly(request, name):
    catalog = request.getfixturevalue(name)
    require_partition(catalog, make_split(catalog, FoldsConfig(n_folds=3, hidden_fraction=0)))
    split = make_split(catalog, FoldsConfig())
    require_partition(catalog, split)
    counts = counts_by_label(catalog, split).drop(columns=HIDDEN)
    assert (counts.max(axis=1) - counts.min(axis=1)).max() <= 1
    assert counts.sum().max() - counts.sum().min() <= 1


@pytest.mark.parametrize("name", ["animals", "birdclef"])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.2])
def test_the_hidden_set_is_each_labels_share(request, name, fraction):
    catalog = request.getfixturevalue(name)
    counts = counts_by_label(catalog, make_split(catalog, FoldsConfig(hidden_fraction=fraction)))
    total, hidden = counts.sum(axis=1), counts[HIDDEN]
    assert hidden.sum() / total.sum() == pytest.approx(fraction, abs=0.005)
    common = total >= 3
    assert (hidden - fraction * total)[common].abs().max() <= 0.5 + 1e-6
    assert (hidden[~common] == 0).all()
    assert ((total - hidden) >= 1).all()


def test_the_hidden_set_is_chosen_before_the_folds(animals):
    by_folds = [make_split(animals, FoldsConfig(n_folds=n)).hidden_rows for n in (2, 5, 9)]
    np.testing.assert_array_equal(by_folds[0], by_folds[1])
    np.testing.assert_array_equal(by_folds[0], by_folds[2])
    assert len(by_folds[0]) == 88


@pytest.mark.parametrize("fraction", [0.5, 0.9, 0.99])
def test_each_label_keeps_a_recording_for_the_folds(catalog_of, fraction):
    catalog = catalog_of(primary_label=["a"] * 3 + ["b"] * 2 + ["c"] + ["d"] * 30)
    counts = counts_by_label(catalog, make_split(catalog, FoldsConfig(n_folds=2, hidden_fraction=fraction)))
    assert (counts.drop(columns=HIDDEN).sum(axis=1) >= 1).all()
    assert counts[HIDDEN]["a"] == min(2, math.ceil(3 * fraction - 0.5))
    assert list(counts[HIDDEN][["b", "c"]]) == [0, 0]
    assert counts[HIDDEN]["d"] == min(29, math.ceil(30 * fraction - 0.5))


def test_the_same_seed_gives_the_same_split(birdclef, animals):
    grouped = FoldsConfig(strategy="grouped", column="author")
    for catalog, folds in ((birdclef, FoldsConfig()), (animals, grouped)):
        first = make_split(catalog, folds)
        np.testing.assert_array_equal(first.fold, make_split(catalog, folds).fold)
        other = make_split(catalog, folds.model_copy(update={"seed": 43}))
        assert set(first.hidden_rows) != set(other.hidden_rows)
        assert (first.fold != other.fold).mean() > 0.3


@pytest.mark.parametrize("seed", range(10))
def test_labels_that_are_all_rare_still_validate_in_different_folds(catalog_of, seed):
    catalog = catalog_of(primary_label=["a", "a", "b", "b", "c", "c", "d", "d", "d", "d"])
    split = make_split(catalog, FoldsConfig(hidden_fraction=0, seed=seed))
    assert counts_by_label(catalog, split).to_numpy().max() == 1
    require_partition(catalog, split)


def test_fewer_recordings_than_folds_are_refused(catalog_of):
    with pytest.raises(ConfigError, match=r"number of recordings. Received: 5 folds, 4 recordings"):
        make_split(catalog_of(primary_label=["a", "a", "b", "b"]), FoldsConfig(hidden_fraction=0))


@pytest.mark.parametrize("n_folds", [2, 5])
def test_an_authors_recordings_stay_together(animals, n_folds):
    split = make_split(animals, FoldsConfig(strategy="grouped", column="author", n_folds=n_folds))
    authors = animals.recordings["author"].to_numpy()
    folds_of = pd.Series(split.fold).groupby(authors).nunique()
    assert len(folds_of) == 298
    assert (folds_of == 1).all()
    require_partition(animals, split)
    counts = counts_by_label(animals, split)
    assert counts[HIDDEN].sum() / 440 == pytest.approx(0.2, abs=0.01)
    assert (counts[HIDDEN] - 8).abs().max() <= 2
    per_fold = counts.drop(columns=HIDDEN)
    share = 32 / n_folds
    assert (per_fold - share).abs().to_numpy().max() <= 4
    # Without groups, sources are split.
    stratified = make_split(animals, FoldsConfig(n_folds=n_folds))
    assert (pd.Series(stratified.fold).groupby(authors).nunique() > 1).any()


def test_any_column_of_the_table_groups(catalog_of):
    catalog = catalog_of(primary_label=["a", "b"] * 12, part=[i // 4 for i in range(24)])
    split = make_split(
        catalog, FoldsConfig(strategy="grouped", column="part", n_folds=3, hidden_fraction=0.2)
    )
    assert (pd.Series(split.fold).groupby(catalog.recordings["part"]).nunique() == 1).all()
    assert len(split.hidden_rows) == 4


def test_places_within_a_hundredth_of_a_degree_are_one_location(catalog_of):
    latitudes = ["0.004", "-0.004", "12.341", "12.3449", "12.346", "5", "5.00", "6", "7", "8"]
    longitudes = ["1", "1.001", "-73", "-73.001", "-73", "9", "9", "9", "9", "9"]
    catalog = catalog_of(primary_label=["a"] * 10, latitude=latitudes, longitude=longitudes)
    folds = FoldsConfig(strategy="grouped", column="location", n_folds=7, hidden_fraction=0)
    fold = make_split(catalog, folds).fold
    assert fold[0] == fold[1]
    assert fold[2] == fold[3]
    assert fold[5] == fold[6]
    # As many folds as places: no two share one.
    assert len(set(fold)) == 7
    with pytest.raises(ConfigError, match=r"groups by location. Received: 8 folds, 7 groups by location"):
        make_split(catalog, folds.model_copy(update={"n_folds": 8}))


@pytest.mark.parametrize("column", ["author", "location"])
def test_a_recording_with_an_empty_cell_is_a_group_of_its_own(catalog_of, column):
    known = [i < 10 for i in range(20)]
    cells = {
        "author": {"author": ["Ana" if x else "" for x in known]},
        "location": {"latitude": ["1" if x else "" for x in known], "longitude": ["2"] * 20},
    }
    folds = FoldsConfig(strategy="grouped", column=column, n_folds=11, hidden_fraction=0)
    fold = make_split(catalog_of(primary_label=["a"] * 20, **cells[column]), folds).fold
    assert (len(set(fold[:10])), len(set(fold[10:]))) == (1, 10)


def test_a_column_that_is_empty_everywhere_groups_nothing(catalog_of):
    catalog = catalog_of(primary_label=["a"] * 6, author=[""] * 6)
    for column in ("author", "location"):
        with pytest.raises(ConfigError, match=rf"Received: {column}, which is empty in all 6 recordings"):
            make_split(catalog, FoldsConfig(strategy="grouped", column=column))


def test_the_official_folds_are_taken_as_they_are(animals):
    split = make_split(animals, FoldsConfig(strategy="column", column="fold", n_folds=2))
    np.testing.assert_array_equal(split.fold, animals.recordings["fold"].astype(int))
    assert split.n_folds == 5
    assert len(split.hidden_rows) == 0
    require_partition(animals, split)


def test_wrong_folds_name_their_rows(catalog_of):
    folds = FoldsConfig(strategy="column", column="part")
    for cells, told in (
        (["0", "x", "1", "", " 1 "], r"Received: rows 3 \('x'\), 5 \(''\)$"),
        (["-1", "1.0", "0", "²", "1e2", "99999", "nan"], r"rows 2 \('-1'\), 3 \('1.0'\), .* and 1 more$"),
    ):
        with pytest.raises(DataError, match="must hold folds as whole numbers from 0. .*" + told):
            make_split(catalog_of(primary_label=["a"] * len(cells), part=cells), folds)


@pytest.mark.parametrize("cells", [["0", "2", "0", "2"], ["0"] * 4, ["1", "2", "1", "2"]])
def test_folds_with_gaps_are_refused(catalog_of, cells):
    catalog = catalog_of(primary_label=["a"] * 4, part=cells)
    with pytest.raises(DataError, match="must hold the folds 0 to n-1, at least two, each with recordings"):
        make_split(catalog, FoldsConfig(strategy="column", column="part"))


@pytest.mark.parametrize("strategy", ["column", "grouped"])
def test_an_unknown_column_is_told_with_the_known_ones(animals, strategy):
    with pytest.raises(ConfigError) as caught:
        make_split(animals, FoldsConfig(strategy=strategy, column="recordist"))
    message = str(caught.value)
    assert "must name a column of the data set's table. Received: recordist. There are: " in message
    assert {"author", "fold", "license"} < set(message.partition("There are: ")[2].split(", "))


def test_an_unknown_fold_is_told_with_the_known_ones(animals):
    split = make_split(animals, FoldsConfig())
    for k in (-1, 5):
        for ask in (split.train_rows, split.validation_rows, split.require_fold):
            with pytest.raises(ConfigError) as caught:
                ask(k)
            assert str(caught.value) == f"--fold must be one of 0, 1, 2, 3, 4, all or full. Received: {k}"


def test_save_names_recordist_and_place_of_each_recording(catalog_of, tmp_path):
    catalog = catalog_of(
        primary_label=["007", "b", "b"],
        author=['"Ana", jr.', "Bo\rthe owl", ""],
        latitude=["5.7123", "", "-0.5"],
        longitude=["-73.25", "", "9"],
        collection=["XC", "", "iNat"],
    )
    path = tmp_path / "split.csv"
    split = Split(np.array([1, HIDDEN, 0]), 2)
    split.save(path, catalog)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["path", "label", "fold", "author", "latitude", "longitude", "collection"],
        ["train_audio/000.ogg", "007", "1", '"Ana", jr.', "5.7123", "-73.25", "XC"],
        ["train_audio/001.ogg", "b", "-1", "Bo\rthe owl", "", "", ""],
        ["train_audio/002.ogg", "b", "0", "", "-0.5", "9.0", "iNat"],
    ]
    np.testing.assert_array_equal(Split.load(path, catalog).fold, split.fold)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["split.csv", "train.csv"]


def test_load_follows_the_recordings_when_the_rows_have_moved(catalog_of, tmp_path):
    names, labels = ["x.ogg", "y.ogg", "z.ogg"], ["a", "b", "b"]
    Split(np.array([0, 1, HIDDEN]), 2).save(
        tmp_path / "split.csv", catalog_of(filename=names, primary_label=labels)
    )
    moved = catalog_of(filename=names[::-1], primary_label=labels[::-1])
    np.testing.assert_array_equal(Split.load(tmp_path / "split.csv", moved).fold, [HIDDEN, 1, 0])


@pytest.mark.parametrize(
    ("names", "labels", "strange"),
    [
        (["x.ogg", "y.ogg", "new.ogg"], ["a", "b", "b"], "new.ogg (b)"),
        (["x.ogg"], ["a"], "y.ogg (b)"),
        (["x.ogg", "y.ogg"], ["a", "a"], "y.ogg (a)"),
    ],
)
def test_load_refuses_the_split_of_other_recordings(catalog_of, tmp_path, names, labels, strange):
    before = catalog_of(filename=["x.ogg", "y.ogg"], primary_label=["a", "b"])
    Split(np.array([0, 1]), 2).save(tmp_path / "split.csv", before)
    with pytest.raises(DataError) as caught:
        Split.load(tmp_path / "split.csv", catalog_of(filename=names, primary_label=labels))
    assert str(caught.value) == (
        f"{tmp_path / 'split.csv'}: a split must list the data set's {len(names)} recordings. Received: "
        f"train_audio/{strange} in only one of both; start a new run"
    )


@pytest.mark.parametrize(
    "content",
    ["", "path,label\na,b\n", "path,label,fold\na,b,x\n", "path,label,fold\na,b,0\na,b,0,1,2\n", "\0\xff"],
)
def test_load_refuses_what_is_no_split(catalog_of, tmp_path, content):
    catalog = catalog_of(primary_label=["a", "b"])
    path = tmp_path / "split.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        Split.load(path, catalog)
    message = str(caught.value)
    assert message.startswith(f"{path}: a split")
    assert "\n" not in message
    path.unlink()
    with pytest.raises(DataError, match=r"a split must be .* Received: No such file"):
        Split.load(path, catalog)


def test_full_trains_on_all_but_the_hidden_and_measures_nothing():
    split = Split(np.array([0, 1, -1, 1, 0]), 2)
    assert split.train_rows(FULL).tolist() == [0, 1, 3, 4]
    assert split.validation_rows(FULL).tolist() == []
    assert split.train_rows(1).tolist() == [0, 4]
