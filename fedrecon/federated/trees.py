"""Small helpers of the engine: shared and private leaves, masking, sizes."""

import jax
import jax.numpy as jnp
import optax

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


def finite_after_weighting(norm: jax.Array, delta: PyTree, message: PyTree, own: PyTree, weight: jax.Array):
    """bool (): ``all_finite`` of ``delta`` and ``message`` times ``weight``, of ``weight`` and of ``own``.

    Looking at every number takes as long as a step of a small model: where norms leave no doubt, it is left
    out.

    Args:
      norm: the l2 norm of ``delta``, which is known anyway.
      delta, message: what is multiplied.
      own: what is not.
      weight: float ().
    """
    others = [x for x in jax.tree.leaves((message, own)) if jnp.issubdtype(x.dtype, jnp.inexact)]
    total = norm + optax.tree.norm(others) if others else norm
    # No product exceeds this one, which is far from the largest number; of NaN it is false.
    sure = total * jnp.maximum(jnp.abs(weight), 1) < 1e30
    return _sure_or_finite(sure, (delta, message), own, weight)


def _look(sure, shared, own, weight):
    weighted = jax.tree.map(lambda x: x * weight, shared)
    return sure | all_finite((weighted, own, weight))


@jax.custom_batching.custom_vmap
def _sure_or_finite(sure, shared, own, weight):
    return jax.lax.cond(sure, lambda sure, *rest: sure, _look, sure, shared, own, weight)


@_sure_or_finite.def_vmap
def _sure_or_finite_of_many(size, batched, sure, *rest):
    """A branch still, when clients run at once: nobody is looked at unless there is somebody in doubt."""
    axes = jax.tree.map(lambda along: 0 if along else None, tuple(batched))
    sure = sure if batched[0] else jnp.broadcast_to(sure, (size,))
    look = jax.vmap(_look, in_axes=(0, *axes[1:]))
    return jax.lax.cond(sure.all(), lambda sure, *rest: sure, look, sure, *rest), True


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
