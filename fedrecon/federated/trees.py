"""Small helpers of the engine: shared and private leaves, masking, sizes, random order."""

import jax
import jax.numpy as jnp

from fedrecon.types import PyTree


def expand_mask(mask: PyTree, tree: PyTree) -> PyTree:
    """Broadcasts a prefix pytree of bools to every leaf of ``tree``.

    Raises:
      ValueError: if ``mask`` is not a prefix of ``tree`` or holds something other than bools.
    """

    def fill(value, subtree):
        if not (isinstance(value, bool) or getattr(value, "dtype", None) == jnp.bool_):
            raise ValueError(f"share_mask: expected bool leaves, found {type(value).__name__}")
        return jax.tree.map(lambda _: bool(value), subtree)

    return jax.tree.map(fill, mask, tree)


def partition(tree: PyTree, mask: PyTree) -> tuple[PyTree, PyTree]:
    """Splits ``tree`` by a prefix mask into (shared, private), each with None in the other's places."""
    full = expand_mask(mask, tree)
    shared = jax.tree.map(lambda keep, x: x if keep else None, full, tree)
    private = jax.tree.map(lambda keep, x: None if keep else x, full, tree)
    return shared, private


def merge(shared: PyTree, private: PyTree) -> PyTree:
    """Inverse of `partition`."""
    return jax.tree.map(lambda a, b: b if a is None else a, shared, private, is_leaf=lambda x: x is None)


def select(condition: jax.Array, if_true: PyTree, if_false: PyTree) -> PyTree:
    """Leafwise choice by a scalar; what is not chosen leaves no trace, not even as NaN."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), if_true, if_false)


def along(flags: jax.Array, x: jax.Array) -> jax.Array:
    """``flags`` (clients,) with as many axes as ``x`` (clients, ...)."""
    return flags.reshape(-1, *(1,) * (x.ndim - 1))


def all_finite(tree: PyTree) -> jax.Array:
    """bool (): no NaN and no infinity in any inexact leaf."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(x).all() for x in leaves]).all() if leaves else jnp.bool_(True)


def vary_with(reference: jax.Array, tree: PyTree) -> PyTree:
    """Returns ``tree`` unchanged, but typed as varying over the mesh axes over which ``reference`` () varies.

    Inside a shard_map, constants and data have different types, and loop carries and cond branches may not
    change theirs; outside, this is the identity and costs nothing once compiled.
    """
    flag = reference.astype(bool)
    return jax.tree.map(lambda x: jnp.where(flag, x, x), tree)


def nbytes(tree: PyTree) -> int:
    """Size of all leaves in bytes.

    Raises:
      ValueError: above 4 GiB, which the report's uint32 counts cannot hold.
    """
    total = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
    if total >= 2**32:
        raise ValueError(f"message of one client: expected less than 2**32 bytes, found {total}")
    return total


def random_order(key: jax.Array, numbers: jax.Array, last: jax.Array | None = None) -> jax.Array:
    """A uniformly random permutation as int32 indices, places marked by ``last`` coming last.

    An item's place in the order depends on the key and its own number only, however many items there are, so
    leaving items out leaves the order of the others.
    """
    # The words of a folded key are themselves a hash of the number: no further draw is needed.
    words = jax.random.key_data(jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers))
    order = (words[:, 1], words[:, 0]) if last is None else (words[:, 1], words[:, 0], last)
    return jnp.lexsort(order).astype(jnp.int32)
