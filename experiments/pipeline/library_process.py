"""Measurements of a library in a process of its own."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from fedrecon.errors import ArgumentError


def measured_by(
    command: Sequence[str], work: Mapping[str, Any], case: str, flag: str, needs: str
) -> dict[str, Any]:
    """What a command prints as JSON in its last line, on as many processors as ``work["threads"]``.

    Args:
      command: that is given the work as JSON and the name of the case's file.
      work: with "threads".
      case: the file.
      flag: that names the interpreter.
      needs: what the interpreter has to have.

    Raises:
      ArgumentError: it ends without a result; tells its last line.
    """
    threads = str(work["threads"])
    # Threads that wait in a loop would count as work.
    waiting = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
    environment = os.environ | waiting | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    cores = sorted(os.sched_getaffinity(0))[: work["threads"]]
    try:
        done = subprocess.run(
            [*command, json.dumps(work), case],
            env=environment,
            capture_output=True,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError) as error:
        said = str(error) if isinstance(error, OSError) else (done.stderr.splitlines() or ["nothing"])[-1]
        raise ArgumentError(f"--{flag}", f"an interpreter with {needs}", said) from None
    return found
