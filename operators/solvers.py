"""Iterative solvers on linear operators: conjugate gradients, total variation, power iteration."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from operators.linear_operator import (
    LinearOperator,
    as_inexact,
    check_array,
    is_complex,
    real_dtype,
    safe_sqrt,
    squared,
)


class CGInfo(NamedTuple):
    """How a run of conjugate gradients ended.

    Attributes:
      iterations: int32 scalar.
      residual: ``|b - (gram + l2) x| / |b|``, a real scalar (0 for b = 0), as the recurrence tracks it.
    """

    iterations: jax.Array
    residual: jax.Array


def cg(
    gram: Callable[[jax.Array], jax.Array],
    b: jax.Array,
    *,
    x0: jax.Array | None = None,
    l2: float | jax.Array = 0.0,
    tolerance: float = 1e-6,
    max_iterations: int = 100,
) -> tuple[jax.Array, CGInfo]:
    """Solves ``(gram + l2 I) x = b`` by conjugate gradients.

    Differentiable by the implicit function theorem (one more solve per gradient) with respect to ``b``,
    ``l2`` and everything ``gram`` closes over; the gradient is that of the exact solution, so it is as
    accurate as the solves have converged, and ``x0`` has none. All axes of ``b`` are one vector; for
    independent systems use ``jax.vmap``. Inside ``jax.shard_map``, gradients with respect to replicated
    arrays in ``gram`` need these cast on entry: ``jax.lax.pcast(a, axis, to="varying")``.

    Args:
      gram: Hermitian positive semi-definite linear function, such as ``A.gram``.
      b: right-hand side, real or complex, of any shape.
      x0: where to start; default zeros.
      l2: non-negative multiple of the identity added to ``gram``.
      tolerance: stops when ``|residual| <= tolerance * |b|``.
      max_iterations: upper bound of iterations.

    Returns:
      (x, :class:`CGInfo`), x of the shape and dtype of ``b``.

    Raises:
      ValueError: if ``x0`` has another shape than ``b``, or ``max_iterations`` is negative.

    Source: Hestenes and Stiefel, J. Res. Natl. Bur. Stand. 49:409, 1952.
    """
    b = as_inexact(b)
    x0 = jnp.zeros_like(b) if x0 is None else jnp.asarray(x0, b.dtype)
    if x0.shape != b.shape:
        raise ValueError(f"cg: x0 must have the shape of b, {b.shape}, found {x0.shape}")
    if max_iterations < 0:
        raise ValueError(f"cg: max_iterations must not be negative, found {max_iterations}")

    # Compiled as units: the linear solve below cannot otherwise mix replicated and sharded arrays.
    @jax.jit
    def normal(v):
        v = _join(v)
        return _split(gram(v) + jnp.asarray(l2, real_dtype(b.dtype)) * v)

    @functools.partial(jax.jit, static_argnums=1)
    def solve(start, matvec, rhs):
        goal = tolerance**2 * _dot(rhs, rhs)
        residual = _axpy(-1.0, matvec(start), rhs)

        def unfinished(state):
            _, _, _, power, iteration = state
            return (power > goal) & (iteration < max_iterations)

        def step(state):
            x, r, p, power, iteration = state
            q = matvec(p)
            curvature = _dot(p, q)
            # A direction in the null space has no curvature: stay, and stop at the iteration bound.
            alpha = jnp.where(curvature > 0, power / jnp.where(curvature > 0, curvature, 1), 0)
            x, r = _axpy(alpha, p, x), _axpy(-alpha, q, r)
            new_power = _dot(r, r)
            return x, r, _axpy(new_power / power, p, r), new_power, iteration + 1

        power = _dot(residual, residual)
        # A zero of the data's own kind varies over the mesh axes over which the data do.
        state = (start, residual, residual, power, jnp.zeros_like(power, jnp.int32))
        x, _, _, power, iterations = jax.lax.while_loop(unfinished, step, state)
        return x, (iterations, power)

    def transpose_solve(matvec, rhs):
        return solve(jax.tree.map(jnp.zeros_like, rhs), matvec, rhs)

    # A Hermitian operator on complex vectors is a symmetric one on pairs of real vectors.
    start = jax.lax.stop_gradient(_split(x0))
    x, (iterations, power) = jax.lax.custom_linear_solve(
        normal, _split(b), lambda f, rhs: solve(start, f, rhs), transpose_solve, symmetric=True, has_aux=True
    )
    scale = jax.lax.stop_gradient(_dot(_split(b), _split(b)))
    residual = jnp.sqrt(jax.lax.stop_gradient(power) / jnp.where(scale > 0, scale, 1))
    return _join(x), CGInfo(iterations, residual)


def cg_sense(
    A: LinearOperator,
    y: jax.Array,
    *,
    l2: float | jax.Array = 0.0,
    tolerance: float = 1e-6,
    max_iterations: int = 30,
) -> jax.Array:
    """Least-squares reconstruction ``argmin_x |A x - y|^2 + l2 |x|^2`` by conjugate gradients.

    Args:
      A: the measurement operator, :class:`operators.SENSE` or any other.
      y: measurements (..., *A.out_shape).
      l2: Tikhonov weight.
      tolerance: relative residual of the normal equations at which to stop.
      max_iterations: upper bound of iterations.

    Returns:
      (..., *A.in_shape) of ``A.in_dtype``.

    Raises:
      ValueError, TypeError: if ``y`` does not fit ``A``.

    Source: Pruessmann et al., Magn. Reson. Med. 46:638, 2001.
    """
    return cg(A.gram, A.H(y), l2=l2, tolerance=tolerance, max_iterations=max_iterations)[0]


def operator_norm(A: LinearOperator, key: jax.Array, iterations: int = 30) -> jax.Array:
    """Largest singular value of ``A`` by power iteration on its gram, from below.

    Args:
      A: the operator.
      key: typed PRNG key of the random start.
      iterations: number of products with the gram.

    Returns:
      Real scalar; 0 for the zero operator.
    """
    x = jax.random.normal(key, A.in_shape, A.in_dtype)

    def step(x, _):
        z = A.gram(x / _positive(_norm(x)))
        return z, None

    z, _ = jax.lax.scan(step, A.gram(x), length=iterations)
    return jnp.sqrt(_norm(z))


def total_variation(
    A: LinearOperator, y: jax.Array, weight: float | jax.Array, iterations: int = 200
) -> jax.Array:
    """``argmin_x 1/2 |A x - y|^2 + weight * TV(x)``, TV the isotropic total variation, by PDHG.

    TV is the sum over pixels of the length of the forward differences (zero across the far edges), of both
    parts together for complex images. Steps follow from ``operator_norm(A)``; the number of iterations is
    fixed, so the function is differentiable by unrolling.

    Args:
      A: operator on images (ny, nx), such as SENSE or Radon.
      y: measurements (..., *A.out_shape).
      weight: non-negative weight of the total variation.
      iterations: number of primal-dual steps.

    Returns:
      (..., ny, nx) of ``A.in_dtype``.

    Raises:
      ValueError: if ``A`` does not act on two-dimensional images or ``y`` does not fit.
      TypeError: if the dtype of ``y`` does not fit.

    Source: Chambolle and Pock, J. Math. Imaging Vis. 40:120, 2011; Sidky et al., Phys. Med. Biol. 57:3065,
    2012.
    """
    if len(A.in_shape) != 2:
        raise ValueError(f"total_variation: A must act on images (ny, nx), found in_shape {A.in_shape}")
    y = check_array(y, A.out_shape, A.out_dtype, "total_variation: y")
    norm = _positive(1.02 * operator_norm(A, jax.random.key(0)))
    back = A.H(y)
    # Units in which the operator has norm one and the image is of order one: the steps then suit any scanner.
    scale = _positive(jnp.max(jnp.abs(back), axis=(-2, -1), keepdims=True) / norm**2)
    bound = (jnp.asarray(weight, scale.dtype) / (norm**2 * scale))[..., None, :, :]
    data = y / (norm * scale.reshape(scale.shape[:-2] + (1,) * len(A.out_shape)))

    # Step sizes of the image, the data dual and the gradient dual: 1 * (1/2 * 1 + 1/16 * 8) = 1.
    def step(state, _):
        x, ahead, dual_data, dual_gradient = state
        dual_data = (dual_data + 0.5 * (A(ahead) / norm - data)) / 1.5
        dual_gradient = dual_gradient + _differences(ahead) / 16
        length = safe_sqrt(jnp.sum(squared(dual_gradient), axis=-3, keepdims=True))
        # Shrinks only where the bound is passed, and never divides by a zero bound.
        dual_gradient = dual_gradient * jnp.where(length > bound, bound / _positive(length), 1)
        new = x - A.H(dual_data) / norm - _differences_adjoint(dual_gradient)
        return (new, 2 * new - x, dual_data, dual_gradient), None

    zero = jnp.zeros_like(back)
    state = (zero, zero, jnp.zeros_like(data), jnp.zeros_like(_differences(zero)))
    (x, *_), _ = jax.lax.scan(step, state, length=iterations)
    return scale * x


def _differences(x: jax.Array) -> jax.Array:
    """Forward differences (..., 2, ny, nx), zero across the far edges."""
    down = jnp.diff(x, axis=-2, append=x[..., -1:, :])
    right = jnp.diff(x, axis=-1, append=x[..., :, -1:])
    return jnp.stack([down, right], axis=-3)


def _differences_adjoint(q: jax.Array) -> jax.Array:
    down, right = q[..., 0, :-1, :], q[..., 1, :, :-1]
    batch = [(0, 0)] * (q.ndim - 3)

    def padded(values, *edges):
        return jnp.pad(values, batch + list(edges))

    return (
        padded(down, (1, 0), (0, 0))
        - padded(down, (0, 1), (0, 0))
        + padded(right, (0, 0), (1, 0))
        - padded(right, (0, 0), (0, 1))
    )


def _split(v: jax.Array) -> tuple[jax.Array, ...]:
    return (v.real, v.imag) if is_complex(v.dtype) else (v,)


def _join(parts: tuple[jax.Array, ...]) -> jax.Array:
    return jax.lax.complex(*parts) if len(parts) == 2 else parts[0]


def _dot(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> jax.Array:
    return sum(jnp.sum(u * v) for u, v in zip(a, b, strict=True))


def _axpy(alpha, x: tuple[jax.Array, ...], y: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return tuple(alpha * u + v for u, v in zip(x, y, strict=True))


def _norm(x: jax.Array) -> jax.Array:
    parts = _split(x)
    return jnp.sqrt(_dot(parts, parts))


def _positive(x: jax.Array) -> jax.Array:
    return jnp.where(x > 0, x, 1)
