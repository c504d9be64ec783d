"""Joseph's projector and back-projection for parallel beams in plain JAX: gathers both ways.

Reverse-mode derivatives use the adjoint, also with respect to the angles; forward-mode ones are not defined.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from operators.algebra import vary_together
from operators.ct.geometry.parallel import ParallelBeam

_ROWS_PER_STEP = 4


class Grid(NamedTuple):
    """Rays and pixels in units of pixels, the static part of a projection.

    Attributes:
      image_shape: (ny, nx).
      pixel_size: in the geometry's unit; scales path lengths.
      detectors: number of detector elements.
      spacing: of the elements, in pixels.
      first: position of element 0, in pixels from the rotation axis.
    """

    image_shape: tuple[int, ...]
    pixel_size: float
    detectors: int
    spacing: float
    first: float


def grid_of(geometry: ParallelBeam, image_shape: tuple[int, ...], pixel_size: float) -> Grid:
    """The :class:`Grid` of a geometry and an image."""
    first = geometry.ray_positions()[0] / pixel_size
    spacing = geometry.detector_spacing / pixel_size
    return Grid(image_shape, pixel_size, geometry.detector_count, spacing, float(first))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def joseph(grid: Grid, angles: jax.Array, image: jax.Array) -> jax.Array:
    """Line integrals (..., views, detectors) of images (..., ny, nx)."""
    return _batched(functools.partial(_sum_one, grid, angles), image)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def joseph_adjoint(grid: Grid, angles: jax.Array, sinogram: jax.Array) -> jax.Array:
    """The exact adjoint of :func:`joseph`."""
    width = jnp.maximum(jnp.abs(jnp.cos(angles)), jnp.abs(jnp.sin(angles)))
    return back_project(grid, angles, sinogram, width / grid.spacing, grid.pixel_size / width)


def _angle_gradient(grid: Grid, angles: jax.Array, image: jax.Array, sinogram: jax.Array) -> jax.Array:
    # A view depends on its own angle alone: one tangent holds the whole Jacobian.
    def project(a):
        return _batched(functools.partial(_sum_one, grid, a), image)

    _, tangent = jax.jvp(project, (angles,), (jnp.ones_like(angles),))
    return jnp.sum(tangent * sinogram, axis=(*range(sinogram.ndim - 2), -1))


def _joseph_fwd(grid, angles, image):
    kept = image.value if angles.perturbed else None
    return joseph(grid, angles.value, image.value), (angles.value, kept)


def _joseph_bwd(grid, residuals, sinogram):
    angles, image = residuals
    angle = None if image is None else _angle_gradient(grid, angles, image, sinogram)
    return angle, joseph_adjoint(grid, angles, sinogram)


def _joseph_adjoint_fwd(grid, angles, sinogram):
    kept = sinogram.value if angles.perturbed else None
    return joseph_adjoint(grid, angles.value, sinogram.value), (angles.value, kept)


def _joseph_adjoint_bwd(grid, residuals, image):
    angles, sinogram = residuals
    angle = None if sinogram is None else _angle_gradient(grid, angles, image, sinogram)
    return angle, joseph(grid, angles, image)


joseph.defvjp(_joseph_fwd, _joseph_bwd, symbolic_zeros=True)
joseph_adjoint.defvjp(_joseph_adjoint_fwd, _joseph_adjoint_bwd, symbolic_zeros=True)


def _batched(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    if x.ndim == 2:
        return function(x)
    y = jax.vmap(function)(x.reshape(-1, *x.shape[-2:]))
    return y.reshape(*x.shape[:-2], *y.shape[-2:])


def _sum_one(grid: Grid, angles: jax.Array, image: jax.Array) -> jax.Array:
    (ny, nx), dtype = grid.image_shape, image.dtype
    n = max(ny, nx)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    steep = jnp.abs(cos) >= jnp.abs(sin)  # these rays cross rows, the others columns
    inverse = 1 / jnp.where(steep, cos, -sin)
    slope = jnp.where(steep, sin, -cos) * inverse
    middle = jnp.where(steep, (ny - 1) / 2, (nx - 1) / 2).astype(dtype)
    last = jnp.where(steep, nx, ny).astype(dtype)[:, None]

    # Row l of the table: row l of the image, then of its transpose, from pixel -1 on; each entry a pixel and
    # the step to the next, so that one gather serves linear interpolation.
    def padded(a):
        return jnp.pad(a, ((0, n - a.shape[0]), (1, n + 2 - a.shape[1])))

    both = jnp.stack([padded(image), padded(image.T)], axis=1)
    table = jax.lax.complex(both[..., :-1], jnp.diff(both)).reshape(n, 2 * (n + 2))
    start = jnp.where(steep, 1, n + 3)[:, None]

    # Where the rays cross line l, as a sum of a term per ray and one per line: without a product nearby no
    # compiler can round the index and the weight differently.
    rays = jnp.asarray(grid.first + grid.spacing * np.arange(grid.detectors), dtype)
    at_middle = rays * inverse[:, None] + ((last - 1) / 2)
    shifts = slope * (jnp.arange(n, dtype=dtype)[:, None] - middle)

    def line(shift, row):
        position = jnp.clip(at_middle + shift[:, None], -1, last)
        floor = jnp.floor(position)
        entry = row.at[floor.astype(jnp.int32) + start].get(mode="promise_in_bounds")
        return entry.real + (position - floor) * entry.imag

    def step(total, lines):
        return total + sum(line(*pair) for pair in zip(*lines, strict=True)), None

    extra = -n % _ROWS_PER_STEP
    lines = tuple(
        jnp.pad(a, ((0, extra), (0, 0))).reshape(-1, _ROWS_PER_STEP, a.shape[1]) for a in (shifts, table)
    )
    start_total, *_ = vary_together(jnp.zeros_like(at_middle), at_middle, image)
    total, _ = jax.lax.scan(step, start_total, lines)
    return total * (grid.pixel_size * jnp.abs(inverse))[:, None]


def back_project(
    grid: Grid, angles: jax.Array, sinogram: jax.Array, half_width: jax.Array, scale: jax.Array
) -> jax.Array:
    """Sum over views of ``scale * sum_j max(0, 1 - |v - j| / half_width) * sinogram[j]`` at every pixel.

    v is the pixel's position in detector elements.

    Args:
      grid: the static geometry.
      angles: (views,).
      sinogram: (..., views, detectors).
      half_width: (views,), in elements, at most ``max(1, 1 / grid.spacing)``.
      scale: (views,).

    Returns:
      (..., ny, nx).
    """
    return _batched(lambda s: _gather_one(grid, angles, s, half_width, scale), sinogram)


def _gather_one(grid, angles, sinogram, half_width, scale):
    (ny, nx), dtype = grid.image_shape, sinogram.dtype
    pairs = math.ceil(math.ceil(2 * max(1.0, 1 / grid.spacing) - 1e-6) / 2)
    x = jnp.asarray((np.arange(nx) - (nx - 1) / 2) / grid.spacing, dtype)
    y = jnp.asarray(((ny - 1) / 2 - np.arange(ny)) / grid.spacing, dtype)
    # As in the projection, the position is a sum without products.
    columns = jnp.cos(angles)[:, None] * x
    rows = jnp.sin(angles)[:, None] * y - grid.first / grid.spacing
    margin = 2 * pairs
    padded = jnp.pad(scale[:, None] * sinogram, ((0, 0), (margin, margin)))
    table = jax.lax.complex(padded[:, :-1], padded[:, 1:])

    def view(columns, rows, half_width, row):
        position = columns + rows[:, None]
        first = jnp.clip(jnp.ceil(position - half_width), -margin, grid.detectors)
        distance = position - first
        index = first.astype(jnp.int32) + margin
        total = 0
        for pair in range(pairs):
            entry = row.at[index + 2 * pair].get(mode="promise_in_bounds")
            near, far = (
                jnp.maximum(1 - jnp.abs(distance - k) / half_width, 0) for k in (2 * pair, 2 * pair + 1)
            )
            total = total + near * entry.real + far * entry.imag
        return total

    def step(total, data):
        return total + view(*data), None

    start, *_ = vary_together(jnp.zeros((ny, nx), dtype), angles, sinogram)
    total, _ = jax.lax.scan(step, start, (columns, rows, half_width, table))
    return total
