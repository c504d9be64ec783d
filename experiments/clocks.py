"""Compares finished trainings with a simulated clock: seconds and bytes to a score, and whose data counted.

Each of --runs is the directory of an experiments.train_federated (or a stage of another program) with --clock
or --topology=asynchronous; the first is what the others are measured by, usually --clock=wait. The score is
the mean over sites of --metric on the validation split, or where there is none of the training. It counts as
reached at --part of the best score of the first run, of a loss at that part of its fall. The bias of a client
is its share of the weights in all means over its share of the examples. Of asynchronous trainings the
staleness, server steps that updates missed, is given as a mean and in JSON as counts of updates.

  python -m experiments.train_federated --workdir=runs/wait --clock=wait --clock.speed_spread=1
  python -m experiments.train_federated --workdir=runs/late --clock=deadline --clock.speed_spread=1
  python -m experiments.clocks --runs=runs/wait,runs/late --output=runs/clocks.png
"""

import collections
import json
import math
from pathlib import Path
from typing import Any

from absl import flags
from matplotlib.figure import Figure

from fedrecon.errors import ArgumentError
from fedrecon.evaluation import target_score, time_to
from fedrecon.reporting import format_table
from fedrecon.runtime import ending, read_log, run_program
from fedrecon.tasks import lower_is_better


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_list(
        "runs", None, "Directories of trainings, the first of which sets the target.", required=True
    )
    flags.DEFINE_string("stage", "", "Name of the training in the log; the first one by default.")
    flags.DEFINE_string("metric", "loss", "Score, of the validation split or else of the training.")
    flags.DEFINE_float("part", 0.95, "Part of the first run's best score that is to be reached.", 0, 1)
    flags.DEFINE_string("output", None, "Figure to be written, of scores over the clock.")
    flags.DEFINE_bool("json", False, "Print JSON.")


def read_run(folder: Path, stage: str, metric: str) -> dict[str, Any]:
    """What a run's log and ``clock.json`` say.

    Returns:
      "rounds", "clock" (seconds at the end of each), "bytes" (until then), "score" (NaN where there is none),
      "sites" (the last scores), "bias" and "seconds" by client; the latter two empty without ``clock.json``;
      "staleness" (server steps -> updates that missed as many; empty of trainings that wait).

    Raises:
      ArgumentError: there is no such training, or it had no clock, or no such metric.
    """
    records = read_log(folder / "metrics.jsonl")
    stage = stage or (records[0]["stage"] if records else "")
    records = [record for record in records if record["stage"] == stage]
    if not records or "clock" not in records[0]:
        expected = "directories of trainings with --clock or --topology=asynchronous"
        raise ArgumentError("--runs", expected, f"{folder}, stage {stage!r}")
    scored = [record.get("validation", {}) for record in records]
    validated = any(metric in values for sites in scored for values in sites.values())
    score, sites, total, sent = [], {}, 0, []
    for record, validation in zip(records, scored, strict=True):
        total += record["bytes_up"] + record["bytes_down"]
        sent.append(total)
        found = {
            site: values[metric] for site, values in validation.items() if values.get(metric) is not None
        }
        sites = found or sites
        values = [value for value in found.values() if math.isfinite(value)]
        own = None if validated else record.get(metric)
        score.append(sum(values) / len(values) if values else float("nan") if own is None else float(own))
    if not any(math.isfinite(value) for value in score):
        known = sorted({name for values in scored[-1].values() for name in values})
        raise ArgumentError("--metric", f"one of {', '.join(known) or 'loss'}", repr(metric))
    file = folder / "clock.json"
    clients = json.loads(file.read_text()).get(stage, {}).get("clients", {}) if file.exists() else {}
    stale: collections.Counter[int] = collections.Counter()
    for record in records:
        stale.update({int(steps): number for steps, number in record.get("staleness_counts", {}).items()})
    return {
        "rounds": len(records),
        "clock": [record["clock"] for record in records],
        "bytes": sent,
        "score": score,
        "sites": sites,
        "bias": {name: row["bias"] for name, row in clients.items() if row["bias"] is not None},
        "seconds": {name: row["seconds"] for name, row in clients.items() if row["seconds"] is not None},
        "staleness": dict(sorted(stale.items())),
    }


def compare(runs: dict[str, dict[str, Any]], metric: str, part: float) -> dict[str, Any]:
    """The document of all runs, by name in their order; the first sets the target."""
    lower = lower_is_better(metric)
    target = target_score(next(iter(runs.values()))["score"], part, lower=lower)
    rows = {}
    for name, run in runs.items():
        scores = [value for value in run["score"] if math.isfinite(value)]
        seconds = time_to(run["clock"], run["score"], target, lower=lower)
        sent = time_to(run["bytes"], run["score"], target, lower=lower)
        stale, updates = run["staleness"], sum(run["staleness"].values())
        slowest = max(run["seconds"], key=run["seconds"].__getitem__, default=None)
        rows[name] = {
            "rounds": run["rounds"],
            "seconds_a_round": run["clock"][-1] / run["rounds"],
            "best": min(scores) if lower else max(scores),
            "seconds_to_target": seconds if math.isfinite(seconds) else None,
            "bytes_to_target": int(sent) if math.isfinite(sent) else None,
            "least_bias": min(run["bias"].values(), default=None),
            "most_bias": max(run["bias"].values(), default=None),
            "mean_staleness": sum(k * n for k, n in stale.items()) / updates if updates else None,
            "staleness": {str(steps): number for steps, number in stale.items()},
            "slowest": slowest,
            "slowest_bias": run["bias"].get(slowest),
            "slowest_score": run["sites"].get(slowest),
        }
    return {"metric": metric, "target": target, "part": part, "runs": rows}


def table(found: dict[str, Any]) -> str:
    """A row of each run."""
    header = ["run", "rounds", "s a round", f"best {found['metric']}", "s to target", "MB to target",
              "bias, least", "most", "staleness", "slowest client", "its bias", "its score"]  # fmt: skip
    rows = []
    for name, row in found["runs"].items():
        sent = row["bytes_to_target"]
        texts = (row["seconds_a_round"], row["best"], row["seconds_to_target"], sent and sent / 1e6)
        texts += (row["least_bias"], row["most_bias"], row["mean_staleness"])
        shown = [_shown(value) for value in texts]
        last = [row["slowest"] or "–", _shown(row["slowest_bias"]), _shown(row["slowest_score"])]
        rows.append([name, str(row["rounds"]), *shown, *last])
    return f"{format_table(header, rows)}\nTarget: {found['metric']} {found['target']:.4g}"


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def figure(runs: dict[str, dict[str, Any]], found: dict[str, Any]) -> Figure:
    """Scores over the simulated clock, with the target; and the bias of each client."""
    drawn = Figure(figsize=(9.0, 3.2), layout="constrained")
    left, right = drawn.subplots(1, 2)
    width = 0.8 / len(runs)
    clients = list(dict.fromkeys(name for run in runs.values() for name in run["bias"]))
    for number, (name, run) in enumerate(runs.items()):
        left.plot(run["clock"], run["score"], ".-", markersize=3, linewidth=1.2, label=name)
        places = [clients.index(client) + width * (number - (len(runs) - 1) / 2) for client in run["bias"]]
        right.bar(places, list(run["bias"].values()), width)
    left.axhline(found["target"], color="0.4", linewidth=0.9, linestyle="--")
    left.set(xlabel="simulated seconds", ylabel=found["metric"])
    left.legend(fontsize=7)
    right.axhline(1, color="0.4", linewidth=0.9)
    right.set_xticks(range(len(clients)), clients, fontsize=7, rotation=45, ha="right")
    right.set(ylabel="share of training over share of examples")
    return drawn


def main(_: list[str]) -> None:
    values = flags.FLAGS
    with ending("nothing was written"):
        folders = {folder.rstrip("/"): Path(folder) for folder in values.runs}
        if len(folders) < len(values.runs):
            raise ArgumentError("--runs", "distinct directories", ",".join(values.runs))
        if not values.part > 0:
            raise ArgumentError("--part", "a number above 0", values.part)
        short = [path.name for path in folders.values()]
        named = folders if len(set(short)) < len(short) else dict(zip(short, folders.values(), strict=True))
        runs = {name: read_run(path, values.stage, values.metric) for name, path in named.items()}
        found = compare(runs, values.metric, values.part)
        if values.output:
            figure(runs, found).savefig(values.output, dpi=150)
        print(json.dumps(found) if values.json else table(found))


if __name__ == "__main__":
    define_flags()
    run_program(main)
