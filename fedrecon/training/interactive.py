"""`fedrecon.run`: one federated training from Python."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fedrecon.catalog import Entry
from fedrecon.data import ClientData, Cohort
from fedrecon.data.clients import cohort_from_arrays
from fedrecon.errors import ArgumentError
from fedrecon.federated import FederatedAlgorithm, Method
from fedrecon.runtime import Workdir, WorkdirError, describe_environment, read_log
from fedrecon.tasks import Configured, check_labels, configured
from fedrecon.training.budgets import Budget
from fedrecon.training.catalog_algorithms import check_method
from fedrecon.training.execution import Execution
from fedrecon.training.federation_checks import check_budget, check_federation
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.growth import rounds_obstacle
from fedrecon.training.initial import initial_digest
from fedrecon.training.model_files import example_of, read_models
from fedrecon.training.named_tasks import check_sizes, made_task, named_task
from fedrecon.training.options import FlagError, check_needs, check_ranges, flat
from fedrecon.training.own_methods import named_method
from fedrecon.training.progress import Course
from fedrecon.training.results import is_finished, keep_program, read_results, run_stage
from fedrecon.training.scores import Scores, summary
from fedrecon.training.stage import Stage, check_private, started
from fedrecon.types import Task, Variables

_TASK = "own"


class Result(NamedTuple):
    """What `run` returns.

    Attributes:
      variables: the trained model that is handed out; None where nothing is shared.
      personal: client -> the model that it evaluates with; empty where that is the one handed out, and of
        streamed clients.
      scores: client -> metric -> value on its test examples, of the model that it evaluates with; NaN where
        there was nothing to score, infinite what diverged.
      released: the same of ``variables``.
      unseen: the same at sites that do not train, which cohorts of files may have; where nothing is shared,
        the mean over the clients' models.
      mean, worst: metric -> the mean over the clients of ``scores``, and the value of the worst of them.
      course: of the rounds: first, last and best value of the curve, ``course.converged``, and
        ``course.lines()`` in words.
      bytes_up, bytes_down: sent by and to all clients in all rounds.
      history: a dict for each round, as in metrics.jsonl: "loss" in training, "validation" by client, bytes.
      privacy: the guarantee; empty without.
      workdir: where config.json, metrics.jsonl, results.json, models and checkpoints are.
    """

    variables: Variables | None
    personal: dict[str, Variables]
    scores: Scores
    released: Scores
    mean: dict[str, float]
    worst: dict[str, float]
    course: Course
    bytes_up: int
    bytes_down: int
    history: list[dict[str, Any]]
    privacy: dict[str, Any]
    workdir: Path
    unseen: Scores = {}  # noqa: RUF012


def run(
    cohort: Cohort | tuple[ClientData, ...] | Mapping[str, Mapping[str, Any]],
    task: Task | str | Callable[[Mapping[str, jax.ShapeDtypeStruct]], Task],
    method: str | Method | FederatedAlgorithm | Entry | Callable = "fedavg",
    *,
    workdir: str | os.PathLike,
    rounds: int = 20,
    epochs: int = 1,
    batch_size: int = 10,
    learning_rate: float = 0.05,
    options: Mapping[str, Any] | None = None,
    network: str | Mapping[str, Any] | None = None,
    seed: int = 0,
    parallel: str = "auto",
    rounds_per_dispatch: int = 1,
    report: Callable[[str], None] | None = None,
    **settings: Any,
) -> Result:
    """Trains a task at the clients of a cohort by a federated method, and scores every client.

    The same call again continues where it was interrupted, bit for bit, and returns at once what is finished;
    ``rounds`` may be more then. Other arguments with the same ``workdir`` are refused.
    ``python -m experiments.export --workdir=WORKDIR --output=EXPORT`` makes a folder of the trained network
    that runs with jax alone.

    Args:
      cohort: a `Cohort`, such as `fedrecon.data.read_cohort` returns; or (train, test) or (train, test,
        validation) `ClientData`; or arrays by hospital and key, ``{hospital: {"image": array, "label": array,
        "patient": array}}``, each (examples, ...), which are divided by patient (`cohort_from_arrays`).
      task: a `Task`, such as `fedrecon.tasks.module_task` makes of a flax module; a function that makes one
        of an example of the data; or "classification", "segmentation" or "reconstruction".
      method: a name of the catalog (``python -m experiments.methods`` lists them); a `Method`; a recipe,
        ``recipe(task, optimizer or learning_rate, **options) -> FederatedAlgorithm``; a `FederatedAlgorithm`,
        which brings its own optimizer and rate; or a `catalog.Entry`.
      workdir: folder of the run; created when absent.
      rounds: of the federation.
      epochs: local passes over a client's data in a round.
      batch_size: examples in a local step; under ``dp_epsilon`` the expected number of examples or patients,
        as is ``dp_batch_size``.
      learning_rate: of the clients.
      options: of the method, by name.
      network: of a task that is named: a name of `fedrecon.models.NETWORKS`, such as "resnet18" or
        "unet-deep-supervision", or arguments of `fedrecon.training.named_task`,
        ``{"network": "unet", "channels": 16, "pools": 3, "norm": "batch"}``; for images and volumes. Of
        segmentations ``{"configure": "fingerprint"}`` has halvings, patches, normalization and the batch
        size chosen by nnU-Net's rules from counts of the sites, see `configured`.
      seed: of the division, the initial weights, the batches and the samples of clients.
      parallel: "scan", "vmap", a chunk size, or "auto": how clients run on one device.
      rounds_per_dispatch: rounds compiled into one call; checkpoints are written between calls.
      report: called with a line before each dispatch, for instance ``print``.
      **settings: fields of `fedrecon.training.FederationSettings`: ``optimizer="adam"``,
        ``patience=10`` (rounds without a better validation loss after which the best round is kept),
        ``sampler``, ``clients_per_round``, ``topology``, ``reduce``, ``dp_epsilon`` and others. Options of
        some by name are a mapping: ``codec="top_k", codec_options={"fraction": 0.01}``.

    Raises:
      ValueError: an argument or the data do not fit, or the folder holds another run; names it.
    """
    execution = Execution(parallel, rounds_per_dispatch, *([report] if report else []))
    budget = Budget(rounds, epochs, batch_size, learning_rate)
    try:
        with named_method(method) as name:
            train, test, validation = _parts(cohort, seed)
            prepared = cohort.preparation if isinstance(cohort, Cohort) else {}
            made, rules = _task(task, train, len(prepared.get("classes", ())), network)
            if rules:
                budget = budget._replace(batch_size=rules.configuration.batch)
                if settings.get("dp_epsilon"):
                    expected = "no dp_epsilon, since the counts of a fingerprint are not private"
                    raise ArgumentError("network['configure']", expected, settings["dp_epsilon"])
            federation = _federation(name, options or {}, settings)
            if "dp_batch_size" in settings:
                budget = budget._replace(batch_size=federation.expected_batch_size(batch_size))
            check_budget(federation, budget)
            check_method(federation, (task if isinstance(task, str) else _TASK,))
            keys = [jax.random.fold_in(jax.random.key(seed), number) for number in (1, 2, 3)]
            about = {
                "task": task if isinstance(task, str) else _TASK,
                "data": "not stated",
                "preparation": prepared,
            }
            stage = Stage(name, made, made.init(keys[0]), train, keys[1], keys[2], None, validation, about)
            check_private(stage, federation)
            config = {
                "program": "fedrecon.run",
                **flat(federation),
                # Passes are the only budget here.
                **{name: value for name, value in budget._asdict().items() if name != "steps"},
                "seed": seed,
                "cohort": _digest(train, test, validation),
                "task": _task_digest(made, train),
            }
            apart = cohort.unseen if isinstance(cohort, Cohort) else None
            if apart is not None:
                config["unseen"] = _digest(apart)
            return _run(stage, (test, apart), federation, budget, config, workdir, execution)
    except FlagError as error:
        words = re.sub(r"--(?=[a-z])", "", error.expected)
        argument = re.sub(r"^algorithm\.", "options.", error.flag)
        raise ArgumentError(argument, words, error.found) from error


def _run(
    stage: Stage,
    tests: tuple[ClientData, ClientData | None],
    federation: FederationSettings,
    budget: Budget,
    config: dict[str, Any],
    folder: str | os.PathLike,
    execution: Execution,
) -> Result:
    growing = {"rounds": rounds_obstacle(federation, execution.rounds_per_dispatch)}
    try:
        opened = Workdir(folder, config, describe_environment(), growing=growing)
    except WorkdirError as error:
        raise WorkdirError(re.sub(r"--(?=[a-z])", "", str(error))) from error
    with opened as workdir:
        if is_finished(workdir.path, budget.rounds):
            results, _ = read_results(workdir)
        else:
            test, unseen = tests
            results, _ = run_stage(stage, test, federation, budget, workdir, execution, unseen=unseen)
        released, personal = read_models(workdir.path, stage.name)
        if federation.finetune != "full":
            stage = stage._replace(task=started(stage, federation)[1].released)
        keep_program(workdir.path, stage, released)
        scores = {name: summary(results.own, name) for name in next(iter(results.own.values()), {})}
        return Result(
            variables=released,
            personal=personal,
            scores=results.own,
            released=results.released,
            mean={name: mean for name, (mean, _) in scores.items()},
            worst={name: worst for name, (_, worst) in scores.items()},
            course=results.course,
            bytes_up=results.bytes_up,
            bytes_down=results.bytes_down,
            history=list(read_log(workdir / "metrics.jsonl")),
            privacy=results.privacy,
            workdir=workdir.path,
            unseen=results.unseen,
        )


def _parts(cohort: Any, seed: int) -> tuple[ClientData, ClientData, ClientData | None]:
    if isinstance(cohort, Mapping):
        cohort = cohort_from_arrays(cohort, seed=seed)
    if isinstance(cohort, Cohort):
        return cohort.train, cohort.test, cohort.validation
    parts = cohort if isinstance(cohort, tuple) else ()
    if len(parts) not in (2, 3) or not all(isinstance(part, ClientData) for part in parts):
        expected = "a Cohort, (train, test) or (train, test, validation) ClientData, or arrays by hospital"
        raise ArgumentError("cohort", expected, type(cohort).__name__)
    if any(part.names != parts[0].names for part in parts):
        raise ArgumentError("cohort", "the same clients in all parts", [part.names for part in parts])
    return parts[0], parts[1], parts[2] if len(parts) == 3 else None


def _task(
    task: Any, train: ClientData, named: int, network: str | Mapping[str, Any] | None
) -> tuple[Task, Configured | None]:
    """The task, and what rules chose for it."""
    example = example_of(train)
    if isinstance(task, str):
        sizes: dict[str, Any] = {"network": network} if isinstance(network, str) else dict(network or {})
        check_sizes(task, sizes)
        key = "segmentation" if task == "segmentation" else "label"
        classes = max(int(np.max(train.examples.get(key, 0))) + 1, 2, named)
        if task == "classification" and "label" in train.examples:
            check_labels(train, "label", classes)
        rules = None
        if sizes.pop("configure", None):
            rules = configured(train.as_arrays(), channels=sizes.get("channels", 8), classes=classes)
        return named_task(task, example, classes=classes, configuration=rules, **sizes), rules
    if network is not None:
        raise ArgumentError("network", "none with a task of your own, which has one", network)
    return made_task(task, example), None


def _federation(name: str, options: Mapping[str, Any], settings: Mapping[str, Any]) -> FederationSettings:
    fields = {field.name: field for field in dataclasses.fields(FederationSettings) if field.metadata}
    options_of = {f.name: f for f in dataclasses.fields(FederationSettings) if f.name.endswith("_options")}
    dotted = {
        key: tuple(sorted((name, str(x)) for name, x in value.items()))
        for key, value in settings.items()
        if key in options_of and key != "algorithm_options" and isinstance(value, Mapping)
    }
    for key, value in settings.items():
        if key in dotted:
            continue
        if key not in fields or key == "algorithm":
            raise ArgumentError(key, f"an argument of run, or one of {', '.join(fields)}", "no such argument")
        kind = type(fields[key].default)
        if not isinstance(value, (int, float) if kind is float else kind):
            raise ArgumentError(key, f"a value of {kind.__name__}", repr(value))
    texts = tuple(sorted((key, str(value)) for key, value in options.items()))
    given = {**settings, **dotted}
    if given.get("initialize_from"):
        given["initialize_sha256"] = initial_digest(given["initialize_from"])
    federation = FederationSettings(algorithm=name, algorithm_options=texts, **given)
    check_ranges(federation)
    check_federation(federation)
    check_needs(federation, FederationSettings(algorithm=name))
    return federation


def _digest(*parts: ClientData | None) -> str:
    """SHA-256 of the examples of clients."""
    digest = hashlib.sha256()
    for part in parts:
        if part is None:
            digest.update(b"none")
            continue
        for name, x in sorted({**part.examples, "valid": part.valid}.items()):
            array = np.ascontiguousarray(x)
            digest.update(f"{name} {array.dtype} {array.shape} {part.names}".encode())
            digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def _task_digest(task: Task, train: ClientData) -> str:
    """SHA-256 of what the task computes, as this version of JAX writes it down."""
    batch = {**example_of(train), "valid": jax.ShapeDtypeStruct((1,), bool)}
    key = jax.random.key(0)

    def everything(variables: Variables, batch: dict, key: jax.Array) -> Any:
        return task.loss(*variables, batch, key), task.metrics(*variables, batch)

    digest = hashlib.sha256()
    traced = jax.make_jaxpr(everything)(jax.eval_shape(task.init, key), batch, key)
    for jaxpr in (traced, jax.make_jaxpr(task.init)(key)):
        # Functions are printed with their addresses.
        digest.update(re.sub(r"0x[0-9a-f]+", "", str(jaxpr)).encode())
        for constant in jaxpr.consts:
            if not jax.dtypes.issubdtype(constant.dtype, jax.dtypes.prng_key):
                digest.update(np.ascontiguousarray(constant).tobytes())
    return f"{digest.hexdigest()} (jax {jax.__version__})"
