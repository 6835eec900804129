"""Where training reads its images: computed on the fly and kept in memory here, or from a mel store."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import psutil

from keras_birds.audio.decode import decode_clip
from keras_birds.audio.mel import MelTransform
from keras_birds.config import AudioConfig, MelConfig
from keras_birds.errors import DataError

USABLE = frozenset({"ok", "partial", "silent"})
"""Manifest statuses of recordings that hold something to learn from."""


class MelSource(Protocol):
    """Images of a catalog's recordings, by row."""

    usable: np.ndarray
    """Bool `[n]`; rows where it is false must not be asked for."""
    reasons: list[str]
    """Why a row isn't usable, else an empty string."""

    def __len__(self) -> int: ...

    def images(self, rows: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """Images of some recordings, float32 `[b, height, width, 1]`; raises `DataError` if one isn't usable.

        Args:
            rows: int `[b]`, positions in the catalog.
            positions: float `[b]`, 0 to 1: where each crop lies among its possible starts; `None` for the
                centre. Only `audio.crop = "random"` has other crops than the centre.
        """
        ...


class JoinedSource:
    """Several sources as one: the rows of each follow those of the one before."""

    def __init__(self, *sources: MelSource):
        self.sources = sources
        self.usable = np.concatenate([x.usable for x in sources])
        self.reasons = [reason for x in sources for reason in x.reasons]
        self._starts = np.cumsum([0, *map(len, sources)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def images(self, rows: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """Images of some recordings, as `MelSource.images`."""
        rows = np.asarray(rows, np.intp)
        places = np.searchsorted(self._starts, rows, side="right") - 1
        parts = {}
        for k in np.unique(places) if len(rows) else [0]:
            chosen = np.flatnonzero(places == k)
            where = None if positions is None else positions[chosen]
            parts[k] = chosen, self.sources[k].images(rows[chosen] - self._starts[k], where)
        order = np.concatenate([chosen for chosen, _ in parts.values()])
        return np.concatenate([images for _, images in parts.values()])[np.argsort(order)]


class OnTheFlySource:
    """Decodes and transforms at every call.

    With `audio.crop = "center"` an image is that of the recording's middle clip, exactly as prediction computes it.
    With `"random"` a crop equals a slice of the whole recording's spectrogram: clips begin at multiples of the mel hop,
    and their first and last frame see what lies beside the clip.

    Args:
        paths: the recordings.
        audio: rate, clip length, crop and decoder.
        mel: the transform; `None` for networks that take sound, float32 `[b, clip_samples]`.
        manifest: what `check_recordings` told of the same paths in the same order; without it all are usable.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        audio: AudioConfig,
        mel: MelConfig | None,
        manifest: pd.DataFrame | None = None,
    ):
        self.paths = [Path(path) for path in paths]
        self.audio, self.transform = audio, None if mel is None else MelTransform(audio, mel)
        self.usable, self.reasons = np.ones(len(self.paths), bool), [""] * len(self.paths)
        if manifest is not None:
            if list(map(Path, manifest["path"])) != self.paths:
                rule = "the manifest must list the catalog's recordings in its order"
                raise DataError(f"{rule}: check the data again")
            self.usable, self.reasons = usable_of(manifest)

    def __len__(self) -> int:
        return len(self.paths)

    def images(self, rows: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """Images of some recordings, as `MelSource.images`; raises `AudioError` if one doesn't decode."""
        require_usable(self, rows)
        where = [None] * len(rows) if positions is None else positions.tolist()
        if self.transform is None:
            at = zip(rows, where, strict=True)
            return np.stack(
                [decode_clip(self.paths[row], self.audio, position).samples for row, position in at]
            )
        clips = np.empty((len(rows), self.transform.num_rows, self.transform.num_frames), np.float32)
        for i, (row, position) in enumerate(zip(rows, where, strict=True)):
            clips[i] = self._native(self.transform, self.paths[row], position)
        return self.transform.resize(clips)

    def _native(self, transform: MelTransform, path: Path, position: float | None) -> np.ndarray:
        if self.audio.crop == "center":
            return transform.native(decode_clip(path, self.audio).samples[None])[0]
        clip = decode_clip(path, self.audio, position, transform.mel.hop_samples, transform.context_samples)
        return transform.native(clip.samples[None], has_context=True)[0]


class CachedSource:
    """A source whose images are computed once, or at most once a thread: safe to share between threads.

    Args:
        source: computes the images; of crops only the centre is asked for.
        max_bytes: of images to keep, what doesn't fit is computed each time; `None` for a quarter of the memory that
            is available now.
    """

    def __init__(self, source: MelSource, max_bytes: int | None = None):
        self.source = source
        self.max_bytes = psutil.virtual_memory().available // 4 if max_bytes is None else max_bytes
        self.usable, self.reasons = source.usable, source.reasons
        self._images: dict[int, np.ndarray] = {}
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.source)

    def images(self, rows: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """Images of some recordings, as `MelSource.images`; there are no other crops than the centre."""
        wanted = [int(row) for row in rows]
        missing = [row for row in dict.fromkeys(wanted) if row not in self._images]
        images = self.source.images(np.array(missing, np.intp)) if missing else ()
        computed = dict(zip(missing, images, strict=True))
        with self._lock:
            for row, image in computed.items():
                if row not in self._images and self._kept_bytes + image.nbytes <= self.max_bytes:
                    self._images[row] = image.copy()
                    self._kept_bytes += image.nbytes
        return np.stack([computed[row] if row in computed else self._images[row] for row in wanted])


def usable_of(manifest: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """Bool `[n]`, which recordings hold something to learn from; and why the others don't, else empty strings."""
    usable = manifest["status"].isin(sorted(USABLE)).to_numpy(bool)
    return usable, [str(x) for x in manifest["reason"].where(~usable, "")]


def require_usable(source: MelSource, rows: np.ndarray) -> None:
    """Raises `DataError` for rows that aren't there or aren't usable, naming the first of them and its reason."""
    if strange := [int(row) for row in rows if not 0 <= row < len(source)]:
        raise DataError(
            f"rows must be recordings of the source, from 0 to {len(source) - 1}. Received: {strange[0]}"
        )
    if wrong := [int(row) for row in rows if not source.usable[row]]:
        raise DataError(
            f"only usable recordings have images. Received: row {wrong[0]} ({source.reasons[wrong[0]]}); "
            "leave out rows where `usable` is false"
        )
