"""What a method does before its rounds: a task of its own, and one exchange of all clients."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fedrecon import catalog
from fedrecon.data import ClientData
from fedrecon.federated.phases import Beforehand
from fedrecon.runtime import host_copy
from fedrecon.training.dotted import parse_options
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.options import FlagError, as_flag_error
from fedrecon.types import Task, Variables


def check_before(settings: FederationSettings, chosen: catalog.Entry) -> None:
    """Refuses what does not go with an exchange before the rounds.

    Raises:
      FlagError: privacy is asked for, or clients are streamed.
    """
    if chosen.before is None:
        return
    for flag in ("dp_epsilon", "stream"):
        if found := getattr(settings, flag):
            expected = f"0 with --algorithm={chosen.name}, whose clients exchange something before the rounds"
            raise FlagError(flag, expected, found)


def own_task(settings: FederationSettings, task: Task, example: Mapping[str, Any]) -> Task:
    """The task that the algorithm makes of one; of most algorithms the same.

    Args:
      settings: of the federation.
      task: what is learned.
      example: shapes and dtypes of a batch of one example.

    Raises:
      FlagError: the algorithm makes nothing of such a task or example.
    """
    chosen = catalog.lookup(settings.algorithm)
    if chosen.task is None:
        return task
    try:
        return chosen.task(task, example, **catalog.chosen_options(chosen.task, _options(settings, chosen)))
    except ValueError as error:
        raise as_flag_error(error, {"task": "algorithm", "example": "algorithm"}, "algorithm.") from error


def own_start(
    settings: FederationSettings,
    task: Task,
    variables: Variables,
    example: Mapping[str, Any],
    key: jax.Array,
) -> tuple[Task, Variables, tuple[str, ...]]:
    """`own_task`, a start of it from one of the task, and the names at the top that it has beside these.

    A task with none of these names has another network, and a start of its own.

    Args:
      settings, task, example: as in `own_task`.
      variables: of the task.
      key: of what the algorithm draws beside them.
    """
    made = own_task(settings, task, example)
    if made is task:
        return task, variables, ()
    drawn = made.init(jax.random.fold_in(key, 7))
    if not set(drawn.params) & set(variables.params):
        # Another network, which starts from nothing of the task's.
        return made, drawn, ()
    start = Variables(*({**own, **plain} for own, plain in zip(drawn, variables, strict=True)))
    beside = {name for own, plain in zip(drawn, variables, strict=True) for name in own if name not in plain}
    return made, start, tuple(sorted(beside))


def run_before(
    settings: FederationSettings,
    task: Task,
    variables: Variables,
    clients: ClientData,
    key: jax.Array,
    mesh: Mesh,
) -> Beforehand | None:
    """The algorithm's exchange before the rounds; None where there is none.

    It depends on its arguments alone, so that a run that is resumed does it again.

    Args:
      settings: of the federation.
      task, variables: what is trained, and from where.
      clients: the training data.
      key: of the rounds.
      mesh: of the rounds.

    Raises:
      ValueError: the data are not of the kind that is exchanged; names the flag.
    """
    chosen = catalog.lookup(settings.algorithm)
    if chosen.before is None:
        return None
    options = catalog.chosen_options(chosen.before, _options(settings, chosen))
    try:
        found = chosen.before(task, variables, clients, jax.random.fold_in(key, 8), mesh, **options)
    except ValueError as error:
        raise as_flag_error(error, {"task": "algorithm", "clients": "algorithm"}, "algorithm.") from error
    # Rounds take it for a constant, which has no place on a mesh of its own.
    return found._replace(exchanged=host_copy(found.exchanged))


def charged(before: Beforehand | None, done: int, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of rounds after ``done``, the first of all with the bytes of the exchange before it."""
    if before is None or done or not records:
        return records
    sent = {
        name: int(np.sum(np.asarray(getattr(before, name)), dtype=np.int64))
        for name in ("bytes_up", "bytes_down")
    }
    first = records[0] | {name: records[0][name] + count for name, count in sent.items()}
    first |= {f"{name}_before": count for name, count in sent.items()}
    return [first, *records[1:]]


def _options(settings: FederationSettings, chosen: catalog.Entry) -> dict[str, Any]:
    texts = dict(settings.algorithm_options)
    known = chosen.options | ({"head": str} if "head" in chosen.needs else {})
    return parse_options("algorithm", known, texts, chosen.name)
