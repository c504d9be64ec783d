"""Nalawade: clients weigh by how well the models that they have trained segment their validation images."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.messages import Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.recipe import federated
from fedrecon.federated.sampling import by_examples
from fedrecon.types import Batch, PyTree, Task

# A score of 0 counts this much: nothing beside any other, and the same as all where all are 0.
_NOTHING = 1e-12


def weighted_by_score(
    score: Callable[[PyTree, PyTree, Batch], jax.Array], power: float = 1.0, size_power: float = 0.0
) -> Method:
    """The weight of a client: ``D_i^power n_i^size_power``, D_i being the score of what it has trained.

    Raises:
      ValueError: a power is negative.
    """
    for name, value in (("power", power), ("size_power", size_power)):
        if not value >= 0:
            raise ArgumentError(name, "a number of 0 or more", value)

    def finish(result, memory, context):
        found = score(*context.complete(result.variables), context.batches.judged)
        weight = jnp.maximum(found**power, _NOTHING) * result.weight**size_power
        weight = jnp.where(result.weight > 0, weight, 0).astype(result.weight.dtype)
        return result._replace(weight=weight), Message(), memory

    return Method(finish=finish, discloses="scores of its validation examples")


def nalawade(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    score: Callable[[PyTree, PyTree, Batch], jax.Array],
    power: float = 1.0,
    size_power: float = 0.0,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """Nalawade et al. (FeTS challenge, brain tumors): weights by performance.

    ``w <- sum_i alpha_i w_i`` with ``alpha_i = D_i^kappa / sum_j D_j^kappa``, D_i being the score that the
    locally trained w_i has on the client's own validation split; equal weights where all scores are 0. The
    score travels as the weight of the client's update, one number besides the model, so that sums suffice.
    With ``power=0, size_power=1`` it is FedAvg, bit for bit.

    The publication has 341 patients of 17 institutions, and as scores the mean Dice of three regions of a
    tumor, see `fedrecon.tasks.regions.region_dice`; programs take the mean Dice of the task, and the
    catalog's command photographs of the retina of three hospitals.

    Deviations: filled in from an abstract, no code being public. Scores have a power kappa, and may be mixed
    with sizes by a factor ``n_i^size_power``. A score of 0 weighs 1e-12, which is nothing in float32 beside
    any other; under a secure sum a round in which all scores are 0 is lost. Clients without a validation
    split score their training examples. Its second task, a network with transformers, is not here.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      score: ``score(params, stats, batch) -> float32 ()`` in [0, 1], such as a Dice.
      power: kappa, 0 or more.
      size_power: 0 or more; 1 multiplies scores by numbers of examples.
      method: further methods.
      **options: as in `federated`, except ``weighting``.

    Raises:
      ValueError: a power is negative.
    """
    own = weighted_by_score(score, power, size_power)
    return federated(task, optimizer, method=combine(own, method), weighting=by_examples, **options)
