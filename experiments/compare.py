"""Compares federated algorithms over seeds, with 95 % confidence intervals and paired differences to FedAvg.

A seed sets the data (of simulated cohorts), the partition, the initial weights, the batches and the samples
of clients; they are the same for all methods, so differences are taken seed by seed. Every training has a
directory of its own, --workdir/METHOD/seed-N, as in train_federated: an interrupted comparison continues,
and a finished one is extended by more --methods or --seeds. The working directory gets comparison.csv, .json,
.tex, .md and .png. Intervals are by the t distribution and are not corrected for the number of methods. The
comparators local_only and centralized ignore flags about what is exchanged (--reduce, --weighting,
--topology, --server_optimizer, --fault and the like), and centralized none of --sampler and --stream.
--METHOD.NAME=VALUE sets a parameter of one method. --methods_from=FILE adds the methods of a Python file.

  python -m experiments.compare --workdir=runs/compare --methods=fedavg,fedprox,scaffold,local_only
      --seeds=5 --partition=dirichlet --concentration=0.3 --fedprox.strength=0.1
"""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from experiments.pipeline import sweep
from experiments.pipeline.federated_data import FederatedData, load_data, pad_examples
from experiments.pipeline.federated_run import METRICS, metrics_of, with_seed
from experiments.pipeline.federated_settings import BY_PRESET, TrainSettings, check_settings, resolve
from experiments.pipeline.programs import (
    DOTTED,
    define_run_flags,
    ending_run,
    given_settings,
    parse_flags,
)
from fedrecon import reporting
from fedrecon.catalog import ALIASES
from fedrecon.files import write_atomically
from fedrecon.runtime import Workdir, describe_environment, run_program, set_cpu_devices
from fedrecon.tasks import lower_is_better
from fedrecon.training import (
    Dotted,
    FlagError,
    algorithms,
    changed,
    check_method,
    comparator,
    flat,
    is_finished,
    method,
    rounds_obstacle,
    summary,
)

# Flags that --help shows.
# Groups of dotted flags that all methods share.
SHARED = tuple(group for group in DOTTED if group != "algorithm")
FIRST = ("workdir", "methods", "seeds", "baseline", "metric", "preset", "task", "cohort", "data_dir",
         "partition", "clients", "rounds", "learning_rate", "devices")  # fmt: skip


def plan(base: TrainSettings, methods: list[str], dotted: Dotted) -> dict[str, TrainSettings]:
    """Settings of each method, checked.

    Raises:
      ValueError: a method is unknown or given twice, or its settings do not fit.
    """
    dotted = _by_catalog_name(dotted)
    methods = [ALIASES.get(name, name) for name in methods]
    if not methods or len(set(methods)) != len(methods):
        raise FlagError("methods", "distinct algorithms", repr(",".join(methods)))
    for name in methods:
        if name not in algorithms():
            raise FlagError("methods", f"some of {', '.join(algorithms())}", repr(name))
    for name, options in dotted.items():
        if options and name not in (*methods, *SHARED):
            raise FlagError(f"{name}.NAME", "one of --methods", repr(name))
    planned = {}
    for name in methods:
        shared = {f"{group}_options": dotted.get(group, ()) for group in SHARED}
        federation = changed(base.federation, algorithm=name, **shared)
        if not method(name).exchanges:
            federation = comparator(federation, name)
        federation = changed(federation, algorithm_options=dotted[name])
        settings = check_settings(changed(base, federation=federation))
        try:
            check_method(settings.federation, (settings.task,))
        except FlagError as error:
            raise error.renamed("algorithm", name) from error
        planned[name] = settings
    return planned


def compare(
    planned: dict[str, TrainSettings],
    seeds: list[int],
    workdir: Workdir,
    *,
    baseline: str,
    metric: str,
    worst: bool = False,
    **execution,
) -> list[reporting.ComparisonRow]:
    """Runs what is not yet run, and writes the tables and the figure.

    Args:
      planned: settings of each method.
      seeds: of the trainings.
      workdir: of the comparison.
      baseline: differences are taken to this method.
      metric: a figure of the task.
      worst: compares the worst client of each training, not the mean of the clients.
      **execution: ``parallel`` and ``rounds_per_dispatch`` as in `run`.
    """
    own: dict[str, dict[int, float]] = {name: {} for name in planned}
    released: dict[str, dict[int, float]] = {name: {} for name in planned}
    unseen: dict[str, dict[int, float]] = {name: {} for name in planned}
    data = _load(planned, seeds, workdir)
    for done in sweep.trainings(
        planned,
        seeds,
        partial(_path, workdir),
        load=lambda settings: data[settings.seed],
        growing=lambda settings: _growing(settings, execution),
        named="algorithm",
        **execution,
    ):
        name, seed, results, cost = done.point, done.settings.seed, done.results, done.cost
        if metric not in (known := metrics_of(done.settings.task, results)):
            raise FlagError("metric", f"one of {', '.join(known)}", repr(metric))
        mean, lowest = summary(results.own, metric)
        own[name][seed] = lowest if worst else mean
        if results.released:
            released[name][seed] = summary(results.released, metric)[worst]
        if results.unseen:
            unseen[name][seed] = summary(results.unseen, metric)[worst]
        compiled = "none" if cost.compile_seconds is None else f"{cost.compile_seconds:.1f} s"
        print(
            f"seed {seed}, {name}: {metric} {mean:.4f}, worst client {lowest:.4f}, "
            f"compiling {compiled}, {cost.rounds_per_second:.2f} rounds/s, "
            f"{(results.bytes_up + results.bytes_down) / 1e6:.1f} MB",
            flush=True,
        )
    lower = lower_is_better(metric)
    rows = reporting.compare_values(own, baseline, "own", lower_is_better=lower)
    for kind, found in (("released", released), ("unseen site", unseen)):
        there = {name: values for name, values in found.items() if values}
        rows += reporting.compare_values(there, baseline, kind, lower_is_better=lower)
    write_atomically(workdir / "comparison.tex", reporting.latex_table(rows, metric, baseline).encode())
    write_atomically(workdir / "comparison.md", reporting.markdown_table(rows, metric, baseline).encode())
    reporting.write_csv(workdir / "comparison.csv", rows, metric)
    objects = [_as_object(row) for row in rows]
    document = {"metric": metric, "baseline": baseline, "worst": worst, "rows": objects}
    sweep.write_json(workdir / "comparison.json", document)
    if any(not math.isnan(row.interval.mean) for row in rows):
        reporting.save_comparison_plot(workdir / "comparison.png", rows, metric, baseline)
    return rows


def _as_object(row: reporting.ComparisonRow) -> dict[str, Any]:
    difference = None if row.difference is None else row.difference._asdict()
    return row._asdict() | {"interval": row.interval._asdict(), "difference": difference}


def _by_catalog_name(dotted: Dotted) -> Dotted:
    """Options under the catalog's spelling of each method."""
    aliased = {
        name: (*dotted.get(name, ()), *dotted.get(alias, ()))
        for alias, name in ALIASES.items()
        if dotted.get(alias)
    }
    return {name: options for name, options in dotted.items() if name not in ALIASES} | aliased


def _growing(settings: TrainSettings, execution: Mapping[str, Any]) -> dict[str, str]:
    return {"rounds": rounds_obstacle(settings.federation, execution.get("rounds_per_dispatch", 1))}


def _path(workdir: Workdir, name: str, seed: int) -> Path:
    return workdir / name / f"seed-{seed}"


def _load(planned: dict[str, TrainSettings], seeds: list[int], workdir: Workdir) -> dict[int, FederatedData]:
    """The data of every seed that has an unfinished training, in arrays of the same shapes."""
    first = next(iter(planned.values()))
    data = {
        seed: load_data(with_seed(first, seed))
        for seed in seeds
        if not all(
            is_finished(_path(workdir, name, seed), settings.rounds) for name, settings in planned.items()
        )
    }
    parts = [
        part
        for part in ("train", "validation", "test")
        if getattr(next(iter(data.values()), None), part, None)
    ]
    widths = {part: max(getattr(d, part).valid.shape[1] for d in data.values()) for part in parts}
    return {seed: pad_examples(d, **widths) for seed, d in data.items()}


def main(dotted: Dotted) -> None:
    values = flags.FLAGS
    with ending_run(values.workdir):
        base = resolve(given_settings(TrainSettings, {}))
        planned = plan(base, values.methods, dotted)
        baseline = ALIASES.get(values.baseline, values.baseline)
        if baseline not in planned:
            raise FlagError("baseline", f"one of --methods={','.join(planned)}", repr(values.baseline))
        metric = values.metric or METRICS.get(base.task, ("loss",))[0]
        if base.task in METRICS and metric not in METRICS[base.task]:
            raise FlagError("metric", f"one of {', '.join(METRICS[base.task])}", repr(metric))
        set_cpu_devices(values.devices)
        config = {**flat(base), "comparison": True}
        for name in ("algorithm", "seed"):
            del config[name]
        seeds, execution = sweep.seeds_of(values.seeds, base.seed), sweep.execution_of(values)
        growing = {"rounds": max(_growing(settings, execution)["rounds"] for settings in planned.values())}
        with Workdir(
            values.workdir, config, describe_environment(), resume=values.resume, growing=growing
        ) as workdir:
            sweep.share_programs(workdir.path)
            rows = compare(
                planned,
                seeds,
                workdir,
                baseline=baseline,
                metric=metric,
                worst=values.worst,
                **execution,
            )
        print("\n" + reporting.text_table(rows, metric, baseline))
        print(
            f"{metric}: {'worst client' if values.worst else 'mean of the clients'} on its own test examples."
        )
        print("Intervals: 95 %, t distribution over seeds, not corrected for the number of methods.")


def dotted_methods() -> tuple[str, ...]:
    """Methods whose parameters flags may set."""
    return (*algorithms(), *ALIASES)


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    options = {"flag_values": flag_values}
    define_run_flags(TrainSettings, without=("algorithm",), by_preset=BY_PRESET, flag_values=flag_values)
    methods = ["fedavg", "fedprox", "scaffold", "local_only", "centralized"]
    flags.DEFINE_list("methods", methods, f"Algorithms, some of {', '.join(algorithms())}.", **options)
    flags.DEFINE_integer("seeds", 5, "Number of seeds, from --seed on.", 1, 1000, **options)
    flags.DEFINE_string("baseline", "fedavg", "The method that others are compared with.", **options)
    text = "Compare the worst client of each training, not the mean of the clients."
    flags.DEFINE_bool("worst", False, text, **options)
    flags.DEFINE_string(
        "metric",
        "",
        "Figure to compare; by default the task's first, or the loss of an own task.",
        **options,
    )


if __name__ == "__main__":
    define_flags()
    run_program(main, partial(parse_flags, settings=TrainSettings, first=FIRST, groups=dotted_methods))
