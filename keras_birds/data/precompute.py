"""Makes mel stores: resumable, and with memory that doesn't grow with the number of recordings.

A recording's data is written first, then its line in the journal, and the index only when all is there. What the
journal doesn't know is cut off when the next run begins, so that a kill at any moment leaves a store that goes on.
"""

import io
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from keras_birds.atomic import DISK_FULL, atomic_path
from keras_birds.audio.clips import fill
from keras_birds.audio.decode import decode, decode_clip, header_seconds
from keras_birds.audio.remote import file_fingerprint
from keras_birds.config import AudioConfig, Config
from keras_birds.data import mel_store
from keras_birds.data.mel_store import DATA, INDEX, JOURNAL, SETTINGS, Slots
from keras_birds.data.source import USABLE
from keras_birds.errors import AudioError, DataError
from keras_birds.file_lock import lock
from keras_birds.parallel import map_in_order

_LOCK = ".lock"
# A mount, a permission or ffmpeg may have come back since the last run.
_TRY_AGAIN = frozenset({"missing", "unreadable"})


@dataclass(frozen=True)
class _Entry:
    """One recording in the journal and the index; unusable ones have no frames.

    `offset` is that of its data in `data.bin`, in bytes; `samples` its length at the configured rate, filled to a clip.
    """

    path: str
    size_bytes: int
    mtime_ns: int
    status: str
    reason: str
    frames: int = 0
    samples: int = 0
    offset: int = 0


@dataclass(frozen=True)
class StorePlan:
    """What a run will do."""

    store: Path
    recordings: int
    reused: int
    """Recordings already in the store."""
    new_bytes: int
    """To be written, estimated from the files' headers."""
    free_bytes: int
    """On the store's disk, with what a rebuilt store gives back."""
    rebuild_reason: str
    """Why what the folder holds is thrown away; empty where it isn't."""


@dataclass(frozen=True)
class StoreSummary:
    """What a run did."""

    plan: StorePlan
    data_bytes: int
    unused_bytes: int
    """Of `data_bytes`, those of recordings that changed or left the data set."""
    left_out: tuple[tuple[str, str], ...]
    """Path and reason of each recording that isn't usable."""


def precompute(
    paths: Sequence[str | Path],
    config: Config,
    store: str | Path,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda *_: None,
    announce: Callable[[StorePlan], None] = lambda _: None,
) -> StoreSummary:
    """Makes a mel store, or brings one up to date.

    The same call goes on where a killed one stopped. Recordings whose size or modification time changed are
    computed anew; with other `audio` or `mel` settings the whole store is.

    Args:
        paths, config, store: the recordings, the settings, and a folder: new, empty or a store.
        workers: threads; each holds one recording at a time.
        progress, announce: called with recordings done and to do, and with the plan before the first is read.

    Raises:
        DataError: if the folder isn't a store's, another run writes to it, or the disk is or would become full.
        ConfigError: if the decoder can't be loaded.
    """
    names = list(dict.fromkeys(mel_store.store_name(path) for path in paths))
    store = Path(store)
    with _locked(store):
        settings, stored = mel_store.store_settings(config), mel_store.read_settings(store)
        reason = mel_store.describe_difference(stored, settings) if stored is not None else ""
        slots = Slots(config)
        anew = bool(reason) or stored is None
        data_bytes = _size(store / DATA)
        entries, journal_bytes = ({}, 0) if anew else _read_journal(store, slots.frame_bytes)
        todo = [name for name in names if not _is_current(name, entries.get(name))]
        estimate = partial(_estimate_frames, audio=config.audio, slots=slots)
        new_bytes = slots.frame_bytes * sum(x for _, x in map_in_order(estimate, [iter(todo)], workers))
        free_bytes = shutil.disk_usage(store).free + (data_bytes if reason else 0)
        plan = StorePlan(store, len(names), len(names) - len(todo), new_bytes, free_bytes, reason)
        announce(plan)
        if new_bytes > free_bytes:
            told = f"{free_bytes / 1e9:.2f} GB free of {new_bytes / 1e9:.2f} GB needed"
            remedy = "free some space or choose another --out"
            raise DataError(f"{store}: the disk must have room for the store. Received: {told}; {remedy}")
        if anew:
            _begin(store, settings)
        end = max((x.offset + x.frames * slots.frame_bytes for x in entries.values()), default=0)
        with _open_at(store / DATA, end) as file, _open_at(store / JOURNAL, journal_bytes) as journal:
            compute = partial(_compute, audio=config.audio, slots=slots)
            for done, (_, (entry, data)) in enumerate(map_in_order(compute, [iter(todo)], workers), 1):
                entries[entry.path] = entry = replace(entry, offset=file.tell() if data else 0)
                _write(file, data)
                _write(journal, json.dumps(asdict(entry)).encode() + b"\n")
                progress(done, len(todo))
            os.fsync(file.fileno())
        chosen = [entries[name] for name in names]
        index = pd.DataFrame(map(asdict, chosen), columns=[x.name for x in fields(_Entry)])
        with atomic_path(store / INDEX) as temporary:
            index.to_parquet(temporary)
        data_bytes = _size(store / DATA)
    unused_bytes = data_bytes - sum(x.frames for x in chosen) * slots.frame_bytes
    left_out = tuple((entry.path, entry.reason) for entry in chosen if entry.status not in USABLE)
    return StoreSummary(plan, data_bytes, unused_bytes, left_out)


def _is_current(path: str, entry: _Entry | None) -> bool:
    """Whether the recording is in the store as it is on the disk now."""
    if entry is None or entry.status in _TRY_AGAIN:
        return False
    return file_fingerprint(path) == (entry.size_bytes, entry.mtime_ns)


def _read_journal(store: Path, frame_bytes: int) -> tuple[dict[str, _Entry], int]:
    """Entries up to the first line that isn't whole or whose data isn't there, and where that line begins."""
    entries: dict[str, _Entry] = {}
    journal, journal_bytes, data_bytes = store / JOURNAL, 0, _size(store / DATA)
    for line in journal.read_bytes().splitlines(keepends=True) if journal.is_file() else ():
        try:
            entry = _Entry(**json.loads(line))
        except (ValueError, TypeError):
            break
        if not line.endswith(b"\n") or entry.offset + entry.frames * frame_bytes > data_bytes:
            break
        entries[entry.path] = entry
        journal_bytes += len(line)
    return entries, journal_bytes


def _begin(store: Path, settings: dict[str, Any]) -> None:
    """Empties a store. The index goes first and the settings come last, so that they never vouch for other data."""
    for name in (INDEX, JOURNAL, DATA):
        (store / name).unlink(missing_ok=True)
    with atomic_path(store / SETTINGS) as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _open_at(path: Path, size: int) -> io.FileIO:
    """Opens a file to write on behind its first `size` bytes; what follows them is cut off."""
    path.touch()
    os.truncate(path, size)
    return io.FileIO(path, "a")


def _write(file: io.FileIO, data: bytes) -> None:
    """Writes all of it: a nearly full disk takes a part without an error."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) or 0 :]


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    """Makes the store's folder, unless it has other files, keeps other runs out of it and tells of a full disk."""
    own = (SETTINGS, DATA, JOURNAL, INDEX, _LOCK)
    names = sorted(x.name for x in store.iterdir()) if store.is_dir() else []
    # A kill leaves temporary files of the settings or the index.
    if strangers := [x for x in names if x not in own and not x.startswith((f".{SETTINGS}.", f".{INDEX}."))]:
        rule = "--out must be a new or empty folder, or a mel store"
        raise DataError(f"{rule}. Received: {store}, with {strangers[0]}")
    try:
        store.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise DataError(f"--out must be a folder. Received: {store}, a file") from None
    try:
        with (store / _LOCK).open("wb") as file:
            lock(file)
            yield
    except BlockingIOError:
        rule = "one run at a time can write a mel store"
        told = f"Received: {store}, where another is at work; wait for it or choose another --out"
        raise DataError(f"{rule}. {told}") from None
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        remedy = "Free some space and run the same command again: it goes on from here"
        raise DataError(f"{store}: the disk is full. Received: {error.strerror}. {remedy}") from None


def _compute(path: str, audio: AudioConfig, slots: Slots) -> tuple[_Entry, bytes]:
    stamp = file_fingerprint(path)
    try:
        if audio.crop == "center":
            decoded = decode_clip(path, audio)
            mel = slots.transform.native(decoded.samples[None])[0]
        else:
            decoded = decode(path, audio)
            decoded = replace(decoded, samples=fill(decoded.samples, audio.clip_samples, audio.fill))
            mel = slots.transform.decibels(decoded.samples)
    except AudioError as error:
        return _Entry(path, *stamp, error.status, error.reason), b""
    sizes = mel.shape[1], len(decoded.samples)
    return _Entry(path, *stamp, decoded.status, decoded.reason, *sizes), slots.encode(mel)


def _estimate_frames(path: str, audio: AudioConfig, slots: Slots) -> int:
    """Frames that a recording will take, from its header; a file without a readable header counts as none."""
    if audio.crop == "center":
        return slots.transform.num_frames
    try:
        seconds = header_seconds(path)
    except AudioError:
        return 0
    samples = 0 if math.isnan(seconds) else round(seconds * audio.resample_hz)
    return slots.transform.frames_of(max(samples, audio.clip_samples))
