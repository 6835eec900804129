import os
import subprocess
import sys

import pytest

from keras_birds.threads import ThreadCount, available_cpus

_TORCH = """
import os, sys, time
import torch
from keras_birds.threads import TorchThreads
torch.set_num_threads(2)
threads = TorchThreads()
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # what others leave of a machine
started = time.monotonic()
while time.monotonic() - started < 1.1:
    pass
threads.adjust()
print(torch.get_num_threads())
threads.release()
print(torch.get_num_threads())
"""


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


def test_low_priority_that_takes_its_share_is_asked_less_and_less_often():
    threads = ThreadCount(2)
    assert [i for i in range(200) if threads.update(1.0, 1.0) == 2] == [4, 21, 86, 151]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
@pytest.mark.parametrize(("fixed", "printed"), [(None, "1\n2\n"), ("2", "2\n2\n")])
def test_torch_gets_the_threads_unless_the_user_fixed_them(fixed, printed):
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    env |= {"OMP_NUM_THREADS": fixed} if fixed else {}
    done = subprocess.run([sys.executable, "-c", _TORCH], capture_output=True, text=True, env=env, check=True)
    assert done.stdout == printed


@pytest.mark.parametrize(
    ("cpu_max", "cpus"),
    [("100000 100000", 1), ("50000 100000", 1), ("9900000 100000", None), ("max 100000", None)],
)
def test_processors_are_those_of_affinity_and_quota(tmp_path, cpu_max, cpus):
    own = len(os.sched_getaffinity(0))
    assert available_cpus(tmp_path) == own
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("1:cpu:/other\n0::/mine\n")
    (tmp_path / "sys/fs/cgroup/mine").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/mine/cpu.max").write_text(cpu_max + "\n")
    assert available_cpus(tmp_path) == (cpus or own)
