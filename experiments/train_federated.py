"""Trains one task with one federated algorithm, each by its name.

The working directory holds config.json, metrics.jsonl, checkpoints, partition.png and results.json; running
the same command again resumes bit for bit, and shows the results of a finished run. experiments.methods lists
the algorithms, the comparators local_only and centralized among them; --methods_from=FILE adds those of a
Python file (CONTRIBUTING.md). --algorithm.NAME=VALUE sets a parameter of the algorithm, --reduce.NAME=VALUE
one of a robust reducer, --codec.NAME=VALUE one of a codec; an unknown NAME lists those that there are.
docs/faults.md explains --fault, --screen_norm and --screen_cosine, docs/privacy.md --dp.NAME and
--secure_aggregation; --topology is star, ring, single_pass, gossip or asynchronous; --stream bounds the
number of clients on the device at a time.

  python -m experiments.train_federated --workdir=runs/first
  python -m experiments.train_federated --workdir=runs/prox --algorithm=fedprox --algorithm.strength=0.1
      --partition=dirichlet --concentration=0.3 --sampler=uniform --clients_per_round=4
  python -m experiments.train_federated --workdir=runs/retina --task=segmentation --cohort=retina
      --data_dir=DIR --algorithm=fedbn --norm=batch --optimizer=adam --learning_rate=0.003

Several processes, on one machine or many, run the same command with --distributed, or with --coordinator,
--processes and --process_id; see docs/cluster.md.
"""

from functools import partial

import jax
from absl import flags

from experiments.pipeline.federated_run import print_baselines, print_results, run
from experiments.pipeline.federated_settings import BY_PRESET, TrainSettings, check_settings, resolve
from experiments.pipeline.learning_curves import save_learning_curves
from experiments.pipeline.programs import (
    define_process_flags,
    define_run_flags,
    ending_run,
    given_settings,
    parse_flags,
)
from fedrecon.runtime import (
    Watchdog,
    describe_environment,
    is_lead,
    open_workdir,
    run_program,
    set_cpu_devices,
    start,
)
from fedrecon.training import Dotted, check_method, flat, rounds_obstacle

# Flags that --help shows.
FIRST = (
    "workdir",
    "preset",
    "task",
    "cohort",
    "data_dir",
    "partition",
    "clients",
    "rounds",
    "learning_rate",
    "algorithm",
    "sampler",
    "clients_per_round",
    "dp_epsilon",
    "seed",
    "devices",
)


def main(dotted: Dotted) -> None:
    values = flags.FLAGS
    with ending_run(values.workdir):
        settings = check_settings(resolve(given_settings(TrainSettings, dotted)))
        check_method(settings.federation, (settings.task,))
        set_cpu_devices(values.devices)
        start(
            values.coordinator,
            values.processes,
            values.process_id,
            automatic=values.distributed,
            start_seconds=values.start_seconds,
        )
        obstacle = rounds_obstacle(settings.federation, values.rounds_per_dispatch)
        execution = {"parallel": values.parallel, "rounds_per_dispatch": values.rounds_per_dispatch}
        with (
            open_workdir(
                values.workdir,
                flat(settings),
                describe_environment(),
                resume=values.resume,
                growing={"rounds": obstacle},
                execution=execution,
            ) as workdir,
            Watchdog(workdir.path, stall_seconds=values.stall_seconds) as watchdog,
        ):
            outcome = run(settings, workdir, report_stage=watchdog.report_stage, baselines=True, **execution)
            if is_lead():
                save_learning_curves(workdir.path)
        if is_lead():
            print_results(settings, *outcome)
            print_baselines(workdir)
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    define_run_flags(TrainSettings, by_preset=BY_PRESET, flag_values=flag_values)
    define_process_flags(flag_values)


if __name__ == "__main__":
    define_flags()
    run_program(main, partial(parse_flags, settings=TrainSettings, first=FIRST))
