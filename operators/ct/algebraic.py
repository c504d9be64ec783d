"""Algebraic reconstruction: SIRT, OS-SART and CGLS.

What these and the methods of ``operators.ct.statistical`` share:

- A is any LinearOperator from images (..., *A.in_shape) to measurements (..., *A.out_shape); leading axes
  are a batch of independent images, stopped together. SIRT, OS-SART, MLEM and OSEM need an operator without
  negative entries.
- ``iterations``, ``tolerance``, ``objective`` and ``callback`` are those of
  :class:`operators.solvers.Stopping`; the relative change is ``|x_k - x_(k-1)| / |x_k|``.
- Rays that meet no pixel and pixels that no ray meets have no influence: nothing is divided by zero.
- They return (x, :class:`operators.solvers.SolverInfo`), x of ``A.in_dtype``, and raise ValueError or
  TypeError where an argument does not fit A.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from operators.algebra import ArgumentError, LinearOperator, check_array, squared
from operators.solvers import Callback, Objective, SolverInfo, Stopping, positive, relative_change


def sirt(
    A: LinearOperator,
    y: jax.Array,
    *,
    x0: jax.Array | None = None,
    relaxation: float | jax.Array = 1.0,
    nonnegative: bool = False,
    iterations: int = 100,
    tolerance: float | None = None,
    objective: Objective | None = None,
    callback: Callback | None = None,
) -> tuple[jax.Array, SolverInfo]:
    """Simultaneous iterative reconstruction: ``x <- x + relaxation * C A.H(R (y - A x))``.

    R and C are the inverses of the row and the column sums of A. It converges to the minimizer of the
    residual weighted by R, the one nearest to ``x0`` in the norm weighted by 1 / C.

    Args:
      A: projector without negative entries.
      y: line integrals (..., *A.out_shape).
      x0: where to start (..., *A.in_shape); default zeros.
      relaxation: in (0, 2).
      nonnegative: sets negative values to zero after every step.
      iterations: number of steps, or its upper bound.
      tolerance: relative change at which to stop.
      objective: function of x whose values are kept.
      callback: called on the host after every step.

    Source: Gregor and Benson, IEEE Trans. Med. Imaging 27:918, 2008.
    """
    stopping = Stopping("sirt", iterations, tolerance, objective, callback)
    y = check_array(y, A.out_shape, A.out_dtype, "sirt: y")
    rows, columns = inverse_sums(row_sums(A)), inverse_sums(column_sums(A))

    def step(state, _):
        (x,) = state
        new = clipped(x + relaxation * columns * A.H(rows * (y - A(x))), nonnegative)
        return (new,), relative_change(new, x)

    x = start_image("sirt", A, y, x0)
    return stopping.run(step, (x,))


def view_subsets(
    projector: Callable[[jax.Array], LinearOperator], angles: jax.Array, y: jax.Array, count: int
) -> tuple[list[LinearOperator], list[jax.Array]]:
    """Ordered subsets of the views of a sinogram.

    Subset k holds the views ``k, k + count, ...``; consecutive subsets lie far apart, in the order of
    multiples of the golden ratio (Koehler, Proc. Fully3D, 2004).

    Args:
      projector: makes the operator of some angles, such as ``lambda a: Radon(ParallelBeam(a, n), shape)``.
      angles: (views,); or an array (views, ...) of anything that is given per view.
      y: measurements (..., views, detectors) or (..., views, rows, columns).
      count: number of subsets, a divisor of the number of views; that number for SART.

    Returns:
      (operators, measurements) for :func:`os_sart` and :func:`osem`.

    Raises:
      ValueError: if ``count`` does not divide the number of views, or ``y`` does not fit.
    """
    angles, y = jnp.asarray(angles), jnp.asarray(y)
    views = len(angles)
    if count < 1 or views % count:
        raise ArgumentError("view_subsets: count", f"a divisor of the {views} views", count)
    order = np.argsort(np.arange(count) * (5**0.5 - 1) / 2 % 1)
    subsets = [projector(angles[k::count]) for k in order]
    axis = y.ndim - len(subsets[0].out_shape)
    if axis < 0 or y.shape[axis] != views:
        raise ArgumentError("view_subsets: y", f"{views} views as angles", f"shape {y.shape}")
    return subsets, [y[(slice(None),) * axis + (slice(k, None, count),)] for k in order]


def os_sart(
    subsets: Sequence[LinearOperator],
    y: Sequence[jax.Array],
    *,
    x0: jax.Array | None = None,
    relaxation: float | jax.Array = 1.0,
    nonnegative: bool = False,
    iterations: int = 10,
    tolerance: float | None = None,
    objective: Objective | None = None,
    callback: Callback | None = None,
) -> tuple[jax.Array, SolverInfo]:
    """SIRT's step with one subset of the views after the other; SART with one view in each.

    An iteration is one pass over all subsets. It converges to a solution of consistent data; otherwise it
    ends in a cycle near a weighted least-squares solution, the closer the smaller the relaxation.

    Args:
      subsets: projectors without negative entries, see :func:`view_subsets`.
      y: line integrals of every subset.
      x0: where to start; default zeros.
      relaxation: in (0, 2).
      nonnegative: sets negative values to zero after every step.
      iterations: number of passes, or its upper bound.
      tolerance: relative change of a pass at which to stop.
      objective: function of x whose values are kept.
      callback: called on the host after every pass.

    Source: Andersen and Kak, Ultrason. Imaging 6:81, 1984; Wang and Jiang, J. X-ray Sci. Technol. 12:169,
    2004.
    """
    stopping = Stopping("os_sart", iterations, tolerance, objective, callback)
    y = check_subsets("os_sart", subsets, y)
    inverses = [(inverse_sums(row_sums(A)), inverse_sums(column_sums(A))) for A in subsets]

    def update(x, A, y, inverse):
        rows, columns = inverse
        return clipped(x + relaxation * columns * A.H(rows * (y - A(x))), nonnegative)

    sweep = sweep_subsets(update, subsets, y, inverses)

    def step(state, _):
        (x,) = state
        new = sweep(x)
        return (new,), relative_change(new, x)

    x = start_image("os_sart", subsets[0], y[0], x0)
    return stopping.run(step, (x,))


def cgls(
    A: LinearOperator,
    y: jax.Array,
    *,
    x0: jax.Array | None = None,
    iterations: int = 20,
    tolerance: float | None = None,
    objective: Objective | None = None,
    callback: Callback | None = None,
) -> tuple[jax.Array, SolverInfo]:
    """Least squares ``argmin |A x - y|^2`` by conjugate gradients on the normal equations.

    The residual is updated in the space of measurements, which loses less precision than
    :func:`operators.cg` on ``A.gram``; the number of iterations regularizes. ``change`` is the largest
    ``|A.H(y - A x)| / |A.H(y)|`` of the batch, which is what ``tolerance`` bounds.

    Args:
      A: any operator.
      y: measurements (..., *A.out_shape).
      x0: where to start; default zeros.
      iterations: number of steps, or its upper bound.
      tolerance: ``change`` at which to stop.
      objective: function of x whose values are kept.
      callback: called on the host after every step.

    Source: Hestenes and Stiefel, J. Res. Natl. Bur. Stand. 49:409, 1952; Björck, Numerical Methods for Least
    Squares Problems, SIAM, 1996, section 7.4.
    """
    stopping = Stopping("cgls", iterations, tolerance, objective, callback)
    y = check_array(y, A.out_shape, A.out_dtype, "cgls: y")
    x = start_image("cgls", A, y, x0)

    def power(v, shape):
        return jnp.sum(squared(v), axis=tuple(range(-len(shape), 0)), keepdims=True)

    def along(scalars, old, new):
        return scalars.reshape(*scalars.shape[: scalars.ndim - len(old)], *(1,) * len(new))

    goal = jax.lax.stop_gradient(power(A.H(y), A.in_shape))
    residual = y - A(x)
    direction = A.H(residual)

    def step(state, _):
        x, residual, direction, size = state
        image = A(direction)
        curvature = along(power(image, A.out_shape), A.out_shape, A.in_shape)
        alpha = jnp.where(curvature > 0, size / positive(curvature), 0)
        x = x + alpha * direction
        residual = residual - along(alpha, A.in_shape, A.out_shape) * image
        slope = A.H(residual)
        new = power(slope, A.in_shape)
        direction = slope + jnp.where(size > 0, new / positive(size), 0) * direction
        left = jax.lax.stop_gradient(jnp.where(goal > 0, new / positive(goal), 0))
        return (x, residual, direction, new), jnp.sqrt(jnp.max(left))

    state = (x, residual, direction, power(direction, A.in_shape))
    return stopping.run(step, state)


def row_sums(A: LinearOperator) -> jax.Array:
    """``A(1)``."""
    return A(jnp.ones(A.in_shape, A.in_dtype))


def column_sums(A: LinearOperator) -> jax.Array:
    """``A.H(1)``."""
    return A.H(jnp.ones(A.out_shape, A.out_dtype))


def inverse_sums(sums: jax.Array) -> jax.Array:
    """``1 / sums``, 0 where a sum is no more than the rounding of the largest."""
    seen = sums > 1e-6 * jnp.max(sums)
    return jnp.where(seen, 1 / jnp.where(seen, sums, 1), 0)


def clipped(x: jax.Array, nonnegative: bool) -> jax.Array:
    """``max(x, 0)`` or x itself."""
    return jnp.maximum(x, 0) if nonnegative else x


def start_image(name: str, A: LinearOperator, y: jax.Array, x0: jax.Array | None) -> jax.Array:
    """``x0``, or zeros, of the batch of ``y``."""
    zero = jnp.zeros_like(A.H(y))
    if x0 is None:
        return zero
    return check_array(x0, A.in_shape, A.in_dtype, f"{name}: x0") + zero


def check_subsets(name: str, subsets: Sequence[LinearOperator], y: Sequence[jax.Array]) -> list[jax.Array]:
    """The measurements of all subsets, in the dtypes of their operators; raises where they do not fit."""
    if not subsets or len(subsets) != len(y):
        raise ArgumentError(
            f"{name}: subsets and y", "equal lengths of at least one", f"{len(subsets)} and {len(y)}"
        )
    if any(A.in_shape != subsets[0].in_shape for A in subsets):
        raise ArgumentError(f"{name}: subsets", "the same in_shape of all", [A.in_shape for A in subsets])
    return [
        check_array(part, A.out_shape, A.out_dtype, f"{name}: y[{i}]" if len(y) > 1 else f"{name}: y")
        for i, (A, part) in enumerate(zip(subsets, y, strict=True))
    ]


def sweep_subsets(
    update: Callable[..., jax.Array],
    subsets: Sequence[LinearOperator],
    y: Sequence[jax.Array],
    arrays: Sequence[Any],
) -> Callable[[jax.Array], jax.Array]:
    """The function that applies ``update(x, subset, y, arrays)`` for one subset after the other.

    Subsets of equal structure are stacked and scanned, which compiles one projector instead of many.
    """
    parts = list(zip(subsets, y, arrays, strict=True))
    shapes = [(jax.tree.structure(p), [a.shape for a in jax.tree.leaves(p)]) for p in parts]
    if len(parts) == 1 or any(s != shapes[0] for s in shapes):

        def sweep(x):
            for part in parts:
                x = update(x, *part)
            return x

        return sweep
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
    return lambda x: jax.lax.scan(lambda x, part: (update(x, *part), None), x, stacked)[0]
