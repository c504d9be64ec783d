"""Federated averaging."""

import optax

from fedrecon.federated.algorithm import FederatedAlgorithm, no_exchange
from fedrecon.federated.channels import chain
from fedrecon.federated.local import local_sgd
from fedrecon.federated.sampling import all_clients, by_examples
from fedrecon.types import Task, Variables


def fedavg(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    server_optimizer: optax.GradientTransformation | None = None,
    sampler=None,
    weighting=by_examples,
    channel=None,
    reduce=None,
    keep_optimizer: bool = False,
) -> FederatedAlgorithm:
    """FedAvg (McMahan et al. 2017): w <- w + sum_i p_i (w_i - w) after local training from w.

    With another ``server_optimizer`` it is FedOpt (Reddi et al. 2021) or FedAvgM (Hsu et al. 2019). One
    client that holds all data is centralised training.

    Args:
      task: what is learned.
      optimizer: each client's optimiser.
      server_optimizer: transformation of minus the mean update; ``optax.sgd(1.0)`` by default.
      sampler: who takes part; every client by default.
      weighting: `by_examples` or `equal`, or any function of (weight, context).
      channel: what updates pass through, for instance ``chain(clip(1.0))``; the identity by default.
      reduce: as in `FederatedAlgorithm`.
      keep_optimizer: clients keep their optimiser's state between rounds.
    """
    return FederatedAlgorithm(
        client=local_sgd(task.loss, optimizer, keep_optimizer=keep_optimizer),
        channel=channel or chain(),
        sampler=sampler or all_clients(),
        weighting=weighting,
        reduce=reduce,
        server_optimizer=server_optimizer or optax.sgd(1.0),
        share_mask=Variables(True, True),
        personalise=lambda variables, client_state: variables,
        exchange=no_exchange(),
    )
