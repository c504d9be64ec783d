"""Leave-one-site-out: how models do at a site that did not train, and what a little data of it changes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.pipeline import sweep
from experiments.pipeline.federated_data import FederatedData
from experiments.pipeline.federated_run import budget_of, metrics_of, stage_of
from experiments.pipeline.federated_settings import TrainSettings, check_settings
from experiments.pipeline.patients_of_runs import (
    DRAWS,
    Patients,
    interval,
    mean_of_models,
    of_models,
    score_of,
)
from experiments.pipeline.site_distances import site_distance
from fedrecon.data import ClientData, select_clients, stack_clients
from fedrecon.evaluation import rank_correlation
from fedrecon.reporting import mean_interval
from fedrecon.tasks import lower_is_better
from fedrecon.training import (
    FlagError,
    Stage,
    adaptation,
    changed,
    check_method,
    comparator,
    example_of,
    finetuning,
    fitted,
    model_files,
    released_file,
    summary,
)
from fedrecon.types import Variables
from fedrecon.weights import read_weights

METHODS = ("federated", "local", "pooled")
LEVELS = ("statistics", "head", "full", "routing")


class Fold(NamedTuple):
    """What was found at a site that did not train.

    Attributes:
      external: method -> metric at that site.
      inside: method -> mean over the other sites.
      adapted: level -> metric at that site of the federated model, adapted; NaN where a level means nothing.
      patients: method -> all patients of that site, none of whom trained; {} of reconstructions, and
        where patients are not told apart.
      others: method -> site -> the test patients of the sites that trained.
      distance: of that site's images from those that trained, as the federated model sees them.
    """

    external: dict[str, float]
    inside: dict[str, float]
    adapted: dict[str, float]
    patients: Mapping[str, Patients] = {}
    others: Mapping[str, Mapping[str, Patients]] = {}
    distance: float = float("nan")


def without_site(data: FederatedData, site: str) -> FederatedData:
    """The data of all other sites, with that site's test split as the unseen one."""
    rest = [name for name in data.train.names if name != site]
    keep = [data.train.names.index(name) for name in rest]
    return data._replace(
        train=select_clients(data.train, rest),
        validation=None if data.validation is None else select_clients(data.validation, rest),
        test=select_clients(data.test, rest),
        counts=data.counts[keep],
        unseen=select_clients(data.test, [site]),
    )


def plan(base: TrainSettings) -> dict[str, TrainSettings]:
    """The settings of each of `METHODS`, checked.

    Raises:
      FlagError: the algorithm is a comparator, or shares no model.
    """
    names = {"federated": base.federation.algorithm, "local": "local_only", "pooled": "centralized"}
    if base.federation.algorithm in ("local_only", "centralized"):
        raise FlagError("algorithm", "one that exchanges something", base.federation.algorithm)
    planned = {}
    for method, algorithm in names.items():
        federation = base.federation
        if method != "federated":
            federation = fitted(comparator(federation, algorithm))
        planned[method] = check_settings(changed(base, federation=federation))
        check_method(federation, (base.task,))
    return planned


def folds(
    planned: Mapping[str, TrainSettings],
    data: FederatedData,
    folder: Path,
    levels: Sequence[str],
    labeled: int,
    passes: int,
    **execution: Any,
) -> Iterator[tuple[str, str, Fold]]:
    """Trains without each site in turn; (site, metric, `Fold`). Finished trainings are read.

    Until the trainings of a fold have come to their end nothing of its site is read.

    Args:
      planned: of `plan`.
      data: of all sites.
      folder: of the runs, one in SITE/METHOD.
      levels: some of `LEVELS`.
      labeled: patients of the site (images where patients are not told apart) by which a model is tuned.
      passes: over these.
      **execution: as in `run`.
    """
    names = data.train.names
    if len(names) < 3:
        raise FlagError("clients", "three sites or more, of which one is left out", len(names))
    base = planned["federated"]
    for site in names:
        rest = without_site(data, site)
        external, inside, metric, adapted = {}, {}, "", {}
        patients, others, distance = {}, {}, float("nan")
        trained = sweep.trainings(
            planned,
            [base.seed],
            lambda name, seed, site=site: folder / "folds" / _folder(site) / name,
            load=lambda settings, rest=rest: rest,
            **execution,
        )
        for done in list(trained):
            metric = metrics_of(base.task, done.results)[0]
            external[done.point] = done.results.unseen.get(site, {}).get(metric, float("nan"))
            inside[done.point] = summary(done.results.own, metric)[0]
            stage = stage_of(done.settings, rest)
            made = finetuning.released_task(done.settings.federation, stage.task, example_of(rest.train))
            stage = stage._replace(task=made)
            if base.task in ("segmentation", "classification") and "volume" in data.train.examples:
                whole = all_of_site(data, site)
                patients[done.point], others[done.point] = _patients(
                    base.task, stage, done.folder, whole, rest
                )
            file = released_file(done.folder, stage.name)
            if done.point == "federated" and file.exists():
                model, own = read_weights(file)[0], select_clients(data.train, [site])
                distance = site_distance(stage.task, model, own, rest.train)
                adapted = _adapted(
                    stage, done.settings, model, own, rest, levels, labeled, passes, metric, done.folder
                )
        yield site, metric, Fold(external, inside, adapted, patients, others, distance)


def all_of_site(data: FederatedData, site: str) -> ClientData:
    """All examples of a site, of training, validation and test, whose patients are told apart."""
    parts, offset = [], 0
    for part in (data.train, data.validation, data.test):
        if part is None:
            continue
        own = part.as_arrays()[site]
        volume = own.get("volume", np.arange(len(next(iter(own.values()))), dtype=np.int32))
        parts.append({**own, "volume": volume + np.asarray(offset, volume.dtype)})
        offset = int(parts[-1]["volume"].max(initial=offset - 1)) + 1
    return stack_clients([{name: np.concatenate([p[name] for p in parts]) for name in parts[0]}], (site,))


def _patients(
    kind: str, stage: Stage, folder: Path, whole: ClientData, rest: FederatedData
) -> tuple[Patients, dict[str, Patients]]:
    """The patients of the site that is left out, and test patients of the others.

    Of sites that train alone the mean of their models is taken there, and each one's own at home.
    """
    evaluate = jax.jit(stage.task.predict)
    released, own = model_files.read_models(folder, stage.name)
    home = [own[name] for name in rest.test.names] if released is None else [released] * rest.test.clients
    models = home if released is None else [released]
    away = [of_models(kind, evaluate, [model], whole)[whole.names[0]] for model in models]
    return mean_of_models(away), of_models(kind, evaluate, home, rest.test)


def _folder(site: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in site)


def _adapted(
    stage: Stage,
    settings: TrainSettings,
    released: Variables,
    own: ClientData,
    rest: FederatedData,
    levels: Sequence[str],
    labeled: int,
    passes: int,
    metric: str,
    folder: Path,
) -> dict[str, float]:
    """The metric at the site after each level of adaptation."""
    assert rest.unseen is not None
    found = {}
    for level in levels:
        model = None
        if level == "statistics":
            if jax.tree.leaves(released.stats):
                model = adaptation.adapt_statistics(stage, released, own)
        elif level == "routing":
            personal = list(model_files.read_models(folder, stage.name)[1].values())
            if settings.task == "segmentation" and personal:
                size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(released)) * len(personal)
                name, count = rest.unseen.names[0], len(personal)
                print(f"{count} personal models are published to {name}: {size / 1e6:.2f} MB", flush=True)
                scores = adaptation.routed(stage, personal, released, own, rest.unseen)
                found[level] = scores.get(metric, float("nan"))
                continue
        else:
            few, head = adaptation.first_patients(own, labeled), "head" if level == "head" else ""
            budget = budget_of(settings)
            model = adaptation.tuned(stage, settings.federation, budget, released, few, passes, head)
        scores = {} if model is None else adaptation.site_metrics(stage, model, rest.unseen)
        found[level] = scores.get(metric, float("nan"))
    return found


def figures(metric: str, seeds: Mapping[int, Mapping[str, Fold]], kind: str = "") -> dict[str, Any]:
    """The document of all folds: of every site, the worst site, and the mean drop with its interval.

    A drop is how much worse the metric is at the site that did not train than the mean over those that did.
    Figures of sites are means over seeds.

    Args:
      metric: of the scores.
      seeds: folds by seed, of the same sites.
      kind: "segmentation" or "classification" adds "patients", see `patient_figures`.
    """
    sign = -1.0 if lower_is_better(metric) else 1.0
    sites = {}
    for site in next(iter(seeds.values())):
        own = [folds[site] for folds in seeds.values()]
        row = {
            name: {
                key: float(np.mean([getattr(fold, field)[key] for fold in own]))
                for key in getattr(own[0], field)
            }
            for name, field in (("external", "external"), ("in_federation", "inside"), ("adapted", "adapted"))
        }
        drop = {m: sign * (row["in_federation"][m] - row["external"][m]) for m in row["external"]}
        distance = float(np.mean([fold.distance for fold in own]))
        sites[site] = {**row, "drop": drop, "distance": distance if np.isfinite(distance) else None}
    drops = {m: [row["drop"][m] for row in sites.values() if np.isfinite(row["drop"][m])] for m in METHODS}
    scored = {site: row["external"]["federated"] for site, row in sites.items()}
    scored = {site: value for site, value in scored.items() if not np.isnan(value)}
    worst = min(scored, key=lambda site: sign * scored[site]) if scored else None
    found = {
        "metric": metric,
        "seeds": list(seeds),
        "worst": {"site": worst, "external": scored.get(worst) if worst else None},
        "drop": {m: _interval(values) for m, values in drops.items()},
        "distance": _along_distance(sites),
        "sites": sites,
    }
    told = kind and next(iter(next(iter(seeds.values())).values())).patients
    return found | ({"patients": patient_figures(kind, seeds)} if told else {})


def patient_figures(kind: str, seeds: Mapping[int, Mapping[str, Fold]]) -> dict[str, Any]:
    """Scores of the patients of each site that was left out, and the drop, with intervals of 95 %.

    The score is the mean Dice of patients, or the area under the curve over patients. Bootstrap samples draw
    seeds, and then the patients of each site.

    Returns:
      site -> {"patients": their number, method: {"external", "inside" and "drop", each {"mean", "low",
      "high"}}}.
    """
    found: dict[str, Any] = {}
    for site in next(iter(seeds.values())):
        first = next(iter(seeds.values()))[site]
        found[site] = {"patients": len(next(iter(first.patients.values())).score)}
        for m in first.patients:
            away = {seed: {site: folds[site].patients[m]} for seed, folds in seeds.items()}
            home = {seed: folds[site].others[m] for seed, folds in seeds.items()}
            names = list(home[next(iter(home))])
            external, inside = interval(kind, away, [site]), interval(kind, home, names)
            found[site][m] = {
                name: dict(zip(("mean", "low", "high"), values, strict=True))
                for name, values in (
                    ("external", external),
                    ("inside", inside),
                    ("drop", _drop(kind, away, home, site, names)),
                )
            }
    return found


def _drop(
    kind: str,
    away: Mapping[int, Mapping[str, Patients]],
    home: Mapping[int, Mapping[str, Patients]],
    site: str,
    others: Sequence[str],
) -> tuple[float, float, float]:
    rng, numbers = np.random.default_rng(0), list(away)

    def again(patients: Patients) -> Patients:
        rows = rng.integers(0, len(patients.score), len(patients.score))
        return Patients(*(array[rows] for array in patients))

    def drop(drawn: Sequence[int], draw: Any) -> float:
        values = []
        for seed in drawn:
            inside = np.asarray([score_of(kind, draw(home[seed][name])) for name in others])
            inside = inside[~np.isnan(inside)]
            values.append((inside.mean() if len(inside) else np.nan) - score_of(kind, draw(away[seed][site])))
        known = np.asarray(values)[~np.isnan(values)]
        return float(known.mean()) if len(known) else float("nan")

    samples = np.asarray([drop(rng.choice(numbers, len(numbers)), again) for _ in range(DRAWS)])
    known = samples[~np.isnan(samples)]
    low, high = np.percentile(known, (2.5, 97.5)) if len(known) else (float("nan"), float("nan"))
    return drop(numbers, lambda patients: patients), float(low), float(high)


def _along_distance(sites: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """Rank correlation of the sites' distance with the federated model's drop; None where not known."""
    distances = [np.nan if row["distance"] is None else row["distance"] for row in sites.values()]
    found = rank_correlation(
        np.asarray(distances), np.asarray([r["drop"]["federated"] for r in sites.values()])
    )
    return {name: value if np.isfinite(value) else None for name, value in found._asdict().items()}


def _interval(values: Sequence[float]) -> dict[str, float | None]:
    """Mean over sites and the 95 % interval of it; None of the bounds for a single site."""
    if not values:
        return {"mean": None, "low": None, "high": None}
    if len(values) == 1:
        return {"mean": values[0], "low": None, "high": None}
    found = mean_interval(values)
    return {"mean": found.mean, "low": found.mean - found.half_width, "high": found.mean + found.half_width}
