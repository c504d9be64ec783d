"""One federated training: data, rounds, scores of every client, and what it cost."""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence

import jax

from experiments.pipeline.checked_network import checked_network
from experiments.pipeline.cohorts import Split
from experiments.pipeline.configuration import configuration_of, save_configuration
from experiments.pipeline.federated_data import (
    FederatedData,
    load_data,
    make_task,
    representation,
)
from experiments.pipeline.federated_settings import LABELS, TrainSettings, check_settings, norm_note
from experiments.pipeline.folders import data_kind
from experiments.pipeline.reconstruction import classical, physics_of
from fedrecon.files import write_atomically
from fedrecon.learned import save_network
from fedrecon.reporting import format_table, save_partition_plot
from fedrecon.runtime import Workdir, agreed, decode_numbers, is_lead
from fedrecon.tasks import Configured, bottleneck, measure_of
from fedrecon.training import (
    Budget,
    Cost,
    Execution,
    Results,
    Scores,
    Stage,
    as_json,
    check_method,
    choose_parallel,
    example_of,
    has_own_models,
    is_finished,
    naming_the_line,
    read_results,
    released_file,
    run_stage,
    summary,
)
from fedrecon.training.local_steps import accumulated, in_precision
from fedrecon.training.predictions import evaluated_task
from fedrecon.training.secure import sums_statement
from fedrecon.weights import read_weights

# The figure by which methods are compared, and the figures of the table.
METRICS = {
    "classification": ("accuracy", "auc", "loss"),
    "segmentation": ("dice", "hd95", "loss"),
    "reconstruction": ("psnr", "ssim", "loss"),
}
# Figures that tasks of some methods have besides, by how their names begin.
_FURTHER = ("kappa", "auc_class", "f1_class")
# Added to members of ensembles, so that their keys are no others that are folded from the seed.
_MEMBERS = 10_000
# A table of more clients is left to results.json.
_MOST_ROWS = 100
_BASELINES = "baselines.json"


def run(
    settings: TrainSettings,
    workdir: Workdir,
    *,
    parallel: str = "auto",
    rounds_per_dispatch: int = 1,
    data: FederatedData | None = None,
    report_stage: Callable[[str], None] = lambda stage: None,
    announce: Callable[[str], None] = lambda sentence: None,
    baselines: bool = False,
) -> tuple[Results, Cost]:
    """Trains, or finishes what an interrupted run left, and scores; a finished run is only read.

    With several processes all of them call it, and process 0 writes.

    Args:
      settings: of the training.
      workdir: where config.json, metrics.jsonl, checkpoints, partition.png and results.json are.
      parallel: how clients run on one device; see `resolve_parallel`.
      rounds_per_dispatch: rounds compiled into one call.
      data: of these settings, if they were loaded before.
      report_stage: called with the name of each stage that begins, as in `Watchdog`.
      announce: called with what a round will occupy, before the first one.
      baselines: also scores methods without training, see `write_baselines`.

    Raises:
      ValueError: a setting or the data do not fit; names the flag or the file.
    """
    check_settings(settings)
    check_method(settings.federation, (settings.task,))
    choose_parallel(parallel)
    if agreed(is_finished(workdir.path, settings.rounds)):
        return read_results(workdir)
    data = data or load_data(settings)
    title = f"{settings.cohort}, {settings.partition}"
    if is_lead():
        save_partition_plot(
            workdir / "partition.png", data.counts, data.train.names, data.labels, title=title
        )
    if baselines and settings.task == "reconstruction" and jax.process_count() == 1:
        write_baselines(workdir, data)
    execution = Execution(parallel, rounds_per_dispatch, report_stage, announce)
    with naming_the_line(settings.federation.methods_from), naming_the_line(settings.task, "task"):
        chosen = configuration_of(settings, data)
        stage = stage_of(settings, data, chosen)
        budget = budget_of(settings, chosen)
        sentences = (data.notes, norm_note(settings), chosen.sentence() if chosen else "")
        notes = " ".join(filter(None, sentences))
        if chosen and is_lead():
            save_configuration(workdir.path, chosen)
        found = run_stage(
            stage, data.test, settings.federation, budget, workdir, execution, notes, data.unseen
        )
    file = released_file(workdir.path, stage.name)
    if settings.task == "reconstruction" and is_lead() and file.exists():
        kept = data.validation or data.test
        network = checked_network(settings, read_weights(file)[0], data.train, kept)
        save_network(workdir / "network.npz", network)
    return found


def write_baselines(workdir: Workdir, data: FederatedData) -> None:
    """Scores the direct image, CG-SENSE and total variation on the test examples, in ``baselines.json``.

    Weights are those of the best mean PSNR in validation; without a validation split only zero-filled images
    (of CT, filtered back-projections) are scored. What an interrupted run has written stays.
    """
    if (workdir / _BASELINES).exists():
        return
    tuned = data.validation is not None
    split = Split(data.train, data.validation if tuned else data.test, data.test, data.unseen)
    modality = physics_of(data.train.examples)
    scores, _, weights = classical(measure_of(data.train.examples), split, modality, tuned=tuned)
    apart = [] if data.unseen is None else list(data.unseen.names)
    document = {"scores": scores, "weights": weights, "unseen": apart}
    write_atomically(workdir / _BASELINES, (json.dumps(as_json(document), indent=2) + "\n").encode())


def print_baselines(workdir: Workdir, metrics: Sequence[str] = ("psnr", "ssim")) -> None:
    """The table of `write_baselines`, if it was written."""
    file = workdir / _BASELINES
    if not file.exists():
        return
    rows = []
    document = decode_numbers(json.loads(file.read_text()))
    apart = document.get("unseen", [])
    for method, by_client in document["scores"].items():
        # Null is nothing to score.
        known = {c: {k: v for k, v in x.items() if v is not None} for c, x in by_client.items()}
        figures = [summary({c: x for c, x in known.items() if c not in apart}, metric) for metric in metrics]
        foreign = [known[c].get(metric) for c in apart for metric in metrics]
        rows.append([method, *(_figure(value) for pair in figures for value in pair), *map(_figure, foreign)])
    header = [f"{which} {metric}" for metric in metrics for which in ("mean", "worst")]
    header += [f"{client} (unseen) {metric}" for client in apart for metric in metrics]
    print(format_table(["without training", *header], rows))


def print_results(settings: TrainSettings, results: Results, cost: Cost) -> None:
    """The table of clients, and the cost."""
    metrics = metrics_of(settings.task, results)
    models = {"own": results.own, "released": results.released}
    if not has_own_models(settings.federation):
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
    for client, scores in results.unseen.items():
        # What is handed out is all that such a site gets.
        cells = ["–" if name == "own" else _figure(scores.get(m)) for name in models for m in metrics]
        if list(models) == ["own"]:
            cells = [_figure(scores.get(m)) for m in metrics]
        rows.append([f"{client} (unseen)", "0", "", *cells])
    if len(results.own) > _MOST_ROWS:
        rows = rows[len(results.own) :]
        print(f"{len(results.own)} clients, each of them in results.json")
    print(format_table(header, rows))
    if settings.task == "segmentation" and settings.data_structures:
        _print_structures(settings, results.released or results.own)
    print(*results.course.lines(), sep="\n")
    if results.privacy:
        rows = [[client, f"{epsilon:.3f}"] for client, epsilon in results.privacy["epsilon"].items()]
        print(results.privacy["statement"] + "\n" + format_table(["client", "ε"], rows[:_MOST_ROWS]))
    if sums := sums_statement(settings.federation):
        print(sums)
    if settings.data_labels and results.notes:
        print(results.notes)
    elif note := norm_note(settings) or (settings.configure == "fingerprint" and results.notes):
        print(note)
    compiled = "none" if cost.compile_seconds is None else f"{cost.compile_seconds:.1f} s"
    print(
        f"compiling {compiled}, {cost.rounds_per_second:.2f} rounds/s, "
        f"{cost.clients_per_second:.2f} clients/s, "
        f"{results.bytes_up / 1e6:.2f} MB up, {results.bytes_down / 1e6:.2f} MB down"
    )


def _print_structures(settings: TrainSettings, scores: Scores) -> None:
    """Dice of each structure, over the images that show it, or where it was seen."""
    rows = []
    for number, name in enumerate(settings.data_structures.split(LABELS), 1):
        each = [_figure(scores[client].get(f"dice_{number}")) for client in scores]
        rows.append([name, *map(_figure, summary(scores, f"dice_{number}")), *each])
    print(format_table(["Dice", "mean", "worst", *scores], rows))


def metrics_of(task: str, results: Results) -> tuple[str, ...]:
    """The figures of a task; of one's own all of its metrics, the loss last."""
    names = {name for scores in results.own.values() for name in scores}
    if task in METRICS:
        *first, loss = METRICS[task]
        return (*first, *sorted(name for name in names if name.startswith(_FURTHER)), loss)
    return tuple(sorted(names, key=lambda name: (name == "loss", name)))


def budget_of(settings: TrainSettings, chosen: Configured | None = None) -> Budget:
    """What the training may spend; under differential privacy batches have the expected size."""
    federation = settings.federation
    batch_size = federation.expected_batch_size(settings.batch_size)
    if chosen:
        batch_size = chosen.configuration.batch
    return Budget(settings.rounds, settings.epochs, batch_size, settings.learning_rate, settings.local_steps)


def stage_of(settings: TrainSettings, data: FederatedData, chosen: Configured | None = None) -> Stage:
    """What is trained; all methods have the same keys: initial weights, batches and samples of clients."""
    example = example_of(data.train)
    task = evaluated_task(settings.federation, make_task(settings, example, chosen), example)
    task = accumulated(in_precision(task, settings.precision), settings.accumulate)
    own = training_key(settings.seed, settings.member)
    keys = [jax.random.fold_in(own, number) for number in (1, 2, 3)]
    variables = task.init(keys[0])
    represents = {"classification": representation, "reconstruction": bottleneck}
    represent = represents[settings.task](task) if settings.task in represents else None
    return Stage(
        settings.federation.algorithm,
        task,
        variables,
        data.train,
        keys[1],
        keys[2],
        represent,
        data.validation,
        {"task": settings.task, "data": data_kind(settings), "preparation": dict(data.preparation)},
    )


def training_key(seed: int, member: int) -> jax.Array:
    """What the keys of initial weights, batches and samples of clients are folded from."""
    key = jax.random.key(seed)
    return jax.random.fold_in(key, _MEMBERS + member) if member else key


def _figure(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def with_seed(settings: TrainSettings, seed: int) -> TrainSettings:
    """The same training from another seed."""
    return dataclasses.replace(settings, seed=seed)
