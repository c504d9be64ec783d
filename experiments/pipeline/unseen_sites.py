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
from fedrecon.data import ClientData, select_clients
from fedrecon.reporting import mean_interval
from fedrecon.tasks import lower_is_better
from fedrecon.training import (
    FlagError,
    Stage,
    adaptation,
    changed,
    check_method,
    comparator,
    fitted,
    released_file,
    summary,
)
from fedrecon.types import Variables
from fedrecon.weights import read_weights

METHODS = ("federated", "local", "pooled")
LEVELS = ("statistics", "head", "full")


class Fold(NamedTuple):
    """What was found at a site that did not train.

    Attributes:
      external: method -> metric at that site.
      inside: method -> mean over the other sites.
      adapted: level -> metric at that site of the federated model, adapted; NaN where a level means nothing.
    """

    external: dict[str, float]
    inside: dict[str, float]
    adapted: dict[str, float]


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
        for done in sweep.trainings(
            planned,
            [base.seed],
            lambda name, seed, site=site: folder / "folds" / _folder(site) / name,
            load=lambda settings, rest=rest: rest,
            **execution,
        ):
            metric = metrics_of(base.task, done.results)[0]
            external[done.point] = done.results.unseen.get(site, {}).get(metric, float("nan"))
            inside[done.point] = summary(done.results.own, metric)[0]
            if done.point == "federated" and levels:
                stage = stage_of(done.settings, rest)
                file = released_file(done.folder, stage.name)
                if file.exists():
                    model, own = read_weights(file)[0], select_clients(data.train, [site])
                    adapted = _adapted(
                        stage, done.settings, model, own, rest, levels, labeled, passes, metric
                    )
        yield site, metric, Fold(external, inside, adapted)


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
) -> dict[str, float]:
    """The metric at the site after each level of adaptation."""
    assert rest.unseen is not None
    found = {}
    for level in levels:
        model = None
        if level == "statistics":
            if jax.tree.leaves(released.stats):
                model = adaptation.adapt_statistics(stage, released, own)
        else:
            few, head = adaptation.first_patients(own, labeled), "head" if level == "head" else ""
            budget = budget_of(settings)
            model = adaptation.tuned(stage, settings.federation, budget, released, few, passes, head)
        scores = {} if model is None else adaptation.site_metrics(stage, model, rest.unseen)
        found[level] = scores.get(metric, float("nan"))
    return found


def figures(metric: str, found: Mapping[str, Fold]) -> dict[str, Any]:
    """The document of all folds: of every site, the worst site, and the mean drop with its interval.

    A drop is how much worse the metric is at the site that did not train than the mean over those that did.
    """
    sign = -1.0 if lower_is_better(metric) else 1.0
    sites = {
        site: {
            "external": fold.external,
            "in_federation": fold.inside,
            "drop": {m: sign * (fold.inside[m] - fold.external[m]) for m in fold.external},
            "adapted": fold.adapted,
        }
        for site, fold in found.items()
    }
    drops = {m: [row["drop"][m] for row in sites.values() if np.isfinite(row["drop"][m])] for m in METHODS}
    scored = {site: row["external"]["federated"] for site, row in sites.items()}
    scored = {site: value for site, value in scored.items() if not np.isnan(value)}
    worst = min(scored, key=lambda site: sign * scored[site]) if scored else None
    return {
        "metric": metric,
        "worst": {"site": worst, "external": scored.get(worst) if worst else None},
        "drop": {m: _interval(values) for m, values in drops.items()},
        "sites": sites,
    }


def _interval(values: Sequence[float]) -> dict[str, float | None]:
    """Mean over sites and the 95 % interval of it; None of the bounds for a single site."""
    if not values:
        return {"mean": None, "low": None, "high": None}
    if len(values) == 1:
        return {"mean": values[0], "low": None, "high": None}
    found = mean_interval(values)
    return {"mean": found.mean, "low": found.mean - found.half_width, "high": found.mean + found.half_width}
