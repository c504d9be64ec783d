"""Delays of asynchronous clients, and the weights of late updates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fedrecon.errors import ArgumentError


def constant_durations(scale: Any = 1.0) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Every update of client i takes ``scale[i]`` (or ``scale``) of simulated time.

    Raises:
      ValueError: if a scale is not positive and finite.
    """
    scale = _check_scale(scale)
    return lambda key, client: scale[client] if scale.ndim else scale


def half_normal_durations(scale: Any = 1.0) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Each update of client i takes ``scale[i] |z|`` (or ``scale |z|``), z standard normal.

    The training times that Nguyen et al. (AISTATS 2022) observed.

    Raises:
      ValueError: if a scale is not positive and finite.
    """
    scale = _check_scale(scale)
    return lambda key, client: jnp.abs(jax.random.normal(key)) * (scale[client] if scale.ndim else scale)


def polynomial_discount(power: float = 0.5) -> Callable[[jax.Array], jax.Array]:
    """s = (1 + staleness)^-power; 0 discounts nothing.

    Raises:
      ValueError: if ``power`` is negative.
    """
    if not power >= 0:
        raise ArgumentError("power", "a number of at least 0", repr(power))
    return lambda staleness: (1 + staleness.astype(jnp.float32)) ** -power


def threshold_discount(most: int) -> Callable[[jax.Array], jax.Array]:
    """s = 1 up to the staleness ``most``, and 0 beyond.

    Raises:
      ValueError: if ``most`` is negative.
    """
    if not most >= 0:
        raise ArgumentError("most", "an integer of at least 0", repr(most))
    return lambda staleness: (staleness <= most).astype(jnp.float32)


def _check_scale(scale: ArrayLike) -> jax.Array:
    scale = np.asarray(scale, np.float32)
    if scale.ndim > 1 or not (np.isfinite(scale) & (scale > 0)).all():
        raise ArgumentError("scale", "positive finite numbers, one or one per client", scale)
    return jnp.asarray(scale)
