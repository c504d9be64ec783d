"""What recipes of the catalog are called with: what a training gives, and stand-ins before there is one."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedrecon import catalog
from fedrecon import federated as fl
from fedrecon.catalog import Entry
from fedrecon.data import ClientData
from fedrecon.errors import ArgumentError
from fedrecon.federated.mechanism import Mechanism
from fedrecon.tasks import layer_features, unit_score
from fedrecon.training.budgets import Budget
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.options import FlagError, as_flag_error
from fedrecon.types import Task, Variables


def needed(
    settings: FederationSettings,
    chosen: Entry,
    options: Mapping[str, Any],
    budget: Budget,
    task: Task,
    train: ClientData,
) -> dict[str, Any]:
    """What the method needs of a training, as arguments of its recipe.

    Raises:
      FlagError: the head that the options name has no leaves.
    """
    arguments: dict[str, Any] = {}
    if "clients" in chosen.needs:
        arguments["clients"] = train.clients
    if "sizes" in chosen.needs:
        arguments["sizes"] = np.asarray(train.counts)
    if "example" in chosen.needs:
        arguments["example"] = {
            name: jax.ShapeDtypeStruct((1, *x.shape[2:]), x.dtype) for name, x in train.examples.items()
        }
    if "features" in chosen.needs:
        arguments["features"] = layer_features(task)
    if "rounds" in chosen.needs:
        arguments["rounds"] = budget.rounds
    if "score" in chosen.needs:
        arguments["score"] = unit_score(task)
    if "maps" in chosen.needs:
        last = layer_features(task, lambda module: module.path == ("head",))
        arguments["maps"] = lambda params, stats, batch: last(params, stats, batch)["head"]
    if "head" in chosen.needs:
        shapes = jax.eval_shape(task.init, jax.random.key(0))
        try:
            arguments["head"] = fl.leaves_under(shapes, (options.get("head", "head"),))
        except ArgumentError as error:
            raise FlagError("algorithm.head", error.expected[:300], error.found) from error
    if "head_steps" in chosen.needs:
        # Half of the steps of the smallest client, so that everybody trains the body, too.
        smallest = budget.full_steps(np.min(np.asarray(train.counts)))
        arguments["head_steps"] = max(1, int(smallest) // 2)
    return arguments


def of_recipe(entry: Entry, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that the recipe takes, not its task or its exchange; the head is a need."""
    chosen = catalog.chosen_options(entry.recipe, options)
    return {name: value for name, value in chosen.items() if name != "head"}


# A task that is nobody's.
STAND_IN = Task(
    init=lambda key: Variables({"body": jnp.zeros(1), "head": jnp.zeros(1)}, {}),
    loss=lambda params, stats, batch, key: (params["body"].sum(), (stats, {})),
    metrics=lambda params, stats, batch: {},
    predict=lambda params, stats, batch: params["body"],
    normalization=Variables({"body": True, "head": False}, {}),
)


def stand_ins(entry: Entry) -> dict[str, Any]:
    """Arguments of the recipe where there is no training yet, for `STAND_IN`."""
    known = {
        "optimizer": optax.sgd(0.1),
        "learning_rate": 0.1,
        "clients": 2,
        "sizes": (1, 1),
        "head_steps": 1,
        "head": Variables({"body": False, "head": True}, {}),
        "represent": lambda *arguments: None,
        "features": lambda *arguments: {},
        "maps": lambda *arguments: None,
        "score": lambda *arguments: jnp.float32(0),
        "rounds": 1,
        "contrast": catalog.CONTRAST,
        "example": {"image": jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)},
        "exchanged": None,
        "mechanism": Mechanism(1.0, 1.0, 1, 1, unit=entry.unit or "example"),
    }
    names = (*catalog.RATES[entry.rate], *entry.needs)
    return {name: known[name] for name in names if name in known}


def call_recipe(
    settings: FederationSettings, entry: Entry, task: Task, arguments: Mapping[str, Any]
) -> fl.FederatedAlgorithm:
    """The recipe's algorithm.

    Raises:
      FlagError: the recipe refuses its arguments.
    """
    try:
        return entry.recipe(task, **arguments)
    except ArgumentError as error:
        if error.name == "methods" and settings.dp_epsilon:
            sent = str(error.found).partition("one that ")[2].partition(", together")[0]
            reason = f"{sent} without noise" if sent else "defines batches of its own"
            expected = f"0 with --algorithm={settings.algorithm}, which {reason}"
            raise FlagError("dp_epsilon", expected, settings.dp_epsilon) from error
        raise as_flag_error(error, {"reduce": "reduce"}, "algorithm.") from error
