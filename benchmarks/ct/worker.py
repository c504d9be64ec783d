"""Libraries of the CT benchmark in processes of their own.

``FILE NAME JOB`` measures first calls and memory once and prints one line of JSON; :func:`fresh_process`
starts it. ``FILE NAME`` waits for requests; :class:`Remote` starts it, for libraries that need another
environment.
"""

import gc
import importlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ct.prepared import PreparedLibrary
from benchmarks.ct.problems import CTProblem
from benchmarks.ct.registry import library
from benchmarks.measure import (
    REPOSITORY,
    Operation,
    in_processes,
    one_line,
    peak_memory,
    reset_peak_memory,
    seconds,
)


def fresh_process(
    problem: CTProblem, jobs: dict[str, dict[str, int]], pythons: dict[str, str]
) -> dict[str, dict]:
    """Runs libraries one after the other, each in a new process.

    Args:
      problem: the inputs.
      jobs: by library the index of the route of each operation.
      pythons: by library the interpreter of its environment, where it is not this one.

    Returns:
      By library: ``first_call_s``, seconds of the first call by operation, the first of them with planning
      and compilation (not with imports); ``peak_mb``, the rise of the peak memory over what is held when
      everything is imported and the inputs are loaded; or ``error``, one line.
    """
    return in_processes(__name__, problem, jobs, pythons, {name: library(name).environment for name in jobs})


class Remote:
    """A library that runs in another process, one call at a time.

    Args:
      name: the library.
      problem: its inputs.
      python: the interpreter of its environment.

    Raises:
      RuntimeError: if the process ends, or the library raises there.
    """

    def __init__(self, name: str, problem: CTProblem, python: str):
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name, "problem")
        path.write_bytes(pickle.dumps(problem))
        self._errors = Path(self._folder.name, "errors").open("w+")  # noqa: SIM115, closed with the process
        self._process = subprocess.Popen(
            [python, "-m", __name__, path, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, **library(name).environment},
        )
        try:
            self._started = self._answer()
        except RuntimeError:
            self.close()
            raise

    def prepared(self) -> PreparedLibrary:
        """The library's operations, each call of which is one in the other process."""
        made = {
            operation: [self._operation(operation, *route) for route in enumerate(routes)]
            for operation, routes in self._started["routes"].items()
        }
        return PreparedLibrary(made, np.load(self._started["image"]) if self._started["image"] else None)

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()
        self._folder.cleanup()

    def _operation(self, operation, index, route):
        request = [operation, index]

        def result(_):
            return np.load(self._ask([*request, str(Path(self._folder.name, "result.npy"))])["result"])

        return Operation(lambda: self._ask(request), result, route)

    def _ask(self, request: list) -> dict[str, Any]:
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except OSError as error:
            raise RuntimeError(one_line(error)) from None
        return self._answer()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            reason = (self._errors.read().strip().splitlines() or ["no output"])[-1]
            raise RuntimeError(f"exit {self._process.wait()}: {reason}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


def _load(path: str, name: str) -> CTProblem:
    for module in library(name).modules:
        importlib.import_module(module)
    return pickle.loads(Path(path).read_bytes())


def _wait_for_requests(path: str, name: str, channel) -> None:
    def answer(**fields):
        print(json.dumps(fields), file=channel, flush=True)

    try:
        prepared = library(name).prepare(_load(path, name))
    except Exception as reason:  # Libraries raise what they like.
        answer(error=one_line(reason))
        return
    image = None
    if prepared.image is not None:
        image = str(Path(path).with_name("image.npy"))
        np.save(image, prepared.image)
    routes = {operation: [r.route for r in routes] for operation, routes in prepared.operations.items()}
    answer(routes=routes, image=image)
    for line in sys.stdin:
        operation, index, *target = json.loads(line)
        route = prepared.operations[operation][index]
        try:
            found = route.call()
            if target:
                np.save(target[0], route.result(found))
        except Exception as reason:
            answer(error=one_line(reason))
            continue
        answer(result=target[0] if target else None)


def _first_calls(path: str, name: str, job: str) -> dict:
    problem, routes = _load(path, name), json.loads(job)
    if "jax" in sys.modules:
        import jax

        # What starting the backend takes is not the library's.
        jax.block_until_ready(jax.numpy.zeros(1))
    gc.collect()
    reset_peak_memory()
    baseline = peak_memory()
    made, first = {}, {}
    for operation, index in routes.items():

        def plan_and_run(operation=operation, index=index):
            if not made:
                made.update(library(name).prepare(problem).operations)
            made[operation][index].call()

        first[operation] = seconds(plan_and_run)
    return {"first_call_s": first, "peak_mb": peak_memory() - baseline}


def main(path: str, name: str, job: str | None = None) -> None:
    # Libraries print what they like; the answers have a channel of their own.
    with os.fdopen(os.dup(1), "w") as channel:
        os.dup2(2, 1)
        if job is None:
            _wait_for_requests(path, name, channel)
        else:
            print(json.dumps(_first_calls(path, name, job)), file=channel)


if __name__ == "__main__":
    main(*sys.argv[1:])
