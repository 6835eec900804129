"""Reads a data set's tables; what is wrong with a cell is told by its row."""

import ast
import csv
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path, PureWindowsPath

import pandas as pd

from keras_birds.atomic import atomic_path
from keras_birds.config import DataConfig
from keras_birds.csv_table import read_csv
from keras_birds.errors import DataError
from keras_birds.labels import Label, LabelSet
from keras_birds.text import printable

_ROWS_LISTED, _PROBLEMS_LISTED, _MOST_SHOWN = 5, 20, 60
_ABSENT = frozenset({"", "nan", "na", "n/a", "none", "null"})


class Problems:
    """Collects what is wrong; the same thing in many rows is one line."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], list[int]] = {}

    def add(self, text: str, row: int = 0, table: str = "") -> None:
        """Notes a problem, in a row of a table if there is one; folders have no rows."""
        # Line ends and what else can't be seen are written as `\n`.
        line = "".join(x if x.isprintable() else repr(x)[1:-1] for x in text)
        self._rows.setdefault((table if row else "", line), []).append(row)

    def add_name(self, name: str) -> None:
        """Notes a recording's name that isn't UTF-8, which tables of scores couldn't hold."""
        if printable(name) != name:
            self.add(f"a file's name must be UTF-8. Received: {name}; rename it")

    def lines(self) -> list[str]:
        """One line for each, for instance `train.csv rows 3, 5: ...`."""
        lines = []
        for (table, text), rows in self._rows.items():
            found = list(dict.fromkeys(map(str, rows)))
            place = f"{table} row{'s' * (len(found) > 1)} {first_of(found)}: " if table else ""
            lines.append(place + text)
        return lines


def require_none(problems: Sequence[str], what: str, where: str = "") -> None:
    """Raises `DataError` if `what` has problems, with the first 20, how many more there are and `where` they are."""
    if n := len(problems):
        rest = f"; and {n - _PROBLEMS_LISTED} more{where}" if n > _PROBLEMS_LISTED else ""
        raise DataError(
            f"{what} must have no problems. Received {n} problem{'s' * (n != 1)}: "
            f"{'; '.join(problems[:_PROBLEMS_LISTED])}{rest}"
        )


def first_of(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - _ROWS_LISTED} more" if len(names) > _ROWS_LISTED else ""
    return ", ".join(names[:_ROWS_LISTED]) + more


def read_table(
    path: Path, name: str, problems: Problems
) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Reads a CSV, which problems call `name`: its columns, and of each row the line of the file and the cells.

    Rows with more or fewer cells than the header are a problem, and left out. Errors are those of `read_csv`.
    """
    header, rows = read_csv(path)
    for column in sorted({x for x in header if x and header.count(x) > 1}):
        problems.add(f"column names must be unique. Received twice: {column}", 1, name)
    found = []
    for cells, line in rows:
        if len(cells) == len(header):
            found.append((line, dict(zip(header, cells, strict=True))))
        else:
            rule = f"a row must have the header's {len(header)} cells"
            problems.add(f"{rule}. Received: {len(cells)}", line, name)
    return header, found


def read_taxonomy(root: Path, data: DataConfig, problems: Problems) -> LabelSet | None:
    """Reads the labels, of the column `data.column_label` or else `primary_label`; `None` without a taxonomy."""
    name = data.taxonomy
    if not (root / name).is_file():
        if name not in ("", DataConfig().taxonomy):
            problems.add(f"data.taxonomy must name a CSV in the data set's folder. Received: {name}")
        return None
    header, rows = read_table(root / name, name, problems)
    column = data.column_label if data.column_label in header else "primary_label"
    if column not in header:
        problems.add(f"{name} must have the column {column}. Received: {', '.join(header)}")
        return None
    labels: dict[str, Label] = {}
    for line, cell in rows:
        if not (label := cell[column].strip()):
            problems.add(f"{column} must not be empty", line, name)
        elif label in labels:
            problems.add(f"a label must be listed once. Received: {label!r} again", line, name)
        else:
            labels[label] = label_of(label, cell)
    if not labels:
        problems.add(f"{name} must list at least one label. Received: none")
    return LabelSet(labels.values())


def label_of(name: str, cell: Mapping[str, str]) -> Label:
    """A label with what a row's columns say of it."""
    return Label(name, *(cell.get(x, "") for x in ("scientific_name", "common_name", "class_name")))


@lru_cache(maxsize=1 << 16)
def parse_secondary(text: str) -> tuple[tuple[str, ...], str]:
    """The labels of a cell such as `['a', 'b']`, which is never evaluated, and what is wrong with it (or nothing)."""
    if text.strip().lower() in _ABSENT:
        return (), ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
        return (), repr(text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "...")
    return tuple(dict.fromkeys(y for x in value if (y := x.strip()))), ""


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Writes a CSV in UTF-8, as `atomic_path`; bytes of names that aren't UTF-8 stay as they are."""
    with atomic_path(path) as temporary:
        # Text is always quoted: up to Python 3.12 a carriage return alone wouldn't be, and ends a line.
        frame.to_csv(
            temporary,
            index=False,
            lineterminator="\n",
            quoting=csv.QUOTE_NONNUMERIC,
            errors="surrogateescape",
        )


def load_table(path: Path, what: str, columns: Sequence[str]) -> pd.DataFrame:
    """Reads what `write_table` wrote, every cell as a string; raises `DataError`, which calls it `what`."""
    rule = f"{path}: {what} must be a CSV with the columns {', '.join(columns)}"
    try:
        # As objects: pandas' own strings can't hold the bytes of a file name that isn't UTF-8.
        table = pd.read_csv(path, dtype=object, keep_default_na=False, encoding_errors="surrogateescape")
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or str(error).strip()
        raise DataError(f"{rule}. Received: {told}") from None
    if not set(columns) <= set(table):
        raise DataError(f"{rule}. Received: {', '.join(map(str, table)) or 'none'}")
    return table


def number(text: str, limit: float = math.inf) -> tuple[float, bool]:
    """A cell's number, NaN where it is empty or wrong; and whether it is wrong: not finite, or beyond +-`limit`."""
    if text.strip().lower() in _ABSENT:
        return math.nan, False
    with suppress(ValueError):
        value = float(text)
        if math.isfinite(value) and abs(value) <= limit:
            return value, False
    return math.nan, True


def is_inside(path: str) -> bool:
    """Whether a relative path stays below its folder, on every system."""
    pure = PureWindowsPath(path)
    return bool(pure.parts) and not pure.anchor and ".." not in pure.parts and "\0" not in path
