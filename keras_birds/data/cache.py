"""Keeps a source's images in memory after their first use, as far as memory allows."""

import os
import re
import threading
from pathlib import Path

import numpy as np

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
        self.max_bytes = available_memory_bytes() * MEMORY_FRACTION if max_bytes is None else max_bytes
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
        missing = np.array(
            [row for row in dict.fromkeys(map(int, rows)) if row not in self._images], np.int64
        )
        computed = (
            dict(zip(missing.tolist(), self.source.images(missing), strict=True)) if len(missing) else {}
        )
        for row, image in computed.items():
            self._keep(row, image)
        return np.stack([computed[row] if row in computed else self._images[row] for row in map(int, rows)])

    def _keep(self, row: int, image: np.ndarray) -> None:
        with self._lock:
            if row not in self._images and self._kept_bytes + image.nbytes <= self.max_bytes:
                self._images[row] = image.copy()
                self._kept_bytes += image.nbytes


def available_memory_bytes() -> int:
    """Memory that a program can have now, with what the system would give back of its file cache.

    Systems without `/proc/meminfo` tell of free pages alone, or nothing: then it is 0.
    """
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return 1024 * int(found[1])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0
