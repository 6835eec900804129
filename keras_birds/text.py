"""Names of files as CSV, tables and terminals can hold them, whatever bytes they are made of."""

import csv
import os
from pathlib import Path
from typing import Any, TextIO


def csv_writer(stream: TextIO) -> Any:
    """A `csv.writer` that ends rows in a line feed and quotes whatever a name may hold."""
    return csv.writer(_UnixLines(stream))


class _UnixLines:
    """Ends rows in a line feed. Told to do so itself, `csv.writer` leaves a carriage return in a name unquoted."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, row: str) -> int:
        return self._stream.write(row.removesuffix("\r\n") + "\n")


def relative_name(path: str | Path, root: Path) -> str:
    """A path from `root`, with forward slashes; whole where it lies on another disk of Windows."""
    try:
        path = os.path.relpath(path, root)
    except ValueError:
        path = str(path)
    return path.replace(os.sep, "/")


def printable(path: str | Path) -> str:
    """A path with bytes that aren't UTF-8 replaced, so that any terminal can show it."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def storable(name: str) -> str:
    """A name as UTF-8 can hold it: bytes that aren't UTF-8 become `\\udcXX`."""
    return name.encode("utf-8", "backslashreplace").decode()
