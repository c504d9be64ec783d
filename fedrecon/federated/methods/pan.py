"""Pan et al.: the received model labels images that have no labels, where it is sure, and guides features."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.messages import Exchange, Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.methods.unlabeled import against_background, hidden_labels, pseudo_loss, ramp
from fedrecon.federated.recipe import federated
from fedrecon.types import Task, Variables


def coarsest(features: dict[str, jax.Array]) -> jax.Array | None:
    """Of what layers see (examples, pixels..., features) that with the fewest pixels, of equals the last."""
    found = None
    for x in features.values():
        if found is None or x[0, ..., 0].size <= found[0, ..., 0].size:
            found = x
    return found


def guided(
    task: Task,
    features: Callable | None,
    rounds: int,
    *,
    strength: float = 0.1,
    guidance: float = 0.1,
    confidence: float = 0.8,
    noise: float = 0.1,
) -> Method:
    """Adds ``lambda(t) L_u`` of examples that "unlabeled" of a batch marks, see `hidden_labels`.

    ``L_u = Dice + BCE(f(x~; w_i), 1[f(x; w) > 0.5]) + gamma |h_i - h_w|^2``, with w the received model, which
    is frozen, x~ the image with normal noise, h the `coarsest` features, squares averaged, and ``lambda(t) =
    strength ramp(t, rounds)``. Strength 0 adds nothing.

    Args:
      task: a segmentation of "image", its predictions probabilities (examples, pixels..., classes).
      features: ``features(params, stats, batch) -> {path: what a layer sees}``; None without guidance.
      rounds: T.
      strength: at least 0.
      guidance: gamma, at least 0.
      confidence: in [0.5, 1].
      noise: standard deviation, at least 0, as a part of that of the batch.

    Raises:
      ValueError: arguments out of range.
    """
    for name, value in (("strength", strength), ("guidance", guidance), ("noise", noise)):
        if not value >= 0:
            raise ArgumentError(name, "a number of at least 0", repr(value))
    if not 0.5 <= confidence <= 1:
        raise ArgumentError("confidence", "a number in [0.5, 1]", repr(confidence))
    if not strength:
        return Method()

    def penalty(params, stats, batch, memory, context, key):
        received = jax.lax.stop_gradient(context.complete(context.received))
        own, unlabeled = Variables(params, stats), batch["unlabeled"]
        # Padding is as large as it likes.
        there = jnp.where((batch["valid"] | unlabeled).reshape(-1, *(1,) * (batch["image"].ndim - 1)), 1, 0)
        image = jnp.where(there, batch["image"], 0)
        drawn = jax.random.normal(jax.random.fold_in(key, 18), image.shape, image.dtype)
        changed = {**batch, "image": image + noise * image.std() * drawn}
        sure, said = (
            against_background(task.predict(*model, b))
            for model, b in ((received, {**batch, "image": image}), (own, changed))
        )
        value = pseudo_loss(said, sure, unlabeled, confidence)
        if guidance and features is not None:
            seen, led = (coarsest(features(*model, batch)) for model in (own, received))
            if seen is not None:
                each = jnp.square(seen - led).reshape(len(unlabeled), -1).mean(1)
                value += guidance * jnp.where(unlabeled, each, 0).sum() / jnp.maximum(unlabeled.sum(), 1)
        return strength * ramp(context.broadcast, rounds) * value, ()

    def finish(result, memory, context):
        return result, Message(), memory

    server = Exchange(lambda variables: jnp.float32(0), lambda t: t, lambda t, message, context: t + 1)
    return Method(penalty=penalty, finish=finish, server=server)


def pan(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    clients: int,
    rounds: int,
    features: Callable | None = None,
    labeled: float = 1.0,
    unlabeled_clients: int = 0,
    unlabeled_weight: float = 0.5,
    strength: float = 0.1,
    guidance: float = 0.1,
    confidence: float = 0.8,
    noise: float = 0.1,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """M-FedLO (Pan, Zhong and Li 2024, Computer Engineering 50:367): few labels, and the received model's.

    FedAvg of `guided` training; the publication's network, whose structures have decoders of their own with
    outputs at three scales, is ``--network=separated-unet``. Its data are MRI of cervical spines of several
    sources, vertebrae and disks in two decoders (Dice .8686); hearts, CT with inserted spheres or photographs
    of the retina, of one structure, stand in, with labels hidden.

    Deviations: filled in from the abstract. Losses of structures are averaged, not added, those of scales
    divided by the sum of their weights; coarse outputs are enlarged where labels would be shrunk. The
    client's model sees unlabeled images with noise, and in both models normalization is that of evaluation.
    Of a softmax, structures are compared with the background. In a simulation labels of images are hidden,
    not of patients.

    Args:
      task, features, strength, guidance, confidence, noise: as in `guided`.
      optimizer: each client's optimizer.
      clients: their number.
      rounds: T, after which the ramp stays at 1.
      labeled, unlabeled_clients, unlabeled_weight: as in `hidden_labels`.
      method: further methods.
      **options: as in `federated`.

    Raises:
      ValueError: arguments out of range.
    """
    hidden = hidden_labels(clients, labeled, unlabeled_clients, unlabeled_weight)
    settings = {"strength": strength, "guidance": guidance, "confidence": confidence, "noise": noise}
    both = combine(hidden, guided(task, features, rounds, **settings), method)
    return federated(task, optimizer, method=both, **options)
