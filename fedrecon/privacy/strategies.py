"""Strategies of correlated noise for clients that visit their units in one order."""

import functools
from collections.abc import Sequence

import numpy as np

# Of float32 sums in the sensitivity.
_SLACK = 1 + 1e-5


def strategy_of(steps: Sequence[int], passes: int, bands: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A banded Toeplitz strategy, and its sensitivity at clients by the number of their steps in a pass.

    It minimizes the mean squared error of the sums of gradients so far (Choquette-Choo et al. 2023,
    arXiv:2306.08153), for the client with the most steps.

    Args:
      steps: steps in a pass of each client.
      passes: of the whole training, in each of which a unit is visited once.
      bands: of the strategy; no more than the fewest steps of a client that has any, so that visits of one
        unit are never nearer than the bands.

    Returns:
      (coefficients, factors): ``factors[t]`` is the sensitivity with t steps in a pass, infinite where no
      client has as many.
    """
    known = sorted({t for t in steps if t})
    bands = min(bands, known[0])
    coefficients = _coefficients(passes * known[-1], bands)
    factors = [np.inf] * (known[-1] + 1)
    for count in known:
        factors[count] = sensitivity(coefficients, count, passes) * _SLACK
    return coefficients, tuple(factors)


def sensitivity(coefficients: Sequence[float], separation: int, passes: int) -> float:
    """How far a unit moves C times the stream of sums of norm 1 that it is in every ``separation`` steps."""
    import jax.numpy as jnp
    from jax_privacy.matrix_factorization import toeplitz

    squared = toeplitz.minsep_sensitivity_squared(
        jnp.asarray(coefficients, jnp.float32), separation, passes, separation * passes
    )
    return float(squared) ** 0.5


@functools.cache
def _coefficients(steps: int, bands: int) -> tuple[float, ...]:
    from jax_privacy.matrix_factorization import toeplitz

    if bands == 1:
        return (1.0,)
    found = np.asarray(toeplitz.optimize_banded_toeplitz(steps, bands, max_optimizer_steps=100), float)
    # What the theorem on sensitivity presumes, exactly.
    found = np.minimum.accumulate(np.maximum(found, 0))
    return tuple(float(c) for c in found / np.linalg.norm(found))
