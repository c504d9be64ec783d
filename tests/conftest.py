"""Shared test settings: four host devices, and double precision only where a test asks for it."""

import collections
import gc
import os
import signal
import sys
import threading
from pathlib import Path

# Of BLAS, before NumPy is loaded: several workers with a thread for each core wait for each other in loops.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import pytest
from hypothesis import settings

# Tests compile much and run little: XLA compiles four times as fast without its newer emitters of CPU code,
# without LLVM's optimizations and in one piece. Programs that tests start get the usual flags. An XLA that
# does not know a flag ends the process.
_flags = os.environ.get("XLA_FLAGS")
if _flags is None and jax.__version_info__ < (0, 11):
    os.environ["XLA_FLAGS"] = (
        "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
        " --xla_cpu_parallel_codegen_split_count=1"
    )

# JAX_PLATFORMS=cuda runs the tests on an accelerator; where there is none this is what JAX does anyway.
jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_num_cpu_devices", 4)
jax.devices()
if _flags is None:
    os.environ.pop("XLA_FLAGS", None)
settings.register_profile("fedrecon", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("fedrecon")

# Each compiled program keeps pieces of memory mapped, of which Linux grants a process 65530. Counting them
# takes milliseconds, so they are counted after every 300 compilations.
_MOST_MAPPINGS = 20_000
_MAPPINGS = Path("/proc/self/maps")
_OFTEN = 300

_compiled = collections.Counter()
_seen = 0


def _count(event: str, seconds: float, **details) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _compiled[details["fun_name"]] += 1


jax.monitoring.register_event_duration_secs_listener(_count)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown():
    global _seen
    if _compiled.total() - _seen < _OFTEN:
        return
    _seen = _compiled.total()
    if _MAPPINGS.exists() and _MAPPINGS.read_bytes().count(b"\n") > _MOST_MAPPINGS:
        jax.clear_caches()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish():
    """The garbage collector leaves alone what stays to the end: modules and tests, millions of objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 20)


def _of_the_process() -> dict:
    """What a test would leave to those after it: a stray interrupt has made one of them fail at random."""
    return {
        "SIGINT": signal.getsignal(signal.SIGINT),
        "SIGTERM": signal.getsignal(signal.SIGTERM),
        "sys.unraisablehook": sys.unraisablehook,
        "threading.excepthook": threading.excepthook,
        "timers": [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)],
    }


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call():
    before = _of_the_process()
    yield
    after = _of_the_process()
    assert after == before, [name for name, value in after.items() if value != before[name]]


@pytest.fixture(scope="session", autouse=True)
def share_compilations(tmp_path_factory):
    """Programs that tests start find what others of them compiled; JAX in this process has begun without."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compilations"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


@pytest.fixture(scope="session")
def measured_data():
    """``measured_data("mri/brain.h5")``: the path; the test is skipped where there is no folder ``mri``."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FEDRECON_DATA", default))

    def find(name: str) -> Path:
        if not (folder / name.split("/")[0]).is_dir():
            pytest.skip(f"no measured data in {folder}")
        return folder / name

    return find


@pytest.fixture
def compiled():
    """``compiled(name)``: how often jitted functions of this name were compiled since the test began."""
    before = _compiled.copy()
    return lambda name: _compiled[f"jit({name})"] - before[f"jit({name})"]


@pytest.fixture
def x64():
    """Runs one test in double precision."""
    with jax.enable_x64(True):
        yield
