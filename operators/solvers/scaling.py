"""Least-squares problems in units in which the same steps suit any scanner."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from operators.algebra import LinearOperator, check_array, check_measured
from operators.solvers.linear import operator_norm, positive


def in_units(
    name: str,
    A: LinearOperator,
    y: jax.Array,
    solve: Callable[..., tuple[jax.Array, Any]],
    size: Callable[[jax.Array], jax.Array] = lambda back: jnp.max(jnp.abs(back)),
) -> tuple[jax.Array, Any]:
    """``solve(A, y, A.H(y), unit)``, image by image, for |A| = 1 and ``size(A.H(y))`` = 1.

    ``solve`` returns (x, info); x is scaled back.

    In these units the same steps and numbers of iterations suit any scanner. Beside ``1/2 |A x - y|^2`` the
    weight of a norm of x is divided by ``unit``, which is what ``size(A.H(y))`` was.
    """
    y = check_array(check_measured(y, A.out_dtype, f"{name}: y"), A.out_shape, A.out_dtype, f"{name}: y")
    norm = positive(1.02 * operator_norm(A, jax.random.key(0)))
    scaled = A / norm

    def one(y):
        unit = positive(size(A.H(y)))
        data = y * (norm / unit)
        x, info = solve(scaled, data, scaled.H(data), unit)
        return unit / norm**2 * x, info

    batch = y.shape[: y.ndim - len(A.out_shape)]
    if not batch:
        return one(y)
    results = jax.vmap(one)(y.reshape(-1, *A.out_shape))
    return jax.tree.map(lambda a: a.reshape(*batch, *a.shape[1:]), results)
