"""Writes a file in one piece: it is there whole, or as it was before."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keras_birds.errors import KerasBirdsError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Gives a temporary name beside `path`, renamed to `path` when the block ends without an error.

    What exists and isn't a regular file (`/dev/stdout`, a named pipe) is written directly.

    Raises:
        KerasBirdsError: if the disk is full or the place can't be written.
    """
    path = Path(path)
    direct = path.exists() and not path.is_file()
    temporary = path if direct else path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if not direct:
            temporary.replace(path)
    except OSError as error:
        raise KerasBirdsError(
            f"{path} can't be written. Received: {error.strerror or error}. Free some space or choose another place"
        ) from None
    finally:
        if not direct:
            temporary.unlink(missing_ok=True)
