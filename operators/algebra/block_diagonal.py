"""One operator per frame of a series."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from operators.algebra.arguments import ArgumentError
from operators.algebra.linear_operator import LinearOperator
from operators.algebra.pytree import assign, frozen_pytree, static


@frozen_pytree
class BlockDiagonal(LinearOperator):
    """One operator per block: (..., blocks, *in_shape) -> (..., blocks, *out_shape), block by block.

    For instance the frames of a dynamic series, each with its own sampling mask, trajectory or angles. Arrays
    that are the same object in every operator, such as common coil maps, are kept once; the others are
    stacked.

    Attributes:
      operators: the operators, of equal structure and shapes; kept as one stacked operator.

    Raises:
      ValueError: if there is no operator, or their structures or shapes differ.
      TypeError: if one is no LinearOperator, or their dtypes differ.

    Example:
      >>> A = operators.BlockDiagonal([operators.Diagonal(jnp.array([w, 1.0])) for w in (2, 3)])
      >>> A(jnp.ones((2, 2))).tolist()
      [[2.0, 1.0], [3.0, 1.0]]
    """

    operators: Sequence[LinearOperator]
    in_shape: tuple[int, ...] = static(init=False)
    out_shape: tuple[int, ...] = static(init=False)
    in_dtype: np.dtype = static(init=False)
    out_dtype: np.dtype = static(init=False)
    stacked_leaves: tuple[bool, ...] = static(init=False)

    def __post_init__(self) -> None:
        blocks = list(self.operators)
        if not blocks:
            raise ArgumentError("BlockDiagonal: operators", "at least one", "none")
        for block in blocks:
            if not isinstance(block, LinearOperator):
                raise TypeError(f"BlockDiagonal: expected LinearOperators, found {type(block).__name__}")
        first = blocks[0]
        for block in blocks[1:]:
            _check_equal("structure", jax.tree.structure(first), jax.tree.structure(block), ValueError)
            for name in ("in_shape", "out_shape"):
                _check_equal(name, getattr(first, name), getattr(block, name), ValueError)
            for name in ("in_dtype", "out_dtype"):
                _check_equal(name, getattr(first, name), getattr(block, name), TypeError)
        columns = list(zip(*(jax.tree.leaves(block) for block in blocks), strict=True))
        stacked = tuple(any(leaf is not column[0] for leaf in column) for column in columns)
        leaves = [
            jnp.stack(column) if several else column[0]
            for column, several in zip(columns, stacked, strict=True)
        ]
        assign(
            self,
            operators=jax.tree.unflatten(jax.tree.structure(first), leaves),
            in_shape=(len(blocks), *first.in_shape),
            out_shape=(len(blocks), *first.out_shape),
            in_dtype=first.in_dtype,
            out_dtype=first.out_dtype,
            stacked_leaves=stacked,
        )

    def _forward(self, x):
        return self._each(lambda A, x: A._forward(x), self.in_shape, self.out_shape, x)

    def _adjoint(self, y):
        return self._each(lambda A, y: A._adjoint(y), self.out_shape, self.in_shape, y)

    def _gram(self, x, weights):
        if weights is None:
            return self._each(lambda A, x: A._gram(x, None), self.in_shape, self.in_shape, x)
        # Without its block axis, or with one of length one, the weights are common to all blocks.
        per_block = weights.ndim == len(self.out_shape) and weights.shape[0] > 1
        if weights.ndim == len(self.out_shape) and not per_block:
            weights = weights[0]
        return self._each(
            lambda A, x, w: A._gram(x, w), self.in_shape, self.in_shape, x, weights, 0 if per_block else None
        )

    def _each(self, apply, in_shape, out_shape, x, weights=None, weights_axis=None):
        axes = jax.tree.unflatten(
            jax.tree.structure(self.operators), [0 if several else None for several in self.stacked_leaves]
        )
        arguments = (x,) if weights is None else (x, weights)
        in_axes = (axes, -len(in_shape)) if weights is None else (axes, -len(in_shape), weights_axis)
        return jax.vmap(apply, in_axes=in_axes, out_axes=-len(out_shape))(self.operators, *arguments)


def _check_equal(what, expected, found, error):
    if expected != found:
        raise error(f"BlockDiagonal: {what}: expected the same for all, found {expected} and {found}")
