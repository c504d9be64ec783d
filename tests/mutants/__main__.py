"""Applies every mutant to a copy of the project and runs the tests that must catch it.

`python -m tests.mutants [--only=PATTERN] [--jobs=1] [--json=FILE]`; the exit code is 1 if a mutant survived.
"""

import json
import multiprocessing
import os
import queue
import re
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from absl import app, flags

from tests.mutants import MUTANTS
from tests.mutants.mutant import Mutant
from tests.mutants.process import PRELOADED, test_process

ROOT = Path(__file__).resolve().parents[2]

# Each process of tests begins as a copy of one that has imported the libraries, and none of the project.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(PRELOADED)

_ONLY = flags.DEFINE_string("only", "", "Mutants whose file, texts or tests match this regular expression.")
_JOBS = flags.DEFINE_integer("jobs", 1, "Mutants tested at once.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "File to which the results are written.")
_CHECK = flags.DEFINE_bool("check", True, "First run the tests on the project as it is: they must pass.")
_TIMEOUT = flags.DEFINE_integer("timeout", 600, "Seconds after which the tests of a mutant are ended.")


class Result(NamedTuple):
    """How a mutant fared: "caught", "survived", "timed out" or "broken" (its tests cannot be run)."""

    mutant: Mutant
    outcome: str
    seconds: float
    detail: str


def copy_tree(folder: Path) -> Path:
    """Copies the files that git tracks, as they are in the working tree, with their times."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, names.stdout.split("\0")):
        if (ROOT / name).exists():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    return folder


def run_tests(tree: Path, tests: list[str], timeout: float | None = None) -> tuple[int | None, str]:
    """(exit code of pytest, or None after a timeout; what failed, or its last line)."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        process = _PROCESSES.Process(target=test_process, args=(str(tree), str(ROOT), tests, str(output)))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            return None, ""
        text = output.read_text(errors="replace") if output.exists() else ""
    lines = [line for line in text.splitlines() if line.strip()] or [""]
    failed = next((line for line in lines if line.startswith(("FAILED", "ERROR"))), lines[-1])
    return process.exitcode, failed


def try_mutant(mutant: Mutant, tree: Path, number: int, timeout: float) -> Result:
    """Runs a mutant's tests on its version of the tree, which is as before afterwards."""
    path = tree / mutant.file
    before, times = path.read_text(), path.stat()
    if before.count(mutant.before) != 1:
        return Result(mutant, "broken", 0.0, f"found {before.count(mutant.before)} times: {mutant.before}")
    start = time.monotonic()
    path.write_text(before.replace(mutant.before, mutant.after))
    # Compiled files are matched by size and whole seconds: each version gets a time of its own.
    os.utime(path, (times.st_atime, int(times.st_mtime) - 1 - number))
    try:
        code, detail = run_tests(tree, mutant.tests.split(), timeout)
    finally:
        path.write_text(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    outcome = {None: "timed out", 0: "survived", 4: "broken", 5: "broken"}.get(code, "caught")
    return Result(mutant, outcome, time.monotonic() - start, detail)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, found {argv[1:]}")
    chosen = [m for m in MUTANTS if re.search(_ONLY.value, "\n".join(m))]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trees = queue.SimpleQueue()
        for job in range(_JOBS.value):
            trees.put(copy_tree(Path(folder) / str(job)))
        if _CHECK.value and chosen:
            tree = trees.get()
            code, detail = run_tests(tree, sorted({name for m in chosen for name in m.tests.split()}))
            trees.put(tree)
            if code != 0:
                print(f"tests: expected all to pass on the project as it is, found: {detail}")
                return 2

        def one(numbered):
            number, mutant = numbered
            tree = trees.get()
            try:
                result = try_mutant(mutant, tree, number, _TIMEOUT.value)
            finally:
                trees.put(tree)
            print(f"{result.outcome:9} {result.seconds:5.1f} s  {mutant.file}: {mutant.after.strip()}")
            print(f"    {result.detail[:200]}", flush=True)
            return result

        with ThreadPoolExecutor(_JOBS.value) as pool:
            results = list(pool.map(one, enumerate(chosen)))
    return report(results)


def report(results: list[Result]) -> int:
    """Prints the summary, writes the JSON file, and returns the exit code."""
    caught = sum(result.outcome == "caught" for result in results)
    print(f"\n{caught} of {len(results)} mutants caught")
    for result in results:
        if result.outcome != "caught":
            mutant = result.mutant
            print(f"{result.outcome}: {mutant.file}\n  - {mutant.before}\n  + {mutant.after}")
            print(f"  {mutant.tests}\n  {result.detail}")
    if _JSON.value:
        rows = [{**r.mutant._asdict(), **r._replace(mutant=None)._asdict()} for r in results]
        for row in rows:
            del row["mutant"]
        Path(_JSON.value).write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if caught == len(results) else 1


if __name__ == "__main__":
    app.run(main)
