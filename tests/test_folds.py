"""Folds and the hidden test set, on made-up tables and on real ones."""

import csv
import itertools
import re
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
    """A catalog of cells by column, all of label "a" unless told; a split never opens a recording."""

    def read(**cells):
        n = len(next(iter(cells.values())))
        columns = {"filename": [f"{i:03}.ogg" for i in range(n)], "primary_label": ["a"] * n}
        table = pd.DataFrame(columns | {name: list(x) for name, x in cells.items()})
        table.to_csv(tmp_path / "train.csv", index=False, quoting=csv.QUOTE_ALL)
        return read_catalog(tmp_path, DataConfig())

    return read


def divide(catalog, **folds):
    split = make_split(catalog, FoldsConfig(**folds))
    assert {*split.fold, HIDDEN} == {HIDDEN, *range(split.n_folds)}
    return split


def counts_by_label(catalog, split):
    """Recordings `[label, fold]`; the hidden ones of each label."""
    table = pd.crosstab(catalog.recordings["label"].to_numpy(), split.fold)
    table = table.reindex(columns=range(HIDDEN, split.n_folds), fill_value=0)
    return table.drop(columns=HIDDEN), table[HIDDEN]


@pytest.mark.parametrize("name", ["animals", "birdclef"])
@pytest.mark.parametrize(("fraction", "n_folds"), [(0.0, 3), (0.1, 5), (0.2, 5)])
def test_the_hidden_set_is_each_labels_share_and_the_rest_is_spread_evenly(request, name, fraction, n_folds):
    catalog = request.getfixturevalue(name)
    split = divide(catalog, n_folds=n_folds, hidden_fraction=fraction)
    folds, hidden = counts_by_label(catalog, split)
    assert (folds.max(axis=1) - folds.min(axis=1)).max() <= 1
    assert np.ptp(folds.sum()) <= 1
    total = folds.sum(axis=1) + hidden
    assert hidden.sum() / total.sum() == pytest.approx(fraction, abs=0.005)
    common = total >= 3
    assert (hidden - fraction * total)[common].abs().max() <= 0.5 + 1e-6
    assert (hidden[~common] == 0).all()
    assert ((total - hidden) >= 1).all()
    # Chosen before the folds.
    other = divide(catalog, n_folds=2, hidden_fraction=fraction)
    np.testing.assert_array_equal(other.hidden_rows, split.hidden_rows)


def test_the_same_seed_gives_the_same_split(birdclef, animals):
    for catalog, folds in ((birdclef, {}), (animals, {"strategy": "grouped", "column": "author"})):
        first, again, other = (divide(catalog, **folds, seed=seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first.fold, again.fold)
        assert set(first.hidden_rows) != set(other.hidden_rows)
        unhidden = [divide(catalog, **folds, hidden_fraction=0, seed=seed).fold for seed in (1, 2)]
        assert (unhidden[0] != unhidden[1]).mean() > 0.5


def test_each_label_keeps_a_recording_for_the_folds_and_rare_ones_validate_in_different_ones(catalog_of):
    catalog = catalog_of(primary_label="aaabbc" + "d" * 30)
    for fraction, hidden in ((0.5, [1, 0, 0, 15]), (0.9, [2, 0, 0, 27]), (0.99, [2, 0, 0, 29])):
        split = divide(catalog, n_folds=2, hidden_fraction=fraction)
        assert list(counts_by_label(catalog, split)[1]) == hidden
    catalog = catalog_of(primary_label="aabbccdddd")
    for seed in range(10):
        split = divide(catalog, hidden_fraction=0, seed=seed)
        assert counts_by_label(catalog, split)[0].to_numpy().max() == 1
    with pytest.raises(ConfigError, match=r"number of recordings. Received: 11 folds, 10 recordings"):
        divide(catalog, hidden_fraction=0, n_folds=11)


@pytest.mark.parametrize("n_folds", [2, 5])
def test_an_authors_recordings_stay_together_and_the_official_folds_are_as_they_are(animals, n_folds):
    split = divide(animals, strategy="grouped", column="author", n_folds=n_folds)
    authors = animals.recordings["author"].to_numpy()
    assert pd.Series(split.fold).groupby(authors).nunique().tolist() == [1] * 298
    folds, hidden = counts_by_label(animals, split)
    assert hidden.sum() / 440 == pytest.approx(0.2, abs=0.01)
    assert (hidden - 8).abs().max() <= 2
    assert (folds - 32 / n_folds).abs().to_numpy().max() <= 4
    # Without groups, sources are split.
    stratified = divide(animals, n_folds=n_folds)
    assert (pd.Series(stratified.fold).groupby(authors).nunique() > 1).any()
    official = divide(animals, strategy="column", column="fold", n_folds=n_folds)
    np.testing.assert_array_equal(official.fold, animals.recordings["fold"].astype(int))
    assert (official.n_folds, len(official.hidden_rows)) == (5, 0)


def test_places_within_a_hundredth_of_a_degree_are_one_location(catalog_of):
    places = ["0.004 1", "-0.004 1.001", "12.341 -73", "12.3449 -73.001", "12.346 -73", "5 9", "5.00 9"]
    latitudes, longitudes = zip(*(x.split() for x in (*places, "6 9", "7 9", "8 9")), strict=True)
    catalog = catalog_of(latitude=latitudes, longitude=longitudes)
    folds = {"strategy": "grouped", "column": "location", "hidden_fraction": 0}
    fold = divide(catalog, **folds, n_folds=7).fold
    assert (fold[0], fold[2], fold[5]) == (fold[1], fold[3], fold[6])
    assert len(set(fold)) == 7  # as many folds as places: no two share one
    with pytest.raises(ConfigError, match=r"groups by location. Received: 8 folds, 7 groups by location"):
        divide(catalog, **folds, n_folds=8)


@pytest.mark.parametrize("columns", [("author",), ("part",), ("latitude", "longitude")])
def test_a_recording_with_an_empty_cell_is_a_group_of_its_own(catalog_of, columns):
    column = columns[0] if len(columns) == 1 else "location"
    folds = {"strategy": "grouped", "column": column, "n_folds": 11, "hidden_fraction": 0}
    fold = divide(catalog_of(**dict.fromkeys(columns, ["1"] * 10 + [""] * 10)), **folds).fold
    assert (len(set(fold[:10])), len(set(fold[10:]))) == (1, 10)
    with pytest.raises(ConfigError, match=rf"Received: {column}, which is empty in all 6 recordings"):
        divide(catalog_of(**dict.fromkeys(columns, [""] * 6)), **folds)


GAPS = "the folds 0 to n-1, at least two, each with recordings. Received: "


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ("0,x,1,, 1 ", r"whole numbers from 0. Received: rows 3 \('x'\), 5 \(''\)$"),
        ("-1,1.0,²,1e2,nan", r"rows 2 \('-1'\), 3 \('1.0'\), .* 6 \('nan'\)$"),
        ("-1,1.0,0,²,1e2,99999,nan", r"rows 2 \('-1'\), 3 \('1.0'\), .* and 1 more$"),
        ("0,2,0,2", GAPS + "0, 2"),
        ("0,0", GAPS + "0"),
        ("1,2", GAPS + "1, 2"),
    ],
)
def test_wrong_folds_and_columns_are_told(catalog_of, cells, told):
    catalog = catalog_of(part=cells.split(","))
    with pytest.raises(DataError, match=f"the column part must hold .*{told}"):
        divide(catalog, strategy="column", column="part")
    known = "label, rating, collection, author, latitude, longitude, filename, primary_label, part"
    rule = "folds.column must name a column of the data set's table. Received: recordist. There are: "
    for strategy in ("column", "grouped"):
        with pytest.raises(ConfigError, match=f"{rule}{known}$"):
            divide(catalog, strategy=strategy, column="recordist")


def test_folds_choose_their_rows_and_others_are_told():
    split = Split(np.array([0, 1, HIDDEN, 1, 0]), 2)
    assert split.hidden_rows.tolist() == [2]
    for k, train, validation in ((0, [1, 3], [0, 4]), (1, [0, 4], [1, 3]), (FULL, [0, 1, 3, 4], [])):
        assert (split.train_rows(k).tolist(), split.validation_rows(k).tolist()) == (train, validation)
    for ask, k in itertools.product((split.train_rows, split.validation_rows, split.require_fold), (-1, 2)):
        with pytest.raises(ConfigError, match=rf"^--fold must be one of 0, 1, all or full. Received: {k}$"):
            ask(k)


def test_a_saved_split_names_recordist_and_place_and_follows_its_recordings(catalog_of, tmp_path):
    names, labels, path = ["x.ogg", "y.ogg", "z.ogg"], ["007", "b", "b"], tmp_path / "split.csv"
    cells = {"author": ['"Ana", jr.', "Bo\rthe owl", ""], "collection": ["XC", "", "iNat"]}
    cells |= {"latitude": ["5.7123", "", "-0.5"], "longitude": ["-73.25", "", "9"]}
    catalog = catalog_of(filename=names, primary_label=labels, **cells)
    Split(np.array([1, HIDDEN, 0]), 2).save(path, catalog)
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["path", "label", "fold", "author", "latitude", "longitude", "collection"],
            ["train_audio/x.ogg", "007", "1", '"Ana", jr.', "5.7123", "-73.25", "XC"],
            ["train_audio/y.ogg", "b", "-1", "Bo\rthe owl", "", "", ""],
            ["train_audio/z.ogg", "b", "0", "", "-0.5", "9.0", "iNat"],
        ]
    moved = Split.load(path, catalog_of(filename=names[::-1], primary_label=labels[::-1]))
    assert (moved.fold.tolist(), moved.n_folds) == ([0, HIDDEN, 1], 2)
    for names, labels, strange in (
        ("x.ogg y.ogg z.ogg new.ogg", "007 b b b", "train_audio/new.ogg (b)"),
        ("x.ogg z.ogg", "007 b", "train_audio/y.ogg (b)"),
        ("x.ogg y.ogg z.ogg", "007 007 b", "train_audio/y.ogg (007)"),
        ("x.ogg y.ogg z.ogg z.ogg", "007 b b b", "3 rows"),
    ):
        catalog = catalog_of(filename=names.split(), primary_label=labels.split())
        told = f"a split must list the data set's {len(catalog)} recordings. Received: {strange} in only one of both"
        with pytest.raises(DataError, match=rf"^{re.escape(f'{path}: {told}')}; start a new run$"):
            Split.load(path, catalog)
    for content, told in (
        ("", "a split must be a CSV with the columns path, label, fold. Received: No columns"),
        ("path,label\na,b\n", "a split must be a CSV .* Received: path, label"),
        ("path,label,fold\na,b,x\n", "a split's folds must be numbers. Received: "),
        ("path,label,fold\na,b,0\na,b,0,1,2\n", "a split must be a CSV "),
        (None, "a split must be .* Received: No such file"),
    ):
        path.unlink() if content is None else path.write_text(content)
        with pytest.raises(DataError, match=rf"^{path}: {told}[^\n]*$"):
            Split.load(path, catalog)
