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

# Arguments by which modules are told that they are trained, and what they are told then.
_TRAINING = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}
_COLLECTIONS = ("params", "batch_stats")


class Network(NamedTuple):
    """A flax model as pure functions of pytrees.

    Attributes:
      init: ``init(key) -> Variables``.
      train: ``train(params, stats, batch, key) -> (output, stats)``; ``key`` is for dropout and the like.
      evaluate: ``evaluate(params, stats, batch) -> output``.
      normalization: ``Variables`` of bools, see ``fedrecon.types.Task``.
    """

    init: Callable[[jax.Array], Variables]
    train: Callable[[PyTree, PyTree, Batch, jax.Array], tuple[jax.Array, PyTree]]
    evaluate: Callable[[PyTree, PyTree, Batch], jax.Array]
    normalization: Variables


def network(model: nn.Module, inputs: Callable[[Batch], tuple], example: Mapping) -> Network:
    """Wraps a model called as ``model(*inputs(batch), train=..., valid=...)``.

    Args:
      model: linen module with collections "params" and, with batch normalization, "batch_stats". Of
        ``valid`` and the arguments by which modules are told that they are trained (``train``,
        ``training``, ``is_training``, ``deterministic``, ``use_running_average``) it is given those that its
        ``__call__`` takes. ``flax.linen.BatchNorm`` anywhere in it leaves padded examples out.
      inputs: the model's array arguments from a batch.
      example: a batch of arrays or ``jax.ShapeDtypeStruct``, of which only shapes and dtypes are used.

    Returns:
      The model's functions; ``init`` is compiled.

    Raises:
      ValueError: a module that is no linen module, or has other collections; from ``train``, batch
        normalization of something else than examples.
    """
    if not isinstance(model, nn.Module):
        advice = f"the class {model.__name__}: call it" if isinstance(model, type) else type(model).__name__
        raise ArgumentError("model", "a flax.linen.Module", advice)
    taken = _options(model)
    told = {name: value for name, value in _TRAINING.items() if name in taken}
    evaluating: dict[str, Any] = {name: not value for name, value in told.items()}

    def initialize(key: jax.Array) -> Mapping:
        # One example of zeros: parameters do not depend on the batch.
        batch = {
            name: jnp.zeros((1, *leaf.shape[1:]), jax.dtypes.canonicalize_dtype(leaf.dtype))
            for name, leaf in example.items()
        }
        variables = model.init(key, *inputs(batch), **evaluating)
        if others := sorted(set(variables) - set(_COLLECTIONS)):
            raise ArgumentError("model", f"variables in {' and '.join(_COLLECTIONS)} alone", others[0])
        return variables

    def init(key: jax.Array) -> Variables:
        variables = initialize(key)
        return Variables(variables.get("params", {}), variables.get("batch_stats", {}))

    def train(params: PyTree, stats: PyTree, batch: Batch, key: jax.Array) -> tuple[jax.Array, PyTree]:
        variables = {"params": params, "batch_stats": stats}
        options: dict[str, Any] = told | ({"valid": batch["valid"]} if "valid" in taken else {})
        # Dropout and whatever else asks for randomness by another name get it from "params", too.
        rngs = {"params": jax.random.fold_in(key, 1)}
        with nn.intercept_methods(_without_padding(batch["valid"])):
            output, updates = model.apply(
                variables, *inputs(batch), **options, rngs=rngs, mutable=["batch_stats"]
            )
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
    """Which of the arguments that a model may be given it takes."""
    parameters = inspect.signature(type(model).__call__).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return {"train", "valid"} | (_TRAINING.keys() & parameters.keys())
    return {"valid", *_TRAINING} & parameters.keys()


def _without_padding(valid: jax.Array) -> Callable:
    """An interceptor of flax's methods: batch normalization takes its moments from valid examples."""
    # Of nothing else than padding there are no moments; what comes of it is not used.
    some = valid | ~valid.any()

    def intercept(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        module = context.module
        if not isinstance(module, nn.BatchNorm) or context.method_name != "__call__" or "mask" in kwargs:
            return call(*args, **kwargs)
        x = args[0] if args else kwargs["x"]
        if x.ndim == 0 or x.shape[0] != len(valid):
            where = f"batch normalization ({'/'.join(module.path)})"
            expected = f"{where} of arrays with the axis of examples first, by which it leaves padding out"
            raise ArgumentError("model", expected, f"the shape {x.shape} of {len(valid)} examples")
        before: dict[str, Any] = {name: module.get_variable("batch_stats", name) for name in ("mean", "var")}
        output = call(*args, **kwargs, mask=some.reshape(-1, *(1,) * (x.ndim - 1)))
        for name, old in before.items():
            if old is not None and module.is_mutable_collection("batch_stats"):
                new: Any = module.get_variable("batch_stats", name)
                module.put_variable("batch_stats", name, jnp.where(valid.any(), new, old))
        return output

    return intercept


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


def random_flips(key: jax.Array, *arrays: jax.Array, axis: int = 2) -> tuple[jax.Array, ...]:
    """Mirrors each example along an axis with probability 1/2, alike in all (examples, ...)."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(len(arrays[0])))
    flip = jax.vmap(jax.random.bernoulli)(keys)

    def mirror(x: jax.Array) -> jax.Array:
        return jnp.where(flip.reshape(-1, *(1,) * (x.ndim - 1)), jnp.flip(x, axis), x)

    return tuple(mirror(x) for x in arrays)


def total(values: jax.Array, where: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sum, count) of the selected values, both float."""
    return jnp.where(where, values, 0).sum(dtype=float), where.sum(dtype=float)


def mean(values: jax.Array, where: jax.Array) -> jax.Array:
    """Mean of the selected values; 0 when none is selected."""
    return jnp.where(where, values, 0).sum() / jnp.maximum(where.sum(), 1)
