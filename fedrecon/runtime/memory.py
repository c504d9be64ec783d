"""Memory of compiled programs before they run, and what the system has left."""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import jax

from fedrecon.errors import ArgumentError

# Limits and use of control groups, version 2 and version 1.
_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


class MemoryEstimate(NamedTuple):
    """Bytes of one call of a compiled program on each of its devices.

    Attributes:
      arguments: of what it is given, there before the call.
      outputs: of what it returns.
      temporaries: of what it holds while it runs.
      aliased: of outputs in the place of donated arguments, which count once.
    """

    arguments: int
    outputs: int
    temporaries: int
    aliased: int = 0

    @property
    def added(self) -> int:
        """What the call adds to its arguments."""
        return self.temporaries + self.outputs - self.aliased

    @property
    def total(self) -> int:
        """The peak of the call, arguments included."""
        return self.arguments + self.added


def memory_estimate(compiled: jax.stages.Compiled) -> MemoryEstimate | None:
    """What a call of a compiled program occupies at its peak, by XLA's plan of its buffers.

    The plan is made by the compiler; nothing runs, and nothing is compiled again. It does not count the
    program itself, what else the process holds, and on CPU what kernels and glibc keep for later calls: some
    tens of MB, and with `keep_memory` up to two blocks below 256 MiB.

    Args:
      compiled: from ``jax.jit(f).lower(...).compile()``; arguments may be ``jax.ShapeDtypeStruct``.

    Returns:
      Bytes on each device; None where the backend does not tell.
    """
    try:
        plan = compiled.memory_analysis()
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        return None
    if plan is None:
        return None
    return MemoryEstimate(
        int(plan.argument_size_in_bytes),
        int(plan.output_size_in_bytes),
        int(plan.temp_size_in_bytes),
        int(plan.alias_size_in_bytes),
    )


def available_memory(device: jax.Device | None = None) -> int | None:
    """Bytes that may still be allocated: of the host on CPU, else of the device; None where nobody says.

    On the host the least of what the system calls available and what the control group of a container leaves.

    Args:
      device: one of this process; the first one by default.
    """
    device = device or jax.local_devices()[0]
    if device.platform != "cpu":
        found = device.memory_stats() or {}
        return found["bytes_limit"] - found.get("bytes_in_use", 0) if "bytes_limit" in found else None
    left = [*_of_system(), *_of_groups()]
    return min(left) if left else None


def readable_bytes(count: float) -> str:
    """A number of bytes in two digits, such as "1.8 GB" (10^9 bytes).

    Raises:
      ValueError: it is negative.
    """
    if count < 0:
        raise ArgumentError("count", "a number of bytes", count)
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        # 9.96 MB would be 10.0.
        if count >= 0.995 * size:
            return f"{count / size:.0f} {unit}" if count >= 9.95 * size else f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


def _of_system() -> Iterable[int]:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        yield 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


def _of_groups() -> Iterable[int]:
    for limit, use in _GROUPS:
        # The limit "max" is no number.
        with contextlib.suppress(OSError, ValueError):
            yield max(int(Path(limit).read_text()) - int(Path(use).read_text()), 0)
