"""Helpers of the main modules: flags handed over as options, errors as one line, checks of the options."""

import dataclasses
import functools
import os
import shutil
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from absl import flags

from fedrecon.errors import ArgumentError
from fedrecon.runtime import end_interrupted, parse_flags, run_program, user_message

# Threads of several OpenMP runtimes in one process otherwise spin while they wait, in the way of the next
# library and, where the machine is not idle, of their own.
OPENMP = "OMP_WAIT_POLICY"


def start(
    program: str,
    define_flags: Callable[[], None],
    options: type,
    run: Callable[[Any], object],
    passive_openmp: bool = True,
) -> None:
    """Runs a benchmark with the flags of the command line, and ends the process.

    Args:
      program: its name, with which lines about errors begin.
      define_flags: defines a flag for every field of ``options``.
      options: a dataclass.
      run: takes an instance of it; of its errors, those that `fedrecon.runtime.user_message` knows become
        one line.
      passive_openmp: whether threads of OpenMP wait passively, unless the environment says how they wait.
    """
    define_flags()
    run_program(functools.partial(_main, program, options, run, passive_openmp), _parsed)


def _parsed(argv: list[str]) -> list[str]:
    rest = parse_flags(argv)
    if "json" in flags.FLAGS:
        check_json(flags.FLAGS.json)
    return rest


def _main(program, options, run, passive_openmp, _: list[str]) -> None:
    if passive_openmp:
        os.environ.setdefault(OPENMP, "PASSIVE")
    try:
        run(options(**{field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(options)}))
    except KeyboardInterrupt:
        end_interrupted("Interrupted; finished workloads are in the file of --json.")
    except Exception as error:
        if (message := user_message(error)) is None:
            raise
        sys.exit(f"{program}: {' '.join(message.split())}")


def check_json(path: str | None) -> None:
    """Fails before the work rather than after it.

    Raises:
      ValueError: the folder of the file does not exist.
    """
    if path is not None and not Path(path).parent.is_dir():
        raise ArgumentError("--json", "a file in an existing folder", path)


def chosen_workloads(names: list[str], known: Collection[str]) -> list[str]:
    """The workloads of these names, each once; ``a`` stands for ``a-1`` and ``a-2`` too.

    Raises:
      ValueError: a name is not known.
    """
    chosen = []
    for name in names:
        matching = [w for w in known if w == name or w.startswith(f"{name}-")]
        if not matching:
            raise ArgumentError("--workloads", f"some of {', '.join(known)}", repr(name))
        chosen += [w for w in matching if w not in chosen]
    return chosen


def interpreters(pairs: list[str], known: Collection[str], kind: str) -> dict[str, str]:
    """Absolute paths of interpreters by name, from ``name=interpreter``; ``kind`` is what is named.

    Raises:
      ValueError: a name is not known, or an interpreter does not exist.
    """
    found = {}
    for pair in pairs:
        name, equals, python = pair.partition("=")
        path = shutil.which(python)
        if name not in known or not equals or path is None:
            raise ArgumentError("--pythons", f"{kind}=interpreter, both existing", repr(pair))
        # Other processes start elsewhere; links are kept, by which environments find themselves.
        found[name] = str(Path(path).absolute())
    return found


def print_machine(machine: dict[str, Any], packages: bool = True) -> None:
    """Prints what `describe_machine` found: a line on the machine, and one on the packages."""
    print(f"{machine['cpu']}, {machine['cores']} cores, load {machine['load']:.1f}, {machine['date']}")
    if packages:
        print(", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version))
