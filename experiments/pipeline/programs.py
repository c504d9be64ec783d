"""Helpers of the mains of the federated experiments: flags of a run, their parsing, and ways to end."""

import contextlib
import dataclasses
import json
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import flags

from experiments.pipeline.federated_settings import LABELS
from experiments.pipeline.settings_flags import define_flags, given_flags
from fedrecon.catalog import ALIASES
from fedrecon.data.folders import identify_cohort
from fedrecon.errors import ArgumentError
from fedrecon.runtime import (
    available_processors,
    check_values,
    end_interrupted,
    end_with,
    leave,
    program_name,
    show_help,
    user_message,
)
from fedrecon.training import (
    Dotted,
    algorithms,
    fields,
    initial_digest,
    load_methods,
    load_task,
    split_dotted,
)

# Flags belong to the program that calls for them, whose --help lists them.
flags.disclaim_key_flags()


# Of --devices by default.
MOST_DEVICES = 8
# What may be before the dot of a flag.
DOTTED = ("algorithm", "attack", "clock", "codec", "downlink", "finetune", "reduce", "secure_aggregation")
GROUPS = ("data", "model", "training", "federation", "protection", "topology", "privacy", "comparison",
          "deployment", "processes", "run")  # fmt: skip
# Flags that are no settings.
_OF_PROGRAMS = {
    "run": ("workdir", "resume", "devices", "parallel", "rounds_per_dispatch"),
    "processes": ("coordinator", "processes", "process_id", "distributed", "start_seconds", "stall_seconds"),
    "comparison": (
        "problems",
        "choices",
        "factors",
        "base",
        "pretraining",
        "labels",
        "pretraining_rounds",
        "pretraining_rate",
        "mode",
        "strengths",
        "starts",
        "comparators",
        "methods",
        "seeds",
        "epsilons",
        "units",
        "baseline",
        "metric",
        "worst",
        "json",
        "inversion",
        "adapt",
        "labeled",
        "tuning_passes",
        "scenario",
        "blocks",
        "without",
        "scanner_shift",
        "keep_left",
    ),
    "deployment": ("engine", "sites", "method", "site", "host", "port", "minimum", "deadline", "own_keys"),
}


def define_run_flags(
    settings: type,
    *,
    without: Collection[str] = (),
    by_preset: Collection[str] = (),
    devices: int | None = 1,
    flag_values: flags.FlagValues = flags.FLAGS,
) -> None:
    """Defines the flags of a program; not on import, so that other programs may use their names.

    Args: as in `define_flags`, and the default of ``--devices``; None is one for each processor.
    """
    options = {"flag_values": flag_values}
    flags.DEFINE_string(
        "workdir", None, "Directory of the run; created when absent.", required=True, **options
    )
    flags.DEFINE_bool("resume", True, "Continue what is in --workdir; --noresume refuses instead.", **options)
    text = "CPU devices the clients are spread over; accelerators are all used."
    if devices is None:
        text = f"{text} By default one for each processor, {MOST_DEVICES} at most."
    flags.DEFINE_integer("devices", devices, text, lower_bound=1, **options)
    text = (
        "Execution of the clients of a device: scan, one after another; vmap, at once; a chunk size; auto,"
        " the fastest; pmap is scan, a shard of clients for each device of --devices."
    )
    flags.DEFINE_string("parallel", "auto", text, **options)
    text = "Rounds compiled into one call; checkpoints are written between calls."
    flags.DEFINE_integer("rounds_per_dispatch", 1, text, lower_bound=1, **options)
    if "algorithm" not in without:
        text = f"Federated algorithm, one of {', '.join(algorithms())} (default 'fedavg')."
        flags.DEFINE_string("algorithm", None, text, flag_values=flag_values)
    define_flags(settings, without=("algorithm", *without), by_preset=by_preset, flag_values=flag_values)


def cpu_devices(workdir: str) -> int:
    """The number of CPU devices where no flag says it: that of processors, or of the run that is resumed.

    So the resumed run ends with the same numbers on any machine, without rounding.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        recorded = json.loads((Path(workdir) / "config.json").read_text())["environment"]
        if recorded["backend"] == "cpu" and recorded["devices"]:
            return len(recorded["devices"])
    return min(available_processors(), MOST_DEVICES)


def define_process_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags that make several processes one run."""
    options = {"flag_values": flag_values}
    text = "HOST:PORT at which process 0 listens; empty is one process."
    flags.DEFINE_string("coordinator", "", text, **options)
    flags.DEFINE_integer("processes", 0, "Number of processes, with --coordinator.", **options)
    text = "Number of this process, from 0, with --coordinator."
    flags.DEFINE_integer("process_id", -1, text, **options)
    text = "Take these three from Slurm, Open MPI, Cloud TPU or Kubernetes."
    flags.DEFINE_bool("distributed", False, text, **options)
    text = "Seconds to wait for the other processes at the start."
    flags.DEFINE_integer("start_seconds", 120, text, **options)
    text = "Report a round (or compiling) of several processes that takes longer, with stacks."
    flags.DEFINE_float("stall_seconds", 300, text, lower_bound=1, **options)


def flag_groups(settings: type, flag_values: flags.FlagValues = flags.FLAGS) -> dict[str, list[flags.Flag]]:
    """The flags of a program by group, in the order of ``--helpfull``.

    Args:
      settings: class of the program's settings, whose fields name their groups.
      flag_values: where the flags are defined.
    """
    groups: dict[str, list[flags.Flag]] = {name: [] for name in GROUPS}
    settled = set()
    for field, _ in fields(settings):
        if field.metadata and field.name in flag_values:
            groups[field.metadata["group"]].append(flag_values[field.name])
            settled.add(field.name)
    for group, names in _OF_PROGRAMS.items():
        # One program's flag may be a setting of another.
        groups[group] += [flag_values[name] for name in names if name in flag_values and name not in settled]
    return {name: members for name, members in groups.items() if members}


def with_flag_files(argv: list[str]) -> list[str]:
    """The command line with the lines of ``--flagfile`` in its place; ends as `fail` if there is none."""
    try:
        return [argv[0], *flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=True)]
    except flags.Error as error:
        fail(str(error))
    except UnicodeDecodeError as error:
        fail(f"--flagfile: expected a text file, found {error}")


def read_own_files(argv: list[str]) -> None:
    """Runs the files of ``--methods_from`` and ``--task``, before other flags are checked.

    Ends as `fail` if one is wrong.
    """
    for number, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        value = value if equals else "".join(argv[number + 1 : number + 2])
        try:
            if name in ("--methods_from", "-methods_from"):
                load_methods(value)
            if name in ("--task", "-task") and ":" in value:
                load_task(value)
        except ArgumentError as error:
            fail(str(error))


def parse_flags(
    argv: list[str], *, settings: type, first: Collection[str], groups: Callable[[], Collection[str]] = tuple
) -> Dotted:
    """Parses all flags of a program.

    Args:
      argv: the command line.
      settings: class of the program's settings.
      first: flags that ``--help`` shows.
      groups: what may be before the dot of a flag besides `DOTTED`, once own files were read.
    """
    argv = with_flag_files(argv)
    read_own_files(argv)
    show_help(argv, flag_groups(settings), first)
    return parse(argv, (*DOTTED, *groups()))


def parse(argv: list[str], groups: Collection[str]) -> Dotted:
    """Parses all flags; one line and status 1 for a wrong one."""
    try:
        rest, dotted = split_dotted(argv, groups)
        positional = flags.FLAGS(rest)[1:]
        check_values()
        if positional:
            raise ArgumentError("command line", "only flags, --NAME=VALUE", repr(positional[0]))
    except (flags.Error, ArgumentError) as error:
        fail(str(error))
    return dotted


def given_settings(settings: type, dotted: Dotted) -> dict[str, Any]:
    """The fields that flags set, with the algorithm by its name in the catalog.

    Raises:
      DataError: the manifest in ``--data_dir`` is missing or not as it should be.
    """
    given = given_flags(settings)
    if given.get("methods_from"):
        given["methods_sha256"] = load_methods(given["methods_from"])
    if given.get("initialize_from"):
        given["initialize_sha256"] = initial_digest(given["initialize_from"])
    if ":" in given.get("task", ""):
        given["task_sha256"] = load_task(given["task"])[1]
    own = any(field.name == "data_sha256" for field in dataclasses.fields(settings))
    if own and given.get("data_dir") and given.get("cohort", "folder") == "folder":
        identity = identify_cohort(given["data_dir"], skip_bad=bool(given.get("skip_bad")))
        given["data_sha256"] = identity.sha256
        given["data_labels"] = LABELS.join(identity.labels or ())
        if identity.structures and any(f.name == "data_structures" for f in dataclasses.fields(settings)):
            given["data_structures"] = LABELS.join(identity.structures)
    if "algorithm" in given:
        given["algorithm"] = ALIASES.get(given["algorithm"], given["algorithm"])
    options = {f"{group}_options": dotted.get(group, ()) for group in DOTTED}
    return given | {name: texts for name, texts in options.items() if texts}


@contextlib.contextmanager
def ending_run(workdir: str) -> Iterator[None]:
    """As `fedrecon.runtime.ending`, for programs that may be several processes.

    Args:
      workdir: of the run, which the same command continues.
    """
    try:
        yield
    except KeyboardInterrupt:
        line = f"Interrupted. The same command with --workdir={workdir} continues."
        if jax.distributed.is_initialized():
            print(f"\n{line}", file=sys.stderr)
            leave(130)
        end_interrupted(line)
    except Exception as error:
        if (message := user_message(error)) is not None:
            fail(message)
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        leave(1)


def fail(message: str) -> NoReturn:
    """Ends the program with one line and status 1."""
    if jax.distributed.is_initialized():
        line = f"{program_name()}, process {jax.process_index()}: {' '.join(message.split())}"
        print(line, file=sys.stderr)
        leave(1)
    end_with(message)
