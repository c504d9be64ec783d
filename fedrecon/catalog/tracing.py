"""Bytes of methods, by tracing them at their defaults on a model that is nobody's."""

import functools
import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon import federated as fl
from fedrecon.alignment import Contrast
from fedrecon.catalog.entry import RATES, Entry
from fedrecon.federated.mechanism import Mechanism
from fedrecon.federated.methods.remembering import Memory
from fedrecon.federated.traffic import RoundBytes, round_bytes
from fedrecon.types import Task, Variables

PARAMETERS = 10**6
_HEAD, _NORM, _CLIENTS = 10**4, 2 * 10**3, 10


@functools.cache
def traffic(entry: Entry) -> RoundBytes:
    """Bytes of one client in one round, for a model of 10**6 float32 parameters and 10 clients.

    Of the parameters 10 000 are the head and 2 000 belong to normalization layers; there are no statistics.
    Found by tracing the engine's own accounting. Options without a default are taken to be 1.
    """
    return round_bytes(example(entry), *example_arguments())


def example(entry: Entry) -> fl.FederatedAlgorithm:
    """The method at its defaults, for the model and the clients of `traffic`."""
    shapes, _ = example_arguments()
    head, normalization = (
        Variables({name: name == part for name in shapes.params}, {}) for part in ("head", "norm")
    )
    known = {
        "optimizer": optax.sgd(0.1),
        "learning_rate": 0.1,
        "clients": _CLIENTS,
        "sizes": (2,) * _CLIENTS,
        "head": head,
        "head_steps": 1,
        "represent": _predict,
        "score": lambda params, stats, batch: jnp.float32(0),
        "example": {"image": jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)},
        "mechanism": Mechanism(1.0, 1.0, 1, 1, unit=entry.unit or "example"),
        "contrast": CONTRAST,
        # Of a block that is not the first.
        "memory": Memory(_initial(None), _initial(None).params),
        "exchanged": None,
    }
    parameters = inspect.signature(entry.recipe).parameters.values()
    required = {p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
    given = (*RATES[entry.rate], *(name for name in entry.needs if name == "memory"))
    arguments = {name: known.get(name, 1) for name in (required - {"task"}) | set(given)}
    task = Task(_initial, _loss, _metrics, _predict, normalization)
    return entry.recipe(task, **arguments)


def example_arguments() -> tuple[Variables, "_Examples"]:
    """Shapes of the model and of the clients' data."""
    batch = {
        "x": jax.ShapeDtypeStruct((_CLIENTS, 2, 1), jnp.float32),
        "image": jax.ShapeDtypeStruct((_CLIENTS, 2, 8, 8, 1), jnp.float32),
        **{name: jax.ShapeDtypeStruct((_CLIENTS, 2), jnp.int32) for name in ("label", "slice", "slices")},
    }
    valid = jax.ShapeDtypeStruct((_CLIENTS, 2), jnp.bool_)
    return jax.eval_shape(_initial, jax.random.key(0)), _Examples(batch, valid)


class _Examples(NamedTuple):
    examples: dict
    valid: jax.ShapeDtypeStruct


def _initial(key):
    del key
    sizes = {"body": PARAMETERS - _HEAD - _NORM, "head": _HEAD, "norm": _NORM}
    return Variables({name: jnp.zeros(size) for name, size in sizes.items()}, {})


def _predict(params, stats, batch):
    del stats
    x = batch["x"] if "x" in batch else batch["image"].mean((1, 2))
    return x * sum(x.sum() for x in params.values())


def _metrics(params, stats, batch):
    return {"kappa": (jnp.float32(0), jnp.float32(1))}


def _loss(params, stats, batch, key):
    del key
    return jnp.where(batch["valid"][:, None], _predict(params, stats, batch), 0).mean(), (stats, {})


# One feature, which is what the model predicts.
CONTRAST = Contrast(
    lambda batch, key: (batch, batch),
    lambda params, stats, batch, key: (_predict(params, stats, batch), stats),
    _predict,
    1,
)
