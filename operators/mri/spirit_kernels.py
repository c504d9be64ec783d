"""SPIRiT: coil images that agree with a linear relation between neighboring k-space samples of all coils."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from operators.algebra import (
    ArgumentError,
    Leaf,
    LinearOperator,
    as_inexact,
    assign,
    check_array,
    check_measured,
    complex_dtype,
    frozen_pytree,
    image_shape_2d,
    is_complex,
    real_dtype,
    renamed,
)
from operators.fourier import centered_resize, fft2c, ifft2c
from operators.mri.calibration import (
    calibration_gram,
    calibration_windows,
    check_kernel_shape,
    check_kspace,
    check_regularization,
    concrete_mask,
    solve_positive,
    tikhonov,
)
from operators.solvers import cg


@frozen_pytree
class SPIRiT(LinearOperator):
    """Inconsistency of coil images with a SPIRiT kernel: x -> G x - x on (..., coils, ny, nx).

    G is the convolution of k-space with the kernel, ``(G x)[c, k] = sum_{d, r} kernel[c, d, r] x[d, k + r]``
    with r counted from the kernel's center and k periodic, applied to images as one coils by coils matrix per
    pixel. ``A.gram(x)`` is ``(G - I)^H (G - I) x``.

    Args:
      kernel: (coils, coils, ky, kx) complex, from :func:`spirit_kernel`: coils of outputs, then of inputs.
      image_shape: (ny, nx), at least (ky, kx).

    Attributes:
      matrices: the matrices of G (coils, coils, ny, nx).

    Raises:
      ValueError: if a shape does not fit.
      TypeError: if ``image_shape`` is not of integers.

    Source: Lustig and Pauly, Magn. Reson. Med. 64:457, 2010.
    """

    matrices: Leaf

    def __init__(self, kernel: jax.Array, image_shape: tuple[int, int]) -> None:
        kernel, shape = as_inexact(kernel), image_shape_2d(image_shape, "SPIRiT: image_shape")
        if (
            kernel.ndim != 4
            or kernel.shape[0] != kernel.shape[1]
            or any(k % 2 == 0 for k in kernel.shape[2:])
        ):
            raise ArgumentError("SPIRiT: kernel", "(coils, coils, ky, kx) with odd ky and kx", kernel.shape)
        if any(k > n for k, n in zip(kernel.shape[2:], shape, strict=True)):
            raise ArgumentError("SPIRiT: kernel", f"at most image_shape {shape}", kernel.shape[2:])
        kernel = kernel.astype(complex_dtype(kernel.dtype))
        assign(self, matrices=math.sqrt(math.prod(shape)) * fft2c(centered_resize(kernel, shape)))

    in_shape = out_shape = property(lambda self: self.matrices.shape[-3:])
    in_dtype = out_dtype = property(lambda self: self.matrices.dtype)

    def _forward(self, x):
        return jnp.einsum("cdyx,...dyx->...cyx", self.matrices, x, precision="highest") - x

    def _adjoint(self, y):
        matrices = self.matrices.conj()
        return jnp.einsum("cdyx,...cyx->...dyx", matrices, y, precision="highest") - y


@renamed(l2="regularization")
def spirit_kernel(
    calibration: jax.Array, kernel_shape: tuple[int, int] = (5, 5), regularization: float | jax.Array = 0.01
) -> jax.Array:
    """The weights that best predict each sample of a calibration block from its neighbors in all coils.

    ``x[c, k] ~ sum_{d, r} kernel[c, d, r] x[d, k + r]`` in the regularized least-squares sense over all
    windows of the block; the sample itself is left out: ``kernel[c, c, center] = 0``. Differentiable.

    Args:
      calibration: fully sampled k-space block (..., coils, cy, cx), of any scale.
      kernel_shape: odd (ky, kx).
      regularization: positive Tikhonov weight in units of the mean eigenvalue of the normal matrix. For n
        unknowns it is taken as at least ``4 n eps``.

    Returns:
      (..., coils, coils, ky, kx) complex: coils of outputs, then of inputs.

    Raises:
      ValueError: if ``calibration`` has fewer than three axes or is smaller than the kernel, or
        ``regularization`` is not positive.
      TypeError: if ``kernel_shape`` is not of integers.
    """
    calibration, _ = check_kspace(calibration, None, "spirit_kernel")
    kernel_shape = check_kernel_shape(kernel_shape, "spirit_kernel")
    check_regularization(regularization, "spirit_kernel")
    windows = calibration_windows(np.ones(calibration.shape[-2:], bool), kernel_shape, "spirit_kernel")
    blocks = calibration.reshape(-1, *calibration.shape[-3:])
    kernels = jax.vmap(lambda block: _kernel(block, windows, kernel_shape, regularization))(blocks)
    return kernels.reshape(calibration.shape[:-3] + kernels.shape[1:])


@renamed(l2="regularization", max_iterations="iterations")
def spirit(
    kspace: jax.Array,
    mask: jax.Array,
    calibration: jax.Array | None = None,
    *,
    kernel_shape: tuple[int, int] = (5, 5),
    regularization: float | jax.Array = 0.01,
    tolerance: float = 1e-4,
    iterations: int = 50,
    return_info: bool = False,
) -> Any:
    """Fills Cartesian k-space with the samples most consistent with the kernel of its calibration.

    Minimizes ``|(G - I) x|^2`` over the samples that are not measured, the measured ones being kept, by
    conjugate gradients from zeros; every mask is allowed. Differentiable as :func:`cg` and
    :func:`spirit_kernel` are.

    Args:
      kspace: (..., coils, ny, nx); values where the mask is zero are ignored. Coils of zeros stay zero.
      mask: zero where a sample is not measured, broadcastable to (ny, nx); (nx,) selects columns. It may be
        traced if ``calibration`` is given.
      calibration: separately measured, fully sampled block (coils, cy, cx) or (..., coils, cy, cx), of any
        scale; None stands for the fully sampled windows of ``kspace`` itself.
      kernel_shape: odd (ky, kx).
      regularization: Tikhonov weight of the calibration, as in :func:`spirit_kernel`.
      tolerance: relative residual of the normal equations at which to stop.
      iterations: upper bound of iterations.
      return_info: also return how the run ended, :class:`operators.solvers.CGInfo`.

    Returns:
      (..., coils, ny, nx) complex, of the precision of ``kspace``; measured samples are returned bit for bit.

    Raises:
      ValueError: if a shape does not fit, no window is fully sampled, or ``regularization`` is not positive.
      TypeError: if ``mask`` is traced and ``calibration`` is None, or ``kernel_shape`` is not of integers.

    Source: Lustig and Pauly, Magn. Reson. Med. 64:457, 2010.
    """
    kspace, calibration = check_kspace(kspace, calibration, "spirit")
    kernel_shape = check_kernel_shape(kernel_shape, "spirit")
    check_regularization(regularization, "spirit")
    shape, batch = kspace.shape[-2:], kspace.shape[:-3]
    if any(k > n for k, n in zip(kernel_shape, shape, strict=True)):
        raise ArgumentError("spirit: kernel_shape", f"at most (ny, nx) = {shape}", kernel_shape)
    if calibration is None or not isinstance(mask, jax.core.Tracer):
        mask = concrete_mask(mask, shape, "spirit")
    known = np.asarray(mask) if calibration is None else np.ones(calibration.shape[-2:], bool)
    windows = calibration_windows(known, kernel_shape, "spirit")
    measured = jnp.asarray(mask) != 0
    samples = jnp.where(measured, kspace, 0)
    if calibration is None:
        calibration = samples
    calibration = jnp.broadcast_to(calibration, batch + calibration.shape[-3:])

    def fill(samples, block):
        G = SPIRiT(_kernel(block, windows, kernel_shape, regularization), shape)

        def normal(x):
            return jnp.where(measured, 0, fft2c(G.gram(ifft2c(x))))

        return cg(normal, -normal(samples), tolerance=tolerance, iterations=iterations)

    flat = (a.reshape(-1, *a.shape[-3:]) for a in (samples, calibration))
    results = jax.vmap(fill)(*flat)
    missing, info = jax.tree.map(lambda a: a.reshape(*batch, *a.shape[1:]), results)
    filled = jnp.where(measured, kspace, missing)
    return (filled, info) if return_info else filled


@renamed(weight="regularization", max_iterations="iterations")
def cg_spirit(
    fourier: LinearOperator,
    y: jax.Array,
    G: SPIRiT,
    *,
    regularization: float | jax.Array = 1.0,
    density: jax.Array | None = None,
    tolerance: float = 1e-6,
    iterations: int = 30,
    return_info: bool = False,
) -> Any:
    """Coil images ``argmin_x |F x - y|^2 + regularization |(G - I) x|^2``, for any sampling.

    By conjugate gradients.

    Args:
      fourier: Fourier operator F of one coil's image, Cartesian or not.
      y: measurements (..., coils, *fourier.out_shape).
      G: the consistency operator, its kernel calibrated on Cartesian k-space of the same spacing.
      regularization: non-negative weight of consistency.
      density: real weights of the data, broadcastable to ``fourier.out_shape``: the first term becomes
        ``sum density |F x - y|^2``. None stands for ones.
      tolerance: relative residual of the normal equations at which to stop.
      iterations: upper bound of iterations.
      return_info: also return how the run ended, :class:`operators.solvers.CGInfo`.

    Returns:
      (..., coils, ny, nx) complex.

    Raises:
      ValueError, TypeError: if ``fourier``, ``y``, ``G`` or ``density`` do not fit together.

    Source: Lustig and Pauly, Magn. Reson. Med. 64:457, 2010.
    """
    if not is_complex(fourier.in_dtype) or fourier.in_shape != G.in_shape[1:]:
        raise ArgumentError(
            "cg_spirit: fourier",
            f"an operator on complex images of shape {G.in_shape[1:]}",
            f"{fourier.in_dtype} {fourier.in_shape}",
        )
    y = check_measured(y, fourier.out_dtype, "cg_spirit: y")
    y = check_array(y, (G.in_shape[0], *fourier.out_shape), fourier.out_dtype, "cg_spirit: y")
    weighted = y if density is None else jnp.asarray(density, real_dtype(y.dtype)) * y
    regularization = jnp.asarray(regularization, real_dtype(G.in_dtype))

    def normal(x):
        return fourier.gram(x, density) + regularization * G.gram(x)

    x, info = cg(normal, fourier.H(weighted), tolerance=tolerance, iterations=iterations)
    return (x, info) if return_info else x


def _kernel(
    kspace: jax.Array, windows: np.ndarray, kernel_shape: tuple[int, int], regularization: float | jax.Array
) -> jax.Array:
    """The kernel (coils, coils, ky, kx) of one calibration (coils, ny, nx)."""
    coils, taps = kspace.shape[0], windows.shape[1]
    n = coils * taps
    own = np.arange(coils) * taps + taps // 2
    normal = tikhonov(calibration_gram(kspace, windows).reshape(n, n), regularization)
    # The regression of one variable on all others, from its column of the inverse normal matrix.
    unit = jnp.zeros((n, coils), normal.dtype).at[own, np.arange(coils)].set(1)
    columns = solve_positive(normal, unit)
    weights = -columns / columns[own, np.arange(coils)]
    weights = weights.at[own, np.arange(coils)].set(0)
    return weights.T.reshape(coils, coils, *kernel_shape)
