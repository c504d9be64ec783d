"""Runs the tests and benchmarks that matter on an accelerator, one after another, and shows a table of them.

Each is a process of its own with a limit of time; sizes are small, so that all of it takes minutes. A row has
the seconds of the process, how it ended, and one figure of what it measured; below the table is the end of
what failed. Other libraries are not measured: the benchmarks themselves do that. The program ends with status
0 if all passed, 1 if one did not, and 2 where JAX finds no accelerator. It runs in a clone, where tests and
benchmarks are.

  python -m experiments.gpu_check --json=gpu.json
  python -m experiments.gpu_check --only=precision,federated --timeout=120
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments.pipeline.device_rows import FILE, ROWS, Row
from fedrecon.errors import ArgumentError
from fedrecon.files import write_atomically
from fedrecon.reporting import format_table
from fedrecon.runtime import ending, run_program

_ROOT = Path(__file__).resolve().parents[1]
_DEVICE = (
    "import jax, json; d = jax.devices(); "
    "print(json.dumps([d[0].platform, d[0].device_kind, len(d), jax.__version__]))"
)
_LINES = 15


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_list("only", list(ROWS), f"What is run, of {', '.join(ROWS)}.")
    flags.DEFINE_float("timeout", 300.0, "Seconds after which one of them is ended.", lower_bound=1.0)
    flags.DEFINE_string("json", None, "File of all rows, written after each; - for the output.")
    flags.DEFINE_bool("allow_cpu", False, "Run where there is no accelerator, too.")


def output_of(command: Sequence[str], timeout: float) -> tuple[int | None, str, str]:
    """Status, output and errors of a command of this interpreter; the status is None if it took too long.

    What it started ends with it.
    """
    # Tests choose the CPU unless told otherwise.
    environment = {"JAX_PLATFORMS": "", **os.environ}
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=output,
            stderr=errors,
            cwd=_ROOT,
            env=environment,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(timeout)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return status, texts[0], texts[1]


def device(timeout: float) -> dict[str, Any]:
    """What JAX computes with: "platform", "kind", "devices" and "jax".

    A process of its own asks, as one that has opened a GPU keeps most of its memory.

    Raises:
      ArgumentError: JAX does not start.
    """
    status, output, errors = output_of(["-c", _DEVICE], timeout)
    if status != 0:
        raise ArgumentError("jax", "devices", (errors.strip().splitlines() or ["no answer"])[-1])
    return dict(zip(("platform", "kind", "devices", "jax"), json.loads(output.splitlines()[-1]), strict=True))


def check(row: Row, timeout: float) -> dict[str, Any]:
    """Runs it: "seconds", "status" (passed, failed or timed out), "figure", and "end" of what it said."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        command = [part.replace(FILE, str(path)) for part in row.command]
        status, output, errors = output_of(command, timeout)
        seconds = time.perf_counter() - start
        figure, ended = "–", "timed out" if status is None else "passed" if status == 0 else "failed"
        if ended == "passed":
            try:
                figure = row.figure(json.loads(path.read_text()) if command != row.command else output)
            except (OSError, ValueError, LookupError, TypeError) as error:
                ended, errors = "failed", f"{errors}\nno figure in what it wrote: {error!r}"
    end = "" if ended == "passed" else "\n".join(f"{output}\n{errors}".strip().splitlines()[-_LINES:])
    return {"seconds": seconds, "status": ended, "figure": figure, "end": end}


def report(found: Mapping[str, Any]) -> str:
    """The ends of what failed, then a row of each, then the device."""
    rows = found["rows"]
    parts = [f"{name}, {row['status']}:\n{row['end']}\n" for name, row in rows.items() if row["end"]]
    lines = [[name, f"{row['seconds']:.0f}", row["status"], row["figure"]] for name, row in rows.items()]
    parts.append(format_table(["what", "s", "status", "figure"], lines))
    passed = sum(row["status"] == "passed" for row in rows.values())
    of = found["device"]
    device_line = f"{of['devices']} x {of['kind']} ({of['platform']}), jax {of['jax']}"
    return "\n".join([*parts, f"{device_line}: {passed} of {len(rows)} passed"])


def main(_: list[str]) -> None:
    values = flags.FLAGS
    with ending("rows that were finished are in the file of --json"):
        unknown = [name for name in values.only if name not in ROWS]
        if unknown or not values.only:
            raise ArgumentError("--only", f"some of {', '.join(ROWS)}", repr(",".join(values.only)))
        to_file = values.json not in (None, "-")
        if to_file and not Path(values.json).parent.is_dir():
            raise ArgumentError("--json", "a file in an existing folder, or -", values.json)
        found: dict[str, Any] = {"device": device(values.timeout), "rows": {}}
        if found["device"]["platform"] == "cpu" and not values.allow_cpu:
            print("gpu_check: JAX finds no accelerator; --allow_cpu runs on the CPU", file=sys.stderr)
            sys.exit(2)
        for name in dict.fromkeys(values.only):
            found["rows"][name] = row = check(ROWS[name], values.timeout)
            print(f"{name}: {row['status']}, {row['seconds']:.0f} s", file=sys.stderr, flush=True)
            if to_file:
                write_atomically(values.json, json.dumps(found, indent=1).encode())
    print(json.dumps(found) if values.json == "-" else report(found))
    sys.exit(any(row["status"] != "passed" for row in found["rows"].values()))


if __name__ == "__main__":
    define_flags()
    run_program(main)
