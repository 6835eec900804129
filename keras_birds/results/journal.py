"""The journal of a folder of results: which recordings are done, and which shard holds their rows.

`journal.jsonl` begins with a line of settings; each line after it tells what became of one recording, with the number
of its shard, -1 where it has no rows. Of several lines for a recording the last one counts. Lines are written after
the shard that they name, and to the disk before anything else happens: a kill at any moment leaves a shard without
lines, or half a line, and both are dropped when the folder is opened again.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from keras_birds.atomic import atomic_path
from keras_birds.errors import ConfigError, DataError, KerasBirdsError
from keras_birds.inference.recording_status import RecordingStatus

JOURNAL = "journal.jsonl"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One recording in the journal.

    Args:
        recording: what became of it.
        shard: number of the shard with its rows; -1 without.
        summary_rows: how many it has in the summary's shard.
        score_rows: how many it has in the scores' shard.
    """

    recording: RecordingStatus
    shard: int = -1
    summary_rows: int = 0
    score_rows: int = 0


class Journal:
    """An open journal, which only one process may write.

    Args:
        folder: of the results; made if it isn't there.
        settings: what scores depend on, as plain data; must equal those of an earlier run in the folder.

    Raises:
        ConfigError: if the folder belongs to other settings or isn't a folder of results; it names what differs.
        KerasBirdsError: if it can't be written, or another process is writing it.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self.entries: dict[str, Entry] = {}
        self._lines: list[Entry] = []
        self._path = folder / JOURNAL
        if folder.exists() and not self._path.exists() and _holds_something(folder):
            raise ConfigError(
                f"--out must be a new or empty folder, or one of results to go on with. Received: {folder}, which "
                f"holds other files"
            )
        # Through JSON, as they are read back.
        header = json.loads(json.dumps({"format_version": FORMAT_VERSION, "settings": settings}))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not self._path.exists():
                with atomic_path(self._path) as temporary:
                    temporary.write_text(json.dumps(header) + "\n", encoding="utf-8")
            # Without a buffer: what a full disk refuses must not come again when the file is closed.
            self._file = self._path.open("r+b", buffering=0)
        except OSError as error:
            raise KerasBirdsError(
                f"{folder} can't be written. Received: {error.strerror or error}. Choose another place"
            ) from None
        try:
            self._lock()
            whole = self._read(header)
            self._file.truncate(whole)
            self._file.seek(whole)
        except BaseException:
            self._file.close()
            raise

    @classmethod
    def of(cls, folder: Path) -> "Journal":
        """The journal of a folder as it is now, whatever its settings; for reading, and nothing is changed.

        Raises:
            DataError: if there is none, or it can't be read.
        """
        journal = cls.__new__(cls)
        journal.entries, journal._lines, journal._path = {}, [], folder / JOURNAL
        try:
            journal._read(None)
        except OSError as error:
            raise DataError(
                f"results must be a folder that `keras-birds predict --out FOLDER` left. Received: {folder} "
                f"({JOURNAL}: {error.strerror or error})"
            ) from None
        return journal

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise KerasBirdsError(
                f"{self._path.parent} must be written by one process at a time. Received: a second one; wait for the "
                "first, or choose another --out"
            ) from None

    def _read(self, header: dict[str, Any] | None) -> int:
        """Takes the entries, of any settings if `header` is None; how many bytes are whole lines."""
        whole = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    break
                try:
                    data = json.loads(line)
                    if number == 0:
                        self._check_header(data, header)
                    else:
                        self._add(Entry(RecordingStatus(**data.pop("recording")), **data))
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    raise KerasBirdsError(
                        f"{self._path}: line {number + 1} must be an entry of the journal. Received: {error}. Choose "
                        "another --out"
                    ) from None
                whole += len(line)
        if not whole:
            raise KerasBirdsError(
                f"{self._path} must begin with its settings. Received: none. Choose another --out"
            )
        return whole

    def _check_header(self, stored: dict[str, Any], wanted: dict[str, Any] | None) -> None:
        if stored.get("format_version") != FORMAT_VERSION:
            raise ConfigError(
                f"{self._path}: format_version must be {FORMAT_VERSION}. Received: {stored.get('format_version')}; "
                "choose another --out"
            )
        if wanted is None:
            return
        a, b = stored["settings"], wanted["settings"]
        differences = [
            f"{key} is {_short(b.get(key))}, was {_short(a.get(key))}"
            for key in dict.fromkeys([*b, *a])
            if a.get(key) != b.get(key)
        ]
        if differences:
            raise ConfigError(
                f"--out {self._path.parent} holds results of other settings, which aren't mixed. Received: "
                f"{'; '.join(differences)}. Choose another --out"
            )

    def append(self, entries: Iterable[Entry]) -> None:
        """Adds entries, on the disk when this returns.

        Raises:
            KerasBirdsError: if the disk is full.
        """
        added = list(entries)
        lines = [json.dumps({**asdict(x), "recording": asdict(x.recording)}) + "\n" for x in added]
        try:
            data = memoryview("".join(lines).encode())
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise KerasBirdsError(
                f"{self._path} can't be written. Received: {error.strerror or error}. Free some space; the same "
                "command goes on"
            ) from None
        for entry in added:
            self._add(entry)

    def _add(self, entry: Entry) -> None:
        self._lines.append(entry)
        self.entries[entry.recording.file] = entry

    def shards(self) -> Iterator[tuple[int, list[tuple[Entry, bool]]]]:
        """Numbers of the shards that count, each with all its entries in order and whether they still count."""
        for number, group in groupby((x for x in self._lines if x.shard >= 0), key=lambda x: x.shard):
            entries = [(x, self.entries[x.recording.file] is x) for x in group]
            if any(is_current for _, is_current in entries):
                yield number, entries

    def close(self) -> None:
        """Lets another process write."""
        self._file.close()


def _holds_something(folder: Path) -> bool:
    return not folder.is_dir() or any(not x.name.startswith(f".{JOURNAL}.") for x in folder.iterdir())


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"
