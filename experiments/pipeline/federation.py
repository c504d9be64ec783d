"""Training and scoring by the federated engine, with checkpoints and logs in the working directory."""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from experiments.pipeline.settings import Settings
from fedrecon import Task, Variables
from fedrecon.data import ClientData, pool
from fedrecon.federated import (
    FederatedAlgorithm,
    RoundInfo,
    RoundState,
    chain,
    client_mesh,
    clip,
    dp_fedavg,
    fedavg,
    fedbn,
    init_state,
    local_only,
    make_cross_evaluate,
    make_evaluate,
    make_round,
    place,
    run_rounds,
    uniform_clients,
)
from fedrecon.runtime import Workdir, read_log, train

Scores = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Budget:
    """What a stage may spend: rounds, local epochs, examples per step and the peak learning rate."""

    rounds: int
    epochs: int
    batch_size: int
    learning_rate: float


@dataclass(frozen=True)
class Privacy:
    """Noise of DP-SGD, the same at every site and in every stage, and the steps it was calibrated for."""

    noise_multiplier: float
    clipping_norm: float


@dataclass(frozen=True)
class Traffic:
    """Bytes one stage exchanged, over all sites and rounds."""

    stage: str
    rounds: int
    bytes_up: int
    bytes_down: int


class Federation:
    """Runs stages on a mesh of devices and remembers the bytes they sent.

    Args:
      settings: of the experiment.
      workdir: where stages log and checkpoint.
      parallel: "scan", "vmap", a chunk size, or "auto": scan on CPU, where convolutions of stacked
        clients are slow, vmap elsewhere.
      rounds_per_dispatch: rounds compiled into one call.
    """

    def __init__(self, settings: Settings, workdir: Workdir, parallel: str, rounds_per_dispatch: int) -> None:
        self.settings = settings
        self.workdir = workdir
        self.mesh = client_mesh()
        self.parallel = choose_parallel(parallel)
        self.rounds_per_dispatch = rounds_per_dispatch
        self.traffic: list[Traffic] = []

    def steps_per_round(self, data: ClientData, budget: Budget) -> int:
        """Local steps of the largest client in a round."""
        return budget.epochs * math.ceil(int(np.max(data.counts)) / budget.batch_size)

    def algorithm(
        self, task: Task, data: ClientData, budget: Budget, privacy: Privacy | None
    ) -> FederatedAlgorithm:
        """The federated algorithm that the settings name."""
        settings = self.settings
        options: dict[str, Any] = {}
        if settings.clients_per_round:
            options["sampler"] = uniform_clients(min(settings.clients_per_round, len(data.names)))
        if settings.clip_norm:
            options["channel"] = chain(clip(settings.clip_norm))
        optimizer = self.optimizer(data, budget)
        if privacy is not None:
            return dp_fedavg(
                task,
                optimizer,
                clipping_norm=privacy.clipping_norm,
                noise_multiplier=privacy.noise_multiplier,
                expected_batch_size=budget.batch_size,
                padded_batch_size=padded_batch_size(budget.batch_size),
                steps=self.steps_per_round(data, budget),
                **options,
            )
        recipe = {"fedavg": fedavg, "fedbn": fedbn}[settings.algorithm]
        return recipe(task, optimizer, keep_optimizer=True, **options)

    def optimizer(self, data: ClientData, budget: Budget) -> optax.GradientTransformation:
        """Adam with a cosine decay over the steps that the largest client takes in the whole stage."""
        steps = budget.rounds * self.steps_per_round(data, budget)
        schedule = optax.warmup_cosine_decay_schedule(
            budget.learning_rate / 10,
            budget.learning_rate,
            max(1, steps // 20),
            steps,
            budget.learning_rate / 50,
        )
        # On one vector: kernels for each leaf would take nearly half as long to compile as the gradient.
        return optax.flatten(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule)))

    def train(
        self,
        stage: str,
        task: Task,
        variables: Variables,
        data: ClientData,
        budget: Budget,
        *,
        kind: str = "federated",
        privacy: Privacy | None = None,
    ) -> tuple[FederatedAlgorithm, RoundState]:
        """Trains one stage from ``variables``.

        Args:
          stage: its name in the log and among the checkpoints.
          task: what is learned.
          variables: the initial model of every site.
          data: the training clients.
          budget: rounds and steps; the same for every kind, so that they see each example equally often.
          kind: "federated", "local" (each site alone) or "centralised" (the sites' data pooled).
          privacy: noise of DP-SGD at every site; federated training only.

        Returns:
          The algorithm and its last state.
        """
        if kind == "centralised":
            data = pool(data)
        if kind == "federated":
            algorithm = self.algorithm(task, data, budget, privacy)
        else:
            algorithm = local_only(task, self.optimizer(data, budget))
        samples_itself = algorithm.client.batching is not None
        round = make_round(
            algorithm,
            batch_size=None if samples_itself else budget.batch_size,
            epochs=None if samples_itself else budget.epochs,
            mesh=self.mesh,
            parallel=self.parallel,
        )
        compiled = {}

        def dispatch(count: int):
            if count not in compiled:
                compiled[count] = run_rounds(round, count)
            return compiled[count]

        def summarise(info: RoundInfo) -> list[dict[str, Any]]:
            return [
                round_record(jax.tree.map(lambda x, i=i: x[i], info), data.names)
                for i in range(len(info.applied))
            ]

        state = train(
            self.workdir,
            stage,
            init_state(algorithm, variables, data, self.mesh),
            place(data, self.mesh),
            jax.random.fold_in(jax.random.key(self.settings.seed), zlib.crc32(stage.encode())),
            rounds=budget.rounds,
            dispatch=dispatch,
            rounds_per_dispatch=self.rounds_per_dispatch,
            summarise=summarise,
        )
        if kind == "federated":
            self.traffic.append(self._traffic(stage))
        return algorithm, state

    def evaluator(self, algorithm: FederatedAlgorithm, task: Task) -> Callable[[Any, ClientData], Scores]:
        """``evaluate(model, data)``: each site's own model (a state) or one for all (variables)."""
        evaluate = make_evaluate(algorithm, task.metrics, mesh=self.mesh)

        def scores(model: RoundState | Variables, data: ClientData) -> Scores:
            # Without private leaves a state is its variables: one program serves both.
            if isinstance(model, RoundState) and not jax.tree.leaves(model.private):
                model = model.variables
            return site_scores(evaluate(model, place(data, self.mesh)), data.names)

        return scores

    def score_across_sites(
        self, algorithm: FederatedAlgorithm, task: Task, state: RoundState, data: ClientData
    ) -> tuple[Scores, Scores]:
        """Metrics of each site's own model at home, and the mean of the other sites' models there."""
        evaluate = make_cross_evaluate(algorithm, task.metrics, mesh=self.mesh)
        sums = jax.device_get(evaluate(state, place(data, self.mesh)))
        at_home = site_scores({k: (np.diag(t), np.diag(c)) for k, (t, c) in sums.items()}, data.names)
        others = ~np.eye(len(data.names), dtype=bool)
        abroad: Scores = {}
        for j, site in enumerate(data.names):
            abroad[site] = {}
            for name, (total, count) in sums.items():
                total, count = total[others[:, j], j], count[others[:, j], j]
                known = len(count) > 0 and np.all(count > 0)
                abroad[site][name] = float(np.mean(total / count)) if known else math.nan
        return at_home, abroad

    def _traffic(self, stage: str) -> Traffic:
        records = [r for r in read_log(self.workdir / "metrics.jsonl") if r["stage"] == stage]
        up, down = (sum(r[name] for r in records) for name in ("bytes_up", "bytes_down"))
        return Traffic(stage, len(records), up, down)


def padded_batch_size(expected: int) -> int:
    """Room for Poisson-sampled batches: they are truncated beyond it, which the accountant knows."""
    return 2 * expected + 4


def site_scores(sums: dict, names: tuple[str, ...]) -> Scores:
    """``{name: (sum, count)}``, each (sites,), as ``{site: {name: mean}}``; NaN where nothing was counted."""
    sums = jax.device_get(sums)
    return {
        site: {
            name: float(total[i] / count[i]) if count[i] > 0 else math.nan
            for name, (total, count) in sums.items()
        }
        for i, site in enumerate(names)
    }


def mean_score(scores: Scores, metric: str) -> float:
    """Mean over the sites that have the metric."""
    values = [site[metric] for site in scores.values() if not math.isnan(site.get(metric, math.nan))]
    return float(np.mean(values)) if values else math.nan


def round_record(info: RoundInfo, names: tuple[str, ...]) -> dict[str, Any]:
    """One round as a JSON-able dict."""
    record: dict[str, Any] = {}
    for name, (total, count) in info.metrics.items():
        if name not in ("steps", "examples"):
            record[name] = float(total / count) if count > 0 else None
    record["clients"] = int(info.participated.sum())
    excluded = [names[i] for i in np.flatnonzero(info.excluded)]
    if excluded:
        record["excluded"] = excluded
    record["bytes_up"] = int(info.bytes_up.sum(dtype=np.int64))
    record["bytes_down"] = int(info.bytes_down.sum(dtype=np.int64))
    return record


def choose_parallel(parallel: str) -> str | int:
    """The ``parallel`` of `make_round` that a flag names; "auto" is the backend's best."""
    if parallel == "auto":
        return "scan" if jax.default_backend() == "cpu" else "vmap"
    if parallel in ("scan", "vmap"):
        return parallel
    if parallel.isdigit() and int(parallel) > 0:
        return int(parallel)
    raise ValueError(f"--parallel: expected auto, scan, vmap or a chunk size, found {parallel!r}")
