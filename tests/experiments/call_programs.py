"""Runs programs in forks of a process that has imported them, so that a call costs its own work alone.

``python -m tests.experiments.call_programs`` reads a JSON list of [module, arguments] and prints one of
[status, output].
"""

import importlib
import json
import os
import runpy
import sys
import tempfile
import traceback


def call(module: str, arguments: list[str]) -> tuple[int, str]:
    """Exit status and output of ``python -m module arguments``."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            _run(module, arguments)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        return status, output.read().decode(errors="replace")


def _run(module, arguments):
    status = 0
    sys.modules.pop(module, None)
    sys.argv = [module.rpartition(".")[2] + ".py", *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    calls = json.load(sys.stdin)
    # Programs whose flags are defined when they run, and with them nearly all that others import.
    for name in ("compare", "full_stack", "reconstruct", "train_federated"):
        importlib.import_module(f"experiments.{name}")
    print(json.dumps([call(*each) for each in calls]))
