"""Audits of differential privacy by canaries: a lower bound of epsilon from one training.

Canaries are units that are put into a training or left out by fair coins of their own. An auditor who tells
from what was released which of them were in proves a lower bound of epsilon (Steinke, Nasr and Jagielski
2023), with a stated confidence. Gradient canaries have gradients of random directions, which an auditor who
sees the
released change of the model finds by inner products (Andrew et al. 2024, Nasr et al. 2023).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.federated import FederatedAlgorithm
from fedrecon.types import Batch, PyTree, Task


class CanaryAudit(NamedTuple):
    """What canaries prove.

    Attributes:
      lower: of epsilon, with probability 1 - ``significance``; assumes nothing of the mechanism.
      upper: infinite: no attack proves that there is none better. The claim of the accountant stands there.
      estimate: epsilon of the Gaussian mechanism that these scores fit; no bound.
      auc: of the scores, 0.5 for a guess.
      canaries: how many there were.
      significance: of the lower bound.
      delta: that epsilons belong to.
    """

    lower: float
    upper: float
    estimate: float
    auc: float
    canaries: int
    significance: float
    delta: float

    def consistent(self, claim: float) -> bool:
        """Whether a claimed epsilon is not refuted."""
        return self.lower <= claim


def audit_canaries(
    scores: np.ndarray, included: np.ndarray, *, delta: float, significance: float = 0.05
) -> CanaryAudit:
    """The one-run lower bound of epsilon from scores of canaries, the higher the likelier they were in.

    Args:
      scores: (canaries,) finite.
      included: bool (canaries,), the outcomes of independent fair coins.
      delta: of the guarantee, in (0, 1).
      significance: probability that the bound is above the true epsilon, at most.

    Raises:
      ValueError: shapes disagree, scores are not finite, or all canaries were in, or out.
      ImportError: without jax-privacy.
    """
    from jax_privacy.auditing import CanaryScoreAuditor

    scores, included = np.asarray(scores, np.float64), np.asarray(included, bool)
    if scores.shape != included.shape or scores.ndim != 1 or not np.isfinite(scores).all():
        raise ArgumentError("scores", f"finite numbers {included.shape}", scores.shape)
    if not 0 < delta < 1 or not 0 < significance < 1:
        raise ArgumentError("delta, significance", "numbers in (0, 1)", (delta, significance))
    if included.all() or not included.any():
        raise ArgumentError("included", "canaries that are in, and some that are out", f"{included.sum()} in")
    auditor = CanaryScoreAuditor(scores[included], scores[~included])
    return CanaryAudit(
        max(0.0, float(auditor.epsilon_one_run(significance, delta))),
        math.inf,
        max(0.0, _gaussian_estimate(scores[included], scores[~included], delta)),
        float(auditor.attack_auroc()),
        len(scores),
        significance,
        delta,
    )


def unit_directions(params: PyTree, count: int, key: jax.Array) -> PyTree:
    """Random directions, leaves (count, ...), each of l2 norm 1 over all leaves."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(k, (count, *x.shape)) for k, x in zip(keys, leaves, strict=True)]
    size = jnp.sqrt(sum(jnp.square(x).reshape(count, -1).sum(1) for x in drawn))
    scaled = [x / size.reshape(-1, *(1,) * (x.ndim - 1)) for x in drawn]
    return jax.tree.unflatten(structure, scaled)


def with_gradient_canaries(task: Task, directions: PyTree, size: float) -> Task:
    """The task with examples whose gradient is a direction: record or patient canaries.

    Examples have the key "canary", int32: the number of their direction, -1 for ordinary ones, -2 for
    canaries that are out, which add nothing, as neighbors by zeroing want it. A batch with a canary (one unit
    of differential privacy) has the loss ``-size <direction, params>``: the model moves along the direction.
    Other batches have the task's.

    Args:
      task: what is learned.
      directions: leaves (canaries, ...), as `unit_directions` draws.
      size: l2 norm of the gradient, at least the clipping norm for the strongest canaries.
    """

    def loss(params: PyTree, stats: PyTree, batch: Batch, key: jax.Array) -> tuple[jax.Array, tuple]:
        own = {name: x for name, x in batch.items() if name != "canary"}
        number = jnp.where(batch["valid"], batch["canary"], -3).max()
        usual, rest = task.loss(params, stats, own, key)
        chosen = jax.tree.map(lambda d: d[jnp.maximum(number, 0)], directions)
        product = sum(jnp.vdot(d, p) for d, p in zip(*map(jax.tree.leaves, (chosen, params)), strict=True))
        return jnp.where(number >= 0, -size * product, jnp.where(number == -2, 0, usual)), rest

    return task._replace(loss=loss)


def with_site_canaries(
    algorithm: FederatedAlgorithm, directions: PyTree, first: int, size: float
) -> FederatedAlgorithm:
    """The algorithm with clients ``first + k`` that send ``size`` times direction k as their change.

    Those that are out have no example, and take no part.

    Args:
      algorithm: of any recipe.
      directions: leaves (canaries, ...) in the structure of the parameters.
      first: number of the first canary.
      size: l2 norm of the change.
    """
    count = jax.tree.leaves(directions)[0].shape[0]

    def update(variables, broadcast, state, batches, valid, key):
        result = algorithm.client.update(variables, broadcast, state, batches, valid, key)
        number = batches.client - first
        own = jax.tree.map(lambda d: size * d[jnp.clip(number, 0, count - 1)], directions)
        params = jax.tree.map(
            lambda new, old: jnp.where((number >= 0) & (number < count), new, old).astype(old.dtype),
            own,
            result.delta.params,
        )
        return result._replace(delta=result.delta._replace(params=params))

    return algorithm._replace(client=algorithm.client._replace(update=update))


def canary_scores(change: PyTree, directions: PyTree) -> np.ndarray:
    """(canaries,): inner products of a released change of the parameters with the canaries' directions."""
    products = [
        np.tensordot(np.asarray(d, np.float64).reshape(len(d), -1), np.asarray(x, np.float64).reshape(-1), 1)
        for d, x in zip(jax.tree.leaves(directions), jax.tree.leaves(change), strict=True)
    ]
    return np.sum(products, axis=0)


def _gaussian_estimate(inside: np.ndarray, outside: np.ndarray, delta: float) -> float:
    """Epsilon at this delta of two normal distributions of the same width, as far apart as the scores."""
    from scipy.optimize import brentq
    from scipy.special import log_ndtr

    width = math.sqrt((inside.var() + outside.var()) / 2)
    shift = abs(inside.mean() - outside.mean()) / max(width, 1e-12)

    def excess(epsilon: float) -> float:
        # Balle and Wang 2018: delta of the Gaussian mechanism with this shift.
        first = math.exp(log_ndtr(shift / 2 - epsilon / shift))
        return first - math.exp(epsilon + log_ndtr(-shift / 2 - epsilon / shift)) - delta

    if shift < 1e-9 or excess(0) <= 0:
        return 0.0
    high = shift * shift + 10 * shift
    return float(brentq(excess, 0, high)) if excess(high) < 0 else math.inf
