"""Keeps a source's images in memory after their first use, as far as memory allows."""

import threading

import numpy as np
import psutil

from keras_birds.data.source import MelSource

MEMORY_FRACTION = 0.25
"""Of the memory that is available when a run begins; what doesn't fit is computed each time."""


class CachedSource:
    """A source whose centre crops are computed once.

    Safe to share between threads: two that ask for the same row at once compute it twice, to the same values.

    Args:
        source: computes the images.
        max_bytes: of images to keep; `None` for a quarter of the available memory.
    """

    def __init__(self, source: MelSource, max_bytes: int | None = None):
        self.source = source
        self.max_bytes = (
            psutil.virtual_memory().available * MEMORY_FRACTION if max_bytes is None else max_bytes
        )
        self.usable, self.reasons = source.usable, source.reasons
        self._images: dict[int, np.ndarray] = {}
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.source)

    def images(self, rows: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """Images of some recordings, as `MelSource.images`; random crops are passed on."""
        if positions is not None:
            return self.source.images(rows, positions)
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
