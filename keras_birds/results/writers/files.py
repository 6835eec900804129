"""Where tables go: names that any file system takes, files that are there whole or not at all."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path, PurePath
from typing import BinaryIO, TextIO

from keras_birds.atomic import atomic_path
from keras_birds.errors import KerasBirdsError
from keras_birds.text import printable

_SEPARATORS = r"[/\\]" if os.name == "nt" else "/"
_NOT_IN_NAMES = frozenset('<>:"/\\|?*%')
# Devices on Windows, whatever follows a point.
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{x}{n}" for x in ("com", "lpt") for n in "123456789¹²³")}
)
_ROOT, _URL = "root", "url"
# File systems allow 255, and `atomic_path` adds up to 14 for as long as it writes.
_NAME_BYTES = 200


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Opens `path` to write; it is there once the block ends without an error. Makes the folders above it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KerasBirdsError(
            f"the folder {printable(path.parent)} can't be made. Received: {error.strerror}. Choose another place"
        ) from None
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        yield file


@contextmanager
def new_text(path: Path, errors: str = "surrogateescape") -> Iterator[TextIO]:
    """As `new_file`, for text in UTF-8. Names that aren't UTF-8 come out byte for byte."""
    with new_file(path) as file, TextIOWrapper(file, "utf-8", errors, newline="") as stream:
        yield stream


def recording_path(file: str, suffix: str) -> PurePath:
    """Where a recording's table goes below the folder of its format: the recording's own path and `suffix`.

    `rec/a.wav` is `rec/a.wav.csv`, `/disk/a.wav` is `root/disk/a.wav.csv` and `s3://bucket/a.wav` is
    `url/s3/bucket/a.wav.csv`. Characters that some file system refuses are written as in URLs (`%0A`), `..` too;
    of a name longer than 200 bytes the start is kept, with a digest. Two recordings never share a path, and a
    recording has the same one in every run.
    """
    scheme, colon, rest = file.partition("://")
    if colon and re.fullmatch(r"[\w+.-]+", scheme):
        parts = [_URL, _safe(scheme), *(_safe(x) for x in rest.split("/"))]
    else:
        parts = [_safe(x) for x in re.split(_SEPARATORS, file)]
        if len(parts) > 1 and file[0] in "/\\":
            parts[0] = _ROOT
        elif parts[0] in (_ROOT, _URL):
            parts[0] = _escape_last(parts[0])
    # A folder `a.csv` would be in the way of the table of a recording `a`.
    folders = [_escape_last(x) if x.lower().endswith(suffix.lower()) else x for x in parts[:-1]]
    return PurePath(*(_shortened(x, "") for x in folders), _shortened(parts[-1], suffix))


def safe_name(text: str, suffix: str = "") -> str:
    """`text` and `suffix` as the name of one file or folder, written as in `recording_path`."""
    return _shortened(_safe(text), suffix)


def _safe(name: str) -> str:
    """One name of a path, so written that none but itself comes out the same. The empty name is `%`."""
    text = "".join(_escaped(x) if x in _NOT_IN_NAMES or not x.isprintable() else x for x in name)
    if text.startswith("."):
        # Hidden from people and from Parquet readers; `.` and `..` aren't names at all.
        text = _escaped(".") + text[1:]
    if text.partition(".")[0].rstrip(" ").lower() in _DEVICES:
        text = _escaped(text[0]) + text[1:]
    # Windows drops these at the end.
    return _escape_last(text) if text.endswith((".", " ")) else text or "%"


def _escape_last(name: str) -> str:
    return name[:-1] + _escaped(name[-1])


def _escaped(character: str) -> str:
    return "".join(f"%{x:02X}" for x in character.encode("utf-8", "surrogatepass"))


def _shortened(name: str, suffix: str) -> str:
    whole = (name + suffix).encode()
    if len(whole) <= _NAME_BYTES:
        return name + suffix
    digest = hashlib.sha256(whole).hexdigest()[:16]
    # No name that fits holds `%-`.
    ending = f"%-{digest}{suffix}"
    return whole[: _NAME_BYTES - len(ending)].decode(errors="ignore") + ending
