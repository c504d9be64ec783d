"""Images from measurements in one call: gridding, least squares, sparse, smooth and low-rank models.

All of them take any LinearOperator A (SENSE over a Fourier operator, Radon, ...) and measurements
(..., *A.out_shape), whose leading axes are independent problems, and return images (..., *A.in_shape). The
iterative ones run a fixed number of steps and are differentiable by unrolling.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from operators.algebra import (
    FiniteDifferences,
    LinearOperator,
    Wavelet,
    as_inexact,
    backward_difference,
    backward_difference_adjoint,
    check_array,
    check_measured,
    is_complex,
    safe_sqrt,
    squared,
)
from operators.solvers.first_order import fista, pdhg, pogm
from operators.solvers.linear import cg, operator_norm, positive
from operators.solvers.proximal import (
    check_blocks,
    group_soft_threshold,
    prox_locally_low_rank,
    prox_wavelet,
    split_blocks,
)


def gridding(A: LinearOperator, y: jax.Array, density: jax.Array | None = None) -> jax.Array:
    """The weighted adjoint ``A.H(density * y)``.

    With the density compensation of a non-Cartesian trajectory it is the gridding reconstruction, for SENSE
    combined over coils with the conjugate maps; its scale is that of the weights. Without one it is the
    zero-filled reconstruction of Cartesian MRI and the unfiltered backprojection of CT.

    Args:
      A: the measurement operator.
      y: measurements (..., *A.out_shape).
      density: real and non-negative, broadcastable to ``A.out_shape``, such as (samples,); None: ones.

    Returns:
      (..., *A.in_shape) of ``A.in_dtype``.

    Raises:
      ValueError: if ``y`` or ``density`` does not fit ``A``.
      TypeError: if the dtype of ``y`` does not fit, or the density is complex.

    Source: Jackson et al., IEEE Trans. Med. Imaging 10:473, 1991.
    """
    y = check_array(check_measured(y, A.out_dtype, "gridding: y"), A.out_shape, A.out_dtype, "gridding: y")
    if density is None:
        return A.H(y)
    density = as_inexact(density)
    if is_complex(density.dtype):
        raise TypeError(f"gridding: density must be real, found {density.dtype}")
    shape = (1,) * (len(A.out_shape) - density.ndim) + density.shape
    if len(shape) != len(A.out_shape) or any(
        m not in (1, n) for m, n in zip(shape, A.out_shape, strict=True)
    ):
        raise ValueError(
            f"gridding: density must be broadcastable to A.out_shape {A.out_shape}, found {density.shape}"
        )
    return A.H(density.astype(y.real.dtype) * y)


def cg_sense(
    A: LinearOperator,
    y: jax.Array,
    *,
    l2: float | jax.Array = 0.0,
    tolerance: float = 1e-6,
    max_iterations: int = 30,
) -> jax.Array:
    """Least-squares reconstruction ``argmin_x |A x - y|^2 + l2 |x|^2`` by conjugate gradients.

    Images of a batch are solved as one system, stopped together; it is differentiated implicitly, as
    :func:`operators.cg`.

    Args:
      A: the measurement operator, :class:`operators.SENSE` or any other.
      y: measurements (..., *A.out_shape).
      l2: Tikhonov weight.
      tolerance: relative residual of the normal equations at which to stop.
      max_iterations: upper bound of iterations.

    Returns:
      (..., *A.in_shape) of ``A.in_dtype``.

    Raises:
      ValueError, TypeError: if ``y`` does not fit ``A``, is real k-space or not finite.

    Source: Pruessmann et al., Magn. Reson. Med. 46:638, 2001.

    Example:
      >>> A = operators.SENSE(operators.CartesianFourier((2, 2)), jnp.ones((3, 2, 2)))
      >>> print(np.asarray(operators.cg_sense(A, A(jnp.ones((2, 2))))).real.round(3))
      [[1. 1.]
       [1. 1.]]
    """
    y = check_measured(y, A.out_dtype, "cg_sense: y")
    return cg(A.gram, A.H(y), l2=l2, tolerance=tolerance, max_iterations=max_iterations)[0]


def l1_wavelet(
    A: LinearOperator,
    y: jax.Array,
    weight: float | jax.Array,
    *,
    wavelet: str = "db4",
    levels: int | None = None,
    iterations: int = 100,
    key: jax.Array | None = None,
) -> jax.Array:
    """``argmin_x 1/2 |A x - y|^2 + weight * max|A.H(y)| * |W x|_1``, W the details of a wavelet transform.

    By POGM with restarts, or with ``key`` by FISTA in short steps. The weight is free of scale: 1e-3 to 1e-2
    suits most undersampled MRI.

    Args:
      A: operator on images or volumes, such as SENSE or Radon.
      y: measurements (..., *A.out_shape).
      weight: non-negative, relative to the largest magnitude of ``A.H(y)``, image by image.
      wavelet: "haar" or "db1" to "db10", see :class:`operators.Wavelet`.
      levels: number of levels; default: that of :class:`operators.Wavelet`.
      iterations: number of steps.
      key: typed PRNG key of cycle spinning, a random shift of the transform in every step. It removes the
        traces of the wavelet grid from the image, which then approaches a neighborhood of the minimizer for
        the mean of the term over shifts; None: the problem as it is written.

    Returns:
      (..., *A.in_shape) of ``A.in_dtype``.

    Raises:
      ValueError: if ``y``, ``wavelet``, ``levels`` or ``iterations`` does not fit.
      TypeError: if the dtype of ``y`` does not fit.

    Source: Lustig, Donoho and Pauly, Magn. Reson. Med. 58:1182, 2007; Kamilov, Bostan and Unser, IEEE
    Signal Process. Lett. 21:1326, 2014.

    Example:
      >>> A = operators.CartesianFourier((4, 4))
      >>> image = operators.l1_wavelet(A, A(jnp.ones((4, 4))), 0.01, wavelet="haar", iterations=20)
      >>> print(np.asarray(image[0]).real.round(2))
      [1. 1. 1. 1.]
    """
    W = Wavelet(A.in_shape, wavelet, levels, A.in_dtype)

    def prox(v, step, key=None):
        return prox_wavelet(v, step * weight, W, key)

    return _regularized("l1_wavelet", A, y, prox, iterations, key)


def locally_low_rank(
    A: LinearOperator,
    y: jax.Array,
    weight: float | jax.Array,
    *,
    block_shape: tuple[int, int] = (8, 8),
    iterations: int = 60,
    key: jax.Array | None = None,
) -> jax.Array:
    """``argmin_x 1/2 |A x - y|^2 + weight * scale * sum_blocks |X_block|_*`` of a dynamic series.

    X_block is the (pixels, frames) matrix of a block, ``|.|_*`` the sum of singular values, and ``scale`` the
    largest Frobenius norm of a block of ``A.H(y)``, so that the weight is free of scale: 1e-3 to 1e-1. By
    POGM with restarts, or with ``key`` by FISTA in short steps.

    Args:
      A: operator on series (frames, ny, nx), such as a :class:`operators.BlockDiagonal` of one operator per
        frame.
      y: measurements (..., *A.out_shape).
      weight: non-negative, relative to ``scale``.
      block_shape: (by, bx) in pixels.
      iterations: number of steps.
      key: typed PRNG key of a random cyclic shift of the blocks in every step, which removes their traces;
        None: blocks from the first pixel on.

    Returns:
      (..., frames, ny, nx) of ``A.in_dtype``.

    Raises:
      ValueError: if ``A`` does not act on series or ``y``, ``block_shape`` or ``iterations`` does not fit.
      TypeError: if the dtype of ``y`` does not fit.

    Source: Zhang, Pauly and Levesque, Magn. Reson. Med. 73:655, 2015.
    """
    if len(A.in_shape) != 3:
        raise ValueError(
            f"locally_low_rank: A must act on series (frames, ny, nx), found in_shape {A.in_shape}"
        )
    check_blocks("locally_low_rank", A.in_shape, block_shape)

    def size(back):
        power = jnp.sum(squared(split_blocks(back, block_shape)), axis=(-2, -1))
        return safe_sqrt(jnp.max(power))

    def prox(v, step, key=None):
        shift = (0, 0) if key is None else jax.random.randint(key, (2,), 0, jnp.array(block_shape))
        return prox_locally_low_rank(v, step * weight, block_shape, shift)

    return _regularized("locally_low_rank", A, y, prox, iterations, key, size)


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

    Example:
      >>> A = operators.Diagonal(jnp.ones((1, 4)))
      >>> image = operators.total_variation(A, jnp.array([[0.0, 0.0, 1.0, 1.0]]), 0.2)
      >>> print(np.asarray(image).round(2))
      [[0.1 0.1 0.9 0.9]]
    """
    _check_image("total_variation", A)
    D = FiniteDifferences(A.in_shape, A.in_dtype) / 8**0.5

    def solve(A, data, back, unit):
        bound = weight / unit
        # Both blocks have norm one: 1 * 1/2 * (1 + 1) = 1.
        x, _ = pdhg(
            lambda x: (A(x), D(x)),
            lambda dual: A.H(dual[0]) + D.H(dual[1]),
            None,
            lambda v, step: (
                (v[0] + step * data) / (1 + step),
                group_soft_threshold(v[1], step * 8**0.5 * bound, axis=-3),
            ),
            jnp.zeros_like(back),
            steps=(1.0, 0.5),
            iterations=iterations,
        )
        return x

    return _in_units("total_variation", A, y, solve)


def total_generalized_variation(
    A: LinearOperator,
    y: jax.Array,
    weight: float | jax.Array,
    *,
    ratio: float | jax.Array = 2.0,
    iterations: int = 400,
) -> jax.Array:
    """``argmin_x 1/2 |A x - y|^2 + weight * TGV(x)``, the total generalized variation of second order.

    ``TGV(x) = min_w |grad x - w|_1 + ratio * |sym w|_1`` with forward differences in ``grad``, the
    symmetrized backward differences in ``sym``, and the sums over pixels of Euclidean (Frobenius) lengths. It
    is zero for images that are linear in the position and never above the total variation, so that smooth
    shading does not become steps. By PDHG with a fixed number of iterations.

    Args:
      A: operator on images (ny, nx), such as SENSE or Radon.
      y: measurements (..., *A.out_shape).
      weight: non-negative weight, as that of :func:`total_variation`.
      ratio: positive weight of the second order.
      iterations: number of primal-dual steps.

    Returns:
      (..., ny, nx) of ``A.in_dtype``.

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
        bound = weight / unit

        def forward(state):
            x, w = state
            return A(x), (D(x) - inside * w) / size, _symmetrized(w) / size

        def adjoint(dual):
            residual, slope, bend = dual
            field = _symmetrized_adjoint(bend) - inside * slope
            return A.H(residual) + D.H(slope) / size, field / size

        (x, _), _ = pdhg(
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
        )
        return x

    return _in_units("total_generalized_variation", A, y, solve)


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


def _check_image(name: str, A: LinearOperator) -> None:
    if len(A.in_shape) != 2:
        raise ValueError(f"{name}: A must act on images (ny, nx), found in_shape {A.in_shape}")


def _regularized(name, A, y, prox, iterations, key, size=lambda back: jnp.max(jnp.abs(back))):
    """Least squares plus the term of ``prox``, whose weight is relative to ``size(A.H(y))``."""

    def solve(A, data, back, unit):
        def gradient(x):
            return A.gram(x) - back

        start = jnp.zeros_like(back)
        if key is None:
            return pogm(gradient, prox, start, lipschitz=1.0, iterations=iterations)[0]
        # Short steps, so that the last shifts drawn do not dominate the image.
        return fista(gradient, prox, start, lipschitz=3.0, iterations=iterations, restart=False, key=key)[0]

    return _in_units(name, A, y, solve, size)


def _in_units(
    name: str,
    A: LinearOperator,
    y: jax.Array,
    solve: Callable[..., jax.Array],
    size: Callable[[jax.Array], jax.Array] = lambda back: jnp.max(jnp.abs(back)),
) -> jax.Array:
    """``solve(A, y, A.H(y), unit)``, image by image, for |A| = 1 and ``size(A.H(y))`` = 1, scaled back.

    In these units the same steps and numbers of iterations suit any scanner. Beside ``1/2 |A x - y|^2`` the
    weight of a norm of x is divided by ``unit``, which is what ``size(A.H(y))`` was.
    """
    y = check_array(check_measured(y, A.out_dtype, f"{name}: y"), A.out_shape, A.out_dtype, f"{name}: y")
    norm = positive(1.02 * operator_norm(A, jax.random.key(0)))
    scaled = A / norm

    def one(y):
        unit = positive(size(A.H(y)))
        data = y * (norm / unit)
        return unit / norm**2 * solve(scaled, data, scaled.H(data), unit)

    batch = y.shape[: y.ndim - len(A.out_shape)]
    if not batch:
        return one(y)
    images = jax.vmap(one)(y.reshape(-1, *A.out_shape))
    return images.reshape(*batch, *A.in_shape)
