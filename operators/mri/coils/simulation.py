"""Simulated receive sensitivities: the birdcage model, and loops by the law of Biot and Savart.

The world is that of the phantoms: x to the right, y up, z up with the slice index, the field of view centered
on the origin, row 0 at the top. The static field is along +z and the receive sensitivity of a coil that
carries a unit current is ``Bx - i By`` (Hoult, Concepts Magn. Reson. 12:173, 2000).
"""

import math
import numbers

import jax
import jax.numpy as jnp
import numpy as np

from operators.algebra import (
    ArgumentError,
    as_inexact,
    default_dtype,
    positive_integer,
    positive_number,
    renamed,
    squared,
)

# mu_0 / (4 pi), in T m / A.
_BIOT_SAVART = 1e-7
# Distance of neighboring loops over their radius at which they share no flux (Roemer et al., 1990).
_DECOUPLED = 1.5


@renamed(shape="image_shape")
def birdcage_maps(image_shape: tuple[int, ...], coils: int, radius: float = 1.5, rings: int = 1) -> jax.Array:
    """Sensitivities of an array of wires around the field of view: ``sum |S|^2 = 1`` in every pixel.

    Element c is a point at angle ``2 pi c / (coils / rings)`` on a circle of ``radius`` around z. Before
    normalization its magnitude is one over the distance, and its phase that of ``Bx - i By`` of a straight
    wire along z, turned to zero on the axis of the circle. Rings divide the extent along z evenly, and every
    second one is turned by half the spacing of its elements. A two-dimensional grid lies at z = 0. Nearer to
    an element than half a pixel of the finest axis the field stops growing.

    Args:
      image_shape: (ny, nx) or (nz, ny, nx).
      coils: number of elements.
      radius: of the circle, in half fields of view (of each axis its own).
      rings: number of rings; it divides ``coils``.

    Returns:
      (coils, *image_shape) complex, ring by ring.

    Raises:
      ValueError, TypeError: if an argument is out of range or of the wrong kind.

    Source: the model of sigpy (Ong and Lustig, Proc. ISMRM 27:4819, 2019).
    """
    shape = _grid_shape(image_shape, "birdcage_maps: image_shape")
    radius = positive_number(radius, "birdcage_maps: radius")
    angles, ring = _array(coils, rings, "birdcage_maps")
    z, y, x = _coordinates(shape, (2.0,) * len(shape))
    column = (-1,) + (1,) * len(shape)
    turn = jnp.asarray(np.exp(-1j * angles).reshape(column), default_dtype(complex))
    height = jnp.asarray(((2 * ring + 1) / rings - 1).reshape(column), x.dtype)

    offset = radius - jax.lax.complex(*jnp.broadcast_arrays(x, y)) * turn
    thickness = 1 / max(shape)
    offset = jnp.where(squared(offset) < thickness**2, thickness, offset)
    across = squared(offset)
    maps = offset.conj() / jnp.sqrt(across * (across + (z - height) ** 2))
    return maps / jnp.sqrt(jnp.sum(squared(maps), axis=0))


@renamed(shape="image_shape")
def biot_savart_maps(
    image_shape: tuple[int, ...],
    coils: int,
    field_of_view: float | tuple[float, ...],
    radius: float,
    loop_radius: float | None = None,
    rings: int = 1,
    segments: int = 64,
) -> jax.Array:
    """Sensitivities ``Bx - i By`` of circular loops on a cylinder around z, facing its axis.

    Loop c is centered at angle ``2 pi c / (coils / rings)`` and distance ``radius`` from the axis, its normal
    pointing to the axis. Rings are centered on z = 0 and 1.5 loop radii apart, and every second one is turned
    by half the spacing of its loops. A two-dimensional grid is the slice z = 0.

    Args:
      image_shape: (ny, nx) or (nz, ny, nx).
      coils: number of loops.
      field_of_view: extent of the grid, one number or one per axis of ``image_shape``.
      radius: of the cylinder, in the same unit of length as all others.
      loop_radius: of the loops; default: that at which the neighbors of a ring are decoupled, their distance
        along the circle being 1.5 loop radii, but at most ``radius``.
      rings: number of rings; it divides ``coils``.
      segments: number of current elements per loop, see :func:`loop_field`.

    Returns:
      (coils, *image_shape) complex, ring by ring, scaled so that the root of the sum of squares is 1 at the
      origin.

    Raises:
      ValueError, TypeError: if an argument is out of range or of the wrong kind.

    Source: Roemer et al., Magn. Reson. Med. 16:192, 1990.
    """
    name = "biot_savart_maps"
    shape = _grid_shape(image_shape, f"{name}: image_shape")
    extents = (
        (field_of_view,) * len(shape)
        if isinstance(field_of_view, numbers.Real | float | int)
        else field_of_view
    )
    if len(tuple(extents)) != len(shape):
        raise ArgumentError(f"{name}: field_of_view", f"a number or one per axis of {shape}", extents)
    extents = tuple(positive_number(extent, f"{name}: field_of_view") for extent in extents)
    radius = positive_number(radius, f"{name}: radius")
    angles, ring = _array(coils, rings, name)
    if loop_radius is None:
        loop_radius = min(2 * math.pi * radius * rings / (_DECOUPLED * coils), radius)
    loop_radius = positive_number(loop_radius, f"{name}: loop_radius")

    outwards = np.stack([np.cos(angles), np.sin(angles), np.zeros(coils)], axis=1)
    centers = radius * outwards
    centers[:, 2] = (ring - (rings - 1) / 2) * _DECOUPLED * loop_radius
    z, y, x = _coordinates(shape, extents)
    points = jnp.stack(jnp.broadcast_arrays(x, y, z), axis=-1).reshape(*shape, 3)

    def receive(points, center, normal):
        field = loop_field(points, center, normal, loop_radius, segments)
        return jax.lax.complex(field[..., 0], -field[..., 1])

    loops = jnp.asarray(centers, x.dtype), jnp.asarray(-outwards, x.dtype)
    middle = jax.vmap(lambda center, normal: receive(jnp.zeros(3, x.dtype), center, normal))(*loops)
    scale = 1 / jnp.sqrt(jnp.sum(squared(middle)))
    # One loop at a time: the field of all would take three times the memory of the maps.
    return jax.lax.map(lambda loop: scale * receive(points, *loop), loops)


def loop_field(
    points: jax.Array, center: jax.Array, normal: jax.Array, radius: float | jax.Array, segments: int = 64
) -> jax.Array:
    """Magnetic field of a circular loop that carries a unit current, by the law of Biot and Savart.

    The current runs counter-clockwise seen from the tip of the normal, so that the field at the center is
    along the normal. The circle is integrated by the trapezoidal rule in its angle, whose error falls
    exponentially with the number of current elements at points farther from the wire than their spacing; on
    the axis it is exact. Within a thousandth of ``radius`` of an element its field stops growing.

    Args:
      points: (..., 3), x, y and z in meters.
      center: (3,) of the loop, in meters.
      normal: (3,), of any non-zero length.
      radius: of the loop, in meters.
      segments: number of current elements.

    Returns:
      (..., 3), Bx, By and Bz in tesla per ampere.

    Raises:
      ValueError: if an array does not have three components, or ``segments`` is not positive.
      TypeError: if ``segments`` is no integer.

    Source: Jackson, Classical Electrodynamics, 3rd edition, section 5.2.
    """
    points = as_inexact(points)
    center, normal = jnp.asarray(center, points.dtype), jnp.asarray(normal, points.dtype)
    if points.shape[-1:] != (3,):
        raise ArgumentError("loop_field: points", "shape (..., 3)", points.shape)
    if center.shape != (3,) or normal.shape != (3,):
        raise ArgumentError(
            "loop_field: center and normal", "shape (3,)", f"{center.shape} and {normal.shape}"
        )
    segments = positive_integer(segments, "loop_field: segments")
    normal = normal / jnp.linalg.norm(normal)
    first = jnp.cross(jnp.eye(3, dtype=normal.dtype)[jnp.argmin(jnp.abs(normal))], normal)
    first = radius * first / jnp.linalg.norm(first)
    second = jnp.cross(normal, first)

    def add(field, angle):
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        step = (2 * math.pi / segments) * (cos * second - sin * first)
        offset = points - (center + cos * first + sin * second)
        nearest = (1e-3 * radius) ** 2
        distance = jnp.sqrt(jnp.maximum(jnp.sum(offset**2, axis=-1, keepdims=True), nearest))
        return field + jnp.cross(step, offset) / distance**3, None

    angles = jnp.asarray(2 * np.pi * np.arange(segments) / segments, points.dtype)
    field, _ = jax.lax.scan(add, jnp.zeros_like(points), angles)
    return _BIOT_SAVART * field


def _grid_shape(shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    shape = tuple(shape)
    if len(shape) not in (2, 3):
        raise ArgumentError(name, "(ny, nx) or (nz, ny, nx)", shape)
    return tuple(positive_integer(n, name) for n in shape)


def _array(coils: int, rings: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Angle and ring index of every element."""
    coils = positive_integer(coils, f"{name}: coils")
    rings = positive_integer(rings, f"{name}: rings")
    if coils % rings:
        raise ArgumentError(f"{name}: rings", f"a divisor of coils {coils}", rings)
    ring, element = np.divmod(np.arange(coils), coils // rings)
    return 2 * np.pi * (element + 0.5 * (ring % 2)) / (coils // rings), ring


def _coordinates(shape: tuple[int, ...], extents: tuple[float, ...]) -> list[jax.Array]:
    """z, y and x of the pixel centers, broadcastable to the grid; z = 0 without an axis of slices."""
    axes = [(np.arange(n) - (n - 1) / 2) * (extent / n) for n, extent in zip(shape, extents, strict=True)]
    # Rows count downwards, y upwards.
    axes[-2] = -axes[-2]
    dtype = default_dtype(float)
    grid = [jnp.asarray(axis, dtype) for axis in np.meshgrid(*axes, indexing="ij", sparse=True)]
    return grid if len(shape) == 3 else [jnp.zeros((1, 1), dtype), *grid]
