"""Lai et al.: models of their own, drawn together by the classes' mean features."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.local import sum_over_examples
from fedrecon.federated.messages import Channel, Exchange, Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.recipe import federated
from fedrecon.types import Batch, PyTree, Task, Variables

Represent = Callable[[PyTree, PyTree, Batch], jax.Array]


def class_means(
    task: Task,
    represent: Represent,
    example: Mapping[str, Any],
    *,
    strength: float = 1.0,
    radius: float = 1.0,
    minimum: int = 5,
    noise: float = 0.0,
    classify: str = "head",
) -> Method:
    """Lai's exchange: sums of features by class go up, the means of all clients come down.

    Features pass a privacy layer, ``radius f / |f|``. After its steps a client sends for every class with at
    least ``minimum`` examples the sum of these and their number, and zeros for the others. The loss of a step
    gets ``strength |f(x) - P_y|^2``, a mean over the examples whose class has a mean yet, of all that were
    sent in the last round in which anybody sent some. Strength 0 trains alone, bit for bit.

    With ``noise``, Gaussian noise of ``noise`` times sqrt(2) ``radius`` is added to the sums and to
    ``radius`` times the
    numbers: one example more or less moves the pair by at most sqrt(2) ``radius``, so that a round is one
    Gaussian mechanism with the multiplier ``noise`` for an example. Models that stay at the client have no
    guarantee.

    Args:
      task: a classification; the last axis of its predictions is that of the classes, and "label" the class.
      represent: ``represent(params, stats, batch) -> (examples, features)``, what the last layer sees.
      example: shapes and dtypes of a batch.
      strength: lambda, at least 0.
      radius: R, positive.
      minimum: examples of a class below which a client does not send it.
      noise: multiplier, at least 0.
      classify: "head", with what the client's network says; or "prototype", by the nearest of the means that
        the client received last, of a task as `fedrecon.tasks.nearest_prototype` makes it, of this radius.

    Raises:
      ValueError: arguments out of range; from the round, a task that keeps no prototypes.
    """
    if classify not in ("head", "prototype"):
        raise ArgumentError("classify", "head or prototype", repr(classify))
    for name, value in (("strength", strength), ("noise", noise), ("minimum", minimum)):
        if not value >= 0:
            raise ArgumentError(name, "a number of at least 0", repr(value))
    if not radius > 0:
        raise ArgumentError("radius", "a positive number", repr(radius))
    deviation = noise * math.sqrt(2) * radius

    def features(params: PyTree, stats: PyTree, batch: Batch) -> jax.Array:
        found = represent(params, stats, batch)
        length = jnp.sqrt(jnp.maximum((found**2).sum(-1, keepdims=True), 1e-12))
        return radius * found / length

    def init(variables: Variables) -> PyTree:
        classes, count = (
            jax.eval_shape(function, *variables, dict(example)).shape[-1]
            for function in (task.predict, represent)
        )
        return {"means": jnp.zeros((classes, count)), "known": jnp.zeros(classes)}

    def penalty(params, stats, batch, memory, context, key):
        label, server = batch["label"], context.broadcast
        own = jax.nn.one_hot(label, len(server["known"])) @ server["known"]
        place = jnp.clip(label, 0, len(server["known"]) - 1)
        away = ((features(params, stats, batch) - server["means"][place]) ** 2).sum(-1)
        counted = batch["valid"] & (own > 0)
        return strength * jnp.where(counted, away, 0).sum() / jnp.maximum(batch["valid"].sum(), 1), ()

    def finish(result, memory, context):
        variables, classes = context.complete(result.variables), len(context.broadcast["known"])

        def sums(batch):
            member = jax.nn.one_hot(batch["label"], classes) * batch["valid"][:, None]
            found = jnp.where(batch["valid"][:, None], features(*variables, batch), 0)
            return member.T @ found, member.sum(0)

        total, count = sum_over_examples(sums, context.batches)
        if noise:
            keys = jax.random.split(context.key, 2)
            total += deviation * jax.random.normal(keys[0], total.shape)
            count += deviation / radius * jax.random.normal(keys[1], count.shape)
        sent = count >= max(minimum, 1)
        total, count = jnp.where(sent[:, None], total, 0), jnp.where(sent, count, 0)
        if classify == "prototype":
            stats = result.variables.stats
            if "prototypes" not in stats:
                raise ArgumentError("task", "one of `fedrecon.tasks.nearest_prototype`", "no prototypes")
            kept = {**stats, "prototypes": dict(context.broadcast)}
            result = result._replace(variables=result.variables._replace(stats=kept))
        return result, Message(summed={"sums": total, "counts": count}), memory

    def receive(server, message, context):
        total, count = message.summed["sums"], message.summed["counts"]
        new = total / jnp.maximum(count, 1)[:, None]
        means = jnp.where((count > 0)[:, None], new, server["means"])
        return {"means": means, "known": jnp.where(count > 0, 1.0, server["known"])}

    return Method(
        penalty=penalty if strength else None,
        finish=finish,
        server=Exchange(init, lambda server: server, receive),
        discloses="" if noise else "the mean features of classes",
    )


def lai(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    represent: Represent,
    example: Mapping[str, Any],
    strength: float = 1.0,
    radius: float = 1.0,
    minimum: int = 5,
    noise: float = 0.0,
    classify: str = "head",
    sampler: Callable | None = None,
    channel: Channel | None = None,
    keep_optimizer: bool = False,
    method: Method | None = None,
) -> FederatedAlgorithm:
    """Clients keep their models and share `class_means` of features alone (Lai et al., COVID-19 on chest CT).

    Args:
      task, represent, example, strength, radius, minimum, noise, classify: as in `class_means`.
      optimizer: each client's optimizer.
      sampler, channel, keep_optimizer, method: as in `federated`.

    Raises:
      ValueError: arguments out of range.
    """
    own = class_means(
        task,
        represent,
        example,
        strength=strength,
        radius=radius,
        minimum=minimum,
        noise=noise,
        classify=classify,
    )
    return federated(
        task,
        optimizer,
        method=combine(own, method),
        sampler=sampler,
        channel=channel,
        keep_optimizer=keep_optimizer,
        share_mask=Variables(False, False),
    )
