"""Latents that clients send in place of examples, for discriminators that stay at other clients."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedrecon.federated.algorithm import Batches
from fedrecon.types import Batch, PyTree, Variables

# ``represent(params, stats, batch) -> (examples, features)``
Represent = Callable[[PyTree, PyTree, Batch], jax.Array]


def latent_width(represent: Represent, variables: Variables, example: Mapping[str, Any]) -> int:
    """Features of a latent, of a batch of these shapes."""
    batch = {**example, "valid": jax.ShapeDtypeStruct((1,), bool)}
    return jax.eval_shape(represent, *variables, batch).shape[-1]


def drawn_latents(
    represent: Represent,
    variables: Variables,
    batches: Batches,
    key: jax.Array,
    count: int,
    noise: float = 0.0,
) -> jax.Array:
    """Latents of a client's examples in random order, float32 (count, features).

    A client of fewer examples sends some of them more than once.

    Args:
      represent: of the network.
      variables: complete ones, as `LocalContext.complete` returns them.
      batches: the client's.
      key: of the order and the noise.
      count: how many.
      noise: standard deviation of Gaussian noise, as a part of each feature's own over these latents.
    """
    order_key, noise_key = jax.random.split(key)
    present, size = batches.present, batches.index.shape[1]
    places = jax.random.uniform(order_key, present.shape)
    order = jnp.argsort(jnp.where(present, places, 2))
    rows = -(-count // size)
    index = order[jnp.arange(rows * size) % jnp.maximum(batches.count, 1)].reshape(rows, size)
    found = jax.lax.map(lambda where: represent(*variables, batches.take(where, jnp.ones(size, bool))), index)
    found = found.reshape(rows * size, -1)[:count].astype(jnp.float32)
    return with_noise(noise_key, found, noise) if noise else found


def with_noise(key: jax.Array, latents: jax.Array, noise: float) -> jax.Array:
    """``z + N(0, (noise std(z))^2)`` of latents (count, features), deviations of each feature over them."""
    return latents + noise * latents.std(0) * jax.random.normal(key, latents.shape)
