"""K-space trajectories of MRI: Cartesian, echo-planar, radial, PROPELLER, rosette and stacks of them.

Every trajectory is (readouts, samples, ndim) in cycles/pixel, of the default float, columns in the order of
the image axes: (ky, kx) or (kz, ky, kx); ``trajectory.reshape(-1, ndim)`` lists its samples in the order in
which they are acquired. Coordinates are in [-1/2, 1/2], computed in double precision; +1/2 itself occurs
where the first sample of a readout, at -1/2, is turned by half a circle.

Readouts that run through DC sample it exactly, at index ``samples // 2``, with the spacing ``1 / samples``:
``samples`` twice the matrix is a twofold oversampled readout.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from operators.algebra import ArgumentError, finite_number, image_shape_2d, positive_integer
from operators.fourier import check_trajectory

_GOLDEN_RATIO = (1 + math.sqrt(5)) / 2
# The real root v of v^3 + v = 1: the two golden means in two dimensions are v^2 and v.
_GOLDEN_MEAN = 0.6823278038280193
_ORDERS = ("linear", "golden", "tiny-golden")


def cartesian_trajectory(image_shape: tuple[int, ...]) -> jax.Array:
    """The grid of the centered discrete Fourier transform, row by row.

    Index j of an axis of N samples is at ``(j - N // 2) / N``, so a non-uniform transform at these positions
    is :func:`operators.fft2c`, in the same order.

    Args:
      image_shape: (ny, nx) or (nz, ny, nx).

    Returns:
      (ny, nx, 2) or (nz * ny, nx, 3).

    Raises:
      ValueError, TypeError: if ``image_shape`` is not two or three positive integers.
    """
    shape = tuple(positive_integer(n, "cartesian_trajectory: image_shape") for n in image_shape)
    if len(shape) not in (2, 3):
        raise ArgumentError("cartesian_trajectory: image_shape", "2 or 3 axes", shape)
    grid = np.stack(np.meshgrid(*(_readout(n) for n in shape), indexing="ij"), axis=-1)
    return jnp.asarray(grid.reshape(-1, shape[-1], len(shape)), float)


def epi_trajectory(
    image_shape: tuple[int, int], *, shots: int = 1, samples: int | None = None, ramp_fraction: float = 0.0
) -> jax.Array:
    """Echo-planar imaging: lines along kx, alternately forwards and backwards, ky rising from line to line.

    Shot s acquires the lines ``s, s + shots, ...`` of the ``ny`` lines of the Cartesian grid. Only readouts
    are listed, not the blips between them. Backward lines sample the positions of forward ones in reverse.

    Samples are equidistant in time. Of the time of a line the fraction ``ramp_fraction`` is spent on the two
    linear ramps of the readout gradient, whose plateau is then 1 / (1 - ramp_fraction / 2) times that of a
    readout without ramps; ``samples`` larger than nx by this factor keeps the plateau at Nyquist spacing.

    Args:
      image_shape: (ny, nx).
      shots: number of interleaves, a divisor of ny.
      samples: per line; default nx.
      ramp_fraction: in [0, 1]; 0 gives the Cartesian grid.

    Returns:
      (shots, ny // shots * samples, 2).

    Raises:
      ValueError, TypeError: if an argument is out of range or ``shots`` does not divide ny.

    Source: Mansfield, J. Phys. C 10:L55, 1977; Bruder et al., Magn. Reson. Med. 23:311, 1992.
    """
    ny, nx = image_shape_2d(image_shape, "epi_trajectory: image_shape")
    shots = positive_integer(shots, "epi_trajectory: shots")
    samples = nx if samples is None else positive_integer(samples, "epi_trajectory: samples")
    ramp = finite_number(ramp_fraction, "epi_trajectory: ramp_fraction")
    if ny % shots:
        raise ArgumentError("epi_trajectory: shots", f"a divisor of the {ny} lines", shots)
    if not 0 <= ramp <= 1:
        raise ArgumentError("epi_trajectory: ramp_fraction", "a number in [0, 1]", ramp_fraction)
    time = np.abs(_readout(samples))
    # The integral of the trapezoid, from the middle of the plateau and from the end of the ramp.
    plateau = 1 / (1 - ramp / 2)
    on_ramp = time > (1 - ramp) / 2
    kx = plateau * time
    kx[on_ramp] = 0.5 - plateau * (0.5 - time[on_ramp]) ** 2 / ramp
    kx *= np.sign(_readout(samples))
    lines = np.empty((ny // shots, samples, 2))
    lines[::2, :, 1], lines[1::2, :, 1] = kx, kx[::-1]
    trajectory = np.broadcast_to(lines, (shots, *lines.shape)).copy()
    trajectory[..., 0] = _readout(ny).reshape(-1, shots).T[..., None]
    return jnp.asarray(trajectory.reshape(shots, -1, 2), float)


def radial_angles(
    spokes: int, order: str = "linear", *, full_circle: bool = False, tiny_index: int = 7
) -> np.ndarray:
    """Angles of radial spokes over a range R of pi (half a circle) or 2 pi (full circle).

    "linear" divides the range evenly: ``R i / spokes``. "golden" steps by ``R / phi``, phi the golden ratio:
    111.25 degrees on the half circle. "tiny-golden" steps by ``R / (phi + tiny_index - 1)``, 23.63 degrees
    for index 7 on the half circle: almost as uniform, with small steps; index 1 is the golden angle.

    Args:
      spokes: number of angles.
      order: "linear", "golden" or "tiny-golden".
      full_circle: a range of 2 pi, for spokes that start at DC, or opposed ones.
      tiny_index: index of the tiny golden angle; other orders do not read it.

    Returns:
      (spokes,) float64 in [0, R), radians from the kx axis towards ky, in the order of acquisition.

    Raises:
      ValueError, TypeError: if an argument is out of range.

    Source: Winkelmann et al., IEEE Trans. Med. Imaging 26:68, 2007; Wundrak et al., Magn. Reson. Med.
    75:2372, 2016.
    """
    spokes = positive_integer(spokes, "radial_angles: spokes")
    tiny_index = positive_integer(tiny_index, "radial_angles: tiny_index")
    if order not in _ORDERS:
        raise ArgumentError("radial_angles: order", f"one of {_ORDERS}", repr(order))
    if order == "linear":
        turns = np.arange(spokes) / spokes
    else:
        turns = np.arange(spokes) / (_GOLDEN_RATIO + (tiny_index - 1 if order == "tiny-golden" else 0)) % 1
    return (2 if full_circle else 1) * math.pi * turns


def radial_trajectory(
    spokes: int,
    samples: int,
    order: str = "linear",
    *,
    full_circle: bool = False,
    center_out: bool = False,
    tiny_index: int = 7,
) -> jax.Array:
    """Radial spokes in the plane, at the angles of :func:`radial_angles`.

    Spokes run through DC, sample j at the radius ``(j - samples // 2) / samples``; or from DC outwards
    (``center_out``), sample j at ``j / (2 samples)``. At angle t the spoke points to ``(ky, kx) = (sin t, cos
    t)``. A fully sampled image of N pixels needs about pi / 2 N spokes through DC.

    Args:
      spokes: number of spokes.
      samples: number of samples per spoke.
      order, full_circle, tiny_index: as in :func:`radial_angles`; spokes from DC outwards usually want the
        full circle.
      center_out: spokes start at DC.

    Returns:
      (spokes, samples, 2).

    Raises:
      ValueError, TypeError: if an argument is out of range.

    Example:
      >>> print(np.asarray(operators.radial_trajectory(2, 4)[1]).round(2) + 0.0)
      [[-0.5   0.  ]
       [-0.25  0.  ]
       [ 0.    0.  ]
       [ 0.25  0.  ]]
    """
    angles = radial_angles(spokes, order, full_circle=full_circle, tiny_index=tiny_index)
    directions = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
    return _spokes(directions, samples, center_out, "radial_trajectory: samples")


def kooshball_trajectory(spokes: int, samples: int, *, center_out: bool = False) -> jax.Array:
    """Radial spokes in space along the golden means: any number of consecutive ones covers the sphere.

    Spoke m points to ``kz = {m v^2}`` (of the unit vector) at the azimuth ``2 pi m v`` from kx towards ky,
    v = 0.6823 and v^2 = 0.4656 the golden means in two dimensions and {} the fractional part. Spokes from DC
    outwards cover the whole sphere, ``kz = 2 {m v^2} - 1``. Directions are uniform on the sphere.

    Args:
      spokes: number of spokes.
      samples: per spoke, placed as in :func:`radial_trajectory`.
      center_out: spokes start at DC.

    Returns:
      (spokes, samples, 3).

    Raises:
      ValueError, TypeError: if an argument is out of range.

    Source: Chan et al., Magn. Reson. Med. 61:354, 2009.
    """
    index = np.arange(positive_integer(spokes, "kooshball_trajectory: spokes"))
    z = index * _GOLDEN_MEAN**2 % 1
    z = 2 * z - 1 if center_out else z
    azimuth = 2 * math.pi * (index * _GOLDEN_MEAN % 1)
    directions = _unit_vectors(z, np.sqrt(1 - z**2), azimuth)
    return _spokes(directions, samples, center_out, "kooshball_trajectory: samples")


def phyllotaxis_trajectory(interleaves: int, spokes: int, samples: int) -> jax.Array:
    """Radial spokes in space on an interleaved spiral phyllotaxis, as in self-navigated cardiac imaging.

    Of the ``N = interleaves * spokes`` spokes through DC, number n = 1 ... N has the polar angle
    ``pi / 2 sqrt(n / N)`` and the azimuth ``n`` times the golden angle of 137.51 degrees; interleave m
    acquires m, m + interleaves, ... A Fibonacci number of interleaves keeps the steps within each small, and
    with them eddy currents. Directions are denser at the equator than at the pole, by pi / 2: at the polar
    angle t by t / sin t.

    Args:
      interleaves: number of interleaves.
      spokes: number of spokes of each.
      samples: per spoke, placed as in :func:`radial_trajectory`.

    Returns:
      (interleaves * spokes, samples, 3), one interleave after the other.

    Raises:
      ValueError, TypeError: if an argument is out of range.

    Source: Piccini et al., Magn. Reson. Med. 66:1049, 2011.
    """
    interleaves = positive_integer(interleaves, "phyllotaxis_trajectory: interleaves")
    spokes = positive_integer(spokes, "phyllotaxis_trajectory: spokes")
    number = 1 + np.arange(interleaves * spokes).reshape(spokes, interleaves).T.ravel()
    polar = math.pi / 2 * np.sqrt(number / number.size)
    azimuth = 2 * math.pi * (number / _GOLDEN_RATIO**2 % 1)
    directions = _unit_vectors(np.cos(polar), np.sin(polar), azimuth)
    return _spokes(directions, samples, False, "phyllotaxis_trajectory: samples")


def propeller_trajectory(blades: int, lines: int, samples: int, *, matrix: int | None = None) -> jax.Array:
    """PROPELLER: a strip of parallel lines through DC, rotated blade by blade over half a circle.

    Line l of a blade is ``(l - lines // 2) / matrix`` off DC, and blade b is turned by ``pi b / blades``
    from kx towards ky. Corners of blades lie beyond the unit cell of the pixels, by about
    ``(lines / matrix)^2 / 4``. All of the disc is covered if ``blades * lines >= pi / 2 matrix``.

    Args:
      blades: number of blades.
      lines: per blade.
      samples: per line.
      matrix: pixels along one axis of the image; default ``samples``, a readout without oversampling.

    Returns:
      (blades * lines, samples, 2), one blade after the other.

    Raises:
      ValueError, TypeError: if an argument is out of range or ``lines`` exceeds ``matrix``.

    Source: Pipe, Magn. Reson. Med. 42:963, 1999.
    """
    blades = positive_integer(blades, "propeller_trajectory: blades")
    lines = positive_integer(lines, "propeller_trajectory: lines")
    samples = positive_integer(samples, "propeller_trajectory: samples")
    matrix = samples if matrix is None else positive_integer(matrix, "propeller_trajectory: matrix")
    if lines > matrix:
        raise ArgumentError("propeller_trajectory: lines", f"at most the matrix {matrix}", lines)
    along, across = _readout(samples), (np.arange(lines) - lines // 2)[:, None] / matrix
    turn = np.exp(1j * math.pi * np.arange(blades) / blades)[:, None, None]
    return _from_complex((along + 1j * across) * turn, (blades * lines, samples))


def rosette_trajectory(interleaves: int, samples: int, *, oscillations: float, rotations: float) -> jax.Array:
    """Rosettes: ``kx + i ky = 1/2 sin(2 pi a t) exp(2 pi i (b t + m / interleaves))``, t = j / samples.

    Args:
      interleaves: number of rotated copies, m = 0 ... interleaves - 1.
      samples: per interleave.
      oscillations: a, periods of the oscillation through DC during a readout.
      rotations: b, turns of its direction during a readout.

    Returns:
      (interleaves, samples, 2).

    Raises:
      ValueError, TypeError: if a count is not positive or a number not finite.

    Source: Noll, IEEE Trans. Med. Imaging 16:372, 1997.
    """
    interleaves = positive_integer(interleaves, "rosette_trajectory: interleaves")
    samples = positive_integer(samples, "rosette_trajectory: samples")
    a = finite_number(oscillations, "rosette_trajectory: oscillations")
    b = finite_number(rotations, "rosette_trajectory: rotations")
    t = np.arange(samples) / samples
    petals = 0.5 * np.sin(2 * math.pi * a * t) * np.exp(2j * math.pi * b * t)
    turn = np.exp(2j * math.pi * np.arange(interleaves) / interleaves)[:, None]
    return _from_complex(petals * turn, (interleaves, samples))


def stack_trajectory(trajectory: jax.Array, partitions: int) -> jax.Array:
    """Repeats a trajectory of the plane in every partition: ``kz = (p - partitions // 2) / partitions``.

    Args:
      trajectory: (readouts, samples, 2) in cycles/pixel.
      partitions: number of partitions nz.

    Returns:
      (partitions * readouts, samples, 3), one partition after the other.

    Raises:
      ValueError, TypeError: if ``trajectory`` has another shape or unit, or ``partitions`` is not positive.
    """
    partitions = positive_integer(partitions, "stack_trajectory: partitions")
    plane = check_trajectory(trajectory, 2, name="stack_trajectory: trajectory")
    if plane.ndim != 3:
        raise ArgumentError("stack_trajectory: trajectory", "shape (readouts, samples, 2)", plane.shape)
    kz = jnp.asarray(_readout(partitions), plane.dtype)[:, None, None, None]
    shape = (partitions, *plane.shape[:2])
    stacked = jnp.concatenate(
        [jnp.broadcast_to(kz, (*shape, 1)), jnp.broadcast_to(plane, (*shape, 2))], axis=-1
    )
    return stacked.reshape(-1, plane.shape[1], 3)


def stack_of_stars(
    partitions: int, spokes: int, samples: int, order: str = "linear", **options: Any
) -> jax.Array:
    """:func:`radial_trajectory` in every partition: (partitions * spokes, samples, 3).

    Args:
      partitions: number of partitions nz.
      spokes, samples, order, **options: of :func:`radial_trajectory`.

    Raises:
      ValueError, TypeError: if an argument is out of range.
    """
    return stack_trajectory(radial_trajectory(spokes, samples, order, **options), partitions)


def _readout(samples: int) -> np.ndarray:
    return (np.arange(samples) - samples // 2) / samples


def _spokes(directions: np.ndarray, samples: int, center_out: bool, name: str) -> jax.Array:
    samples = positive_integer(samples, name)
    radius = np.arange(samples) / (2 * samples) if center_out else _readout(samples)
    return jnp.asarray(directions[:, None, :] * radius[:, None], float)


def _unit_vectors(z: np.ndarray, in_plane: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
    return np.stack([z, in_plane * np.sin(azimuth), in_plane * np.cos(azimuth)], axis=-1)


def _from_complex(k: np.ndarray, shape: tuple[int, int]) -> jax.Array:
    return jnp.asarray(np.stack([k.imag, k.real], axis=-1).reshape(*shape, 2), float)
