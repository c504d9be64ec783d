"""One training from its settings to its results, which are kept, and read where it is finished."""

import json
import math
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fedrecon.data import ClientData
from fedrecon.exports import export_program
from fedrecon.files import write_atomically
from fedrecon.runtime import Workdir, decode_numbers, is_lead, read_log
from fedrecon.training.budgets import Budget
from fedrecon.training.execution import Execution
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.model_files import example_of, released_file, save_personal
from fedrecon.training.privacy_plan import plan_privacy
from fedrecon.training.progress import Course
from fedrecon.training.scores import Scores, as_json, foreign_scores
from fedrecon.training.stage import Stage, Trained, train_stage
from fedrecon.types import Task, Variables


class Results(NamedTuple):
    """What a training leaves, as in results.json.

    Attributes:
      own: client -> metric -> value on the client's test examples, of the model it evaluates with itself.
      released: the same of the one model that is handed out; empty where nothing is shared.
      counts: client -> numbers of training and test examples.
      bytes_up, bytes_down: sent by and to all clients in all rounds.
      course: of the rounds.
      privacy: the report of `plan_privacy`; empty without privacy.
      notes: what a reader must know about the data.
      unseen: the same of the released model at sites that do not train; where nothing is shared, the mean of
        the clients' models.
    """

    own: Scores
    released: Scores
    counts: dict[str, tuple[int, int]]
    bytes_up: int
    bytes_down: int
    course: Course
    privacy: dict[str, Any] = {}  # noqa: RUF012
    notes: str = ""
    unseen: Scores = {}  # noqa: RUF012


class Cost(NamedTuple):
    """Seconds of compiling (None after the rounds came to an end), and rounds and clients per second."""

    compile_seconds: float | None
    rounds_per_second: float
    clients_per_second: float


def run_stage(
    stage: Stage,
    test: ClientData,
    settings: FederationSettings,
    budget: Budget,
    workdir: Workdir,
    execution: Execution,
    notes: str = "",
    unseen: ClientData | None = None,
) -> tuple[Results, Cost]:
    """Trains, or finishes what an interrupted run left, scores, and writes results.json.

    With several processes all of them call it, and process 0 writes.

    Args:
      stage: what is trained.
      test: the clients' test split.
      settings: how clients train together; checked by `check_federation` and `check_method`.
      budget: rounds and steps.
      workdir: of the run, which has no other stage.
      execution: how.
      notes: what a reader must know about the data.
      unseen: test data of sites that do not train; None without.

    Raises:
      ValueError: the settings or the data do not go together, or no round changed the model; names the flag.
    """
    name = settings.algorithm
    plan = plan_privacy(settings, [(stage.clients, {name: budget})])
    trained = train_stage(stage, settings, budget, workdir, execution, plan.noise[name])
    if trained.own and not settings.stream and jax.process_count() == 1:
        save_personal(workdir.path, stage, trained)
    task = trained.tuning.released
    own, released = trained.scores(task, test)
    apart = {} if unseen is None else _unseen_scores(trained, task, test.clients, unseen)
    log = read_log(workdir / "metrics.jsonl")
    counts = {
        client: (int(a), int(b))
        for client, a, b in zip(test.names, stage.clients.counts, test.counts, strict=True)
    }
    up, down = (sum(r[name] for r in log) for name in ("bytes_up", "bytes_down"))
    # Streamed rounds compile in the first of them.
    seconds = trained.compile_seconds + sum(record.get("compile_seconds", 0) for record in log)
    privacy = plan.spent(workdir.path)
    results = Results(own, released, counts, up, down, trained.course, privacy, notes, apart)
    if is_lead():
        document = results._asdict() | {"course": results.course._asdict()}
        write_atomically(workdir / "results.json", json.dumps(as_json(document), indent=2).encode())
    return results, Cost(seconds, *_speed(workdir))


def _unseen_scores(trained: Trained, task: Task, clients: int, unseen: ClientData) -> Scores:
    """Of the released model, or the means of the clients' own; nothing where these are not at hand."""
    if trained.released is None and (jax.process_count() > 1 or not trained.own):
        return {}
    models = [trained.released] if trained.released is not None else trained.models(clients)
    metrics = jax.jit(lambda model, batch: task.metrics(model.params, model.stats, batch))
    rows = []
    for model in models:
        sums = [
            metrics(model, {**{k: v[i] for k, v in unseen.examples.items()}, "valid": unseen.valid[i]})
            for i in range(unseen.clients)
        ]
        rows.append(jax.tree.map(lambda *x: np.stack(x), *jax.device_get(sums)))
    stacked = jax.tree.map(lambda *x: np.stack(x), *rows)
    return foreign_scores(stacked, unseen.names, next(iter(stacked)))[0]


def is_finished(folder: Path, rounds: int) -> bool:
    """Whether a directory holds the results of all rounds of a training; it may have been one of fewer."""
    file = folder / "results.json"
    return file.exists() and json.loads(file.read_text())["course"]["planned"] == rounds


def read_results(workdir: Workdir) -> tuple[Results, Cost]:
    """What a finished run left: NaN where nothing was to score, infinite what diverged."""
    document = decode_numbers(json.loads((workdir / "results.json").read_text()))
    document.setdefault("unseen", {})
    for kind in ("own", "released", "unseen"):
        document[kind] = {
            client: {name: math.nan if value is None else value for name, value in scores.items()}
            for client, scores in document[kind].items()
        }
    given: dict[str, Any] = {
        name: math.nan if value is None else value for name, value in document["course"].items()
    }
    document["course"] = Course(**given)
    document["counts"] = {client: tuple(counts) for client, counts in document["counts"].items()}
    return Results(**document), Cost(None, *_speed(workdir))


def program_file(folder: Path, stage: str) -> Path:
    """Where the predictions of a released model are, of a task that no file or name tells."""
    return released_file(folder, stage).with_suffix(".stablehlo")


def keep_program(folder: Path, stage: Stage, released: Variables | None) -> None:
    """Writes the predictions beside the released model, for `experiments.export`, which cannot know the task.

    Without the extra ``fedrecon[export]`` nothing is written; of predictions that cannot be exported a
    warning tells.
    """
    file = program_file(folder, stage.name)
    if released is None or file.exists():
        return
    # Some networks look at which examples are padding.
    example = {**example_of(stage.clients), "valid": jax.ShapeDtypeStruct((1,), bool)}
    try:
        write_atomically(file, export_program(stage.task.predict, released, example))
    except ImportError:
        return
    # Whatever a task of somebody raises: the training has come to its end nevertheless.
    except Exception as error:
        text = (str(error).splitlines() or [""])[0]
        warnings.warn(f"the trained network cannot be exported: {type(error).__name__}: {text}", stacklevel=4)


def _speed(workdir: Workdir) -> tuple[float, float]:
    """Rounds and clients per second, without compiling and validation."""
    log = read_log(workdir / "metrics.jsonl")
    apart = ("compile_seconds", "validation_seconds")
    seconds = sum(record["seconds"] - sum(record.get(name, 0) for name in apart) for record in log)
    if seconds <= 0:
        return math.nan, math.nan
    return len(log) / seconds, sum(record["clients"] for record in log) / seconds
