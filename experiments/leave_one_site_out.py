"""Leaves each site out in turn: how a model does where it was not trained, and what adaptation gives.

For every site the federation, each of the other sites alone and their pooled data train without it; the site
is scored afterwards. The table has the metric there (of sites alone, the mean of their models), the mean over
the sites that trained, and the drop. The worst site is the headline; the drop's interval is over sites. The
federated model is then adapted to the site: --adapt has statistics (running statistics of the site's images,
without labels), head and full (fine-tuning by the --labeled first patients); by --adapt=routing a
segmentation whose sites have models of their own (--algorithm=iop_fl) mixes all of them, without labels, for
which each is published to that site. A figure shows the drop by the
Fréchet distance of the site's features, as the federated network sees its images, from the other sites'.
Every training has a directory of its own, --workdir/seed-N/folds/SITE/METHOD, and resumes. Other flags are
those of experiments.train_federated.

  python -m experiments.leave_one_site_out --workdir=runs/unseen --preset=smoke --clients=4
Of segmentations and classifications a second table has all patients of each site that was left out (none of
them trained), with intervals of 95 % that draw seeds (--seeds) and patients.

  python -m experiments.leave_one_site_out --workdir=runs/retina --task=segmentation --cohort=retina
      --data_dir=DIR --norm=batch --labeled=5 --seeds=3 --json
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags
from matplotlib.figure import Figure

from experiments.pipeline import sweep, unseen_sites
from experiments.pipeline.federated_data import load_data
from experiments.pipeline.federated_run import with_seed
from experiments.pipeline.federated_settings import BY_PRESET, SIMULATED, TrainSettings, resolve
from experiments.pipeline.programs import define_run_flags, ending_run, given_settings, parse_flags
from experiments.pipeline.site_distances import plot_distances
from fedrecon.evaluation import RankCorrelation
from fedrecon.reporting import format_table, plot_site_scores
from fedrecon.runtime import run_program, set_cpu_devices
from fedrecon.training import Dotted, FlagError

FIRST = ("workdir", "adapt", "labeled", "preset", "task", "cohort", "data_dir", "clients", "rounds",
         "algorithm", "norm", "seeds", "json")  # fmt: skip
_TITLES = {"federated": "federated", "local": "each alone", "pooled": "pooled"}


def table(found: dict[str, Any]) -> str:
    """Rows of sites: the metric there and the drop by method, and the levels of adaptation."""
    levels = list(next(iter(found["sites"].values()))["adapted"])
    header = ["site left out"]
    header += [text for title in _TITLES.values() for text in (title, "drop")]
    header += [f"adapted: {level}" for level in levels]
    rows = [
        [
            site,
            *(_shown(row[kind][m]) for m in unseen_sites.METHODS for kind in ("external", "drop")),
            *(_shown(row["adapted"].get(level)) for level in levels),
        ]
        for site, row in found["sites"].items()
    ]
    drop = found["drop"]
    lines = [format_table(header, rows), ""]
    worst = found["worst"]
    lines.append(
        f"Worst site left out, federated: {worst['site']}, {found['metric']} {_shown(worst['external'])}"
    )
    for method, title in _TITLES.items():
        low, high = drop[method]["low"], drop[method]["high"]
        interval = "" if low is None else f" (95 % interval over sites {low:.3f} to {high:.3f})"
        lines.append(f"Mean drop, {title}: {_shown(drop[method]['mean'])}{interval}")
    along = found["distance"]
    if along["rho"] is not None:
        bounds = f" (95 % {_shown(along['low'])} to {_shown(along['high'])})"
        text = f"Rank correlation over sites of the distance of features with the drop: {along['rho']:.2f}"
        lines.append(text + (bounds if along["low"] is not None else ""))
    if "patients" in found:
        lines += ["", *_patients(found["patients"], found["metric"])]
    return "\n".join(lines)


def _patients(sites: dict[str, Any], metric: str) -> list[str]:
    """The second table: all patients of sites that were left out."""
    score = "Dice" if metric == "dice" else "AUC"
    header = ["site left out (patients)"]
    header += [text for title in _TITLES.values() for text in (f"{title}: {score}", "drop")]
    rows = [
        [
            f"{site} ({row['patients']})",
            *(
                _bounds(row.get(m, {}).get(kind))
                for m in unseen_sites.METHODS
                for kind in ("external", "drop")
            ),
        ]
        for site, row in sites.items()
    ]
    return [
        format_table(header, rows),
        "Of patients, with 95 % over seeds and patients; drops against test patients.",
    ]


def _bounds(figure: dict[str, Any] | None) -> str:
    if figure is None or figure["mean"] is None:
        return "–"
    return f"{figure['mean']:.3f} ({_shown(figure['low'])} to {_shown(figure['high'])})"


def _shown(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"


def figure(found: dict[str, Any]) -> Figure:
    """Points of every site: the metric there by method and level, and inside the federation."""
    sites = found["sites"]

    def scores(kind: str, name: str) -> dict[str, dict[str, float]]:
        values = {site: row[kind].get(name) for site, row in sites.items()}
        return {site: {found["metric"]: float("nan") if v is None else v} for site, v in values.items()}

    lines = {"federated, sites that trained": scores("in_federation", "federated")}
    lines |= {f"{title}, site left out": scores("external", m) for m, title in _TITLES.items()}
    levels = list(next(iter(sites.values()))["adapted"])
    lines |= {f"federated, adapted: {level}": scores("adapted", level) for level in levels}
    return plot_site_scores(lines, found["metric"], list(sites), found["metric"])


def distances(found: dict[str, Any], about: str) -> Figure:
    """A point of each site: how far its images lie from the others', and the federated model's drop there."""
    points = {site: (row["distance"], row["drop"]["federated"]) for site, row in found["sites"].items()}
    points = {site: pair for site, pair in points.items() if pair[0] is not None}
    values = (float("nan") if value is None else value for value in found["distance"].values())
    return plot_distances(points, found["metric"], RankCorrelation(*values), [about])


def main(dotted: Dotted) -> None:
    values = flags.FLAGS
    with ending_run(values.workdir):
        if wrong := [level for level in values.adapt if level not in unseen_sites.LEVELS]:
            raise FlagError("adapt", f"some of {', '.join(unseen_sites.LEVELS)}", repr(wrong[0]))
        planned = unseen_sites.plan(resolve(given_settings(TrainSettings, dotted)))
        set_cpu_devices(values.devices)
        folder = Path(values.workdir)
        sweep.share_programs(folder)
        with sweep.only_json(values.json):
            found, metric, base = {}, "", planned["federated"]
            execution = sweep.execution_of(values)
            given = (values.adapt, values.labeled, values.tuning_passes)
            for seed in sweep.seeds_of(values.seeds, base.seed):
                own = {name: with_seed(settings, seed) for name, settings in planned.items()}
                data, found[seed] = load_data(own["federated"]), {}
                for site, metric, fold in unseen_sites.folds(
                    own, data, folder / f"seed-{seed}", *given, **execution
                ):
                    found[seed][site] = fold
                    score = _shown(fold.external["federated"])
                    print(f"seed {seed}, without {site}: {metric} {score}", flush=True)
            kind = base.task if base.task in ("segmentation", "classification") else ""
            document = unseen_sites.figures(metric, found, kind)
            document = sweep.write_json(folder / "leave_one_site_out.json", document)
            sweep.save_figure(folder / "leave_one_site_out.png", figure(document))
            if document["distance"]["rho"] is not None:
                kind = f"{base.task}, {'simulated ' if base.cohort in SIMULATED else ''}sites"
                sweep.save_figure(folder / "leave_one_site_out_distance.png", distances(document, kind))
        print(json.dumps(document) if values.json else "\n" + table(document))


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    options = {"flag_values": flag_values}
    define_run_flags(TrainSettings, by_preset=BY_PRESET, flag_values=flag_values)
    text = f"Adaptations of the federated model to the site, some of {', '.join(unseen_sites.LEVELS)}."
    flags.DEFINE_list("adapt", list(unseen_sites.LEVELS[:3]), text, **options)
    text = "Patients of the site (images, where these are not told apart) for head and full."
    flags.DEFINE_integer("labeled", 5, text, 1, **options)
    flags.DEFINE_integer("tuning_passes", 5, "Passes over them.", 1, **options)
    flags.DEFINE_integer("seeds", 1, "Number of seeds, from --seed on.", 1, 1000, **options)
    flags.DEFINE_bool("json", False, "Print JSON.", **options)


if __name__ == "__main__":
    define_flags()
    run_program(main, partial(parse_flags, settings=TrainSettings, first=FIRST))
