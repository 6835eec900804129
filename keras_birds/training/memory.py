"""Keeps the C library from giving large buffers back to the system after each operation."""

import ctypes
import sys

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Makes this process keep freed memory for its next allocation; only glibc can, elsewhere nothing happens.

    glibc maps every buffer above 32 MiB afresh and unmaps it when it is freed. A training step on the CPU uses
    dozens of them, and the kernel clears each page again each time: a quarter of a step's time at 256 x 256 and
    batch 32. Kept, they cost a tenth more memory, which the process holds until it ends.

    Returns:
        Whether it took effect.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has no mallopt
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
