"""Where training reads its images: computed on the fly here, or from a mel store."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from keras_birds.audio.decode import decode_clip
from keras_birds.audio.mel import MelTransform
from keras_birds.config import AudioConfig, MelConfig
from keras_birds.errors import DataError

USABLE = frozenset({"ok", "partial", "silent"})
"""Manifest statuses of recordings that hold something to learn from."""


class MelSource(Protocol):
    """Images of a catalog's recordings, by row.

    Attributes:
        usable: bool `[n]`; rows where it is false must not be asked for.
        reasons: why a row isn't usable, else an empty string.
    """

    usable: np.ndarray
    reasons: list[str]

    def __len__(self) -> int: ...

    def images(self, rows: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """Images of some recordings.

        Args:
            rows: int `[b]`, positions in the catalog.
            positions: float `[b]`, 0 to 1: where each crop lies among its possible starts; `None` for the
                centre. Only `audio.crop = "random"` has other crops than the centre.

        Returns:
            float32 `[b, height, width, 1]`.
        """
        ...


class JoinedSource:
    """Several sources as one: the rows of each follow those of the one before.

    Args:
        sources: at least one.
    """

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

    With `audio.crop = "center"` an image is that of the recording's middle clip, exactly as prediction
    computes it. With `"random"` clips begin at multiples of the mel hop and their first and last frame see
    what lies beside the clip in the recording, so that a crop equals a slice of the whole recording's
    spectrogram.

    Args:
        paths: the recordings.
        audio: rate, clip length, crop and decoder.
        mel: the transform.
        workers: threads to compute a batch with.
        manifest: what `check_recordings` told of the same paths in the same order; without it all count as
            usable.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        audio: AudioConfig,
        mel: MelConfig,
        workers: int = 1,
        manifest: pd.DataFrame | None = None,
    ):
        self.paths = [Path(path) for path in paths]
        self.audio = audio
        self.transform = MelTransform(audio, mel)
        self.workers = workers
        self.usable = np.ones(len(self.paths), bool)
        self.reasons = [""] * len(self.paths)
        if manifest is not None:
            if [str(path) for path in manifest["path"]] != [str(path) for path in self.paths]:
                raise DataError(
                    "the manifest must list the catalog's recordings in its order: check the data again"
                )
            self.usable, self.reasons = usable_of(manifest)
        self._pool: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def images(self, rows: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """Images of some recordings, as `MelSource.images`.

        Raises:
            AudioError: if a recording doesn't decode.
            DataError: if a row isn't usable.
        """
        require_usable(self, rows)
        where = [None] * len(rows) if positions is None else [float(position) for position in positions]
        chosen = [self.paths[row] for row in rows]
        if self.workers > 1 and len(chosen) > 1:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.workers, "mel")
            natives = list(self._pool.map(self._native, chosen, where))
        else:
            natives = [self._native(path, position) for path, position in zip(chosen, where, strict=True)]
        shape = (0, self.transform.num_rows, self.transform.num_frames)
        return self.transform.resize(np.concatenate(natives) if natives else np.zeros(shape, np.float32))

    def _native(self, path: Path, position: float | None) -> np.ndarray:
        return native_clip(path, self.audio, self.transform, position)


def native_clip(
    path: Path, audio: AudioConfig, transform: MelTransform, position: float | None
) -> np.ndarray:
    """One recording's crop at the transform's own resolution.

    Returns:
        float32 `[1, rows, frames]`.

    Raises:
        AudioError: if the recording doesn't decode.
    """
    if audio.crop == "center":
        return transform.native(decode_clip(path, audio).samples[None])
    clip = decode_clip(path, audio, position, transform.mel.hop_samples, transform.context_samples)
    return transform.native(clip.samples[None], has_context=True)


def usable_of(manifest: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """Bool `[n]`, which recordings hold something to learn from; and why the others don't, else empty strings."""
    usable = manifest["status"].isin(sorted(USABLE)).to_numpy(bool)
    return usable, [str(x) for x in manifest["reason"].where(~usable, "")]


def require_usable(source: MelSource, rows: np.ndarray) -> None:
    """Refuses rows that must not be asked for.

    Raises:
        DataError: naming the first of them and its reason.
    """
    wrong = [int(row) for row in rows if not source.usable[row]]
    if wrong:
        raise DataError(
            f"only usable recordings have images. Received: row {wrong[0]} ({source.reasons[wrong[0]]}); "
            "leave out rows where `usable` is false"
        )
