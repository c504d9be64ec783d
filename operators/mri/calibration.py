"""Calibration of interpolation kernels in k-space: windows, normal matrices and their solution."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from operators.algebra import ArgumentError, as_inexact, check_measured, complex_dtype, positive_integer


def check_kspace(
    kspace: ArrayLike, calibration: ArrayLike | None, where: str
) -> tuple[jax.Array, jax.Array | None]:
    """Complex k-space and calibration of one dtype whose axes agree; raises ValueError naming ``where``."""
    kspace = as_inexact(check_measured(kspace, jnp.complex64, f"{where}: kspace", finite=False))
    if kspace.ndim < 3 or not kspace.size:
        raise ArgumentError(f"{where}: kspace", "(..., coils, ny, nx)", f"shape {kspace.shape}")
    kspace = kspace.astype(complex_dtype(kspace.dtype))
    if calibration is None:
        return kspace, None
    calibration = check_measured(calibration, jnp.complex64, f"{where}: calibration")
    coils, batch = kspace.shape[-3], kspace.shape[:-3]
    shape = calibration.shape
    if len(shape) < 3 or shape[-3] != coils or shape[:-3] not in ((), batch):
        raise ArgumentError(
            f"{where}: calibration",
            f"({coils}, cy, cx) or with the leading axes {batch} of kspace",
            f"shape {shape}",
        )
    return kspace, calibration.astype(kspace.dtype)


def check_kernel_shape(kernel_shape: tuple[int, ...], where: str) -> tuple[int, int]:
    """``kernel_shape`` as two odd integers; raises ValueError or TypeError naming ``where``."""
    shape = tuple(positive_integer(k, f"{where}: kernel_shape") for k in kernel_shape)
    if len(shape) != 2 or any(k % 2 == 0 for k in shape):
        raise ArgumentError(f"{where}: kernel_shape", "two odd integers", kernel_shape)
    return shape


def check_regularization(regularization: Any, where: str) -> None:
    """Raises ValueError naming ``where`` unless ``regularization`` is positive; a traced one passes."""
    if isinstance(regularization, jax.core.Tracer):
        return
    if np.ndim(regularization) or not 0 < regularization < np.inf:
        raise ArgumentError(f"{where}: regularization", "a positive number", regularization)


def concrete_mask(mask: ArrayLike, shape: tuple[int, ...], where: str) -> np.ndarray:
    """The mask as booleans (ny, nx) on the host; TypeError if traced, ValueError if it does not fit."""
    if isinstance(mask, jax.core.Tracer):
        raise TypeError(
            f"{where}: mask: expected concrete values, found a traced array; close over it under jit"
        )
    mask = np.asarray(mask) != 0
    try:
        return np.broadcast_to(mask, shape)
    except ValueError:
        raise ArgumentError(
            f"{where}: mask", f"a shape broadcastable to (ny, nx) = {shape}", f"shape {mask.shape}"
        ) from None


def calibration_windows(measured: np.ndarray, kernel_shape: tuple[int, int], where: str) -> np.ndarray:
    """Flat indices (windows, ky * kx) of the samples of all fully sampled windows.

    Raises:
      ValueError: if there is none.
    """
    ny, nx = measured.shape
    ky, kx = kernel_shape
    if ky > ny or kx > nx:
        starts = np.empty((0, 2), int)
    else:
        views = np.lib.stride_tricks.sliding_window_view(measured, kernel_shape)
        starts = np.argwhere(views.all((-2, -1)))
    if not len(starts):
        expected = f"a fully sampled block of at least kernel_shape {kernel_shape}"
        raise ArgumentError(f"{where}: calibration", expected, f"none in {measured.shape}")
    return (starts @ [nx, 1])[:, None] + window_offsets(kernel_shape, nx)


def calibration_gram(kspace: jax.Array, windows: np.ndarray) -> jax.Array:
    """Normal matrix of the calibration matrix, whose rows are the windows of all coils.

    Args:
      kspace: (coils, ny, nx) complex.
      windows: flat indices (windows, ky * kx).

    Returns:
      (coils, ky * kx, coils, ky * kx), Hermitian, scaled so that the largest sample has magnitude one.
    """
    coils, taps = kspace.shape[0], windows.shape[1]
    rows = kspace.reshape(coils, -1)[:, windows.T].reshape(coils * taps, -1)
    # A tiny scale under- or overflows when squared.
    scale = jnp.max(jnp.abs(rows))
    rows = rows / jnp.where(scale > 0, scale, 1)
    gram = jnp.matmul(rows.conj(), rows.T, precision="highest")
    return gram.reshape(coils, taps, coils, taps)


def tikhonov(gram: jax.Array, regularization: float | jax.Array, used: jax.Array | None = None) -> jax.Array:
    """``gram + regularization * (its mean eigenvalue) * I``, safely positive definite.

    It is the identity if ``gram`` is zero.

    Args:
      gram: (n, n) Hermitian positive semi-definite.
      regularization: non-negative.
      used: (n,) booleans: rows and columns that are not used become those of the identity. None: all are.
    """
    n = gram.shape[0]
    used = jnp.ones(n, bool) if used is None else used
    gram = jnp.where(used[:, None] & used, gram, 0)
    count = jnp.sum(used)
    mean = jnp.trace(gram).real / count
    floor = 4 * count * float(jnp.finfo(gram.dtype).eps)
    weight = jnp.maximum(jnp.asarray(regularization, mean.dtype), floor) * mean
    diagonal = jnp.where(used & (weight > 0), weight, 1)
    return gram + jnp.diag(diagonal)


def solve_positive(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """Solves a Hermitian positive definite system (n, n) for the columns of ``right``."""
    # jax.scipy.linalg.solve(assume_a="pos") has a wrong gradient for complex matrices.
    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix, lower=True), right)


def window_offsets(kernel_shape: tuple[int, int], width: int) -> np.ndarray:
    """Flat offsets of a window's samples from its first one, in an array of ``width`` columns."""
    ky, kx = kernel_shape
    return (np.arange(ky)[:, None] * width + np.arange(kx)).ravel()
