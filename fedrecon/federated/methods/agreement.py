"""What several answers agree on, robust to some that are false."""

import jax
import jax.numpy as jnp

AGGREGATES = ("median", "trimmed_mean", "mean")


def agree(answers: jax.Array, present: jax.Array, aggregate: str) -> tuple[jax.Array, jax.Array]:
    """The consensus (images, classes) of probabilities (rows, images, classes), and who counts (rows,).

    Left out are rows whose mean divergence from the median is 3 median deviations above the median one;
    nobody is for the plain mean.

    Args:
      answers: of all rows.
      present: bool (rows,), whose answers there are.
      aggregate: one of `AGGREGATES`.
    """
    middle = _normalized(_median(answers, present))
    away = divergence(log_of(answers), log_of(middle)).mean(-1)
    typical = _median(away, present)
    spread = _median(jnp.abs(away - typical), present)
    accepted = present & (away <= typical + 3 * spread + 1e-6)
    if aggregate == "mean":
        weights = present[:, None, None] / jnp.maximum(present.sum(), 1)
        return _normalized((weights * answers).sum(0)), present
    if aggregate == "median":
        return _normalized(_median(answers, accepted)), accepted
    ordered = jnp.sort(jnp.where(accepted[:, None, None], answers, jnp.inf), axis=0)
    count = accepted.sum()
    cut, place = count // 5, jnp.arange(len(answers))[:, None, None]
    inside = (place >= cut) & (place < count - cut)
    return _normalized(jnp.where(inside, ordered, 0).sum(0)), accepted


def _median(x: jax.Array, present: jax.Array) -> jax.Array:
    """Median over the rows that are present; 0 where none is."""
    flags = present.reshape(-1, *(1,) * (x.ndim - 1))
    ordered = jnp.sort(jnp.where(flags, x, jnp.inf), axis=0)
    count = jnp.maximum(present.sum(), 1)
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    return jnp.where(present.any(), middle, 0)


def _normalized(p: jax.Array) -> jax.Array:
    return p / jnp.maximum(p.sum(-1, keepdims=True), 1e-12)


def log_of(p: jax.Array) -> jax.Array:
    """Logarithms of probabilities, finite."""
    return jnp.log(jnp.maximum(p, 1e-12))


def divergence(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """KL(p || q) over the last axis."""
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)
