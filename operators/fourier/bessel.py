"""Bessel functions of the first kind and order one, in single or double precision."""

import math

import jax
import jax.numpy as jnp
import numpy as np

_SWITCH = 25.0
_NODES = 32
_TERMS = 12


def jinc(x: jax.Array) -> jax.Array:
    """``J1(x) / x``, even, 1/2 at zero; accurate to the rounding of the argument.

    Up to 25, Poisson's integral ``1/pi int_0^pi cos(x cos t) sin(t)^2 dt`` by the trapezoidal rule, which
    converges exponentially for this periodic integrand; beyond, Hankel's asymptotic series (Abramowitz and
    Stegun, Handbook of Mathematical Functions, 9.1.20 and 9.2.5).
    """
    x = jnp.abs(jnp.asarray(x))
    near = jnp.minimum(x, _SWITCH)
    far = jnp.maximum(x, _SWITCH)
    return jnp.where(x <= _SWITCH, _poisson(near), _hankel(far) / far)


def bessel_j1(x: jax.Array) -> jax.Array:
    """``J1(x)`` of real x, odd."""
    x = jnp.asarray(x)
    return x * jinc(x)


def _poisson(x):
    # The integrand is even about pi / 2: nodes in (0, pi / 2] serve the whole period.
    total = 0
    for t in (np.arange(_NODES) + 0.5) * (math.pi / 2 / _NODES):
        total = total + math.sin(t) ** 2 / _NODES * jnp.cos(math.cos(t) * x)
    return total


def _hankel(x):
    p, q, term = 0.0, 0.0, 1.0
    inverse = 1 / (8 * x)
    power = jnp.ones_like(x)
    for k in range(2 * _TERMS):
        sign = 1 if k % 4 < 2 else -1
        if k % 2:
            q = q + sign * term * power
        else:
            p = p + sign * term * power
        term = term * (4 - (2 * k + 1) ** 2) / (k + 1)
        power = power * inverse
    cos, sin = jnp.cos(x), jnp.sin(x)
    # cos and sin of x - 3 pi / 4.
    return (p * (sin - cos) + q * (sin + cos)) / jnp.sqrt(math.pi * x)
