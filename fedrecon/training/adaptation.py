"""A trained model adapted to one site that did not train: by its images alone, or by a few labels."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon import federated as fl
from fedrecon.data import ClientData
from fedrecon.runtime import host_copy
from fedrecon.tasks import map_chunks, routed_adaptation, segmentation_metrics
from fedrecon.training.budgets import Budget
from fedrecon.training.components import make_optimizer
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.scores import site_scores
from fedrecon.training.stage import Stage, fine_tuned
from fedrecon.types import Variables

# Passes over a site's images by which running statistics forget those of others.
_PASSES = 100


def site_metrics(stage: Stage, model: Variables, test: ClientData) -> dict[str, float]:
    """Metrics of a model on the data of one site."""
    batch = {**{name: x[0] for name, x in test.examples.items()}, "valid": test.valid[0]}
    sums: Any = jax.jit(stage.task.metrics)(model.params, model.stats, batch)
    return site_scores(host_copy(jax.tree.map(lambda x: x[None], sums)), test.names)[test.names[0]]


def adapt_statistics(stage: Stage, model: Variables, own: ClientData) -> Variables:
    """The model with running statistics of one site's images alone; no parameter changes, no label counts.

    Args:
      stage: whose task it is.
      model: with running statistics.
      own: images of one site, labels among the arrays but unused.
    """
    batch = {**{name: jnp.asarray(x[0]) for name, x in own.examples.items()}}
    batch["valid"] = jnp.asarray(own.valid[0])

    @jax.jit
    def run(stats):
        def step(stats, _):
            return stage.task.loss(model.params, stats, batch, jax.random.key(0))[1][0], None

        return jax.lax.scan(step, stats, length=_PASSES)[0]

    return Variables(model.params, run(model.stats))


def routed(
    stage: Stage, personal: Sequence[Variables], model: Variables, own: ClientData, test: ClientData
) -> dict[str, float]:
    """Metrics of a mixture of all models at one site, found by its images (`routed_adaptation`).

    Every personal model is published once for it.

    Args:
      stage: of a segmentation.
      personal: the models of the clients that trained.
      model: the one of all.
      own: images of the site, labels among the arrays but unused.
      test: what is scored.
    """
    experts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *personal, model)
    images = jnp.asarray(own.examples["image"][0])[np.flatnonzero(own.valid[0])]
    predict = routed_adaptation(stage.task, experts, images, stage.tuning_key)
    batch = {**{name: jnp.asarray(x[0]) for name, x in test.examples.items()}, "valid": test.valid[0]}
    p = map_chunks(lambda part: predict(part["image"]), batch, 8)
    sums: Any = segmentation_metrics(jnp.argmax(p, -1), batch, p.shape[-1])
    return site_scores(host_copy(jax.tree.map(lambda x: x[None], sums)), test.names)[test.names[0]]


def first_patients(own: ClientData, count: int) -> ClientData:
    """The images of the first patients of one site; the first images where patients are not told apart."""
    valid = np.asarray(own.valid[0])
    who = np.asarray(own.examples["volume"][0]) if "volume" in own.examples else np.arange(len(valid))
    known = list(dict.fromkeys(who[valid].tolist()))[:count]
    return ClientData(own.examples, (valid & np.isin(who, known))[None], own.names)


def tuned(
    stage: Stage,
    settings: FederationSettings,
    budget: Budget,
    model: Variables,
    own: ClientData,
    passes: int,
    head: str = "",
) -> Variables:
    """The model after passes over the images of one site, by the optimizer of the settings.

    Args:
      stage: whose task it is.
      settings, budget: of the training.
      model: to start from.
      own: labeled images of one site.
      passes: over them.
      head: the part of the network that is tuned; all by default.

    Raises:
      FlagError: the network has no such part.
    """
    alone = fl.local_only(stage.task, make_optimizer(settings, budget), keep_optimizer=False)
    state = fl.init_state(alone, model, own)
    chosen = dataclasses.replace(settings, fine_tune=passes, fine_tune_head=head, stream=0)
    return fl.client_variables(*fine_tuned(chosen, budget, stage._replace(clients=own), alone, state), 0)
