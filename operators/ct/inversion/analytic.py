"""Analytic inversion in tomography: filtered back-projection and the algorithm of Feldkamp et al."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from operators.algebra import (
    ArgumentError,
    check_array,
    image_shape_2d,
    renamed,
)
from operators.ct.geometry.circular import as_circular
from operators.ct.geometry.cone import ConeBeam
from operators.ct.geometry.fan import FanBeam
from operators.ct.geometry.image_grid import image_grid
from operators.ct.geometry.parallel import ParallelBeam, ParallelBeam3D
from operators.ct.geometry.vector import VectorGeometry
from operators.ct.geometry.visibility import check_grid
from operators.ct.inversion.displaced import even_out
from operators.ct.inversion.divergent import invert_cone, invert_fan
from operators.ct.inversion.parallel import METHODS, invert_parallel
from operators.ct.inversion.ramp_filters import check_filter
from operators.ct.inversion.short_scan import Coverage, angular_coverage, helical_coverage


def fbp(
    sinogram: jax.Array,
    geometry: ParallelBeam | FanBeam | VectorGeometry,
    image_shape: tuple[int, int],
    pixel_size: float | tuple[float, ...] = 1.0,
    filter: str = "ram-lak",
    *,
    cutoff: float = 1.0,
    method: str | None = None,
    backend: str = "auto",
    image_center: tuple[float, ...] | None = None,
) -> jax.Array:
    """Filtered back-projection, in absolute units: a disc of attenuation mu comes back as mu.

    Angles need be neither even nor in order: each view stands for half of the gaps to its neighbors, modulo
    pi for parallel beams and 2 pi for fans. A gap of more than four times the mean, and of what most gaps
    have, counts as not measured; a limited arc gives what its views tell, without extrapolation. Fans of a
    full turn count every ray half; those of an arc are weighted after Parker with the virtual fan angle that
    the arc admits (Silver), whatever its start, direction and length; on arcs shorter than half a turn plus
    the fan, rays without a conjugate count fully. Detector and axis offsets enter through the rays
    themselves. On a full turn a detector displaced so far that it passes the object on one side only
    (half-fan, offset scan) is made up for after Wang: what it sees once counts fully. The circle inscribed in
    the image is taken as the object, and the geometry has to be concrete. On less than a full turn rays are
    missing then, of which a warning tells.

    The methods:

    * "fourier", the default for parallel beams: filtered rows, constant on each element and averaged over the
      footprint of a pixel (as the transpose of the distance-driven model would), rolled off between 0.5 and
      0.7 cycles per element (less, the fewer the views), through the adjoint NUFFT (to 3e-4 of the image).
      Beyond the detector rows go on with the tails that the filter gives them there, as if the object ended
      where the detector does.
    * "interpolation": for parallel beams, linear interpolation of filtered rows; for fans, of which it is the
      only one, the same means at every half element, rolled off up to 0.7 cycles, between which it
      interpolates. Rows are zero beyond the detector.

    Images are not blanked outside of the circle that all views see, where streaks of few views are strongest.

    Linear in the sinogram and differentiable, also with respect to the geometry.

    Args:
      sinogram: (..., views, detectors), line integrals.
      geometry: the parallel-beam or fan-beam geometry, or vectors of one around any point, concrete.
      image_shape: (ny, nx).
      pixel_size: width of the pixels in the geometry's unit of length, or (dy, dx).
      filter: "ram-lak", "shepp-logan", "cosine", "hamming" or "hann".
      cutoff: fraction of the detector's Nyquist frequency, in (0, 1]: the filter's window is stretched to it,
        and nothing passes beyond.
      method: "fourier" or "interpolation"; None chooses.
      backend: "auto" uses native kernels on CPU where they are at hand; "jax" never does.
      image_center: (x, y) of the center of the image; None is the origin.

    Returns:
      (..., ny, nx) in 1/length.

    Raises:
      ValueError: if the sinogram does not fit the geometry, a size, the cutoff or an option is out of
        range, or the geometry cannot see the object (see :func:`check_object`).
      TypeError: if the geometry is of another kind, or vectors are traced or no scan around a point.

    Source: Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988, chapter 3; De Man and Basu,
    Phys. Med. Biol. 49:2463, 2004 (footprints); Gullberg, Crawford and Tsui, IEEE Trans. Med. Imaging 5:23,
    1986 (displaced axis); Parker, Med. Phys. 9:254, 1982; Silver, Med. Phys. 27:773, 2000; Wang, Med. Phys.
    29:1634, 2002 (displaced detector).

    Example:
      >>> geometry = operators.ParallelBeam(jnp.linspace(0, jnp.pi, 32, endpoint=False), 16)
      >>> shape = jnp.zeros((1, 2)), jnp.full((1, 2), 6.0), jnp.zeros(1), jnp.ones(1)
      >>> disc = operators.phantoms.Ellipses(*shape)
      >>> image = operators.fbp(operators.phantoms.ellipse_sinogram(disc, geometry), geometry, (16, 16))
      >>> print(np.asarray(image[8, 8]).round(1))
      1.0
    """
    axis = (0.0, 0.0)
    if isinstance(geometry, VectorGeometry) and geometry.ndim == 2:
        sinogram, geometry, axis = _circular("fbp", sinogram, geometry)
    if not isinstance(geometry, ParallelBeam | FanBeam):
        raise TypeError(
            f"fbp: geometry: expected ParallelBeam or FanBeam, found {type(geometry).__name__}; volumes are "
            "reconstructed by fdk, views of arbitrary poses by the iterative methods (cgls, sirt)"
        )
    shape = image_shape_2d(image_shape, "fbp: image_shape")
    methods = METHODS if isinstance(geometry, ParallelBeam) else METHODS[1:]
    method = methods[0] if method is None else method
    if method not in methods:
        raise ArgumentError("fbp: method", f"one of {methods} for {type(geometry).__name__}", repr(method))
    grid = image_grid(shape, pixel_size, image_center, "fbp").seen_from(axis)
    options = _options("fbp", geometry, grid, filter, cutoff, backend)
    sinogram = check_array(sinogram, geometry.shape, geometry.dtype, "fbp: sinogram")
    sinogram, geometry = even_out(sinogram, geometry, grid)
    period = math.pi if isinstance(geometry, ParallelBeam) else 2 * math.pi
    coverage = _typed(angular_coverage(geometry.angles, period), geometry.dtype)
    return _fbp(sinogram, geometry, coverage, method, **options)


@renamed(volume_shape="image_shape")
def fdk(
    sinogram: jax.Array,
    geometry: ConeBeam | ParallelBeam3D | VectorGeometry,
    image_shape: tuple[int, int, int],
    pixel_size: float | tuple[float, ...] = 1.0,
    filter: str = "ram-lak",
    *,
    cutoff: float = 1.0,
    backend: str = "auto",
    image_center: tuple[float, ...] | None = None,
) -> jax.Array:
    """Reconstruction from cone beams after Feldkamp, Davis and Kress, in absolute units.

    On a circle it is exact in the plane of the source, and approximate away from it; short scans and limited
    arcs are weighted as by :func:`fbp`, the fan angle being that of the column. Voxels outside of a view get
    nothing from it.

    On a helix every slice is made from the turn of views around it, fading in and out over a fifth of a turn
    (after Wang et al.); slices nearer to the ends of the helix than half a turn use the first or the last
    turn. That needs rows for the whole turn, ``0.6 |pitch| D / (source_distance - radius)`` to either side of
    the middle, for an object of that radius; beyond the detector its last rows are repeated.

    For ParallelBeam3D rows are interpolated to the slices, and each of them is reconstructed by :func:`fbp`.

    Args:
      sinogram: (..., views, rows, columns), line integrals.
      geometry: the cone-beam geometry, or parallel beams across the axis, or vectors of such around any axis
        along z, concrete.
      image_shape: (nz, ny, nx).
      pixel_size: width of the voxels in the geometry's unit of length, or (dz, dy, dx).
      filter, cutoff, backend: as for :func:`fbp`.
      image_center: (x, y, z) of the center of the volume; None is the origin.

    Returns:
      (..., nz, ny, nx) in 1/length.

    Raises:
      ValueError, TypeError: as :func:`fbp`; and if a helix known to be shorter than a turn is given.

    Source: Feldkamp, Davis and Kress, J. Opt. Soc. Am. A 1:612, 1984; Wang, Lin, Cheng and Shinozaki, IEEE
    Trans. Med. Imaging 12:486, 1993 (helix).

    Example:
      >>> angles = jnp.linspace(0, 2 * jnp.pi, 16, endpoint=False)
      >>> geometry = operators.ConeBeam(angles, (4, 8), (1.0, 1.0), 20.0, 10.0)
      >>> operators.fdk(jnp.ones(geometry.shape), geometry, (2, 4, 4)).shape
      (2, 4, 4)
    """
    axis = (0.0, 0.0)
    if isinstance(geometry, VectorGeometry) and geometry.ndim == 3:
        sinogram, geometry, axis = _circular("fdk", sinogram, geometry)
    if not isinstance(geometry, ConeBeam | ParallelBeam3D):
        raise TypeError(
            f"fdk: geometry: expected ConeBeam or ParallelBeam3D, found {type(geometry).__name__}; images "
            "are reconstructed by fbp, views of arbitrary poses by the iterative methods (cgls, sirt)"
        )
    if np.ndim(image_shape) != 1 or len(image_shape) != 3:
        raise ArgumentError("fdk: image_shape", "(nz, ny, nx)", image_shape)
    grid = image_grid(image_shape, pixel_size, image_center, "fdk").seen_from(axis)
    options = _options("fdk", geometry, grid, filter, cutoff, backend)
    sinogram = check_array(sinogram, geometry.shape, geometry.dtype, "fdk: sinogram")
    sinogram, geometry = even_out(sinogram, geometry, grid)
    if isinstance(geometry, ConeBeam):
        coverage = _cone_coverage(geometry)
    else:
        coverage = angular_coverage(geometry.angles, math.pi)
    return _fdk(sinogram, geometry, _typed(coverage, geometry.dtype), **options)


def _circular(name, sinogram, vectors):
    check_array(sinogram, vectors.shape, vectors.dtype, f"{name}: sinogram")
    geometry, flips, axis = as_circular(vectors, name)
    return jnp.flip(jnp.asarray(sinogram), flips) if flips else sinogram, geometry, axis


def _options(name, geometry, grid, filter, cutoff, backend):
    filter, cutoff = check_filter(filter, cutoff, name)
    if backend not in ("auto", "jax"):
        raise ArgumentError(f"{name}: backend", "'auto' or 'jax'", repr(backend))
    check_grid(geometry, grid, name)
    return {"grid": grid, "filter": filter, "cutoff": cutoff, "backend": backend}


def _typed(coverage: Coverage, dtype: DTypeLike) -> Coverage:
    return jax.tree.map(lambda a: jnp.asarray(a, bool if a.dtype == bool else dtype), coverage)


def _cone_coverage(geometry: ConeBeam) -> Coverage:
    angles, pitch = geometry.angles, geometry.pitch
    if isinstance(pitch, jax.core.Tracer):
        circle, helix = angular_coverage(angles, 2 * math.pi), helical_coverage(angles)
        return jax.tree.map(lambda h, c: jnp.where(pitch != 0, h, c), helix, circle)
    if float(pitch) == 0:
        return angular_coverage(angles, 2 * math.pi)
    coverage = helical_coverage(angles)
    if not isinstance(angles, jax.core.Tracer) and coverage.weights.sum() < 2 * math.pi * (1 - 1e-5):
        raise ArgumentError(
            "fdk: angles of a helix",
            "a full turn, 2 pi",
            f"{coverage.weights.sum():.6g}; for less, use pitch=0 or an iterative method",
        )
    return coverage


_STATIC = ("grid", "filter", "cutoff", "backend")


@functools.partial(jax.jit, static_argnames=("method", *_STATIC))
def _fbp(sinogram, geometry, coverage, method, **options):
    if isinstance(geometry, ParallelBeam):
        return invert_parallel(sinogram, geometry, coverage.weights, method, **options)
    return invert_fan(sinogram, geometry, coverage, **options)


@functools.partial(jax.jit, static_argnames=_STATIC)
def _fdk(sinogram, geometry, coverage, **options):
    if isinstance(geometry, ConeBeam):
        return invert_cone(sinogram, geometry, coverage, **options)
    return _invert_slices(sinogram, geometry, coverage, **options)


def _invert_slices(sinogram, geometry, coverage, grid, **options):
    (rows, columns), (row_spacing, spacing) = geometry.detector_shape, geometry.detector_spacing
    z = jnp.asarray(grid.heights, sinogram.dtype)
    position = (z - geometry.row_offset) / row_spacing + (rows - 1) / 2
    # Hat functions: slices outside of the detector are zero.
    shares = jnp.maximum(1 - jnp.abs(position[:, None] - jnp.arange(rows)), 0).astype(sinogram.dtype)
    slices = jnp.einsum("zr,...vrc->...zvc", shares, sinogram, precision=jax.lax.Precision.HIGHEST)
    offset, axis = geometry.detector_offset, geometry.axis_offset
    planar = ParallelBeam(geometry.angles, columns, spacing, offset, axis)
    return invert_parallel(slices, planar, coverage.weights, METHODS[0], grid.slice, **options)
