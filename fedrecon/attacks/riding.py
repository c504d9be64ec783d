"""Free riders: clients that send something for a model that they did not work for.

Together with `fedrecon.attacks.free_rider`, which sends nothing or noise, these are the usual ones (Lin et
al. 2019, arXiv:1911.12560; Fraboni et al. 2021). `fedrecon.federated.reducers.watch_riders` looks for them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.types import PyTree, Variables


class Ride(NamedTuple):
    """What a rider remembers and sends.

    Attributes:
      begin: ``begin(variables) -> memory`` before its first round.
      send: ``send(memory, received, delta, key) -> (delta, memory)``: its message, given the model that it
        received and the change that it would have found by training.
      keep: how many of its examples, the first ones, it has; 0 is all of them.
      claim: what it multiplies its number of examples by.
    """

    begin: Callable[[Variables], PyTree] = lambda variables: ()
    send: Callable[[PyTree, Variables, Variables, jax.Array], tuple[Variables, PyTree]] = (
        lambda memory, received, delta, key: (delta, memory)
    )
    keep: int = 0
    claim: float = 1.0


def echo(noise: float = 0.0, decay: float = 1.0) -> Ride:
    """Sends the last step of the model back, and nothing in its first round.

    Args:
      noise: standard deviation of Gaussian noise on it in the first round.
      decay: gamma; in round r (from 1) the noise has r^-gamma of that deviation.

    Raises:
      ValueError: an argument is negative.
    """
    for name, value in (("noise", noise), ("decay", decay)):
        if not value >= 0:
            raise ArgumentError(name, "a number of at least 0", repr(value))

    def begin(variables: Variables) -> PyTree:
        return {"model": jax.tree.map(jnp.copy, variables), "round": jnp.float32(0)}

    def send(
        memory: PyTree, received: Variables, delta: Variables, key: jax.Array
    ) -> tuple[Variables, PyTree]:
        count = memory["round"] + 1
        step = jax.tree.map(lambda new, old: new - old, received, memory["model"])
        if noise:
            step = _plus(step, noise * count**-decay, key)
        return step, {"model": received, "round": count}

    return Ride(begin, send)


def stale() -> Ride:
    """Trains once, and sends that change in every round."""

    def begin(variables: Variables) -> PyTree:
        return {"delta": jax.tree.map(jnp.zeros_like, variables), "begun": jnp.zeros((), bool)}

    def send(
        memory: PyTree, received: Variables, delta: Variables, key: jax.Array
    ) -> tuple[Variables, PyTree]:
        kept = jax.tree.map(lambda old, new: jnp.where(memory["begun"], old, new), memory["delta"], delta)
        return kept, {"delta": kept, "begun": jnp.ones_like(memory["begun"])}

    return Ride(begin, send)


def disguised_noise(factor: float = 1.0) -> Ride:
    """Sends noise that is ``factor`` times as long as an honest change, which the simulation finds for it.

    Raises:
      ValueError: if ``factor`` is not positive.
    """
    if not factor > 0:
        raise ArgumentError("factor", "a positive number", repr(factor))

    def send(
        memory: PyTree, received: Variables, delta: Variables, key: jax.Array
    ) -> tuple[Variables, PyTree]:
        drawn = _plus(jax.tree.map(jnp.zeros_like, delta), 1.0, key)
        share = factor * optax.tree.norm(delta.params) / jnp.maximum(optax.tree.norm(drawn.params), 1e-30)
        return jax.tree.map(lambda x: (share * x).astype(x.dtype), drawn), memory

    return Ride(send=send)


def false_size(examples: int = 2, claim: float = 10.0) -> Ride:
    """Trains on its first ``examples`` alone, and claims ``claim`` times the number of all that others see.

    Args:
      examples: that it has.
      claim: factor on its own number of examples, the true one of the data set.

    Raises:
      ValueError: an argument is not positive.
    """
    if examples < 1:
        raise ArgumentError("examples", "a positive integer", repr(examples))
    if not claim > 0:
        raise ArgumentError("claim", "a positive number", repr(claim))
    return Ride(keep=examples, claim=claim)


def _plus(tree: PyTree, deviation: float | jax.Array, key: jax.Array) -> PyTree:
    """Gaussian noise on the floating-point leaves."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, max(len(leaves), 1))
    noisy = [
        (x + deviation * jax.random.normal(k, x.shape, x.dtype)).astype(x.dtype)
        if jnp.issubdtype(x.dtype, jnp.floating)
        else x
        for x, k in zip(leaves, keys, strict=False)
    ]
    return jax.tree.unflatten(structure, noisy)
