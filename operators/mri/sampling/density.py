"""Sampling density compensation of non-Cartesian trajectories.

The weights w make ``A.H(w * y)`` a reconstruction from measurements ``y = A(x)``, A the orthonormally scaled
non-uniform Fourier transform of :class:`operators.NUFFT` (alone or behind coils of unit sum of squares).
One scale for all methods: the weight of a sample is the area (volume) of k-space it stands for, in
(cycles/pixel)^ndim, times the number of pixels. So the weights of a fully sampled Cartesian grid are ones
and ``A.H(w * A(x))`` is x; those of a disc of radius 1/2, of any density, sum to pi / 4 of the number of
pixels, and the reconstruction is x without the corners of its spectrum.

A trajectory is (..., samples, ndim) in cycles/pixel, all of it one acquisition; ``jax.vmap`` serves frames.
"""

import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from operators.algebra import ArgumentError, positive_integer, safe_sqrt
from operators.fourier import check_trajectory
from operators.mri.sampling.voronoi import voronoi_areas


def density_compensation(
    trajectory: ArrayLike, image_shape: tuple[int, ...], method: str = "pipe-menon"
) -> jax.Array:
    """Density compensation weights by one of four methods, with its defaults.

    - "pipe-menon", :func:`pipe_menon_density`: any trajectory in the plane or in space.
    - "voronoi", :func:`voronoi_density`: any trajectory in the plane; concrete, on the host.
    - "analytic-radial", :func:`radial_density`: spokes in the plane or in space.
    - "analytic-spiral", :func:`spiral_density`: rotated interleaves that start at DC.

    Args:
      trajectory: (..., samples, ndim) in cycles/pixel; the analytic methods read (readouts, samples, ndim).
      image_shape: (ny, nx) or (nz, ny, nx).
      method: one of the four.

    Returns:
      Non-negative weights (..., samples) of the trajectory's dtype.

    Raises:
      ValueError: if ``method`` is unknown, or as the method's own function raises.
      TypeError: as the method's own function raises.

    Example:
      >>> spokes = operators.radial_trajectory(8, 4)
      >>> weights = operators.density_compensation(spokes, (4, 4), "analytic-radial")
      >>> print(np.asarray(weights[0]).round(2))
      [0.79 0.39 0.1  0.39]
    """
    methods: dict[str, Callable[..., jax.Array]] = {
        "pipe-menon": pipe_menon_density,
        "voronoi": voronoi_density,
        "analytic-radial": radial_density,
        "analytic-spiral": spiral_density,
    }
    if method not in methods:
        raise ArgumentError("density_compensation: method", f"one of {tuple(methods)}", repr(method))
    return methods[method](trajectory, image_shape)


def pipe_menon_density(
    trajectory: jax.Array, image_shape: tuple[int, ...], iterations: int = 10
) -> jax.Array:
    """Weights by the iteration of Pipe and Menon, ``w <- w / (G S G^H w)`` from ones.

    ``G^H`` spreads samples by cubic B-splines onto a periodic grid of half the Nyquist distance, ``S``
    averages neighbors by 1/4, 1/2, 1/4 along each axis and ``G`` interpolates back: a convolution by a
    positive kernel of 2.5 Nyquist distances to either side, whose transform is positive up to one field of
    view and vanishes there. The fixed point is one for samples on any grid of the Nyquist distance and, to a
    few percent, the area they stand for where they are denser; each iteration contracts towards it.

    Structure finer than the kernel is not resolved: samples further apart weigh at most about two Nyquist
    cells in the plane and three in space. The fixed point rings at the border of the sampled region, which
    more iterations bring out. Differentiable by unrolling.

    Args:
      trajectory: (..., samples, ndim) in cycles/pixel, taken modulo 1.
      image_shape: (ny, nx) or (nz, ny, nx).
      iterations: number of iterations.

    Returns:
      Positive weights (..., samples).

    Raises:
      ValueError, TypeError: if the trajectory is no trajectory in cycles/pixel, or an argument out of range.

    Source: Pipe and Menon, Magn. Reson. Med. 41:179, 1999; kernels by their transform after Johnson and
    Pipe, Magn. Reson. Med. 61:439, 2009.
    """
    trajectory, shape = _checked(trajectory, image_shape, "pipe_menon_density")
    return _pipe_menon(trajectory, shape, positive_integer(iterations, "pipe_menon_density: iterations"))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _pipe_menon(trajectory, shape, iterations):
    ndim, grid = len(shape), tuple(2 * n for n in shape)
    position = trajectory.reshape(-1, ndim) * jnp.asarray(grid, trajectory.dtype)
    below = jnp.floor(position)
    fraction, below = position - below, below.astype(jnp.int32)
    taps = jnp.asarray(list(itertools.product((-1, 0, 1, 2), repeat=ndim)), jnp.int32)

    def at(tap):
        index = (below + tap) % jnp.asarray(grid, jnp.int32)
        return tuple(index.T), jnp.prod(_cubic_spline(jnp.abs(fraction - tap)), axis=-1)

    def convolve(weights):
        def spread(density, tap):
            index, kernel = at(tap)
            return density.at[index].add(kernel * weights), None

        def gather(values, tap):
            index, kernel = at(tap)
            return values + kernel * density[index], None

        # Carries made from the input vary over the mesh axes over which it does.
        zeros = jnp.broadcast_to(jnp.zeros_like(weights[0]), grid)
        density, _ = jax.lax.scan(spread, zeros, taps)
        for axis in range(ndim):
            density = density / 2 + (jnp.roll(density, 1, axis) + jnp.roll(density, -1, axis)) / 4
        values, _ = jax.lax.scan(gather, jnp.zeros_like(weights), taps)
        return 2**ndim * values

    def step(_, weights):
        return weights / convolve(weights)

    weights = jax.lax.fori_loop(0, iterations, step, jnp.ones_like(fraction[:, 0]))
    return weights.reshape(trajectory.shape[:-1])


def _cubic_spline(distance: jax.Array) -> jax.Array:
    return jnp.where(distance < 1, 2 / 3 + distance**2 * (distance / 2 - 1), (2 - distance) ** 3 / 6)


def radial_density(trajectory: jax.Array, image_shape: tuple[int, ...]) -> jax.Array:
    """Analytic weights of radial spokes: the piece of a ring, or of a spherical shell, around each sample.

    Along a spoke a cell reaches half-way to the next samples, and at the ends as far beyond as within; DC is
    a disc (ball) that all spokes share. In the plane each spoke has half of the angles to its neighbors, so
    golden-angle and irregular spokes are weighted correctly; equal spokes, opposed ones included, share. In
    space all spokes are given the same solid angle, right for directions uniform on the sphere.

    Spokes must be straight, run through DC to about equal distances or (all of them) start near it, and reach
    outwards from their first to their last sample. Differentiable.

    Args:
      trajectory: (spokes, samples, ndim) in cycles/pixel, at least two samples.
      image_shape: (ny, nx) or (nz, ny, nx).

    Returns:
      Weights (spokes, samples).

    Raises:
      ValueError, TypeError: if the trajectory is no trajectory in cycles/pixel or not of this shape.
    """
    trajectory, shape = _checked(trajectory, image_shape, "radial_density")
    _readouts(trajectory, "radial_density")
    return _radial(trajectory, shape)


@functools.partial(jax.jit, static_argnums=1)
def _radial(trajectory, shape):
    ndim, spokes = len(shape), trajectory.shape[0]
    direction = trajectory[:, -1] - trajectory[:, 0]
    direction = direction / jnp.linalg.norm(direction, axis=-1, keepdims=True)
    radius = jnp.einsum("sjd,sd->sj", trajectory, direction)
    center_out = jnp.all(2 * jnp.abs(radius[:, 0]) < jnp.abs(radius[:, -1]))
    edges = _edges(radius)
    edges = jnp.where(center_out, jnp.maximum(edges, 0), edges)
    if ndim == 2:
        period = jnp.where(center_out, 2 * math.pi, math.pi)
        angles = _shares(jnp.arctan2(direction[:, 0], direction[:, 1]), period)[:, None]
    else:
        angles = jnp.where(center_out, 4 * math.pi, 2 * math.pi) / spokes
    # The integral of |r|^(ndim - 1).
    volume = jnp.diff(jnp.sign(edges) * jnp.abs(edges) ** ndim, axis=-1) / ndim
    return (math.prod(shape) * angles * volume).astype(trajectory.dtype)


def spiral_density(trajectory: jax.Array, image_shape: tuple[int, ...]) -> jax.Array:
    """Analytic weights of interleaves that are rotated copies of one curve around DC.

    ``N 2 pi / interleaves |k| d|k|/dj dj``, j along the readout, integrated over cells that reach half-way
    to the next samples: exact in the limit of dense turns for any dependence of their distance on |k|. The
    interleaves must be spread evenly over the full circle and start at DC, and |k| must rise along them.
    Differentiable.

    Args:
      trajectory: (interleaves, samples, 2) in cycles/pixel, at least two samples.
      image_shape: (ny, nx).

    Returns:
      Weights (interleaves, samples).

    Raises:
      ValueError, TypeError: if the trajectory is no trajectory in cycles/pixel or not of this shape.

    Source: Hoge et al., Magn. Reson. Med. 38:117, 1997.
    """
    trajectory, shape = _checked(trajectory, image_shape, "spiral_density", axes=2)
    _readouts(trajectory, "spiral_density")
    return _spiral(trajectory, shape)


@functools.partial(jax.jit, static_argnums=1)
def _spiral(trajectory, shape):
    edges = jnp.maximum(_edges(safe_sqrt(jnp.sum(trajectory**2, axis=-1))), 0)
    return math.prod(shape) * math.pi / trajectory.shape[0] * jnp.diff(edges**2, axis=-1)


def voronoi_density(trajectory: jax.Array, image_shape: tuple[int, int]) -> jax.Array:
    """Weights by the areas of Voronoi cells in the plane; computed by scipy on the host.

    The sampled region is the convex hull of the samples, enlarged by half a Nyquist distance along each axis;
    cells are cut at its border. Samples closer than a thousandth of the Nyquist distance share the cell of
    one of them equally, such as DC of radial spokes. The areas sum to that of the region. The period of
    k-space is not used: coordinates should be in [-1/2, 1/2].

    Args:
      trajectory: (..., samples, 2) in cycles/pixel, concrete.
      image_shape: (ny, nx).

    Returns:
      Positive weights (..., samples).

    Raises:
      ValueError: if the trajectory is no trajectory of the plane in cycles/pixel.
      TypeError: if it is traced: the weights have no gradient and are not computed under ``jit``.
      ImportError: if scipy is missing.

    Source: Rasche et al., IEEE Trans. Med. Imaging 18:385, 1999.
    """
    trajectory, shape = _checked(trajectory, image_shape, "voronoi_density", axes=2)
    if isinstance(trajectory, jax.core.Tracer):
        raise TypeError(
            "voronoi_density: trajectory: expected concrete values, found a tracer; call it outside of jit"
        )
    # In units of the Nyquist distance along each axis a cell of area one weighs one.
    points = np.asarray(trajectory, np.float64).reshape(-1, 2) * shape
    return jnp.asarray(voronoi_areas(points).reshape(trajectory.shape[:-1]), trajectory.dtype)


def _checked(
    trajectory: jax.Array, image_shape: tuple[int, ...], where: str, axes: int | None = None
) -> tuple[jax.Array, tuple[int, ...]]:
    shape = tuple(positive_integer(n, f"{where}: image_shape") for n in image_shape)
    if len(shape) not in ((2, 3) if axes is None else (axes,)):
        raise ArgumentError(f"{where}: image_shape", f"{axes or '2 or 3'} axes", shape)
    trajectory = check_trajectory(trajectory, len(shape), name=f"{where}: trajectory")
    if not trajectory.size:
        raise ArgumentError(f"{where}: trajectory", "at least one sample", trajectory.shape)
    return trajectory, shape


def _readouts(trajectory: jax.Array, where: str) -> None:
    if trajectory.ndim != 3 or trajectory.shape[1] < 2:
        raise ArgumentError(
            f"{where}: trajectory",
            "shape (readouts, samples, ndim) with at least two samples",
            trajectory.shape,
        )


def _edges(radius: jax.Array) -> jax.Array:
    """Borders of cells around increasing radii: (readouts, samples) -> (readouts, samples + 1)."""
    middle = (radius[:, 1:] + radius[:, :-1]) / 2
    first, last = 2 * radius[:, :1] - middle[:, :1], 2 * radius[:, -1:] - middle[:, -1:]
    return jnp.concatenate([first, middle, last], axis=-1)


def _shares(angles: jax.Array, period: jax.Array) -> jax.Array:
    """Half of the gaps to the next different angles, shared among equal ones: they sum to ``period``."""
    count, angles = angles.size, angles % period
    order = jnp.argsort(angles)
    ahead = jnp.diff(angles[order], append=angles[order[:1]] + period)
    # Starts behind the widest gap, so that no group of equal angles lies across the ends.
    shift = -1 - jnp.argmax(ahead)
    order, ahead = jnp.roll(order, shift), jnp.roll(ahead, shift)
    last = ahead > _SAME_ANGLE * period / count
    group = jnp.cumsum(last) - last
    sums = jax.ops.segment_sum((ahead + jnp.roll(ahead, 1)) / 2, group, count)
    sizes = jax.ops.segment_sum(jnp.ones_like(ahead), group, count)
    return jnp.zeros_like(angles).at[order].set((sums / jnp.maximum(sizes, 1))[group])


# As a part of the mean gap; single precision resolves it up to some thousand spokes.
_SAME_ANGLE = 1e-3
