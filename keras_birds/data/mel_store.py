"""The mel store: every recording's mel in one memory-mapped file, so that an epoch decodes no audio.

A store is a folder:

- `settings.json`: what its contents depend on (`store_settings`);
- `data.bin`: the recordings' mels one after another;
- `journal.jsonl`: one line for each recording whose data has reached `data.bin`;
- `index.parquet`: the table that readers use, written last; without it there is no store.

With `audio.crop = "center"` a recording's data is the normalised mel (or MFCC) of its middle clip, float32
`[rows, frames]`. With `"random"` it is the whole recording's mel power in dB, float16 `[frames, n_mels]` so that a
crop is a slice; normalisation follows the slicing.
"""

import json
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from keras_birds.audio.clips import crop_start
from keras_birds.audio.mel import MIN_DB, MelTransform
from keras_birds.audio.remote import file_fingerprint
from keras_birds.config import AudioConfig, Config, diff_settings
from keras_birds.data.source import require_usable, usable_of
from keras_birds.errors import DataError

FORMAT_VERSION = 1
_LATER = ("speed", "f_low_hz", "f_high_hz")  # older stores lack them, and have the defaults
SETTINGS, DATA, JOURNAL, INDEX = "settings.json", "data.bin", "journal.jsonl", "index.parquet"
_REMEDY = "run `keras-birds data precompute` again with the same data and settings"


def store_settings(config: Config) -> dict[str, Any]:
    """Settings that a store's contents depend on: not the image size, as resizing happens on reading."""
    keys = [f"audio.{x}" for x in ("crop", "sample_rate_hz", "clip_s", "decoder", *_LATER)]
    keys += [f"mel.{x}" for x in ("n_fft", "hop_samples", "n_mels", "f_min_hz", "f_max_hz", "top_db")]
    if config.audio.crop == "center":
        keys += ["mel.feature", "mel.n_mfcc"] if config.mel.feature == "mfcc" else ["mel.feature"]
    return {"format_version": FORMAT_VERSION, **{x: attrgetter(x)(config) for x in keys}}


def describe_difference(stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    """`key is stored, not wanted` for each setting that differs; empty where none does."""
    return "; ".join(f"{key} is {a}, not {b}" for key, (a, b) in diff_settings(stored, wanted).items())


def read_settings(path: Path) -> dict[str, Any] | None:
    """A store folder's settings, `None` where there are none; raises `DataError` if the file isn't settings."""
    try:
        settings = json.loads((path / SETTINGS).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        settings = error
    if not isinstance(settings, dict):
        raise DataError(f"{path / SETTINGS}: must be a mel store's settings. Received: {settings}")
    return {f"audio.{x}": getattr(AudioConfig(), x) for x in _LATER} | settings


class Slots:
    """How one recording's mel is laid out in `data.bin`."""

    def __init__(self, config: Config):
        self.transform = MelTransform(config.audio, config.mel)
        self.is_random = config.audio.crop == "random"
        self._dtype = np.dtype(np.float16 if self.is_random else np.float32)
        self._rows = config.mel.n_mels if self.is_random else self.transform.num_rows
        self.frame_bytes = self._rows * self._dtype.itemsize

    def encode(self, mel: np.ndarray) -> bytes:
        """Bytes of a mel `[rows, frames]`: normalised for centre crops, in dB for whole recordings.

        float16 counts from `MIN_DB` up, so that quiet recordings keep the finest steps.
        """
        stored = mel.T - np.float32(MIN_DB) if self.is_random else mel
        return np.ascontiguousarray(stored, self._dtype).tobytes()

    def clip(self, data: np.ndarray, offset: int, frames: int, start_frame: int) -> np.ndarray:
        """The crop of the recording at `offset` in the uint8 `data` as `native` gives it: float32 `[rows, frames]`."""
        begin = offset + start_frame * self.frame_bytes
        frames = self.transform.num_frames if self.is_random else frames
        stored = data[begin : begin + frames * self.frame_bytes].view(self._dtype)
        if not self.is_random:
            return stored.reshape(self._rows, frames)
        db = stored.reshape(frames, self._rows).T
        return self.transform.normalise(np.ascontiguousarray(db, np.float32))


class MelStore:
    """Reads images from the store that `keras-birds data precompute` wrote, as `MelSource`.

    For the centre crop they equal `OnTheFlySource`'s exactly, for random crops within 0.01. Safe to share between
    threads and to fork: pages of the map are shared. `paths` are the catalog's recordings, in its order; the store may
    hold more.

    Raises:
        DataError: if there is no finished store, its settings differ, or a recording is missing from it or
            has changed since.
    """

    def __init__(self, path: str | Path, config: Config, paths: Sequence[str | Path]):
        self.path = Path(path)
        settings = read_settings(self.path)
        if settings is None or not (self.path / INDEX).is_file():
            state = "no store" if settings is None else "an unfinished store"
            rule = "data.store must be a finished mel store"
            raise DataError(f"{rule}. Received: {self.path} ({state}); {_REMEDY}")
        if difference := describe_difference(settings, store_settings(config)):
            rule = "the store must be made with this run's settings"
            raise DataError(f"{self.path}: {rule}. Received: {difference}; {_REMEDY}")
        self._slots = Slots(config)
        self.transform = self._slots.transform
        index = pd.read_parquet(self.path / INDEX).set_index("path")
        names = [store_name(path) for path in paths]
        if absent := [name for name in names if name not in index.index]:
            told = f"{len(absent)} that it lacks, first {absent[0]}; {_REMEDY}"
            raise DataError(f"{self.path}: the store must hold every recording. Received: {told}")
        index = index.loc[names]
        stamps = zip(names, index["size_bytes"], index["mtime_ns"], strict=True)
        if changed := [name for name, *stamp in stamps if file_fingerprint(name) != tuple(stamp)]:
            rule = "recordings must be as they were when the store was made"
            told = f"{len(changed)} that changed, first {changed[0]}; {_REMEDY}"
            raise DataError(f"{self.path}: {rule}. Received: {told}")
        self.usable, self.reasons = usable_of(index)
        columns = ("offset", "frames", "samples")
        self._offsets, self._frames, self._samples = (index[x].to_numpy() for x in columns)
        file = self.path / DATA
        size = file.stat().st_size if file.is_file() else 0
        end = max(self._offsets + self._frames * self._slots.frame_bytes, default=0)
        if size < end:
            told = f"must hold {end} bytes. Received: {size}; delete the store and {_REMEDY}"
            raise DataError(f"{file}: {told}")
        self._data = np.memmap(file, np.uint8, "r") if size else np.zeros(0, np.uint8)

    def __len__(self) -> int:
        return len(self.reasons)

    def images(self, rows: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """Images of some recordings, as `MelSource.images`."""
        require_usable(self, rows)
        transform = self.transform
        clips = np.empty((len(rows), transform.num_rows, transform.num_frames), np.float32)
        hop_samples, clip_samples = transform.mel.hop_samples, transform.audio.clip_samples
        where = [None] * len(rows) if positions is None else positions.tolist()
        for i, (row, position) in enumerate(zip(rows, where, strict=True)):
            start = crop_start(int(self._samples[row]), clip_samples, position, hop_samples)
            frame = start // hop_samples if self._slots.is_random else 0
            place = int(self._offsets[row]), int(self._frames[row])
            clips[i] = self._slots.clip(self._data, *place, frame)
        return transform.resize(clips)


def store_name(path: str | Path) -> str:
    """What a store calls a recording: one name, from whatever folder a command is run."""
    return str(Path(path).resolve())
