"""Reads one table of annotations, whichever program wrote it; what is wrong with a row is told by its line.

What the programs write, and what was lost there:

- Raven: `Begin Time (s)` counts within the sequence of files that were open, `File Offset (s)` within the file, and a
  selection has a row for each view (https://github.com/maRce10/Rraven/issues/3).
- Audacity: no header; a line that begins with a backslash holds the frequencies of the label above it
  (https://manual.audacityteam.org/man/importing_and_exporting_labels.html). A label may be a point in time.
- Kaleidoscope: OFFSET and DURATION, and a file in three parts: INDIR, FOLDER, IN FILE.
- BirdNET-Analyzer: Raven's columns, `Start (s), End (s), Scientific name, ...`, those of its `rtable`, or Audacity's
  with the confidence as a fourth column.
"""

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

from keras_birds.data.tables import Problems, number
from keras_birds.errors import DataError

SUFFIXES = frozenset({".txt", ".csv", ".tsv", ".json", ".parquet"})
"""Of files that may be tables of annotations."""

# Names of columns in the order of preference, without capitals and with a space for all but letters and digits.
_COLUMNS = {
    "file": ("begin path", "begin file", "in file", "file", "path", "filename", "filepath", "recording"),
    "start": ("begin time s", "start s", "start", "start time", "begin time"),
    "end": ("end time s", "end s", "end", "end time"),
    "duration": ("duration", "duration s"),
    "file offset": ("file offset s", "file offset"),
    "offset": ("offset",),
    "low": ("low freq hz", "low hz"),
    "high": ("high freq hz", "high hz"),
    "score": ("score", "confidence"),
    "scientific": ("scientific name", "scientific"),
    "common": ("common name", "common"),
    "selection": ("selection",),
}
_LABELS = (
    *("label", "annotation", "annotations", "manual id", "species", "class", "call", "tag", "species code"),
    *("common name", "scientific name", "top1match", "auto id"),
)
_NO_LABEL = frozenset({"", "?", "????"})
_SCORED = re.compile(r"(.*\S) (0\.\d\d|1\.00)")
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")


@dataclass(frozen=True)
class Row:
    """One row: times and frequencies are NaN where it has none, texts empty."""

    line: int
    """Of the file on which it begins, from 1."""
    file: str
    """The recording as the table names it."""
    start_s: float
    end_s: float
    label: str
    scientific_name: str = ""
    common_name: str = ""
    low_hz: float = math.nan
    high_hz: float = math.nan
    score: float = math.nan

    @property
    def is_empty(self) -> bool:
        """Whether it says that somebody listened to a recording and there is nothing."""
        return not self.label and math.isnan(self.start_s) and math.isnan(self.end_s) and bool(self.file)


@dataclass(frozen=True)
class Cells:
    """A table before anything is understood: the names of its columns, none of Audacity's, and lines with cells."""

    header: tuple[str, ...]
    rows: Sequence[tuple[int, Sequence[str]]]
    separator: str = ","


def read_rows(path: Path, name: str, problems: Problems) -> list[Row] | None:
    """Rows of a table that problems call `name`; `None` if it is none of annotations, for instance a README.

    Raises:
        DataError: if it can't be read.
    """
    cells = _read_cells(path)
    if cells is None:
        return None
    if not cells.header:
        return list(_audacity_rows(cells, name, problems))
    columns = _columns_of(cells.header)
    if "start" not in columns and not {"offset", "duration"} <= columns.keys():
        return None
    labels = [x for x in _LABELS if x in map(_folded, cells.header)]
    absent = []
    if "start" in columns and not {"end", "duration"} & columns.keys():
        absent.append("a column for the end, such as end_s or End Time (s)")
    if not labels:
        absent.append("one for the label, such as label, Annotation or Species")
    if absent:
        rule = f"a table of annotations must have {' and '.join(absent)}"
        problems.add(f"{name}: {rule}. Received: {', '.join(cells.header)}")
        return []
    return list(_table_rows(cells, columns, labels, name, problems))


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", name.casefold()).strip()


def _columns_of(header: Sequence[str]) -> dict[str, int]:
    """Where each of `_COLUMNS` is, of those that are there."""
    places = {_folded(x): i for i, x in reversed(list(enumerate(header)))}
    found = {key: next((places[x] for x in names if x in places), -1) for key, names in _COLUMNS.items()}
    return {key: place for key, place in found.items() if place >= 0}


def _read_cells(path: Path) -> Cells | None:
    try:
        if path.suffix.lower() == ".parquet":
            return _of_records(_parquet_records(path))
        text = _decoded(path)
        if path.suffix.lower() == ".json":
            records = json.loads(text)
            is_table = isinstance(records, list) and all(isinstance(x, dict) for x in records)
            return _of_records(records) if is_table else None
        return _of_text(text)
    except OSError as error:
        raise DataError(f"{path} can't be read. Received: {error.strerror or error}") from None
    except (ValueError, csv.Error) as error:
        rule = f"{path}: a table of annotations must be readable text, JSON or Parquet"
        raise DataError(f"{rule}. Received: {error}") from None


def _parquet_records(path: Path) -> list[dict[str, object]]:
    import pyarrow.parquet as pq

    records: list[dict[str, object]] = pq.read_table(path).to_pylist()
    return records


def _of_records(records: Sequence[Mapping[str, object]]) -> Cells | None:
    header = tuple(dict.fromkeys(key for x in records for key in x))
    rows = [
        (line, ["" if (cell := x.get(key)) is None else str(cell) for key in header])
        for line, x in enumerate(records, 1)
    ]
    return Cells(header, rows) if header else None


def _decoded(path: Path) -> str:
    """Text in UTF-8 or UTF-16; bytes that aren't UTF-8 stay, as names of files may hold them."""
    content = path.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    if b"\0" in content[:4]:
        return content.decode("utf-16-be" if content[:1] == b"\0" else "utf-16-le")
    return content.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def _of_text(text: str) -> Cells | None:
    first = next((x for x in text.splitlines() if x.strip()), "")
    separator = "\t" if "\t" in first else max(",;", key=first.count)
    if separator not in first:
        return Cells((), []) if not first else None
    # Raven and Audacity know no quotes.
    is_quoted = separator != "\t"
    reader = csv.reader(
        StringIO(text, newline=""),
        delimiter=separator,
        quoting=csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE,
    )
    rows, line = [], 1
    for cells in reader:
        if any(x.strip() for x in cells):
            rows.append((line, cells))
        line = reader.line_num + 1
    if not rows:
        return Cells((), [])
    start = rows[0][1][0].strip()
    if separator == "\t" and (start == "\\" or not math.isnan(_point(start.replace(",", ".")))):
        return Cells((), rows, separator)
    return Cells(tuple(x.strip() for x in rows[0][1]), rows[1:], separator)


def _point(text: str) -> float:
    value, _ = number(text)
    return value


@dataclass(frozen=True)
class _Numbers:
    """Reads a table's numbers. With `commas` a comma is the decimal point, as German and French systems write it."""

    name: str
    problems: Problems
    commas: bool

    @classmethod
    def of(cls, texts: Iterator[str], separator: str, name: str, problems: Problems) -> "_Numbers":
        """Decides by all numbers of a table: `1,234` alone might be a thousand."""
        found = [x.strip() for x in texts]
        with_comma = [x for x in found if _DECIMAL_COMMA.fullmatch(x)]
        is_clear = any(len(x.rpartition(",")[2]) != 3 for x in with_comma)
        return cls(name, problems, separator != "," and is_clear and not any("." in x for x in found))

    def read(self, text: str, what: str, line: int, is_needed: bool = False) -> float:
        """A number, NaN and a problem if it is none; a missing one is a problem where it is needed."""
        value, is_wrong = number(text.strip().replace(",", ".") if self.commas else text.strip())
        if is_wrong or (is_needed and math.isnan(value)):
            why = ", a comma; write a point" if _DECIMAL_COMMA.fullmatch(text.strip()) else ""
            self.problems.add(f"{what} must be a number. Received: {text!r}{why}", line, self.name)
        return value


def _audacity_rows(cells: Cells, name: str, problems: Problems) -> Iterator[Row]:
    texts = (x for _, row in cells.rows for x in row[:2])
    numbers, found = _Numbers.of(texts, cells.separator, name, problems), None
    for line, row in cells.rows:
        if row[0].strip() == "\\":
            if found is not None and len(row) >= 3:
                low_hz, high_hz = (numbers.read(x, "a frequency", line) for x in row[1:3])
                # Audacity writes -1 for an edge that isn't set.
                low_hz, high_hz = (x if x >= 0 else math.nan for x in (low_hz, high_hz))
                found = replace(found, low_hz=low_hz, high_hz=high_hz)
            continue
        if found is not None:
            yield found
        found = _audacity_row(row, line, numbers, problems, name)
    if found is not None:
        yield found


def _audacity_row(
    row: Sequence[str], line: int, numbers: _Numbers, problems: Problems, name: str
) -> Row | None:
    if len(row) < 2:
        problems.add(
            f"a label must have a start and an end, separated by tabs. Received: {row[0]!r}", line, name
        )
        return None
    start_s, end_s = (
        numbers.read(x, what, line, True) for what, x in zip(("the start", "the end"), row, strict=False)
    )
    text = row[2].strip() if len(row) > 2 else ""
    score = _point(row[3]) if len(row) > 3 else math.nan
    if math.isnan(score) and (scored := _SCORED.fullmatch(text)):
        text, score = scored[1], float(scored[2])
    return Row(line, "", start_s, end_s, text, score=score)


def _table_rows(
    cells: Cells, columns: Mapping[str, int], labels: Sequence[str], name: str, problems: Problems
) -> Iterator[Row]:
    width, places = len(cells.header), {_folded(x): i for i, x in reversed(list(enumerate(cells.header)))}
    rows: list[tuple[int, list[str]]] = []
    for line, row in cells.rows:
        if any(x.strip() for x in row[width:]):
            why = ", perhaps of decimal commas" if cells.separator == "," else ""
            problems.add(f"a row must have the header's {width} cells. Received: {len(row)}{why}", line, name)
        else:
            rows.append((line, [x.strip() for x in row[:width]] + [""] * (width - len(row))))
    timed = [columns[x] for x in ("start", "end", "duration", "offset", "file offset") if x in columns]
    numbers = _Numbers.of((row[i] for _, row in rows for i in timed), cells.separator, name, problems)
    views: dict[tuple[object, ...], Row] = {}
    for line, row in rows:
        cell = {key: row[place] for key, place in columns.items()}
        cell["label"] = next((row[places[x]] for x in labels if row[places[x]] not in _NO_LABEL), "")
        if "offset" in columns and "in file" in places:
            parts = [row[places[x]] for x in ("indir", "folder", "in file") if x in places]
            cell["file"] = "/".join(x for x in parts if x)
        found = _row(cell, line, numbers)
        # A selection has a row for each view, and not all of them frequencies.
        view = (cell.get("selection") or line, found.file, found.start_s, found.end_s, found.label)
        if view not in views or math.isnan(views[view].low_hz):
            views[view] = found
    yield from views.values()


def _row(cell: Mapping[str, str], line: int, numbers: _Numbers) -> Row:
    def read(key: str, what: str, is_needed: bool = False) -> float:
        return numbers.read(cell.get(key, ""), what, line, is_needed)

    is_needed = bool(cell["label"] or not cell.get("file"))
    start_s = read("start" if "start" in cell else "offset", "the start", is_needed)
    if "end" in cell:
        end_s = read("end", "the end", is_needed)
    else:
        end_s = start_s + read("duration", "the duration", is_needed)
    begin_s = read("file offset", "File Offset")
    if not math.isnan(begin_s) and cell.get("file"):
        start_s, end_s = begin_s, begin_s + end_s - start_s
    return Row(
        line,
        cell.get("file", ""),
        start_s,
        end_s,
        cell["label"],
        cell.get("scientific", ""),
        cell.get("common", ""),
        *(_point(cell.get(x, "")) for x in ("low", "high", "score")),
    )
