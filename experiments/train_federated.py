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

from absl import flags

from experiments.pipeline.federated_settings import BY_PRESET, TrainSettings, check_settings, resolve
from experiments.pipeline.programs import (
    define_process_flags,
    define_run_flags,
    ending_run,
    given_settings,
    parse_flags,
)
from experiments.pipeline.training_program import train
from fedrecon.runtime import run_program
from fedrecon.training import Dotted

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
        train(check_settings(resolve(given_settings(TrainSettings, dotted))), values)


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    define_run_flags(TrainSettings, by_preset=BY_PRESET, flag_values=flag_values)
    define_process_flags(flag_values)


if __name__ == "__main__":
    define_flags()
    run_program(main, partial(parse_flags, settings=TrainSettings, first=FIRST))
