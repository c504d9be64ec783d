"""Adaptation at test time: normalization layers descend the entropy of predictions, without labels."""

import jax
import jax.numpy as jnp

from fedrecon.federated.method import Method
from fedrecon.federated.trees import merge, partition
from fedrecon.types import Batch, PyTree, Task, Variables


def mean_entropy(task: Task, variables: Variables, batch: Batch) -> jax.Array:
    """Mean of - sum_c p log p over pixels and valid examples, of probabilities (examples, ..., classes)."""
    p = task.predict(*variables, batch)
    each = -(p * jnp.log(jnp.maximum(p, 1e-12))).sum(-1)
    each = each.reshape(each.shape[0], -1).mean(-1)
    return jnp.where(batch["valid"], each, 0).sum() / jnp.maximum(batch["valid"].sum(), 1)


def adapted_to(task: Task, variables: Variables, batch: Batch, *, steps: int, rate: float) -> Variables:
    """The model after some steps down the entropy of its predictions, of its normalization's leaves alone."""
    own, others = partition(variables, Variables(task.normalization.params, False))

    def entropy(params: PyTree) -> jax.Array:
        return mean_entropy(task, merge(Variables(params, own.stats), others), batch)

    def step(_, params):
        return jax.tree.map(lambda p, g: (p - rate * g).astype(p.dtype), params, jax.grad(entropy)(params))

    return merge(Variables(jax.lax.fori_loop(0, steps, step, own.params), own.stats), others)


def at_test_time(task: Task, *, steps: int, rate: float) -> Method:
    """Clients evaluate with the federation's model, adapted anew to the images that they evaluate."""

    def personalize(variables, state, batch):
        del state
        if batch is None or not steps:
            return Variables(*variables)
        return adapted_to(task, variables, batch, steps=steps, rate=rate)

    return Method(personalize=personalize)
