"""Timing in turns, errors, the machine, and the text of tables; shared by all benchmarks."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import pickle
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Thread pools of OpenMP keep spinning for some milliseconds after a call and would slow down the next one.
_PAUSE = 0.005
_FEWEST_ROUNDS = 3
_PROCESS_LIMIT = 600
# Where the modules of the benchmarks are found.
REPOSITORY = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation of a library on inputs it already holds.

    Attributes:
      call: computes and returns the library's own array, when the result is there.
      result: that array in the conventions of the reference, as numpy; not timed.
      route: how it is computed, where a library offers several ways.
    """

    call: Callable[[], Any]
    result: Callable[[Any], np.ndarray] = np.asarray
    route: str = ""


def relative_error(found: np.ndarray, reference: np.ndarray) -> float:
    """``||found - reference|| / ||reference||`` over all elements, in double precision."""
    found = np.asarray(found).reshape(reference.shape)
    return float(np.linalg.norm((found - reference).ravel()) / np.linalg.norm(reference.ravel()))


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def quickest(call: Callable[[], Any], calls: int = 3) -> float:
    """The shortest of a few calls, in seconds; one call is enough when it takes longer than a second."""
    best = seconds(call)
    for _ in range(calls - 1):
        if best > 1:
            break
        best = min(best, seconds(call))
    return best


def matmul_peak(size: int = 2048) -> float:
    """FLOP/s of the fastest product of large matrices, by numpy or XLA."""
    # Workers of libraries without JAX import this module.
    import jax
    import jax.numpy as jnp

    a = np.ones((size, size), np.float32)
    product, b = jax.jit(jnp.matmul), jnp.asarray(a)
    calls = (lambda: a @ a, lambda: product(b, b).block_until_ready())
    for call in calls:
        call()
    return 2.0 * size**3 / min(quickest(call, 5) for call in calls)


def round_robin(
    calls: Mapping[Hashable, Callable[[], Any]], repeats: int, limit: float, seed: int = 0
) -> dict[Hashable, list[float]]:
    """Times several calls in turns, so that what else the machine does hits all alike.

    Every round makes each call once, in a new random order. The calls have been made before (compiled).

    Args:
      calls: what is timed, by name.
      repeats: number of rounds.
      limit: seconds after which no further round begins, once there have been three.
      seed: of the order.

    Returns:
      By name, the wall times in seconds.
    """
    rng = np.random.default_rng(seed)
    times: dict[Hashable, list[float]] = {name: [] for name in calls}
    names, start = list(calls), time.perf_counter()
    for done in range(repeats):
        if done >= _FEWEST_ROUNDS and time.perf_counter() - start > limit:
            break
        for index in rng.permutation(len(names)):
            time.sleep(_PAUSE)
            times[names[index]].append(seconds(calls[names[index]]))
    return times


def median_ms(times: Sequence[float]) -> float:
    """Median in milliseconds of times in seconds."""
    return 1e3 * statistics.median(times)


def peak_memory() -> float:
    """The most memory this process has held so far, in MB (10^6 bytes)."""
    try:
        # Not ru_maxrss: a process that was started by a larger one begins with the peak of that one.
        status = Path("/proc/self/status").read_text()
        return (
            next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1.024e-3
        )
    except (OSError, StopIteration):
        # Bytes on macOS, kilobytes elsewhere.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e6 if sys.platform == "darwin" else peak * 1.024e-3


def reset_peak_memory() -> None:
    """Lets :func:`peak_memory` begin again at what is held now, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def in_processes(
    module: str,
    problem: Any,
    jobs: Mapping[str, Any],
    pythons: Mapping[str, str] | None = None,
    environments: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, dict]:
    """Runs ``python -m module FILE NAME JOB`` for one job after the other, each in a new process.

    Args:
      module: what prints one line of JSON, an object, as the last of its output.
      problem: written to FILE for all of them, by pickle.
      jobs: by NAME, what is handed over as JSON.
      pythons: by NAME, another interpreter than this one.
      environments: by NAME, environment variables in addition to those of this process.

    Returns:
      The objects by NAME, or ``{"error": one line}``.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "problem")
        path.write_bytes(pickle.dumps(problem))
        for name, job in jobs.items():
            command = [(pythons or {}).get(name, sys.executable), "-m", module, path, name, json.dumps(job)]
            try:
                result = subprocess.run(
                    command,
                    capture_output=True,
                    text=True,
                    timeout=_PROCESS_LIMIT,
                    cwd=REPOSITORY,
                    env={**os.environ, **(environments or {}).get(name, {})},
                )
                lines = result.stdout.splitlines()
                if result.returncode or not lines:
                    reason = (result.stderr.strip().splitlines() or ["no output"])[-1]
                    found[name] = {"error": f"exit {result.returncode}: {reason}"}
                else:
                    found[name] = json.loads(lines[-1])
            except (subprocess.SubprocessError, OSError, ValueError) as error:
                found[name] = {"error": one_line(error)}
    return found


def one_line(error: BaseException, length: int = 160) -> str:
    """The name and the beginning of the message of an exception, in one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= length else text[: length - 3] + "..."


def version_of(package: str) -> str | None:
    """The installed version of a distribution, None if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe_machine(packages: Sequence[str] = ()) -> dict[str, Any]:
    """The machine, the date and the versions of the named distributions, as a JSON-able dict."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version_of(name) for name in packages},
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def progress(text: str) -> None:
    """Shows what is going on in the last line of a terminal, and nothing elsewhere; "" clears the line."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain table: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(row):
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *map(line, rows)])


def format_ms(value: float) -> str:
    """Milliseconds with three significant digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
