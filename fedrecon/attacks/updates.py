"""What a client sends in a round, as a differentiable function of its examples: the model of an attacker."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.tasks import ssim
from fedrecon.types import Batch, PyTree, Task, Variables

# ``update(variables, batch) -> pytree`` of the parameters.
Update = Callable[[Variables, Batch], PyTree]


def gradient_update(task: Task, key: jax.Array | None = None) -> Update:
    """The gradient of the task's loss on the whole batch.

    Args:
      task: what is learned.
      key: of the loss (random mirrors, dropout); a fixed one by default.
    """
    key = jax.random.key(0) if key is None else key

    def update(variables: Variables, batch: Batch) -> PyTree:
        return jax.grad(lambda params: task.loss(params, variables.stats, batch, key)[0])(variables.params)

    return update


def smoothed(task: Task, smoothing: float = 0.1) -> Task:
    """A reconstruction task as its attacker takes it, with a loss that is smooth in the reference.

    The derivative of the task's absolute differences is their sign, which tells nothing of their size:
    ``sqrt(d^2 + (smoothing r)^2)``, r the range of the reference, stands for |d|. Dropout and the statistics
    of batch normalization are left out.

    Raises:
      ValueError: ``smoothing`` is not positive.
    """
    if not smoothing > 0:
        raise ArgumentError("smoothing", "a positive number", smoothing)

    def loss(params: PyTree, stats: PyTree, batch: Batch, key: jax.Array) -> tuple[jax.Array, tuple]:
        images, data_range = task.predict(params, stats, batch), batch["data_range"]
        bound = smoothing * data_range[:, None, None]
        absolute = jnp.sqrt((images - batch["target"]) ** 2 + bound**2).mean((1, 2)) / data_range
        value = absolute + 0.1 * (1 - ssim(images, batch["target"], data_range))
        return value.mean(), (stats, {})

    return task._replace(loss=loss)


def local_update(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    batch_size: int,
    steps: int,
    key: jax.Array | None = None,
) -> Update:
    """The change of the parameters by ``steps`` local steps, as FedAvg sends it.

    The batches are taken in the order of the examples, around and around: an attacker who does not know the
    order assumes one. Running statistics change from step to step.

    Args:
      task: what is learned.
      optimizer: the client's, started afresh.
      batch_size: examples in a step; the number of examples must be a multiple of it.
      steps: local steps.
      key: of the losses; a fixed one by default.

    Raises:
      ValueError: a size is not positive; from the update, if the examples do not divide into batches.
    """
    for name, value in (("batch_size", batch_size), ("steps", steps)):
        if value < 1:
            raise ArgumentError(name, "a positive integer", value)
    key = jax.random.key(0) if key is None else key
    gradient = jax.grad(task.loss, has_aux=True)

    def update(variables: Variables, batch: Batch) -> PyTree:
        count = batch["valid"].shape[0]
        if count % batch_size:
            raise ArgumentError("batch_size", f"a divisor of the {count} examples", batch_size)
        parts = {name: x.reshape(-1, batch_size, *x.shape[1:]) for name, x in batch.items()}

        def step(carry: tuple, number: jax.Array) -> tuple[tuple, None]:
            params, stats, state = carry
            place = number % (count // batch_size)
            part = {name: x[place] for name, x in parts.items()}
            g, (stats, _) = gradient(params, stats, part, jax.random.fold_in(key, number))
            changes, state = optimizer.update(g, state, params)
            return (optax.apply_updates(params, changes), stats, state), None

        start = (*variables, optimizer.init(variables.params))
        (params, _, _), _ = jax.lax.scan(step, start, jnp.arange(steps))
        return jax.tree.map(jnp.subtract, params, variables.params)

    return update


def clipped_and_noised(update: PyTree, key: jax.Array, *, norm: float, noise_multiplier: float) -> PyTree:
    """An update scaled down to an l2 norm of at most ``norm``, with Gaussian noise of that many norms.

    Raises:
      ValueError: ``norm`` is not positive, or the multiplier negative.
    """
    if not norm > 0:
        raise ArgumentError("norm", "a positive number", norm)
    if not noise_multiplier >= 0:
        raise ArgumentError("noise_multiplier", "a number of at least 0", noise_multiplier)
    factor = jnp.minimum(1, norm / jnp.maximum(optax.tree.norm(update), 1e-30))
    leaves, structure = jax.tree.flatten(update)
    keys = jax.random.split(key, len(leaves))
    noised = [
        x * factor + noise_multiplier * norm * jax.random.normal(k, x.shape, x.dtype)
        for k, x in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, noised)


def mean_update(updates: list[PyTree]) -> PyTree:
    """What a server learns from a secure sum of the updates of clients with equal weights.

    Raises:
      ValueError: there is none.
    """
    if not updates:
        raise ArgumentError("updates", "at least one", "none")
    return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *updates)
