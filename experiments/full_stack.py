"""Federated reconstruction from raw measurements, then segmentation and classification, in one run.

Several sites, each with its own scanner physics, train an unrolled reconstruction network without sharing
data. It is compared with the zero-filled image, classical reconstructions, networks trained by each site
alone and a network trained on the pooled data. Its encoder is then fine-tuned, again federatedly, to segment
and to classify lesions. The working directory holds config.json, metrics.jsonl, results.json, checkpoints,
figures and report.html; running the same command again resumes.

  python -m experiments.full_stack --workdir=runs/first
  python -m experiments.full_stack --workdir=runs/ct --modality=ct
  python -m experiments.full_stack --workdir=runs/measured --cohort=measured --data_dir=DIR
"""

import dataclasses
import sys

from absl import app, flags, logging

from experiments.pipeline.run import run
from experiments.pipeline.settings import Settings, resolve
from fedrecon.runtime import Workdir, describe_environment, set_cpu_devices
from operators.kernels import native

_PRESET = "(default: the preset's value)."

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run; created when absent.", required=True)
_RESUME = flags.DEFINE_bool(
    "resume", True, "Continue the run found in --workdir; --noresume refuses instead."
)
_DEVICES = flags.DEFINE_integer(
    "devices",
    1,
    "Number of CPU devices the clients are spread over; accelerators are all used.",
    lower_bound=1,
)
_PARALLEL = flags.DEFINE_string(
    "parallel",
    "auto",
    "How clients run on one device: scan, vmap, a chunk size, or auto for the backend's best.",
)
_ROUNDS_PER_DISPATCH = flags.DEFINE_integer(
    "rounds_per_dispatch", 1, "Rounds compiled into one call; a kill loses at most one call.", lower_bound=1
)

flags.DEFINE_enum("modality", "mri", ["mri", "ct"], "Physics of the simulated cohort.")
flags.DEFINE_enum(
    "cohort",
    "simulated",
    ["simulated", "measured", "real"],
    "Simulated sites, or measured data in --data_dir (real means the same).",
)
flags.DEFINE_enum(
    "preset",
    "default",
    ["default", "full", "smoke"],
    "Sizes: minutes, half an hour, or a short trial.",
)
flags.DEFINE_string("data_dir", "", "Folder with mri/ and multisite/ files, for --cohort=measured.")
flags.DEFINE_integer("seed", 0, "Seed of the cohort, the initial weights and the training.")
flags.DEFINE_enum("algorithm", "fedavg", ["fedavg", "fedbn"], "Federated algorithm.")
flags.DEFINE_enum(
    "network",
    None,
    ["modl", "varnet"],
    f"Reconstruction network: the data term is minimised, or descended by one step, in a cascade {_PRESET}",
)

for _name, _help in {
    "sites": "Number of simulated sites",
    "patients_per_site": "Mean number of simulated patients at a site",
    "slices": "Slices of a simulated patient",
    "image_size": "Matrix size of the simulated images",
    "masks_per_slice": "Training masks drawn for each measured slice",
    "clients_per_round": "Clients sampled in a round; 0 takes all",
    "epochs": "Local epochs in a reconstruction round",
    "batch_size": "Slices in a local step of the reconstruction",
    "rounds": "Reconstruction rounds",
    "cascades": "Cascades of the reconstruction network",
    "channels": "Channels of its regulariser at full resolution",
    "pools": "Poolings of its regulariser",
    "finetune_rounds": "Rounds of segmentation and of classification",
    "finetune_epochs": "Local epochs in one of those rounds",
    "finetune_batch_size": "Examples in a local step of those rounds",
    "dp_batch_size": "Expected size of the Poisson-sampled batches of all stages under --dp_epsilon",
    "finetune_channels": "Channels of the segmentation and classification encoder",
    "finetune_pools": "Poolings of that encoder",
    "shrink": "Factor by which measured segmentation and classification images are averaged down: 1, 2 or 4",
    "matrix": "Common matrix of measured k-space; below a site's own it loses resolution, 0 is the largest",
}.items():
    flags.DEFINE_integer(_name, None, f"{_help} {_PRESET}")

for _name, _help in {
    "acceleration": "Undersampling factor of the k-space lines",
    "clip_norm": "Largest l2 norm of a client's update in the channel; 0 does not clip",
    "learning_rate": "Peak learning rate of the reconstruction",
    "finetune_learning_rate": "Peak learning rate of segmentation and classification",
    "dp_epsilon": "Example-level privacy budget of each site's training (DP-SGD); 0 trains without",
    "dp_delta": "Delta of that budget; 0 takes 1 / n^1.1 of the smallest site",
    "dp_clipping_norm": "Clipping norm of the per-example gradients under --dp_epsilon",
}.items():
    flags.DEFINE_float(_name, None, f"{_help} {_PRESET}")

for _name, _help in {
    "comparators": "Also train local-only and centralised reconstruction networks",
    "finetune_comparators": "Also train local-only segmentation and classification networks",
    "learn_coil_maps": "Refine the coil sensitivities inside the network",
}.items():
    flags.DEFINE_bool(_name, None, f"{_help} {_PRESET}")


def _settings_from_flags() -> Settings:
    names = [field.name for field in dataclasses.fields(Settings)]
    return resolve({name: flags.FLAGS[name].value for name in names if flags.FLAGS[name].value is not None})


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"expected only flags, found {argv[1:]}")
    logging.set_verbosity(logging.WARNING)
    try:
        settings = _settings_from_flags()
        set_cpu_devices(_DEVICES.value)
        native.prepare("convolution", "projector" if settings.modality == "ct" else "nufft")
        with Workdir(
            _WORKDIR.value, dataclasses.asdict(settings), describe_environment(), resume=_RESUME.value
        ) as workdir:
            run(settings, workdir, parallel=_PARALLEL.value, rounds_per_dispatch=_ROUNDS_PER_DISPATCH.value)
    except ValueError as error:
        sys.exit(f"full_stack: {error}")
    except KeyboardInterrupt:
        print(
            f"\nInterrupted. The same command with --workdir={_WORKDIR.value} continues the run.",
            file=sys.stderr,
        )
        sys.exit(130)


if __name__ == "__main__":
    app.run(main)
