"""Compares reconstruction networks and losses over seeds, beside methods that need no training.

Every network of --networks is trained by every loss of --losses and with every seed, as by
experiments.train_recon: the same data, rounds, steps and rates. --NETWORK.channels=N, .pools and .cascades
are the sizes of one network; --channels, --pools and --cascades those of all others that have them.
Zero-filled images or filtered back-projection, Tikhonov and total variation stand beside them, with weights
that the validation split of each seed chose. PSNR, SSIM and NMSE are means over all test patients; intervals
of 95 % and paired differences to --baseline are over seeds (t distribution).

Each training has a directory of its own, --workdir/NETWORK/LOSS/seed-N; an interrupted comparison continues,
and a finished one is extended by more --networks, --losses or --seeds. The working directory gets
comparison.json, and comparison.md and comparison.png of the PSNR.

  python -m experiments.compare_recon --workdir=runs/networks --preset=smoke --networks=fbpconvnet,varnet
  python -m experiments.compare_recon --workdir=runs/ct --cohort=simulated_ct --seeds=3
      --networks=fbpconvnet,varnet,primal-dual --primal-dual.cascades=8 --optimizer=adam --learning_rate=0.002
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.pipeline import sweep
from experiments.pipeline.cohorts import Split
from experiments.pipeline.federated_data import FederatedData
from experiments.pipeline.federated_settings import BY_PRESET, TrainSettings, check_settings, resolve
from experiments.pipeline.patient_scores import overall, patient_scores
from experiments.pipeline.programs import define_run_flags, ending_run, given_settings, parse_flags
from experiments.pipeline.reconstruction import classical, images_of, physics_of
from fedrecon import reporting
from fedrecon.files import write_atomically
from fedrecon.learned import CheckedNetwork, load_network, make_images
from fedrecon.models import NORMALIZED, POOLED, RECONSTRUCTORS, SIZED, UNROLLED
from fedrecon.runtime import Workdir, describe_environment, run_program, set_cpu_devices
from fedrecon.tasks import RECONSTRUCTION_LOSSES, measure_of
from fedrecon.training import Dotted, FlagError, check_method, flat, rounds_obstacle

# Size -> the networks that have it.
SIZES = {"channels": SIZED, "pools": POOLED, "cascades": UNROLLED}
_HAVE = {**SIZES, "norm": NORMALIZED}
METRICS = ("psnr", "ssim", "nmse")
# Flags that --help shows.
FIRST = ("workdir", "networks", "losses", "seeds", "baseline", "preset", "cohort", "data_dir", "image_size",
         "patients_per_site", "channels", "pools", "cascades", "rounds", "epochs", "optimizer",
         "learning_rate", "json")  # fmt: skip

# Method -> seed -> metric -> mean over patients.
Scores = dict[str, dict[int, dict[str, float]]]


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    options = {"flag_values": flag_values}
    without = ("network", "loss", "task")
    define_run_flags(TrainSettings, without=without, by_preset=BY_PRESET, flag_values=flag_values)
    networks = ["fbpconvnet", "varnet"]
    flags.DEFINE_list("networks", networks, f"Networks, some of {', '.join(RECONSTRUCTORS)}.", **options)
    losses = f"Losses, some of {', '.join(RECONSTRUCTION_LOSSES)}."
    flags.DEFINE_list("losses", ["l1_ssim"], losses, **options)
    flags.DEFINE_string("baseline", "varnet", "The network that others are compared with.", **options)
    flags.DEFINE_integer("seeds", 3, "Number of seeds, from --seed on.", 1, 1000, **options)
    flags.DEFINE_bool("json", False, "Print JSON, nothing else.", **options)


def plan(
    given: Mapping[str, Any], networks: Sequence[str], losses: Sequence[str], dotted: Dotted
) -> dict[str, TrainSettings]:
    """Settings of each network and loss, checked, by the names of their rows.

    Raises:
      ValueError: an unknown name, one given twice, or a size that a network has not.
    """
    for flag, names, known in (
        ("networks", networks, RECONSTRUCTORS),
        ("losses", losses, RECONSTRUCTION_LOSSES),
    ):
        if not names or len(set(names)) != len(names):
            raise FlagError(flag, "distinct names", repr(",".join(names)))
        for name in names:
            if name not in known:
                raise FlagError(flag, f"some of {', '.join(known)}", repr(name))
    planned = {}
    for network in networks:
        own = {}
        for name, text in dotted.get(network, ()):
            if name not in SIZES:
                raise FlagError(f"{network}.{name}", f"one of {', '.join(SIZES)}", repr(name))
            if not text.isdigit() or not int(text):
                raise FlagError(f"{network}.{name}", "a positive integer", repr(text))
            own[name] = int(text)
        for loss in losses:
            shared = {name: value for name, value in given.items() if network in _HAVE.get(name, [network])}
            names = {"task": "reconstruction", "network": network, "loss": loss}
            settings = check_settings(resolve({**shared, **own, **names}))
            check_method(settings.federation, (settings.task,))
            planned[_row(network, loss, losses)] = settings
    for group, found in dotted.items():
        if found and group in RECONSTRUCTORS and group not in networks:
            raise FlagError(f"{group}.NAME", "one of --networks", repr(group))
    return planned


def compare(planned: Mapping[str, TrainSettings], seeds: Sequence[int], folder: Path, **execution) -> Scores:
    """Trains what is not yet trained, and scores all methods with every seed."""
    scores: Scores = {}
    known: set[int] = set()
    for done in sweep.trainings(
        planned,
        seeds,
        lambda row, seed: folder / planned[row].network / planned[row].loss / f"seed-{seed}",
        growing=lambda settings: {"rounds": rounds_obstacle(settings.federation, 1)},
        named="networks",
        **execution,
    ):
        seed, data = done.settings.seed, done.data()
        if seed not in known:
            known.add(seed)
            _score(scores, _classical(data), data, seed)
        _score(scores, {done.point: _by_network(load_network(done.folder), data)}, data, seed)
        mean = scores[done.point][seed]
        print(f"seed {seed}, {done.point}: PSNR {mean['psnr']:.2f} dB, SSIM {mean['ssim']:.3f}", flush=True)
    return scores


def main(dotted: Dotted) -> None:
    values = flags.FLAGS
    with ending_run(values.workdir), sweep.only_json(values.json):
        given = given_settings(TrainSettings, dotted)
        planned = plan(given, values.networks, values.losses, dotted)
        baseline = _row(values.baseline, values.losses[0], values.losses)
        if baseline not in planned:
            raise FlagError("baseline", f"one of {', '.join(values.networks)}", repr(values.baseline))
        set_cpu_devices(values.devices)
        first = next(iter(planned.values()))
        config = {**flat(first), "comparison": True}
        for name in ("network", "loss", "seed", *SIZES):
            config.pop(name, None)
        with Workdir(
            values.workdir,
            config,
            describe_environment(),
            resume=values.resume,
            growing={"rounds": rounds_obstacle(first.federation, 1)},
        ) as workdir:
            sweep.share_programs(workdir.path)
            seeds = sweep.seeds_of(values.seeds, first.seed)
            scores = compare(planned, seeds, workdir.path, **sweep.execution_of(values))
            content = report(scores, baseline, workdir.path)
        if not values.json:
            for metric, digits in (("psnr", 2), ("ssim", 3)):
                rows = _rows(scores, baseline, metric)
                print("\n" + reporting.text_table(rows, metric, baseline, digits))
            print("Means over test patients. Intervals: 95 %, t distribution over seeds.")
    if values.json:
        print(json.dumps(content))


def report(scores: Scores, baseline: str, folder: Path) -> dict[str, Any]:
    """Writes the files of the comparison, and returns what its JSON has."""
    document: dict[str, Any] = {"baseline": baseline, "methods": {}}
    for metric in METRICS:
        for row in _rows(scores, baseline, metric):
            difference = None if row.difference is None else row.difference._asdict()
            found = {
                "seeds": {str(seed): value for seed, value in row.values.items()},
                **row.interval._asdict(),
                "difference": difference,
            }
            document["methods"].setdefault(row.method, {})[metric] = found
    rows = _rows(scores, baseline, "psnr")
    write_atomically(folder / "comparison.md", reporting.markdown_table(rows, "psnr", baseline).encode())
    reporting.save_comparison_plot(folder / "comparison.png", rows, "psnr", baseline)
    return sweep.write_json(folder / "comparison.json", document)


def _row(network: str, loss: str, losses: Sequence[str]) -> str:
    return network if len(losses) == 1 and loss == "l1_ssim" else f"{network}, {loss}"


def _rows(scores: Scores, baseline: str, metric: str) -> list[reporting.ComparisonRow]:
    values = {name: {seed: of[metric] for seed, of in by_seed.items()} for name, by_seed in scores.items()}
    return reporting.compare_values(values, baseline, "released", lower_is_better=metric == "nmse")


def _score(scores: Scores, images: Mapping[str, Any], data: FederatedData, seed: int) -> None:
    tests = {name: (data.test, i) for i, name in enumerate(data.test.names)}
    for method, of in patient_scores(images, tests).items():
        scores.setdefault(method, {})[seed] = {metric: overall(of, metric)["mean"] for metric in METRICS}


def _classical(data: FederatedData) -> dict[str, dict[str, np.ndarray]]:
    tuned = data.validation is not None
    split = Split(data.train, data.validation if tuned else data.test, data.test, None)
    example = data.train.examples
    return classical(measure_of(example), split, physics_of(example), tuned=tuned)[1]


def _by_network(network: CheckedNetwork, data: FederatedData) -> dict[str, np.ndarray]:
    compiled = make_images(network.architecture.build(), measure_of(data.train.examples))
    models = [network.variables] * data.test.clients
    images = images_of(lambda model, batch: jnp.abs(compiled(model, batch)), models, data.test)
    return dict(zip(data.test.names, images, strict=True))


if __name__ == "__main__":
    define_flags()
    run_program(
        main, partial(parse_flags, settings=TrainSettings, first=FIRST, groups=lambda: tuple(RECONSTRUCTORS))
    )
