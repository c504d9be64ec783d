"""Checks that a geometry can measure an object."""

import jax
import numpy as np

from operators.algebra import ArgumentError
from operators.ct.geometry.image_grid import ImageGrid, image_grid
from operators.ct.geometry.protocol import Geometry

_BOUNDARY = 128
# One compilation for a kind of geometry instead of one for each operation.
_rays = jax.jit(lambda geometry, *indices: geometry.rays(*indices)[0])
_shadow = jax.jit(lambda geometry, points: geometry.detector_coordinates(points))


def check_object(
    geometry: Geometry,
    image_shape: tuple[int, ...],
    pixel_size: float | tuple[float, ...],
    name: str,
    image_center: tuple[float, ...] | None = None,
) -> None:
    """Checks that the source is outside of an object and the detector sees some of it.

    The object is taken to fill the ellipse inscribed in the image (times the height of the volume): measured
    objects lie there, and a source may pass the empty corners of an image. Nothing is checked where the
    geometry is traced.

    Args:
      geometry: any geometry.
      image_shape: (ny, nx), or (nz, ny, nx) for a geometry in three dimensions.
      pixel_size: in the geometry's unit of length, a number or one for each axis of ``image_shape``.
      name: of the caller, for the messages.
      image_center: (x, y) or (x, y, z); None is the origin.

    Raises:
      ValueError: if the image has not the geometry's dimensions, the source of a view lies inside the object,
        or the object's shadow misses the detector in every view.
    """
    check_grid(geometry, image_grid(image_shape, pixel_size, image_center, name), name)


def check_grid(geometry: Geometry, grid: ImageGrid, name: str) -> None:
    """:func:`check_object` for a grid."""
    if len(grid.shape) != geometry.ndim:
        expected = "(ny, nx)" if geometry.ndim == 2 else "(nz, ny, nx)"
        raise ArgumentError(f"{name}: image_shape", f"{expected} for {type(geometry).__name__}", grid.shape)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(geometry)):
        return
    half, center = grid.half, np.array(grid.center)
    middle = [np.zeros(1)] * (geometry.ndim - 1)
    if geometry.divergent:
        with jax.ensure_compile_time_eval():
            source = np.asarray(_rays(geometry, *middle), np.float64)
        source = source.reshape(geometry.views, geometry.ndim)
        apart = source - center
        inside = np.sum((apart[:, :2] / half[:2]) ** 2, axis=-1) < 1
        if geometry.ndim == 3:
            inside &= np.abs(apart[:, 2]) < half[2]
        if inside.any():
            view = int(inside.argmax())
            place = tuple(float(f"{x:.6g}") for x in source[view])
            raise ArgumentError(
                f"{name}: source",
                f"outside of the object, the ellipse of semi-axes {half[0]:.6g} and {half[1]:.6g} "
                "inscribed in the image",
                f"it at {place} in view {view}; increase source_distance or reduce pixel_size",
            )
    angle = 2 * np.pi * np.arange(_BOUNDARY) / _BOUNDARY
    points = half[:2] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    if geometry.ndim == 3:
        heights = np.repeat([-half[2], half[2]], len(points))
        points = np.concatenate([np.tile(points, (2, 1)), heights[:, None]], axis=-1)
    with jax.ensure_compile_time_eval():
        hits = np.asarray(_shadow(geometry, points + center))
    hits = hits.reshape(geometry.views, len(points), -1)
    low, high, counts = hits.min(axis=1), hits.max(axis=1), np.array(geometry.shape[1:])
    if not np.any(np.all((high >= -0.5) & (low <= counts - 0.5), axis=-1)):
        axes = "column" if geometry.ndim == 2 else "row, column"
        raise ArgumentError(
            f"{name}: detector",
            "to see the object",
            f"its shadow at {axes} {low[0].round(1).tolist()} to {high[0].round(1).tolist()} in view 0 of a "
            f"detector of {counts.tolist()} elements, and outside of it in every other view; check offsets "
            "and pixel_size",
        )
