"""Phantoms made of ellipsoids, and phantoms of ellipses for tomography.

Lengths are in the geometry's unit; values are attenuation in 1/length, so that line integrals have no unit.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from operators.algebra import ArgumentError, Leaf, assign, frozen_pytree, positive_integer, positive_number
from operators.ct import Geometry
from operators.phantoms.ellipses import Ellipses
from operators.phantoms.parts import parts_kspace, project_parts


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
            raise ArgumentError("Ellipsoids: value", "shape (n,)", n)
        shapes = {"center": (*n, 3), "axes": (*n, 3), "angle": n, "value": n}
        values = {name: jnp.asarray(getattr(self, name), float) for name in shapes}
        for name, shape in shapes.items():
            if values[name].shape != shape:
                raise ArgumentError(f"Ellipsoids: {name}", f"shape {shape}", values[name].shape)
        assign(self, **values)

    @property
    def ndim(self) -> int:
        """3."""
        return 3

    def rasterize(
        self, image_shape: tuple[int, ...], pixel_size: float = 1.0, supersampling: int = 4
    ) -> jax.Array:
        """The image, see :func:`operators.phantoms.rasterize_phantom`."""
        shape = tuple(image_shape)
        if len(shape) != 3:
            raise ArgumentError("rasterize_phantom: image_shape", "3 axes", shape)
        size = positive_number(pixel_size, "rasterize_phantom: pixel_size")
        return _rasterize_volume(self, shape, size, supersampling)

    def project(self, geometry: Geometry, bins: int = 1) -> jax.Array:
        """The exact sinogram, see :func:`operators.phantoms.project_phantom`."""
        return project_parts(self, geometry, bins)

    def kspace(self, frequencies: jax.Array) -> jax.Array:
        """The exact Fourier transform at any frequencies, see :class:`operators.phantoms.Phantom`."""
        return parts_kspace(self, frequencies)


def _rasterize_volume(
    phantom: Ellipsoids, shape: tuple[int, ...], size: float, supersampling: int
) -> jax.Array:
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
