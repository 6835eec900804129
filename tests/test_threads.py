import os
import platform
import subprocess
import sys

import pytest

from keras_birds.threads import ThreadCount, available_cpus

_TORCH = """
import os, time, torch
from keras_birds.threads import TorchThreads
torch.set_num_threads(2)
threads = TorchThreads()
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # what others leave of a machine
end = time.monotonic() + 1.1
while time.monotonic() < end:
    pass
threads.adjust()
print(torch.get_num_threads())
threads.release()
print(torch.get_num_threads())
"""


_MEMORY = """
import resource
from keras_birds.training.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    buffer = bytearray(80_000_000)
    buffer[::4096] = bytes(len(buffer[::4096]))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = [faults() for _ in range(3)]
print(keep_freed_memory(), plain[-1] > 10_000, [faults() for _ in range(3)][-1] < 100)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_a_buffer_that_is_allocated_again_has_its_pages_already():
    assert subprocess.check_output([sys.executable, "-c", _MEMORY], text=True) == "True True True\n"


@pytest.mark.parametrize(
    ("most", "looks", "counts"),
    [
        (2, [(2.0, 0.0), (1.8, 0.0)], [2, 2]),  # idle, or with little beside
        (2, [(1.26, 0.0), (1.0, 0.0), (1.0, 0.0)], [1, 1, 1]),  # one busy program
        (2, [(1.0, 0.0), (0.67, 0.0), (2.0, 0.0)], [1, 1, 2]),  # two, which end
        (16, [(15.5, 0.0), (10.7, 0.0), (8.9, 0.0), (40.0, 0.0)], [15, 10, 9, 16]),
        (2, [(1.95, 0.05), (1.94, 0.06)], [2, 2]),  # low priority that makes way
        (2, [*[(1.0, 1.0)] * 5, (1.95, 0.05)], [1, 1, 1, 1, 2, 2]),
    ],
)
def test_threads_are_as_many_as_find_a_processor(most, looks, counts):
    threads = ThreadCount(most)
    assert [threads.update(*x) for x in looks] == counts
    # Low priority that takes its share is asked less and less often.
    threads = ThreadCount(2)
    assert [i for i in range(200) if threads.update(1.0, 1.0) == 2] == [4, 21, 86, 151]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
@pytest.mark.parametrize(("fixed", "printed"), [(None, "1\n2\n"), ("2", "2\n2\n")])
def test_torch_gets_the_threads_unless_the_user_fixed_them(fixed, printed):
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    env |= {"OMP_NUM_THREADS": fixed} if fixed else {}
    assert subprocess.check_output([sys.executable, "-c", _TORCH], text=True, env=env) == printed


def test_processors_are_those_of_affinity_and_quota(tmp_path):
    own = len(os.sched_getaffinity(0))
    assert available_cpus(tmp_path) == own
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("1:cpu:/other\n0::/mine\n")
    (tmp_path / "sys/fs/cgroup/mine").mkdir(parents=True)
    for quota, cpus in {"100000": 1, "50000": 1, "150000": min(2, own), "max": own}.items():
        (tmp_path / "sys/fs/cgroup/mine/cpu.max").write_text(f"{quota} 100000\n")
        assert available_cpus(tmp_path) == cpus
