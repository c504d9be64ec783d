"""Ellipses and ellipsoids with their exact line integrals along the rays of any geometry.

Lengths are in the geometry's unit; values are attenuation in 1/length, so that line integrals have no unit.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from operators.algebra import Leaf, assign, frozen_pytree, positive_integer, positive_number, safe_sqrt
from operators.ct import Geometry
from operators.phantoms.ellipses import Ellipses, rasterize


@frozen_pytree
class Ellipsoids:
    """A sum of uniform ellipsoids, upright or rotated about z: where they overlap, values add.

    Attributes:
      center: (n, 3), x, y and z.
      axes: (n, 3), positive semi-axes along the ellipsoid's own x and y, and z.
      angle: (n,), rotation about z in radians, counter-clockwise seen from above (x towards y).
      value: (n,), attenuation in 1/length.

    Raises:
      ValueError: if the shapes do not agree.
    """

    center: Leaf
    axes: Leaf
    angle: Leaf
    value: Leaf

    def __post_init__(self) -> None:
        n = np.shape(self.value)
        if len(n) != 1:
            raise ValueError(f"Ellipsoids: value: expected shape (n,), found {n}")
        shapes = {"center": (*n, 3), "axes": (*n, 3), "angle": n, "value": n}
        values = {name: jnp.asarray(getattr(self, name), float) for name in shapes}
        for name, shape in shapes.items():
            if values[name].shape != shape:
                raise ValueError(f"Ellipsoids: {name}: expected shape {shape}, found {values[name].shape}")
        assign(self, **values)


def line_integrals(phantom: Ellipses | Ellipsoids, points: jax.Array, directions: jax.Array) -> jax.Array:
    """Exact integrals of a phantom along lines ``points + s * directions``, s from minus to plus infinity.

    Differentiable in phantom and lines; where a line touches an ellipse its derivative is taken as zero.

    Args:
      phantom: ellipses, or ellipsoids.
      points: (..., 2) or (..., 3), as (x, y) or (x, y, z).
      directions: of the same shape, of any length but zero.

    Returns:
      (...) value times length.

    Raises:
      ValueError: if the lines have not the phantom's dimensions.
    """
    points, directions = jnp.asarray(points), jnp.asarray(directions)
    ndim = phantom.center.shape[-1]
    for name, array in (("points", points), ("directions", directions)):
        if not array.ndim or array.shape[-1] != ndim:
            raise ValueError(f"line_integrals: {name}: expected shape (..., {ndim}), found {array.shape}")
    shape = jnp.broadcast_shapes(points.shape, directions.shape)[:-1]
    dtype = jnp.result_type(points, directions, phantom.value)
    lengths = jnp.sqrt(jnp.sum(directions * directions, axis=-1))

    def add(total, part):
        # In the frame where the ellipse is the unit ball, the chord at distance h has length 2 sqrt(1 - h^2).
        p, d = _unit_frame(points - part.center, part), _unit_frame(directions, part)
        norm = jnp.sum(d * d, axis=-1)
        moment = _cross_squared(p, d)
        chord = safe_sqrt(jnp.maximum(1 - moment / norm, 0)) / jnp.sqrt(norm)
        return total + 2 * part.value * lengths * chord, None

    return jax.lax.scan(add, jnp.zeros(shape, dtype), phantom)[0]


def project_phantom(phantom: Ellipses | Ellipsoids, geometry: Geometry, bins: int = 1) -> jax.Array:
    """The exact sinogram of a phantom, or its mean over each detector element.

    Args:
      phantom: ellipses for a geometry in two dimensions, ellipsoids in three.
      geometry: any geometry.
      bins: Gauss-Legendre points across each element, along each axis of the detector; 1 is its center.

    Returns:
      ``geometry.shape`` floats: attenuation times length.

    Raises:
      ValueError, TypeError: if the dimensions do not fit or ``bins`` is no positive integer.
    """
    bins = positive_integer(bins, "project_phantom: bins")
    ndim = phantom.center.shape[-1]
    if ndim != geometry.ndim:
        raise ValueError(
            f"project_phantom: geometry: expected the phantom's {ndim} dimensions, found {geometry.ndim}"
        )
    nodes, weights = np.polynomial.legendre.leggauss(bins)
    grids = np.meshgrid(*[nodes / 2] * (ndim - 1), indexing="ij")
    shifts = np.stack([grid.ravel() for grid in grids], axis=-1)
    shares = np.prod(np.meshgrid(*[weights / 2] * (ndim - 1), indexing="ij"), axis=0).ravel()
    counts = geometry.shape[1:]

    def add(total, node):
        shift, share = node
        indices = [jnp.arange(n, dtype=geometry.dtype) + shift[axis] for axis, n in enumerate(counts)]
        return total + share * line_integrals(phantom, *geometry.rays(*indices)), None

    dtype = jnp.result_type(geometry.dtype, phantom.value)
    data = jnp.asarray(shifts, geometry.dtype), jnp.asarray(shares, dtype)
    return jax.lax.scan(add, jnp.zeros(geometry.shape, dtype), data)[0]


def rasterize_phantom(
    phantom: Ellipses | Ellipsoids,
    image_shape: tuple[int, ...],
    pixel_size: float = 1.0,
    supersampling: int = 4,
) -> jax.Array:
    """The image of a phantom as the projectors see images: the mean over each pixel.

    Pixel (i, c) is at ``x = (c - (nx - 1) / 2) * pixel_size``, ``y = ((ny - 1) / 2 - i) * pixel_size``, and
    slice k at ``z = (k - (nz - 1) / 2) * pixel_size``.

    Args:
      phantom: ellipses, or ellipsoids.
      image_shape: (ny, nx), or (nz, ny, nx).
      pixel_size: width of the pixels.
      supersampling: points per pixel along each axis.

    Returns:
      ``image_shape`` floats, in 1/length.

    Raises:
      ValueError, TypeError: if a shape, size or number is out of range.
    """
    shape, ndim = tuple(image_shape), phantom.center.shape[-1]
    if len(shape) != ndim:
        raise ValueError(f"rasterize_phantom: image_shape: expected {ndim} axes, found {shape}")
    size = positive_number(pixel_size, "rasterize_phantom: pixel_size")
    if isinstance(phantom, Ellipses):
        height, width = shape
        return rasterize(phantom, (height, width), (height * size, width * size), supersampling)
    nz, ny, nx = (positive_integer(n, "rasterize_phantom: image_shape") for n in shape)
    fine = positive_integer(supersampling, "rasterize_phantom: supersampling")
    dtype = phantom.value.dtype
    z, y, x = (
        jnp.asarray((np.arange(n * fine) - (n * fine - 1) / 2) * (size / fine), dtype) for n in (nz, ny, nx)
    )
    y = -y[:, None]

    def add(image, part):
        dx, dy = x - part.center[0], y - part.center[1]
        cos, sin = jnp.cos(part.angle), jnp.sin(part.angle)
        flat = ((cos * dx + sin * dy) / part.axes[0]) ** 2 + ((cos * dy - sin * dx) / part.axes[1]) ** 2

        def slab(height):
            inside = flat + (((height - part.center[2]) / part.axes[2]) ** 2)[:, None, None] <= 1
            inside = inside.reshape(fine, ny, fine, nx, fine)
            return jnp.mean(inside, axis=(0, 2, 4), dtype=dtype)

        return image + part.value * jax.lax.map(slab, z.reshape(nz, fine)), None

    return jax.lax.scan(add, jnp.zeros((nz, ny, nx), dtype), phantom)[0]


# Modified and original value, semi-axes, center and degrees of the ten ellipsoids.
_SHEPP_LOGAN_3D = (
    (1.0, 2.0, 0.69, 0.92, 0.9, 0.0, 0.0, 0.0, 0.0),
    (-0.8, -0.98, 0.6624, 0.874, 0.88, 0.0, 0.0, 0.0, 0.0),
    (-0.2, -0.02, 0.41, 0.16, 0.21, -0.22, 0.0, -0.25, 108.0),
    (-0.2, -0.02, 0.31, 0.11, 0.22, 0.22, 0.0, -0.25, 72.0),
    (0.2, 0.02, 0.21, 0.25, 0.5, 0.0, 0.35, -0.25, 0.0),
    (0.2, 0.02, 0.046, 0.046, 0.046, 0.0, 0.1, -0.25, 0.0),
    (0.1, 0.01, 0.046, 0.023, 0.02, -0.08, -0.65, -0.25, 0.0),
    (0.1, 0.01, 0.046, 0.023, 0.02, 0.06, -0.65, -0.25, 90.0),
    (0.2, 0.02, 0.056, 0.04, 0.1, 0.06, -0.105, 0.625, 90.0),
    (0.2, -0.02, 0.056, 0.056, 0.1, 0.0, 0.1, 0.625, 0.0),
)


def shepp_logan_3d(modified: bool = True) -> Ellipsoids:
    """The head phantom of Shepp and Logan in three dimensions, in the cube [-1, 1]^3.

    Args:
      modified: the higher-contrast values of Yu, Ye and Wang instead of those of Kak and Slaney.

    Returns:
      Ten ellipsoids.

    Source: Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988, table 3.2; Yu, Ye and Wang,
    Inverse Problems 22:1007, 2006.
    """
    table = np.array(_SHEPP_LOGAN_3D)
    return Ellipsoids(
        center=table[:, 5:8],
        axes=table[:, 2:5],
        angle=np.deg2rad(table[:, 8]),
        value=table[:, 0 if modified else 1],
    )


# Value relative to water, semi-axes, center (cm) and degrees.
_HEAD = (
    (1.8, 9.6, 12.0, 0.0, 0.0, 0.0),
    (-0.75, 9.0, 11.4, 0.0, 0.0, 0.0),
    (0.01, 1.8, 1.8, -4.7, 4.3, 0.0),
    (0.01, 1.8, 1.8, 4.7, 4.3, 0.0),
    (0.0025, 0.4, 0.4, -1.08, -9.0, 0.0),
    (-0.0025, 0.4, 0.4, 1.08, -9.0, 0.0),
    (-1.05, 1.8, 1.2, 0.0, 9.3, 0.0),
    (0.75, 0.42, 1.17, 1.9, 5.4, -31.0),
    (0.75, 0.42, 1.17, -1.9, 5.4, 31.0),
    (0.75, 1.8, 0.24, -4.3, 6.8, -30.0),
    (0.75, 1.8, 0.24, 4.3, 6.8, 30.0),
    (-0.005, 1.8, 3.6, 0.0, -3.6, 0.0),
    (0.005, 1.2, 0.42, 6.39, -6.39, 58.1),
)


def forbild_like_head(water: float = 0.2) -> Ellipses:
    """A head with bone, air and low-contrast detail after the FORBILD head, made of whole ellipses only.

    In cm, 19.2 wide and 24 high, around the origin. The ear, the parts that the definition clips with planes
    and the resolution patterns are left out, so its values do not compare with published ones.

    Args:
      water: attenuation of water in 1/cm; values are multiples of it (bone 1.8, brain 1.05).

    Returns:
      Thirteen ellipses.

    Source: after Yu, Noo, Dennerlein, Wunderlich, Lauritsch and Hornegger, Phys. Med. Biol. 57:N237, 2012.
    """
    table = np.array(_HEAD)
    return Ellipses(
        center=table[:, 3:5],
        axes=table[:, 1:3],
        angle=np.deg2rad(table[:, 5]),
        value=positive_number(water, "forbild_like_head: water") * table[:, 0],
    )


def random_ellipses(key: jax.Array, count: int, radius: float = 1.0, attenuation: float = 1.0) -> Ellipses:
    """Random ellipses to train reconstruction networks on, as many as ``count``, which is static.

    In a field of half-width ``radius``: centers uniform over its inner half along each axis, semi-axes
    exponential with mean 0.2 radius, rotations uniform, values (U - 0.3) E with U uniform on [0, 1] and E
    exponential with mean 0.3, times ``attenuation``. Adler and Oktem draw the count from Poisson(100).

    Args:
      key: a key.
      count: number of ellipses.
      radius: half-width of the field of view.
      attenuation: scale of the values, in 1/length.

    Returns:
      ``count`` ellipses.

    Raises:
      ValueError, TypeError: if the count is no positive integer.

    Source: Adler and Oktem, Inverse Problems 33:124007, 2017; IEEE Trans. Med. Imaging 37:1322, 2018.
    """
    count = positive_integer(count, "random_ellipses: count")
    centers, sizes, turns, signs, sizes_of_values = jax.random.split(key, 5)
    smallest = 1e-3  # Keeps 1 / axis^2 finite in single precision.
    axes = jnp.maximum(0.2 * jax.random.exponential(sizes, (count, 2)), smallest)
    magnitude = 0.3 * jax.random.exponential(sizes_of_values, (count,))
    return Ellipses(
        center=radius * jax.random.uniform(centers, (count, 2), minval=-0.5, maxval=0.5),
        axes=radius * axes,
        angle=jax.random.uniform(turns, (count,), maxval=2 * math.pi),
        value=attenuation * (jax.random.uniform(signs, (count,)) - 0.3) * magnitude,
    )


def _unit_frame(vectors: jax.Array, part: Any) -> jax.Array:
    cos, sin = jnp.cos(part.angle), jnp.sin(part.angle)
    x, y, *z = jnp.moveaxis(vectors, -1, 0)
    own = [cos * x + sin * y, cos * y - sin * x, *z]
    return jnp.stack([component / axis for component, axis in zip(own, part.axes, strict=True)], axis=-1)


def _cross_squared(a: jax.Array, b: jax.Array) -> jax.Array:
    if a.shape[-1] == 2:
        return (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]) ** 2
    return jnp.sum(jnp.cross(a, b) ** 2, axis=-1)
