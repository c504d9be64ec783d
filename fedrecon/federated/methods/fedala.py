"""FedALA: each client mixes the received model with its own before it trains, element by element."""

from typing import Any

import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.local import local_training
from fedrecon.federated.method import Method, combine
from fedrecon.federated.methods.local_aggregation import aggregated, aggregating
from fedrecon.federated.recipe import federated
from fedrecon.types import PyTree, Task


def fedala(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    head: PyTree,
    weight_rate: float = 1.0,
    part: float = 0.8,
    threshold: float = 0.01,
    passes: int = 50,
    method: Method | None = None,
    keep_optimizer: bool = False,
    **options: Any,
) -> FederatedAlgorithm:
    """FedALA (Zhang J. et al. 2023, AAAI, arXiv:2212.01197, Algorithm 1): adaptive local aggregation.

    Before it trains, client i replaces the upper layers of its own last model w_i by ``w_i + (w - w_i) W_i``,
    element by element, and the others by those of the received w. W_i, of ones at first, stays at the client
    and descends its loss on a random ``part`` of its examples, drawn anew in every round::

        W_i <- clip(W_i - weight_rate grad L(w_i + (w - w_i) W_i) (w - w_i), 0, 1)

    until it settles in the client's second round, for one pass in later ones. With ``weight_rate=0`` or
    without upper layers it is FedAvg, bit for bit; nothing further is sent.

    Deviations: upper layers are leaves of a name, by default the network's last layer. The sample is drawn
    example by example (the authors': a block), and its last batch may be smaller. Losses that must settle are
    means of passes (theirs: of last batches), and there is a limit on passes. Statistics of batches are those
    received. Clients evaluate with the received model, aggregated by the last W_i, which no labels of test
    images can go on training.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      head: `Variables` of bools, or a prefix, True in the upper layers; see `leaves_under`.
      weight_rate: eta, at least 0.
      part: s, in (0, 1].
      threshold: of the standard deviation of losses that have settled, at least 0.
      passes: the most in the second round, at least 1.
      method, keep_optimizer, **options: as in `federated`.

    Raises:
      ValueError: arguments out of range.
    """
    for name, value, fits, expected in (
        ("weight_rate", weight_rate, weight_rate >= 0, "a number of at least 0"),
        ("part", part, 0 < part <= 1, "a number in (0, 1]"),
        ("threshold", threshold, threshold >= 0, "a number of at least 0"),
        ("passes", passes, passes >= 1, "an integer of at least 1"),
    ):
        if not fits:
            raise ArgumentError(name, expected, repr(value))
    own = Method(discloses="weights that its examples choose")
    both = own if method is None else combine(method, own)
    inner = local_training(task.loss, optimizer, both, keep_optimizer=keep_optimizer)
    tuned = {"part": part, "rate": weight_rate, "threshold": threshold, "passes": passes}
    client = aggregating(inner, task.loss, head, **tuned)
    algorithm = federated(task, optimizer, method=both, client=client, **options)

    def personalize(variables, state, batch):
        params = aggregated(state.weights, state.model, variables.params)
        return algorithm.personalize(variables._replace(params=params), state, batch)

    return algorithm._replace(personalize=personalize)
