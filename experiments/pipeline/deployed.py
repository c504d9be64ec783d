"""The trainings of `train_federated` as jobs of a deployment: settings as JSON, data of one site."""

import dataclasses
from typing import Any

import numpy as np

from experiments.pipeline.federated_data import FederatedData, load_data
from experiments.pipeline.federated_run import budget_of, stage_of
from experiments.pipeline.federated_settings import SIMULATED, TrainSettings, check_settings
from fedrecon.data import ClientData
from fedrecon.deployment import Problem, check_deployable, one_client
from fedrecon.training import FederationSettings, FlagError


def as_job(settings: TrainSettings) -> dict[str, Any]:
    """Settings as the JSON of a job, those that differ from the defaults.

    Raises:
      FlagError: only a simulation in one place can do it.
    """
    check_settings(settings)
    check_deployable(settings.federation)
    if settings.configure != "flags":
        expected = "flags: sites have agreed on the network before a deployment"
        raise FlagError("configure", expected, settings.configure)
    return _changes(settings)


def of_job(job: dict[str, Any]) -> TrainSettings:
    """The settings of a job, checked.

    Raises:
      ValueError: a field is unknown, of another kind, or does not fit.
    """
    inner = job.get("federation", {})
    if not isinstance(inner, dict):
        raise FlagError("federation", "an object", type(inner).__name__)
    federation = dataclasses.replace(FederationSettings(), **_checked(FederationSettings(), inner))
    outer = {name: value for name, value in job.items() if name != "federation"}
    outer = _checked(TrainSettings(), outer)
    return check_settings(dataclasses.replace(TrainSettings(), **outer, federation=federation))


def problem(job: dict[str, Any]) -> Problem:
    """What a job trains."""
    settings = of_job(job)

    def stage(clients: ClientData):
        counts = np.asarray(clients.counts)[:, None]
        data = FederatedData(clients, None, clients, counts, ("examples",), "")
        return stage_of(settings, data)

    return Problem(stage, settings.federation, budget_of(settings))


def site_data(job: dict[str, Any], client: int, data_dir: str = "") -> ClientData:
    """The training data of one site: of simulated cohorts one of their clients, else those of its own folder.

    A simulated cohort is drawn as a whole, since its sites are divided by one generator; the others are
    dropped.

    Args:
      job: settings.
      client: number of the site.
      data_dir: the site's folder; "" is that of the job.
    """
    settings = of_job(job)
    if settings.cohort in SIMULATED:
        return one_client(load_data(settings).train, client)
    own = load_data(dataclasses.replace(settings, data_dir=data_dir or settings.data_dir)).train
    return one_client(own, client if own.clients > 1 else 0)


def _changes(settings: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            if inner := _changes(value):
                found[field.name] = inner
        elif value != field.default:
            found[field.name] = [list(pair) for pair in value] if isinstance(value, tuple) else value
    return found


def _checked(defaults: Any, values: dict[str, Any]) -> dict[str, Any]:
    known = {field.name: getattr(defaults, field.name) for field in dataclasses.fields(defaults)}
    checked = {}
    for name, value in values.items():
        if name not in known or dataclasses.is_dataclass(known[name]):
            raise FlagError(name, "a setting of train_federated", repr(value)[:80])
        if isinstance(known[name], tuple):
            pairs = isinstance(value, list) and all(
                isinstance(p, list) and len(p) == 2 and all(isinstance(x, str) for x in p) for p in value
            )
            if not pairs:
                raise FlagError(name, "pairs of texts", repr(value)[:80])
            value = tuple((a, b) for a, b in value)
        elif isinstance(known[name], float) and type(value) is int:
            value = float(value)
        elif type(value) is not type(known[name]):
            raise FlagError(name, type(known[name]).__name__, repr(value)[:80])
        checked[name] = value
    return checked
