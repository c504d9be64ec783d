"""Wei et al.: pathogens of children's pneumonia from radiographs, with weights of the classes."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.method import Method, combine
from fedrecon.federated.methods.label_counts import weighted_labels
from fedrecon.federated.recipe import federated
from fedrecon.types import Task


def balanced(label: jax.Array, counts: jax.Array) -> jax.Array:
    """Weights (examples,) with which the examples of every class weigh alike, 1 in the mean.

    Of n examples in K classes, n_c of class c: ``n / (K n_c)``. Classes without an example are not counted.

    Args:
      label: int (examples,).
      counts: of `count_labels`.

    Raises:
      ValueError: labels are not of one class for each example.
    """
    if label.ndim != 1:
        raise ArgumentError("task", "a classification with one label for each example", label.shape)
    there = counts[0]
    weights = there.sum() / jnp.maximum((there > 0).sum() * there, 1)
    return weights[jnp.clip(label.astype(jnp.int32), 0, len(there) - 1)]


def wei(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    exchanged: jax.Array | None = None,
    prior: str = "local",
    keep_optimizer: bool = False,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """Wei et al. (a clinical system for children's community-acquired pneumonia): FedAvg with class weights.

    Hospitals average models by size; the cross-entropy of an example counts by `balanced`, of the client's
    own numbers of classes or of those of all clients. AUC and F1 are told for every class, too
    (`fedrecon.tasks.class_scores_task`).

    Deviations: filled in from a review's line. The publication has radiographs of children with bacteria,
    viruses and mycoplasma, and compares with readers; published findings of adults' radiographs at four
    sites stand in (virus, bacterium, neither), without readers. Validation losses are without weights.

    Args:
      task: a classification.
      optimizer: each client's optimizer.
      exchanged: numbers of classes of all clients, of `exchange_counts`.
      prior: "local" or "global", whose numbers of classes make the weights.
      keep_optimizer: clients keep their optimizer's state between rounds.
      method: further methods.
      **options: as in `federated`.

    Raises:
      ValueError: another prior.
    """
    own = weighted_labels(task, prior, exchanged, balanced)
    return federated(task, optimizer, method=combine(own, method), keep_optimizer=keep_optimizer, **options)
