"""One federated training: data, rounds, scores of every client, and what it cost."""

import dataclasses
import json
import math
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.pipeline.federated_data import FederatedData, load_data, make_task
from experiments.pipeline.federated_methods import check_method, make_algorithm, method
from experiments.pipeline.federated_settings import TrainSettings, check_settings
from experiments.pipeline.federation import Scores, choose_parallel, round_record, site_scores
from fedrecon.data import ClientData, pool
from fedrecon.federated import (
    average_variables,
    client_mesh,
    client_variables,
    init_state,
    make_evaluate,
    make_round,
    place,
    run_rounds,
)
from fedrecon.files import write_atomically
from fedrecon.reporting import format_table
from fedrecon.reporting.partition_plot import save_partition_plot
from fedrecon.runtime import Workdir, read_log, train

# The figure by which methods are compared, and the figures of the table.
METRICS = {
    "classification": ("accuracy", "auc", "loss"),
    "segmentation": ("dice", "hd95", "loss"),
    "reconstruction": ("psnr", "ssim", "loss"),
}
LOWER_IS_BETTER = ("loss", "hd95", "nmse")


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
    """Seconds of compiling the rounds (None where they came to an end before), and rounds per second."""

    compile_seconds: float | None
    rounds_per_second: float


def run(
    settings: TrainSettings,
    workdir: Workdir,
    *,
    parallel: str = "auto",
    rounds_per_dispatch: int = 1,
    data: FederatedData | None = None,
) -> tuple[Results, Cost]:
    """Trains, or finishes what an interrupted run left, and scores; a finished run is only read.

    Args:
      settings: of the training.
      workdir: where config.json, metrics.jsonl, checkpoints, partition.png and results.json are.
      parallel: how clients run on one device; see `choose_parallel`.
      rounds_per_dispatch: rounds compiled into one call.
      data: of these settings, if they were loaded before.

    Raises:
      ValueError: a setting or the data do not fit; names the flag or the file.
    """
    check_settings(settings)
    check_method(settings)
    way = choose_parallel(parallel)
    if (workdir / "results.json").exists():
        return read_results(workdir), Cost(None, _rounds_per_second(workdir))
    data = data or load_data(settings)
    title = f"{settings.cohort}, {settings.partition}"
    save_partition_plot(workdir / "partition.png", data.counts, data.train.names, data.labels, title=title)
    results, compile_seconds = _train_and_score(settings, workdir, data, way, rounds_per_dispatch)
    document = json.dumps(_without_nan(results._asdict()), indent=2)
    write_atomically(workdir / "results.json", document.encode())
    return results, Cost(compile_seconds, _rounds_per_second(workdir))


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
    if not method(settings.algorithm).personal:
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
    print(format_table(header, rows))
    if results.excluded:
        print("left out: " + ", ".join(f"{c} in {n} rounds" for c, n in results.excluded.items()))
    compiled = "none" if cost.compile_seconds is None else f"{cost.compile_seconds:.1f} s"
    print(
        f"compiling {compiled}, {cost.rounds_per_second:.2f} rounds/s, "
        f"{results.bytes_up / 1e6:.2f} MB up, {results.bytes_down / 1e6:.2f} MB down"
    )


def _train_and_score(settings, workdir, data: FederatedData, parallel, rounds_per_dispatch):
    centralised = settings.algorithm == "centralised"
    clients = pool(data.train) if centralised else data.train
    mesh = client_mesh()
    task = make_task(settings, clients)
    algorithm = make_algorithm(settings, task, data.train)
    key = jax.random.key(settings.seed)
    variables = task.init(jax.random.fold_in(key, 1))
    work = {"epochs": settings.epochs}
    if centralised and settings.clients_per_round:
        # As many examples a round as the sampled clients have on average.
        share = settings.clients_per_round / data.train.clients
        examples = share * int(np.sum(clients.counts))
        work = {"steps": max(1, round(settings.epochs * examples / settings.batch_size))}
    round_ = make_round(algorithm, batch_size=settings.batch_size, mesh=mesh, parallel=parallel, **work)
    # One key for all methods: their initial weights, batches and samples of clients are the same.
    arguments = (
        init_state(algorithm, variables, clients, mesh),
        place(clients, mesh),
        jax.random.fold_in(key, 2),
    )
    compiled: dict[int, Any] = {}
    seconds = 0.0

    def dispatch(count: int):
        nonlocal seconds
        if count not in compiled:
            start = time.perf_counter()
            compiled[count] = run_rounds(round_, count).lower(*arguments).compile()
            seconds += time.perf_counter() - start
        return compiled[count]

    def summarise(info):
        return [
            round_record(jax.tree.map(lambda x, i=i: x[i], info), clients.names)
            for i in range(len(info.applied))
        ]

    # Compiled before the first round, so that its time is not in the log.
    dispatch(min(rounds_per_dispatch, settings.rounds))
    state = train(
        workdir,
        settings.algorithm,
        *arguments,
        rounds=settings.rounds,
        dispatch=dispatch,
        rounds_per_dispatch=rounds_per_dispatch,
        summarise=summarise,
    )
    scores = _score(settings, task, algorithm, state, data.test, mesh)
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
    return Results(*scores, counts, up, down, excluded), seconds


def _score(settings, task, algorithm, state, test: ClientData, mesh) -> tuple[Scores, Scores]:
    evaluate = make_evaluate(algorithm, task.metrics, mesh=mesh)
    placed = place(test, mesh)

    def scores(model):
        return site_scores(evaluate(model, placed), test.names)

    if settings.algorithm == "centralised":
        released = scores(client_variables(algorithm, state, 0))
        return released, released
    if settings.algorithm == "local_only":
        return scores(state), {}
    released = scores(average_variables(algorithm, state))
    return (scores(state) if method(settings.algorithm).personal else released), released


def _rounds_per_second(workdir: Workdir) -> float:
    times = [record["seconds"] for record in read_log(workdir / "metrics.jsonl")]
    return len(times) / sum(times) if sum(times) > 0 else math.nan


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
