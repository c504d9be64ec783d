"""Small helpers of the engine: shared and private leaves, masking, sizes."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.types import PyTree

# In a share mask: leaves that are never trained and the same everywhere.
FROZEN = "frozen"


def expand_mask(mask: PyTree, tree: PyTree) -> PyTree:
    """Broadcasts a prefix pytree of bools (or `FROZEN`) to every leaf of ``tree``.

    Raises:
      ValueError: if ``mask`` is not a prefix of ``tree`` or holds something other than bools and `FROZEN`.
    """

    def spread(value, subtree):
        if isinstance(value, str) and value == FROZEN:
            return jax.tree.map(lambda _: FROZEN, subtree)
        if not (isinstance(value, bool) or getattr(value, "dtype", None) == jnp.bool_):
            raise ArgumentError("share_mask", f'leaves of bool or "{FROZEN}"', repr(value))
        return jax.tree.map(lambda _: bool(value), subtree)

    return jax.tree.map(spread, mask, tree)


def partition(tree: PyTree, mask: PyTree) -> tuple[PyTree, PyTree]:
    """Splits ``tree`` by a prefix mask into (shared, private), each with None in other places."""
    full = expand_mask(mask, tree)
    shared = jax.tree.map(lambda kind, x: x if kind is True else None, full, tree)
    private = jax.tree.map(lambda kind, x: x if kind is False else None, full, tree)
    return shared, private


def split_frozen(variables: PyTree, mask: PyTree) -> tuple[PyTree, PyTree]:
    """(what is trained, what is frozen) by a share mask, each with None in the other's places.

    Without a frozen leaf the second is None. Leaves that are None already count as frozen elsewhere.
    """
    full = expand_mask(mask, variables)
    if FROZEN not in jax.tree.leaves(full):
        return variables, None
    trained = jax.tree.map(lambda kind, x: None if kind == FROZEN else x, full, variables)
    return trained, jax.tree.map(lambda kind, x: x if kind == FROZEN else None, full, variables)


def merge(shared: PyTree, private: PyTree) -> PyTree:
    """Inverse of `partition`."""
    return jax.tree.map(lambda a, b: b if a is None else a, shared, private, is_leaf=lambda x: x is None)


class Packing(NamedTuple):
    """How the leaves of a pytree lie in vectors: for each leaf its vector's name, its shape and dtype."""

    structure: Any
    places: tuple[tuple[str, tuple[int, ...], Any], ...]


# Leaves from which on copying them into one vector takes less than compiling kernels for each.
_MANY = 24


def pack(tree: PyTree) -> tuple[dict[str, jax.Array], Packing]:
    """A pytree of arrays as one vector per dtype, and what `unpack` needs.

    XLA compiles kernels for every leaf of what it computes leaf by leaf; of a packed tree it compiles one.
    A tree of few leaves is only flattened to a dict.
    """
    leaves, structure = jax.tree.flatten(tree)
    if len(leaves) < _MANY:
        names = [f"{number:02}" for number in range(len(leaves))]
        vectors = dict(zip(names, leaves, strict=True))
    else:
        names = [str(leaf.dtype) for leaf in leaves]
        groups: dict[str, list[jax.Array]] = {name: [] for name in names}
        for name, leaf in zip(names, leaves, strict=True):
            groups[name].append(jnp.ravel(leaf))
        vectors = {name: jnp.concatenate(group) for name, group in groups.items()}
    places = tuple((name, x.shape, x.dtype) for name, x in zip(names, leaves, strict=True))
    return vectors, Packing(structure, places)


def unpack(vectors: dict[str, jax.Array], packing: Packing) -> PyTree:
    """Inverse of `pack`, also of vectors whose dtype has changed."""
    if len(packing.places) < _MANY:
        return jax.tree.unflatten(packing.structure, [vectors[name] for name, *_ in packing.places])
    starts = dict.fromkeys(vectors, 0)
    leaves = []
    for name, shape, _ in packing.places:
        start, end = starts[name], starts[name] + math.prod(shape)
        starts[name] = end
        leaves.append(jax.lax.slice(vectors[name], (start,), (end,)).reshape(shape))
    return jax.tree.unflatten(packing.structure, leaves)


def packed(function: Callable, *trees: PyTree) -> PyTree:
    """``jax.tree.map(function, *trees)`` of an elementwise function, on packed vectors."""
    vectors, packings = zip(*(pack(tree) for tree in trees), strict=True)
    if any(packing != packings[0] for packing in packings):
        return jax.tree.map(function, *trees)
    return unpack({name: function(*(v[name] for v in vectors)) for name in vectors[0]}, packings[0])


def fill(own: PyTree, others: PyTree) -> PyTree:
    """``own`` with its None places filled from ``others``; unchanged if ``others`` is None."""
    return own if others is None else merge(own, others)


def norm(tree: PyTree) -> jax.Array:
    """Global l2 norm of all leaves, float32 () if there are none."""
    vectors, _ = pack(tree)
    return optax.tree.norm(vectors) if vectors else jnp.float32(0)


def keep_like(tree: PyTree, like: PyTree) -> PyTree:
    """``tree`` with None where ``like`` has None."""
    return jax.tree.map(
        lambda old, new: None if old is None else new, like, tree, is_leaf=lambda x: x is None
    )


def scale(weight: PyTree, tree: PyTree) -> PyTree:
    """``tree`` times a weight (), or times each leaf of a prefix pytree of weights."""
    return jax.tree.map(lambda w, inner: packed(lambda x: x * w, inner), weight, tree)


def divide(tree: PyTree, weight: PyTree) -> PyTree:
    """Inverse of `scale`; leaves of weight 0 stay as they are."""

    def one(w, inner):
        return packed(lambda x: x / jnp.where(w > 0, w, 1), inner)

    return jax.tree.map(one, weight, tree)


def largest(weight: PyTree) -> jax.Array:
    """The largest of a pytree of weights (), float ()."""
    leaves = jax.tree.leaves(weight)
    return leaves[0] if len(leaves) == 1 else jnp.stack(leaves).max()


def select(condition: jax.Array, if_true: PyTree, if_false: PyTree) -> PyTree:
    """Leafwise choice by a scalar; nothing of what is not chosen gets through, not even as NaN."""
    return packed(lambda a, b: jnp.where(condition, a, b), if_true, if_false)


def along(flags: jax.Array, x: jax.Array) -> jax.Array:
    """``flags`` (clients,) with as many axes as ``x`` (clients, ...)."""
    return flags.reshape(-1, *(1,) * (x.ndim - 1))


def all_finite(tree: PyTree) -> jax.Array:
    """bool (): no NaN and no infinity in any inexact leaf."""
    vectors, _ = pack([x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)])
    checks = [jnp.isfinite(x).all() for x in vectors.values()]
    return jnp.stack(checks).all() if checks else jnp.bool_(True)


def finite_rows(new: PyTree, old: PyTree) -> PyTree:
    """Rows of ``new`` that are finite, and those of ``old`` in place of the others."""
    finite = jax.vmap(all_finite)(new)
    return jax.tree.map(lambda x, y: jnp.where(along(finite, x), x, y).astype(y.dtype), new, old)


def finite_after_weighting(
    norm: jax.Array, delta: PyTree, message: PyTree, own: PyTree, weight: jax.Array
) -> jax.Array:
    """bool (): ``all_finite`` of ``delta`` and ``message`` times ``weight``, of ``weight`` and of ``own``.

    Looking at every number takes as long as a step of a small model: where norms leave no doubt, it is left
    out.

    Args:
      norm: the l2 norm of ``delta``, which is known anyway.
      delta, message: what is multiplied.
      own: what is not.
      weight: float (), the largest in absolute value where groups of leaves have weights of their own.
    """
    others = [x for x in jax.tree.leaves((message, own)) if jnp.issubdtype(x.dtype, jnp.inexact)]
    total = norm + optax.tree.norm(others) if others else norm
    # No product exceeds this one, which is far from the largest number; of NaN it is false.
    sure = total * jnp.maximum(jnp.abs(weight), 1) < 1e30
    return _sure_or_finite(sure, (delta, message), own, weight)


def _look(sure, shared, own, weight):
    weighted = scale(weight, shared)
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
        raise ArgumentError("message of one client", "less than 2**32 bytes", total)
    return total
