"""Trains a reconstruction network federatedly, by the names of network, loss and algorithm.

What train_federated is for any task, with --task=reconstruction and --network=varnet unless others are given;
all of its flags are there, and what it writes is the same: network.npz is what experiments.reconstruct
--network and experiments.evaluate_recon take. --network is varnet, conditioned-varnet, e2e-varnet,
recurrent-varnet, modl, ista-net, primal-dual, learned-gradient, variational-network, vsharp,
deep-equilibrium, fbpconvnet or plug-and-play (docs/reconstruction.md). --loss is that of a reference
(l1_ssim, l1, ssim, nmse, complex_l1, kspace_l1), or needs none: ssdu, multi_mask_ssdu, weighted_ssdu,
robust_ssdu and, of CT, noise2inverse predict samples that are held out; sure estimates the error without
noise; equivariant, robust_equivariant and multi_operator measure their own images again.

  python -m experiments.train_recon --workdir=runs/recon --rounds=2
  python -m experiments.train_recon --workdir=runs/recurrent --network=recurrent-varnet --cascades=4
      --channels=16 --optimizer=adam --learning_rate=0.002
  python -m experiments.train_recon --workdir=runs/ssdu --network=modl --loss=ssdu
  python -m experiments.train_recon --workdir=runs/ct --cohort=simulated_ct --network=primal-dual
  python -m experiments.train_recon --workdir=runs/views --cohort=simulated_ct --network=fbpconvnet
      --loss=noise2inverse
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
from fedrecon.training import Dotted, FlagError

# Flags that --help shows.
FIRST = (
    "workdir",
    "preset",
    "network",
    "loss",
    "cascades",
    "channels",
    "cohort",
    "data_dir",
    "rounds",
    "epochs",
    "optimizer",
    "learning_rate",
    "algorithm",
    "dp_epsilon",
    "seed",
)


def main(dotted: Dotted) -> None:
    values = flags.FLAGS
    with ending_run(values.workdir):
        given = given_settings(TrainSettings, dotted)
        if given.get("task", "reconstruction") != "reconstruction":
            raise FlagError("task", "reconstruction; train_federated has the others", given["task"])
        given = {"task": "reconstruction", "network": "varnet"} | given
        train(check_settings(resolve(given)), values)


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    define_run_flags(TrainSettings, by_preset=BY_PRESET, flag_values=flag_values)
    define_process_flags(flag_values)
    flag_values.set_default("network", "varnet")
    flag_values.set_default("task", "reconstruction")


if __name__ == "__main__":
    define_flags()
    run_program(main, partial(parse_flags, settings=TrainSettings, first=FIRST))
