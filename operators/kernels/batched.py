"""JAX primitives over a batch of trajectories, images and coils: what the non-uniform transforms share.

Operands are (per trajectory, images, maps or nothing), their leading axis t being that of trajectories, or of
length one where all trajectories share the operand. The second axis of the images, and of the result, counts
images.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from operators.algebra import vary_together


def call(primitive: Primitive, operands: Sequence[jax.Array], params: dict[str, Any]) -> jax.Array:
    """Binds the primitive to operands that vary over the same mesh axes."""
    return primitive.bind(*vary_together(*operands), **params)


def batch_length(*operands: jax.Array) -> int:
    """The common number of trajectories: the longest leading axis."""
    return max(a.shape[0] for a in operands)


def sum_to(array: jax.Array, length: int) -> jax.Array:
    """Sums over t if the operand was shared: the transpose of sharing it."""
    return array if array.shape[0] == length else jnp.sum(array, axis=0, keepdims=True)


def register(
    *primitives: Primitive,
    out_shape: Callable[..., Any],
    plain: Callable[..., Any],
    on_cpu: Callable[..., Any],
    jvp: Callable[..., Any],
    transpose: Callable[..., Any],
) -> None:
    """Gives a family of primitives its shapes, its lowerings and its derivatives.

    Every rule takes the primitive in front, so that one function serves the family.

    Args:
      primitives: with one result each.
      out_shape: ``(primitive, *operands, **params) -> shape``.
      plain: ``(primitive, *operands, **params) -> array`` in plain JAX.
      on_cpu: the same for CPUs.
      jvp, transpose: rules as ``jax.interpreters.ad`` takes them, after the primitive.
    """
    rules = {"out_shape": out_shape, "plain": plain, "on_cpu": on_cpu, "jvp": jvp, "transpose": transpose}
    for primitive in primitives:
        _register_one(primitive, **{name: functools.partial(rule, primitive) for name, rule in rules.items()})


def _register_one(
    primitive: Primitive,
    *,
    out_shape: Callable[..., Any],
    plain: Callable[..., Any],
    on_cpu: Callable[..., Any],
    jvp: Callable[..., Any],
    transpose: Callable[..., Any],
) -> None:
    def abstract(*operands, **params):
        shape = out_shape(*operands, **params)
        images = operands[1]
        sharding = images.sharding.update(spec=jax.sharding.PartitionSpec(*[None] * len(shape)))
        return images.update(shape=shape, sharding=sharding, weak_type=False)

    @functools.lru_cache(maxsize=256)
    def compiled(params):
        return jax.jit(functools.partial(primitive.bind, **dict(params)))

    primitive.def_impl(lambda *operands, **params: compiled(tuple(params.items()))(*operands))
    primitive.def_abstract_eval(abstract)
    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(on_cpu, multiple_results=False), platform="cpu")


def over_trajectories(function: Callable[..., jax.Array], operands: Sequence[jax.Array | None]) -> jax.Array:
    """``function`` of single trajectories, mapped over t; operands may be None."""
    axes = [None if a is None or a.shape[0] == 1 else 0 for a in operands]
    squeezed = [a if axis == 0 or a is None else a[0] for a, axis in zip(operands, axes, strict=True)]
    if all(axis is None for axis in axes):
        return function(*squeezed)[None]
    return jax.vmap(function, axes)(*squeezed)


def _batch(primitive, operands, axes, **params):
    mapped = [axis is not None for axis in axes]
    size = next(a.shape[axis] for a, axis in zip(operands, axes, strict=True) if axis is not None)
    moved = [jnp.moveaxis(a, axis, 0) if m else a for a, axis, m in zip(operands, axes, mapped, strict=True)]
    if mapped[1] and not any(mapped[:1] + mapped[2:]):
        # Images alone: more of them for the same trajectories.
        images = jnp.moveaxis(moved[1], 0, 1)
        merged = images.reshape(images.shape[0], -1, *images.shape[3:])
        out = call(primitive, (moved[0], merged, *moved[2:]), params)
        return out.reshape(out.shape[0], size, -1, *out.shape[2:]), 1
    length = max(a.shape[1] if m else a.shape[0] for a, m in zip(moved, mapped, strict=True))
    merged = []
    for a, m in zip(moved, mapped, strict=True):
        if m:
            a = jnp.broadcast_to(a, (size, length, *a.shape[2:])).reshape(-1, *a.shape[2:])
        elif a.shape[0] != 1:
            a = jnp.tile(a, (size,) + (1,) * (a.ndim - 1))
        merged.append(a)
    out = call(primitive, merged, params)
    return out.reshape(size, length, *out.shape[1:]), 0
