"""Divides recordings into folds and a hidden test set, the same each time."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from keras_birds.config import FoldsConfig
from keras_birds.data.catalog import Catalog
from keras_birds.data.tables import first_of, load_table, write_table
from keras_birds.errors import ConfigError, DataError
from keras_birds.run_layout import FULL, Fold

HIDDEN = -1
MIN_FOR_HIDDEN = 3
"""Labels with fewer recordings have none in the hidden set: the folds need what there is."""

SPLIT_COLUMNS = ("path", "label", "fold", "author", "latitude", "longitude", "collection")
"""Of a saved split."""

_REQUIRED = SPLIT_COLUMNS[:3]


@dataclass(frozen=True, eq=False)
class Split:
    """Which recordings train, validate and stay hidden."""

    fold: np.ndarray
    """Int `[n]`, the fold in which a recording validates; -1 for the hidden test set."""
    n_folds: int

    def train_rows(self, k: Fold) -> np.ndarray:
        """Int rows `[m]` of the catalog that fold `k` trains on: all but fold `k` and the hidden ones."""
        return np.setdiff1d(np.flatnonzero(self.fold != HIDDEN), self.validation_rows(k))

    def validation_rows(self, k: Fold) -> np.ndarray:
        """Int rows `[m]` of the catalog that fold `k` validates on; none of `FULL`."""
        self.require_fold(k)
        return np.zeros(0, np.intp) if k == FULL else np.flatnonzero(self.fold == k)

    @property
    def hidden_rows(self) -> np.ndarray:
        """Int rows `[m]` of the hidden test set, which no fold sees."""
        return np.flatnonzero(self.fold == HIDDEN)

    def require_fold(self, k: Fold) -> None:
        """Raises `ConfigError` for a fold that doesn't exist, naming those that do."""
        if k not in (FULL, *range(self.n_folds)):
            known = ", ".join(map(str, range(self.n_folds)))
            raise ConfigError(f"--fold must be one of {known}, all or full. Received: {k}")

    def save(self, path: str | Path, catalog: Catalog) -> None:
        """Writes a CSV with a row for each recording, as `write_table`.

        The columns are `path` (from the data set's folder), `label`, `fold` (-1 for hidden), and as in the
        catalog `author`, `latitude`, `longitude` (degrees) and `collection`, empty where absent.
        """
        table = catalog.recordings.assign(fold=self.fold)[list(SPLIT_COLUMNS)]
        # As objects: pandas' own strings can't hold the bytes of a file name that isn't UTF-8.
        table["path"] = pd.Series(catalog.relative_paths, dtype=object)
        write_table(table, Path(path))

    @classmethod
    def load(cls, path: str | Path, catalog: Catalog) -> "Split":
        """Reads what `save` wrote; raises `DataError` if it isn't a split, or one of other recordings."""
        path = Path(path)
        table = load_table(path, "a split", _REQUIRED)
        try:
            fold = table["fold"].astype(int).to_numpy()
        except ValueError as error:
            raise DataError(f"{path}: a split's folds must be numbers. Received: {error}") from None
        known = dict(zip(zip(table["path"], table["label"], strict=True), fold, strict=True))
        wanted = list(zip(catalog.relative_paths, catalog.recordings["label"], strict=True))
        strange = [x for x in wanted if x not in known] or sorted(set(known) - set(wanted))
        if strange or len(known) != len(wanted):
            name = f"{strange[0][0]} ({strange[0][1]})" if strange else f"{len(table)} rows"
            rule = f"a split must list the data set's {len(wanted)} recordings"
            raise DataError(f"{path}: {rule}. Received: {name} in only one of both; start a new run")
        return cls(np.array([known[x] for x in wanted], int), int(fold.max()) + 1)


def make_split(catalog: Catalog, folds: FoldsConfig) -> Split:
    """Divides a catalog's recordings; the same seed gives the same split.

    - `stratified`: `StratifiedKFold` on the primary label.
    - `grouped`: `StratifiedGroupKFold`: recordings with the same value in `folds.column` stay together, also as to
      the hidden set. `author` and `collection` mean the columns that `data.column_*` name; `location` means latitude
      and longitude, rounded to 0.01 degrees. A recording with an empty cell is a group of its own.
    - `column`: `folds.column` holds each recording's fold, 0 to n-1. Nothing is hidden.

    The hidden set, `folds.hidden_fraction` of the recordings, is chosen before the folds. Labels with fewer than 3
    recordings have none in it, and each label keeps at least one for the folds. Labels with fewer recordings than
    folds validate in as many folds as they have recordings; a single one isn't trained where it validates.

    Raises:
        ConfigError: if `folds.column` names no column, or there are fewer recordings or groups than folds.
        DataError: if the column's folds aren't 0 to n-1.
    """
    if folds.strategy == "column":
        return _by_column(catalog, folds)
    # Windows of a recording stay together.
    groups = np.arange(len(catalog)) if catalog.known is None else _codes(list(catalog.recordings["path"]))
    labels, what = _codes(list(catalog.recordings["label"])), "recordings"
    if folds.strategy == "grouped":
        groups, what = _codes(_group_names(catalog, folds.column)), f"groups by {folds.column}"
    fold = np.where(_is_hidden(labels, groups, folds), HIDDEN, 0)
    rows = np.flatnonzero(fold != HIDDEN)
    n_groups = len(np.unique(groups[rows]))
    if n_groups < folds.n_folds:
        hidden = f" that aren't hidden (folds.hidden_fraction {folds.hidden_fraction:g})" * bool(
            (fold == HIDDEN).any()
        )
        raise ConfigError(
            f"folds.n_folds must not exceed the number of {what}{hidden}. Received: {folds.n_folds} folds, "
            f"{n_groups} {what}"
        )
    fold[rows] = _divide(labels[rows], groups[rows], folds.n_folds, folds.seed)
    return Split(fold, folds.n_folds)


def _divide(labels: np.ndarray, groups: np.ndarray, n_parts: int, seed: int) -> np.ndarray:
    """Int `[n]`, the part of each recording."""
    part = np.zeros(len(labels), int)
    is_grouped = len(np.unique(groups)) < len(groups)
    if np.bincount(labels).max() < n_parts:
        # scikit-learn refuses labels that are all this rare.
        if not is_grouped:
            # Those of a label go to one part after the other, so no two to the same.
            order = np.random.default_rng(seed).permutation(len(labels))
            part[order[np.argsort(labels[order], kind="stable")]] = np.arange(len(labels)) % n_parts
            return part
        labels = np.zeros_like(labels)
    with warnings.catch_warnings():
        # Rare labels are spread as far as they go, as documented.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        kind = StratifiedGroupKFold if is_grouped else StratifiedKFold
        divider = kind(n_parts, shuffle=True, random_state=seed)
        for k, (_, rows) in enumerate(divider.split(labels, labels, groups if is_grouped else None)):
            part[rows] = k
    return part


def _is_hidden(labels: np.ndarray, groups: np.ndarray, folds: FoldsConfig) -> np.ndarray:
    """Bool `[n]`, the hidden set: whole groups that bring it closer to each label's share."""
    counts = np.bincount(labels)
    left = counts.copy()
    wanted = np.where(counts >= MIN_FOR_HIDDEN, folds.hidden_fraction * counts, 0.0)
    members: dict[int, list[int]] = {}
    for row in np.random.default_rng(folds.seed).permutation(len(labels)).tolist():
        members.setdefault(int(groups[row]), []).append(row)
    hidden = np.zeros(len(labels), bool)
    # Big groups first: small ones then fill what is left.
    for rows in sorted(members.values(), key=len, reverse=True):
        there, numbers = np.unique(labels[rows], return_counts=True)
        is_allowed = np.all(counts[there] >= MIN_FOR_HIDDEN) and np.all(left[there] > numbers)
        closer = np.abs(wanted[there]).sum() - np.abs(wanted[there] - numbers).sum()
        if is_allowed and closer > 0:
            hidden[rows] = True
            wanted[there] -= numbers
            left[there] -= numbers
    return hidden


def _group_names(catalog: Catalog, column: str) -> list[str]:
    if column == "location":
        # To 0.01 degrees, about 1 km; adding 0 makes -0.0 positive.
        places = catalog.recordings[["latitude", "longitude"]].round(2).to_numpy() + 0.0
        names = ["" if np.isnan(place).any() else f"{place[0]} {place[1]}" for place in places]
    else:
        names = [str(x) for x in _column(catalog, column)]
    if not any(names):
        rule = "folds.column must hold something to group by"
        raise ConfigError(f"{rule}. Received: {column}, which is empty in all {len(names)} recordings")
    return [f"group {name}" if name else f"row {i}" for i, name in enumerate(names)]


def _by_column(catalog: Catalog, folds: FoldsConfig) -> Split:
    cells = pd.Series(_column(catalog, folds.column), dtype=str).str.strip()
    is_number = cells.str.fullmatch("[0-9]{1,4}")
    if not is_number.all():
        rows = catalog.recordings["row"][~is_number]
        wrong = [f"{row} ({cell!r})" for row, cell in zip(rows, cells[~is_number], strict=True)]
        rule = f"the column {folds.column} must hold folds as whole numbers from 0"
        raise DataError(f"{rule}. Received: rows {first_of(wrong)}")
    fold = cells.astype(int).to_numpy()
    found = np.unique(fold).tolist()
    if found != list(range(len(found))) or len(found) < 2:
        rule = f"the column {folds.column} must hold the folds 0 to n-1, at least two, each with recordings"
        raise DataError(f"{rule}. Received: {', '.join(map(str, found))}")
    return Split(fold, len(found))


def _column(catalog: Catalog, column: str) -> list[object]:
    if column not in catalog.recordings:
        known = ", ".join(x for x in catalog.recordings.columns if x not in ("path", "row", "secondary"))
        rule = "folds.column must name a column of the data set's table"
        raise ConfigError(f"{rule}. Received: {column}. There are: {known}")
    return catalog.recordings[column].tolist()


def _codes(names: list[str]) -> np.ndarray:
    """Int `[n]`, equal where the names are, numbered in sorted order: independent of the rows' order."""
    return np.unique(np.array(names, dtype=object), return_inverse=True)[1]
