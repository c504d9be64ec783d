"""Helpers of every task: a flax model as pure functions, and sums over valid examples."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.models import normalization_leaves
from fedrecon.types import Batch, PyTree, Variables


class Network(NamedTuple):
    """A flax model as pure functions of pytrees.

    Attributes:
      init: ``init(key) -> Variables``.
      train: ``train(params, stats, batch) -> (output, stats)``.
      evaluate: ``evaluate(params, stats, batch) -> output``.
      normalization: ``Variables`` of bools, see ``fedrecon.types.Task``.
    """

    init: Callable[[jax.Array], Variables]
    train: Callable[[PyTree, PyTree, Batch], tuple[jax.Array, PyTree]]
    evaluate: Callable[[PyTree, PyTree, Batch], jax.Array]
    normalization: Variables


def network(model: nn.Module, inputs: Callable[[Batch], tuple], example: Mapping) -> Network:
    """Wraps a model called as ``model(*inputs(batch), train=..., valid=...)``.

    Args:
      model: linen module with collections "params" and, with batch normalization, "batch_stats". It is not
        given ``train`` or ``valid`` if its ``__call__`` does not take it.
      inputs: the model's array arguments from a batch.
      example: a batch of arrays or ``jax.ShapeDtypeStruct``, of which only shapes and dtypes are used.

    Returns:
      The model's functions; ``init`` is compiled.

    Raises:
      ValueError: a module that is no linen module.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError("model", "a flax.linen.Module", type(model).__name__)
    taken = _options(model)
    evaluating: dict[str, Any] = {"train": False} if "train" in taken else {}

    def initialize(key: jax.Array) -> Mapping:
        # One example of zeros: parameters do not depend on the batch.
        batch = {
            name: jnp.zeros((1, *leaf.shape[1:]), jax.dtypes.canonicalize_dtype(leaf.dtype))
            for name, leaf in example.items()
        }
        return model.init(key, *inputs(batch), **evaluating)

    def init(key: jax.Array) -> Variables:
        variables = initialize(key)
        return Variables(variables["params"], variables.get("batch_stats", {}))

    def train(params: PyTree, stats: PyTree, batch: Batch) -> tuple[jax.Array, PyTree]:
        variables = {"params": params, "batch_stats": stats}
        options: dict[str, Any] = {
            name: value for name, value in (("train", True), ("valid", batch["valid"])) if name in taken
        }
        output, updates = model.apply(variables, *inputs(batch), **options, mutable=["batch_stats"])
        return output, updates.get("batch_stats", stats)

    def evaluate(params: PyTree, stats: PyTree, batch: Batch) -> jax.Array:
        variables = {"params": params, "batch_stats": stats}
        output: Any = model.apply(variables, *inputs(batch), **evaluating)
        return output

    normalization = Variables(*normalization_leaves(initialize, jax.random.key(0)))
    # Drawing weights takes milliseconds, optimizing the program that draws them many seconds.
    compiled = jax.jit(init, compiler_options={"xla_backend_optimization_level": 0})

    def init_anywhere(key: jax.Array) -> Variables:
        # Compiler options are for the outermost program only.
        return (init if isinstance(key, jax.core.Tracer) else compiled)(key)

    return Network(init_anywhere, train, evaluate, normalization)


def _options(model: nn.Module) -> set[str]:
    """Which of "train" and "valid" the model takes."""
    parameters = inspect.signature(type(model).__call__).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return {"train", "valid"}
    return {"train", "valid"} & parameters.keys()


def check_batch(example: Mapping, names: tuple[str, ...]) -> None:
    """Raises ValueError unless the example batch has all these keys."""
    if any(name not in example for name in names):
        raise ArgumentError("example", f"the keys {list(names)}", sorted(example))


def map_chunks(f: Callable[[Batch], PyTree], batch: Batch, chunk: int) -> PyTree:
    """``f(batch)`` computed ``chunk`` examples at a time, for functions that treat examples independently."""
    examples = batch["valid"].shape[0]
    if examples <= chunk:
        return f(batch)
    chunks = -(-examples // chunk)

    def split(x: jax.Array) -> jax.Array:
        padding = [(0, chunks * chunk - examples)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding).reshape(chunks, chunk, *x.shape[1:])

    outputs = jax.lax.map(f, {name: split(x) for name, x in batch.items()})
    return jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:])[:examples], outputs)


def random_flips(key: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Mirrors each example left to right with probability 1/2, alike in all (examples, ny, nx, ...)."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(len(arrays[0])))
    flip = jax.vmap(jax.random.bernoulli)(keys)

    def mirror(x: jax.Array) -> jax.Array:
        return jnp.where(flip.reshape(-1, *(1,) * (x.ndim - 1)), x[:, :, ::-1], x)

    return tuple(mirror(x) for x in arrays)


def total(values: jax.Array, where: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sum, count) of the selected values, both float."""
    return jnp.where(where, values, 0).sum(dtype=float), where.sum(dtype=float)


def mean(values: jax.Array, where: jax.Array) -> jax.Array:
    """Mean of the selected values; 0 when none is selected."""
    return jnp.where(where, values, 0).sum() / jnp.maximum(where.sum(), 1)
