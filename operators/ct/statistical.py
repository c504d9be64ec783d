"""Statistical reconstruction: MLEM and OSEM, penalized weighted least squares, total variation.

How runs stop, batches, differentiation, callbacks and errors are as ``operators.ct.algebraic`` says.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from operators.algebra import ArgumentError, FiniteDifferences, LinearOperator, check_array, renamed
from operators.ct.algebraic import (
    check_subsets,
    clipped,
    column_sums,
    inverse_sums,
    start_image,
    sweep_subsets,
)
from operators.ct.physics import as_broadcastable
from operators.solvers import (
    Callback,
    Objective,
    SolverInfo,
    Stopping,
    group_soft_threshold,
    largest_eigenvalue,
    operator_norm,
    pdhg,
    pogm,
    positive,
    relative_change,
)


def mlem(
    A: LinearOperator,
    y: jax.Array,
    *,
    x0: jax.Array | None = None,
    background: float | jax.Array = 0.0,
    iterations: int = 50,
    tolerance: float | None = None,
    objective: Objective | None = None,
    callback: Callback | None = None,
) -> tuple[jax.Array, SolverInfo]:
    """Maximum likelihood for Poisson data of mean ``A x + background`` by expectation maximization.

    ``x <- x * A.H(y / (A x + background)) / A.H(1)``: never negative, the likelihood never falls, and
    without background every step makes the counts of A x those of y (of the rays that meet x). Pixels that
    no ray meets become zero. In transmission tomography it is used with line integrals in place of counts.

    Args:
      A: projector without negative entries.
      y: counts (..., *A.out_shape); negative ones count as zero.
      x0: where to start, positive (what is zero stays zero); default: uniform, with the counts of y.
      background: known mean of other counts, not negative, broadcastable to ``y``.
      iterations: number of steps, or its upper bound.
      tolerance: relative change at which to stop.
      objective: function of x whose values are kept.
      callback: called on the host after every step.

    Source: Shepp and Vardi, IEEE Trans. Med. Imaging 1:113, 1982; Lange and Carson, J. Comput. Assist.
    Tomogr. 8:306, 1984.
    """
    stopping = Stopping("mlem", iterations, tolerance, objective, callback)
    return _expectation_maximization([A], [y], x0, [background], stopping)


def osem(
    subsets: Sequence[LinearOperator],
    y: Sequence[jax.Array],
    *,
    x0: jax.Array | None = None,
    background: Sequence[float | jax.Array] | None = None,
    iterations: int = 5,
    tolerance: float | None = None,
    objective: Objective | None = None,
    callback: Callback | None = None,
) -> tuple[jax.Array, SolverInfo]:
    """:func:`mlem` with one subset of the views after the other: as many times faster, but it may cycle.

    Args:
      subsets: projectors without negative entries, see :func:`view_subsets`.
      y: counts of every subset; negative ones count as zero.
      x0: where to start, positive; default: uniform, with the counts of y.
      background: of every subset, as in :func:`mlem`; default none.
      iterations: number of passes over all subsets, or its upper bound.
      tolerance: relative change of a pass at which to stop.
      objective: function of x whose values are kept.
      callback: called on the host after every pass.

    Source: Hudson and Larkin, IEEE Trans. Med. Imaging 13:601, 1994.
    """
    stopping = Stopping("osem", iterations, tolerance, objective, callback)
    background = [0.0] * len(subsets) if background is None else background
    if len(background) != len(subsets):
        raise ArgumentError(
            "osem: background", f"one entry for each of the {len(subsets)} subsets", len(background)
        )
    return _expectation_maximization(subsets, y, x0, background, stopping)


def _expectation_maximization(subsets, y, x0, background, stopping):
    y = [jnp.maximum(part, 0) for part in check_subsets(stopping.name, subsets, y)]
    sensitivities = [column_sums(A) for A in subsets]
    axes = tuple(range(-len(subsets[0].in_shape), 0))
    if x0 is None:
        counts = sum(jnp.sum(p, tuple(range(-len(A.out_shape), 0))) for A, p in zip(subsets, y, strict=True))
        level = counts / positive(sum(jnp.sum(s) for s in sensitivities))
        x0 = jnp.expand_dims(level, axes) * jnp.ones_like(sensitivities[0])
    inverses = [
        (inverse_sums(s), jnp.broadcast_to(jnp.asarray(b, p.dtype), p.shape))
        for s, b, p in zip(sensitivities, background, y, strict=True)
    ]

    def update(x, A, y, inverse):
        sensitivity, background = inverse
        expected = A(x) + background
        return x * sensitivity * A.H(jnp.where(expected > 0, y / positive(expected), 0))

    sweep = sweep_subsets(update, subsets, y, inverses)

    def step(state, _):
        (x,) = state
        new = sweep(x)
        return (new,), relative_change(new, x)

    x = start_image(stopping.name, subsets[0], y[0], x0)
    return stopping.run(step, (x,))


@renamed(beta="regularization")
def pwls(
    A: LinearOperator,
    y: jax.Array,
    weights: jax.Array,
    *,
    regularization: float | jax.Array,
    huber: float | jax.Array | None = None,
    x0: jax.Array | None = None,
    nonnegative: bool = True,
    iterations: int = 50,
    tolerance: float | None = None,
    objective: Objective | None = None,
    callback: Callback | None = None,
) -> tuple[jax.Array, SolverInfo]:
    """Penalized weighted least squares by the optimized gradient method.

    Minimizes ``1/2 sum w (y - A x)^2 + regularization * sum psi(D x)``, D the differences of neighboring
    pixels along the axes, ``psi(t) = t^2 / 2``, or with ``huber`` the function that is this up to
    ``|t| = huber`` and linear beyond.

    Args:
      A: any real operator.
      y: line integrals (..., *A.out_shape).
      weights: inverse variances, broadcastable to ``y``, see :func:`operators.ct.statistical_weights`.
      regularization: non-negative weight of the penalty.
      huber: positive, in the unit of x; None: quadratic.
      x0: where to start; default zeros; the image of :func:`operators.fbp` saves steps.
      nonnegative: constrains x to be.
      iterations: number of steps, or its upper bound.
      tolerance: relative change at which to stop.
      objective: function of x whose values are kept.
      callback: called on the host after every step.

    Source: Sauer and Bouman, IEEE Trans. Signal Process. 41:534, 1993; Kim and Fessler, J. Optim. Theory
    Appl. 178:240, 2018.
    """
    y = check_array(y, A.out_shape, A.out_dtype, "pwls: y")
    weights = as_broadcastable(weights, y, "pwls: weights")
    D = FiniteDifferences(A.in_shape, A.in_dtype)
    x0 = start_image("pwls", A, y, x0)

    def weighted(x):
        return A.H(weights * A(x))

    back = A.H(weights * y)

    def gradient(x):
        slope = D(x)
        slope = slope if huber is None else jnp.clip(slope, -huber, huber)
        return weighted(x) - back + regularization * D.H(slope)

    # Power iteration approaches the eigenvalue from below.
    bound = (
        1.04 * jax.lax.stop_gradient(largest_eigenvalue(weighted, x0)) + 4 * len(A.in_shape) * regularization
    )
    return pogm(
        gradient,
        lambda v, step: clipped(v, nonnegative),
        x0,
        lipschitz=bound,
        iterations=iterations,
        tolerance=tolerance,
        objective=objective,
        callback=callback,
    )


@renamed(weight="regularization")
def tv(
    A: LinearOperator,
    y: jax.Array,
    regularization: float | jax.Array,
    *,
    x0: jax.Array | None = None,
    nonnegative: bool = True,
    iterations: int = 200,
    tolerance: float | None = None,
    objective: Objective | None = None,
    callback: Callback | None = None,
) -> tuple[jax.Array, SolverInfo]:
    """``argmin_x 1/2 |A x - y|^2 + regularization * TV(x)`` over non-negative x, by PDHG.

    TV is the isotropic total variation of images and volumes, as in :func:`operators.total_variation`.

    Args:
      A: any real operator.
      y: line integrals (..., *A.out_shape).
      regularization: non-negative weight of the total variation.
      x0: where to start; default zeros.
      nonnegative: constrains x to be.
      iterations: number of primal-dual steps, or its upper bound.
      tolerance: relative change of x and of the dual variable at which to stop.
      objective: function of x whose values are kept.
      callback: called on the host after every step.

    Source: Chambolle and Pock, J. Math. Imaging Vis. 40:120, 2011; Sidky et al., Phys. Med. Biol. 57:3065,
    2012.
    """
    # Not operators.total_variation, which solves each image of a batch by itself, from zero and for a fixed
    # number of steps: a batch is one run here, which can start anywhere, be constrained, and stop early.
    y = check_array(y, A.out_shape, A.out_dtype, "tv: y")
    x0 = start_image("tv", A, y, x0)
    ndim = len(A.in_shape)
    D = FiniteDifferences(A.in_shape, A.in_dtype)
    size = (4 * ndim) ** 0.5
    norm = positive(1.02 * operator_norm(A, jax.random.key(0)))
    # In units in which both blocks have norm one and the back projection is at most one.
    back = jnp.max(jnp.abs(A.H(y)), axis=tuple(range(-ndim, 0)), keepdims=True)
    unit = positive(back) / norm**2
    data = y / (norm * unit.reshape(*unit.shape[: unit.ndim - ndim], *(1,) * len(A.out_shape)))
    bound = jnp.expand_dims(size * regularization / (norm**2 * unit), -1 - ndim)

    def dual(v, step):
        residual, slope = v
        shrunk = group_soft_threshold(slope, step * bound, axis=-1 - ndim)
        return (residual + step * data) / (1 + step), shrunk

    x, info = pdhg(
        lambda x: (A(x) / norm, D(x) / size),
        lambda q: A.H(q[0]) / norm + D.H(q[1]) / size,
        lambda v, step: clipped(v, nonnegative),
        dual,
        x0 / unit,
        steps=(1.0, 0.5),
        iterations=iterations,
        tolerance=tolerance,
        objective=None if objective is None else lambda x: objective(x * unit),
        callback=callback,
    )
    return x * unit, info
