"""Appends recordings to a mel store so that a kill at any moment leaves a store that can go on.

The order of writes is what keeps it whole: data first, then, once that is on the disk, its lines in the
journal, and the index only when all is there. What the journal doesn't know is cut off when the next run
begins.
"""

import errno
import io
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd

from keras_birds.data.mel_store import DATA, INDEX, JOURNAL, SETTINGS, file_stamp
from keras_birds.errors import DataError

try:
    import fcntl
except ImportError:  # Windows has no flock: there, two runs on one store aren't kept apart.
    fcntl = None  # type: ignore[assignment]

_LOCK = ".lock"
STORE_FILES = {SETTINGS, DATA, JOURNAL, INDEX, _LOCK, f"{SETTINGS}.new", f"{INDEX}.new"}
"""All that a store's folder may hold."""

# A kill loses one group's work at most; syncing each recording costs more than computing it on a slow disk.
_GROUP = 64
_GROUP_S = 5.0
# A mount, a permission or ffmpeg may have come back since the last run.
_TRY_AGAIN = frozenset({"missing", "unreadable"})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True)
class Entry:
    """One recording in the journal and the index; unusable ones have no frames.

    Args:
        path: the recording.
        size_bytes: of the file when it was read.
        mtime_ns: of the file when it was read.
        offset: of its data in `data.bin`, in bytes.
        frames: stored.
        samples: length at the configured rate, as filled where it is shorter than a clip.
        status: as in a manifest.
        reason: why the status isn't ok.
    """

    path: str
    size_bytes: int
    mtime_ns: int
    offset: int
    frames: int
    samples: int
    status: str
    reason: str


class StoreWriter:
    """One run's access to a store; a context manager, within which recordings are added.

    Args:
        store: the folder, locked by the caller.
        settings: what the contents depend on.
        frame_bytes: size of one stored frame.
        anew: throw away what is there, on entering.
    """

    def __init__(self, store: Path, settings: dict[str, Any], frame_bytes: int, anew: bool):
        self.store = store
        self._settings = settings
        self._frame_bytes = frame_bytes
        self._anew = anew or not (store / SETTINGS).is_file()
        self.entries: dict[str, Entry] = {}
        self._journal_bytes = self._end = 0
        self._waiting: list[Entry] = []
        self._group_began = 0.0
        if not self._anew:
            self._load()

    @property
    def data_bytes(self) -> int:
        """Size of the data file."""
        path = self.store / DATA
        return path.stat().st_size if path.is_file() else 0

    def has(self, path: str) -> bool:
        """Whether a recording is in the store as it is on the disk now."""
        entry = self.entries.get(path)
        if entry is None or entry.status in _TRY_AGAIN:
            return False
        return file_stamp(path) == (entry.size_bytes, entry.mtime_ns)

    def _load(self) -> None:
        """Reads the journal up to the first line that isn't whole or whose data isn't there."""
        journal = self.store / JOURNAL
        data_bytes = self.data_bytes
        for line in journal.read_bytes().splitlines(keepends=True) if journal.is_file() else ():
            try:
                entry = Entry(**json.loads(line))
            except (ValueError, TypeError):
                break
            end = entry.offset + entry.frames * self._frame_bytes
            if not line.endswith(b"\n") or end > data_bytes:
                break
            self.entries[entry.path] = entry
            self._journal_bytes += len(line)
            self._end = max(self._end, end)

    def __enter__(self) -> "StoreWriter":
        with _disk_errors(self.store):
            if self._anew:
                # The index goes first and the settings come last: at no moment do they vouch for other data.
                for name in (INDEX, JOURNAL, DATA):
                    (self.store / name).unlink(missing_ok=True)
                write_atomically(self.store / SETTINGS, json.dumps(self._settings, indent=2).encode() + b"\n")
            self._data = _open_at(self.store / DATA, self._end)
            self._journal = _open_at(self.store / JOURNAL, self._journal_bytes)
        self._group_began = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._commit()
        except (DataError, OSError):
            if error is None:
                raise
        finally:
            self._data.close()
            self._journal.close()

    def add(self, entry: Entry, data: bytes) -> None:
        """Appends a recording.

        Raises:
            DataError: if the disk is full; what was committed before stays.
        """
        with _disk_errors(self.store):
            _write(self._data, data)
        self._waiting.append(replace(entry, offset=self._end if data else 0))
        self._end += len(data)
        if len(self._waiting) >= _GROUP or time.monotonic() - self._group_began > _GROUP_S:
            self._commit()

    def _commit(self) -> None:
        with _disk_errors(self.store):
            os.fsync(self._data.fileno())
            lines = "".join(json.dumps(asdict(entry)) + "\n" for entry in self._waiting).encode()
            # A commit that failed on a full disk may have left a torn line.
            self._journal.truncate(self._journal_bytes)
            self._journal.seek(self._journal_bytes)
            _write(self._journal, lines)
            os.fsync(self._journal.fileno())
        self._journal_bytes += len(lines)
        self.entries.update((entry.path, entry) for entry in self._waiting)
        self._waiting.clear()
        self._group_began = time.monotonic()

    def finish(self, paths: Sequence[str]) -> list[Entry]:
        """Writes the index: from now on readers see these recordings.

        Returns:
            Their entries, in order.
        """
        self._commit()
        chosen = [self.entries[path] for path in paths]
        buffer = io.BytesIO()
        pd.DataFrame([asdict(entry) for entry in chosen], columns=list(Entry.__annotations__)).to_parquet(
            buffer
        )
        with _disk_errors(self.store):
            write_atomically(self.store / INDEX, buffer.getvalue())
        return chosen


def _open_at(path: Path, size: int) -> io.FileIO:
    """Opens a file to write on behind its first `size` bytes; what follows them is cut off."""
    path.touch()
    file = io.FileIO(path, "r+")
    file.truncate(size)
    file.seek(size)
    return file


def _write(file: io.FileIO, data: bytes) -> None:
    """Writes all of it: a nearly full disk takes a part without an error."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) or 0 :]


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file under another name and renames it: readers see the old file or all of the new one."""
    new = path.with_name(f"{path.name}.new")
    try:
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """Makes the store's folder and keeps other runs out of it.

    Raises:
        DataError: if another run is writing there, or the path isn't a folder.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise DataError(f"--out must be a folder. Received: {store}, a file") from None
    with (store / _LOCK).open("w") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(
                    f"one run at a time can write a mel store. Received: {store}, where another is at work; "
                    "wait for it or choose another --out"
                ) from None
        yield


@contextmanager
def _disk_errors(store: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DataError(
            f"{store}: the disk is full. Received: {error.strerror}; free some space and run the same "
            "command again: it goes on from here"
        ) from None
