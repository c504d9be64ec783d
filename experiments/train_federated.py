"""Trains one task with one federated algorithm, each by its name.

The working directory holds config.json, metrics.jsonl, checkpoints, partition.png and results.json; running
the same command again resumes bit for bit, and shows the results of a finished run. Algorithms:
fedavg, fedavgm, fedadagrad, fedadam, fedyogi, fedprox, fednova, scaffold, feddyn, moon, qfedavg, afl, fedbn,
fedper, fedrep, ditto, pfedme, and the comparators local_only and centralized, at the same budget;
--methods_from=FILE adds those of a Python file (CONTRIBUTING.md), and experiments.methods lists them all.
--algorithm.NAME=VALUE sets a parameter of the algorithm, --reduce.NAME=VALUE one of a robust reducer; an
unknown NAME lists those that there are. docs/faults.md explains --fault, --screen_norm and --screen_cosine;
--topology is star, ring, single_pass, gossip or asynchronous; --stream keeps all but so many clients off the
device.

  python -m experiments.train_federated --workdir=runs/first
  python -m experiments.train_federated --workdir=runs/prox --algorithm=fedprox --algorithm.strength=0.1
      --partition=dirichlet --concentration=0.3 --sampler=uniform --clients_per_round=4
  python -m experiments.train_federated --workdir=runs/retina --task=segmentation --cohort=retina
      --data_dir=DIR --algorithm=fedbn --norm=batch --optimizer=adam --learning_rate=0.003

Several processes, on one machine or many, run the same command with --distributed, or with --coordinator,
--processes and --process_id; see docs/cluster.md.
"""

import dataclasses
import sys
import traceback

import jax
from absl import app, flags, logging

from experiments.pipeline.federated_methods import algorithms, check_method
from experiments.pipeline.federated_run import print_results, run
from experiments.pipeline.federated_settings import CHOICES, HELP, TrainSettings, check_settings
from experiments.pipeline.methods_file import load_methods
from fedrecon.catalog import ALIASES
from fedrecon.runtime import (
    PeerError,
    Watchdog,
    describe_environment,
    is_lead,
    leave,
    open_workdir,
    set_cpu_devices,
    start,
)

Dotted = dict[str, tuple[tuple[str, str], ...]]


def define_flags(*, without: tuple[str, ...] = ()) -> None:
    """Defines the flags of a training; not on import, so that other programs may use their names."""
    defaults = TrainSettings()
    flags.DEFINE_string("workdir", None, "Directory of the run; created when absent.", required=True)
    flags.DEFINE_bool("resume", True, "Continue what is in --workdir; --noresume refuses instead.")
    flags.DEFINE_integer(
        "devices", 1, "CPU devices the clients are spread over; accelerators are all used.", lower_bound=1
    )
    flags.DEFINE_string("parallel", "auto", "How clients run on one device: scan, vmap, a chunk size, auto.")
    flags.DEFINE_integer(
        "rounds_per_dispatch", 1, "Rounds compiled into one call; a kill loses at most one.", lower_bound=1
    )
    for name, text in HELP.items():
        if name in without:
            continue
        value = getattr(defaults, name)
        if name in CHOICES:
            flags.DEFINE_enum(name, value, list(CHOICES[name]), f"{text}.")
        elif isinstance(value, int):
            flags.DEFINE_integer(name, value, f"{text}.")
        elif isinstance(value, float):
            flags.DEFINE_float(name, value, f"{text}.")
        else:
            flags.DEFINE_string(name, value, f"{text}.")


def define_process_flags() -> None:
    """Defines the flags that make several processes one run."""
    flags.DEFINE_string("coordinator", "", "HOST:PORT at which process 0 listens; empty is one process.")
    flags.DEFINE_integer("processes", 0, "Number of processes, with --coordinator.")
    flags.DEFINE_integer("process_id", -1, "Number of this process, from 0, with --coordinator.")
    flags.DEFINE_bool("distributed", False, "Take these three from Slurm, Open MPI, Cloud TPU or Kubernetes.")
    flags.DEFINE_integer("start_seconds", 120, "How long to wait for the other processes at the start.")
    flags.DEFINE_float(
        "stall_seconds",
        300,
        "Report a round (or compiling) of several processes that takes longer, with stacks.",
        lower_bound=1,
    )


def split_dotted(argv: list[str], groups: tuple[str, ...]) -> tuple[list[str], Dotted]:
    """Takes ``--GROUP.NAME=VALUE`` out of the arguments.

    Raises:
      ValueError: the group is unknown, the value is missing, or a name is given twice.
    """
    rest, found = [], {group: {} for group in groups}
    for argument in argv:
        name, equals, value = argument.lstrip("-").partition("=")
        group, dot, option = name.partition(".")
        if not argument.startswith("-") or not dot:
            rest.append(argument)
            continue
        if group not in found:
            raise ValueError(f"--{name}: expected one of {', '.join(groups)} before the dot, found {group!r}")
        if not equals or not option:
            raise ValueError(f"--{name}: expected --{group}.NAME=VALUE, found {argument!r}")
        if option in found[group]:
            raise ValueError(f"--{name}: expected once, found twice")
        found[group][option] = value
    return rest, {group: tuple(sorted(options.items())) for group, options in found.items()}


def read_methods(argv: list[str]) -> None:
    """Runs the file of ``--methods_from``, before other flags are checked; ends as `fail` if it is wrong."""
    for number, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name in ("--methods_from", "-methods_from"):
            try:
                load_methods(value if equals else "".join(argv[number + 1 : number + 2]))
            except ValueError as error:
                fail(str(error))


def parse(argv: list[str], groups: tuple[str, ...]) -> Dotted:
    """Parses all flags; one line and status 1 for a wrong one."""
    try:
        rest, dotted = split_dotted(argv, groups)
        positional = flags.FLAGS(rest)[1:]
        if positional:
            raise ValueError(f"expected only flags, found {positional}")
    except (flags.Error, ValueError) as error:
        fail(str(error))
    return dotted


def parse_flags(argv: list[str]) -> Dotted:
    """Parses all flags of this program."""
    read_methods(argv)
    return parse(argv, ("algorithm", "reduce"))


def fail(message: str) -> None:
    """Ends the program with one line and status 1."""
    program = sys.argv[0].rsplit("/", 1)[-1].removesuffix(".py")
    if jax.distributed.is_initialized():
        line = f"{program}, process {jax.process_index()}: {' '.join(message.split())}"
        print(line, file=sys.stderr)
        leave(1)
    sys.exit(f"{program}: {' '.join(message.split())}")


def settings_from_flags(**given) -> TrainSettings:
    """The settings that the flags hold, with the given fields on top."""
    names = [field.name for field in dataclasses.fields(TrainSettings)]
    values = {name: flags.FLAGS[name].value for name in names if name in flags.FLAGS}
    if values.get("methods_from"):
        values["methods_sha256"] = load_methods(values["methods_from"])
    if "algorithm" in values:
        values["algorithm"] = ALIASES.get(values["algorithm"], values["algorithm"])
    return TrainSettings(**{**values, **given})


def interrupted(workdir: str) -> None:
    """Ends the program after Ctrl-C."""
    print(f"\nInterrupted. The same command with --workdir={workdir} continues.", file=sys.stderr)
    if jax.distributed.is_initialized():
        leave(130)
    sys.exit(130)


def main(dotted: Dotted) -> None:
    values = flags.FLAGS
    logging.set_verbosity(logging.WARNING)
    try:
        settings = settings_from_flags(algorithm_options=dotted["algorithm"], reduce_options=dotted["reduce"])
        check_settings(settings)
        check_method(settings)
        set_cpu_devices(values.devices)
        start(
            values.coordinator,
            values.processes,
            values.process_id,
            automatic=values.distributed,
            start_seconds=values.start_seconds,
        )
        way = {"parallel": values.parallel, "rounds_per_dispatch": values.rounds_per_dispatch}
        with (
            open_workdir(
                values.workdir, settings.config(), describe_environment(), resume=values.resume, way=way
            ) as workdir,
            Watchdog(workdir.path, stall_seconds=values.stall_seconds) as watchdog,
        ):
            outcome = run(settings, workdir, arrive=watchdog.arrive, **way)
        if is_lead():
            print_results(settings, *outcome)
    except (ValueError, PeerError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        interrupted(values.workdir)
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        leave(1)
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


if __name__ == "__main__":
    define_flags()
    define_process_flags()
    flags.DEFINE_string("algorithm", "fedavg", f"One of {', '.join(algorithms())}.")
    app.run(main, flags_parser=parse_flags)
