"""Filtered back-projection of parallel beams."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from operators.algebra import complex_dtype
from operators.ct.geometry.image_grid import ImageGrid
from operators.ct.geometry.parallel import ParallelBeam
from operators.ct.inversion.back_projector import back_project
from operators.ct.inversion.ramp_filters import (
    filter_rows,
    footprint,
    highest_frequency,
    padded_length,
    ramp_response,
    roll_off,
)
from operators.fourier import NUFFT, smooth_size

METHODS = ("fourier", "interpolation")
_EPS = 3e-4


def invert_parallel(
    sinogram: jax.Array,
    geometry: ParallelBeam,
    weights: jax.Array,
    method: str,
    grid: ImageGrid,
    filter: str,
    cutoff: float,
    backend: str,
) -> jax.Array:
    """See :func:`operators.fbp`: (..., views, detectors) -> (..., ny, nx); weights (views,) sum to pi."""
    invert = _by_fourier if method == METHODS[0] else _by_interpolation
    return invert(sinogram, geometry, weights, grid, filter, cutoff, backend)


def _by_interpolation(sinogram, geometry, weights, grid, filter, cutoff, backend):
    count, spacing = geometry.detector_count, geometry.detector_spacing
    length = padded_length(count)
    rows = filter_rows(sinogram, ramp_response(length, spacing, filter, cutoff), length, count)
    # A zero at either end, to which positions outside of the detector are moved.
    rows = jnp.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(1, 1)])
    across = jnp.cos(geometry.angles), jnp.sin(geometry.angles)
    zero, one = jnp.zeros_like(across[0]), jnp.ones_like(across[0])
    (dx, dy), (x, y) = grid.steps, grid.center
    middle = (x / dx) * across[0] + (y / dx) * across[1] if grid.moved else zero
    poses = jnp.stack([across[0], (dy / dx) * across[1], middle, zero, zero, one, zero], axis=-1)
    first = geometry.ray_positions()[0]
    detector = [dx / spacing, 1 - first / spacing, 0.0, 0.0]
    detector = jnp.stack([jnp.asarray(x, rows.dtype) for x in detector])
    sinograms = rows.reshape(1, -1, geometry.views, 1, count + 2)
    operands = poses[None], detector[None], weights[None, :, None]
    image = back_project(*operands, sinograms, (1, *grid.shape), backend=backend)
    return image.reshape(*sinogram.shape[:-2], *grid.shape)


def _by_fourier(sinogram, geometry, weights, grid, filter, cutoff, backend):
    """Every pixel takes a trigonometric polynomial of each filtered view: one adjoint NUFFT of all.

    The polynomial is close to a piecewise constant view averaged over the footprint of the pixel
    (``footprint`` in ``ramp_filters``): its spectrum is the view's, repeated beyond the Nyquist frequency,
    times the transforms of element and footprint, up to a highest frequency.
    """
    length, shape = _period(geometry, grid), grid.shape
    spacing, real = geometry.detector_spacing, sinogram.dtype
    across = min(geometry.detector_count, grid.diagonal / spacing)
    highest = highest_frequency(filter, cutoff, 2 / math.pi * geometry.views / across)
    kept = math.floor(highest * length * (1 + 1e-9)) + 1
    # Views are real, so that half of the frequencies suffice.
    repeated = length // 2 - np.abs(length // 2 - np.arange(kept))
    response = ramp_response(length, spacing, filter, cutoff)[repeated]
    frequency = np.arange(kept) / length
    response = response * np.sinc(frequency) * roll_off(frequency, highest) * np.where(frequency == 0, 1, 2)
    spectrum = jnp.fft.rfft(sinogram, n=length, axis=-1)
    again = spectrum[..., length - kept + 1 : length // 2] if kept > length // 2 + 1 else spectrum[..., :0]
    spectrum = jnp.concatenate([spectrum[..., :kept], again[..., ::-1].conj()], axis=-1)
    # Cycles per unit of length.
    nu = jnp.asarray(np.arange(kept) / (length * spacing), real)
    cos, sin = jnp.cos(geometry.angles)[:, None], jnp.sin(geometry.angles)[:, None]
    kx, ky = nu * (grid.steps[0] * cos), nu * (grid.steps[1] * -sin)
    # From the first element to the center of the image, and from there to pixel n // 2.
    mx, my = (n // 2 - (n - 1) / 2 for n in shape[::-1])
    turn = kx * mx + ky * my - nu * geometry.ray_positions()[0]
    if grid.moved:
        turn = turn + nu * (grid.center[0] * cos + grid.center[1] * sin)
    scales = weights[:, None] * jnp.asarray(response * (math.sqrt(math.prod(shape)) / length), real)
    width = footprint(geometry.angles, tuple(step / spacing for step in grid.steps))
    scales = scales * jnp.sinc(jnp.asarray(frequency, real) * width[:, None])
    values = spectrum * (scales * jnp.exp(2j * math.pi * turn))
    points = jnp.stack([ky, kx], -1).reshape(-1, 2)
    transform = NUFFT(points, shape, eps=_EPS, backend=backend, periodic=True, gram_by_toeplitz=False)
    values = values.reshape(*sinogram.shape[:-2], len(points)).astype(complex_dtype(real))
    return transform._adjoint(values).real


def _period(geometry: ParallelBeam, grid: ImageGrid) -> int:
    """An even number of elements, large enough that the tails of the filter do not wrap onto the image."""
    # That of a circle around the axis.
    radius = (grid.diagonal / 2 + math.hypot(*grid.center)) / geometry.detector_spacing
    positions, count = geometry.ray_positions(), geometry.detector_count
    if isinstance(positions, np.ndarray):
        reach = max(abs(positions[0]), abs(positions[-1])) / geometry.detector_spacing
    else:
        # A detector that is moved while it is traced is taken to see the object still.
        reach = max(count - radius, count / 2)
    return 2 * smooth_size(math.ceil(max(reach + radius, count)))
