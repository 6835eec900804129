"""A folder of whole recordings in shards, a journal that says which rows count, and a manifest: written, gone on with.

Of results and of embeddings alike: what is kept of a recording, a subclass says.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from keras_birds.audio.remote import file_fingerprint
from keras_birds.errors import KerasBirdsError
from keras_birds.inference.scorer import RecordingScores, RecordingStatus
from keras_birds.results.journal import Contents, Entry, Journal
from keras_birds.results.shards import ShardWriter, shard_path
from keras_birds.results.writers.files import new_text
from keras_birds.text import csv_writer

NOT_NAMED = "not among the recordings of this run"
_SHARD_S = 20.0
SHARD_BYTES = 1 << 25
"""From so many on a shard is full."""


class Writer(Protocol):
    """What writes one file of a shard, as `ShardWriter` does."""

    def write(self, rows: Any) -> None:
        """Adds rows."""

    def finish(self) -> None:
        """Writes what is left, on the disk when this returns; nothing where there were no rows."""

    def discard(self) -> None:
        """Leaves nothing of a file that isn't finished."""


class RecordingSink(ABC):
    """An open folder of shards: takes scored recordings, whole or in parts, and knows which are still to do.

    Args:
        folder: new, empty, or left by the same command.
        settings: what the rows depend on, as plain data.

    Raises:
        ConfigError: if the folder belongs to other settings, or holds something else.
        KerasBirdsError: if it can't be written.
    """

    contents: ClassVar[Contents]
    kinds: ClassVar[Mapping[str, str]]
    """Folders of a shard's files, and how the names of these end."""
    manifest_columns: ClassVar[Sequence[str]]

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self.folder = folder
        self.done_before = 0
        """Recordings that `to_do` left out."""
        self._journal = Journal(folder, settings, self.contents)
        self._rows = dict.fromkeys(self.kinds, 0)  # written of the recording that is open
        self._seen: set[str] = set()
        self._gone: dict[str, str] = {}  # why recordings weren't seen
        self._remove_unlisted()
        self._begin_shard(1 + max((x for x, _ in self._journal.shards()), default=0))

    @abstractmethod
    def _write_part(self, part: RecordingScores) -> None:
        """Writes what is kept of a recording, or of a part of it, with `_write`."""

    @abstractmethod
    def _entry(self, recording: RecordingStatus, rows: Mapping[str, int]) -> Entry:
        """The journal's line of a recording with so many rows of each kind, but for its shard."""

    @abstractmethod
    def _copy(self, number: int) -> Iterator[Entry]:
        """Puts the rows of a shard that still count into the open one, a recording at a time: their entries."""

    def _to_rewrite(self) -> list[int]:
        """Numbers of the shards that are written again in the end: those with rows that don't count any more."""
        return [x for x, entries in self._journal.shards() if not all(current for _, current in entries)]

    def _end(self, recording: RecordingStatus) -> RecordingStatus:
        """Writes what is known only at a recording's end; what became of it."""
        return recording

    def _manifest_cells(self, recording: RecordingStatus) -> dict[str, Any]:
        """What the manifest has in its columns, by name."""
        cells = {x: getattr(recording, x) for x in self.manifest_columns if hasattr(recording, x)}
        return {x: _milliseconds(y) if isinstance(y, float) else y for x, y in cells.items()}

    def _writer(self, kind: str, path: Path) -> Writer:
        return ShardWriter(path)

    def _shard_path(self, kind: str, number: int) -> Path:
        return shard_path(self.folder, kind, number, self.kinds[kind])

    def _begin_shard(self, number: int) -> None:
        self._next = number
        self._waiting: list[Entry] = []
        self._writers = {x: self._writer(x, self._shard_path(x, number)) for x in self.kinds}
        self._waiting_bytes = 0
        self._begun_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Writes what is scored, also after Ctrl-C."""
        try:
            if not isinstance(error, KerasBirdsError):
                self.flush()
        finally:
            for writer in self._writers.values():
                writer.discard()
            self._journal.close()

    @property
    def recordings(self) -> Iterator[RecordingStatus]:
        """Every recording in the folder, in the order in which they were first done; `not_seen` tells of this run."""
        for file, entry in self._journal.by_file.items():
            not_seen = "" if file in self._seen else self._gone.get(file, NOT_NAMED)
            yield replace(entry.recording, not_seen=not_seen)

    def to_do(
        self, files: Iterable[str], fingerprint: Callable[[str], tuple[int, int]] = file_fingerprint
    ) -> Iterator[str]:
        """Those paths and URLs that haven't been scored, or have changed since. Failed ones are tried again."""
        for file in files:
            entry = self._journal.by_file.get(file)
            # On an object store a fingerprint is a request.
            known = None if entry is None or entry.recording.failed else entry.recording.fingerprint
            if known is None or known != fingerprint(file):
                yield file
            else:
                self._seen.add(file)
                self.done_before += 1

    def add(self, scored: RecordingScores) -> RecordingStatus | None:
        """Takes a recording's scores, whole or in parts, which are written with the next shard.

        What an earlier run scored of a recording that is out of reach now, as on a disk that isn't there, stays.

        Returns:
            What became of it; `None` where more parts follow.
        """
        if not scored.recording.failed:
            self._write_part(scored)
        return self._close(scored.recording) if scored.is_last else None

    def _close(self, recording: RecordingStatus) -> RecordingStatus:
        """Enters a recording, of which there are no more parts."""
        if not recording.failed:
            recording = self._end(recording)
        rows, self._rows = self._rows, dict.fromkeys(self.kinds, 0)
        entry = replace(self._entry(recording, rows), shard=self._next)
        if recording.failed:
            if any(rows.values()):
                self._waiting.append(replace(entry, is_void=True))
            before = self._journal.by_file.get(recording.file)
            if before and not before.recording.failed and _is_gone(recording, before.recording):
                self._gone[recording.file] = recording.reason
                return replace(before.recording, not_seen=recording.reason)
            entry = Entry(recording)
        self._seen.add(recording.file)
        self._waiting.append(entry)
        if self._waiting_bytes > SHARD_BYTES or time.monotonic() - self._begun_at > _SHARD_S:
            self.flush()
        return entry.recording

    def _write(self, kind: str, rows: Any) -> None:
        self._put(kind, rows)
        self._rows[kind] += len(rows)

    def _put(self, kind: str, rows: Any) -> None:
        self._writers[kind].write(rows)
        self._waiting_bytes += rows.nbytes

    def flush(self) -> None:
        """Ends a shard, and then writes the journal's lines for it."""
        if not self._waiting:
            return
        for writer in self._writers.values():
            writer.finish()
        self._journal.append(self._waiting)
        self._begin_shard(self._next + 1)

    def _remove_unlisted(self) -> None:
        """Removes half-written files, and shards that no entry of the journal counts on."""
        numbers = [number for number, _ in self._journal.shards()]
        stale = [*self.folder.glob(".*.tmp")]
        for kind, suffix in self.kinds.items():
            known = {self._shard_path(kind, x) for x in numbers}
            stale += self.folder.glob(f"{kind}/.*{suffix}*.tmp")
            stale += [x for x in self.folder.glob(f"{kind}/*{suffix}") if x not in known]
        for path in stale:
            with suppress(PermissionError):  # Windows: another program reads it, and the next run removes it
                path.unlink()

    def finish(self) -> Path:
        """Writes what waits, drops rows of recordings that were scored again, and writes the manifest: its path."""
        self.flush()
        for number in self._to_rewrite():
            for entry in self._copy(number):
                self._waiting.append(replace(entry, shard=self._next))
            if self._waiting_bytes > SHARD_BYTES:
                self.flush()
        self.flush()
        self._remove_unlisted()
        path = self.folder / "manifest.csv"
        with new_text(path) as file:
            rows = csv_writer(file)
            rows.writerow(self.manifest_columns)
            for x in self.recordings:
                cells = self._manifest_cells(x)
                rows.writerow(cells[name] for name in self.manifest_columns)
        return path


def _milliseconds(seconds: float) -> str:
    return "" if math.isnan(seconds) else f"{seconds:.3f}"


def _is_gone(now: RecordingStatus, before: RecordingStatus) -> bool:
    """Whether a scored recording is out of reach, and not changed to one that can't be read."""
    return now.status in ("missing", "unreadable") and now.fingerprint in ((-1, -1), before.fingerprint)
