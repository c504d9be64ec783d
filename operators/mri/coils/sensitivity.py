"""Coil sensitivities as eigenvectors: adaptive combination (Walsh) and ESPIRiT.

Both give maps up to a phase per pixel. It is fixed by a virtual reference coil, the combination of coils
that has the largest energy in the whole image: in every pixel the maps are turned so that their projection
onto it is real and not negative. The maps then carry the coils' phases relative to that coil, and a combined
image its own phase plus that of the reference coil.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from operators.algebra import (
    ArgumentError,
    as_inexact,
    check_measured,
    complex_dtype,
    positive_integer,
    squared,
)
from operators.fourier import ifft2c
from operators.mri.sampling.masks import center_slice

# Elements of all matrices that are decomposed at a time.
_CHUNK = 2**22


def walsh_maps(images: jax.Array, window_shape: tuple[int, ...] = (7, 7)) -> jax.Array:
    """Coil sensitivities of an adaptive combination: ``sum |S|^2 = 1`` in every pixel.

    The map of a pixel is the dominant eigenvector of the covariance of the coils, summed over a window of
    pixels around it (fewer at the borders). Noise is taken as white: pre-whiten the data. Coils of zeros
    (padding) get zero maps; where all coils are zero in the window the maps are the constant ``coils **
    -0.5``. The phase is that of the module's reference coil; to differentiation the maps are a constant.

    Args:
      images: coil images (..., coils, ny, nx) or (..., coils, nz, ny, nx), complex.
      window_shape: odd numbers of pixels, one per axis of the image: its length, 2 or 3, tells slices from
        volumes.

    Returns:
      Maps of the shape of ``images``, complex.

    Raises:
      ValueError, TypeError: if ``window_shape`` is not two or three odd integers, or ``images`` has too few
        axes.

    Source: Walsh, Gmitro and Marcellin, Magn. Reson. Med. 43:682, 2000.
    """
    window = _two_or_three(window_shape, "walsh_maps: window_shape")
    if any(n % 2 == 0 for n in window):
        raise ArgumentError("walsh_maps: window_shape", "odd sizes", window)
    images = _coil_array(images, len(window), "walsh_maps: images", jnp.float32)
    shape, coils = images.shape[-len(window) :], images.shape[-1 - len(window)]
    lead = shape[:-1]

    def one(images):
        images = _unit_scale(images)
        padded = jnp.pad(images, [(0, 0), *((n // 2, n // 2) for n in window)])
        reference = _reference(images.reshape(coils, -1))

        def row(index):
            start = (0, *jnp.unravel_index(index, lead), 0)
            rows = jax.lax.dynamic_slice(padded, start, (coils, *window[:-1], padded.shape[-1]))
            rows = rows.reshape(coils, -1, padded.shape[-1])
            products = jnp.einsum("awx,bwx->xab", rows, rows.conj(), precision="highest")
            covariance = sum(products[i : i + shape[-1]] for i in range(window[-1]))
            values, vectors = _largest(covariance, 1)
            vectors = jnp.where(values[..., None] > 0, vectors, coils**-0.5)[:, 0]
            return _turned(vectors, reference)

        maps = _in_chunks(row, jnp.arange(math.prod(lead)), coils**2 * shape[-1])
        return jnp.moveaxis(maps, -1, 0).reshape(coils, *shape)

    return _over_batch(one, images, (coils, *shape), coils**2 * math.prod(shape))


def espirit_maps(
    kspace: jax.Array,
    calibration_shape: tuple[int, ...],
    kernel_shape: tuple[int, ...] = (6, 6),
    threshold: float | jax.Array = 0.02,
    crop: float | jax.Array = 0.95,
    sets: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """Coil sensitivities by ESPIRiT, the eigenvectors of the projection onto the calibrated k-space patches.

    The patches of the calibration region span a subspace. Projecting every patch of k-space onto it and
    averaging where patches overlap is, in image space, a product with one Hermitian matrix (coils, coils) per
    pixel; its eigenvalues lie in [0, 1] and its eigenvectors of eigenvalue 1 are the sensitivities: one where
    the object is, none outside it, and more than one where an object larger than the field of view folds over
    itself. The phase is that of the module's reference coil; to differentiation the maps are a constant.

    Maps have ``sum |S|^2 = 1`` where their eigenvalue is at least ``crop`` and are zero elsewhere, so with
    crop 0 they are nowhere zero, and may be weighted by the eigenvalues instead.

    Args:
      kspace: (..., coils, ny, nx) or (..., coils, nz, ny, nx), centered, its noise alike in all coils
        and independent (see :func:`operators.mri.whiten`); only its center block is read.
      calibration_shape: shape of the fully sampled block around DC; its length, 2 or 3, tells slices from
        volumes.
      kernel_shape: shape of the patches, at most that of the block.
      threshold: singular values of the patches below this fraction of the largest are noise.
      crop: smallest eigenvalue at which a pixel has a map.
      sets: number of maps per pixel, 1 or more.

    Returns:
      (maps, eigenvalues): for one set (..., coils, ny, nx) complex and (..., ny, nx) real; for more, with an
      axis of sets in front of these, (..., sets, coils, ny, nx) and (..., sets, ny, nx), in falling order of
      the eigenvalues.

    Raises:
      ValueError, TypeError: if the shapes do not fit, or ``sets`` is not between 1 and the number of coils.

    Source: Uecker et al., Magn. Reson. Med. 71:990, 2014.

    Example:
      >>> kspace = operators.fft2c(jnp.array([1.0, 2.0])[:, None, None] * jnp.ones((8, 8)))
      >>> maps, values = operators.espirit_maps(kspace, (8, 8), (3, 3))
      >>> print(np.abs(maps[:, 4, 4]).round(3))
      [0.447 0.894]
    """
    block = _two_or_three(calibration_shape, "espirit_maps: calibration_shape")
    kernel = _two_or_three(kernel_shape, "espirit_maps: kernel_shape")
    kspace = _coil_array(kspace, len(block), "espirit_maps: kspace")
    shape, coils = kspace.shape[-len(block) :], kspace.shape[-1 - len(block)]
    if any(c > n for c, n in zip(block, shape, strict=True)):
        raise ArgumentError("espirit_maps: calibration_shape", f"at most {shape}", block)
    if len(kernel) != len(block) or any(k > c for k, c in zip(kernel, block, strict=True)):
        raise ArgumentError("espirit_maps: kernel_shape", f"at most {block}", kernel)
    sets = positive_integer(sets, "espirit_maps: sets")
    if sets > coils:
        raise ArgumentError("espirit_maps: sets", f"at most the {coils} coils", sets)
    center = tuple(center_slice(n, c) for n, c in zip(shape, block, strict=True))

    def one(calibration):
        calibration = _unit_scale(calibration)
        filters = _projection_filters(calibration, kernel, threshold)
        reference = _reference(calibration.reshape(coils, -1))
        lead, last = _phases(shape, kernel, filters.dtype)

        def row(phases):
            partial = jnp.einsum("l,lmab->mab", phases, filters, precision="highest")
            values, vectors = _largest(jnp.einsum("xm,mab->xab", last, partial, precision="highest"), sets)
            vectors = _turned(vectors, reference)
            return jnp.where(values[..., None] >= crop, vectors, 0), values

        maps, values = _in_chunks(row, lead, coils**2 * shape[-1])
        maps = jnp.moveaxis(maps, (-2, -1), (0, 1)).reshape(sets, coils, *shape)
        values = jnp.moveaxis(values, -1, 0).reshape(sets, *shape)
        return (maps[0], values[0]) if sets == 1 else (maps, values)

    return _over_batch(one, kspace[(..., *center)], (coils, *block), coils**2 * math.prod(shape))


def espirit_support(eigenvalues: jax.Array, floor: float | jax.Array = 0.5) -> jax.Array:
    """Weights for maps of ESPIRiT: 1 where the object is, ``floor`` outside it, and a smooth step between.

    Maps times the weights let a reconstruction put little energy where calibration saw no object, without
    forbidding it as cropped maps do: with ``x`` of the weighted maps, the image is ``weights * x``, and a
    penalty on x weighs the background more. The step is between 0.85 and 1 of the largest eigenvalue: BART
    crops at about 0.9.

    Args:
      eigenvalues: (..., ny, nx) or (..., nz, ny, nx), of one set of maps; the step is relative to the largest
        of the whole array, which is below 1 where the calibration block is small.
      floor: weight outside the object, between 0 and 1.

    Returns:
      Array of the shape and dtype of ``eigenvalues``.

    Source: of the smooth step, Uecker and Lustig's soft-SENSE maps in BART (``ecalib -S``).
    """
    largest = jnp.max(eigenvalues)
    t = jnp.clip((eigenvalues / jnp.where(largest > 0, largest, 1) - 0.85) / 0.15, 0, 1)
    return floor + (1 - floor) * t * t * (3 - 2 * t)


def _projection_filters(calibration: jax.Array, kernel: tuple[int, ...], threshold: ArrayLike) -> jax.Array:
    """The convolution in k-space that projects patches and averages them: (lead, last, coils, coils).

    ``lead`` and ``last`` count the shifts ``-(k - 1) ... k - 1`` along all axes but the last and along it.
    """
    coils, block = calibration.shape[0], calibration.shape[1:]
    offsets = np.stack(np.unravel_index(np.arange(math.prod(kernel)), kernel))
    valid = tuple(c - k + 1 for c, k in zip(block, kernel, strict=True))
    patches = jnp.stack(
        [
            calibration[(slice(None), *(slice(o, o + v) for o, v in zip(offset, valid, strict=True)))]
            for offset in offsets.T
        ]
    ).reshape(len(offsets.T) * coils, -1)
    values, vectors = jnp.linalg.eigh(jnp.matmul(patches, patches.conj().T, precision="highest"))
    # Eigenvalues of the gram are squares of the singular values of the patches.
    signal = (values > 0) & (values >= jnp.asarray(threshold, values.dtype) ** 2 * values[-1])
    vectors = jnp.where(signal, vectors, 0)
    projection = jnp.matmul(vectors, vectors.conj().T, precision="highest")

    # Axis by axis, patch positions a and b are summed over equal shifts a - b.
    filters = projection.reshape(*kernel, coils, *kernel, coils)
    for axis in range(len(kernel)):
        filters = _sum_diagonals(jnp.moveaxis(filters, (axis, len(kernel) + 1), (0, 1)))
    filters = filters.transpose(*reversed(range(len(kernel))), -2, -1)
    return filters.reshape(-1, 2 * kernel[-1] - 1, coils, coils) / math.prod(kernel)


def _sum_diagonals(x: jax.Array) -> jax.Array:
    """``y[k - 1 + d] = sum_b x[b + d, b]`` for d from -(k - 1) to k - 1; x is (k, k, ...)."""
    k, rest = x.shape[0], x.shape[2:]
    # A row of 2 k elements read as 2 k - 1 moves every row one element further than the one before.
    rows = jnp.pad(x[:, ::-1], [(0, 0), (0, k), *((0, 0) for _ in rest)])
    return jnp.sum(rows.reshape(-1, *rest)[:-k].reshape(k, 2 * k - 1, *rest), axis=0)


def _phases(shape: tuple[int, ...], kernel: tuple[int, ...], dtype: DTypeLike) -> tuple[jax.Array, jax.Array]:
    """Phases ``exp(2 pi i d n / N)`` of shifts d: of all axes but the last, (rows, lead), and of the last."""
    waves = [
        np.exp(2j * np.pi * np.outer(np.arange(n) - n // 2, np.arange(1 - k, k)) / n)
        for n, k in zip(shape, kernel, strict=True)
    ]
    lead = waves[0]
    for wave in waves[1:-1]:
        lead = np.kron(lead, wave)
    return jnp.asarray(lead, dtype), jnp.asarray(waves[-1], dtype)


def _largest(matrices: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Largest eigenvalues (..., count) and their eigenvectors (..., count, n) of Hermitian matrices."""
    values, vectors = jnp.linalg.eigh(matrices)
    return values[..., ::-1][..., :count], vectors[..., ::-1][..., :count].mT


def _reference(samples: jax.Array) -> jax.Array:
    """The combination of the coils that has the largest energy: a unit vector (coils,)."""
    _, vectors = _largest(jnp.matmul(samples, samples.conj().T, precision="highest"), 1)
    vector = vectors[0]
    largest = vector[jnp.argmax(jnp.abs(vector))]
    return vector * (largest.conj() / jnp.abs(largest))


def _turned(vectors: jax.Array, reference: jax.Array) -> jax.Array:
    projection = jnp.sum(reference.conj() * vectors, axis=-1, keepdims=True)
    size = jnp.abs(projection)
    return vectors * jnp.where(size > 0, projection.conj() / jnp.where(size > 0, size, 1), 1)


def _unit_scale(data: jax.Array) -> jax.Array:
    # Products of tiny or huge numbers would under- or overflow.
    scale = jnp.max(jnp.abs(data))
    return data / jnp.where(scale > 0, scale, 1)


def _in_chunks(function: Callable[..., Any], xs: jax.Array, size: int) -> Any:
    """Maps a function over the first axis; ``size`` is the number of matrix elements of one application."""
    return jax.lax.map(function, xs, batch_size=max(1, _CHUNK // size))


def _over_batch(function: Callable[..., Any], data: jax.Array, shape: tuple[int, ...], size: int) -> Any:
    """Maps a function of the axes ``shape`` over all axes in front of them."""
    data = jax.lax.stop_gradient(data)
    batch = data.shape[: data.ndim - len(shape)]
    if not batch:
        return function(data)
    results = _in_chunks(function, data.reshape(-1, *shape), size)
    return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), results)


def _coil_array(data: ArrayLike, ndim: int, name: str, dtype: DTypeLike = jnp.complex64) -> jax.Array:
    data = as_inexact(check_measured(data, dtype, name))
    if data.ndim < ndim + 1 or not math.prod(data.shape[data.ndim - ndim - 1 :]):
        axes = ", ".join(("nz", "ny", "nx")[3 - ndim :])
        raise ArgumentError(name, f"(..., coils, {axes}), none of them empty", data.shape)
    return data.astype(complex_dtype(data.dtype))


def _two_or_three(shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    shape = tuple(shape)
    if len(shape) not in (2, 3):
        raise ArgumentError(name, "two or three axes", shape)
    return tuple(positive_integer(n, name) for n in shape)


def estimate_coil_maps(kspace: jax.Array, calibration_shape: tuple[int, int]) -> jax.Array:
    """Coil sensitivities from the fully sampled center of k-space.

    The center block, weighted by a Hann window against ringing, is transformed to low-resolution coil images,
    which are divided by their root of the sum of squares: ``sum |S|^2 = 1`` in every pixel, background
    included, and the phase of each map is the coil's times the image's own, so that a combined image is
    close to real and positive (McKenzie et al., Magn. Reson. Med. 47:529, 2002). Coils of zeros (padding) get
    zero maps; where all coils are zero the maps are the constant ``coils ** -0.5``.

    Args:
      kspace: (..., coils, ny, nx), centered; only its center block is read.
      calibration_shape: (ny, nx) of the fully sampled block around DC.

    Returns:
      (..., coils, ny, nx) complex.

    Raises:
      ValueError: if ``kspace`` has fewer than three axes or the block is empty or larger than k-space.
    """
    kspace = as_inexact(kspace)
    if kspace.ndim < 3:
        raise ArgumentError("estimate_coil_maps: kspace", "(..., coils, ny, nx)", kspace.shape)
    shape, block = kspace.shape[-2:], tuple(calibration_shape)
    if len(block) != 2 or any(not 1 <= c <= n for c, n in zip(block, shape, strict=True)):
        raise ArgumentError("estimate_coil_maps: calibration_shape", f"between (1, 1) and {shape}", block)
    window = np.outer(*(_hann(n, c) for n, c in zip(shape, block, strict=True)))
    images = ifft2c(jnp.asarray(window, kspace.real.dtype) * kspace)
    # A tiny scale under- or overflows when squared.
    scale = jnp.max(jnp.abs(images), axis=(-3, -2, -1), keepdims=True)
    images = images / jnp.where(scale > 0, scale, 1)
    power = jnp.sum(squared(images), axis=-3, keepdims=True)
    inverse = 1 / jnp.sqrt(jnp.where(power > 0, power, 1))
    return jnp.where(power > 0, images * inverse, kspace.shape[-3] ** -0.5)


def _hann(length: int, count: int) -> np.ndarray:
    window = np.zeros(length)
    center = center_slice(length, count)
    window[center] = np.cos(np.pi * (np.arange(length)[center] - length // 2) / (count + 1)) ** 2
    return window
