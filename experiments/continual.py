"""Trains one block after another while sites, data and scanners come and go; measures what is forgotten.

A stream is told by --scenario, or by --blocks: "a,b; +c; -a*5; all:2/3" trains a and b, then c joins, then a
leaves for 5 rounds, then all sites have the second third of their patients; NAME~1 is a site with another
scanner. Every block goes on from the one before: with the server's model and optimizer, and with what members
keep of their own; who is new gets the whole model. After each block the model is scored on the test data of
all of them. Rows are --algorithm, ewc and lwf, which remember earlier blocks, and the comparators joint (all
blocks so far, from the initial weights) and alone (each block by itself); or --methods. --METHOD.NAME=VALUE
sets a parameter of one.

  python -m experiments.continual --workdir=runs/stream --preset=smoke --clients=4 --scenario=sites_arrive
  python -m experiments.continual --workdir=runs/hearts --task=segmentation --cohort=retina --data_dir=DIR
      --blocks="DRIVE; +CHASE_DB1; +STARE" --seeds=3 --json

With --without=SITE the first method's stream is also trained as if the site had never been there, from the
last checkpoint before it joined: bit for bit what a training without it gives. A longer --blocks continues a
finished stream with other members. Every block has a directory of its own, --workdir/METHOD/seed-N/block-K,
and resumes; other flags are those of experiments.train_federated.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from experiments.pipeline import streams, sweep
from experiments.pipeline.federated_data import load_data
from experiments.pipeline.federated_run import with_seed
from experiments.pipeline.federated_settings import BY_PRESET, TrainSettings, resolve
from experiments.pipeline.programs import define_run_flags, ending_run, given_settings, parse_flags
from fedrecon.reporting import format_table, plot_streams
from fedrecon.runtime import run_program, set_cpu_devices
from fedrecon.training import Dotted, Execution, FlagError, algorithms, choose_parallel
from fedrecon.training.streams import parse_blocks, without_site

FIRST = ("workdir", "scenario", "blocks", "methods", "seeds", "without", "preset", "task", "cohort",
         "data_dir", "clients", "rounds", "algorithm", "json")  # fmt: skip
_FIGURES = {
    "final": "all blocks, at the end",
    "learned": "each block, after it",
    "backward": "BWT",
    "forgetting": "forgetting",
    "forward": "FWT",
}


def table(found: dict[str, Any]) -> str:
    """Rows of methods: the figures of the stream, and each block's score at the end."""
    blocks = found["blocks"]
    header = [found["metric"], *_FIGURES.values(), *(f"block {t + 1}" for t in range(len(blocks))), "MB up"]
    rows = []
    for name, row in found["methods"].items():
        cells = [_shown(row["transfer"].get(figure)) for figure in _FIGURES]
        scores = row["scores"]
        last = [scores[t][t] for t in range(len(blocks))] if name == "alone" else scores[-1]
        rows.append([name, *cells, *map(_number, last), f"{row['bytes_up'] / 1e6:.2f}"])
    lines = [format_table(header, rows), ""]
    lines += [f"block {t + 1}: {text}" for t, text in enumerate(blocks)]
    lines.append(
        "BWT: change of earlier blocks since they were learned. FWT: a block's score right before it, less "
        "the untrained model's. alone: each block's own model."
    )
    if "without" in found:
        removed = found["without"]
        lines.append(
            f"Without {removed['site']}: {removed['rounds_replayed']} rounds replayed from {removed['from']} "
            f"({removed['rounds_kept']} kept); all blocks at the end {_shown(removed['transfer']['final'])}"
        )
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"


def _shown(figure: dict[str, float | None] | None) -> str:
    if figure is None or figure["mean"] is None:
        return "–"
    half = "" if figure["half_width"] is None else f" ± {figure['half_width']:.3f}"
    return f"{figure['mean']:.3f}{half}"


def main(dotted: Dotted) -> None:
    values = flags.FLAGS
    with ending_run(values.workdir):
        base = resolve(given_settings(TrainSettings, dotted))
        planned = streams.plan_methods(base, values.methods, dotted)
        set_cpu_devices(values.devices)
        folder = Path(values.workdir)
        sweep.share_programs(folder)
        execution = Execution(choose_parallel(values.parallel), values.rounds_per_dispatch)
        with sweep.only_json(values.json):
            document = trained(base, planned, folder, execution)
            document = sweep.write_json(folder / "continual.json", document)
            sweep.save_figure(folder / "continual.png", figure(document))
        print(json.dumps(document) if values.json else "\n" + table(document))


def trained(
    base: TrainSettings, planned: dict[str, TrainSettings], folder: Path, execution: Execution
) -> dict[str, Any]:
    """Trains what is not yet trained; the document of all methods."""
    values = flags.FLAGS
    first = next((name for name in planned if name not in streams.COMPARATORS), "")
    runs: dict[str, list[streams.Run]] = {name: [] for name in planned}
    removed: list[tuple[streams.Run, dict[str, Any]]] = []
    plan, metric = None, ""
    for seed in sweep.seeds_of(values.seeds, base.seed):
        data = load_data(with_seed(base, seed))
        text = values.blocks or streams.scenario_text(values.scenario, data.train.names)
        blocks = parse_blocks(text, data.train.names)
        plan = streams.Plan(planned, blocks, values.scanner_shift, values.keep_left, values.metric)
        if values.without:
            if not first:
                raise FlagError("methods", "one that learns in turn, with --without", ",".join(planned))
            without_site(blocks, values.without)
        for name in planned:
            place = folder / name / f"seed-{seed}"
            runs[name].append(streams.trained(plan, name, data, seed, place, execution))
            print(f"{name}, seed {seed}: {_number(runs[name][-1].scores[-1].mean())}", flush=True)
        metric = streams.metric_of(base.task, runs[next(iter(planned))][0].domains[0], values.metric)
        if values.without:
            place = folder / first / f"seed-{seed}"
            removed.append(streams.replayed(plan, first, data, seed, place, values.without, execution))
    assert plan is not None
    document = {
        "metric": metric,
        "blocks": [str(block) for block in plan.blocks],
        "methods": {n: streams.summarized(metric, n, runs[n]) for n in planned},
    }
    if removed:
        own = streams.summarized(metric, first, [run for run, _ in removed])
        document["without"] = removed[0][1] | {"method": first} | own
    return document


def figure(found: dict[str, Any]) -> Any:
    """A panel of each method that learns in turn: each block's score after every block."""
    shown = {n: row["scores"] for n, row in found["methods"].items() if n not in streams.COMPARATORS}
    lines = {}
    if joint := found["methods"].get("joint"):
        lines["joint, all blocks"] = joint["transfer"]["final"]["mean"]
    return plot_streams(shown or {"joint": found["methods"]["joint"]["scores"]}, found["metric"], lines)


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    options = {"flag_values": flag_values}
    define_run_flags(TrainSettings, by_preset=BY_PRESET, flag_values=flag_values)
    text = "Blocks of all sites: sites arrive one by one, each has a third of its patients in turn, scanners "
    text += "are replaced, the last site leaves and returns, or each site is alone in turn (once, or in two "
    text += "cycles)."
    flags.DEFINE_enum("scenario", "sites_arrive", streams.SCENARIOS, text, **options)
    text = "Blocks of members instead, such as 'a,b; +c; -a*5; all:2/3'; see the program's --help."
    flags.DEFINE_string("blocks", "", text, **options)
    text = "Rows; by default --algorithm, ewc, lwf (not of a reconstruction), joint and alone."
    flags.DEFINE_list("methods", [], text, **options)
    text = "Figure by which blocks are compared; by default the task's first, or the loss of an own task."
    flags.DEFINE_string("metric", "", text, **options)
    flags.DEFINE_integer("seeds", 1, "Number of seeds, from --seed on.", 1, 1000, **options)
    text = "A site that the first method's stream is also trained without, as if it had never been there."
    flags.DEFINE_string("without", "", text, **options)
    text = "Strength of the gain, gamma, noise and blur of scanners that replace others (NAME~1)."
    flags.DEFINE_float("scanner_shift", 0.7, text, 0, **options)
    text = "Sites that are away keep their own states for their return; --nokeep_left drops them."
    flags.DEFINE_bool("keep_left", True, text, **options)
    flags.DEFINE_bool("json", False, "Print JSON.", **options)


if __name__ == "__main__":
    define_flags()
    run_program(main, partial(parse_flags, settings=TrainSettings, first=FIRST, groups=algorithms))
