import platform
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
