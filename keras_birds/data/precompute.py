"""Makes mel stores: resumable, and with memory that doesn't grow with the number of recordings."""

import math
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from keras_birds.audio.clips import fill
from keras_birds.audio.decode import decode, decode_clip, probe
from keras_birds.audio.mel import MelTransform
from keras_birds.config import Config
from keras_birds.data.mel_store import (
    Slots,
    file_stamp,
    read_settings,
    settings_difference,
    store_name,
    store_settings,
)
from keras_birds.data.source import USABLE
from keras_birds.data.store_writer import STORE_FILES, Entry, StoreWriter, locked
from keras_birds.errors import AudioError, DataError

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class StorePlan:
    """What a run will do.

    Args:
        store: the folder.
        recordings: asked for.
        reused: of them already in the store.
        new_bytes: estimate of what will be written, from the files' headers.
        free_bytes: on the store's disk, with what a rebuilt store gives back.
        rebuild_reason: why what the folder holds is thrown away; empty where it isn't.
    """

    store: Path
    recordings: int
    reused: int
    new_bytes: int
    free_bytes: int
    rebuild_reason: str


@dataclass(frozen=True)
class StoreSummary:
    """What a run did.

    Args:
        plan: what it set out to do.
        data_bytes: size of the store's data now.
        unused_bytes: of them data of recordings that changed or left the data set.
        left_out: path and reason of each recording that isn't usable.
    """

    plan: StorePlan
    data_bytes: int
    unused_bytes: int
    left_out: tuple[tuple[str, str], ...]


def precompute(
    paths: Sequence[str | Path],
    config: Config,
    store: str | Path,
    workers: int = 1,
    progress: Progress | None = None,
    announce: Callable[[StorePlan], None] | None = None,
) -> StoreSummary:
    """Makes a mel store, or brings one up to date.

    The same call goes on where a killed one stopped. Recordings whose size or modification time changed are
    computed anew; with other settings the whole store is.

    Args:
        paths: the recordings.
        config: `audio`, `mel` and `data.store_dtype` count.
        store: a folder: new, empty or a store.
        workers: threads; each holds one recording at a time.
        progress: called with the recordings done and to do.
        announce: called with the plan before the first recording is read.

    Raises:
        DataError: if the folder isn't a store's, another run writes to it, or the disk is or would become
            full.
        ConfigError: if the decoder can't be loaded.
    """
    names = list(dict.fromkeys(store_name(path) for path in paths))
    store = Path(store)
    _require_own_folder(store)
    with locked(store):
        settings, stored = store_settings(config), read_settings(store)
        reason = settings_difference(stored, settings) if stored is not None else ""
        slots = Slots(config, MelTransform(config.audio, config.mel))
        writer = StoreWriter(store, settings, slots.frame_bytes, anew=bool(reason))
        todo = [name for name in names if not writer.has(name)]
        plan = StorePlan(
            store=store,
            recordings=len(names),
            reused=len(names) - len(todo),
            new_bytes=_estimate_bytes(todo, config, slots, workers),
            free_bytes=shutil.disk_usage(store).free + (writer.data_bytes if reason else 0),
            rebuild_reason=reason,
        )
        if announce:
            announce(plan)
        if plan.new_bytes > plan.free_bytes:
            raise DataError(
                f"{store}: the disk must have room for the store. Received: {plan.free_bytes / 1e9:.2f} GB "
                f"free of {plan.new_bytes / 1e9:.2f} GB needed; free some space or choose another --out"
            )
        with writer:
            for done, (entry, data) in enumerate(_compute(todo, config, slots, workers), 1):
                writer.add(entry, data)
                if progress:
                    progress(done, len(todo))
            chosen = writer.finish(names)
    used = sum(entry.frames for entry in chosen) * slots.frame_bytes
    left_out = tuple((entry.path, entry.reason) for entry in chosen if entry.status not in USABLE)
    return StoreSummary(plan, writer.data_bytes, writer.data_bytes - used, left_out)


def _compute(paths: list[str], config: Config, slots: Slots, workers: int) -> Iterator[tuple[Entry, bytes]]:
    """Computes in threads, yields in order; at most two recordings a thread wait: memory stays flat."""
    transform = MelTransform(config.audio, config.mel)
    waiting: deque[Future[tuple[Entry, bytes]]] = deque()
    pool = ThreadPoolExecutor(max(1, workers), "precompute")
    try:
        for path in paths:
            waiting.append(pool.submit(_compute_one, path, config, transform, slots))
            if len(waiting) >= 2 * max(1, workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _compute_one(path: str, config: Config, transform: MelTransform, slots: Slots) -> tuple[Entry, bytes]:
    size_bytes, mtime_ns = file_stamp(path)
    audio = config.audio
    try:
        if audio.crop == "center":
            decoded = decode_clip(path, audio)
            mel = transform.native(decoded.samples[None])[0]
        else:
            decoded = decode(path, audio.sample_rate_hz, audio.decoder)
            decoded = replace(decoded, samples=fill(decoded.samples, audio.clip_samples))
            mel = transform.decibels(decoded.samples)
    except AudioError as error:
        return Entry(path, size_bytes, mtime_ns, 0, 0, 0, error.status, error.reason), b""
    samples = len(decoded.samples)
    entry = Entry(path, size_bytes, mtime_ns, 0, mel.shape[1], samples, decoded.status, decoded.reason)
    return entry, slots.encode(mel)


def _estimate_bytes(paths: list[str], config: Config, slots: Slots, workers: int) -> int:
    """Bytes that recordings will take, from their headers; files without a readable header count as none."""
    transform, audio = MelTransform(config.audio, config.mel), config.audio
    if audio.crop == "center":
        return len(paths) * transform.num_frames * slots.frame_bytes

    def frames(path: str) -> int:
        try:
            info = probe(path)
        except AudioError:
            return 0
        if math.isnan(info.seconds):
            return transform.num_frames
        samples = round(info.seconds * audio.sample_rate_hz)
        return transform.frames_of(max(samples, audio.clip_samples))

    with ThreadPoolExecutor(max(1, workers), "probe") as pool:
        return sum(pool.map(frames, paths)) * slots.frame_bytes


def _require_own_folder(store: Path) -> None:
    strangers = sorted({item.name for item in store.iterdir()} - STORE_FILES) if store.is_dir() else []
    if strangers:
        raise DataError(
            f"--out must be a new or empty folder, or a mel store. Received: {store}, with {strangers[0]}"
        )
