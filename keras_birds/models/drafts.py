"""Writes a folder in one piece: it is there whole, or not at all."""

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from keras_birds.errors import KerasBirdsError

_STALE_S = 24 * 3600.0


@contextmanager
def drafted(folder: Path, remedy: str) -> Iterator[Path]:
    """Gives an empty folder that becomes `folder` when the block ends without an error; else nothing stays.

    Raises:
        KerasBirdsError: if the place can't be written, or another process was sooner; `remedy` says what to do.
    """
    draft = draft_of(folder)
    try:
        _remove_stale_drafts(folder.parent)
        shutil.rmtree(draft, ignore_errors=True)  # of a process whose number came round again
        draft.mkdir(parents=True)
        yield draft
        draft.replace(folder)
    except KerasBirdsError as error:  # of what was written, by the name that it would have had
        raise type(error)(str(error).replace(str(draft), str(folder))) from None
    except OSError as error:
        raise KerasBirdsError(
            f"{folder} can't be written. Received: {error.strerror or error}. {remedy}"
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def draft_of(folder: Path) -> Path:
    """The name beside `folder` under which this process writes it, or removes it."""
    return folder.with_name(f".{folder.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def _remove_stale_drafts(place: Path) -> None:
    """Removes what processes that were killed left behind: of this machine those that have gone, else what is old."""
    for path in place.glob(".*.tmp"):
        start, _, pid = path.name.removesuffix(".tmp").rpartition(".")
        is_here = start.endswith(f".{socket.gethostname()}") and pid.isdecimal()
        with suppress(OSError):
            if (is_here and not _runs(int(pid))) or time.time() - path.stat().st_mtime > _STALE_S:
                shutil.rmtree(path)


def _runs(pid: int) -> bool:
    if os.name != "posix":  # elsewhere this would end it
        return True
    try:
        os.kill(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True
