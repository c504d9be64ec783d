"""MediSecFed: clients answer synthetic images, and a server's model learns from the answers."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.messages import Channel, Context, Exchange, Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.methods.agreement import AGGREGATES, agree, divergence, log_of
from fedrecon.federated.methods.synthetic_images import Features, distill, invert, logits_of, smooth_noise
from fedrecon.federated.recipe import federated
from fedrecon.types import PyTree, Task, Variables


class Server(NamedTuple):
    """What the server keeps.

    Attributes:
      model: `Variables` of its own model.
      images: float16 (images, ...), what clients are asked next.
      consensus: float32 (images, classes), softened probabilities of the images that were asked last.
      asked: int32 (), how often it has asked; 0 without a consensus.
      rejected: bool (clients,), whose last answer was left out.
    """

    model: Variables
    images: jax.Array
    consensus: jax.Array
    asked: jax.Array
    rejected: jax.Array


def answered_images(
    task: Task,
    example: Mapping[str, Any],
    clients: int,
    *,
    images: int = 256,
    strength: float = 1.0,
    temperature: float = 3.0,
    batch: int = 32,
    distill_steps: int = 50,
    inversion_steps: int = 200,
    aggregate: str = "median",
    noise: float = 0.0,
    features: Features | None = None,
) -> Method:
    """MediSecFed's exchange (Kumar et al.), robust to clients that answer falsely.

    Each round the server sends images that it drew from its own model (`invert`), and the consensus on the
    former ones. Clients train on their data and ``strength T^2 KL(own || consensus)`` of some of the former
    images, and answer the new ones with logits, clipped to ±10. The server softens answers at the temperature
    T, leaves out clients whose mean divergence from the median is 3 median deviations above the median one,
    and distils the ``aggregate`` of the others into its model. Strength 0 trains alone, bit for bit. Batch
    statistics of the server's model stay as they are.

    Args:
      task: a classification of "image"; the last axis of its predictions is that of the classes.
      example: shapes and dtypes of a batch.
      clients: their number.
      images: how many are asked, Q.
      strength: lambda, at least 0.
      temperature: T, positive.
      batch: images of a step, of a client's penalty and of the server's distillation.
      distill_steps: of Adam at 1e-3 on the server's model in a round.
      inversion_steps: of Adam at 0.05 on the images in a round.
      aggregate: one of `AGGREGATES`: the coordinate-wise median, a mean without a fifth of the answers at
        either end, or a plain mean, which one false client can move anywhere.
      noise: standard deviation of Gaussian noise on logits.
      features: ``features(params, stats, batch) -> {layer: (examples, ..., channels)}``, what layers of the
        server's model see: drawn images get the moments that its batches of distillation had there. None
        draws without.

    Raises:
      ValueError: arguments out of range.
    """
    at_least: dict[str, tuple[float, int]] = {
        "images": (images, 1),
        "batch": (batch, 1),
        "distill_steps": (distill_steps, 0),
        "inversion_steps": (inversion_steps, 0),
        "strength": (strength, 0),
        "noise": (noise, 0),
    }
    for name, (value, least) in at_least.items():
        if not value >= least:
            raise ArgumentError(name, f"a number of at least {least}", repr(value))
    if not temperature > 0:
        raise ArgumentError("temperature", "a positive number", repr(temperature))
    if aggregate not in AGGREGATES:
        raise ArgumentError("aggregate", f"one of {', '.join(AGGREGATES)}", repr(aggregate))
    size = min(batch, images)

    def init(variables: Variables) -> Server:
        shape = (images, *example["image"].shape[1:])
        first = smooth_noise(jax.random.key(0), shape)
        classes = jax.eval_shape(lambda v, x: logits_of(task, v, x), variables, first).shape[-1]
        consensus = jnp.full((images, classes), 1 / classes, jnp.float32)
        # Copies: the state's leaves are donated apart from each other.
        model = jax.tree.map(jnp.copy, variables)
        return Server(model, first.astype(jnp.float16), consensus, jnp.int32(0), jnp.zeros(clients, bool))

    def broadcast(server: Server) -> PyTree:
        return {"images": server.images, "consensus": server.consensus, "asked": server.asked}

    def begin(state, context):
        return state

    def keep(variables):
        shape = (images, *example["image"].shape[1:])
        return {"images": jnp.zeros(shape, jnp.float16), "asked": jnp.int32(-1)}

    def penalty(params, stats, batch, state, context, key):
        chosen = jax.random.choice(jax.random.fold_in(key, 7), images, (size,), replace=False)
        own = logits_of(task, Variables(params, stats), state["images"][chosen].astype(jnp.float32))
        value = divergence(
            jax.nn.log_softmax(own / temperature), log_of(context.broadcast["consensus"][chosen])
        )
        # Who missed the round of these images has none that the consensus is of.
        seen = (state["asked"] >= 0) & (state["asked"] + 1 == context.broadcast["asked"])
        return strength * temperature**2 * jnp.where(seen, value.mean(), 0), ()

    def finish(result, state, context):
        asked = context.broadcast["images"]
        logits = logits_of(task, context.complete(result.variables), asked.astype(jnp.float32))
        if noise:
            logits += noise * jax.random.normal(jax.random.fold_in(context.key, 8), logits.shape)
        state = {"images": asked, "asked": context.broadcast["asked"]}
        return result, Message(gathered={"logits": jnp.clip(logits, -10, 10)}), state

    def receive(server: Server, message: Message, context: Context) -> Server:
        # Who answers falsely does not clip either.
        logits = jnp.clip(message.gathered.values["logits"], -10, 10)
        answers = jax.nn.softmax(logits / temperature)
        consensus, accepted = agree(answers, message.gathered.present, aggregate)
        rejected = (
            jnp.zeros(clients, bool)
            .at[message.gathered.client]
            .set(message.gathered.present & ~accepted, mode="drop")
        )
        keys = jax.random.split(context.key, 2)
        model, moments = distill(
            task,
            server.model,
            server.images,
            consensus,
            keys[0],
            temperature=temperature,
            steps=distill_steps,
            size=size,
            features=features,
        )
        asked = invert(
            task,
            model,
            server.images.shape,
            keys[1],
            features=features,
            moments=moments,
            steps=inversion_steps,
        )
        return Server(model, asked.astype(jnp.float16), consensus, server.asked + 1, rejected)

    return Method(
        init=keep,
        begin=begin,
        penalty=penalty if strength else None,
        finish=finish,
        server=Exchange(init, broadcast, receive),
        discloses="" if noise else "answers to images",
    )


def medisecfed(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    example: Mapping[str, Any],
    clients: int,
    images: int = 256,
    strength: float = 1.0,
    temperature: float = 3.0,
    batch: int = 32,
    distill_steps: int = 50,
    inversion_steps: int = 200,
    aggregate: str = "median",
    noise: float = 0.0,
    features: Features | None = None,
    sampler: Callable | None = None,
    channel: Channel | None = None,
    keep_optimizer: bool = False,
    method: Method | None = None,
) -> FederatedAlgorithm:
    """Distillation without parameters (Kumar et al., MediSecFed), see `answered_images`.

    Clients keep models of their own, of any kind; the one that is handed out is the server's.

    Args:
      task, example, clients, images, strength, temperature, batch, distill_steps, inversion_steps, aggregate,
        noise, features: as in `answered_images`.
      optimizer: each client's optimizer.
      sampler, channel, keep_optimizer, method: as in `federated`.

    Raises:
      ValueError: arguments out of range.
    """
    own = answered_images(
        task,
        example,
        clients,
        images=images,
        strength=strength,
        temperature=temperature,
        batch=batch,
        distill_steps=distill_steps,
        inversion_steps=inversion_steps,
        aggregate=aggregate,
        noise=noise,
        features=features,
    )
    return federated(
        task,
        optimizer,
        method=combine(own, method),
        sampler=sampler,
        channel=channel,
        keep_optimizer=keep_optimizer,
        share_mask=Variables(False, False),
        release=(lambda state: state.exchange.model)
        if method is None
        else (lambda state: state.exchange[0].model),
    )
