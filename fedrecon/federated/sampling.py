"""Who takes part in a round, and with which weight."""

import jax.numpy as jnp

from fedrecon.federated.trees import random_order


def all_clients():
    """Full participation."""
    return lambda key, round, participations: jnp.ones(participations.shape, bool)


def uniform_clients(count: int):
    """``count`` of the clients, uniformly without replacement.

    The draw depends on the round's key and the number of clients only. The sampler raises ValueError when it
    is first used with fewer than ``count`` clients.

    Raises:
      ValueError: if ``count`` is not a positive integer.
    """
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"count: expected an integer of at least 1, found {count!r}")

    def sampler(key, round, participations):
        clients = participations.shape[0]
        if count > clients:
            raise ValueError(f"count: expected at most the number of clients {clients}, found {count}")
        order = random_order(key, jnp.arange(clients))
        return jnp.zeros(clients, bool).at[order[:count]].set(True)

    return sampler


def by_examples(weight, context):
    """p_i in proportion to the client's number of examples."""
    return weight


def equal(weight, context):
    """The same weight for every client that has data."""
    return (weight > 0).astype(weight.dtype)
