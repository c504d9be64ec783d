"""The trainings of one stage of the full stack: federated, and its comparators."""

import dataclasses
import types
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from experiments.pipeline.cohorts import Split
from experiments.pipeline.folders import data_kind
from experiments.pipeline.settings import FullStackSettings
from fedrecon import Task, Variables
from fedrecon.data import ClientData
from fedrecon.runtime import Workdir, read_log
from fedrecon.training import (
    Budget,
    Course,
    Execution,
    FederationSettings,
    Spending,
    Stage,
    Trained,
    comparator,
    course,
    train_stage,
)

_COMPARATORS = {"local": "local_only", "centralized": "centralized"}
# Keys are folded from these words; others would change every result.
_WORDS = {"centralized": "centralised"}


@dataclasses.dataclass(frozen=True)
class Run:
    """One stage of the full stack.

    Attributes:
      settings: of the experiment.
      workdir: of the run.
      execution: how trainings are carried out.
      budget: of each training of the stage.
      noise: what the federated training may release; None without privacy.
    """

    settings: FullStackSettings
    workdir: Workdir
    execution: Execution
    budget: Budget
    noise: Spending | None

    def train(
        self,
        stage: str,
        kind: str,
        task: Task,
        variables: Variables,
        data: Split,
        about: Mapping[str, Any] = types.MappingProxyType({}),
    ) -> Trained:
        """Trains one network, or finishes what an interrupted run left.

        Args:
          stage: its name in the log and among the checkpoints, with the kind.
          kind: "federated", "local" (each site alone) or "centralized" (the sites' data pooled).
          task: what is learned.
          variables: the initial model of every site.
          data: the training data, and what its curve is recorded on.
          about: what is kept with the released model, see `Stage`.
        """
        settings, budget = self.settings.federation, self.budget
        about = {"data": data_kind(self.settings), **about}
        if kind == "centralized":
            budget = budget._replace(
                learning_rate=self.settings.pooled_learning_rate or budget.learning_rate,
                epochs=self.settings.pooled_epochs or budget.epochs,
            )
        if kind != "federated":
            settings = comparator(settings, _COMPARATORS[kind])
        key = jax.random.fold_in(
            jax.random.key(self.settings.seed), zlib.crc32(f"{stage}/{_WORDS.get(kind, kind)}".encode())
        )
        tuning_key = jax.random.fold_in(key, 3)
        trained = train_stage(
            Stage(
                f"{stage}/{kind}", task, variables, data.train, key, tuning_key, None, data.validation, about
            ),
            _within(settings, data.train),
            budget,
            self.workdir,
            self.execution,
            self.noise if kind == "federated" else None,
        )
        print(*trained.course.lines(), sep="\n", flush=True)
        return trained


def courses(workdir: Workdir, budgets: Mapping[str, Budget], patience: int) -> dict[str, Course]:
    """How each training of the stages went, by its name in the log."""
    log = read_log(workdir / "metrics.jsonl")
    names = dict.fromkeys(record["stage"] for record in log)
    return {name: course(log, name, budgets[name.partition("/")[0]].rounds, patience) for name in names}


class Traffic(NamedTuple):
    """Bytes that one training exchanged, over all sites and rounds."""

    stage: str
    rounds: int
    bytes_up: int
    bytes_down: int


def traffic(workdir: Workdir, stage: str) -> Traffic:
    """What a training exchanged, as its log says."""
    records = [r for r in read_log(workdir / "metrics.jsonl") if r["stage"] == stage]
    up, down = (sum(r[name] for r in records) for name in ("bytes_up", "bytes_down"))
    return Traffic(stage, len(records), up, down)


def _within(settings: FederationSettings, clients: ClientData) -> FederationSettings:
    """Measured cohorts have other numbers of sites in each stage."""
    count = min(settings.clients_per_round, clients.clients)
    return dataclasses.replace(settings, clients_per_round=count)
