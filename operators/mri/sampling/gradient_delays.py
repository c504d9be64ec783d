"""Gradient delays: the trajectory that they turn a nominal one into, and their estimate from the data."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from operators.algebra import ArgumentError, as_inexact, positive_number
from operators.fourier import check_trajectory


def gradient_delay(trajectory: ArrayLike, delays: ArrayLike) -> jax.Array:
    """The trajectory played when the gradient of each axis lags behind the receiver.

    Coordinate d of sample j becomes the nominal one at sample ``j - delays[d]``, by the cubic through the
    four nearest samples (exact for spokes, also beyond their ends). Readouts are taken to go on beyond their
    ends as the cubic does, so delays should be a few samples at most. Differentiable in both arguments, so
    that delays can be fitted by gradient descent.

    Args:
      trajectory: (..., samples, ndim), any unit; at least two samples.
      delays: (ndim,) in samples (dwell times), in the order of the columns; positive: the gradient is late.

    Returns:
      Array of the shape and dtype of ``trajectory``.

    Raises:
      ValueError: if the shapes do not fit.
    """
    trajectory = as_inexact(trajectory)
    if trajectory.ndim < 2 or trajectory.shape[-2] < 2:
        raise ArgumentError(
            "gradient_delay: trajectory", "(..., samples, ndim) with at least two samples", trajectory.shape
        )
    delays = jnp.asarray(delays, trajectory.dtype)
    if delays.shape != trajectory.shape[-1:]:
        raise ArgumentError("gradient_delay: delays", f"shape {trajectory.shape[-1:]}", delays.shape)
    samples = trajectory.shape[-2]
    nodes = min(4, samples)
    time = jnp.arange(samples, dtype=trajectory.dtype)[:, None] - delays
    first = jnp.clip(jnp.floor(time) - (nodes // 2 - 1), 0, samples - nodes).astype(jnp.int32)
    position = time - first
    total = jnp.zeros_like(trajectory)
    for i in range(nodes):
        weight = math.prod((position - j) / (i - j) for j in range(nodes) if j != i)
        # Row first + i of each column.
        index = jnp.broadcast_to(first + i, trajectory.shape)
        total = total + weight * jnp.take_along_axis(trajectory, index, axis=-2)
    return total


def estimate_gradient_delays(
    kspace: ArrayLike, trajectory: ArrayLike, search_range: float = 2.0
) -> jax.Array:
    """Gradient delays of a radial acquisition in the plane from the intersections of its spokes.

    Delays shift spokes by amounts that depend on their directions, so that two spokes no longer meet at DC.
    Where they do meet they measure the same values: the delays are those for which the spokes, interpolated
    by their Fourier series at the intersections that the delays imply, agree best in the least-squares sense
    over coils and pairs of spokes. Phases that differ from spoke to spoke, of eddy currents or motion, bias
    it. The minimum is searched for on a grid, which is refined once to steps of 0.02 samples. Computed on the
    host in double precision, without a gradient.

    Args:
      kspace: (..., spokes, samples) complex; leading axes (slices, coils) share the delays.
      trajectory: nominal (spokes, samples, 2) in cycles/pixel, straight equidistant spokes through DC at
        index ``samples // 2``, in any order. Directions over the full circle tell delays best.
      search_range: largest magnitude of a delay that is looked for, in samples.

    Returns:
      (2,) delays in samples along (ky, kx), as :func:`gradient_delay` takes them.

    Raises:
      ValueError: if the shapes do not fit, spokes have fewer than four samples, or no two of them are
        perpendicular to within 45 degrees.
      TypeError: if an argument is traced.

    Source: after Rosenzweig et al., Magn. Reson. Med. 81:1898, 2019, which fits the intersections themselves.
    """
    where = "estimate_gradient_delays"
    if isinstance(kspace, jax.core.Tracer) or isinstance(trajectory, jax.core.Tracer):
        raise TypeError(f"{where}: kspace and trajectory: expected concrete values, found a tracer")
    trajectory = check_trajectory(jnp.asarray(trajectory), 2, name=f"{where}: trajectory")
    kspace, shape = as_inexact(kspace), trajectory.shape[:-1]
    if trajectory.ndim != 3 or shape[1] < 4 or kspace.shape[-2:] != shape:
        raise ArgumentError(
            where,
            "trajectory (spokes, samples, 2) with at least four samples and kspace (..., spokes, samples)",
            f"{trajectory.shape} and {kspace.shape}",
        )
    search_range = positive_number(search_range, f"{where}: search_range")
    k = np.asarray(trajectory, np.float64)
    direction = k[:, -1] - k[:, 0]
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    cosines = np.abs(direction @ direction.T)
    first, rank = np.nonzero(np.sort(cosines, axis=1)[:, :_PARTNERS] < math.sqrt(0.5))
    second = np.argsort(cosines, axis=1)[first, rank]
    if not first.size:
        expected = "spokes that are perpendicular to within 45 degrees"
        raise ArgumentError(f"{where}: trajectory", expected, "none")

    # Intersections of such pairs lie within 2.62 times the delays.
    count = math.ceil(2.62 * search_range / _STEP) + 1
    kspace = np.asarray(kspace).reshape(-1, *shape)
    table = np.einsum("csj,rj->src", kspace, _dirichlet(_STEP * np.arange(-count, count + 1), shape[1]))
    a, b = direction[first], direction[second]

    def mismatch(delays):
        # Offset r along spoke a is at r a - delays * a; both spokes are there for these two offsets.
        between, sine = delays * (a - b), _cross(a, b)
        at_a = _read(table, first, _cross(between, b) / (sine * _STEP) + count)
        at_b = _read(table, second, _cross(between, a) / (sine * _STEP) + count)
        return np.sum(np.abs(at_a - at_b) ** 2)

    best, reach = np.zeros(2), search_range
    for step in (_COARSE, _FINE):
        grid = np.linspace(-reach, reach, 2 * math.ceil(reach / step) + 1)
        candidates = best + np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
        candidates = candidates[np.abs(candidates).max(axis=1) <= search_range]
        best, reach = candidates[np.argmin([mismatch(delays) for delays in candidates])], step
    return jnp.asarray(best, trajectory.dtype)


# Steps of the search and of the interpolated spokes, in samples; partners per spoke.
_COARSE, _FINE, _STEP = 0.2, 0.02, 0.05
_PARTNERS = 8


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _read(table: np.ndarray, spoke: np.ndarray, position: np.ndarray) -> np.ndarray:
    below = np.floor(position).astype(int)
    fraction = (position - below)[:, None]
    return (1 - fraction) * table[spoke, below] + fraction * table[spoke, below + 1]


def _dirichlet(offsets: np.ndarray, samples: int) -> np.ndarray:
    """Interpolation of a spoke at ``samples // 2 + offsets`` by its Fourier series: (offsets, samples)."""
    waves = np.arange(samples) - samples // 2
    shift = offsets[:, None] + samples // 2 - np.arange(samples)
    return np.exp(2j * math.pi * shift[..., None] * waves / samples).mean(axis=-1)
