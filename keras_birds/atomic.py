"""Writes a file in one piece: it is there whole, or as it was before."""

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from keras_birds.errors import KerasBirdsError

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a disk, a quota or a limit of sizes says when it takes no more."""

# Reading has other errors: without a file's name, these are of what was being written.
_OF_WRITES = DISK_FULL | {errno.EROFS, errno.EPIPE}


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Gives a temporary name beside `path`, renamed to `path` when the block ends without an error.

    What exists and isn't a regular file (`/dev/stdout`, a named pipe) is written directly.

    Raises:
        KerasBirdsError: if the disk is full or the place can't be written. Errors about other files, which the block
            reads, go on as they are.
    """
    path = Path(path)
    direct = path.exists() and not path.is_file()
    temporary = path if direct else path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if not direct:
            temporary.replace(path)
    except OSError as error:
        names = {os.fspath(x) for x in (error.filename, error.filename2) if isinstance(x, str | Path)}
        if not names & {str(path), str(temporary)} and (names or error.errno not in _OF_WRITES):
            raise
        way_out = "Free some space or choose" if error.errno in DISK_FULL else "Choose"
        raise KerasBirdsError(
            f"{path} can't be written. Received: {error.strerror or error}. {way_out} another place"
        ) from None
    finally:
        if not direct:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def is_leftover(path: Path) -> bool:
    """Whether it has one of the temporary names of `atomic_path`, which a killed run leaves behind."""
    return re.fullmatch(r"\..+\.\d+\.tmp", path.name) is not None


def write_json(path: Path, data: Any) -> None:
    """Writes plain data; names that aren't UTF-8 have their bytes as `\\udcXX`. Errors are those of `atomic_path`."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


@contextmanager
def resumable(path: Path) -> Iterator[None]:
    """Says of an error while `path` is written how to go on: a `KerasBirdsError`."""
    try:
        yield
    except OSError as error:
        raise KerasBirdsError(
            f"{path} can't be written. Received: {error.strerror or error}. Free some space; the same command goes on"
        ) from None
