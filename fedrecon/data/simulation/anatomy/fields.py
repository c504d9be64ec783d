"""Smooth random fields and the shapes that the simulated anatomies are drawn with. Lengths are in mm."""

import dataclasses
from typing import NamedTuple

import numpy as np

Array = np.ndarray
_ROWS = 16


class Grid(NamedTuple):
    """A regular grid of pixel centers.

    Attributes:
      x: ``(nx,)`` in mm, increasing to the right.
      y: ``(ny,)`` in mm, decreasing: row 0 is the top (anterior).
      z: ``(nz,)`` in mm, increasing to the head.
      pixel: edge length of a pixel in mm, over which edges are blurred (partial volume).
    """

    x: Array
    y: Array
    z: Array
    pixel: float


@dataclasses.dataclass(frozen=True)
class RandomField:
    """A sum of plane waves with random directions and phases: zero mean, unit variance, any resolution.

    Attributes:
      waves: wave vectors ``(modes, 3)`` along (x, y, z) in radians per mm.
      phases: ``(modes,)`` in radians.
    """

    waves: Array
    phases: Array

    def __call__(self, grid: Grid) -> Array:
        """Values ``(nz, ny, nx)``, float32; the waves separate, so that this is one matrix product."""
        ahead = np.outer(grid.z, self.waves[:, 2])[:, None] + np.outer(grid.y, self.waves[:, 1]) + self.phases
        across = np.outer(self.waves[:, 0], grid.x)
        left = np.concatenate([np.cos(ahead), np.sin(ahead)], -1).astype(np.float32)
        right = np.concatenate([np.cos(across), -np.sin(across)]).astype(np.float32)
        # Products of few rows at a time: threads cost more than they save at this size.
        rows = left.reshape(-1, left.shape[-1])
        blocks = np.pad(rows, ((0, -len(rows) % _ROWS), (0, 0))).reshape(-1, _ROWS, rows.shape[-1])
        values = (blocks @ right).reshape(-1, len(grid.x))[: len(rows)]
        return values.reshape(*ahead.shape[:2], -1) * np.float32(np.sqrt(2 / len(self.phases)))


def random_field(rng: np.random.Generator, wavelength: float, depth: float, modes: int = 24) -> RandomField:
    """Draws a field that is isotropic in the plane.

    Args:
      rng: source of randomness; the number of draws does not depend on any grid.
      wavelength: in the plane, mm; spread by a third.
      depth: the length in mm over which it changes along z.
      modes: number of waves.
    """
    directions = rng.uniform(0, 2 * np.pi, modes)
    lengths = 2 * np.pi / (wavelength * rng.uniform(0.7, 1.5, modes))
    waves = np.stack([lengths * np.cos(directions), lengths * np.sin(directions)], 1)
    along = rng.normal(size=(modes, 1)) / depth
    return RandomField(np.concatenate([waves, along], 1), rng.uniform(0, 2 * np.pi, modes))


def coverage(distance: Array, width: float) -> Array:
    """Fraction of a pixel that is inside, from the signed distance (negative inside) and the blur width."""
    return np.clip(0.5 - distance / np.float32(width), 0, 1)


def ellipse(x: Array, y: Array, center: tuple, axes: tuple, degrees: float = 0.0) -> Array:
    """Signed distance (first order) to an ellipse of semi-axes ``axes`` turned counter-clockwise.

    An axis that is not positive makes it empty. Axes may be arrays that broadcast, for example along z.
    """
    c, s = np.float32(np.cos(np.deg2rad(degrees))), np.float32(np.sin(np.deg2rad(degrees)))
    dx, dy = x - np.float32(center[0]), y - np.float32(center[1])
    a, b = (np.maximum(np.asarray(axis, np.float32), np.float32(1e-3)) for axis in axes)
    u, v = (c * dx + s * dy) / a, (c * dy - s * dx) / b
    norm = np.sqrt(u * u + v * v)
    slope = np.sqrt((u / a) ** 2 + (v / b) ** 2)
    return norm * (norm - 1) / np.maximum(slope, np.float32(1e-6))


def superellipse(x: Array, y: Array, axes: tuple, power: float) -> Array:
    """Signed distance (first order) to ``|x/a|^power + |y/b|^power = 1``."""
    a, b = (np.asarray(axis, np.float32) for axis in axes)
    u, v = np.abs(x) / a, np.abs(y) / b
    norm = (u**power + v**power + np.float32(1e-12)) ** np.float32(1 / power)
    slope = norm ** (1 - power) * np.sqrt((u ** (power - 1) / a) ** 2 + (v ** (power - 1) / b) ** 2)
    return (norm - 1) / np.maximum(slope, np.float32(1e-6))


def segment(x: Array, y: Array, start: tuple, end: tuple) -> Array:
    """Distance to a straight segment."""
    dx, dy = np.float32(end[0] - start[0]), np.float32(end[1] - start[1])
    px, py = x - np.float32(start[0]), y - np.float32(start[1])
    along = np.clip((px * dx + py * dy) / (dx * dx + dy * dy), 0, 1)
    return np.hypot(px - along * dx, py - along * dy)


def smooth_union(first: Array, second: Array, radius: float) -> Array:
    """Union of two signed distances whose corner is rounded over ``radius``."""
    blend = np.maximum(radius - np.abs(first - second), 0) / np.float32(radius)
    return np.minimum(first, second) - blend * blend * np.float32(radius / 4)


def dome(z: Array, center: float, half_height: float) -> Array:
    """Relative size ``(nz, 1, 1)`` at height z of an ellipsoid: 1 at its center, 0 beyond its poles."""
    relative = (np.asarray(z) - center) / half_height
    return np.sqrt(np.clip(1 - relative**2, 0, 1)).astype(np.float32)[:, None, None]


def warp(
    rng: np.random.Generator, grid: Grid, scales: tuple, start: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """Randomly displaced coordinates ``(x, y)``, each ``(nz, ny, nx)``.

    Args:
      rng: source of randomness.
      grid: the grid.
      scales: pairs (amplitude, wavelength) in mm; amplitude is the standard deviation of each component.
      start: coordinates to displace further; None for those of the grid.
    """
    x, y = (grid.x.astype(np.float32), grid.y.astype(np.float32)[:, None]) if start is None else start
    for amplitude, wavelength in scales:
        x = x + np.float32(amplitude) * random_field(rng, wavelength, wavelength / 2)(grid)
        y = y + np.float32(amplitude) * random_field(rng, wavelength, wavelength / 2)(grid)
    return x, y
