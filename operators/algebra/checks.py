"""Numerical checks of operators: the adjoint and the gradients."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from operators.algebra.dtypes import is_complex
from operators.algebra.linear_operator import LinearOperator, check_decorated


def check_adjoint(A: LinearOperator, key: jax.Array, tolerance: float | None = None) -> float:
    """Dot test: ``<A(x), y>`` against ``<x, A.H(y)>`` for random x and y.

    y is half noise and half ``A(x)``, so that neither side is near zero and a wrong scale, sign, conjugate
    or sample shows. Sums are taken in double precision. Runs on concrete values, not under ``jit``.

    Args:
      A: the operator.
      key: concrete typed PRNG key.
      tolerance: largest relative error allowed; default 1e-5 in single, 1e-12 in double precision.

    Returns:
      ``|<A(x), y> - <x, A.H(y)>| / (|A(x)| |y|)``.

    Raises:
      ValueError: if the error exceeds the tolerance or is not finite.

    Example:
      >>> A = operators.FiniteDifferences((4, 4))
      >>> operators.check_adjoint(A, jax.random.key(0)) < 1e-5
      True
    """
    rng = _generator(key)
    x = _random(rng, A.in_shape, A.in_dtype)
    ax = _apply(A, x)
    noise = _random(rng, A.out_shape, A.out_dtype)
    y = noise / _norm(noise) + ax / (_norm(ax) or 1.0)
    left, right = _dot(ax, y), _dot(x, _apply(A.H, y))
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


def check_gradients(A: LinearOperator, key: jax.Array, tolerance: float = 1e-5) -> float:
    """Reverse-mode derivatives of ``A(x)`` and ``A.H(y)`` against central differences in a random direction.

    Derivatives are taken with respect to the vector and every floating leaf of the operator (coil maps,
    masks, angles), one after another, of a random linear functional of the output, and in double precision
    whatever the operator's own. Differences say nothing where the operator is not differentiable: Radon in
    its angles where rays pass exactly through pixel centers, as at angle 0 with equal pixels and detector
    elements. Runs on concrete values, not under ``jit``.

    Args:
      A: the operator.
      key: concrete typed PRNG key.
      tolerance: largest relative error allowed.

    Returns:
      The largest error, relative to the derivative's typical size.

    Raises:
      ValueError: if the error exceeds the tolerance or is not finite.

    Example:
      >>> A = operators.Diagonal(jnp.array([1.0, 2.0]))
      >>> bool(operators.check_gradients(A, jax.random.key(0)) < 1e-5)
      True
    """
    check_decorated(A)
    with jax.enable_x64(True):
        leaves, structure = jax.tree.flatten(jax.tree.map(_double, A))
        rng, errors = _generator(key), []
        for adjoint in (False, True):
            ends = [(A.in_shape, A.in_dtype), (A.out_shape, A.out_dtype)]
            start, end = ends[::-1] if adjoint else ends
            primals = [_double(_random(rng, *start)), *leaves]
            probe = _double(_random(rng, *end))

            @jax.jit
            def function(values, adjoint=adjoint):
                operator = jax.tree.unflatten(structure, values[1:])
                return (operator._adjoint if adjoint else operator._forward)(values[0])

            @jax.jit
            @partial(jax.grad, allow_int=True)
            def gradients(values, function=function, probe=probe):
                return jnp.sum((probe.conj() * function(values)).real)

            gradient = gradients(primals)
            for i, primal in enumerate(primals):
                if not jnp.issubdtype(primal.dtype, jnp.inexact):
                    continue
                # JAX's gradients of real functions of complex arrays are conjugated.
                errors.append(_directional_error(function, primals, i, gradient[i].conj(), probe, rng))
                if not errors[-1] <= tolerance:
                    what = f"leaf {i - 1}" if i else "y" if adjoint else "x"
                    raise ValueError(
                        f"{A._name}{'.H' if adjoint else ''}: relative gradient error {errors[-1]:.3g} with "
                        f"respect to {what} exceeds {tolerance:.3g}"
                    )
    return max(errors)


def _double(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float64)) if jnp.issubdtype(x.dtype, jnp.inexact) else x


def _directional_error(
    function: Callable[[list[jax.Array]], jax.Array],
    primals: list[jax.Array],
    i: int,
    gradient: jax.Array,
    probe: jax.Array,
    rng: np.random.Generator,
) -> float:
    value = primals[i]
    direction = _random(rng, value.shape, value.dtype)
    # Nothing is known of the scale of zeros.
    size = max(_norm(value), 1e-3) if _norm(value) else 1.0
    step = float(jnp.finfo(value.dtype).eps) ** 0.5 * size / _norm(direction)
    ahead, behind = value + step * direction, value - step * direction
    step = _dot(direction, ahead - behind).real / _dot(direction, direction).real  # as rounded
    high, low = (function([*primals[:i], moved, *primals[i + 1 :]]) for moved in (ahead, behind))
    slope = (_dot(probe, high) - _dot(probe, low)).real / step
    scale = max(_norm(gradient) * _norm(direction) / np.sqrt(value.size), abs(slope))
    return abs(slope - _dot(gradient, direction).real) / scale if scale else 0.0


@jax.jit
def _apply(A: LinearOperator, x: jax.Array) -> jax.Array:
    return A(x)


def _default_tolerance(A: LinearOperator, single: float, double: float) -> float:
    precisions = [jnp.finfo(dtype).bits for dtype in (A.in_dtype, A.out_dtype)]
    return single if min(precisions) < 64 else double


def _generator(key: jax.Array) -> np.random.Generator:
    # Drawn on the host: these functions need many small arrays once, and compiling a sampler takes longer.
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    values = rng.standard_normal(shape)
    return jnp.asarray(values + 1j * rng.standard_normal(shape) if is_complex(dtype) else values, dtype)


def _norm(a: jax.Array) -> float:
    return float(np.sqrt(_dot(a, a).real))


def _dot(a: jax.Array, b: jax.Array) -> complex:
    a, b = (np.asarray(v).astype(np.complex128) for v in (a, b))
    return complex(np.vdot(a, b))
