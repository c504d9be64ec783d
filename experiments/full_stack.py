"""Federated reconstruction from raw measurements, then segmentation and classification, in one run.

Several sites, each with its own scanner physics, train an unrolled reconstruction network without sharing
data. It is compared with the zero-filled image, classical reconstructions, networks trained by each site
alone and a network trained on the pooled data. Its encoder is then fine-tuned, again federatedly, to segment
and to classify lesions. The working directory holds config.json, metrics.jsonl, results.json, checkpoints,
figures and report.html; running the same command again resumes.

Algorithms, topologies, faults and privacy are those of train_federated, the same in all three stages.
--algorithm.NAME=VALUE sets a parameter of the algorithm, --reduce.NAME=VALUE one of a robust reducer. Without
--optimizer, clients of algorithms that presume plain gradient descent (scaffold, fednova, qfedavg, pfedme)
take it at the stage's learning rate, and those of algorithms that start optimizers afresh each round (feddyn,
afl, fedrep) take Adam at the rates of adam_cosine.

  python -m experiments.full_stack --workdir=runs/first
  python -m experiments.full_stack --workdir=runs/ct --modality=ct
  python -m experiments.full_stack --workdir=runs/measured --cohort=measured --data_dir=DIR
  python -m experiments.full_stack --workdir=runs/private --algorithm=fedbn --dp.epsilon=8
"""

import shlex
import sys
from functools import partial

from absl import flags

from experiments.pipeline.growth import full_stack_obstacles
from experiments.pipeline.programs import (
    cpu_devices,
    define_run_flags,
    ending_run,
    given_settings,
    parse_flags,
)
from experiments.pipeline.run import run
from experiments.pipeline.settings import BY_PRESET, FullStackSettings, resolve
from experiments.pipeline.start import with_start
from fedrecon.runtime import Workdir, describe_environment, run_program, set_cpu_devices
from fedrecon.training import Dotted, flat, naming_the_line
from operators.kernels import native

# Flags that --help shows.
FIRST = (
    "workdir",
    "preset",
    "cohort",
    "data_dir",
    "modality",
    "sites",
    "rounds",
    "network",
    "algorithm",
    "dp_epsilon",
    "seed",
    "devices",
)


def main(dotted: Dotted) -> None:
    values = flags.FLAGS
    with ending_run(values.workdir):
        settings = with_start(resolve(given_settings(FullStackSettings, dotted)))
        set_cpu_devices(values.devices or cpu_devices(values.workdir))
        native.prepare("convolution", "projector" if settings.modality == "ct" else "nufft")
        with (
            naming_the_line(settings.federation.methods_from),
            Workdir(
                values.workdir,
                flat(settings),
                describe_environment(),
                resume=values.resume,
                growing=full_stack_obstacles(settings, values.workdir, values.rounds_per_dispatch),
            ) as workdir,
        ):
            run(
                settings,
                workdir,
                parallel=values.parallel,
                rounds_per_dispatch=values.rounds_per_dispatch,
                command=shlex.join(["python", "-m", "experiments.full_stack", *sys.argv[1:]]),
            )


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    define_run_flags(FullStackSettings, by_preset=BY_PRESET, devices=None, flag_values=flag_values)


if __name__ == "__main__":
    define_flags()
    run_program(main, partial(parse_flags, settings=FullStackSettings, first=FIRST))
