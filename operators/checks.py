"""Numerical checks of operators: the adjoint and the gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from operators.linear_operator import LinearOperator, is_complex


def check_adjoint(A: LinearOperator, key: jax.Array, tolerance: float | None = None) -> float:
    """Dot test: ``<A(x), y>`` against ``<x, A.H(y)>`` for random x and y.

    y is half noise and half ``A(x)``, so that neither side is near zero and a wrong scale, sign, conjugate
    or sample shows. Sums are taken in double precision. Runs on concrete values, not under ``jit``.

    Args:
      A: the operator.
      key: typed PRNG key.
      tolerance: largest relative error allowed; default 1e-5 in single, 1e-12 in double precision.

    Returns:
      ``|<A(x), y> - <x, A.H(y)>| / (|A(x)| |y|)``.

    Raises:
      ValueError: if the error exceeds the tolerance or is not finite.
    """
    keys = jax.random.split(key)
    x = _random(keys[0], A.in_shape, A.in_dtype)
    ax = A(x)
    noise = _random(keys[1], A.out_shape, A.out_dtype)
    y = noise / _norm(noise) + ax / max(_norm(ax), np.finfo(np.float32).tiny)
    left, right = _dot(ax, y), _dot(x, A.H(y))
    if not (is_complex(A.in_dtype) and is_complex(A.out_dtype)):
        left, right = left.real, right.real
    scale = _norm(ax) * _norm(y)
    error = float(abs(left - right) / scale) if scale else float(abs(right))
    if tolerance is None:
        tolerance = _default_tolerance(A, 1e-5, 1e-12)
    if not error <= tolerance:
        raise ValueError(
            f"{A._name}: relative adjoint error {error:.3g} exceeds {tolerance:.3g}: <A x, y> = {left:.8g}, "
            f"<x, A.H y> = {right:.8g}"
        )
    return error


def _default_tolerance(A: LinearOperator, single: float, double: float) -> float:
    precisions = [jnp.finfo(dtype).bits for dtype in (A.in_dtype, A.out_dtype)]
    return single if min(precisions) < 64 else double


def _random(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
    return jax.random.normal(key, shape, dtype)


def _norm(a: jax.Array) -> float:
    return float(np.sqrt(_dot(a, a).real))


def _dot(a: jax.Array, b: jax.Array) -> complex:
    a, b = (np.asarray(v).astype(np.complex128) for v in (a, b))
    return complex(np.vdot(a, b))
