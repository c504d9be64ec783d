"""Survival analysis: Cox's proportional hazards, and the concordance of risks with times."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.tasks.network import check_batch, network
from fedrecon.types import Batch, Metrics, PyTree, Task


def cox_loss(risk: jax.Array, event: jax.Array, time: jax.Array, valid: jax.Array) -> jax.Array:
    """Negative partial log-likelihood of a batch over its number of patients (Cox 1972).

    Of patients with equal times, those that come later in the batch see the earlier ones at risk, as in
    FLamby's benchmark (arXiv:2210.04620), whose numbers depend on it.

    Args:
      risk: float (patients,), the logarithm of the hazard ratio.
      event: bool or 0 and 1 (patients,); 0 is censored.
      time: float (patients,), of the event or of the censoring, in any unit.
      valid: bool (patients,); others change nothing.
    """
    order = jnp.argsort(jnp.where(valid, -time, jnp.inf), stable=True)
    risk, event, valid = risk[order], event[order].astype(risk.dtype), valid[order]
    at_risk = jax.lax.cumlogsumexp(jnp.where(valid, risk, -jnp.inf))
    terms = jnp.where(valid & (event > 0), jnp.where(valid, at_risk, 0) - risk, 0)
    return terms.sum() / jnp.maximum(valid.sum(), 1)


def concordance(
    risk: jax.Array, event: jax.Array, time: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Harrell's concordance index as the pairs it counts: (in the right order, comparable), float32 ().

    A pair is comparable if the one with the shorter time had the event; of equal times, if one had the event
    and the other was censored, who is taken to have lived longer. Equal risks count one half.
    """
    first = (time[:, None] < time[None, :]) | ((time[:, None] == time[None, :]) & (event[None, :] == 0))
    pairs = first & (event[:, None] > 0) & valid[:, None] & valid[None, :]
    pairs &= ~jnp.eye(len(risk), dtype=bool)
    right = jnp.where(risk[:, None] > risk[None, :], 1.0, jnp.where(risk[:, None] == risk[None, :], 0.5, 0.0))
    return jnp.where(pairs, right, 0).sum(), pairs.sum().astype(jnp.float32)


def cox_task(module: nn.Module, example: Batch, *, inputs: Sequence[str] = ("x",)) -> Task:
    """A task whose network gives each patient's log hazard ratio; batches have ``event`` and ``time``.

    The loss is that of the batch as a whole. Metrics are "concordance" within the evaluation split, and
    "loss". Predictions are risks (patients,).

    Args:
      module: its output is (patients, 1) or (patients,).
      example: a batch, of which shapes and dtypes are used.
      inputs: keys of what the module is given.
    """
    check_batch(example, (*inputs, "event", "time"))
    net = network(module, lambda batch: tuple(batch[name] for name in inputs), example)

    def loss(
        params: PyTree, stats: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        output, stats = net.train(params, stats, batch, key)
        value = cox_loss(_flat(output), batch["event"], batch["time"], batch["valid"])
        count = batch["valid"].sum().astype(jnp.float32)
        return value, (stats, {"loss": (value * count, count)})

    def metrics(params: PyTree, stats: PyTree, batch: Batch) -> Metrics:
        risk = _flat(net.evaluate(params, stats, batch))
        of = (risk, batch["event"], batch["time"], batch["valid"])
        count = batch["valid"].sum().astype(jnp.float32)
        return {"concordance": concordance(*of), "loss": (cox_loss(*of) * count, count)}

    def predict(params: PyTree, stats: PyTree, batch: Batch) -> PyTree:
        return _flat(net.evaluate(params, stats, batch))

    return Task(net.init, loss, metrics, predict, net.normalization)


def _flat(output: jax.Array) -> jax.Array:
    return output.reshape(output.shape[0])
