"""How alike two sets of representations are, and Gaussians that stand for them."""

import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError


def dissimilarities(features: jax.Array) -> jax.Array:
    """``1 - corr(h_a, h_b)`` of all pairs (Kriegeskorte et al. 2008): symmetric, zeros on the diagonal.

    It does not change when dimensions change places, or when a vector is scaled by a positive number and
    moved by a number added to all its entries.

    Args:
      features: (examples, features), h.

    Returns:
      (examples, examples); a vector without variance has the correlation 0 with others.
    """
    centered = features - features.mean(1, keepdims=True)
    length = jnp.sqrt((centered**2).sum(1, keepdims=True))
    # Scaled first: squares of tiny entries are zero in float32.
    one = centered / jnp.where(length > 0, length, 1)
    found = 1 - one @ one.T
    return jnp.where(jnp.eye(len(features), dtype=bool), 0, (found + found.T) / 2)


def rank_correlation(a: jax.Array, b: jax.Array, valid: jax.Array) -> jax.Array:
    """Spearman's correlation of the valid entries, equal ones having their mean rank.

    Args:
      a, b: (entries,).
      valid: bool (entries,).

    Returns:
      float (), in [-1, 1]; 1 where one of them has a single value.
    """

    def centered(x: jax.Array) -> jax.Array:
        x = jnp.where(valid, x, jnp.inf)
        ordered = jnp.sort(x)
        rank = (jnp.searchsorted(ordered, x, side="left") + jnp.searchsorted(ordered, x, side="right")) / 2
        mean = jnp.where(valid, rank, 0).sum() / jnp.maximum(valid.sum(), 1)
        # In (-1/2, 1/2), so that sums of squares keep their digits.
        return jnp.where(valid, rank - mean, 0) / len(x)

    first, second = centered(a), centered(b)
    scale = jnp.sqrt((first**2).sum() * (second**2).sum())
    return jnp.where(scale > 0, jnp.clip((first * second).sum() / jnp.where(scale > 0, scale, 1), -1, 1), 1)


def signed_power(x: jax.Array, exponent: float) -> jax.Array:
    """``sign(x) |x|^exponent``, whose inverse is that of ``1 / exponent``.

    Raises:
      ValueError: the exponent is not positive.
    """
    if not exponent > 0:
        raise ArgumentError("exponent", "a positive number", repr(exponent))
    return x if exponent == 1 else jnp.sign(x) * jnp.abs(x) ** exponent


def gaussian_draws(key: jax.Array, mean: jax.Array, covariance: jax.Array, which: jax.Array) -> jax.Array:
    """Draws of some of several Gaussians.

    Args:
      key: typed.
      mean: (gaussians, features).
      covariance: (gaussians, features, features), symmetric and semi-definite, directions of hardly any
        variance counting as 0; or (gaussians, features), variances.
      which: int (draws,), the Gaussian of each draw.

    Returns:
      (draws, features).
    """
    noise = jax.random.normal(key, (len(which), mean.shape[1]))
    if covariance.ndim == 2:
        return mean[which] + jnp.sqrt(jnp.maximum(covariance, 0))[which] * noise
    return mean[which] + jnp.einsum("nij,nj->ni", _triangles(covariance)[which], noise)


def _triangles(covariance: jax.Array) -> jax.Array:
    """L with L L^T = C of semi-definite C (..., n, n), column by column (Cholesky).

    Directions without variance are 0. Not of LAPACK, whose calls wait for threads that collectives of other
    devices of a CPU may hold.
    """
    size = covariance.shape[-1]
    least = 1e-6 * jnp.maximum(jnp.trace(covariance, axis1=-2, axis2=-1), 0)[..., None] / size

    def column(j, triangle):
        row = jax.lax.dynamic_index_in_dim(triangle, j, -2, keepdims=False)
        left = jax.lax.dynamic_index_in_dim(covariance, j, -1, keepdims=False)
        left = left - jnp.einsum("...ik,...k->...i", triangle, row)
        pivot = jax.lax.dynamic_index_in_dim(left, j, -1)
        there = pivot > least
        found = jnp.where(there, left / jnp.sqrt(jnp.where(there, pivot, 1)), 0)
        found = jnp.where(jnp.arange(size) >= j, found, 0)
        return triangle.at[..., j].set(found)

    return jax.lax.fori_loop(0, size, column, jnp.zeros_like(covariance))
