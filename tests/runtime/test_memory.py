import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from fedrecon.runtime import release_memory


def _resident() -> int:
    """Bytes of this process in memory."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is given back with glibc only")
def test_freed_memory_goes_back_to_the_system():
    blocks = [b"1" * 65536 for _ in range(2000)]
    # The last block keeps the heap from shrinking at its end.
    last = blocks[-1]
    del blocks
    before = _resident()
    release_memory()
    assert before - _resident() > 0.8 * 1999 * 65536
    assert len(last) == 65536


_FAULTS = """
import ctypes, resource, sys
from fedrecon.runtime import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
library = ctypes.CDLL(None)
library.malloc.restype, size = ctypes.c_void_p, 100_000_000
def use():
    block = ctypes.c_void_p(library.malloc(ctypes.c_size_t(size)))
    library.memset(block, 1, ctypes.c_size_t(size))
    library.free(block)
def count():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
before = count()
for _ in range(4):
    use()
print(count() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is kept with glibc only")
def test_memory_that_was_freed_is_used_again():
    def faults(kind: str) -> int:
        command = [sys.executable, "-c", _FAULTS, kind]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout)

    assert faults("kept") < 100 < 10_000 < faults("given back")
