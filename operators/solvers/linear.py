"""Linear algebra on operators: conjugate gradients and power iteration."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from operators.algebra import (
    ArgumentError,
    LinearOperator,
    as_inexact,
    is_complex,
    real_dtype,
    renamed,
    squared,
)


class CGInfo(NamedTuple):
    """How a run of conjugate gradients ended.

    Attributes:
      iterations: int32 scalar.
      residual: ``|b - (gram + regularization) x| / |b|``, a real scalar (0 for b = 0), as the recurrence
        tracks it.
    """

    iterations: jax.Array
    residual: jax.Array


@renamed(l2="regularization", max_iterations="iterations")
def cg(
    gram: Callable[[jax.Array], jax.Array],
    b: jax.Array,
    *,
    x0: jax.Array | None = None,
    regularization: float | jax.Array = 0.0,
    tolerance: float = 1e-6,
    iterations: int = 100,
) -> tuple[jax.Array, CGInfo]:
    """Solves ``(gram + regularization I) x = b`` by conjugate gradients.

    Differentiable by the implicit function theorem (one more solve per gradient) with respect to ``b``,
    ``regularization`` and everything ``gram`` closes over; the gradient is that of the exact solution, so it
    is as accurate as the solves have converged, and ``x0`` has none. All axes of ``b`` are one vector; for
    independent systems use ``jax.vmap``. Inside ``jax.shard_map``, gradients with respect to replicated
    arrays in ``gram`` need these cast on entry: ``jax.lax.pcast(a, axis, to="varying")``.

    Args:
      gram: Hermitian positive semi-definite linear function, such as ``A.gram``.
      b: right-hand side, real or complex, of any shape.
      x0: where to start; default zeros.
      regularization: non-negative multiple of the identity added to ``gram``.
      tolerance: stops when ``|residual| <= tolerance * |b|``.
      iterations: upper bound of iterations.

    Returns:
      (x, :class:`CGInfo`), x of the shape and dtype of ``b``.

    Raises:
      ValueError: if ``x0`` has another shape than ``b``, or ``iterations`` is negative.

    Source: Hestenes and Stiefel, J. Res. Natl. Bur. Stand. 49:409, 1952.

    Example:
      >>> x, info = operators.cg(lambda v: 2 * v, jnp.array([2.0, 4.0]))
      >>> x.tolist()
      [1.0, 2.0]
    """
    b = as_inexact(b)
    x0 = jnp.zeros_like(b) if x0 is None else jnp.asarray(x0, b.dtype)
    if x0.shape != b.shape:
        raise ArgumentError("cg: x0", f"the shape of b, {b.shape}", x0.shape)
    if iterations < 0:
        raise ArgumentError("cg: iterations", "a number of at least 0", iterations)

    # Compiled as units: the linear solve below cannot otherwise mix replicated and sharded arrays.
    @jax.jit
    def normal(v):
        v = _join(v)
        return _split(gram(v) + jnp.asarray(regularization, real_dtype(b.dtype)) * v)

    @functools.partial(jax.jit, static_argnums=1)
    def solve(start, matvec, rhs):
        goal = tolerance**2 * _dot(rhs, rhs)
        residual = _axpy(-1.0, matvec(start), rhs)

        def unfinished(state):
            _, _, _, power, iteration = state
            return (power > goal) & (iteration < iterations)

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
        x, _, _, power, count = jax.lax.while_loop(unfinished, step, state)
        return x, (count, power)

    def transpose_solve(matvec, rhs):
        return solve(jax.tree.map(jnp.zeros_like, rhs), matvec, rhs)

    # A Hermitian operator on complex vectors is a symmetric one on pairs of real vectors.
    start = jax.lax.stop_gradient(_split(x0))
    x, (count, power) = jax.lax.custom_linear_solve(
        normal, _split(b), lambda f, rhs: solve(start, f, rhs), transpose_solve, symmetric=True, has_aux=True
    )
    scale = jax.lax.stop_gradient(_dot(_split(b), _split(b)))
    residual = jnp.sqrt(jax.lax.stop_gradient(power) / jnp.where(scale > 0, scale, 1))
    return _join(x), CGInfo(count, residual)


def operator_norm(A: LinearOperator, key: jax.Array, iterations: int = 30) -> jax.Array:
    """Largest singular value of ``A`` by power iteration on its gram, from below.

    Args:
      A: the operator.
      key: typed PRNG key of the random start.
      iterations: number of products with the gram.

    Returns:
      Real scalar; 0 for the zero operator.

    Example:
      >>> A = operators.Diagonal(jnp.array([1.0, -3.0]))
      >>> print(np.asarray(operators.operator_norm(A, jax.random.key(0))).round(3))
      3.0
    """
    x = jax.ShapeDtypeStruct(A.in_shape, A.in_dtype)
    return jnp.sqrt(largest_eigenvalue(A.gram, x, key, iterations))


def largest_eigenvalue(
    gram: Callable[[Any], Any], like: Any, key: jax.Array | None = None, iterations: int = 30
) -> jax.Array:
    """Largest eigenvalue of a Hermitian positive semi-definite linear function, from below.

    Args:
      gram: the function, of an array or a pytree of arrays.
      like: what has the structure, shapes and dtypes of its argument.
      key: typed PRNG key of the random start; default: a fixed one.
      iterations: number of products with ``gram``.

    Returns:
      Real scalar; 0 for the zero function.
    """
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(jax.random.key(0) if key is None else key, len(leaves))
    start = [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]

    def step(x, _):
        size = positive(vector_norm(x))
        return gram(jax.tree.map(lambda v: v / size, x)), None

    z, _ = jax.lax.scan(step, gram(jax.tree.unflatten(structure, start)), length=iterations)
    return vector_norm(z)


def inner_product(a: Any, b: Any) -> jax.Array:
    """Real part of the inner product of two arrays or pytrees of arrays."""
    # Sums of products, not dot products: these may be rounded to fewer bits on accelerators.
    parts = jax.tree.map(lambda u, v: jnp.sum(u.real * v.real + u.imag * v.imag), a, b)
    return jnp.asarray(sum(jax.tree.leaves(parts)))


def vector_norm(x: Any) -> jax.Array:
    """Euclidean norm of an array or a pytree of arrays, as one vector."""
    return jnp.sqrt(sum(jnp.sum(squared(leaf)) for leaf in jax.tree.leaves(x)))


def positive(x: jax.Array) -> jax.Array:
    """``x`` where it is positive, 1 elsewhere: a safe denominator."""
    return jnp.where(x > 0, x, 1)


def _split(v: jax.Array) -> tuple[jax.Array, ...]:
    return (v.real, v.imag) if is_complex(v.dtype) else (v,)


def _join(parts: tuple[jax.Array, ...]) -> jax.Array:
    return jax.lax.complex(*parts) if len(parts) == 2 else parts[0]


def _dot(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> jax.Array:
    return jnp.asarray(sum(jnp.sum(u * v) for u, v in zip(a, b, strict=True)))


def _axpy(
    alpha: jax.Array | float, x: tuple[jax.Array, ...], y: tuple[jax.Array, ...]
) -> tuple[jax.Array, ...]:
    return tuple(alpha * u + v for u, v in zip(x, y, strict=True))
