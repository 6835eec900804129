"""What a network hears without labels: recordings of any kind, in clips, without those that a fold is measured on."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from keras_birds.audio.remote import file_fingerprint
from keras_birds.config import Config
from keras_birds.data.catalog import Catalog, data_hash
from keras_birds.data.check import check_recordings
from keras_birds.data.folds import Split
from keras_birds.data.mel_store import INDEX, SETTINGS, MelStore, read_settings
from keras_birds.data.source import USABLE, CachedSource, JoinedSource, MelSource
from keras_birds.data.tables import load_table, write_table
from keras_birds.data.unlabelled import local_recordings, shared_recordings, soundscapes_of
from keras_birds.data.windows import Window, WindowSource
from keras_birds.errors import DataError
from keras_birds.progress import Reporter

MOST_CLIPS = 720
"""Of a recording in an epoch, spread over it: an hour's, at five seconds."""

HELD_OUT = "held out"
"""Status of a recording that a fold is measured on."""

_COLUMNS = ("path", "seconds", "status", "reason", "clips", "label_row")


@dataclass(frozen=True, eq=False)
class Labelled:
    """A data set with labels, and the fold whose training recordings alone may be heard."""

    catalog: Catalog
    split: Split
    fold: int

    def train_rows(self) -> np.ndarray:
        """Catalog rows of the recordings that may be heard, int `[n]`."""
        return self.split.train_rows(self.fold)


@dataclass(frozen=True, eq=False)
class Found:
    """Recordings, each once: those to decode, and those in mel stores by the store's folder."""

    paths: tuple[str, ...]
    stores: dict[str, tuple[str, ...]]

    @property
    def all_paths(self) -> list[str]:
        """First those to decode."""
        return [*self.paths, *(x for names in self.stores.values() for x in names)]

    def digest(self, labelled: Labelled | None) -> str:
        """SHA-256 over what is learnt: each recording's path and size, and the data set with labels and its fold."""
        told: list[Any] = [[x, file_fingerprint(x)[0]] for x in self.all_paths]
        if labelled is not None:
            told.append([data_hash(labelled.catalog), labelled.fold, labelled.split.fold.tolist()])
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Heard:
    """Clips to learn from.

    `source` gives their images by number; `targets`, float32 `[clip, label]`, are -1 where nothing is known; `manifest`
    has a row for each recording: `path`, `seconds`, `status`, `reason`, `clips` (how many it gives) and `label_row` (of
    the data set with labels where it is one of its recordings, else -1).
    """

    source: MelSource
    targets: np.ndarray
    manifest: pd.DataFrame

    @property
    def recordings(self) -> pd.DataFrame:
        """The manifest's rows of recordings that give clips."""
        return self.manifest[self.manifest["clips"] > 0]


class StoredClips:
    """Clips of a mel store's recordings, a `MelSource`: the middle ones, or, of whole recordings, any.

    Args:
        store: the recordings.
        rows: int `[clip]`, of the store.
        positions: float `[clip]`, 0 to 1; `None` for the middle.
    """

    def __init__(self, store: MelStore, rows: np.ndarray, positions: np.ndarray | None):
        self.store, self.rows, self.positions = store, rows, positions
        self.usable, self.reasons = np.ones(len(rows), bool), [""] * len(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def images(self, rows: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """Images of some clips, as `MelSource.images`; there are no other crops."""
        where = None if self.positions is None else self.positions[rows]
        return self.store.images(self.rows[rows], where)


def find_heard(names: Sequence[str], reporter: Reporter) -> Found:
    """The recordings of folders, globs, lists and mel stores; a `DataError` if there are none."""
    stores, others = {}, []
    for name in names:
        if Path(name, SETTINGS).is_file() and read_settings(Path(name)) is not None:
            if not Path(name, INDEX).is_file():
                rule = "--data must name a finished mel store"
                raise DataError(f"{rule}. Received: {name}; run `keras-birds data precompute` again")
            stores[name] = list(pd.read_parquet(Path(name, INDEX), columns=["path"])["path"])
        else:
            others.append(name)
    found = local_recordings(others, "--data", reporter) if others else []
    seen = {str(Path(x).resolve()) for x in found}
    kept = {}
    for name, paths in stores.items():
        kept[name] = tuple(x for x in paths if x not in seen)
        seen.update(paths)
    if not seen:
        raise DataError(f"--data must hold recordings. Received: none in {', '.join(names)}")
    return Found(tuple(found), kept)


def hear(found: Found, config: Config, labelled: Labelled | None, path: Path, reporter: Reporter) -> Heard:
    """Makes clips of recordings; their manifest is written to `path`, or read if it is there.

    Left out are recordings that can't be read, that are silent or shorter than a view, and those of the data set with
    labels that its fold doesn't train on: by place, number in an archive or content; soundscapes made of them, too.

    Raises:
        DataError: if none is left.
    """
    manifest = load_table(path, "a manifest", _COLUMNS) if path.is_file() else None
    if manifest is None or list(manifest["path"]) != found.all_paths:
        manifest = _manifest(found, config, labelled, reporter)
        write_table(manifest, path)
    manifest = manifest.astype({"seconds": float, "clips": int, "label_row": int})
    if not manifest["clips"].any():
        reason = manifest["reason"].iloc[0]
        raise DataError(
            f"--data must hold recordings to learn from. Received: {len(manifest)}, none of them usable, the first as "
            f"it {reason}; see {path}"
        )
    counts = manifest["clips"].to_numpy()
    targets = np.full((len(manifest), 1), -1, np.float32)
    if labelled is not None:
        known = labelled.catalog.targets(config.data)
        targets = np.full((len(manifest), known.shape[1]), -1, np.float32)
        rows = manifest["label_row"].to_numpy()
        targets[rows >= 0] = known[rows[rows >= 0]]
    return Heard(_source(found, manifest, config), np.repeat(targets, counts, axis=0), manifest)


def clip_starts_s(seconds: float, clip_s: float) -> np.ndarray:
    """Where a recording's clips begin: as many as it has room for, at most `MOST_CLIPS`, spread over it."""
    room = max(0.0, seconds - clip_s)
    count = min(MOST_CLIPS, max(1, int(seconds / clip_s)))
    return np.linspace(0, room, count) if count > 1 else np.array([room / 2])


def _manifest(found: Found, config: Config, labelled: Labelled | None, reporter: Reporter) -> pd.DataFrame:
    twins = _twins(found.all_paths, labelled)
    held_out = _held_out(found.all_paths, labelled, twins)
    wanted, audio = [x for x in found.paths if x not in held_out], config.audio
    progress = partial(reporter.progress, "Checking recordings")
    workers = max(1, config.training.workers)
    table = check_recordings(wanted, audio, workers, progress)
    progress(0, 0)
    for name in found.stores:
        index = pd.read_parquet(Path(name, INDEX))
        index = index[~index["path"].isin(table["path"])]
        table = pd.concat([table, index.assign(seconds=index["samples"] / audio.resample_hz)])
    checked = table.set_index("path")[["seconds", "status", "reason"]].to_dict("index")
    records = []
    for path in found.all_paths:
        row, _ = twins.get(path, (-1, ""))
        if why := held_out.get(path):
            records.append((path, 0.0, HELD_OUT, f"{why}, which the fold does not train on", 0, row))
        else:
            records.append((path, *_judge(checked[path], config), row))
    # As objects: pandas' own strings can't hold the bytes of a file name that isn't UTF-8.
    return pd.DataFrame(records, columns=list(_COLUMNS), dtype=object)


def _judge(checked: dict[Any, Any], config: Config) -> tuple[float, str, str, int]:
    """Seconds, status, reason and number of clips of a recording, by what a check said of it."""
    seconds, status, reason = (checked[x] for x in ("seconds", "status", "reason"))
    if status not in USABLE or status == "silent":
        return seconds, status, reason, 0
    if seconds < config.contrastive.view_s * config.audio.speed:
        return seconds, "too short", f"is shorter than a view ({seconds:.2f} s)", 0
    return seconds, status, reason, len(clip_starts_s(seconds, config.audio.window_s))


def _twins(paths: Sequence[str], labelled: Labelled | None) -> dict[str, tuple[int, str]]:
    """Of each path that is a recording of the data set with labels: its row there, and why, in words."""
    if labelled is None:
        return {}
    names, trained = list(labelled.catalog.recordings["path"]), set(labelled.train_rows().tolist())
    # Of several with one number or content the last counts: one that is held out.
    rows = {Path(names[row]): row for row in sorted(range(len(names)), key=lambda x: x not in trained)}
    shared = shared_recordings(map(Path, paths), list(rows))
    written = {Path(x): x for x in paths}
    return {written[path]: (rows[twin], f"{why} {twin}") for path, twin, why in shared}


def _held_out(
    paths: Sequence[str], labelled: Labelled | None, twins: dict[str, tuple[int, str]]
) -> dict[str, str]:
    """Of each path that its fold must not hear, itself or in a soundscape: why, in words."""
    if labelled is None:
        return {}
    names, allowed = list(labelled.catalog.recordings["path"]), set(labelled.train_rows().tolist())
    others = [Path(x) for row, x in enumerate(names) if row not in allowed]
    written = {Path(x): x for x in paths}
    made = {written[path]: f"{why} {source}" for path, source, why in soundscapes_of(written, others)}
    return made | {path: why for path, (row, why) in twins.items() if row not in allowed}


def _source(found: Found, manifest: pd.DataFrame, config: Config) -> MelSource:
    """Images of all clips, in the manifest's order."""
    window_s = config.audio.window_s
    seconds, clips = (dict(zip(manifest["path"], manifest[x], strict=True)) for x in ("seconds", "clips"))
    windows = [
        Window(Path(x), float(start), float(start) + window_s)
        for x in found.paths
        if clips[x]
        for start in clip_starts_s(seconds[x], window_s)
    ]
    sources: list[MelSource] = (
        [CachedSource(WindowSource(windows, config.audio, config.mel))] if windows else []
    )
    for name, paths in found.stores.items():
        crop = (read_settings(Path(name)) or {}).get("audio.crop", "center")
        audio = config.audio.model_copy(update={"crop": crop})
        kept = [x for x in paths if clips[x]]
        if not kept:
            continue
        store = MelStore(name, config.model_copy(update={"audio": audio}), kept)
        counts = [clips[x] for x in kept]
        rows = np.repeat(np.arange(len(kept)), counts)
        # As in `clip_starts_s`, of the places where a clip may begin.
        positions = np.concatenate([np.linspace(0, 1, n) if n > 1 else [0.5] for n in counts])
        sources.append(StoredClips(store, rows, positions if crop == "random" else None))
    return JoinedSource(*sources) if len(sources) > 1 else sources[0]
