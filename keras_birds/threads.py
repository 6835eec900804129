"""How many threads compute: as many as find a processor each.

torch's threads wait for one another dozens of times a millisecond. One that has to share its processor with another
program stops them all: on two processors beside one busy process, two threads make a third of the steps that one makes.
Waiting without spinning (`OMP_WAIT_POLICY=passive`) is no way out: it costs two fifths of the speed where nothing else
runs. So `TorchThreads` looks once a second what others leave.
"""

import math
import os
import time
from contextlib import suppress
from pathlib import Path

_LOOK_EVERY_S = 1.0
# Of a processor, that others may use before a thread is given up for them.
_TOLERATED = 0.25
# Looks during which programs of low priority count as busy once they didn't make way: the first time, at most.
_DOUBT, _MOST_DOUBT = 4, 64


def available_cpus(root: Path = Path("/")) -> int:
    """Processors that this process may use: by its affinity and its cgroup's quota (`docker run --cpus`).

    Args:
        root: where `proc` and `sys` are.
    """
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
    with suppress(OSError, ValueError, StopIteration):  # no cgroup v2, or "max": no quota
        groups = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
        group = next(x for x in groups if x.startswith("0::")).removeprefix("0::/")
        quota, period = (root / "sys/fs/cgroup" / group / "cpu.max").read_text("utf-8").split()
        cpus = min(cpus, math.ceil(int(quota) / int(period)))
    return max(1, cpus)


class ThreadCount:
    """Decides on a number of threads from one look after the other.

    Programs of low priority (`nice`) mostly make way for a thread, but not where the kernel shares the processors
    out by session or container. So they are taken to do so until they don't, and asked again after a while.

    Args:
        most: threads where nothing else runs.
    """

    def __init__(self, most: int):
        self.most = self.count = most
        self._doubt, self._doubted_looks = 0, _DOUBT

    def update(self, free_cpus: float, nice_cpus: float = 0.0) -> int:
        """Threads for the time until the next look.

        Args:
            free_cpus: processors that were idle or computed for this process, on average since the last look.
            nice_cpus: processors that computed for others' programs of low priority.
        """
        self._doubt = max(0, self._doubt - 1)
        if self.count > 1:
            if free_cpus + _TOLERATED >= self.count:
                self._doubted_looks = _DOUBT
            elif not self._doubt and nice_cpus > _TOLERATED:
                self._doubt = self._doubted_looks
                self._doubted_looks = min(4 * self._doubted_looks, _MOST_DOUBT)
        usable = free_cpus + (0 if self._doubt else nice_cpus)
        self.count = max(1, min(self.most, int(usable + _TOLERATED)))
        return self.count


class TorchThreads:
    """Keeps torch's number of threads at what others leave, on the CPU.

    `OMP_NUM_THREADS` fixes the number instead: sums round otherwise with another one.
    """

    def __init__(self) -> None:
        import torch

        self._threads = ThreadCount(min(torch.get_num_threads(), available_cpus()))
        self._is_fixed = "OMP_NUM_THREADS" in os.environ or self._threads.most == 1
        self._looked = _look()

    def adjust(self) -> None:
        """Call this before each step, in the thread that computes it: the number is each thread's own."""
        if self._is_fixed:
            return
        import torch

        if time.monotonic() - self._looked[0] >= _LOOK_EVERY_S:
            before, self._looked = self._looked, _look()
            wall_s, idle_s, nice_s, own_s = (x - y for x, y in zip(self._looked, before, strict=True))
            self._threads.update((idle_s + own_s) / wall_s, nice_s / wall_s)
        if torch.get_num_threads() != self._threads.count:
            torch.set_num_threads(self._threads.count)

    def release(self) -> None:
        """Gives torch its threads back."""
        import torch

        if not self._is_fixed:
            torch.set_num_threads(self._threads.most)


def _look() -> tuple[float, float, float, float]:
    """Seconds: the clock, and what processors spent idle, on programs of low priority, and on this process."""
    import psutil

    times = psutil.cpu_times(percpu=True)
    if hasattr(os, "sched_getaffinity"):
        times = [times[x] for x in os.sched_getaffinity(0) if x < len(times)]
    idle_s = sum(x.idle + getattr(x, "iowait", 0.0) for x in times)
    return time.monotonic(), idle_s, sum(getattr(x, "nice", 0.0) for x in times), time.process_time()
