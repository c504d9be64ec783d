"""Parallel-beam projection by the Fourier-slice theorem."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from operators.ct.geometry.image_grid import ImageGrid
from operators.ct.geometry.parallel import ParallelBeam
from operators.fourier import NUFFT, smooth_size

_EPS = 3e-4


def fourier_slice(geometry: ParallelBeam, grid: ImageGrid, backend: str, images: jax.Array) -> jax.Array:
    """Line integrals, averaged over elements: (..., ny, nx) -> (..., views, bins).

    The spectrum of a projection is that of the image along a line through the origin (Bracewell, Aust. J.
    Phys. 9:198, 1956). Pixels are the means, over their squares, of an image without frequencies beyond half
    the inverse pixel size along x or y: its spectrum is theirs divided by two sinc functions. Elements of
    finite width multiply it by another. Frequencies up to half the inverse spacing of the detector are kept.
    The NUFFT errs by about 3e-4; the adjoint is that of what is computed.
    """
    (ny, nx), (dx, dy) = grid.shape, grid.steps
    length = _period(geometry, grid)
    spacing, bins = geometry.detector_spacing, geometry.detector_count
    dtype = geometry.dtype
    # Cycles per unit of length; the image is real, so that half of them suffice.
    frequencies = np.arange(length // 2 + 1) / (length * spacing)
    nu = jnp.asarray(frequencies, dtype)
    across = jnp.cos(geometry.angles)[:, None], -jnp.sin(geometry.angles)[:, None]
    kx, ky = (nu * step * c for step, c in zip((dx, dy), across, strict=True))
    points = jnp.stack([ky, kx], -1).reshape(-1, 2)
    transform = NUFFT(points, grid.shape, eps=_EPS, backend=backend, periodic=True, gram_by_toeplitz=False)
    spectrum = transform(images.astype(transform.in_dtype)).reshape(*images.shape[:-2], *kx.shape)
    # From pixel n // 2 to the center of the image, and from there to the first element.
    middle = (n // 2 - (n - 1) / 2 for n in (ny, nx))
    turn = -sum(k * m for k, m in zip((ky, kx), middle, strict=True))
    turn = turn + nu * geometry.ray_positions()[0]
    if grid.moved:
        x, y = grid.center
        turn = turn - nu * (x * across[0] - y * across[1])
    inside = jnp.maximum(jnp.abs(kx), jnp.abs(ky)) < 0.5 + 1e-6
    means = jnp.where(inside, jnp.sinc(kx) * jnp.sinc(ky), jnp.inf)
    scale = math.sqrt(ny * nx) * (dx * dy) / spacing * np.sinc(frequencies * spacing)
    spectrum = spectrum * (jnp.asarray(scale, dtype) / means) * jnp.exp(2j * math.pi * turn)
    return jnp.fft.irfft(spectrum, n=length, axis=-1)[..., :bins]


def fourier_slice_adjoint(
    geometry: ParallelBeam,
    grid: ImageGrid,
    backend: str,
    sinograms: jax.Array,
) -> jax.Array:
    """The exact adjoint of :func:`fourier_slice`: (..., views, bins) -> (..., ny, nx)."""
    forward = functools.partial(fourier_slice, geometry, grid, backend)
    like = jax.ShapeDtypeStruct((*sinograms.shape[:-2], *grid.shape), sinograms.dtype)
    return jax.linear_transpose(forward, like)(sinograms)[0]


def _period(geometry: ParallelBeam, grid: ImageGrid) -> int:
    """An even number of elements, large enough that repeated images of the object stay off the detector."""
    # That of the image turned around the origin.
    diagonal = (grid.diagonal + 2 * math.hypot(*grid.center)) / geometry.detector_spacing
    positions, bins = geometry.ray_positions(), geometry.detector_count
    if isinstance(positions, np.ndarray):
        reach = max(abs(positions[0]), abs(positions[-1])) / geometry.detector_spacing
    else:
        # A detector that is moved while it is traced is taken to see the object still.
        reach = bins + diagonal / 2
    return 2 * smooth_size(math.ceil((max(bins, reach + diagonal / 2) + 8) / 2))
