"""Scores against the budget of privacy: one curve for each unit that is protected.

All flags but --dp.epsilon and --dp.unit are those of experiments.train_federated; every budget is trained
with the same data, initial weights and steps, from --seed on. Every training has a directory of its own,
--workdir/UNIT-EPSILON/seed-N, and resumes; the run without privacy is UNIT "none". Flags --dp.NAME that mean
nothing for one of several units hold for the others. The working directory gets curves.json, curves.md and
curves.png. Intervals are by the t distribution over seeds. With --inversion=STEPS the PSNR of an image that
is recovered from the update of one example stands beside every budget, as in experiments.audit.

  python -m experiments.privacy_curves --workdir=runs/curves --task=reconstruction --preset=smoke
      --epsilons=1,2,4,8 --units=example,patient --seeds=3
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from experiments.pipeline import sweep
from experiments.pipeline.auditing import invert_update, open_run
from experiments.pipeline.federated_run import METRICS, metrics_of
from experiments.pipeline.federated_settings import BY_PRESET, TrainSettings, check_settings, resolve
from experiments.pipeline.programs import define_run_flags, ending_run, given_settings, parse_flags
from fedrecon import reporting
from fedrecon.files import write_atomically
from fedrecon.runtime import run_program, set_cpu_devices
from fedrecon.training import Dotted, FlagError, changed, check_method, summary

FIRST = ("workdir", "epsilons", "units", "metric", "inversion", "seeds", "preset", "task",
         "cohort", "data_dir", "clients", "rounds", "dp_delta", "dp_clipping_norm")  # fmt: skip
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
    values = sweep.budgets("epsilons", epsilons)
    if not values:
        raise FlagError("epsilons", "distinct positive numbers", "none")
    plain = changed(base, federation=sweep.without_privacy(base.federation))
    planned = {Point(NONE, float("inf")): check_settings(plain)}
    for unit in units:
        for epsilon in values:
            federation = changed(base.federation, dp_epsilon=epsilon, dp_unit=unit)
            if len(units) > 1:
                # Flags of one unit are for that unit.
                federation = sweep.with_unit(base.federation, unit, epsilon)
            check_method(federation, (base.task,))
            planned[Point(unit, epsilon)] = check_settings(changed(base, federation=federation))
    return planned


def curves(
    planned: Mapping[Point, TrainSettings],
    folder: Path,
    seeds: list[int],
    *,
    metric: str = "",
    inversion: int = 0,
    **execution: Any,
) -> list[dict[str, Any]]:
    """Trains every point with every seed; rows with the scores and the epsilons that were spent.

    Args:
      planned: settings of every point.
      folder: of all trainings.
      seeds: of each point.
      metric: of the scores; the first one of the task by default.
      inversion: steps of the inversion of an update at each point; 0 for none.
      **execution: as in `sweep.trainings`.

    Raises:
      FlagError: the task has no such metric.
    """
    task = next(iter(planned.values())).task
    if metric and task in METRICS:
        # Before hours of training; metrics of one's own tasks are known after the first.
        _check_metric(metric, METRICS[task])
    noises: dict[str, tuple[float, float]] = {}
    scores: dict[Point, list[float]] = {point: [] for point in planned}
    spent: dict[Point, float] = {point: 0.0 for point in planned}
    points = {point.name: point for point in planned}
    by_name = {point.name: settings for point, settings in planned.items()}
    for done in sweep.trainings(
        by_name, seeds, lambda name, seed: folder / name / f"seed-{seed}", **execution
    ):
        point = points[done.point]
        known = metrics_of(done.settings.task, done.results)
        metric = metric or known[0]
        _check_metric(metric, known)
        scores[point].append(summary(done.results.own, metric)[0])
        for multiplier in done.results.privacy.get("noise_multiplier", {}).values():
            noises.setdefault(point.name, (multiplier, done.settings.federation.dp_clipping_norm))
        spent[point] = max([spent[point], *done.results.privacy.get("epsilon", {}).values()])
        print(f"seed {done.settings.seed}, {point.name}: {metric} {scores[point][-1]:.4f}", flush=True)
    inverted = invert(folder / NONE / f"seed-{seeds[0]}", noises, inversion) if inversion else {}
    return [
        {
            "unit": point.unit,
            "epsilon": point.epsilon,
            "spent": spent[point],
            "metric": metric,
            "scores": values,
            **reporting.mean_interval(values)._asdict(),
            **({"inversion_psnr": inverted[point.name]} if inverted else {}),
        }
        for point, values in scores.items()
    ]


def _check_metric(metric: str, known: Sequence[str]) -> None:
    if metric not in known:
        raise FlagError("metric", f"one of {', '.join(known)}", repr(metric))


def invert(run: Path, noises: Mapping[str, tuple[float, float]], iterations: int) -> dict[str, float]:
    """PSNR in dB of an image recovered from the update of one example, with the noise of each point.

    The worst case of `experiments.audit`, on the models of the run without privacy.

    Args:
      run: directory of the training without privacy.
      noises: name of a point -> noise multiplier and clipping norm.
      iterations: steps of each attack.
    """
    found = invert_update(open_run(run, None), None, iterations=iterations, seed=0, noises=noises)
    matches = {NONE: found.matches["unprotected"], **{name: found.matches[name] for name in noises}}
    return {name: float(match.psnr[0]) for name, match in matches.items()}


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
    for unit in dict.fromkeys(row["unit"] for row in rows if "inversion_psnr" in row and row["unit"] != NONE):
        decibels = {row["epsilon"]: f"{row['inversion_psnr']:.1f} dB" for row in rows if row["unit"] == unit}
        lines.append(f"| inversion, {unit} | " + " | ".join(decibels[e] for e in epsilons) + " |")
    recovered = f"; inversion {plain['inversion_psnr']:.1f} dB" if "inversion_psnr" in plain else ""
    lines.append(f"\nWithout privacy: {_cell(plain)}{recovered}.\n")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any]) -> str:
    return f"{row['mean']:.3f} ± {row['half_width']:.3f}"


def main(dotted: Dotted) -> None:
    values = flags.FLAGS
    with ending_run(values.workdir):
        planned = plan(resolve(given_settings(TrainSettings, dotted)), values.units, values.epsilons)
        set_cpu_devices(values.devices)
        folder, first = Path(values.workdir), next(iter(planned.values())).seed
        sweep.share_programs(folder)
        rows = curves(
            planned,
            folder,
            sweep.seeds_of(values.seeds, first),
            metric=values.metric,
            inversion=values.inversion,
            **sweep.execution_of(values),
        )
        write(folder, rows)
        print("\n" + markdown(rows))


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    """The table, the numbers and the figure."""
    sweep.write_json(folder / "curves.json", rows)
    write_atomically(folder / "curves.md", markdown(rows).encode())
    points = {
        unit: [(row["epsilon"], row["mean"], row["half_width"]) for row in rows if row["unit"] == unit]
        for unit in dict.fromkeys(row["unit"] for row in rows if row["unit"] != NONE)
    }
    plain = next(row for row in rows if row["unit"] == NONE)
    figure = reporting.plot_privacy(points, (plain["mean"], plain["half_width"]), plain["metric"])
    sweep.save_figure(folder / "curves.png", figure)


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    options = {"flag_values": flag_values}
    without = ("dp_epsilon", "dp_unit")
    define_run_flags(TrainSettings, without=without, by_preset=BY_PRESET, flag_values=flag_values)
    flags.DEFINE_list("epsilons", ["1", "2", "4", "8"], "Budgets of every client.", **options)
    flags.DEFINE_list("units", ["example", "patient", "site"], "Protected units.", **options)
    flags.DEFINE_string("metric", "", "Metric of the curves; the first of the task by default.", **options)
    flags.DEFINE_integer(
        "inversion",
        0,
        "Steps of the inversion of an update at every budget, whose PSNR stands beside; 0 is none.",
        lower_bound=0,
        **options,
    )
    flags.DEFINE_integer("seeds", 3, "Number of seeds, from --seed on.", 1, 1000, **options)


if __name__ == "__main__":
    define_flags()
    run_program(main, partial(parse_flags, settings=TrainSettings, first=FIRST))
