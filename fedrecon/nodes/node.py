"""A node: data, approvals and a policy of its owner, and training by plans that these allow."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedrecon import federated as fl
from fedrecon.errors import ArgumentError
from fedrecon.nodes.plans import Approvals, Plan, identity, made_task
from fedrecon.nodes.registry import Dataset, Found, Registry
from fedrecon.types import Task, Variables

OPTIMIZERS = {"sgd": optax.sgd, "adam": optax.adam}


@dataclasses.dataclass(frozen=True)
class Policy:
    """What the owner of a node's data asks for, whatever a plan says.

    Attributes:
      minimum: examples below which the node answers "unavailable", at least 1.
      epochs: the most passes over the data in a round, at least 1.
      clipping_norm: of the gradients of single examples, where there is noise.
      noise_multiplier: of DP-SGD that every plan is trained by; 0 trains as the plan says. The key of the
        noise is the node's own, and nobody counts what it spends but the node's owner.

    Raises:
      ValueError: a number is out of range.
    """

    minimum: int = 1
    epochs: int = 10
    clipping_norm: float = 1.0
    noise_multiplier: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("minimum", 1), ("epochs", 1), ("noise_multiplier", 0)):
            if not getattr(self, name) >= least:
                raise ArgumentError(name, f"at least {least}", getattr(self, name))
        if not self.clipping_norm > 0:
            raise ArgumentError("clipping_norm", "a positive number", self.clipping_norm)


class Job(NamedTuple):
    """What a researcher asks of a node in a round.

    Attributes:
      plan: what is trained.
      tags: of the data set.
      params: `Variables` to start from.
      round: its number.
      seed: of the batches.
      place, nodes: which of how many nodes this one is, so that each has batches of its own.
    """

    plan: Plan
    tags: frozenset[str]
    params: Variables
    round: int = 0
    seed: int = 0
    place: int = 0
    nodes: int = 1


class Reply(NamedTuple):
    """What a node answers.

    Attributes:
      status: "trained", "unavailable" (no such data, or too few) or "refused".
      reason: of what was not trained, in words that tell no number of examples.
      params: `Variables` after training; None otherwise.
      examples: their number that was trained on; 0 otherwise.
      epochs: passes that were made.
      private: whether the policy's noise was added.
      seconds: that it took.
    """

    status: str
    reason: str = ""
    params: Variables | None = None
    examples: int = 0
    epochs: int = 0
    private: bool = False
    seconds: float = 0.0


class _Clients(NamedTuple):
    examples: dict
    valid: jax.Array


class Node:
    """A site of a federation.

    Args:
      name: of it.
      registry: its data.
      approvals: plans that may be trained.
      policy: what holds for all of them.
    """

    def __init__(
        self, name: str, registry: Registry, approvals: Approvals, policy: Policy | None = None
    ) -> None:
        self.name, self.policy = name, policy or Policy()
        self._registry, self._approvals = registry, approvals
        # Of the plan that was trained last, its identity and data set, and its compiled round.
        self._last: tuple[tuple[str, str], tuple[fl.FederatedAlgorithm, Callable]] | None = None

    def search(self, tags: Iterable[str]) -> tuple[Found, ...]:
        """As `Registry.search`."""
        return self._registry.search(tags)

    def train(self, job: Job) -> Reply:
        """Trains a plan that was approved, on the one data set with the job's tags.

        Nothing of a plan runs before its identity was found among those approved.
        """
        start = time.monotonic()
        try:
            digest = identity(job.plan)
        except ArgumentError as error:
            return Reply("refused", str(error))
        if digest not in self._approvals:
            return Reply("refused", f"the plan {digest[:8]}... is not approved at {self.name}")
        found = self._registry.matching(job.tags)
        if len(found) != 1 or found[0].size < self.policy.minimum:
            return Reply("unavailable", f"{self.name} has no data for it")
        try:
            params, epochs = self._trained(digest, job, found[0])
        except (ArgumentError, KeyError) as error:
            return Reply("refused", f"the plan does not fit {self.name}: {error}")
        if params is None:
            return Reply("refused", f"training at {self.name} gave numbers that are not finite")
        private = self.policy.noise_multiplier > 0
        return Reply("trained", "", params, found[0].size, epochs, private, time.monotonic() - start)

    def _trained(self, digest: str, job: Job, dataset: Dataset) -> tuple[Variables | None, int]:
        epochs = min(int(job.plan.config["epochs"]), self.policy.epochs)
        if self._last is None or self._last[0] != (digest, dataset.name):
            task = made_task(job.plan, dataset.shapes)
            self._last = (digest, dataset.name), self._compiled(task, job.plan, dataset.size, epochs)
        algorithm, round = self._last[1]
        # The other nodes are clients without examples: keys are those of a simulation of all.
        examples = {
            name: jnp.zeros((job.nodes, *x.shape), x.dtype).at[job.place].set(x)
            for name, x in dataset.examples.items()
        }
        valid = jnp.zeros((job.nodes, dataset.size), bool).at[job.place].set(True)
        data = _Clients(examples, valid)
        state = fl.init_state(algorithm, job.params, data)._replace(round=jnp.int32(job.round))
        state, info = round(state, data, self._key(job))
        return (state.variables if bool(info.applied) else None), epochs

    def _compiled(
        self, task: Task, plan: Plan, count: int, epochs: int
    ) -> tuple[fl.FederatedAlgorithm, Callable]:
        """Averaging of one client by the plan and the policy, and its round."""
        config, policy = plan.config, self.policy
        size, name = int(config["batch_size"]), config.get("optimizer", "sgd")
        if name not in OPTIMIZERS:
            raise ArgumentError("optimizer", f"one of {', '.join(OPTIMIZERS)}", repr(name))
        optimizer = OPTIMIZERS[name](float(config["learning_rate"]))
        if not policy.noise_multiplier:
            algorithm = fl.fedavg(task, optimizer)
            return algorithm, fl.make_round(algorithm, batch_size=size, epochs=epochs)
        size = min(size, count)
        algorithm = fl.dp_fedavg(
            task,
            optimizer,
            clipping_norm=policy.clipping_norm,
            noise_multiplier=policy.noise_multiplier,
            expected_batch_size=size,
            padded_batch_size=min(count, 2 * size + 16),
            steps=epochs * -(-count // size),
        )
        return algorithm, fl.make_round(algorithm)

    def _key(self, job: Job) -> jax.Array:
        """The researcher's key; where there is noise one of the node's own, which would take it off."""
        if not self.policy.noise_multiplier:
            return jax.random.key(job.seed)
        return jax.random.wrap_key_data(jnp.asarray(np.frombuffer(os.urandom(8), np.uint32)))
