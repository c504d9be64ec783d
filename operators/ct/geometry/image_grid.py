"""Where the pixels of images, and the voxels of volumes, are in the world of a geometry."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from operators.algebra import ArgumentError, finite_number, positive_integer, positive_number

_AXES = {2: "(ny, nx)", 3: "(nz, ny, nx)"}


class ImageGrid(NamedTuple):
    """Shape, size of pixels and place of an image or volume.

    Pixel (i, c) is at ``x = center_x + (c - (nx - 1) / 2) * dx``, ``y = center_y + ((ny - 1) / 2 - i) * dy``,
    slice k at ``z = center_z + (k - (nz - 1) / 2) * dz``.

    Attributes:
      shape: (ny, nx) or (nz, ny, nx).
      steps: (dx, dy) or (dx, dy, dz).
      center: (x, y) or (x, y, z).
    """

    shape: tuple[int, ...]
    steps: tuple[float, ...]
    center: tuple[float, ...]

    @property
    def plain(self) -> bool:
        """Whether it has square pixels, or cubes, around the origin."""
        return self.isotropic and not self.moved

    @property
    def isotropic(self) -> bool:
        return len(set(self.steps)) == 1

    @property
    def moved(self) -> bool:
        return any(self.center)

    @property
    def half(self) -> np.ndarray:
        """Half of the extent along x, y and z."""
        return np.array(self.shape[::-1]) * np.array(self.steps) / 2

    @property
    def diagonal(self) -> float:
        """Of a slice."""
        (ny, nx), (dx, dy) = self.shape[-2:], self.steps[:2]
        return math.hypot(ny * (dy / dx), nx) * dx

    @property
    def slice(self) -> "ImageGrid":
        """The grid in x and y."""
        return ImageGrid(self.shape[-2:], self.steps[:2], self.center[:2])

    @property
    def heights(self) -> np.ndarray:
        """z of the slices of a volume."""
        count = self.shape[0]
        return (np.arange(count) - (count - 1) / 2) * self.steps[2] + self.center[2]

    def seen_from(self, axis: tuple[float, float]) -> "ImageGrid":
        """The grid in a world whose origin is at ``axis`` (x, y)."""
        x, y = (c - a for c, a in zip(self.center, axis, strict=False))
        return self._replace(center=(x, y, *self.center[2:]))

    def relative(self, points: jax.Array) -> jax.Array:
        """World points (..., ndim) from the center."""
        return points - jnp.asarray(self.center, points.dtype) if self.moved else points


def image_grid(image_shape: Any, pixel_size: Any, image_center: Any, name: str) -> ImageGrid:
    """The grid of the arguments of :class:`operators.Radon`, checked.

    Args:
      image_shape: (ny, nx) or (nz, ny, nx).
      pixel_size: a number, or one for each axis of ``image_shape``.
      image_center: (x, y) or (x, y, z); None is the origin.
      name: of the caller, for the messages.

    Raises:
      ValueError: if a number is not positive or not finite, or there are not as many as axes.
      TypeError: if a number is not real.
    """
    if np.ndim(image_shape) != 1 or len(image_shape) not in _AXES:
        raise ArgumentError(f"{name}: image_shape", " or ".join(_AXES.values()), image_shape)
    shape = tuple(positive_integer(n, f"{name}: image_shape") for n in image_shape)
    ndim = len(shape)
    sizes: Sequence[Any] = (pixel_size,) * ndim
    if np.ndim(pixel_size):
        if np.shape(pixel_size) != (ndim,):
            expected = f"a number, or one for each axis of {_AXES[ndim]}"
            raise ArgumentError(f"{name}: pixel_size", expected, pixel_size)
        sizes = list(pixel_size)
    steps = tuple(positive_number(size, f"{name}: pixel_size") for size in sizes)[::-1]
    center = (0.0,) * ndim
    if image_center is not None:
        if np.shape(image_center) != (ndim,):
            expected = "(x, y)" if ndim == 2 else "(x, y, z)"
            raise ArgumentError(f"{name}: image_center", expected, image_center)
        center = tuple(finite_number(value, f"{name}: image_center") for value in image_center)
    return ImageGrid(shape, steps, center)
