"""FedVSS: virtual samples, where a client's model is least smooth and where the global model is surer."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.method import Method, combine
from fedrecon.federated.methods.agreement import divergence, log_of
from fedrecon.federated.recipe import federated
from fedrecon.types import Batch, Task, Variables


def least_smooth(
    task: Task, model: Variables, batch: Batch, key: jax.Array, radius: float, probe: float
) -> jax.Array:
    """x_l, images (examples, ...) at a distance where predictions of the model change the most.

    One power iteration of virtual adversarial training (Miyato et al. 2018): ``x_l = x + radius d / |d|``
    with ``d = grad_r KL(f(x) || f(x + r))`` at a random r = u of length ``probe``, or along u where d
    vanishes. Lengths are those of whole images.
    """
    image = batch["image"]
    before = log_of(task.predict(*model, batch))
    start = _unit(jax.random.normal(key, image.shape, image.dtype), jnp.zeros_like(image))

    def away(offset):
        return divergence(before, log_of(task.predict(*model, {**batch, "image": image + offset}))).sum()

    return image + radius * _unit(jax.grad(away)(probe * start), start)


def most_certain(task: Task, model: Variables, batch: Batch, radius: float) -> jax.Array:
    """x_g, images (examples, ...) of which the model is surer: ``x - radius g / |g|``, g the gradient.

    Of an image without a gradient it is the image itself.
    """

    def loss(image):
        return _entropies(task, model, {**batch, "image": image}).sum()

    image = batch["image"]
    return image - radius * _unit(jax.grad(loss)(image), jnp.zeros_like(image))


def _entropies(task: Task, model: Variables, batch: Batch) -> jax.Array:
    """``-log p_y`` (examples,) of valid examples, 0 of the others."""
    log_p, label = log_of(task.predict(*model, batch)), batch["label"].astype(jnp.int32)
    found = jnp.take_along_axis(log_p, jnp.maximum(label, 0)[:, None], axis=-1)[:, 0]
    return jnp.where(batch["valid"], -found, 0)


def _unit(x: jax.Array, otherwise: jax.Array) -> jax.Array:
    """Every image of the length 1; of those that vanish, ``otherwise``."""
    axes = tuple(range(1, x.ndim))
    # Of tiny numbers squares underflow.
    x = x / jnp.maximum(jnp.abs(x).max(axes, keepdims=True), 1e-30)
    length = jnp.sqrt((x**2).sum(axes, keepdims=True))
    return jnp.where(length > 0.5, x / jnp.maximum(length, 0.5), otherwise)


def virtual_samples(
    task: Task, smoothness: float, alignment: float, local_radius: float, global_radius: float, probe: float
) -> Method:
    """FedVSS's objective: ``CE(f(x), y) + lambda_l KL(f(x) || f(x_l)) + lambda_g CE(f(x_g), y)``.

    x_l is `least_smooth` of the client's model, x_g `most_certain` of the model w that it received; neither
    they nor the first f(x) of the divergence have gradients. Both weights 0 change no bit.

    Args:
      task: a classification of "image", its predictions probabilities (examples, classes).
      smoothness: lambda_l, at least 0.
      alignment: lambda_g, at least 0.
      local_radius, global_radius: epsilon_l and epsilon_g, positive, in the unit of the images.
      probe: xi, positive: the length at which the power iteration starts.

    Raises:
      ValueError: arguments out of range.
    """
    for name, weight in (("smoothness", smoothness), ("alignment", alignment)):
        if not weight >= 0:
            raise ArgumentError(name, "a number of at least 0", repr(weight))
    for name, length in (("local_radius", local_radius), ("global_radius", global_radius), ("probe", probe)):
        if not length > 0:
            raise ArgumentError(name, "a positive number", repr(length))
    if not smoothness and not alignment:
        return Method()

    def penalty(params, stats, batch, memory, context, key):
        own, received = Variables(params, stats), context.complete(context.received)
        still, received = jax.lax.stop_gradient((own, received))
        each = jnp.zeros(len(batch["valid"]))
        if smoothness:
            drawn = jax.random.fold_in(key, 16)
            image = least_smooth(task, still, batch, drawn, local_radius, probe)
            before = log_of(task.predict(*still, batch))
            after = log_of(task.predict(*own, {**batch, "image": image}))
            each += smoothness * divergence(before, after)
        if alignment:
            image = most_certain(task, received, batch, global_radius)
            each += alignment * _entropies(task, own, {**batch, "image": image})
        valid = batch["valid"]
        return jnp.where(valid, each, 0).sum() / jnp.maximum(valid.sum(), 1), ()

    return Method(penalty=penalty)


def fedvss(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    smoothness: float = 1.0,
    alignment: float = 1.0,
    local_radius: float = 1.0,
    global_radius: float = 1.0,
    probe: float = 0.1,
    keep_optimizer: bool = False,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """FedVSS (Zhu and Luo 2022, MICCAI): FedAvg on samples beside `virtual_samples` of them.

    One set keeps a client's model smooth around its data, the other brings it to the model of all. Nothing is
    sent besides the model. The publication has MedMNIST and Camelyon17; chest radiographs stand in.

    Deviations: filled in from the abstract; radii, weights, the probe and the single step that finds each
    sample are ours. Models see virtual samples as in evaluation, so that these change no batch statistics.

    Args:
      task, smoothness, alignment, local_radius, global_radius, probe: as in `virtual_samples`.
      optimizer: each client's optimizer.
      keep_optimizer: clients keep their optimizer's state between rounds.
      method: further methods.
      **options: as in `federated`.

    Raises:
      ValueError: as `virtual_samples`.
    """
    own = virtual_samples(task, smoothness, alignment, local_radius, global_radius, probe)
    return federated(task, optimizer, method=combine(own, method), keep_optimizer=keep_optimizer, **options)
