"""Li et al.: noisy uploads, a private expert and gate, and encoders that hide their site."""

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
from fedrecon.federated.methods.latents import Represent, drawn_latents, latent_width, with_noise
from fedrecon.federated.recipe import federated
from fedrecon.federated.sampling import equal
from fedrecon.federated.trees import all_finite, select
from fedrecon.types import Task, Variables

# Groups of leaves that stay at clients, as `fedrecon.tasks.mixture_of_experts` names them.
PRIVATE = ("expert", "gate")
_DISCRIMINATE = perceptron(0.0)
_DRAWS = {"gaussian": jax.random.normal, "laplace": jax.random.laplace}


def noisy_upload(scale: float, law: str = "gaussian") -> Method:
    """Parameters with noise before they are averaged: of a tensor w of the trained model ``w + s std(w) n``.

    n is standard normal or, with the law "laplace", of Laplace's distribution with the scale 1. Statistics
    are sent without noise, and what stays at the client gets none. Nothing is clipped, and no privacy is
    accounted.

    Args:
      scale: s, at least 0; 0 changes nothing, bit for bit.
      law: "gaussian" or "laplace".

    Raises:
      ValueError: arguments out of range.
    """
    if law not in _DRAWS:
        raise ArgumentError("law", " or ".join(_DRAWS), repr(law))
    if not scale >= 0:
        raise ArgumentError("noise", "a number of at least 0", repr(scale))
    if scale == 0:
        return Method()

    def finish(result, memory, context):
        leaves, structure = jax.tree.flatten(result.variables.params)
        keys = jax.random.split(jax.random.fold_in(context.key, 13), len(leaves))
        drawn = [x.std() * _DRAWS[law](k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
        noise = jax.tree.unflatten(structure, drawn)
        sent = jax.tree.map(lambda d, n: d + scale * n, result.delta.params, noise)
        return result._replace(delta=result.delta._replace(params=sent)), Message(), memory

    return Method(finish=finish)


def hidden_sites(
    represent: Represent,
    example: Mapping[str, Any],
    clients: int,
    *,
    strength: float = 1.0,
    start: int = 5,
    latents: int = 64,
    hidden: int = 4,
    discriminator_rate: float = 1e-4,
    noise: float = 1e-3,
) -> Method:
    """Li's adversarial alignment: site i keeps a discriminator D_i, of whether features are its own.

    In every step, with z_i of its batch and as many z_j of what each other site sent last, all noised, D_i
    takes a step of Adam on ``-log D_i(z_i) - mean_j log(1 - D_i(z_j))`` with the encoder frozen, and then the
    loss of the encoder gets, with D_i frozen, ``strength`` times ``-log D_i(z_i) - log(1 - D_i(z_i))``.

    Args:
      represent: z, ``represent(params, stats, batch) -> (examples, features)``.
      example: shapes and dtypes of a batch.
      clients: their number.
      strength: positive.
      start: rounds of plain averaging before it, at least 0.
      latents: how many every site sends in a round.
      hidden: width of the discriminators' hidden layer.
      discriminator_rate: of Adam.
      noise: of features, as a part of their deviations.

    Raises:
      ValueError: arguments out of range.
    """
    for name, value in (("latents", latents), ("hidden", hidden), ("discriminator_rate", discriminator_rate)):
        if not value > 0:
            raise ArgumentError(name, "a positive number", repr(value))
    for name, value in (("start", start), ("feature_noise", noise)):
        if not value >= 0:
            raise ArgumentError(name, "a number of at least 0", repr(value))
    optimizer = optax.adam(discriminator_rate)

    def init(variables):
        widths = (latent_width(represent, variables, example), hidden, 1)
        return new_player(new_perceptron(jax.random.key(0), widths), optimizer)

    def penalty(params, stats, batch, player, context, key):
        keys = jax.random.split(jax.random.fold_in(key, 14), 2)
        server, own = context.broadcast, with_noise(keys[0], represent(params, stats, batch), noise)
        drawn = jax.random.randint(keys[1], (len(own),), 0, latents)
        others = (server["known"] > 0) & (jnp.arange(clients) != context.batches.client)
        mine = Domain(own, (1.0,), batch["valid"])
        theirs = Domain(
            server["latents"][:, drawn].reshape(-1, own.shape[-1]), (0.0,), jnp.repeat(others, len(own))
        )
        stepped = discriminated(player, optimizer, _DISCRIMINATE, (mine, theirs))
        # What does not leave is not checked by the round.
        active = others.any() & (server["rounds"] >= start) & all_finite(stepped)
        stepped = select(active, stepped, player)
        term = misled(_DISCRIMINATE, stepped, (mine, mine._replace(target=(0.0,))))
        return strength * jnp.where(active, term, 0), stepped

    def finish(result, player, context):
        variables, key = context.complete(result.variables), jax.random.fold_in(context.key, 15)
        sent = drawn_latents(represent, variables, context.batches, key, latents, noise)
        return result, Message(gathered={"latents": sent}), player

    def begin(variables):
        width = latent_width(represent, variables, example)
        return {
            "latents": jnp.zeros((clients, latents, width)),
            "known": jnp.zeros(clients),
            "rounds": jnp.zeros(()),
        }

    def receive(server, message, context):
        found = message.gathered
        rows = jnp.where(found.present, found.client, clients)
        return {
            "latents": server["latents"].at[rows].set(found.values["latents"], mode="drop"),
            "known": server["known"].at[rows].set(1.0, mode="drop"),
            "rounds": server["rounds"] + 1,
        }

    return Method(
        init=init,
        penalty=penalty,
        step=lambda player, params, batch, evaluation, context, key: evaluation.aux,
        finish=finish,
        server=Exchange(begin, lambda server: server, receive),
        discloses="features of examples",
    )


def li_moe(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    clients: int,
    represent: Represent,
    example: Mapping[str, Any],
    noise: float = 0.01,
    law: str = "gaussian",
    strength: float = 1.0,
    start: int = 5,
    latents: int = 64,
    hidden: int = 4,
    discriminator_rate: float = 1e-4,
    feature_noise: float = 1e-3,
    weighting: Callable = equal,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """Li X. et al. 2020 (Medical Image Analysis, arXiv:2001.05647): functional MRI of several sites.

    `noisy_upload`, the task `fedrecon.tasks.mixture_of_experts`, whose expert and gate stay at clients, and
    `hidden_sites`. The publication compares the last two; here they go together, and each may be left out.
    Without noise, strength and mixture it is averaging with equal weights, bit for bit.

    Deviations:
      - features travel once a round, not in every step, and are those of the round before; sites see none of
        their gradients. An encoder would get ``-log D_i(z_i)`` of its own discriminator and ``-log D_j(z_i)``
        of the others'; in place of the latter is ``-log(1 - D_i(z_i))``, which its own says of the others;
      - a discriminator takes one step for all other sites, not one for each;
      - the expert is as wide as the shared network and has its optimizer (the publication: half as wide), and
        no gradient of the mixture reaches it (the authors' code lets it);
      - network, optimizer, schedule and length of rounds are the experiment's.

    Args:
      task: of `mixture_of_experts`, or any classification.
      optimizer: each client's optimizer.
      clients, represent, example, start, latents, hidden, discriminator_rate: as in `hidden_sites`.
      noise, law: scale and law of `noisy_upload`.
      strength: of `hidden_sites`, at least 0.
      feature_noise: its ``noise``.
      weighting, method: as in `federated`.
      **options: as in `federated`.

    Raises:
      ValueError: arguments out of range.
    """
    if not strength >= 0:
        raise ArgumentError("strength", "a number of at least 0", repr(strength))
    alignment = hidden_sites(
        represent,
        example,
        clients,
        strength=strength,
        start=start,
        latents=latents,
        hidden=hidden,
        discriminator_rate=discriminator_rate,
        noise=feature_noise,
    )
    noisy = noisy_upload(noise, law)
    # Without strength nothing is to be sent.
    own = combine(noisy if noise else None, alignment if strength else None, method)
    return federated(task, optimizer, method=own, weighting=weighting, share_mask=_shared(task), **options)


def _shared(task: Task) -> Variables:
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    return Variables(*({name: name not in PRIVATE for name in part} for part in shapes))
