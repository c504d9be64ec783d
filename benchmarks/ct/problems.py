"""Workloads of the CT benchmark: their inputs in single precision, from phantoms known exactly.

World: x to the right, y up, z up with the slice index; row 0 of an image is its top row. Lengths share one
unit. Nothing here uses the operators that are measured.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

# Gauss-Legendre points per axis of a detector element, and points per axis of a pixel, by dimensions.
_ELEMENT_POINTS = {2: 8, 3: 3}
_PIXEL_POINTS = {2: 8, 3: 4}


class Ellipsoid(NamedTuple):
    """A uniform ellipsoid (an ellipse in the plane): value, center and semi-axes (x, y, z), angle about z."""

    value: float
    center: np.ndarray
    axes: np.ndarray
    angle: float

    def coordinates(self, vectors: np.ndarray, origin: bool = True) -> np.ndarray:
        """(..., 2 or 3) positions, or without ``origin`` directions, in units of its own axes."""
        d = vectors.shape[-1]
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])[:d, :d] / self.axes[:d]
        return (vectors - self.center[:d] if origin else vectors) @ turn


@dataclasses.dataclass(frozen=True)
class Scan:
    """A geometry in plain numbers, as every library can be told.

    Attributes:
      kind: "parallel", "fan" (flat detector) or "cone" (flat detector, circular orbit).
      image_shape: (ny, nx) or (nz, ny, nx).
      pixel_size: width of pixels or voxels.
      angles: (views,) float32, radians. At angle t the columns of the detector run along (cos t, sin t) and
        rays along (-sin t, cos t); the source is at ``source_distance * (sin t, -cos t)``.
      detectors: (columns,) or (rows, columns), centered on the central ray; rows run along z.
      spacing: of rows and of columns.
      source_distance, detector_distance: from the rotation axis; 0 for parallel beams.
    """

    kind: str
    image_shape: tuple[int, ...]
    pixel_size: float
    angles: np.ndarray
    detectors: tuple[int, ...]
    spacing: float
    source_distance: float = 0.0
    detector_distance: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sinogram: (views, columns) or (views, rows, columns)."""
        return len(self.angles), *self.detectors

    def rays(self, angle: float, *positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points and directions, each broadcasting to (..., 2 or 3), of the rays of one view.

        Args:
          angle: of the view.
          positions: (columns,), or (rows,) and (columns,): lengths on the detector from its center.
        """
        u, forward = np.array([math.cos(angle), math.sin(angle)]), [-math.sin(angle), math.cos(angle)]
        if self.kind == "parallel":
            return positions[0][:, None] * u, np.array(forward)
        source = -self.source_distance * np.array(forward)
        along = (self.source_distance + self.detector_distance) * np.array(forward)
        directions = along + positions[-1][:, None] * u
        if self.kind == "fan":
            return source, directions
        rows, columns = positions
        grid = np.empty((len(rows), len(columns), 3))
        grid[..., :2], grid[..., 2] = directions, rows[:, None]
        return np.append(source, 0.0), grid


@dataclasses.dataclass(frozen=True)
class CTProblem:
    """The inputs of a workload.

    Attributes:
      scan: the geometry.
      phantoms: one list of ellipsoids per image; none where the images are something else.
      image: (images, *image_shape) float32, the mean of each pixel.
      sinogram: (images, *scan.shape) float32, exact line integrals, the mean over each detector element.
      samples: the same shape, the sinogram with white noise as strong: what the adjoint and the gradient
        take, so that no residual is a small difference.
    """

    scan: Scan
    phantoms: list[list[Ellipsoid]]
    image: np.ndarray
    sinogram: np.ndarray
    samples: np.ndarray

    @property
    def lead(self) -> tuple[int, ...]:
        """The axis of images, where there are several."""
        return (len(self.image),) if len(self.image) > 1 else ()

    def with_noise_for_image(self, seed: int = 0) -> "CTProblem":
        """The problem of an image that is white noise inside the object."""
        noise = np.random.default_rng(seed).standard_normal(self.image.shape, np.float32)
        return dataclasses.replace(self, phantoms=[], image=np.where(self.image > 0, noise, 0))

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image, sinogram and samples without the axis of one image."""
        return tuple(a if self.lead else a[0] for a in (self.image, self.sinogram, self.samples))


@dataclasses.dataclass(frozen=True)
class Workload:
    """A problem by name: one line for people, its geometry and the number of images."""

    title: str
    scan: Scan
    images: int = 1


def _views(count: int, arc: float) -> np.ndarray:
    return (np.arange(count) * (arc / count)).astype(np.float32)


def _parallel(n, views, columns):
    return Scan("parallel", (n, n), 1.0, _views(views, math.pi), (columns,), 1.0)


def _fan(n, views, columns, pixel_size, spacing, source, detector):
    return Scan("fan", (n, n), pixel_size, _views(views, 2 * math.pi), (columns,), spacing, source, detector)


def _cone(n, views):
    """Half as many elements again as voxels, at the axis as large as these; magnification 1.5."""
    elements = (3 * n // 2,) * 2
    return Scan("cone", (n,) * 3, 1.0, _views(views, 2 * math.pi), elements, 1.5, 4.0 * n, 2.0 * n)


WORKLOADS = {
    "a": Workload("256 x 256, 180 parallel views x 363", _parallel(256, 180, 363)),
    "bs": Workload("362 x 362, 60 parallel views x 513", _parallel(362, 60, 513)),
    "b": Workload("362 x 362, 1000 parallel views x 513", _parallel(362, 1000, 513)),
    "c": Workload("512 x 512, 720 fan-beam views x 736", _fan(512, 720, 736, 0.7, 1.2858, 595.0, 490.6)),
    "d-64": Workload("64 x 64 x 64, 120 cone-beam views x 96 x 96", _cone(64, 120)),
    "d-128": Workload("128 x 128 x 128, 120 cone-beam views x 192 x 192", _cone(128, 120)),
    "e": Workload("bs, 16 images", _parallel(362, 60, 513), 16),
    "tiny": Workload("24 x 24, 20 parallel views x 35, for tests", _parallel(24, 20, 35)),
    "tiny-e": Workload("24 x 24, 20 parallel views x 35, 3 images, for tests", _parallel(24, 20, 35), 3),
    "tiny-c": Workload("24 x 24, 30 fan-beam views x 38, for tests", _fan(24, 30, 38, 1.0, 1.5, 60.0, 30.0)),
    "tiny-d": Workload("12 x 12 x 12, 20 cone-beam views x 18 x 18, for tests", _cone(12, 20)),
}


def make_problem(workload: Workload, seed: int = 0) -> CTProblem:
    """The inputs of a workload: the head phantom in the field of view, turned from image to image.

    In space the ellipses are ellipsoids, whose third semi-axis is the longer of the two, and which are half
    as far from the middle along z as along y.
    """
    scan = workload.scan
    half_width = scan.image_shape[-1] * scan.pixel_size / 2
    phantoms = [_head(half_width, turn) for turn in 2 * np.pi * np.arange(workload.images) / workload.images]
    image = np.stack([rasterize(p, scan.image_shape, scan.pixel_size) for p in phantoms])
    sinogram = np.stack([project(p, scan) for p in phantoms])
    noise = np.random.default_rng(seed).standard_normal(sinogram.shape)
    samples = sinogram + noise * math.sqrt(np.mean(sinogram**2))
    return CTProblem(scan, phantoms, *(a.astype(np.float32) for a in (image, sinogram, samples)))


def _head(half_width, turn):
    import operators  # What an environment of another library may lack is imported where it is used.

    table = operators.shepp_logan()
    center, axes, angle, value = (
        np.asarray(getattr(table, name), np.float64) for name in ("center", "axes", "angle", "value")
    )
    cos, sin = math.cos(turn), math.sin(turn)
    turned = center @ np.array([[cos, sin], [-sin, cos]])
    center = half_width * np.column_stack([turned, center[:, 1] / 2])
    axes = half_width * np.column_stack([axes, axes.max(axis=1)])
    return [Ellipsoid(*fields) for fields in zip(value, center, axes, angle + turn, strict=True)]


def rasterize(phantom: list[Ellipsoid], shape: tuple[int, ...], pixel_size: float) -> np.ndarray:
    """The image of a phantom: each pixel the mean over a grid of points.

    Args:
      phantom: its ellipsoids; in the plane their sections through the centers.
      shape: (ny, nx) or (nz, ny, nx), around the origin.
      pixel_size: width of the pixels.

    Returns:
      (*shape) float64.
    """
    points = _PIXEL_POINTS[len(shape)]
    image = np.zeros(shape)

    def positions(n):
        fine = (np.arange(n * points) - (n * points - 1) / 2) * (pixel_size / points)
        return fine.reshape(n, points)

    # Positions along the axes (z,) y, x of the array; rows count downwards, y upwards.
    axes = [positions(n) for n in shape]
    axes[-2] = -axes[-2]
    for one in phantom:
        reach = np.max(one.axes[:2])
        near = []
        for axis, dimension in zip(axes, (2, 1, 0)[-len(shape) :], strict=True):
            extent = one.axes[2] if dimension == 2 else reach
            (inside,) = np.nonzero(np.any(np.abs(axis - one.center[dimension]) <= extent, axis=1))
            near.append(slice(inside[0], inside[-1] + 1) if inside.size else slice(0, 0))
        if all(part.stop > part.start for part in near):
            image[tuple(near)] += one.value * _fill(one, [a[n] for a, n in zip(axes, near, strict=True)])
    return image


def _fill(one, axes):
    """The part of every pixel that lies in an ellipsoid."""
    *z, y, x = axes
    # Row by row, which bounds the memory.
    rows = (np.stack(np.broadcast_arrays(x.ravel(), row[:, None]), axis=-1) for row in y)
    squares = np.concatenate([np.sum(one.coordinates(row) ** 2, axis=-1, dtype=np.float64) for row in rows])

    def part(height):
        inside = (squares <= 1 - height**2).reshape(*y.shape, *x.shape)
        return np.mean(inside, axis=(1, 3))

    if not z:
        return part(0.0)
    heights = (z[0] - one.center[2]) / one.axes[2]
    return np.stack(
        [
            np.mean([part(h) if abs(h) <= 1 else np.zeros((len(y), len(x))) for h in row], axis=0)
            for row in heights
        ]
    )


def project(phantom: list[Ellipsoid], scan: Scan) -> np.ndarray:
    """The exact line integrals of a phantom, averaged over each detector element by Gauss-Legendre points.

    Returns:
      (*scan.shape) float64.
    """
    nodes, weights = np.polynomial.legendre.leggauss(_ELEMENT_POINTS[len(scan.image_shape)])
    weights = weights / 2
    positions = [
        ((np.arange(n) - (n - 1) / 2)[:, None] + nodes / 2).ravel() * scan.spacing for n in scan.detectors
    ]
    sinogram = np.empty(scan.shape)
    for view, angle in enumerate(scan.angles.astype(np.float64)):
        values = line_integrals(phantom, *scan.rays(angle, *positions))
        for axis, n in enumerate(scan.detectors):
            values = np.moveaxis(values, axis, -1)
            values = values.reshape(*values.shape[:-1], n, len(nodes)) @ weights
            values = np.moveaxis(values, -1, axis)
        sinogram[view] = values
    return sinogram


def line_integrals(phantom: list[Ellipsoid], points: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Integrals along the lines ``points + s * directions``: (..., 2 or 3) -> (...) in value times length."""
    total = 0.0
    length = np.linalg.norm(directions, axis=-1)
    for one in phantom:
        start, step = one.coordinates(points), one.coordinates(directions, origin=False)
        a, b, c = np.sum(step**2, -1), np.sum(start * step, -1), np.sum(start**2, -1) - 1
        total = total + one.value * 2 * np.sqrt(np.maximum(b * b - a * c, 0)) / a * length
    return total
