"""The journal of a folder of results or embeddings: which recordings are done, and which shard holds their rows.

`journal.jsonl` begins with a line of settings; each line after it tells what became of one recording, with the number
of its shard, -1 where it has no rows. Of several lines for a recording the last one counts. Lines are written after
the shard that they name, and to the disk before anything else happens: a kill at any moment leaves a shard without
lines, or half a line, and both are dropped when the folder is opened again.
"""

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from keras_birds.atomic import atomic_path, resumable
from keras_birds.audio.recorder import UNKNOWN, UNTOLD, Origin, RecorderMetadata
from keras_birds.errors import ConfigError, DataError, KerasBirdsError
from keras_birds.file_lock import lock
from keras_birds.inference.scorer import RecordingStatus

JOURNAL = "journal.jsonl"

_MAX_VALUES = 1 << 14
_values: dict[tuple[type, Any], Any] = {}


@dataclass(frozen=True)
class Contents:
    """What a folder with a journal holds.

    Args:
        name: of what it holds, in the journal's first line and in errors.
        command: of keras-birds, which writes it.
        version: of the journal's lines; a reader refuses every other number.
        may_differ: names of settings that say more of the others, and needn't be equal.
    """

    name: str
    command: str
    version: int
    may_differ: frozenset[str] = frozenset()


RESULTS = Contents("results", "detect", 3, may_differ=frozenset({"licence", "band_hz"}))


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of a recording; the shard with its rows, -1 without; how many it has there beside detections.

    Embeddings count as scores. With `is_void` its rows don't count: it failed after some of them were written.
    """

    recording: RecordingStatus
    shard: int = -1
    summary_rows: int = 0
    score_rows: int = 0
    is_void: bool = False


class Journal:
    """What a folder says of its recordings: read as it is, or open for the one process that may write it.

    `by_file` has the last entry of each recording, in the order of their first ones.

    Args:
        folder: of the results; made if it isn't there.
        settings: what scores depend on, as plain data; must equal those of an earlier run in the folder. `None` reads
            entries of any settings, and changes nothing.
        contents: what the folder holds, or is to hold.

    Attributes:
        settings: of the folder.

    Raises:
        ConfigError: if the folder belongs to other settings or holds something else; it names what differs.
        DataError: if there is nothing to be read.
        KerasBirdsError: if it can't be written, or another process is writing it.
    """

    def __init__(self, folder: Path, settings: dict[str, Any] | None, contents: Contents = RESULTS):
        self.settings: dict[str, Any] = {}
        self._contents = contents
        self.by_file: dict[str, Entry] = {}
        self._lines: list[Entry] = []
        self._path = folder / JOURNAL
        if settings is None:
            try:
                self._read(None)
            except OSError as error:
                raise _no_folder(folder, contents, error) from None
            return
        if not self._path.exists() and _holds_something(folder):
            raise ConfigError(
                f"--out must be a new or empty folder, or one of {contents.name} to go on with. Received: {folder}, "
                "which holds other files"
            )
        # Through JSON, as they are read back.
        settings = json.loads(json.dumps(settings))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not self._path.exists():
                header = {"contents": contents.name, "format_version": contents.version, "settings": settings}
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
            whole = self._read(settings)
            self._file.truncate(whole)
            self._file.seek(whole)
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        try:
            lock(self._file)
        except BlockingIOError:
            raise KerasBirdsError(
                f"{self._path.parent} must be written by one process at a time. Received: a second one; wait for the "
                "first, or choose another --out"
            ) from None

    def append(self, entries: Sequence[Entry]) -> None:
        """Adds entries, on the disk when this returns; a `KerasBirdsError` if it is full."""
        lines = [_as_dict(x) for x in entries]
        with resumable(self._path):
            data = memoryview("".join(json.dumps(x) + "\n" for x in lines).encode())
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        self._add(map(_entry, lines))

    def _add(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._lines.append(entry)
            if not entry.is_void:
                self.by_file[entry.recording.file] = entry

    def close(self) -> None:
        """Lets another process write."""
        self._file.close()

    def shards(self) -> Iterator[tuple[int, list[tuple[Entry, bool]]]]:
        """Numbers of the shards that count, each with all its entries in order and whether they still count."""
        for number, group in groupby((x for x in self._lines if x.shard >= 0), key=lambda x: x.shard):
            entries = [(x, self.by_file.get(x.recording.file) is x) for x in group]
            if any(is_current for _, is_current in entries):
                yield number, entries

    def _read(self, settings: dict[str, Any] | None) -> int:
        """Takes the entries, of any settings if `settings` is None; how many bytes are whole lines."""
        whole = 0
        for item, size in _lines(self._path, settings, self._contents):
            if isinstance(item, Entry):
                self._add([item])
            else:
                self.settings = item
            whole += size
        if not whole:
            raise _no_settings(self._path)
        return whole


class StreamedJournal:
    """What a folder of results says of its recordings, read a shard at a time: a season's `Journal` takes 400 MB.

    Args:
        folder: of the results.

    Attributes:
        settings: of the folder.
        lines: of each recording the number of the entry that counts, from 0, in the order of their first ones.
        unscored: recordings without scores.

    Raises:
        DataError: if there is nothing to be read.
        KerasBirdsError: if a line is damaged.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self.settings: dict[str, Any] = {}
        self.lines: dict[str, int] = {}
        self.unscored: dict[str, RecordingStatus] = {}
        line = None
        try:
            for line, (item, _) in enumerate(_lines(folder / JOURNAL, None, RESULTS), -1):
                if isinstance(item, Entry):
                    self._take(line, item)
                else:
                    self.settings = item
        except OSError as error:
            raise _no_folder(folder, RESULTS, error) from None
        if line is None:
            raise _no_settings(folder / JOURNAL)

    def _take(self, line: int, entry: Entry) -> None:
        if not entry.is_void:
            file = sys.intern(entry.recording.file)
            self.lines[file] = line
            self.unscored.pop(file, None)
            if not entry.recording.has_scores:
                self.unscored[file] = entry.recording

    def shards(self) -> Iterator[tuple[int, list[tuple[Entry, bool]]]]:
        """As `Journal.shards`."""
        entries = ((line, x) for line, x in enumerate(read_entries(self._folder)) if x.shard >= 0)
        for number, group in groupby(entries, key=lambda x: x[1].shard):
            found = [(x, self.lines.get(x.recording.file) == line) for line, x in group]
            if any(is_current for _, is_current in found):
                yield number, found


def read_entries(folder: Path) -> Iterator[Entry]:
    """Every line of the journal of a folder of results, one at a time; raises as `Journal`."""
    return (x for x, _ in _lines(folder / JOURNAL, None, RESULTS) if isinstance(x, Entry))


def _no_folder(folder: Path, contents: Contents, error: OSError) -> DataError:
    return DataError(
        f"{contents.name} must be a folder that `keras-birds {contents.command} --out FOLDER` left. "
        f"Received: {folder} ({JOURNAL}: {error.strerror or error})"
    )


def _no_settings(path: Path) -> KerasBirdsError:
    return KerasBirdsError(f"{path} must begin with its settings. Received: none. Choose another --out")


def _lines(
    path: Path, settings: dict[str, Any] | None, contents: Contents
) -> Iterator[tuple[dict[str, Any] | Entry, int]]:
    """The settings, then the entries, each with its bytes, as far as lines are whole."""
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if not line.endswith(b"\n"):
                return
            try:
                data = json.loads(line)
                if number == 0:
                    _check_header(path, data, settings, contents)
                    yield data["settings"], len(line)
                else:
                    yield _entry(data), len(line)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise KerasBirdsError(
                    f"{path}: line {number + 1} must be an entry of the journal. Received: {error}. Choose another "
                    "--out"
                ) from None


def _as_dict(entry: Entry) -> dict[str, Any]:
    data = asdict(entry)
    of = data["recording"]
    for name in ("recorder", "origin"):
        told = {key: x for key, x in of.pop(name).items() if x not in ("", None)}
        of |= {name: told} if told else {}
    return data


def _entry(data: dict[str, Any]) -> Entry:
    of = data["recording"]
    # Embeddings that were stored before recordings had an origin stay readable.
    recorder, origin = of.pop("recorder", None), of.pop("origin", None)
    left_out_s, chosen_s = of.pop("left_out_s", None), of.pop("chosen_s", None)
    status = RecordingStatus(
        **_shared(of),
        left_out_s=left_out_s or (),
        chosen_s=chosen_s,
        recorder=RecorderMetadata(**_shared(recorder)) if recorder else UNTOLD,
        origin=Origin(**_shared(origin)) if origin else UNKNOWN,
    )
    return Entry(**data | {"recording": status})


def _shared(data: dict[str, Any]) -> dict[str, Any]:
    """With values that many recordings share kept once: a season's are hundreds of thousands."""
    if len(_values) > _MAX_VALUES:
        _values.clear()
    # NaN isn't equal to itself.
    return {key: _values.setdefault((type(x), x), x) if x == x else math.nan for key, x in data.items()}


def _check_header(
    path: Path, stored: dict[str, Any], wanted: dict[str, Any] | None, contents: Contents
) -> None:
    held, version = stored.get("contents", RESULTS.name), stored.get("format_version")
    error: type[KerasBirdsError] = DataError if wanted is None else ConfigError
    way_out = "Name another folder" if wanted is None else "Choose another --out"
    if held != contents.name:
        what = f"a folder of {contents.name}, which `keras-birds {contents.command}` writes"
        raise error(f"{path.parent} must be {what}. Received: a folder of {held}. {way_out}")
    if version != contents.version:
        raise error(f"{path}: format_version must be {contents.version}. Received: {version}. {way_out}")
    had = stored["settings"]
    wanted = had if wanted is None else wanted
    names = [x for x in {**wanted, **had} if wanted.get(x) != had.get(x) and x not in contents.may_differ]
    differences = [f"{x} is {_short(wanted.get(x))}, was {_short(had.get(x))}" for x in names]
    if differences:
        raise ConfigError(
            f"--out {path.parent} holds {contents.name} of other settings, which aren't mixed. Received: "
            f"{'; '.join(differences)}. Choose another --out"
        )


def _holds_something(folder: Path) -> bool:
    if not folder.is_dir():
        return folder.exists()
    return any(not x.name.startswith(f".{JOURNAL}.") for x in folder.iterdir())


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"
