"""One federated training: data, rounds, scores of every client, and what it cost."""

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.pipeline.federated_data import FederatedData, load_data, make_task
from experiments.pipeline.federated_methods import check_method, has_own_models, make_algorithm, method
from experiments.pipeline.federated_settings import TrainSettings, check_settings
from experiments.pipeline.federated_topologies import fine_tuned, open_plan, plan_mesh, resolve_parallel
from experiments.pipeline.federation import Scores, choose_parallel, site_scores
from experiments.pipeline.methods_file import naming_the_line
from fedrecon.data import ClientData, pool
from fedrecon.federated import client_variables, make_evaluate, place
from fedrecon.files import write_atomically
from fedrecon.reporting import format_table, save_partition_plot
from fedrecon.runtime import Workdir, agreed, host_copy, is_lead, read_log, train

# The figure by which methods are compared, and the figures of the table.
METRICS = {
    "classification": ("accuracy", "auc", "loss"),
    "segmentation": ("dice", "hd95", "loss"),
    "reconstruction": ("psnr", "ssim", "loss"),
}
LOWER_IS_BETTER = ("loss", "hd95", "nmse")
# A table of more clients is left to results.json.
_MOST_ROWS = 100


class Results(NamedTuple):
    """What a training leaves, as in results.json.

    Attributes:
      own: client -> metric -> value on the client's test examples, of the model it evaluates with itself.
      released: the same of the one model that is handed out; empty where nothing is shared.
      counts: client -> numbers of training and test examples.
      bytes_up, bytes_down: sent by and to all clients in all rounds.
      excluded: client -> rounds in which its update was left out.
    """

    own: Scores
    released: Scores
    counts: dict[str, tuple[int, int]]
    bytes_up: int
    bytes_down: int
    excluded: dict[str, int]


class Cost(NamedTuple):
    """Seconds of compiling (None after the rounds came to an end), and rounds and clients per second."""

    compile_seconds: float | None
    rounds_per_second: float
    clients_per_second: float


def run(
    settings: TrainSettings,
    workdir: Workdir,
    *,
    parallel: str = "auto",
    rounds_per_dispatch: int = 1,
    data: FederatedData | None = None,
    arrive: Callable[[str], None] = lambda place: None,
) -> tuple[Results, Cost]:
    """Trains, or finishes what an interrupted run left, and scores; a finished run is only read.

    With several processes all of them call it, and process 0 writes.

    Args:
      settings: of the training.
      workdir: where config.json, metrics.jsonl, checkpoints, partition.png and results.json are.
      parallel: how clients run on one device; see `resolve_parallel`.
      rounds_per_dispatch: rounds compiled into one call.
      data: of these settings, if they were loaded before.
      arrive: is told what begins, as of `Watchdog`.

    Raises:
      ValueError: a setting or the data do not fit; names the flag or the file.
    """
    check_settings(settings)
    check_method(settings)
    if parallel != "auto":
        choose_parallel(parallel)
    if agreed((workdir / "results.json").exists()):
        return read_results(workdir), Cost(None, *_speed(workdir))
    data = data or load_data(settings)
    title = f"{settings.cohort}, {settings.partition}"
    if is_lead():
        save_partition_plot(
            workdir / "partition.png", data.counts, data.train.names, data.labels, title=title
        )
    with naming_the_line(settings.methods_from):
        results, compile_seconds = _train_and_score(
            settings, workdir, data, parallel, rounds_per_dispatch, arrive
        )
    if is_lead():
        document = json.dumps(_without_nan(results._asdict()), indent=2)
        write_atomically(workdir / "results.json", document.encode())
    return results, Cost(compile_seconds, *_speed(workdir))


def read_results(workdir: Workdir) -> Results:
    """The results that a finished run left; NaN where a client had nothing to score."""
    document = json.loads((workdir / "results.json").read_text())
    for kind in ("own", "released"):
        document[kind] = {
            client: {name: math.nan if value is None else value for name, value in scores.items()}
            for client, scores in document[kind].items()
        }
    document["counts"] = {client: tuple(counts) for client, counts in document["counts"].items()}
    return Results(**document)


def summary(scores: Scores, metric: str) -> tuple[float, float]:
    """Mean over the clients that have the metric, and that of the worst of them."""
    values = [v for site in scores.values() if not math.isnan(v := site.get(metric, math.nan))]
    if not values:
        return math.nan, math.nan
    return float(np.mean(values)), max(values) if metric in LOWER_IS_BETTER else min(values)


def print_results(settings: TrainSettings, results: Results, cost: Cost) -> None:
    """The table of clients, and the cost."""
    metrics = METRICS[settings.task]
    models = {"own": results.own, "released": results.released}
    if not has_own_models(settings):
        models = {"": results.released}
    models = {name: scores for name, scores in models.items() if scores}
    header = ["client", "train", "test", *(f"{name} {m}".strip() for name in models for m in metrics)]
    kinds = list(models.values())
    rows = [
        [
            client,
            *map(str, results.counts[client]),
            *(_figure(k[client].get(m)) for k in kinds for m in metrics),
        ]
        for client in results.own
    ]
    for number, name in enumerate(("mean of clients", "worst client")):
        rows.append([name, "", "", *(_figure(summary(k, m)[number]) for k in kinds for m in metrics)])
    if len(results.own) > _MOST_ROWS:
        rows = rows[-2:]
        print(f"{len(results.own)} clients, each of them in results.json")
    print(format_table(header, rows))
    if results.excluded:
        print("left out: " + ", ".join(f"{c} in {n} rounds" for c, n in results.excluded.items()))
    compiled = "none" if cost.compile_seconds is None else f"{cost.compile_seconds:.1f} s"
    print(
        f"compiling {compiled}, {cost.rounds_per_second:.2f} rounds/s, "
        f"{cost.clients_per_second:.2f} clients/s, "
        f"{results.bytes_up / 1e6:.2f} MB up, {results.bytes_down / 1e6:.2f} MB down"
    )


def _train_and_score(settings, workdir, data: FederatedData, parallel, rounds_per_dispatch, arrive):
    pooled = method(settings.algorithm).pooled
    clients = pool(data.train) if pooled else data.train
    mesh = plan_mesh(settings)
    task = make_task(settings, clients)
    algorithm = make_algorithm(settings, task, data.train)
    key = jax.random.key(settings.seed)
    variables = task.init(jax.random.fold_in(key, 1))
    work = {"epochs": settings.epochs}
    if pooled and settings.clients_per_round:
        # As many examples a round as the sampled clients have on average.
        share = settings.clients_per_round / data.train.clients
        examples = share * int(np.sum(clients.counts))
        work = {"steps": max(1, round(settings.epochs * examples / settings.batch_size))}
    # One key for all methods: their initial weights, batches and samples of clients are the same.
    rounds_key = jax.random.fold_in(key, 2)
    arrive("compiling")
    given = (settings, algorithm, variables, clients, workdir.path)
    parallel = resolve_parallel(parallel, *given, mesh)
    compiled: dict[int, Any] = {}
    seconds = 0.0
    with open_plan(*given, mesh=mesh, parallel=parallel, **work) as plan:

        def dispatch(count: int):
            nonlocal seconds
            if count not in compiled:
                start = time.perf_counter()
                compiled[count] = plan.compile(count, rounds_key)
                seconds += time.perf_counter() - start
            return compiled[count]

        # Compiled before the first round, so that its time is not in the log.
        dispatch(min(rounds_per_dispatch, settings.rounds))
        state = train(
            workdir,
            settings.algorithm,
            plan.state,
            plan.data,
            rounds_key,
            rounds=settings.rounds,
            dispatch=dispatch,
            rounds_per_dispatch=rounds_per_dispatch,
            summarise=plan.records,
            arrive=arrive,
        )
        arrive("the scores")
        tune = functools.partial(
            fine_tuned, train=data.train, key=jax.random.fold_in(key, 3), mesh=mesh, parallel=parallel
        )
        scores = _score(settings, task, plan, plan.federation(state), data.test, mesh, tune)
    log = read_log(workdir / "metrics.jsonl")
    excluded: dict[str, int] = {}
    for record in log:
        for name in record.get("excluded", ()):
            excluded[name] = excluded.get(name, 0) + 1
    counts = {
        name: (int(a), int(b))
        for name, a, b in zip(data.train.names, data.train.counts, data.test.counts, strict=True)
    }
    up, down = (sum(r[name] for r in log) for name in ("bytes_up", "bytes_down"))
    # Streamed rounds compile in the first of them.
    seconds += sum(record.get("compile_seconds", 0) for record in log)
    return Results(*scores, counts, up, down, excluded), seconds


def _score(settings, task, plan, state, test: ClientData, mesh, tune) -> tuple[Scores, Scores]:
    evaluate = plan.evaluator(task.metrics, test)

    def scores(model):
        return site_scores(host_copy(evaluate(model)), test.names)

    entry = method(settings.algorithm)
    if entry.pooled:
        released = scores(client_variables(plan.algorithm, state, 0))
        return released, released
    if not entry.exchanges:
        return scores(state), {}
    released = scores(plan.average(state))
    if settings.fine_tune:
        tuned, own = tune(settings, task, plan.algorithm, state)
        sums = make_evaluate(tuned, task.metrics, mesh=mesh)(own, place(test, mesh))
        return site_scores(host_copy(sums), test.names), released
    return (scores(state) if has_own_models(settings) else released), released


def _speed(workdir: Workdir) -> tuple[float, float]:
    """Rounds and clients per second, without compiling."""
    log = read_log(workdir / "metrics.jsonl")
    seconds = sum(record["seconds"] - record.get("compile_seconds", 0) for record in log)
    if seconds <= 0:
        return math.nan, math.nan
    return len(log) / seconds, sum(record["clients"] for record in log) / seconds


def _figure(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null instead."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_seed(settings: TrainSettings, seed: int) -> TrainSettings:
    """The same training from another seed."""
    return dataclasses.replace(settings, seed=seed)
