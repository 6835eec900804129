"""Finds the recordings that arguments name: files, folders, globs, lists and URLs."""

import csv
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from keras_birds.audio.listing import Kind, OnProblem, Tree, has_magic
from keras_birds.audio.remote import is_url, list_url
from keras_birds.csv_table import require_commas
from keras_birds.errors import DataError

LIST_COLUMNS = ("file", "path", "filename")
"""Of a CSV list: the first of these that it has holds the names."""

_LIST_BLOCK_BYTES = 1 << 16


_log_problem = partial(logging.getLogger("keras_birds").warning, "%r %s")  # stderr where nothing else was set


def recordings_in(folder: str | Path, on_problem: OnProblem = _log_problem) -> list[str]:
    """The recordings in a folder, at any depth: the one rule for `predict`, data sets, backgrounds and the app.

    Files with a suffix of `AUDIO_SUFFIXES` are recordings, whatever is in them. Hidden files and folders (`._a.wav`
    too), tables, texts and pictures are passed over; links to folders aren't followed.

    Args:
        folder: a local folder, with which the paths in the answer begin.
        on_problem: is told of folders that can't be listed, and of files of unknown kind, as a name and a reason that
            follows it: `"'rec' holds 2 files of unknown kind, left out: ..."`.
    """
    return list(Tree(_entries, on_problem).walk(str(folder)))


def find_inputs(
    arguments: Sequence[str], stdin: BinaryIO | None, on_problem: OnProblem, on_gone: OnProblem | None = None
) -> Iterator[str]:
    """Names of the recordings that arguments stand for, found as they are asked for, each once.

    An argument is one of

    - a file, whatever it is called;
    - a folder: its recordings, as `recordings_in`;
    - a glob that the shell left alone, `**` for any number of folders: files that match, whatever they are called,
      and folders as above; a file of exactly that name wins;
    - a `.csv` in UTF-8 with a column of `LIST_COLUMNS`; relative names count from its folder where they exist there,
      else from the current folder;
    - `-`: a list on `stdin`, one name a line, or separated by NUL as `find -print0` does;
    - a URL of a file, of a folder if it ends in `/`, or with a glob.

    Lists name files and URLs of files: nothing in them is expanded, and what doesn't exist is handed on, so that it
    can be accounted for.

    Args:
        arguments: as on the command line.
        stdin: where `-` reads from.
        on_problem: is told what a batch goes on without, as in `recordings_in`, and of rows that name nothing.
        on_gone: is told of arguments that don't exist or hold no recordings, if the batch goes on without them.

    Returns:
        Local paths and URLs, as they were written or found.

    Raises:
        DataError: at once, if arguments aren't such lists, or, without `on_gone`, don't exist (all are named) or hold
            no recordings.
        ConfigError: if a URL needs a package that isn't installed.
    """
    missing = {x: reason for x in arguments if (reason := _why_missing(x))}
    if missing and on_gone is None:
        received = ", ".join(f"{x!r} ({reason})" for x, reason in missing.items())
        raise DataError(f"recordings and folders must exist. Received: {received}")
    sources, empty = [], []
    for argument in dict.fromkeys(x for x in arguments if x not in missing):
        found = _find(argument, stdin, on_problem)
        first = next(found, None)
        if first is None:
            empty.append(argument)
        else:
            sources.append(chain((first,), found))
    if on_gone is not None:
        for argument, reason in {**missing, **dict.fromkeys(empty, "it holds no recordings")}.items():
            on_gone(argument, reason)
    elif empty:
        raise DataError(
            f"folders, globs and lists must hold recordings. Received none in: {', '.join(map(repr, empty))}"
        )
    return _each_once(chain.from_iterable(sources))


def _why_missing(argument: str) -> str:
    if argument == "-" or is_url(argument):
        return ""
    try:
        os.stat(argument)  # noqa: PTH116 - names stay strings
    except (OSError, ValueError) as error:
        return "" if has_magic(argument) else getattr(error, "strerror", None) or str(error)
    return ""


def _find(argument: str, stdin: BinaryIO | None, on_problem: OnProblem) -> Iterator[str]:
    if argument == "-":
        return _read_stdin(stdin)
    if is_url(argument):
        return list_url(argument, on_problem)
    tree, path = Tree(_entries, on_problem), Path(argument)
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path's, it never raises
        return tree.walk(argument)
    if has_magic(argument) and not os.path.exists(path):  # noqa: PTH110
        below = ("**",) * argument.endswith((os.sep, "/"))  # what ends so is a folder
        return tree.expand(path.anchor, path.parts[bool(path.anchor) :] + below)
    if path.suffix.lower() == ".csv":
        return _resolve(argument, _read_csv(path, on_problem))
    return iter((argument,))


def _entries(folder: str) -> list[tuple[str, Kind]]:
    with os.scandir(folder or os.curdir) as entries:
        return [(entry.name, _kind(entry)) for entry in entries]


def _kind(entry: os.DirEntry[str]) -> Kind:
    try:
        if entry.is_dir():
            return "link" if entry.is_symlink() else "folder"
    except OSError:  # a link to itself: for the reader to tell
        pass
    return "file"


def _read_stdin(stdin: BinaryIO | None) -> Iterator[str]:
    if stdin is None:
        raise DataError("- needs a list of recordings on stdin. Received: no stdin")
    # A name is at most 4 KiB: if NULs separate, one is in the first block.
    block = stdin.read(_LIST_BLOCK_BYTES).removeprefix(b"\xef\xbb\xbf")
    if block.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError("a list on stdin must be in UTF-8. Received: UTF-16")
    separator, line_end = (b"\0", b"") if b"\0" in block else (b"\n", b"\r")
    rest = b""
    for part in chain((block,), iter(partial(stdin.read, _LIST_BLOCK_BYTES), b""), (separator,)):
        *names, rest = (rest + part).split(separator)
        for name in names:
            if name.removesuffix(line_end):
                yield _file_name(name.removesuffix(line_end))


def _file_name(name: bytes) -> str:
    # Windows' own decoding raises where others keep the bytes: here such a file is missing, as any that isn't there.
    return name.decode("utf-8", "surrogateescape") if os.name == "nt" else os.fsdecode(name)


def _read_csv(path: Path, on_problem: OnProblem) -> list[str]:
    names = []
    try:
        # Bytes of names that aren't UTF-8 come back as they are, as in the tables that predict writes.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.reader(file, strict=True)
            header = next(rows, [])
            column = _list_column(path, header)
            for row in rows:
                if len(row) > column and row[column]:
                    names.append(row[column])
                elif row:
                    on_problem(str(path), f"its line {rows.line_num} names no recording")
    except csv.Error as error:
        raise DataError(f"{str(path)!r} must be a CSV. Received in line {rows.line_num}: {error}") from None
    except OSError as error:
        raise DataError(f"{str(path)!r} can't be read. Received: {error.strerror or error}") from None
    return names


def _list_column(path: Path, header: list[str]) -> int:
    require_commas(path, header)
    columns = [x.strip().lower() for x in header]
    found = [columns.index(x) for x in LIST_COLUMNS if x in columns]
    if not found:
        received, wanted = ", ".join(map(repr, header)) or "an empty file", " or ".join(LIST_COLUMNS)
        raise DataError(f"a list must have a column {wanted}. Received in {str(path)!r}: {received}")
    return found[0]


def _resolve(table: str, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        beside = os.path.join(os.path.dirname(table), name)  # noqa: PTH118, PTH120 - a Path would change the name
        yield beside if not is_url(name) and os.path.lexists(beside) else name


def _each_once(names: Iterable[str]) -> Iterator[str]:
    """Of several ways to write a name (`a.wav`, `./a.wav`, absolute), the first."""
    here = Path.cwd()
    seen = set()
    for name in names:
        key = name if is_url(name) else str(here / name)
        if key not in seen:
            seen.add(key)
            yield name
