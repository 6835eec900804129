"""Keeps a second process from writing a file, on POSIX and on Windows."""

import os
from typing import IO, Any

# Windows locks bytes, which then nobody else can read: one where no file has any.
_FAR_BYTE = (1 << 31) - 2


def lock(file: IO[Any]) -> None:
    """Locks an open file until it is closed; a `BlockingIOError` if another process, or this one, holds it."""
    try:
        import fcntl
    except ImportError:
        _lock_on_windows(file)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock_on_windows(file: IO[Any]) -> None:
    import msvcrt

    descriptor = file.fileno()
    place = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, _FAR_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except OSError as error:
        raise BlockingIOError(error.errno, error.strerror) from None
    finally:
        os.lseek(descriptor, place, os.SEEK_SET)
