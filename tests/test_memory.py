import platform
import subprocess
import sys

import pytest

_CODE = """
import resource
from keras_birds.training.memory import keep_freed_memory

def faults():
    buffer = bytearray(80_000_000)
    buffer[::4096] = bytes(len(buffer[::4096]))
    del buffer
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

plain = [faults() for _ in range(3)]
took_effect = keep_freed_memory()
kept = [faults() for _ in range(3)]
print(took_effect, plain[2] - plain[1], kept[2] - kept[1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_a_buffer_that_is_allocated_again_has_its_pages_already():
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True)
    plain, kept = map(int, done.stdout.removeprefix("True").split())
    assert kept < 100 < 10_000 < plain
