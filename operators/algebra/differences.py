"""Finite differences of images and volumes."""

import jax
import jax.numpy as jnp
import numpy as np

from operators.algebra.arguments import ArgumentError
from operators.algebra.dtypes import default_dtype
from operators.algebra.linear_operator import LinearOperator
from operators.algebra.pytree import assign, frozen_pytree, static


@frozen_pytree
class FiniteDifferences(LinearOperator):
    """Forward differences along every axis: image (..., *image_shape) -> (..., axes, *image_shape).

    Component a holds ``x[n + e_a] - x[n]`` in the order of the image axes, zero across the far edges. Its
    squared norm is less than ``4 * len(image_shape)``.

    Attributes:
      image_shape: (ny, nx), (nz, ny, nx) or any other.
      dtype: dtype of the images; default complex64.

    Raises:
      ValueError: if ``image_shape`` is not at least one positive integer.

    Example:
      >>> A = operators.FiniteDifferences((4,), jnp.float32)
      >>> A(jnp.array([0.0, 1.0, 3.0, 3.0])).tolist()
      [[1.0, 2.0, 0.0, 0.0]]
    """

    image_shape: tuple[int, ...] = static()
    dtype: np.dtype | None = static(default=None)

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.image_shape)
        if not shape or min(shape) < 1:
            raise ArgumentError("FiniteDifferences: image_shape", "positive integers", shape)
        dtype = default_dtype(complex) if self.dtype is None else jnp.dtype(self.dtype)
        assign(self, image_shape=shape, dtype=dtype)

    in_shape = property(lambda self: self.image_shape)
    out_shape = property(lambda self: (len(self.image_shape), *self.image_shape))
    in_dtype = out_dtype = property(lambda self: self.dtype)

    def _forward(self, x):
        axes = range(-len(self.image_shape), 0)
        return jnp.stack([difference(x, axis) for axis in axes], axis=-1 - len(axes))

    def _adjoint(self, y):
        ndim = len(self.image_shape)
        parts = jnp.moveaxis(y, -1 - ndim, 0)
        return sum(difference_adjoint(parts[i], i - ndim) for i in range(ndim))


def difference(x: jax.Array, axis: int) -> jax.Array:
    """``x[n + 1] - x[n]`` along a negative ``axis``, zero at the last n."""
    n = x.shape[axis]
    return _shifted(_between(x, axis, 1, n) - _between(x, axis, 0, n - 1), axis, 0, 1)


def difference_adjoint(y: jax.Array, axis: int) -> jax.Array:
    """Adjoint of :func:`difference`."""
    inner = _between(y, axis, 0, y.shape[axis] - 1)
    return _shifted(inner, axis, 1, 0) - _shifted(inner, axis, 0, 1)


def backward_difference(x: jax.Array, axis: int) -> jax.Array:
    """``x[n] - x[n - 1]`` along a negative ``axis``, zero at n = 0."""
    n = x.shape[axis]
    return _shifted(_between(x, axis, 1, n) - _between(x, axis, 0, n - 1), axis, 1, 0)


def backward_difference_adjoint(y: jax.Array, axis: int) -> jax.Array:
    """Adjoint of :func:`backward_difference`."""
    inner = _between(y, axis, 1, y.shape[axis])
    return _shifted(inner, axis, 1, 0) - _shifted(inner, axis, 0, 1)


def _between(x, axis, start, stop):
    return x[(..., slice(start, stop)) + (slice(None),) * (-1 - axis)]


def _shifted(x, axis, before, after):
    padding = [(0, 0)] * x.ndim
    padding[axis] = (before, after)
    return jnp.pad(x, padding)
