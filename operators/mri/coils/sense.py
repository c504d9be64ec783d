"""Receive coils: the SENSE operator and coil combination."""

import jax
import jax.numpy as jnp

from operators.algebra import (
    ArgumentError,
    Leaf,
    LinearOperator,
    as_inexact,
    assign,
    frozen_pytree,
    is_complex,
    safe_sqrt,
    squared,
)


@frozen_pytree
class SENSE(LinearOperator):
    """Multi-coil measurement: image (..., *image_shape) -> (..., coils, *fourier.out_shape).

    ``A(x)[c] = fourier(coil_maps[c] * x)`` (Pruessmann et al., Magn. Reson. Med. 42:952, 1999).

    Attributes:
      fourier: a Fourier operator of complex images.
      coil_maps: sensitivities (coils, *fourier.in_shape); coils of zeros (padding) measure zero.

    Raises:
      ValueError: if ``coil_maps`` is not (coils, *fourier.in_shape) with at least one coil.
      TypeError: if ``fourier`` is no operator of complex images.

    Example:
      >>> A = operators.SENSE(operators.CartesianFourier((2, 2)), jnp.ones((3, 2, 2)))
      >>> A.in_shape, A.out_shape
      ((2, 2), (3, 2, 2))
    """

    fourier: LinearOperator
    coil_maps: Leaf

    def __post_init__(self) -> None:
        if not isinstance(self.fourier, LinearOperator):
            raise TypeError(f"SENSE: fourier: expected a LinearOperator, found {type(self.fourier).__name__}")
        if not is_complex(self.fourier.in_dtype):
            raise TypeError(
                f"SENSE: fourier: expected an operator on complex images, found {self.fourier.in_dtype}"
            )
        maps, shape = as_inexact(self.coil_maps), self.fourier.in_shape
        if maps.ndim != 1 + len(shape) or maps.shape[1:] != shape or maps.shape[0] < 1:
            expected = ("coils", *shape)
            raise ArgumentError("SENSE: coil_maps", f"shape {expected}", maps.shape)
        assign(self, coil_maps=maps)

    # Counted from the end, so that they hold for stacked operators too.
    in_shape = property(lambda self: self.fourier.in_shape)
    out_shape = property(lambda self: (self.coils, *self.fourier.out_shape))
    in_dtype = property(lambda self: jnp.promote_types(self.fourier.in_dtype, self.coil_maps.dtype))
    out_dtype = property(lambda self: jnp.promote_types(self.fourier.out_dtype, self.coil_maps.dtype))

    @property
    def coils(self) -> int:
        """Number of coils, padding included."""
        return self.coil_maps.shape[-1 - len(self.in_shape)]

    def _forward(self, x):
        return self.fourier._forward_maps(x, self.coil_maps)

    def _adjoint(self, y):
        return self.fourier._adjoint_maps(y, self.coil_maps)

    def _gram(self, x, weights):
        return self.fourier._gram_maps(x, self.coil_maps, weights)


def rss(images: jax.Array, axis: int = -3) -> jax.Array:
    """Root of the sum of squares over the coil axis (Roemer et al., Magn. Reson. Med. 16:192, 1990).

    Its gradient is zero, not NaN, where all coils are zero.

    Args:
      images: complex or real; by default (..., coils, ny, nx).
      axis: the coil axis.

    Returns:
      Real array without that axis.

    Example:
      >>> operators.rss(jnp.array([[[3.0]], [[4.0]]])).tolist()
      [[5.0]]
    """
    return safe_sqrt(jnp.sum(squared(jnp.asarray(images)), axis=axis))


def coil_combine(images: jax.Array, maps: jax.Array) -> jax.Array:
    """``sum_c conj(maps_c) images_c``: the least-squares combination when ``sum |maps|^2 = 1``.

    Args:
      images: (..., coils, ny, nx) complex.
      maps: sensitivities, broadcastable to ``images``.

    Returns:
      (..., ny, nx) complex.

    Raises:
      ValueError: if the numbers of coils or the image shapes differ.
    """
    images, maps = jnp.asarray(images), jnp.asarray(maps)
    if images.shape[-3:] != maps.shape[-3:]:
        raise ArgumentError(
            "coil_combine: images and maps",
            "the same (coils, ny, nx)",
            f"{images.shape[-3:]} and {maps.shape[-3:]}",
        )
    return jnp.sum(maps.conj() * images, axis=-3)
