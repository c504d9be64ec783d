"""Images from measurements in one call: gridding, least squares, sparse and low-rank models.

All of them take any LinearOperator A (SENSE over a Fourier operator, Radon, ...) and measurements
(..., *A.out_shape), whose leading axes are independent problems, and return images (..., *A.in_shape); with
``return_info`` the iterative ones return (images, info), whose leading axes are those of y. Without a
tolerance they run a fixed number of steps and are differentiable by unrolling.
"""

from typing import Any

import jax
import jax.numpy as jnp

from operators.algebra import (
    ArgumentError,
    LinearOperator,
    Wavelet,
    as_inexact,
    check_array,
    check_measured,
    is_complex,
    renamed,
    safe_sqrt,
    squared,
)
from operators.solvers.first_order import pogm
from operators.solvers.linear import cg, vector_norm
from operators.solvers.proximal import check_blocks, prox_locally_low_rank, prox_wavelet, split_blocks
from operators.solvers.scaling import in_units
from operators.solvers.stopping import Stopping, relative_change

# The mean over a random iteration weights step k by about k ** (_MEAN_POWER - 1) (Shamir and Zhang 2013).
_MEAN_POWER = 5.0


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
        raise TypeError(f"gridding: density: expected a real dtype, found {density.dtype}")
    shape = (1,) * (len(A.out_shape) - density.ndim) + density.shape
    if len(shape) != len(A.out_shape) or any(
        m not in (1, n) for m, n in zip(shape, A.out_shape, strict=True)
    ):
        raise ArgumentError(
            "gridding: density", f"a shape broadcastable to A.out_shape {A.out_shape}", density.shape
        )
    return A.H(density.astype(y.real.dtype) * y)


@renamed(l2="regularization", max_iterations="iterations")
def cg_sense(
    A: LinearOperator,
    y: jax.Array,
    *,
    regularization: float | jax.Array = 0.0,
    tolerance: float = 1e-6,
    iterations: int = 30,
    return_info: bool = False,
) -> Any:
    """Least-squares reconstruction ``argmin_x |A x - y|^2 + regularization |x|^2`` by conjugate gradients.

    Images of a batch are solved as one system, stopped together; it is differentiated implicitly, as
    :func:`operators.cg`.

    Args:
      A: the measurement operator, :class:`operators.SENSE` or any other.
      y: measurements (..., *A.out_shape).
      regularization: Tikhonov weight.
      tolerance: relative residual of the normal equations at which to stop.
      iterations: upper bound of iterations.
      return_info: also return how the run ended.

    Returns:
      x (..., *A.in_shape) of ``A.in_dtype``, or (x, :class:`operators.solvers.CGInfo`).

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
    x, info = cg(A.gram, A.H(y), regularization=regularization, tolerance=tolerance, iterations=iterations)
    return (x, info) if return_info else x


@renamed(weight="regularization")
def l1_wavelet(
    A: LinearOperator,
    y: jax.Array,
    regularization: float | jax.Array,
    *,
    wavelet: str = "db2",
    levels: int | None = None,
    iterations: int = 100,
    tolerance: float | jax.Array | None = None,
    key: jax.Array | None = None,
    return_info: bool = False,
) -> Any:
    """``argmin_x 1/2 |A x - y|^2 + regularization * max|A.H(y)| * |W x|_1``, W a wavelet transform's details.

    By POGM with restarts, or with ``key`` by FISTA and a mean of its last steps. The weight is free of scale:
    5e-4 to 5e-3 suits most undersampled MRI.

    Args:
      A: operator on images or volumes, such as SENSE or Radon.
      y: measurements (..., *A.out_shape).
      regularization: non-negative, relative to the largest magnitude of ``A.H(y)``, image by image.
      wavelet: "haar" or "db1" to "db10", see :class:`operators.Wavelet`. Long filters spread edges:
        "db4" lost up to 0.3 dB on measured heads.
      levels: number of levels; default: that of :class:`operators.Wavelet`.
      iterations: number of steps, or its upper bound.
      tolerance: relative change at which to stop before, see :class:`operators.solvers.Stopping`; the result
        then has no reverse-mode derivative. None: never.
      key: typed PRNG key of cycle spinning, a random shift of the transform in every step. It removes the
        traces of the wavelet grid from the image, which then approaches a neighborhood of the minimizer for
        the mean of the term over shifts. The images of the last steps, which scatter there, are averaged
        over about the last fifth of the steps, and ``change`` is that of the average. None: the problem as
        it is written.
      return_info: also return how the run ended.

    Returns:
      x (..., *A.in_shape) of ``A.in_dtype``, or (x, :class:`operators.solvers.SolverInfo`).

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
        return prox_wavelet(v, step * regularization, W, key)

    x, info = _regularized("l1_wavelet", A, y, prox, (iterations, tolerance), key)
    return (x, info) if return_info else x


@renamed(weight="regularization")
def locally_low_rank(
    A: LinearOperator,
    y: jax.Array,
    regularization: float | jax.Array,
    *,
    block_shape: tuple[int, int] = (8, 8),
    iterations: int = 60,
    tolerance: float | jax.Array | None = None,
    key: jax.Array | None = None,
    return_info: bool = False,
) -> Any:
    """``argmin_x 1/2 |A x - y|^2 + regularization * scale * sum_blocks |X_block|_*`` of a dynamic series.

    X_block is the (pixels, frames) matrix of a block, ``|.|_*`` the sum of singular values, and ``scale`` the
    largest Frobenius norm of a block of ``A.H(y)``, so that the weight is free of scale: 1e-3 to 1e-1. By
    POGM with restarts, or with ``key`` by FISTA and a mean of its last steps.

    Args:
      A: operator on series (frames, ny, nx), such as a :class:`operators.BlockDiagonal` of one operator per
        frame.
      y: measurements (..., *A.out_shape).
      regularization: non-negative, relative to ``scale``.
      block_shape: (by, bx) in pixels.
      iterations: number of steps, or its upper bound.
      tolerance: relative change at which to stop before, see :class:`operators.solvers.Stopping`; the result
        then has no reverse-mode derivative. None: never.
      key: typed PRNG key of a random cyclic shift of the blocks in every step, which removes their traces,
        with the average that :func:`l1_wavelet` takes; None: blocks from the first pixel on.
      return_info: also return how the run ended.

    Returns:
      x (..., frames, ny, nx) of ``A.in_dtype``, or (x, :class:`operators.solvers.SolverInfo`).

    Raises:
      ValueError: if ``A`` does not act on series or ``y``, ``block_shape`` or ``iterations`` does not fit.
      TypeError: if the dtype of ``y`` does not fit.

    Source: Zhang, Pauly and Levesque, Magn. Reson. Med. 73:655, 2015.
    """
    if len(A.in_shape) != 3:
        raise ArgumentError(
            "locally_low_rank: A", "an operator on series (frames, ny, nx)", f"in_shape {A.in_shape}"
        )
    check_blocks("locally_low_rank", A.in_shape, block_shape)

    def size(back):
        power = jnp.sum(squared(split_blocks(back, block_shape)), axis=(-2, -1))
        return safe_sqrt(jnp.max(power))

    def prox(v, step, key=None):
        shift = (0, 0) if key is None else jax.random.randint(key, (2,), 0, jnp.array(block_shape))
        return prox_locally_low_rank(v, step * regularization, block_shape, shift)

    x, info = _regularized("locally_low_rank", A, y, prox, (iterations, tolerance), key, size)
    return (x, info) if return_info else x


def _regularized(name, A, y, prox, limits, key, size=lambda back: jnp.max(jnp.abs(back))):
    """Least squares plus the term of ``prox``, whose weight is relative to ``size(A.H(y))``."""
    iterations, tolerance = limits

    def solve(A, data, back, unit):
        def gradient(x):
            return A.gram(x) - back

        start = jnp.zeros_like(back)
        if key is not None:
            stopping = Stopping(name, iterations, tolerance)
            return _spun(
                gradient, lambda v, index: prox(v, 1.0, jax.random.fold_in(key, index)), start, stopping
            )
        return pogm(gradient, prox, start, lipschitz=1.0, iterations=iterations, tolerance=tolerance)

    return in_units(name, A, y, solve, size)


def _spun(gradient, prox, start, stopping):
    """FISTA in steps of one whose proximal map is drawn anew in each, and the running mean of its images.

    Images scatter about the minimizer for the mean of the drawn terms and never rest; their mean does.
    """

    def step(state, index):
        mean, x, ahead, theta = state
        new = prox(ahead - gradient(ahead), index)
        theta_new = (1 + jnp.sqrt(1 + 4 * theta**2)) / 2
        ahead = new + (theta - 1) / theta_new * (new - x)
        share = (_MEAN_POWER / (index + _MEAN_POWER)).astype(theta.dtype)
        new_mean = mean + share * (new - mean)
        return (new_mean, new, ahead, theta_new), relative_change(new_mean, mean)

    one = jnp.ones_like(vector_norm(jax.lax.stop_gradient(start)))
    return stopping.run(step, (start, start, start, one))
