"""Linear operators and their algebra."""

from typing import Never

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from operators.algebra.arguments import ArgumentError
from operators.algebra.dtypes import (
    complex_dtype,
    is_complex,
    real_dtype,
    squared,
)
from operators.algebra.pytree import Leaf, assign, frozen_pytree


class LinearOperator:
    """A linear map between arrays of fixed shape; a frozen pytree.

    Arrays an operator holds (masks, coil maps, angles) are leaves, its shapes and flags are static, so that
    operators are arguments of ``jit``, ``grad``, ``scan`` and ``shard_map``. Operators of equal structure
    stacked leaf by leaf along a new leading axis are applied through ``jax.vmap(lambda A, x: A(x))(A, x)``.

    Inner products are ``<a, b> = sum conj(a) b``, and their real part where the operator maps real arrays to
    complex ones, so that its adjoint returns real arrays.

    Subclasses are decorated by :func:`operators.frozen_pytree` and give ``in_shape``, ``out_shape``,
    ``in_dtype``, ``out_dtype``, ``_forward`` and ``_adjoint``, all of which accept leading batch axes and
    keep double precision. Where a faster route exists they also give ``_gram``, and ``_forward_maps``,
    ``_adjoint_maps`` and ``_gram_maps``: those of the operator ``x -> A(maps[c] * x)`` with factors
    (c, *in_shape), whose output has an axis c in front of its own.

    Example:
      >>> A = operators.FiniteDifferences((4,), jnp.float32)
      >>> B = 2 * A.H @ A
      >>> B.in_shape, A.out_shape
      ((4,), (1, 4))
    """

    # numpy arrays and scalars on the left then defer to this class's reflected methods.
    __array_ufunc__ = None

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    in_dtype: np.dtype
    out_dtype: np.dtype

    def _forward(self, x: jax.Array) -> jax.Array:
        raise NotImplementedError

    def _adjoint(self, y: jax.Array) -> jax.Array:
        raise NotImplementedError

    def _gram(self, x: jax.Array, weights: jax.Array | None) -> jax.Array:
        y = self._forward(x)
        return self._adjoint(y if weights is None else weights * y)

    def _forward_maps(self, x: jax.Array, maps: jax.Array) -> jax.Array:
        return self._forward(self._expand(x, maps))

    def _adjoint_maps(self, y: jax.Array, maps: jax.Array) -> jax.Array:
        return self._combine(self._adjoint(y), maps)

    def _gram_maps(self, x: jax.Array, maps: jax.Array, weights: jax.Array | None) -> jax.Array:
        return self._combine(self._gram(self._expand(x, maps), weights), maps)

    def _expand(self, x, maps):
        return maps * jnp.expand_dims(x, x.ndim - len(self.in_shape))

    def _combine(self, products, maps):
        return jnp.sum(maps.conj() * products, axis=-1 - len(self.in_shape))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the operator.

        Args:
          x: array (..., *in_shape); its dtype must promote to ``in_dtype``.

        Returns:
          Array (..., *out_shape) of ``out_dtype``.

        Raises:
          ValueError: if the trailing axes of ``x`` are not ``in_shape``.
          TypeError: if the dtype of ``x`` does not promote to ``in_dtype``.
        """
        return self._forward(check_array(x, self.in_shape, self.in_dtype, self._name))

    @property
    def H(self) -> "LinearOperator":
        """The adjoint operator: ``<A(x), y> == <x, A.H(y)>``; ``A.H.H`` is ``A``."""
        return Adjoint(self)

    def gram(self, x: jax.Array, weights: jax.Array | None = None) -> jax.Array:
        """``A.H(weights * A(x))`` by the operator's fastest route.

        Args:
          x: array (..., *in_shape).
          weights: real array broadcastable to ``out_shape``; None stands for ones.

        Returns:
          Array (..., *in_shape) of ``in_dtype``.

        Raises:
          ValueError: if a shape does not fit.
          TypeError: if the dtype of ``x`` does not promote to ``in_dtype``, or the weights are complex.
        """
        x = check_array(x, self.in_shape, self.in_dtype, self._name)
        if weights is not None:
            weights = jnp.asarray(weights)
            if not _broadcasts(weights.shape, self.out_shape):
                raise ArgumentError(
                    f"{self._name}.gram: weights",
                    f"a shape broadcastable to out_shape {self.out_shape}",
                    f"shape {weights.shape}",
                )
            if is_complex(weights.dtype):
                raise TypeError(f"{self._name}.gram: weights: expected a real dtype, found {weights.dtype}")
            weights = weights.astype(real_dtype(self.out_dtype))
        return self._gram(x, weights)

    @property
    def _name(self) -> str:
        return type(self).__name__

    @property
    def __jax_array__(self) -> Never:
        # JAX looks for this where it meets what is no pytree, and hands on all errors but TypeError.
        check_decorated(self)
        raise AttributeError(f"{self._name} is no array")

    def __matmul__(self, other: "LinearOperator") -> "LinearOperator":
        if not isinstance(other, LinearOperator):
            return NotImplemented
        return Product(self, other)

    def __add__(self, other: "LinearOperator") -> "LinearOperator":
        if not isinstance(other, LinearOperator):
            return NotImplemented
        return Sum(self, other)

    def __sub__(self, other: "LinearOperator") -> "LinearOperator":
        if not isinstance(other, LinearOperator):
            return NotImplemented
        return Sum(self, -other)

    def __neg__(self) -> "LinearOperator":
        return Scaled(-1, self)

    def __mul__(self, scalar: ArrayLike) -> "LinearOperator":
        if isinstance(scalar, LinearOperator):
            raise TypeError(f"{self._name} * {scalar._name}: use @ to compose operators")
        return Scaled(scalar, self)

    __rmul__ = __mul__

    def __truediv__(self, scalar: ArrayLike) -> "LinearOperator":
        return Scaled(1 / scalar, self)


def check_decorated(A: LinearOperator) -> None:
    """Raises ValueError if JAX does not know the class of ``A`` as a pytree."""
    if jax.tree_util.all_leaves([A]):
        raise ArgumentError(
            A._name, "a class decorated by @operators.frozen_pytree", "a class that is no pytree"
        )


def check_array(x: ArrayLike, shape: tuple[int, ...], dtype: np.dtype, where: str) -> jax.Array:
    """``x`` as an array of ``dtype`` whose trailing axes are ``shape``; raises as ``LinearOperator`` does."""
    x = jnp.asarray(x)
    if x.ndim < len(shape) or x.shape[x.ndim - len(shape) :] != shape:
        raise ArgumentError(where, f"an array of shape (..., {_joined(shape)})", x.shape)
    if not jnp.issubdtype(x.dtype, jnp.inexact) or jnp.promote_types(x.dtype, dtype) != dtype:
        raise TypeError(f"{where}: expected an array whose dtype promotes to {dtype}, found {x.dtype}")
    return x.astype(dtype)


def _joined(shape: tuple[int, ...]) -> str:
    return ", ".join(str(n) for n in shape)


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, target) == target
    except ValueError:
        return False


def _embed(x: jax.Array, dtype: np.dtype) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, dtype))


def _project(y: jax.Array, dtype: np.dtype) -> jax.Array:
    # The adjoint of the embedding of real arrays into complex ones is the real part.
    return _embed(y if is_complex(dtype) else y.real, dtype)


@frozen_pytree
class Adjoint(LinearOperator):
    """The adjoint of an operator."""

    operator: LinearOperator

    in_shape = property(lambda self: self.operator.out_shape)
    out_shape = property(lambda self: self.operator.in_shape)
    in_dtype = property(lambda self: self.operator.out_dtype)
    out_dtype = property(lambda self: self.operator.in_dtype)

    def _forward(self, x):
        return self.operator._adjoint(x)

    def _adjoint(self, y):
        return self.operator._forward(y)

    @property
    def H(self) -> LinearOperator:
        return self.operator

    @property
    def _name(self) -> str:
        return f"{self.operator._name}.H"


@frozen_pytree
class Product(LinearOperator):
    """``left @ right``: ``x -> left(right(x))``.

    Raises:
      ValueError: if ``left.in_shape`` is not ``right.out_shape``.
      TypeError: if ``right.out_dtype`` does not promote to ``left.in_dtype``.
    """

    left: LinearOperator
    right: LinearOperator

    def __post_init__(self) -> None:
        left, right = self.left, self.right
        if left.in_shape != right.out_shape:
            raise ValueError(
                f"{left._name} @ {right._name}: the left in_shape {left.in_shape} differs from the right "
                f"out_shape {right.out_shape}"
            )
        if jnp.promote_types(left.in_dtype, right.out_dtype) != left.in_dtype:
            raise TypeError(
                f"{left._name} @ {right._name}: the right out_dtype {right.out_dtype} does not promote to "
                f"the left in_dtype {left.in_dtype}"
            )

    in_shape = property(lambda self: self.right.in_shape)
    out_shape = property(lambda self: self.left.out_shape)
    in_dtype = property(lambda self: self.right.in_dtype)
    out_dtype = property(lambda self: self.left.out_dtype)

    def _forward(self, x):
        return self.left._forward(_embed(self.right._forward(x), self.left.in_dtype))

    def _adjoint(self, y):
        return self._back(self.left._adjoint(y))

    def _gram(self, x, weights):
        return self._back(self.left._gram(_embed(self.right._forward(x), self.left.in_dtype), weights))

    def _back(self, z):
        return self.right._adjoint(_project(z, self.right.out_dtype))


@frozen_pytree
class Sum(LinearOperator):
    """``first + second``.

    Raises:
      ValueError: if the shapes of the two operators differ.
      TypeError: if their input dtypes differ.
    """

    first: LinearOperator
    second: LinearOperator

    def __post_init__(self) -> None:
        first, second = self.first, self.second
        shapes = [(op.in_shape, op.out_shape) for op in (first, second)]
        if shapes[0] != shapes[1]:
            raise ArgumentError(
                f"{first._name} + {second._name}: (in_shape, out_shape)",
                "the same of both",
                f"{shapes[0]} and {shapes[1]}",
            )
        if first.in_dtype != second.in_dtype:
            raise TypeError(
                f"{first._name} + {second._name}: in_dtype: expected the same of both, "
                f"found {first.in_dtype} and {second.in_dtype}"
            )

    in_shape = property(lambda self: self.first.in_shape)
    out_shape = property(lambda self: self.first.out_shape)
    in_dtype = property(lambda self: self.first.in_dtype)
    out_dtype = property(lambda self: jnp.promote_types(self.first.out_dtype, self.second.out_dtype))

    def _forward(self, x):
        return self.first._forward(x) + self.second._forward(x)

    def _adjoint(self, y):
        first, second = self.first, self.second
        return first._adjoint(_project(y, first.out_dtype)) + second._adjoint(_project(y, second.out_dtype))


@frozen_pytree
class Scaled(LinearOperator):
    """``scalar * operator``; the scalar is a leaf and may be traced or complex.

    Raises:
      ValueError: if ``scalar`` is not a scalar.
    """

    scalar: Leaf
    operator: LinearOperator

    def __post_init__(self) -> None:
        dtype = self.operator.out_dtype
        if isinstance(self.scalar, bool | int | float):
            scalar = jnp.asarray(self.scalar, real_dtype(dtype))
        elif isinstance(self.scalar, complex):
            scalar = jnp.asarray(self.scalar, complex_dtype(dtype))
        else:
            scalar = jnp.asarray(self.scalar)
            if not jnp.issubdtype(scalar.dtype, jnp.inexact):
                scalar = scalar.astype(real_dtype(dtype))
        if scalar.ndim:
            raise ArgumentError(f"scalar * {self.operator._name}", "a scalar", f"shape {scalar.shape}")
        assign(self, scalar=scalar)

    in_shape = property(lambda self: self.operator.in_shape)
    out_shape = property(lambda self: self.operator.out_shape)
    in_dtype = property(lambda self: self.operator.in_dtype)
    out_dtype = property(lambda self: jnp.promote_types(self.operator.out_dtype, self.scalar.dtype))

    def _forward(self, x):
        return self.scalar * self.operator._forward(x)

    def _adjoint(self, y):
        return self.operator._adjoint(_project(self.scalar.conj() * y, self.operator.out_dtype))

    def _gram(self, x, weights):
        return squared(self.scalar) * self.operator._gram(x, weights)
