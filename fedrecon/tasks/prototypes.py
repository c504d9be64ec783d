"""Classification by the nearest prototype in place of a network's head."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.tasks.features import layer_features
from fedrecon.types import Batch, Metrics, PyTree, Task, Variables

# Where the statistics of such a task have what it compares with.
PROTOTYPES = "prototypes"


def nearest_prototype(task: Task, example: Mapping[str, Any], *, radius: float = 1.0) -> Task:
    """A classification whose predictions and metrics compare features with the prototypes of classes.

    Training is that of the task. Features are what the layer "head" sees, scaled to the norm ``radius``;
    its output is replaced by ``-|f(x) - P_k|^2`` (Snell et al. 2017), and by less than any of these for
    classes without a prototype. As long as no class has one, the head decides.

    Args:
      task: of a flax module whose last layer is called "head".
      example: shapes and dtypes of a batch.
      radius: R, positive.

    Returns:
      The task; its statistics also have `PROTOTYPES`: "means" float32 (classes, features) and "known"
      float32 (classes,), 1 where there is a prototype. All are 0 at first; no loss changes them.
    """
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    head = layer_features(task, lambda module: module.path == ("head",))
    batch = {**example, "valid": jax.ShapeDtypeStruct((1,), bool)}
    features = jax.eval_shape(head, *shapes, batch)["head"].shape[-1]
    classes = jax.eval_shape(task.predict, *shapes, batch).shape[-1]

    def none() -> dict[str, jax.Array]:
        return {"means": jnp.zeros((classes, features)), "known": jnp.zeros(classes)}

    def init(key: jax.Array) -> Variables:
        variables = task.init(key)
        return Variables(variables.params, {**variables.stats, PROTOTYPES: none()})

    def plain(stats: Mapping) -> dict:
        return {name: x for name, x in stats.items() if name != PROTOTYPES}

    def loss(
        params: PyTree, stats: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        value, (new, metrics) = task.loss(params, plain(stats), batch, key)
        return value, ({**new, PROTOTYPES: stats[PROTOTYPES]}, metrics)

    def compared(function: Callable) -> Callable:
        def under(params: PyTree, stats: PyTree, batch: Batch) -> Any:
            known, means = stats[PROTOTYPES]["known"] > 0, stats[PROTOTYPES]["means"]

            def replace(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
                output = call(*args, **kwargs)
                if context.module.path != ("head",) or context.method_name != "__call__":
                    return output
                found = args[0]
                length = jnp.sqrt(jnp.maximum((found**2).sum(-1, keepdims=True), 1e-12))
                apart = ((radius * found / length)[:, None] - means) ** 2
                logits = jnp.where(known, -apart.sum(-1), -4 * radius**2 - 1)
                return jnp.where(known.any(), logits, output).astype(output.dtype)

            with nn.intercept_methods(replace):
                return function(params, plain(stats), batch)

        return under

    normalization = Variables(
        task.normalization.params,
        {**task.normalization.stats, PROTOTYPES: jax.tree.map(lambda x: False, jax.eval_shape(none))},
    )
    return Task(init, loss, compared(task.metrics), compared(task.predict), normalization)
