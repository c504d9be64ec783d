"""Roth et al.: breast density at hospitals, averaged by iterations, and the best local model of each."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.messages import Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.recipe import federated
from fedrecon.federated.trees import all_finite, merge, select
from fedrecon.types import Task


def by_iterations() -> Method:
    """Clients weigh by their local steps in a round; with a schedule of rates, by the sum of its factors."""

    def finish(result, memory, context):
        weight = jnp.where(result.weight > 0, context.steps, 0).astype(jnp.float32)
        return result._replace(weight=weight), Message(), memory

    return Method(finish=finish)


def best_local(task: Task, selection: str = "kappa") -> Method:
    """Clients evaluate with the model that scored best of those that they have trained, one a round.

    The score is the task's metric on the client's validation split, or on its training examples where it has
    none; the first of equal ones stays, and the last one as long as none could be scored. Nothing of it is
    sent.

    Args:
      task: its metrics have ``selection``.
      selection: a metric of which more is better.
    """

    def init(variables):
        return {"model": jax.tree.map(jnp.asarray, variables), "score": jnp.float32(-jnp.inf)}

    def finish(result, kept, context):
        metrics = task.metrics(*context.complete(result.variables), context.batches.judged)
        if selection not in metrics:
            raise ArgumentError("selection", f"one of {', '.join(sorted(metrics))}", repr(selection))
        total, count = metrics[selection]
        score = total / jnp.where(count > 0, count, jnp.nan)
        score = jnp.where(jnp.isfinite(score), score, -jnp.inf).astype(jnp.float32)
        unscored = kept["score"] == -jnp.inf
        better = (unscored | (score > kept["score"])) & all_finite(result.variables)
        new = {"model": result.variables, "score": score}
        return result, Message(), select(better, new, kept)

    def personalize(variables, kept, batch):
        return merge(kept["model"], variables)

    return Method(
        init=init, finish=finish, personalize=personalize, discloses="which model scores best on its examples"
    )


def roth(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    selection: str = "kappa",
    keep_optimizer: bool = False,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """Roth et al. 2020 (arXiv:2009.01871): classes of breast density, a to d, at seven sites.

    Clients send differences, which are averaged by their numbers of local iterations; each also keeps its
    `best_local` model, by the linearly weighted kappa of `fedrecon.tasks.ordered_task`, next to the final
    model of all. `fedrecon.evaluation.cross_site_kappa` makes the matrix of sites.

    Deviations: mammograms of seven hospitals, DenseNet-121 pretrained on photographs, Adam at 1e-4 that falls
    in steps, batches of 32 and up to 300 rounds are the publication's; here they are the experiment's, which
    draws images with four parts of dense tissue (``--cohort=simulated_density``; label shift by
    ``--partition=dirichlet``, scanners by ``--feature_shift``).

    Args:
      task: a classification, its metrics with ``selection``.
      optimizer: each client's optimizer.
      selection: the metric of validation examples by which local models are chosen.
      keep_optimizer: clients keep their optimizer's state between rounds.
      method: further methods.
      **options: as in `federated`.

    Raises:
      ValueError: at the first round, if the task has no such metric.
    """
    own = combine(by_iterations(), best_local(task, selection), method)
    return federated(task, optimizer, method=own, keep_optimizer=keep_optimizer, **options)
