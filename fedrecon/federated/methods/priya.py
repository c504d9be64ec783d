"""Priya et al.: several findings of a radiograph, positives and negatives of each weighing alike."""

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


def opposite_frequency(label: jax.Array, counts: jax.Array) -> jax.Array:
    """Weights (examples, findings): 1 - pi of positives, pi of negatives, pi being the part of positives.

    Over the examples that were counted, positives then weigh as much as negatives, finding by finding.

    Args:
      label: (examples, findings), 1 where present; or (examples,) of two classes, of which 1 is the finding.
      counts: of `count_labels`; a finding without any label has pi = 1/2.

    Raises:
      ValueError: labels are of more than two classes.
    """
    if label.ndim == 1 and counts.shape[1] > 2:
        raise ArgumentError("task", "one of findings, with labels (examples, findings)", label.shape)
    positive, known = counts if label.ndim == 2 else counts[:, -1]
    part = jnp.where(known > 0, positive / jnp.maximum(known, 1), 0.5)
    return jnp.where(label == 1, 1 - part, part)


def priya(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    exchanged: jax.Array | None = None,
    prior: str = "local",
    keep_optimizer: bool = False,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """Priya et al. (chest radiographs, 14 findings, DenseNet-121): FedAvg with a weighted cross-entropy.

    A finding c that a part pi_c of the images has, with the sigmoid s, has the loss::

        -((1 - pi_c) y log s + pi_c (1 - y) log(1 - s))

    averaged over findings; pi_c is of the client's own training images or, by counts that are exchanged once,
    of all clients'. A client without positives, or without negatives, of a finding learns nothing of it under
    its own prior.

    Deviations: which prior the publication takes is not known. With the global one, numbers of labeled images
    are sent beside those of positives, since images may lack labels. The publication divides ChestX-ray14
    with its 14 findings; three findings of radiographs of four sites stand in, and a small network.
    Validation losses are without weights.

    Args:
      task: of several findings, such as `fedrecon.tasks.findings_task`.
      optimizer: each client's optimizer.
      exchanged: numbers of labels of all clients, of `exchange_counts`.
      prior: "local" or "global".
      keep_optimizer: clients keep their optimizer's state between rounds.
      method: further methods.
      **options: as in `federated`.

    Raises:
      ValueError: another prior.
    """
    own = weighted_labels(task, prior, exchanged, opposite_frequency)
    return federated(task, optimizer, method=combine(own, method), keep_optimizer=keep_optimizer, **options)
