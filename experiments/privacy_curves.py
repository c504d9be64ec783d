"""Scores against the budget of privacy: one curve for each unit that is protected.

All flags but --dp.epsilon and --dp.unit are those of experiments.train_federated; every budget is trained
with the same data, initial weights and steps, from --seed on. Every training has a directory of its own,
--workdir/UNIT-EPSILON/seed-N, and resumes; the run without privacy is UNIT "none". The working directory gets
curves.json, curves.md and curves.png. Intervals are by the t distribution over seeds.

  python -m experiments.privacy_curves --workdir=runs/curves --task=reconstruction --preset=smoke
      --epsilons=1,2,4,8 --units=example,patient --seeds=3
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from experiments.pipeline.federated_data import FederatedData, load_data
from experiments.pipeline.federated_run import metrics_of, run, with_seed
from experiments.pipeline.federated_settings import BY_PRESET, TrainSettings, check_settings, resolve
from experiments.pipeline.programs import (
    DOTTED,
    define_run_flags,
    ending_run,
    flag_groups,
    given_settings,
    parse,
    read_own_files,
    with_flag_files,
)
from fedrecon import reporting
from fedrecon.files import replacing, write_atomically
from fedrecon.runtime import Workdir, describe_environment, run_program, set_cpu_devices, show_help
from fedrecon.training import Dotted, FlagError, as_json, changed, check_method, flat, summary

FIRST = ("workdir", "epsilons", "units", "seeds", "preset", "task", "cohort", "data_dir", "clients", "rounds",
         "dp_delta", "dp_clipping_norm")  # fmt: skip
NONE = "none"


class Point(NamedTuple):
    """A budget of a unit; without privacy epsilon is infinite."""

    unit: str
    epsilon: float

    @property
    def name(self) -> str:
        """Folder and label."""
        return NONE if self.unit == NONE else f"{self.unit}-{self.epsilon:g}"


def plan(base: TrainSettings, units: list[str], epsilons: list[str]) -> dict[Point, TrainSettings]:
    """Settings of each point, checked; the one without privacy first.

    Raises:
      FlagError: a unit or an epsilon is none, or given twice, or the settings do not go with it.
    """
    known = ("example", "patient", "site")
    if not units or len(set(units)) != len(units) or not set(units) <= set(known):
        raise FlagError("units", f"distinct ones of {', '.join(known)}", ",".join(units))
    values = [_epsilon(text) for text in epsilons]
    if not values or len(set(values)) != len(values):
        raise FlagError("epsilons", "distinct positive numbers", ",".join(epsilons))
    plain = changed(base, federation=changed(base.federation, dp_epsilon=0.0))
    planned = {Point(NONE, float("inf")): check_settings(plain)}
    for unit in units:
        for epsilon in values:
            federation = changed(base.federation, dp_epsilon=epsilon, dp_unit=unit)
            check_method(federation, (base.task,))
            planned[Point(unit, epsilon)] = check_settings(changed(base, federation=federation))
    return planned


def curves(
    planned: Mapping[Point, TrainSettings], folder: Path, seeds: list[int], **execution: Any
) -> list[dict[str, Any]]:
    """Trains every point with every seed; rows with the scores and the epsilons that were spent."""
    scores: dict[Point, list[float]] = {point: [] for point in planned}
    spent: dict[Point, float] = {point: 0.0 for point in planned}
    metric = ""
    for seed in seeds:
        data: FederatedData | None = None
        for point, settings in planned.items():
            settings = with_seed(settings, seed)
            data = data or load_data(settings)
            path = folder / point.name / f"seed-{seed}"
            with Workdir(path, flat(settings), describe_environment()) as directory:
                results, _ = run(settings, directory, data=data, **execution)
            metric = metrics_of(settings.task, results)[0]
            scores[point].append(summary(results.own, metric)[0])
            epsilons = results.privacy.get("epsilon", {}).values()
            spent[point] = max([spent[point], *epsilons])
            print(f"seed {seed}, {point.name}: {metric} {scores[point][-1]:.4f}", flush=True)
    return [
        {
            "unit": point.unit,
            "epsilon": point.epsilon,
            "spent": spent[point],
            "metric": metric,
            "scores": values,
            **reporting.mean_interval(values)._asdict(),
        }
        for point, values in scores.items()
    ]


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows of units, columns of budgets."""
    epsilons = sorted({row["epsilon"] for row in rows if row["unit"] != NONE})
    plain = next(row for row in rows if row["unit"] == NONE)
    lines = [
        f"| {plain['metric']}, by the protected unit | " + " | ".join(f"ε = {e:g}" for e in epsilons) + " |",
        "| --- " * (len(epsilons) + 1) + "|",
    ]
    for unit in dict.fromkeys(row["unit"] for row in rows if row["unit"] != NONE):
        cells = {row["epsilon"]: _cell(row) for row in rows if row["unit"] == unit}
        lines.append(f"| {unit} | " + " | ".join(cells[e] for e in epsilons) + " |")
    lines.append(f"\nWithout privacy: {_cell(plain)}.\n")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any]) -> str:
    return f"{row['mean']:.3f} ± {row['half_width']:.3f}"


def _epsilon(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise FlagError("epsilons", "positive numbers", repr(text))
    return value


def main(dotted: Dotted) -> None:
    values = flags.FLAGS
    with ending_run(values.workdir):
        planned = plan(resolve(given_settings(TrainSettings, dotted)), values.units, values.epsilons)
        set_cpu_devices(values.devices)
        first = next(iter(planned.values())).seed
        execution = {"parallel": values.parallel, "rounds_per_dispatch": values.rounds_per_dispatch}
        folder = Path(values.workdir)
        rows = curves(planned, folder, list(range(first, first + values.seeds)), **execution)
        write(folder, rows)
        print("\n" + markdown(rows))


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    """The table, the numbers and the figure."""
    write_atomically(folder / "curves.json", (json.dumps(as_json(rows), indent=2) + "\n").encode())
    write_atomically(folder / "curves.md", markdown(rows).encode())
    points = {
        unit: [(row["epsilon"], row["mean"], row["half_width"]) for row in rows if row["unit"] == unit]
        for unit in dict.fromkeys(row["unit"] for row in rows if row["unit"] != NONE)
    }
    plain = next(row for row in rows if row["unit"] == NONE)
    figure = reporting.plot_privacy(points, (plain["mean"], plain["half_width"]), plain["metric"])
    with replacing(folder / "curves.png") as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def parse_flags(argv: list[str]) -> Dotted:
    """Parses all flags."""
    argv = with_flag_files(argv)
    read_own_files(argv)
    show_help(argv, flag_groups(TrainSettings), FIRST)
    return parse(argv, DOTTED)


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    options = {"flag_values": flag_values}
    without = ("dp_epsilon", "dp_unit")
    define_run_flags(TrainSettings, without=without, by_preset=BY_PRESET, flag_values=flag_values)
    flags.DEFINE_list("epsilons", ["1", "2", "4", "8"], "Budgets of every client.", **options)
    flags.DEFINE_list("units", ["example", "patient", "site"], "Protected units.", **options)
    flags.DEFINE_integer("seeds", 3, "Number of seeds, from --seed on.", 1, 1000, **options)


if __name__ == "__main__":
    define_flags()
    run_program(main, parse_flags)
