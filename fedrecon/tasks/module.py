"""A task of any flax module and any loss."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.tasks.network import check_batch, map_chunks, mean, network, total
from fedrecon.types import Batch, Metrics, PyTree, Task, Variables

# ``f(output, batch) -> (examples,)``
PerExample = Callable[[PyTree, Batch], jax.Array]
# Shapes are tried with this number of examples, which no other axis is likely to have.
_TRIED = 13


def _cross_entropy(output: jax.Array, reference: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(output, reference.astype(jnp.int32))


def _binary_cross_entropy(output: jax.Array, reference: jax.Array) -> jax.Array:
    return optax.sigmoid_binary_cross_entropy(output, reference.astype(output.dtype))


# Name -> (loss of each entry from output and reference, what makes a prediction of the output).
LOSSES: dict[str, tuple[Callable[[Any, Any], jax.Array], Callable[[Any], jax.Array]]] = {
    "cross_entropy": (_cross_entropy, jax.nn.softmax),
    "binary_cross_entropy": (_binary_cross_entropy, jax.nn.sigmoid),
    "squared_error": (lambda output, reference: jnp.square(output - reference), lambda output: output),
    "absolute_error": (lambda output, reference: jnp.abs(output - reference), lambda output: output),
}


def module_task(
    module: nn.Module,
    loss: str | PerExample,
    example: Mapping,
    *,
    inputs: Sequence[str] = ("image",),
    target: str = "label",
    metrics: Mapping[str, PerExample] | None = None,
    predict: Callable[[PyTree], PyTree] | None = None,
    chunk: int = 32,
) -> Task:
    """Trains any flax module by any loss of single examples.

    The module may take ``train``, ``training``, ``is_training``, ``deterministic`` or
    ``use_running_average``, and draw dropout; ``flax.linen.BatchNorm`` in it takes its moments from the
    valid examples of a batch. Layers of its own that mix examples must take ``valid`` (examples,) bool and
    leave the others out. Padded examples are copies of a valid one, with a weight of zero.

    Args:
      module: called as ``module(*(batch[name] for name in inputs))``.
      loss: ``loss(output, batch) -> (examples,)``; or one of `LOSSES`, averaged over the axes of an example,
        of the output and ``batch[target]``: "cross_entropy" of logits (examples, ..., classes) and integers
        (examples, ...), "binary_cross_entropy" of logits and numbers in [0, 1] of one shape, and
        "squared_error" and "absolute_error" of numbers of one shape.
      example: a batch of arrays or ``jax.ShapeDtypeStruct``, of which only shapes and dtypes are used.
      inputs: keys of what the module is given.
      target: key of the reference of a named loss.
      metrics: name -> ``metric(output, batch) -> (examples,)``, of evaluation alone; an example for which it
        is NaN is left out of the mean. Less is better where the name ends in loss, error or distance.
      predict: ``predict(output) -> prediction``; by default the probabilities of the two cross-entropies,
        and the output otherwise.
      chunk: examples evaluated at a time, which bounds memory.

    Returns:
      A task; ``metrics`` are those given, then "loss".

    Raises:
      ValueError: a key is missing in ``example``, a loss or metric has another shape than (examples,), or the
        module is none that can be trained; see `network`.
    """
    named = isinstance(loss, str)
    if named and loss not in LOSSES:
        raise ArgumentError("loss", f"a function, or one of {', '.join(LOSSES)}", repr(loss))
    check_batch(example, (*inputs, *((target,) if named else ())))
    if metrics and "loss" in metrics:
        raise ArgumentError("metrics", "names other than 'loss', which is the loss", "'loss'")
    net = network(module, lambda batch: tuple(batch[name] for name in inputs), example)
    each = _named(loss, target) if isinstance(loss, str) else loss
    measured = {**(metrics or {}), "loss": each}
    show = predict or (LOSSES[loss][1] if isinstance(loss, str) else lambda output: output)

    def train(
        params: PyTree, stats: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        batch = _padded_with_copies(batch)
        output, stats = net.train(params, stats, batch, key)
        losses = each(output, batch)
        return mean(losses, batch["valid"]), (stats, {"loss": total(losses, batch["valid"])})

    def evaluate(params: PyTree, stats: PyTree, batch: Batch) -> Metrics:
        def parts(part: Batch) -> dict[str, jax.Array]:
            part = _padded_with_copies(part)
            output = net.evaluate(params, stats, part)
            return {name: f(output, part) for name, f in measured.items()}

        values = map_chunks(parts, batch, chunk)
        # Where the loss is NaN, too, the network has diverged, and that is counted.
        diverged = jnp.isnan(values["loss"])
        return {
            name: total(values[name], batch["valid"] & (diverged | ~jnp.isnan(values[name])))
            for name in measured
        }

    task = Task(
        net.init, train, evaluate, lambda *arguments: show(net.evaluate(*arguments)), net.normalization
    )
    _try(net, each, measured, example)
    return task


def _named(name: str, target: str) -> PerExample:
    entries = LOSSES[name][0]

    def loss(output: jax.Array, batch: Batch) -> jax.Array:
        reference = batch[target]
        shape = output.shape[:-1] if name == "cross_entropy" else output.shape
        if shape != reference.shape:
            axes = "logits (*shape, classes)" if name == "cross_entropy" else "an output of the shape"
            raise ArgumentError(
                "module", f"{axes} for {name} with {target!r} {reference.shape}", output.shape
            )
        values = entries(output, reference)
        return values.mean(range(1, values.ndim))

    return loss


def _padded_with_copies(batch: Batch) -> Batch:
    """Padding as copies of a valid example: what losses divide by is then zero nowhere because of it."""
    valid = batch["valid"]
    index = jnp.where(valid, jnp.arange(len(valid)), jnp.argmax(valid))
    return {name: x if name == "valid" else x[index] for name, x in batch.items()}


def _try(net: Any, loss: PerExample, measured: Mapping[str, PerExample], example: Mapping) -> None:
    """Traces one step and one evaluation: what does not fit is refused before data are read."""
    batch = {**_shapes(example, _TRIED), "valid": jax.ShapeDtypeStruct((_TRIED,), bool)}
    key = jax.random.key(0)
    variables = jax.eval_shape(net.init, key)

    def parts(params: PyTree, stats: PyTree, batch: Batch, key: jax.Array) -> tuple:
        output, stats = net.train(params, stats, batch, key)
        evaluated = net.evaluate(params, stats, batch)
        return loss(output, batch), {name: f(evaluated, batch) for name, f in measured.items()}, stats

    trained, evaluated, stats = jax.eval_shape(parts, *variables, batch, key)
    for name, value in {**evaluated, "loss": trained}.items():
        shape = getattr(value, "shape", None)
        if shape != (_TRIED,):
            label = "loss" if name == "loss" else f"metrics[{name!r}]"
            found = "a scalar: leave out the mean over examples" if shape == () else f"the shape {shape}"
            raise ArgumentError(label, f"one value for each of {_TRIED} examples, ({_TRIED},)", found)
    before: Any = jax.tree.structure(variables.stats)
    if jax.tree.structure(stats) != before:
        raise ArgumentError("model", "the same running statistics after a step", "others")


def metric_names(task: Task, example: Mapping) -> tuple[str, ...]:
    """Names of a task's metrics, in the order in which it returns them.

    Args:
      task: any.
      example: a batch of arrays or ``jax.ShapeDtypeStruct``, of which only shapes and dtypes are used.

    Raises:
      ValueError: the metrics are no dict of pairs of numbers.
    """
    names: list[str] = []

    def record(variables: Variables, batch: Batch) -> Metrics:
        found = task.metrics(*variables, batch)
        if not isinstance(found, dict) or not found:
            raise ArgumentError("metrics", "a dict of (sum, count) by name", type(found).__name__)
        names.extend(found)
        return found

    shapes = {**_shapes(example, 1), "valid": jax.ShapeDtypeStruct((1,), bool)}
    found = jax.eval_shape(record, jax.eval_shape(task.init, jax.random.key(0)), shapes)
    for name, pair in found.items():
        if [getattr(x, "shape", None) for x in jax.tree.leaves(pair)] != [(), ()]:
            raise ArgumentError(f"metrics[{name!r}]", "a pair of numbers, sum and count", pair)
    return tuple(names)


def _shapes(example: Mapping, count: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        name: jax.ShapeDtypeStruct((count, *x.shape[1:]), jax.dtypes.canonicalize_dtype(x.dtype))
        for name, x in example.items()
    }
