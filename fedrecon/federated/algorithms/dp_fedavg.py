"""Federated averaging of clients that train with example-level differential privacy."""

import optax

from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.algorithms.fedavg import fedavg
from fedrecon.federated.dp_sgd import dp_sgd
from fedrecon.federated.sampling import by_examples
from fedrecon.types import Task


def dp_fedavg(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    clipping_norm: float,
    noise_multiplier: float,
    expected_batch_size: float,
    padded_batch_size: int,
    steps: int,
    microbatch_size: int | None = None,
    server_optimizer: optax.GradientTransformation | None = None,
    sampler=None,
    weighting=by_examples,
    channel=None,
) -> FederatedAlgorithm:
    """FedAvg with DP-SGD (Abadi et al. 2016) at every client.

    What leaves a client is differentially private with respect to each of its examples, whoever sees it. The
    clients' numbers of examples are public. `make_round` takes no batch size and no number of steps: they
    belong to the guarantee and are given here.

    Args:
      task: what is learned; its model must have no batch statistics.
      optimizer: each client's optimiser, fed the noised gradients.
      clipping_norm, noise_multiplier, expected_batch_size, padded_batch_size, steps, microbatch_size: as in
        `fedrecon.federated.dp_sgd`.
      server_optimizer, sampler, weighting, channel: as in `fedavg`.
    """
    client = dp_sgd(
        task.loss,
        optimizer,
        clipping_norm=clipping_norm,
        noise_multiplier=noise_multiplier,
        expected_batch_size=expected_batch_size,
        padded_batch_size=padded_batch_size,
        steps=steps,
        microbatch_size=microbatch_size,
    )
    algorithm = fedavg(
        task,
        optimizer,
        server_optimizer=server_optimizer,
        sampler=sampler,
        weighting=weighting,
        channel=channel,
    )
    return algorithm._replace(client=client)
