"""Which recordings there are, with their labels, and all that is wrong with a data set's tables."""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from keras_birds.audio.files import recordings_in
from keras_birds.audio.remote import file_fingerprint, is_url
from keras_birds.config import DataConfig
from keras_birds.data.tables import (
    Problems,
    is_inside,
    label_of,
    number,
    parse_secondary,
    read_table,
    read_taxonomy,
    require_none,
)
from keras_birds.errors import DataError
from keras_birds.labels import Label, LabelSet, near_duplicates
from keras_birds.text import relative_name

_STANDARD = ["path", "label", "secondary", "rating", "collection", "author", "latitude", "longitude", "row"]
_LIMITS = {"rating": float("inf"), "latitude": 90.0, "longitude": 180.0}
_DEFAULT = DataConfig()


@dataclass(frozen=True, eq=False)
class Catalog:
    """A data set's recordings and labels."""

    root: Path
    recordings: pd.DataFrame
    """A row each, index 0 to n-1: `path` (str: the file), `label` (str), `secondary` (tuple of str), `rating`,
    `latitude`, `longitude` (float, NaN where absent), `collection`, `author` (str, empty where absent), `row` (the
    CSV's line, whose header is line 1; 0 without a CSV) and every other column of the CSV (str)."""
    labels: LabelSet
    """In taxonomy order."""
    problems: list[str]
    """All that is wrong, one line each, with the numbers of the rows."""
    left_out: list[tuple[str, str]]
    """Name and reason of what lies among folders of labels and isn't learned from."""
    known: np.ndarray | None = None
    """Of windows (`read_annotated`): what is known of each, float32 `[n, num_labels]`. `recordings` has a row each
    then, with `start_s`, `end_s`, its number `window` in the recording and the recording's `folder` besides."""

    def __len__(self) -> int:
        return len(self.recordings)

    @property
    def relative_paths(self) -> list[str]:
        """The recordings' paths from `root`, with forward slashes; of windows `NAME.wav#t=5,10` (`window_of`)."""
        paths = [path if is_url(path) else relative_name(path, self.root) for path in self.recordings["path"]]
        if self.known is None:
            return paths
        times = zip(self.recordings["start_s"], self.recordings["end_s"], strict=True)
        return [
            f"{path}#t={start_s:.10g},{end_s:.10g}"
            for path, (start_s, end_s) in zip(paths, times, strict=True)
        ]

    def require_clean(self) -> None:
        """Raises `DataError` if there are problems, naming the first 20 and how many more there are."""
        require_none(self.problems, f"{self.root}: a data set", ", which `keras-birds data check` lists")

    def targets(self, data: DataConfig) -> np.ndarray:
        """What a model should answer, float32 `[n, num_labels]`: 1 for the primary label.

        Secondary labels are `data.secondary_weight` with `data.secondary = "positive"`, -1 with `"mask"`, which
        takes them out of loss and metric, and 0 with `"ignore"`. Raises `DataError` if a label is unknown.
        """
        if self.known is not None:
            return self.known
        targets = np.zeros((len(self), len(self.labels)), np.float32)
        if data.secondary != "ignore":
            value = data.secondary_weight if data.secondary == "positive" else -1.0
            for row, names in enumerate(self.recordings["secondary"]):
                for name in names:
                    targets[row, self.labels.index(name)] = value
        columns = [self.labels.index(name) for name in self.recordings["label"]]
        targets[np.arange(len(self)), columns] = 1.0
        return targets


def window_of(path: str) -> tuple[str, float, float] | None:
    """Recording, start and end of a window by one of `Catalog.relative_paths`; `None` of a whole recording.

    As parts of media are named on the web (https://www.w3.org/TR/media-frags/#naming-time).
    """
    found = re.fullmatch(r"(.+)#t=([0-9.]+),([0-9.]+)", path, re.DOTALL)
    return (found[1], float(found[2]), float(found[3])) if found else None


def read_catalog(root: str | Path, data: DataConfig) -> Catalog:
    """Reads a data set: BirdCLEF's layout, any CSV through `data.column_*`, or a folder per label.

    With a CSV (`data.table`), paths are relative to `data.audio_dir` (`""` for the data set's folder itself); rows
    whose path leaves it are left out. Labels are strings without the white space around them: those of
    `data.taxonomy` in its order, or else the sorted primary labels.

    Without a CSV, each folder below `data.audio_dir` (or, where that is missing, below `root`) that holds audio at any
    depth is a label.

    `data.min_rating` leaves out recordings that are rated lower, but not unrated ones (rating 0 or an empty cell):
    whole collections come without ratings. `data.collections`, unless empty, names those that stay. Rows that are
    left out aren't checked.

    Raises:
        DataError: if there is nothing to read as a data set, or a table isn't a CSV in UTF-8.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"a data set must be a folder. Received: {root}")
    problems = Problems()
    taxonomy = read_taxonomy(root, data, problems)
    left_out: list[tuple[str, str]] = []
    if (root / data.table).is_file():
        recordings, found = _from_table(root, data, problems)
    elif data.table == _DEFAULT.table:
        recordings, found = _from_folders(root, data, problems, left_out)
    else:
        rule = "data.table must name a CSV in the data set's folder"
        raise DataError(f"{rule}. Received: {data.table}, not a file in {root}")
    if taxonomy is None:
        where = f"the primary labels, as there is no {data.taxonomy or 'taxonomy'}"
        taxonomy = LabelSet(found[name] for name in sorted(found))
    else:
        where = data.taxonomy
    rule = "labels must differ by more than case, spaces or Unicode form. Received: {}; spell them alike"
    for names in near_duplicates(taxonomy):
        for row in recordings["row"][recordings["label"].isin(names[1:])]:
            problems.add(rule.format(" and ".join(map(repr, names))), row, data.table)
    for label, secondary, row in recordings[["label", "secondary", "row"]].itertuples(index=False):
        if label and label not in taxonomy:
            problems.add(f"the primary label must be in {where}. Received: {label!r}", row, data.table)
        for name in secondary if data.secondary != "ignore" else ():
            if name not in taxonomy:
                rule = f"a secondary label must be in {where}. Received: {name!r}"
                problems.add(f"{rule}; add it or set data.secondary=ignore", row, data.table)
    return Catalog(root, recordings, taxonomy, problems.lines(), left_out)


def data_hash(catalog: Catalog) -> str:
    """SHA-256 over the labels, and each recording's path from the root, size and labels.

    It depends neither on where the data set lies nor on the order of its rows. A missing file's size is -1.
    """
    table = catalog.recordings[["path", "label", "secondary"]].itertuples(index=False)
    entries = [
        [relative, file_fingerprint(path)[0], label, *secondary]
        for relative, (path, label, secondary) in zip(catalog.relative_paths, table, strict=True)
    ]
    entries.sort(key=json.dumps)
    return hashlib.sha256(json.dumps([catalog.labels.names, entries]).encode()).hexdigest()


def _from_table(root: Path, data: DataConfig, problems: Problems) -> tuple[pd.DataFrame, dict[str, Label]]:
    header, numbered = read_table(root / data.table, data.table, problems)
    absent = _absent_columns(header, data)
    for key in absent:
        rule = f"{data.table} must have the column {getattr(data, key)} (data.{key})"
        problems.add(f"{rule}. Received: {', '.join(header) or 'no columns'}")
    if "column_path" in absent or "column_label" in absent:
        return _frame([]), {}
    rows: list[dict[str, Any]] = [{**cells, "row": line} for line, cells in numbered]
    kept = [row for row in rows if _is_kept(row, data)]
    _check_filters(rows, len(kept), data, problems)
    records: list[dict[str, Any]] = []
    found: dict[str, Label] = {}
    first: dict[str, int] = {}
    for cell in kept:
        name, row = cell[data.column_path], cell["row"]
        record = _read_row(cell, data, problems)
        if not is_inside(name):
            rule = f"{data.column_path} must be a path below {data.audio_dir or 'the data set'}"
            problems.add(f"{rule}. Received: {name!r}", row, data.table)
            continue
        record["path"] = path = os.path.normpath(root / data.audio_dir / name)
        if first.setdefault(path, row) != row:
            rule = "a recording must be listed once"
            problems.add(f"{rule}. Received: {name}, which row {first[path]} has", row, data.table)
        records.append(record)
        if label := record["label"]:
            found.setdefault(label, label_of(label, cell))
    _check_files(root / data.audio_dir, data, records, problems)
    return _frame(records), found


def _read_row(cell: dict[str, Any], data: DataConfig, problems: Problems) -> dict[str, Any]:
    label, row = cell[data.column_label].strip(), cell["row"]
    if not label:
        problems.add(f"{data.column_label} must not be empty", row, data.table)
    secondary, wrong = parse_secondary(cell.get(data.column_secondary, ""))
    if wrong:
        rule = f"{data.column_secondary} must be a list of strings such as ['a', 'b']"
        problems.add(f"{rule}. Received: {wrong}", row, data.table)
    record = {**cell, "label": label, "secondary": secondary}
    for key, limit in _LIMITS.items():
        column = getattr(data, f"column_{key}")
        record[key], is_wrong = number(cell.get(column, ""), limit)
        if is_wrong:
            span = "" if limit == float("inf") else f" from -{limit:g} to {limit:g}"
            problems.add(f"{column} must be a number{span}. Received: {cell[column]!r}", row, data.table)
    return record | {x: cell.get(getattr(data, f"column_{x}"), "") for x in ("collection", "author")}


def _frame(records: list[dict[str, Any]]) -> pd.DataFrame:
    # As objects: pandas' own strings can't hold the bytes of a file name that isn't UTF-8.
    frame = pd.DataFrame(records, columns=None if records else _STANDARD, dtype=object)
    others = [column for column in frame.columns if column not in _STANDARD]
    kinds = {"rating": float, "latitude": float, "longitude": float, "row": int}
    return frame[_STANDARD + others].astype(kinds)


def _absent_columns(header: list[str], data: DataConfig) -> list[str]:
    """The keys whose column isn't there, though it is needed or was asked for by another name than usual."""
    needed = {"column_path", "column_label"}
    needed |= {"column_rating"} if data.min_rating > 0 else set()
    needed |= {"column_collection"} if data.collections else set()
    columns = {key: getattr(data, key) for key in DataConfig.model_fields if key.startswith("column_")}
    wanted = {key for key, column in columns.items() if column not in ("", getattr(_DEFAULT, key))} | needed
    return [key for key, column in columns.items() if key in wanted and column not in header]


def _is_kept(cell: dict[str, Any], data: DataConfig) -> bool:
    is_low = 0 < number(cell.get(data.column_rating, ""))[0] < data.min_rating
    return not is_low and (not data.collections or cell.get(data.column_collection, "") in data.collections)


def _check_filters(rows: list[dict[str, Any]], n_kept: int, data: DataConfig, problems: Problems) -> None:
    if not rows:
        problems.add(f"{data.table} must list at least one recording. Received: none")
        return
    there = {row[data.column_collection] for row in rows if data.column_collection in row}
    known = ", ".join(sorted(map(repr, there)))
    for name in (x for x in data.collections if there and x not in there):
        problems.add(f"data.collections must be among {known}. Received: {name!r}")
    if not n_kept:
        some = f"some of the {len(rows)} recordings of {data.table}"
        told = f"{data.min_rating:g} and {list(data.collections)}, which leave none"
        problems.add(f"data.min_rating and data.collections must leave {some}. Received: {told}")


def _check_files(base: Path, data: DataConfig, records: list[dict[str, Any]], problems: Problems) -> None:
    """Lists each folder once instead of looking up each file: quick on network disks too."""
    if records and not base.is_dir():
        none = f"none of the {len(records)} recordings of {data.table} is there"
        problems.add(f"data.audio_dir must be a folder. Received: {base}, so {none}")
        return
    folders = {Path(record["path"]).parent for record in records}
    there = {str(path) for folder in folders for path in folder.glob("*")}
    for record in records:
        # Some file systems find a name that differs in case or Unicode form from the listed one.
        if record["path"] not in there and not Path(record["path"]).exists():
            name, row = record[data.column_path], record["row"]
            problems.add(f"the file must exist. Received: {name}", row, data.table)


def _from_folders(
    root: Path, data: DataConfig, problems: Problems, left_out: list[tuple[str, str]]
) -> tuple[pd.DataFrame, dict[str, Label]]:
    base = root / data.audio_dir if (root / data.audio_dir).is_dir() else root
    records: list[dict[str, Any]] = []

    def on_problem(name: str, reason: str) -> None:
        if reason.startswith("holds"):  # what else than recordings
            left_out.append((name, reason))
        else:
            problems.add(f"folders must be readable. Received: {name} {reason}")

    rest = {"secondary": (), "collection": "", "author": "", "row": 0, **dict.fromkeys(_LIMITS, float("nan"))}
    for path in recordings_in(base, on_problem):
        name, (folder, *below) = relative_name(path, root), Path(path).relative_to(base).parts
        if not below:
            left_out.append((path, "lies in no label's folder, left out"))
            continue
        records.append({"path": path, "label": folder.strip(), **rest})
        problems.add_name(name)
    if not records:
        raise DataError(
            f"a data set must have the table {data.table} or a folder of audio files for each label. "
            f"Received: {root}, which has neither. Choose another folder, or another table with data.table"
        )
    return _frame(records), {record["label"]: Label(record["label"]) for record in records}
