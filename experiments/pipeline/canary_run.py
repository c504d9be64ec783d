"""One training of canaries alone, by the mechanism of a run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedrecon import attacks
from fedrecon import federated as fl
from fedrecon.data import ClientData
from fedrecon.federated.mechanism import Mechanism
from fedrecon.types import Task, Variables

_PARAMETERS, _MOST = 512, 400


def run_canaries(
    mechanism: Mechanism, rounds: int, units: int, *, delta: float, seed: int
) -> attacks.CanaryAudit:
    """The lower bound that gradient canaries prove of so many units in so many rounds.

    Args:
      mechanism: of examples or patients.
      rounds: of the training.
      units: of the client, up to 400 of which are canaries and the others empty.
      delta: of the bound.
      seed: of coins, directions and noise.
    """
    count = min(units, _MOST)
    included = np.random.default_rng(seed).random(count) < 0.5
    # An audit needs both kinds.
    included[:2] = [True, False]
    numbers = np.full(units, -2, np.int32)
    numbers[:count] = np.where(included, np.arange(count), -2)
    examples = {"canary": numbers[None], "volume": np.arange(units, dtype=np.int32)[None]}
    data = ClientData(examples, np.ones((1, units), bool), ("canaries",))
    start = Variables({"w": jnp.zeros(_PARAMETERS)}, {})
    directions = attacks.unit_directions(start.params, count, jax.random.key(seed))
    idle = Task(
        lambda key: start,
        lambda params, stats, batch, key: (0.0 * params["w"].sum(), (stats, {})),
        lambda params, stats, batch: {},
        lambda params, stats, batch: batch["canary"],
        Variables({"w": False}, {}),
    )
    task = attacks.with_gradient_canaries(idle, directions, 4 * mechanism.clipping_norm)
    algorithm = fl.federated(task, optax.sgd(1.0), method=fl.private_gradients(mechanism))
    state = fl.init_state(algorithm, start, data)
    state, _ = fl.run_rounds(fl.make_round(algorithm), rounds)(state, data, jax.random.key(seed))
    scores = attacks.canary_scores(
        jax.tree.map(jnp.subtract, state.variables.params, start.params), directions
    )
    return attacks.audit_canaries(scores, included, delta=delta)
