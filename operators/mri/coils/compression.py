"""Linear combinations of receive channels: noise pre-whitening and coil compression."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from operators.algebra import ArgumentError, as_inexact, positive_integer


def noise_covariance(noise: ArrayLike, coil_axis: int = -2) -> jax.Array:
    """Covariance of the channels from samples of noise alone: ``C[a, b] = mean(n_a conj(n_b))``.

    The convention is that of complex samples: the diagonal is the variance of the real part plus that of the
    imaginary part. Noise has no mean, so none is subtracted.

    Args:
      noise: complex, by default (..., coils, samples); all other axes hold samples.
      coil_axis: the coil axis.

    Returns:
      (coils, coils), Hermitian, positive semi-definite; singular for coils of zeros (padding).

    Raises:
      ValueError: if ``noise`` lacks the axis or holds fewer samples than coils: whitening would take the
        directions that they do not tell for free of noise, and remove the signal there.

    Source: Kellman and McVeigh, Magn. Reson. Med. 54:1439, 2005.
    """
    samples = _channels(noise, coil_axis, "noise_covariance: noise")
    coils, count = samples.shape
    if count < coils:
        raise ArgumentError(
            "noise_covariance: noise", f"at least as many samples as the {coils} coils", count
        )
    return _product(samples, samples.conj().T) / samples.shape[1]


def whitening_matrix(covariance: jax.Array, variance_ratio: float | jax.Array = 1.0) -> jax.Array:
    """The matrix W that decorrelates the channels: ``W (variance_ratio C) W^H = I``.

    ``W = R^(-1/2) D^(-1/2)``, with D the diagonal of C and R the correlation matrix: of all matrices that
    whiten, the one whose outputs correlate most with their own input channels. Whitened noise has a variance
    of one per complex sample, one half in each of its parts (Hansen and Kellman multiply by ``sqrt(2)`` to
    have one in each part). Directions without noise, such as coils of zeros (padding), become zero. To
    differentiation the matrix is a constant.

    Args:
      covariance: (coils, coils), Hermitian, of :func:`noise_covariance`.
      variance_ratio: variance of the noise of the measurement over that of the noise scan, which is the ratio
        of their receiver bandwidths.

    Returns:
      (coils, coils) of the dtype of ``covariance``.

    Raises:
      ValueError: if ``covariance`` is not square.

    Source: Hansen and Kellman, J. Magn. Reson. Imaging 41:573, 2015; Kessy et al., Am. Stat. 72:309, 2018.
    """
    covariance = jax.lax.stop_gradient(as_inexact(covariance))
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ArgumentError("whitening_matrix: covariance", "(coils, coils)", covariance.shape)
    variance = jnp.diagonal(covariance).real
    inverse = jnp.where(variance > 0, 1 / jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)
    values, vectors = jnp.linalg.eigh(inverse[:, None] * covariance * inverse)
    present = values > len(values) * jnp.finfo(values.dtype).eps * values[-1]
    root = jnp.where(present, 1 / jnp.sqrt(jnp.where(present, values, 1)), 0)
    matrix = _product(vectors * root, vectors.conj().T) * inverse
    return matrix / jnp.sqrt(jnp.asarray(variance_ratio, values.dtype))


def whiten(data: ArrayLike, matrix: ArrayLike, coil_axis: int = -3) -> jax.Array:
    """Applies a whitening matrix to the channels: k-space, coil images and sensitivities alike.

    Args:
      data: by default (..., coils, ny, nx).
      matrix: (coils, coils) of :func:`whitening_matrix`.
      coil_axis: the coil axis.

    Returns:
      Array of the shape of ``data``.

    Raises:
      ValueError: if the matrix is not (coils, coils).
    """
    data, matrix = as_inexact(data), as_inexact(matrix)
    coils = _coils(data, coil_axis, "whiten: data")
    if matrix.shape != (coils, coils):
        raise ArgumentError("whiten: matrix", f"shape {(coils, coils)}", matrix.shape)
    return _mix(data, matrix, coil_axis)


def svd_compression(kspace: jax.Array, virtual_coils: int, coil_axis: int = -3) -> jax.Array:
    """The matrix to the virtual coils that keep most energy: the principal components of the channels.

    Its rows are orthonormal and in falling order of energy, so white noise stays white and the first rows are
    the matrix of fewer virtual coils. Samples that are not measured are zero and do not count. To
    differentiation the matrix is a constant.

    Args:
      kspace: k-space or its calibration region, noise pre-whitened; by default (..., coils, ny, nx). All
        other axes hold samples: one matrix serves all slices.
      virtual_coils: their number, between 1 and that of the coils.
      coil_axis: the coil axis.

    Returns:
      (virtual_coils, coils) complex, for :func:`compress`.

    Raises:
      ValueError, TypeError: if ``virtual_coils`` is out of range or ``kspace`` lacks the axis.

    Source: Buehrer et al., Magn. Reson. Med. 57:1131, 2007; Huang et al., Magn. Reson. Imaging 26:133, 2008.
    """
    samples = _channels(kspace, coil_axis, "svd_compression: kspace")
    virtual_coils = _virtual(virtual_coils, samples.shape[0], "svd_compression")
    return _principal(samples[None], virtual_coils)[0]


def gcc_compression(
    kspace: jax.Array, virtual_coils: int, coil_axis: int = -3, readout_axis: int = -2
) -> jax.Array:
    """Geometric coil compression: one matrix for every position along the fully sampled readout.

    K-space is transformed along the readout only; every position has principal components of its own, which
    are then rotated to be nearest to those of their neighbor, so that the virtual coils vary smoothly; those
    in the center of the readout stay. The rows of each matrix are orthonormal. For the same number of
    virtual coils more energy is kept than by :func:`svd_compression`. To differentiation the matrices are
    constants.

    Args:
      kspace: Cartesian k-space or its calibration region, complete along the readout, noise pre-whitened; by
        default (..., coils, ny, nx) with the readout along ny, as in fastMRI. All other axes hold samples.
      virtual_coils: their number, between 1 and that of the coils.
      coil_axis: the coil axis.
      readout_axis: the readout.

    Returns:
      (readout, virtual_coils, coils) complex, for :func:`compress`.

    Raises:
      ValueError, TypeError: if ``virtual_coils`` is out of range, or ``kspace`` lacks an axis.

    Source: Zhang et al., Magn. Reson. Med. 69:571, 2013.
    """
    kspace = as_inexact(kspace)
    coils = _coils(kspace, coil_axis, "gcc_compression: kspace")
    readout = _coils(kspace, readout_axis, "gcc_compression: kspace")
    virtual_coils = _virtual(virtual_coils, coils, "gcc_compression")
    hybrid = jnp.moveaxis(_to_hybrid(kspace, readout_axis), (readout_axis, coil_axis), (0, 1))
    matrices = _principal(hybrid.reshape(readout, coils, -1), virtual_coils)

    # The rotation nearest to each neighbor, then all of them in turn, less that of the center.
    left, _, right = jnp.linalg.svd(_product(matrices[1:], matrices[:-1].conj().mT), full_matrices=False)
    first = jnp.zeros_like(matrices[:1, :, :virtual_coils]) + jnp.eye(virtual_coils, dtype=matrices.dtype)
    rotations = jnp.concatenate([first, _product(left, right).conj().mT])
    rotations = jax.lax.associative_scan(_product, rotations)
    return _product(_product(rotations[readout // 2].conj().T, rotations), matrices)


def compress(kspace: jax.Array, matrix: jax.Array, coil_axis: int = -3, readout_axis: int = -2) -> jax.Array:
    """Replaces the coils by the virtual coils of a compression matrix.

    Args:
      kspace: by default (..., coils, ny, nx). Coil images and sensitivities may take its place with a single
        matrix, not with one per readout position.
      matrix: (virtual_coils, coils) of :func:`svd_compression`, or (readout, virtual_coils, coils) of
        :func:`gcc_compression`, which acts between a Fourier transform along the readout and its inverse.
      coil_axis: the coil axis.
      readout_axis: the readout; it is read only where the matrix has three axes.

    Returns:
      Array of the shape of ``kspace`` except for the coils, (..., virtual_coils, ny, nx) by default.

    Raises:
      ValueError: if the shapes do not fit.
    """
    kspace, matrix = as_inexact(kspace), as_inexact(matrix)
    coils = _coils(kspace, coil_axis, "compress: kspace")
    if matrix.ndim not in (2, 3) or matrix.shape[-1] != coils:
        raise ArgumentError(
            "compress: matrix", f"(virtual_coils, {coils}) or (readout, virtual_coils, {coils})", matrix.shape
        )
    if matrix.ndim == 2:
        return _mix(kspace, matrix, coil_axis)
    readout = _coils(kspace, readout_axis, "compress: kspace")
    if matrix.shape[0] != readout:
        raise ValueError(
            f"compress: matrix has {matrix.shape[0]} readout positions, kspace {kspace.shape} has {readout}"
        )
    axes = (readout_axis, coil_axis)
    hybrid = jnp.moveaxis(_to_hybrid(kspace, readout_axis), axes, (0, 1))
    mixed = jnp.einsum("rvc,rc...->rv...", matrix, hybrid, precision="highest")
    return _from_hybrid(jnp.moveaxis(mixed, (0, 1), axes), readout_axis)


def _principal(samples: jax.Array, count: int) -> jax.Array:
    """The ``count`` principal components (..., count, channels) of samples (..., channels, samples)."""
    samples = jax.lax.stop_gradient(samples)
    scale = jnp.max(jnp.abs(samples), axis=(-2, -1), keepdims=True)
    samples = samples / jnp.where(scale > 0, scale, 1)
    _, vectors = jnp.linalg.eigh(_product(samples, samples.conj().mT))
    return vectors[..., ::-1][..., :count].conj().mT


def _channels(data: ArrayLike, coil_axis: int, name: str) -> jax.Array:
    data = as_inexact(data)
    coils = _coils(data, coil_axis, name)
    if not data.size:
        raise ArgumentError(name, "at least one sample", f"shape {data.shape}")
    return jnp.moveaxis(data, coil_axis, 0).reshape(coils, -1)


def _coils(data: jax.Array, axis: int, name: str) -> int:
    if not -data.ndim <= axis < data.ndim:
        raise ValueError(f"{name} has no axis {axis}, found shape {data.shape}")
    return data.shape[axis]


def _virtual(count: int, coils: int, name: str) -> int:
    count = positive_integer(count, f"{name}: virtual_coils")
    if count > coils:
        raise ArgumentError(f"{name}: virtual_coils", f"at most the {coils} coils", count)
    return count


def _mix(data: jax.Array, matrix: jax.Array, axis: int) -> jax.Array:
    mixed = jnp.tensordot(matrix, data, axes=(1, axis), precision="highest")
    return jnp.moveaxis(mixed, 0, axis)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    # Accelerators multiply single-precision matrices with fewer bits by default.
    return jnp.matmul(a, b, precision="highest")


def _to_hybrid(kspace: jax.Array, axis: int) -> jax.Array:
    shifted = jnp.fft.ifftshift(kspace, axis)
    return math.sqrt(kspace.shape[axis]) * jnp.fft.fftshift(jnp.fft.ifft(shifted, axis=axis), axis)


def _from_hybrid(hybrid: jax.Array, axis: int) -> jax.Array:
    shifted = jnp.fft.ifftshift(hybrid, axis)
    return jnp.fft.fftshift(jnp.fft.fft(shifted, axis=axis), axis) / math.sqrt(hybrid.shape[axis])
