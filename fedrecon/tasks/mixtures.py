"""Classifications by a shared network and a private expert, mixed by a private gate."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.tasks.network import mean
from fedrecon.types import Batch, Metrics, PyTree, Task, Variables

# Leaves that are beside those of the task, at the top of parameters and statistics.
EXPERT, GATE = "expert", "gate"


def mixture_of_experts(task: Task, example: Mapping[str, Any], *, mixture: bool = True) -> Task:
    """A classification by ``a(x) log f(x) + (1 - a(x)) log h(x)``, with ``a(x) = sigmoid(u . x + b)``.

    f is the network of the task, h, the expert, another one of the same kind, and x the image as the network
    sees it. The loss is the mean negative logarithm of what the mixture says of the label, in which h is
    constant, plus the task's loss of h by itself: h learns from the latter alone. Predictions and metrics are
    those of the mixture, normalized.

    Args:
      task: a classification of "image" by a flax module that returns logits (examples, classes) and is called
        once for a batch; of weights of classes and focus only the expert's loss knows.
      example: shapes and dtypes of a batch.
      mixture: False leaves the task as it is.

    Returns:
      The task; its parameters also have `EXPERT`, like those of the task, and `GATE`, "kernel" float32
      (numbers of an image,) and "bias" float32 (), which are 0 at first. Statistics have `EXPERT` where the
      task has any.

    Raises:
      ValueError: the task has such leaves already, or there are no images; from its functions, it calls no
        flax module.
    """
    if not mixture:
        return task
    if "image" not in example:
        raise ArgumentError("example", "one with 'image'", sorted(example))
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    if not isinstance(shapes.params, Mapping) or {EXPERT, GATE} & set(shapes.params):
        raise ArgumentError("task", f"parameters by name, none of them {EXPERT} or {GATE}", "others")
    numbers = int(np.prod(example["image"].shape[1:]))

    def init(key: jax.Array) -> Variables:
        own, other = task.init(key), task.init(jax.random.fold_in(key, 1))
        gate = {"kernel": jnp.zeros(numbers), "bias": jnp.zeros(())}
        stats = {**own.stats, EXPERT: other.stats} if own.stats else own.stats
        return Variables({**own.params, EXPERT: other.params, GATE: gate}, stats)

    def mixed(gate: PyTree, image: jax.Array, own: jax.Array, other: jax.Array) -> jax.Array:
        part = jax.nn.sigmoid(image.reshape(len(image), -1) @ gate["kernel"] + gate["bias"])[:, None]
        expert = jax.lax.stop_gradient(jax.nn.log_softmax(other))
        return part * jax.nn.log_softmax(own) + (1 - part) * expert

    def loss(
        params: PyTree, stats: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        own, other = apart(params, stats)
        with nn.intercept_methods(seeing := _Seen()):
            _, (new, metrics) = task.loss(*own, batch, key)
            value, (new_expert, _) = task.loss(*other, batch, key)
        (image, logits), (_, expert) = seeing.calls
        said = mixed(params[GATE], image, logits, expert)
        label = jnp.clip(batch["label"], 0, said.shape[-1] - 1)
        each = -jnp.take_along_axis(said, label[:, None], 1)[:, 0]
        new = {**new, EXPERT: new_expert} if stats else new
        return mean(each, batch["valid"]) + value, (new, metrics)

    def of_mixture(function: Callable) -> Callable:
        def under(params: PyTree, stats: PyTree, batch: Batch) -> Any:
            own, other = apart(params, stats)

            inside: list[bool] = []

            def instead(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
                output = call(*args, **kwargs)
                # The expert is a module of its own at the top, too.
                if context.module.path != () or context.method_name != "__call__" or inside:
                    return output
                inside.append(True)
                variables = {"params": other.params, "batch_stats": other.stats}
                expert = context.module.clone(parent=None).apply(variables, *args, **kwargs)
                inside.clear()
                return mixed(params[GATE], args[0], output, expert)

            with nn.intercept_methods(instead):
                return function(*own, batch)

        return under

    return Task(init, loss, of_mixture(task.metrics), of_mixture(task.predict), _normalization(task, shapes))


def apart(params: PyTree, stats: PyTree) -> tuple[Variables, Variables]:
    """Variables of the shared network and of the expert."""
    shared = {name: leaf for name, leaf in params.items() if name not in (EXPERT, GATE)}
    own = {name: leaf for name, leaf in stats.items() if name != EXPERT}
    return Variables(shared, own), Variables(params[EXPERT], stats.get(EXPERT, {}))


class _Seen:
    """What networks are given first and return, call by call."""

    def __init__(self) -> None:
        self.calls: list[tuple[jax.Array, jax.Array]] = []

    def __call__(self, call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        output = call(*args, **kwargs)
        if context.module.path == () and context.method_name == "__call__":
            self.calls.append((args[0], output))
        return output


def _normalization(task: Task, shapes: Variables) -> Variables:
    params, stats = task.normalization
    gate = {"kernel": False, "bias": False}
    return Variables(
        {**params, EXPERT: params, GATE: gate}, {**stats, EXPERT: stats} if shapes.stats else stats
    )
