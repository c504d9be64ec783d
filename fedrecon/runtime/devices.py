"""Devices and memory of a run, and the environment it is recorded with."""

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from fedrecon.errors import ArgumentError

# Parameters of mallopt, from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8
# Blocks from this size on go back to the system at once.
_LARGE = 2**28
_RECORDED_PACKAGES = ("fedrecon", "jax", "jaxlib", "flax", "optax", "numpy", "jax-privacy", "dp-accounting")


def set_cpu_devices(count: int) -> None:
    """Splits the host into ``count`` CPU devices; call before anything touches a JAX device.

    Has no effect where an accelerator is the default backend. Also calls `keep_memory`.

    Raises:
      ValueError: ``count`` is not positive, or JAX already started with another number of CPU devices.
    """
    if count < 1:
        raise ArgumentError("--devices", "a positive number of devices", count)
    keep_memory()
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        found = jax.device_count()
        if jax.default_backend() == "cpu" and found != count:
            raise ArgumentError(
                "--devices", f"{count} CPU devices", f"{found}: JAX was initialized earlier"
            ) from error


def compiled(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles the rounds of a training.

    On CPU without the emitters of fusions where XLA still has a choice: with them compiling takes half as
    long again and up to 400 MB more, and the rounds of convolutional networks are not faster.
    """
    if jax.default_backend() == "cpu":
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            return lowered.compile({"xla_cpu_use_fusion_emitters": False})
    return lowered.compile()


def available_processors() -> int:
    """Processors that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_memory() -> None:
    """Lets the process use again what it has freed, in one heap, with glibc alone; call before JAX starts.

    By itself glibc gives large blocks back to the system, and every call of a compiled function, such as a
    step of training, has its memory made and cleared again page by page: a quarter of the processor's time of
    a step of a U-Net. With a heap for each of its threads, the compiler takes a third more memory. At the end
    of the heap at most 1 GiB is kept; `release_memory` gives it back.

    Blocks of 256 MiB and more are left to the system: before 2.38 glibc does not always find aligned blocks
    again, and every call would take its memory anew beside what calls before it have left; of smaller ones
    this is a block or two.
    """
    with _c_library() as library:
        library.mallopt(_M_ARENA_MAX, 1)
        if not library.mallopt(_M_MMAP_THRESHOLD, _LARGE):
            library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**30)


def release_memory() -> None:
    """Gives what the process has freed back to the system, with glibc alone; call after compiling."""
    with _c_library() as library:
        library.malloc_trim(0)


@contextlib.contextmanager
def _c_library() -> Iterator[ctypes.CDLL]:
    """The C library for calls that may be missing from it."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        yield ctypes.CDLL(None)


def describe_environment() -> dict:
    """Versions, devices and the source revision, as a JSON-able dict."""
    packages: dict[str, str | None] = {}
    for name in _RECORDED_PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = None
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "packages": packages,
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in devices],
        "processes": jax.process_count(),
        "git": _git_revision(),
        "machine": _machine(),
    }


def peak_memory() -> int | None:
    """The largest resident memory that this process has had, in bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _machine() -> dict[str, Any]:
    """System, processor, the number of processors, and memory in bytes; nothing that names the machine."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model
        )
    memory = None
    with contextlib.suppress(OSError, ValueError, AttributeError):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": model,
        "processors": available_processors(),
        "memory_bytes": memory,
    }


def _git_revision() -> str | None:
    """The commit of the source tree, with "+changes" when it was edited, or None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changed else "")
