"""What of an image the measurement did not determine."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from operators import LinearOperator, cg


class NullSpace(NamedTuple):
    """The part of an image that any other could replace without a change of the samples.

    Attributes:
      part: x - A^+ A x, as x, or what a cutoff takes for it.
      share: of each pixel, ``|n|^2 / (|n|^2 + |r|^2)`` of this part n and the determined part r, from 0 to 1;
        0 where both are zero.
      total: ``|n|^2 / |x|^2`` of the whole image, a scalar from 0 to 1; 0 of an image of zeros.
    """

    part: jax.Array
    share: jax.Array
    total: jax.Array


def null_space(
    A: LinearOperator,
    image: jax.Array,
    cutoff: float | jax.Array = 0.0,
    *,
    iterations: int = 50,
    tolerance: float = 1e-4,
) -> NullSpace:
    """Divides an image into what its measurement by A determines and what it leaves open.

    A^+ A x, the projection of x, is the limit of conjugate gradients on ``A^H A z = A^H A x`` from zero. They
    find directions in the order of how strongly A lets them through: those that it has not found after
    ``iterations``, or to ``tolerance``, count as not determined. With several coils nearly every direction
    is determined, many of them more weakly than noise lets know: with a cutoff c the part is
    x - (A^H A + c)^-1 A^H A x, what a regularized reconstruction of x's own samples loses, c / (s^2 + c) of a
    direction whose singular value is s.

    Args:
      A: the measurement operator; of several ones use ``jax.vmap``.
      image: x, (*A.in_shape), such as a network's, complex where A is.
      cutoff: c, not negative, such as the weight of a Tikhonov reconstruction; 0 for the null space.
      iterations: upper bound of steps.
      tolerance: relative residual at which to stop, at least 1e-5: later steps in single precision would
        blow up errors of rounding outside of the range.

    Returns:
      The part, its share of each pixel and of the image.

    Raises:
      ValueError: the tolerance is smaller.
    """
    if tolerance < 1e-5:
        raise ArgumentError("tolerance", "a number of 1e-5 or more", tolerance)
    image = jnp.asarray(image, A.in_dtype)
    found, _ = cg(A.gram, A.gram(image), regularization=cutoff, iterations=iterations, tolerance=tolerance)
    part = image - found
    lost, kept, whole = (jnp.square(jnp.abs(x)) for x in (part, found, image))
    each = lost + kept
    share = jnp.where(each > 0, lost / jnp.where(each > 0, each, 1), 0)
    energy = whole.sum()
    total = jnp.where(energy > 0, lost.sum() / jnp.where(energy > 0, energy, 1), 0)
    return NullSpace(part, share, total)
