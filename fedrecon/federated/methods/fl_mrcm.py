"""FL-MRCM: the latents of reconstructions at source sites are aligned with those of a target site."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.alignment import Domain, discriminated, misled, new_perceptron, new_player, perceptron
from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.messages import Exchange, Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.methods.latents import Represent, drawn_latents, latent_width
from fedrecon.federated.recipe import federated
from fedrecon.federated.sampling import equal
from fedrecon.federated.trees import all_finite, select
from fedrecon.types import Task

# What a discriminator of two logits says of a latent.
SOURCE, TARGET = (0.0, 1.0), (1.0, 0.0)
_DISCRIMINATE = perceptron(0.2)


def cross_site_modeling(
    represent: Represent,
    example: Mapping[str, Any],
    *,
    target: int = 0,
    strength: float = 1.0,
    latents: int = 64,
    hidden: int = 256,
    discriminator_rate: float = 1e-3,
    noise: float = 0.0,
) -> Method:
    """FL-MRCM's adversarial alignment at the source sites.

    Source k keeps a discriminator D_k of latents z, of two logits. In every step, with z_s of its batch and
    as many z_t of what the target sent last, D_k takes a step of RMSprop on

      ``(BCE(D_k(z_s), (0, 1)) + BCE(D_k(z_t), (1, 0))) / 2``

    with the network frozen, and then the loss of the network gets, with D_k frozen,
    ``strength / 2 BCE(D_k(z_s), (1, 0))``. The target trains on the task's loss alone.

    Args:
      represent: z, ``represent(params, stats, batch) -> (examples, features)``.
      example: shapes and dtypes of a batch.
      target: the target's number.
      strength: lambda_adv, positive.
      latents: how many the target sends in a round.
      hidden: width of the discriminators' hidden layer.
      discriminator_rate: of RMSprop.
      noise: of latents that are sent, as a part of their deviations.

    Raises:
      ValueError: arguments out of range.
    """
    for name, value in (("latents", latents), ("hidden", hidden), ("discriminator_rate", discriminator_rate)):
        if not value > 0:
            raise ArgumentError(name, "a positive number", repr(value))
    if not noise >= 0:
        raise ArgumentError("noise", "a number of at least 0", repr(noise))
    optimizer = optax.rmsprop(discriminator_rate, 0.99, eps_in_sqrt=False)

    def init(variables):
        widths = (latent_width(represent, variables, example), hidden, len(TARGET))
        return new_player(new_perceptron(jax.random.key(0), widths), optimizer)

    def penalty(params, stats, batch, player, context, key):
        own, server = represent(params, stats, batch), context.broadcast
        drawn = jax.random.randint(jax.random.fold_in(key, 11), (len(own),), 0, latents)
        source = Domain(own, SOURCE, batch["valid"])
        other = Domain(server["latents"][drawn], TARGET)
        stepped = discriminated(player, optimizer, _DISCRIMINATE, (source, other), 0.5)
        active = (server["known"] > 0) & (context.batches.client != target)
        # What does not leave is not checked by the round.
        stepped = select(active & all_finite(stepped), stepped, player)
        # Of the target's latents, which are constants, the term has no gradient.
        term = misled(_DISCRIMINATE, stepped, [source._replace(target=TARGET)]) / 2
        return strength * jnp.where(active, term, 0), stepped

    def finish(result, player, context):
        variables, key = context.complete(result.variables), jax.random.fold_in(context.key, 12)
        sent = drawn_latents(represent, variables, context.batches, key, latents, noise)
        sent = jnp.where(context.batches.client == target, sent, 0)
        return result, Message(gathered={"latents": sent}), player

    def start(variables):
        width = latent_width(represent, variables, example)
        return {"latents": jnp.zeros((latents, width)), "known": jnp.zeros(())}

    def receive(server, message, context):
        found = message.gathered
        row = found.present & (found.client == target)
        sent = jnp.einsum("r,rnf->nf", row.astype(jnp.float32), found.values["latents"])
        return {
            "latents": jnp.where(row.any(), sent, server["latents"]),
            "known": jnp.where(row.any(), 1.0, server["known"]),
        }

    return Method(
        init=init,
        penalty=penalty,
        step=lambda player, params, batch, evaluation, context, key: evaluation.aux,
        finish=finish,
        server=Exchange(start, lambda server: server, receive),
        discloses="latents of the target's examples",
    )


def fl_mrcm(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    clients: int,
    represent: Represent,
    example: Mapping[str, Any],
    target: int = 0,
    strength: float = 1.0,
    latents: int = 64,
    hidden: int = 256,
    discriminator_rate: float = 1e-3,
    noise: float = 0.0,
    weighting: Callable = equal,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """FL-MR and FL-MRCM (Guo et al. 2021, CVPR, arXiv:2103.02148): reconstruction of MRI over several sites.

    FL-MR is averaging with equal weights; FL-MRCM adds `cross_site_modeling`. With strength 0 it is FL-MR,
    bit for bit: nothing but the model is sent.

    Deviations:
      - the authors' code reads images of the target at every source. Here the target sends latents, once a
        round, and sources see those of the round before; in the first round of the target there are none;
      - these are constants, so that the encoder moves at sources alone;
      - every client sends as many numbers, zeros where it is not the target;
      - the network is the experiment's, unrolled, in place of a U-Net on zero-filled magnitudes; z is what
        its first cascade has at the coarsest level, pooled to 2 x 2 (`fedrecon.tasks.bottleneck`);
      - loss, optimizer and schedule are the experiment's; published are the absolute error and RMSprop at
        1e-4, divided by 10 every 40 rounds.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      clients: their number.
      represent, example, target, latents, hidden, discriminator_rate, noise: as in `cross_site_modeling`.
      strength: lambda_adv, at least 0.
      weighting, method: as in `federated`.
      **options: as in `federated`.

    Raises:
      ValueError: arguments out of range.
    """
    if not 0 <= target < clients:
        raise ArgumentError("target", f"the number of one of the {clients} clients", target)
    if not strength >= 0:
        raise ArgumentError("strength", "a number of at least 0", repr(strength))
    own = cross_site_modeling(
        represent,
        example,
        target=target,
        strength=strength,
        latents=latents,
        hidden=hidden,
        discriminator_rate=discriminator_rate,
        noise=noise,
    )
    # Without strength nothing is to be sent.
    both = combine(own if strength else Method(), method)
    return federated(task, optimizer, method=both, weighting=weighting, **options)
