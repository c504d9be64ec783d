"""From a method to a complete federated algorithm."""

from collections.abc import Callable

import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import ClientUpdate, FederatedAlgorithm
from fedrecon.federated.channels import chain
from fedrecon.federated.local import local_training
from fedrecon.federated.messages import Channel, Reducer, no_exchange, stateless
from fedrecon.federated.method import Method
from fedrecon.federated.sampling import all_clients, by_examples
from fedrecon.types import PyTree, Task, Variables


def federated(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    method: Method | None = None,
    server_optimizer: optax.GradientTransformation | None = None,
    sampler: Callable | None = None,
    weighting: Callable = by_examples,
    channel: Channel | None = None,
    reduce: Reducer | Callable | None = None,
    share_mask: PyTree = None,
    keep_optimizer: bool = False,
    schedule: Callable | None = None,
    release: Callable | None = None,
    client: ClientUpdate | None = None,
) -> FederatedAlgorithm:
    """A federated algorithm: local training and averaging, changed by a method.

    Without a method it is FedAvg (McMahan et al. 2017): w <- w + sum_i p_i (w_i - w) after local training
    from w. Several methods go together by `combine`.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      method: what changes local training and what is exchanged besides the model.
      server_optimizer: transformation of minus the mean update; ``optax.sgd(1.0)`` by default.
      sampler: who takes part; every client by default.
      weighting: `by_examples` or `equal`, or any function as in `FederatedAlgorithm`.
      channel: what updates pass through, for instance ``chain(clip(1.0))``; the identity by default.
      reduce: a `Reducer`, or a function ``(uploads, included) -> Upload`` without a state; the weighted mean
        by default.
      share_mask: as in `FederatedAlgorithm`; everything is shared by default.
      keep_optimizer: clients keep their optimizer's state between rounds.
      schedule: as in `FederatedAlgorithm`.
      release: as in `FederatedAlgorithm`.
      client: local work that is no training by gradient steps; by default `local_training` of the task.

    Raises:
      ValueError: if a reducer is to compare updates that the channel has encoded to something else.
    """
    method = method or Method()
    channel = channel or chain()
    if reduce is not None and not isinstance(reduce, Reducer):
        reduce = stateless(reduce)
    if reduce is not None and not reduce.linear and not channel.linear:
        raise ArgumentError(
            "reduce", "the sum (None) with a channel whose encoded updates cannot be compared", "a reducer"
        )
    server_optimizer = server_optimizer or optax.sgd(1.0)
    if method.transform is not None:
        server_optimizer = optax.chain(method.transform, server_optimizer)
    algorithm = FederatedAlgorithm(
        client=client or local_training(task.loss, optimizer, method, keep_optimizer=keep_optimizer),
        channel=channel,
        sampler=sampler or all_clients(),
        weighting=weighting,
        reduce=reduce,
        server_optimizer=server_optimizer,
        share_mask=Variables(True, True) if share_mask is None else share_mask,
        personalize=_personalization(method),
        exchange=method.server or no_exchange(),
        schedule=schedule,
    )
    return algorithm if release is None else algorithm._replace(release=release)


def _personalization(method: Method) -> Callable:
    own = method.personalize
    if own is None:
        return lambda variables, client_state, batch: variables
    return lambda variables, client_state, batch: own(variables, client_state.method, batch)
