"""Filtered sinograms, and the Radon transform preconditioned by a ramp filter."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from operators.algebra import (
    ArgumentError,
    LinearOperator,
    as_inexact,
    assign,
    check_array,
    frozen_pytree,
    is_complex,
    positive_number,
    static,
)
from operators.ct.geometry.parallel import ParallelBeam
from operators.ct.inversion.ramp_filters import check_filter, filter_rows, padded_length, ramp_response
from operators.ct.projection.radon import Radon


@frozen_pytree
class SinogramFilter(LinearOperator):
    """A ramp filter, or a power of it, on each view: (..., views, detectors) to the same; self-adjoint.

    Rows are zero-padded so that nothing wraps around, filtered by ``response ** power`` (see
    :func:`ramp_response`) and cropped, then multiplied by ``weights ** power``. Power 1 maps line integrals
    to filtered ones in 1/length. Cropping loses the tails of the kernel, so the square of power 1/2 is close
    to power 1 but not equal to it; :func:`filtered_radon` keeps them.

    Attributes:
      geometry: gives the shape and the spacing; its angles are not used.
      power: exponent of the filter and of the weights, positive.
      filter: "ram-lak", "shepp-logan", "cosine", "hamming" or "hann".
      weights: non-negative weights of the views, (views,), or None for ones.
      cutoff: fraction of the Nyquist frequency, in (0, 1], to which the window is stretched; zero beyond.

    Raises:
      ValueError: if the filter is unknown, the cutoff out of range, ``power`` not positive or ``weights`` not
        (views,).
      TypeError: if ``weights`` is complex.
    """

    geometry: ParallelBeam
    power: float = static(default=1.0)
    filter: str = static(default="ram-lak")
    weights: jax.Array | None = None
    cutoff: float = static(default=1.0)

    def __post_init__(self) -> None:
        assign(
            self,
            cutoff=check_filter(self.filter, self.cutoff, "SinogramFilter")[1],
            power=positive_number(self.power, "SinogramFilter: power"),
            weights=view_weights(self.weights, self.geometry, "SinogramFilter: weights"),
        )

    in_shape = out_shape = property(lambda self: self.geometry.shape)
    in_dtype = out_dtype = property(lambda self: self.geometry.angles.dtype)

    def _forward(self, x):
        count = self.geometry.detector_count
        length = padded_length(count)
        ramp = ramp_response(length, self.geometry.detector_spacing, self.filter, self.cutoff)
        response = ramp**self.power
        y = filter_rows(x, response, length, count)
        if self.weights is None:
            return y
        positive = self.weights > 0
        factors = jnp.where(positive, jnp.where(positive, self.weights, 1) ** self.power, 0)
        return factors[:, None].astype(y.dtype) * y

    _adjoint = _forward


def view_weights(weights: ArrayLike | None, geometry: ParallelBeam, name: str) -> jax.Array | None:
    """Checks that ``weights`` is None or a real array (views,), and returns it as floats."""
    if weights is None:
        return None
    weights = as_inexact(weights)
    if is_complex(weights.dtype):
        raise TypeError(f"{name}: expected a real dtype, found {weights.dtype}")
    if weights.shape != (geometry.views,):
        raise ArgumentError(name, f"shape ({geometry.views},)", weights.shape)
    return weights


@frozen_pytree
class FilteredRadon(LinearOperator):
    """The operator that :func:`filtered_radon` returns.

    Attributes:
      radon: the Radon transform.
      view_mask: (views,) floats, 1 for real views and 0 for padding, or None.
    """

    radon: Radon
    view_mask: jax.Array | None = None

    in_shape = property(lambda self: self.radon.in_shape)
    out_shape = property(lambda self: (self.radon.geometry.views, self._length))
    in_dtype = property(lambda self: self.radon.in_dtype)
    out_dtype = property(lambda self: self.radon.out_dtype)

    @property
    def _length(self) -> int:
        return padded_length(self.radon.geometry.shape[-1])

    def prepare(self, sinogram: jax.Array) -> jax.Array:
        """Maps measured line integrals into the data space, as the operator maps those of an image.

        ``B.prepare(radon(x))`` is ``B(x)``, and ``B.H(B.prepare(y))`` the filtered back-projection of y.
        Apply it once to a measurement before a network that uses B; padded views come out zero.

        Args:
          sinogram: (..., views, detectors), line integrals.

        Returns:
          (..., *out_shape).

        Raises:
          ValueError, TypeError: if the sinogram does not fit the geometry.
        """
        radon = self.radon
        sinogram = check_array(sinogram, radon.out_shape, radon.out_dtype, "FilteredRadon.prepare")
        return self._to_data(sinogram)

    def _response(self, power):
        return ramp_response(self._length, self.radon.geometry.detector_spacing) ** power

    def _factor(self):
        """(views, 1): the scale c of real views, zero for padded ones."""
        geometry, dtype = self.radon.geometry, self.radon.in_dtype
        constant = math.pi * geometry.detector_spacing / math.prod(self.radon.grid.steps)
        if self.view_mask is None:
            return jnp.asarray(math.sqrt(constant / geometry.views), dtype)
        mask = self.view_mask.astype(dtype)
        return (mask * jnp.sqrt(constant / jnp.maximum(jnp.sum(mask), 1)))[:, None]

    def _to_data(self, sinogram):
        return self._factor() * filter_rows(sinogram, self._response(0.5), self._length, self._length)

    def _forward(self, x):
        return self._to_data(self.radon._forward(x))

    def _adjoint(self, y):
        count = self.radon.geometry.detector_count
        rows = filter_rows(y, self._response(0.5), self._length, count)
        return self.radon._adjoint(self._factor() * rows)

    def _gram(self, x, weights):
        if weights is not None:
            return self._adjoint(weights * self._forward(x))
        count = self.radon.geometry.detector_count
        rows = filter_rows(self.radon._forward(x), self._response(1.0), self._length, count)
        return self.radon._adjoint(self._factor() ** 2 * rows)


def filtered_radon(
    geometry: ParallelBeam,
    image_shape: tuple[int, int],
    pixel_size: float | tuple[float, ...] = 1.0,
    view_mask: jax.Array | None = None,
    *,
    image_center: tuple[float, ...] | None = None,
) -> FilteredRadon:
    """The Radon transform preconditioned by the square root of the ramp.

    ``B = c * mask * sqrt(ramp) @ Radon`` with ``c = sqrt(pi * detector_spacing / (V * dx * dy))``, V the
    number of real views: for real views spread evenly over 180 (or 360) degrees, ``B.gram(x)`` is close to x
    for smooth x inside the field of view, so image and data are of one scale, and unrolled networks and
    gradient descent need no tuning to the scanner. (The norm of B is above one, typically 1.5, because of
    frequencies near the sampling limit.)

    The data space is ``(views, padded detectors)``, rows twice as long as the detector, because the square
    root of the ramp spreads each row beyond it and cutting there would darken the image. Measured line
    integrals y (V, D) enter it by ``B.prepare(y)``; ``B.H(B.prepare(y))`` is their filtered back-projection.
    ``B.gram(x)`` filters once and is the cheapest way to apply ``B.H(B(x))``.

    Leaves are the geometry's angles and the view mask: stack them (or whole operators) along a leading axis
    and use ``jax.vmap``; masked views may have any angle.

    Args:
      geometry: the parallel-beam geometry; angles over 180 or 360 degrees.
      image_shape: (ny, nx).
      pixel_size: width of the pixels in the geometry's unit of length, or (dy, dx).
      view_mask: (views,), true or 1 for real views, false or 0 for padding; None: all are real.
      image_center: (x, y) of the center of the image; None is the origin.

    Returns:
      :class:`FilteredRadon`, an operator (..., ny, nx) -> (..., views, padded detectors).

    Raises:
      ValueError, TypeError: as :class:`Radon`, and if ``view_mask`` is not a real array (views,).
    """
    radon = Radon(geometry, image_shape, pixel_size, image_center=image_center)
    return FilteredRadon(radon, view_weights(view_mask, geometry, "filtered_radon: view_mask"))
