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
import resource, sys
import jax, jax.numpy as jnp
from fedrecon.runtime import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
x = jnp.zeros((4096, 2048))
call = jax.jit(lambda x: jnp.cumsum(jnp.sin(x) @ x.T, 0).sum())
for _ in range(2):
    jax.block_until_ready(call(x))
before = count()
for _ in range(4):
    jax.block_until_ready(call(x))
print(count() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is kept with glibc only")
def test_calls_use_the_memory_of_the_calls_before():
    def faults(kind: str) -> int:
        command = [sys.executable, "-c", _FAULTS, kind]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout)

    assert faults("kept") < 0.1 * faults("given back")
