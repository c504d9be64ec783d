"""Operators that act on every element of an array by itself."""

import jax.numpy as jnp
import numpy as np

from operators.algebra.dtypes import as_inexact, default_dtype
from operators.algebra.linear_operator import LinearOperator
from operators.algebra.pytree import Leaf, assign, frozen_pytree, static


@frozen_pytree
class Identity(LinearOperator):
    """The identity on arrays (..., *shape) of ``dtype`` (default: float32).

    Example:
      >>> A = operators.Identity((2,))
      >>> (3 * A)(jnp.array([1.0, 2.0])).tolist()
      [3.0, 6.0]
    """

    shape: tuple[int, ...] = static()
    dtype: np.dtype | None = static(default=None)

    def __post_init__(self) -> None:
        dtype = default_dtype(float) if self.dtype is None else jnp.dtype(self.dtype)
        assign(self, shape=tuple(self.shape), dtype=dtype)

    in_shape = out_shape = property(lambda self: self.shape)
    in_dtype = out_dtype = property(lambda self: self.dtype)

    def _forward(self, x):
        return x

    _adjoint = _forward


@frozen_pytree
class Diagonal(LinearOperator):
    """Multiplication by ``weights``, element by element.

    Attributes:
      weights: array of the shape of the arrays multiplied; integers and booleans become floats.
      dtype: dtype of the arrays multiplied; default: that of the weights. Weights must promote to it.

    Raises:
      TypeError: if the weights do not promote to ``dtype``.

    Example:
      >>> A = operators.Diagonal(jnp.array([2.0, 0.0]))
      >>> A(jnp.array([5.0, 7.0])).tolist()
      [10.0, 0.0]
    """

    weights: Leaf
    dtype: np.dtype | None = static(default=None)
    shape: tuple[int, ...] = static(init=False)

    def __post_init__(self) -> None:
        weights = as_inexact(self.weights)
        dtype = weights.dtype if self.dtype is None else jnp.dtype(self.dtype)
        if jnp.promote_types(weights.dtype, dtype) != dtype:
            raise TypeError(f"Diagonal: weights of {weights.dtype} do not promote to dtype {dtype}")
        assign(self, weights=weights, dtype=dtype, shape=weights.shape)

    in_shape = out_shape = property(lambda self: self.shape)
    in_dtype = out_dtype = property(lambda self: self.dtype)

    def _forward(self, x):
        return self.weights * x

    def _adjoint(self, y):
        return self.weights.conj() * y
