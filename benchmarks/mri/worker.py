"""One library on one problem in a process of its own: times of first calls, and memory.

Started by :func:`fresh_process`; prints one line of JSON.
"""

import gc
import importlib
import json
import pickle
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks.measure import in_processes, peak_memory, reset_peak_memory, seconds
from benchmarks.mri.problems import MRIProblem
from benchmarks.mri.registry import LIBRARIES

# The operations that all libraries have, `forward` first.
COMMON = ("forward", "adjoint", "gram")


def fresh_process(problem: MRIProblem, jobs: dict[str, dict]) -> dict[str, dict]:
    """Runs libraries one after the other, each in a new process.

    Args:
      problem: the inputs.
      jobs: by library, ``{"setting": {...}, "routes": {operation: index}}``.

    Returns:
      By library: ``first_call_s``, seconds of the first call by operation, that of ``forward`` with planning
      and compilation (not with imports); ``peak_mb``, the rise of the peak memory in the operations that all
      libraries have (`COMMON`) over what is held when everything is imported and the inputs are loaded; or
      ``error``, one line.
    """
    return in_processes(__name__, problem, jobs)


def main(path: str, name: str, job: str) -> None:
    library, job = LIBRARIES[name], json.loads(job)
    for module in library.modules:
        importlib.import_module(module)
    problem = pickle.loads(Path(path).read_bytes())
    jax.block_until_ready(jnp.zeros(1))
    gc.collect()
    reset_peak_memory()
    baseline = peak_memory()
    made, first = {}, {}

    def plan_and_run():
        made.update(library.operations(problem, **job["setting"]))
        made["forward"][0].call()

    first["forward"] = seconds(plan_and_run)
    routes = job["routes"]
    for operation in COMMON[1:]:
        if operation in routes:
            first[operation] = seconds(made[operation][routes[operation]].call)
    peak = peak_memory() - baseline
    for operation in routes.keys() - set(COMMON):
        first[operation] = seconds(made[operation][routes[operation]].call)
    print(json.dumps({"first_call_s": first, "peak_mb": peak}))


if __name__ == "__main__":
    main(*sys.argv[1:])
