"""Images whose differences are penalized: total variation and total generalized variation.

Arguments, batches and derivatives are as in ``variational.py``.
"""

from typing import Any

import jax
import jax.numpy as jnp

from operators.algebra import (
    ArgumentError,
    FiniteDifferences,
    LinearOperator,
    backward_difference,
    backward_difference_adjoint,
    renamed,
)
from operators.solvers.first_order import pdhg
from operators.solvers.linear import positive
from operators.solvers.proximal import group_soft_threshold
from operators.solvers.scaling import in_units


@renamed(weight="regularization")
def total_variation(
    A: LinearOperator,
    y: jax.Array,
    regularization: float | jax.Array,
    iterations: int = 200,
    *,
    tolerance: float | jax.Array | None = None,
    return_info: bool = False,
) -> Any:
    """``argmin_x 1/2 |A x - y|^2 + regularization * TV(x)``, TV the isotropic total variation, by PDHG.

    TV is the sum over pixels of the length of the forward differences (zero across the far edges), of both
    parts together for complex images. Steps follow from ``operator_norm(A)``. Without ``tolerance`` the
    number of iterations is fixed, so the function is differentiable by unrolling.

    Args:
      A: operator on images (ny, nx), such as SENSE or Radon.
      y: measurements (..., *A.out_shape).
      regularization: non-negative weight of the total variation.
      iterations: number of primal-dual steps, or its upper bound.
      tolerance: relative change at which to stop before, see :class:`operators.solvers.Stopping`; the result
        then has no reverse-mode derivative. None: never.
      return_info: also return how the run ended.

    Returns:
      x (..., ny, nx) of ``A.in_dtype``, or (x, :class:`operators.solvers.SolverInfo`).

    Raises:
      ValueError: if ``A`` does not act on two-dimensional images or ``y`` does not fit.
      TypeError: if the dtype of ``y`` does not fit.

    Source: Chambolle and Pock, J. Math. Imaging Vis. 40:120, 2011; Sidky et al., Phys. Med. Biol. 57:3065,
    2012.

    Example:
      >>> A = operators.Diagonal(jnp.ones((1, 4)))
      >>> image = operators.total_variation(A, jnp.array([[0.0, 0.0, 1.0, 1.0]]), 0.2)
      >>> print(np.asarray(image).round(2))
      [[0.1 0.1 0.9 0.9]]
    """
    _check_image("total_variation", A)
    D = FiniteDifferences(A.in_shape, A.in_dtype) / 8**0.5

    def solve(A, data, back, unit):
        bound = regularization / unit
        # Both blocks have norm one: 1 * 1/2 * (1 + 1) = 1.
        return pdhg(
            lambda x: (A(x), D(x)),
            lambda dual: A.H(dual[0]) + D.H(dual[1]),
            None,
            lambda v, step: (
                (v[0] + step * data) / (1 + step),
                group_soft_threshold(v[1], step * 8**0.5 * bound, axis=-3),
            ),
            jnp.zeros_like(back),
            steps=_steps(bound),
            iterations=iterations,
            tolerance=tolerance,
        )

    x, info = in_units("total_variation", A, y, solve)
    return (x, info) if return_info else x


@renamed(weight="regularization")
def total_generalized_variation(
    A: LinearOperator,
    y: jax.Array,
    regularization: float | jax.Array,
    *,
    ratio: float | jax.Array = 2.0,
    iterations: int = 400,
    tolerance: float | jax.Array | None = None,
    return_info: bool = False,
) -> Any:
    """``argmin_x 1/2 |A x - y|^2 + regularization * TGV(x)``, total generalized variation of second order.

    ``TGV(x) = min_w |grad x - w|_1 + ratio * |sym w|_1`` with forward differences in ``grad``, the
    symmetrized backward differences in ``sym``, and the sums over pixels of Euclidean (Frobenius) lengths. It
    is zero for images that are linear in the position and never above the total variation, so that smooth
    shading does not become steps. By PDHG.

    Args:
      A: operator on images (ny, nx), such as SENSE or Radon.
      y: measurements (..., *A.out_shape).
      regularization: non-negative weight, as that of :func:`total_variation`.
      ratio: positive weight of the second order.
      iterations: number of primal-dual steps, or its upper bound.
      tolerance: relative change at which to stop before, see :class:`operators.solvers.Stopping`; the result
        then has no reverse-mode derivative. None: never.
      return_info: also return how the run ended.

    Returns:
      x (..., ny, nx) of ``A.in_dtype``, or (x, :class:`operators.solvers.SolverInfo`).

    Raises:
      ValueError: if ``A`` does not act on two-dimensional images or ``y`` does not fit.
      TypeError: if the dtype of ``y`` does not fit.

    Source: Bredies, Kunisch and Pock, SIAM J. Imaging Sci. 3:492, 2010; Knoll et al., Magn. Reson. Med.
    65:480, 2011.
    """
    _check_image("total_generalized_variation", A)
    D = FiniteDifferences(A.in_shape, A.in_dtype)
    # Where an image has no forward difference, w does not count.
    inside = difference_mask(A.in_shape)
    # The squared norm of (x, w) -> (grad x - w, sym w) is at most (17 + 33 ** 0.5) / 2.
    size = 3.38

    def solve(A, data, back, unit):
        bound = regularization / unit

        def forward(state):
            x, w = state
            return A(x), (D(x) - inside * w) / size, _symmetrized(w) / size

        def adjoint(dual):
            residual, slope, bend = dual
            field = _symmetrized_adjoint(bend) - inside * slope
            return A.H(residual) + D.H(slope) / size, field / size

        (x, _), info = pdhg(
            forward,
            adjoint,
            None,
            lambda v, step: (
                (v[0] + step * data) / (1 + step),
                group_soft_threshold(v[1], step * size * bound, axis=-3),
                group_soft_threshold(v[2], step * size * bound * ratio, axis=-3),
            ),
            (jnp.zeros_like(back), jnp.zeros_like(D(back))),
            steps=(1.0, 0.5),
            iterations=iterations,
            tolerance=tolerance,
        )
        return x, info

    x, info = in_units("total_generalized_variation", A, y, solve)
    return (x, info) if return_info else x


def difference_mask(shape: tuple[int, ...]) -> jax.Array:
    """(axes, *shape) booleans: True where an image has a forward difference along that axis."""
    ones = jnp.indices(shape)
    return ones < jnp.array(shape).reshape(-1, *(1,) * len(shape)) - 1


def _symmetrized(w):
    """(..., 2, ny, nx) -> (..., 3, ny, nx): d_y w_y, d_x w_x and the mixed part, for Frobenius lengths."""
    wy, wx = w[..., 0, :, :], w[..., 1, :, :]
    mixed = (backward_difference(wy, -1) + backward_difference(wx, -2)) / 2**0.5
    return jnp.stack([backward_difference(wy, -2), backward_difference(wx, -1), mixed], axis=-3)


def _symmetrized_adjoint(q):
    yy, xx, mixed = q[..., 0, :, :], q[..., 1, :, :], q[..., 2, :, :] / 2**0.5
    wy = backward_difference_adjoint(yy, -2) + backward_difference_adjoint(mixed, -1)
    wx = backward_difference_adjoint(xx, -1) + backward_difference_adjoint(mixed, -2)
    return jnp.stack([wy, wx], axis=-3)


def _steps(bound):
    """(primal, dual) steps of product 1/2 for an image of order one whose differences weigh ``bound``.

    The weight bounds the dual variable. Where it is small, long primal steps let both arrive together.
    """
    primal = jnp.clip(0.01 / positive(jnp.asarray(bound)), 1, 16)
    return primal, 0.5 / primal


def _check_image(name: str, A: LinearOperator) -> None:
    if len(A.in_shape) != 2:
        raise ArgumentError(f"{name}: A", "an operator on images (ny, nx)", f"in_shape {A.in_shape}")
