"""Reads CSV tables cell by cell, as they are written, so that what is wrong with one can be told by its row."""

import csv
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from keras_birds.errors import DataError

Rows = list[tuple[list[str], int]]
"""Cells of each row, and the line of the file on which it begins: the header is on line 1."""

# Their names may hold any bytes.
_FILES = ("file", "clip")


def read_csv(path: Path, what: str = "a table") -> tuple[list[str], Rows]:
    """Reads a CSV in UTF-8, with or without a byte order mark; every cell stays a string. Empty lines are skipped.

    In columns that name files other bytes may stand as well, as `os.fsdecode` reads them.

    Args:
        path: the file.
        what: it holds, for messages: for instance `thresholds`.

    Returns:
        The column names, none of an empty file, and the rows.

    Raises:
        DataError: if it can't be read, isn't a CSV in UTF-8, or seems to be separated by something else.
    """
    rows: Rows = []
    line = 1
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file)
            for cells in reader:
                if cells:
                    _require_text(rows[0][0] if rows else [], cells)
                    rows.append((cells, line))
                line = reader.line_num + 1
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: {what} must be a CSV in UTF-8. Received: {error}. Save it as CSV with UTF-8 encoding"
        ) from None
    except OSError as error:
        raise DataError(f"{path} can't be read. Received: {error.strerror or error}") from None
    header = rows.pop(0)[0] if rows else []
    require_commas(path, header)
    return header, rows


def _require_text(header: Sequence[str], cells: Sequence[str]) -> None:
    for name, cell in zip_longest(header, cells[: len(header) or None]):
        if name not in _FILES:
            (cell or "").encode("utf-8", "surrogateescape").decode("utf-8")


def read_records(path: Path, columns: Sequence[str], what: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV that must have some columns: the line of each, and its cells by column.

    Raises:
        DataError: as `read_csv`, or if a column is lacking or there twice, or a row has more or fewer cells.
    """
    header, rows = read_csv(path, what)
    lacking = [x for x in columns if header.count(x) != 1]
    if lacking:
        raise DataError(
            f"{path}: {what} must have the columns {', '.join(columns)}. Received: {', '.join(header) or 'none'}"
        )
    for cells, line in rows:
        if len(cells) != len(header):
            raise DataError(
                f"{path}: row {line}: a row must have the header's {len(header)} cells. Received: {len(cells)}"
            )
        yield line, dict(zip(header, cells, strict=True))


def require_commas(path: str | Path, header: Sequence[str]) -> None:
    """Refuses a table whose column names came as one cell, as German and French spreadsheets save them.

    Raises:
        DataError: naming the separator that it seems to have.
    """
    for separator, name in ((";", "semicolon"), ("\t", "tab")):
        if len(header) == 1 and separator in header[0]:
            raise DataError(
                f"{path}: a table's cells must be separated by commas. Received: {header[0]!r}, which looks "
                f"{name}-separated. Save it as CSV with commas"
            )
