"""Trained networks applied to the examples of several clients."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon import Variables
from fedrecon.data import ClientData
from fedrecon.learned import Signs

# Examples in a call, whatever the split: one program serves all of them.
CHUNK = 6


def each(function: Callable, models: Sequence[Any], data: ClientData) -> Any:
    """What ``function(model, batch)`` finds in every valid example, with the model of its client.

    Examples of clients in a row that have the same model go together, in chunks of one size.

    Returns:
      A pytree of arrays (valid examples, ...) in the order of ``np.nonzero(data.valid)``; None without any.
    """
    parts = []
    places = zip(*np.nonzero(data.valid), strict=True)
    for _, group in itertools.groupby(places, key=lambda place: id(models[place[0]])):
        where = list(group)
        for start in range(0, len(where), CHUNK):
            chunk = where[start : start + CHUNK]
            index = tuple(np.array(chunk + chunk[-1:] * (CHUNK - len(chunk))).T)
            batch = {name: jnp.asarray(np.asarray(x)[index]) for name, x in data.examples.items()}
            batch["valid"] = jnp.asarray(np.asarray(data.valid)[index])
            found = function(models[chunk[0][0]], batch)
            parts.append(jax.tree.map(partial(_first, len(chunk)), found))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts) if parts else None


def signs_of_clients(
    images_by: Callable, signs_by: Callable, models: Sequence[Variables], data: ClientData
) -> tuple[np.ndarray | None, list[Signs]]:
    """Magnitudes of all valid examples in the order of `each`, and the signs of each client's.

    Args:
      images_by, signs_by: from `make_images` and `make_signs`.
      models: of the clients.
      data: the clients.
    """

    def both(model: Variables, batch: Any) -> tuple[jax.Array, Signs]:
        images = images_by(model, batch)
        return jnp.abs(images), signs_by(images, batch)

    found = each(both, models, data)
    if found is None:
        return None, [Signs(*(np.zeros(0),) * 3)] * data.clients
    ends = np.cumsum(np.sum(data.valid, 1))[:-1]
    return found[0], [Signs(*own) for own in zip(*(np.split(x, ends) for x in found[1]), strict=True)]


def _first(count: int, x: jax.Array) -> np.ndarray:
    return np.asarray(x)[:count]
