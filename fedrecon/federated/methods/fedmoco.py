"""FedMoCo: momentum contrast with negatives drawn from Gaussians of other clients' features."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.alignment import (
    Contrast,
    dissimilarities,
    gaussian_draws,
    rank_correlation,
    signed_power,
    unit,
)
from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.messages import Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.methods.momentum_contrast import (
    AT_ROUND,
    Remote,
    contrasted,
    encoded,
    momentum_contrast,
    one_positive,
    relayed,
)
from fedrecon.federated.recipe import federated
from fedrecon.types import Task

WEIGHTS = ("divergence", "similarity", "equal")
# Of a client whose own weight is 0, so that the weights of all add up to something.
_LEAST = 1e-6


def fedmoco(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    contrast: Contrast,
    clients: int,
    queue: int = 1024,
    momentum: float = 0.999,
    temperature: float = 0.2,
    sampled: float = 0.05,
    power: float = 0.5,
    diagonal: bool = False,
    images: int = 100,
    weights: str = "divergence",
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """FedMoCo (radiographs of COVID-19): MoCo, metadata of features, and weights by how far these moved.

    Clients train by `momentum_contrast` with InfoNCE. After its steps client i sends the mean mu_i and the
    covariance Sigma_i of its features h, of all its images under the momentum encoder, after
    ``sign(h) |h|^power``. In the next round it draws ``ceil(sampled queue)`` vectors from the Gaussians of
    the others, evenly, undoes the power, normalizes, and takes them for negatives besides its bank. With
    RDM(w)_ab = 1 - corr(h_a, h_b) of its first ``images`` images and r_i Spearman's correlation of the upper
    triangles of RDM(w) and RDM(w_i), its weight is proportional to 1 - r_i ("divergence") or to max(r_i, 0)
    ("similarity").

    Deviations: constants are not published (K_q, eta_m, m, n_r are filled in), nor whether clients that moved
    more weigh more (the default here) or less. Features are those of the projection, which have signs: hence
    the power with a sign. The server sends everybody the metadata of all clients, of which each leaves out
    its own. Weights of 0 are 1e-6, so that all being 0 means equal ones.

    Args:
      task: whose loss InfoNCE replaces.
      optimizer: each client's optimizer.
      contrast: views and network.
      clients: their number.
      queue: K_q, keys that a client keeps.
      momentum: m, in [0, 1].
      temperature: T, positive.
      sampled: eta_m, at least 0.
      power: exponent, positive; 1 leaves features as they are.
      diagonal: variances are sent in place of covariances.
      images: n_r, 2 or more.
      weights: one of `WEIGHTS`.
      method: further methods.
      **options: as in `federated`, except ``weighting``.

    Raises:
      ValueError: arguments out of range.
    """
    if not sampled >= 0:
        raise ArgumentError("sampled", "a number of at least 0", repr(sampled))
    if not (isinstance(images, int) and images >= 2):
        raise ArgumentError("images", "an integer of at least 2", repr(images))
    if weights not in WEIGHTS:
        raise ArgumentError("weights", f"one of {', '.join(WEIGHTS)}", repr(weights))
    signed_power(jnp.zeros(()), power)
    count, size = math.ceil(round(sampled * queue, 9)), contrast.features
    spread = (size,) if diagonal else (size, size)

    def fetch(metadata, context):
        key = jax.random.fold_in(context.key, AT_ROUND)
        return draw_features(key, metadata, context.batches.client, count, power)

    def report(result, slow, context):
        batches = context.batches
        here, slow = batches.present, context.complete(slow.encoder)
        h = signed_power(encoded(contrast, slow, batches, jnp.arange(len(here))), power)
        mean = jnp.where(here[:, None], h, 0).sum(0) / jnp.maximum(batches.count, 1)
        apart = jnp.where(here[:, None], h - mean, 0)
        squares = (apart**2).sum(0) if diagonal else apart.T @ apart
        covariance = squares / jnp.maximum(batches.count, 1)
        chosen = jnp.argsort(~here)[:images]
        upper = jnp.triu_indices(len(chosen), 1)
        before, after = (
            dissimilarities(encoded(contrast, context.complete(model), batches, chosen))[upper]
            for model in (context.received, result.variables)
        )
        r = rank_correlation(before, after, here[chosen][upper[0]] & here[chosen][upper[1]])
        return Message(scalars={"correlation": r}, gathered={"mean": mean, "covariance": covariance})

    def weighting(weight, context):
        scalars = context.message.scalars if method is None else context.message.scalars[0]
        r = scalars["correlation"]
        own = {"divergence": 1 - r, "similarity": r, "equal": jnp.ones_like(r)}[weights]
        return jnp.where(weight > 0, jnp.maximum(own, _LEAST), 0)

    server = relayed({"mean": jnp.zeros(size), "covariance": jnp.zeros(spread)}, clients)
    own = momentum_contrast(contrast, queue=queue, rate=momentum, fetch=fetch, report=report, server=server)
    task = contrasted(task, contrast, one_positive(temperature))
    return federated(task, optimizer, method=combine(own, method), weighting=weighting, **options)


def draw_features(key: jax.Array, metadata: dict, own: jax.Array, count: int, power: float) -> Remote:
    """Vectors of length 1 from the Gaussians of all clients but one, evenly.

    Args:
      key: typed.
      metadata: "mean" (clients, features) and "covariance" (clients, features, features), or variances
        (clients, features); zeros of clients that have sent none.
      own: int32 (), the one that is left out.
      count: of the vectors.
      power: exponent after which the Gaussians are.
    """
    mean, covariance = metadata["mean"], metadata["covariance"]
    known = (jnp.abs(mean).sum(1) > 0) & (jnp.arange(len(mean)) != own)
    donors = jnp.argsort(~known)[jnp.arange(count) % jnp.maximum(known.sum(), 1)]
    features = unit(signed_power(gaussian_draws(key, mean, covariance, donors), 1 / power))
    return Remote(features, jnp.where(known.any(), donors, -1).astype(jnp.int32))
