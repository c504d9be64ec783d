"""The server's half of a round: from what arrived of the clients to the next state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.federated.algorithm import FederatedAlgorithm, RoundInfo, RoundState
from fedrecon.federated.cohorts import spread
from fedrecon.federated.keys import fold
from fedrecon.federated.messages import Context, Gathered, Reduction
from fedrecon.federated.server import answered, channel_broadcast, saved_bytes, server_step
from fedrecon.federated.trees import partition, select
from fedrecon.federated.turn import bytes_down
from fedrecon.types import PyTree


class RoundKeys(NamedTuple):
    """Keys of a round: of the sampler, of clients (who fold their number in), of the server, a common one."""

    sampler: jax.Array
    clients: jax.Array
    server: jax.Array
    common: jax.Array


def round_keys(key: jax.Array, round: jax.Array) -> RoundKeys:
    """The keys of a round, from the key of the run."""
    return RoundKeys(*fold(fold(key, round), jnp.arange(4)))


class Cohort(NamedTuple):
    """The clients of a round.

    Attributes:
      numbers: int32 (rows,), their numbers, which their keys are folded from; beyond all clients for padding.
        None if the rows are all clients in their order.
      active: bool (rows,), who takes part.
      invited: bool (clients,), who was sampled, of all clients.
      limits: int32 (clients,), the most steps that a simulated clock leaves each; None does not limit them.
      chances: float32 (clients,), of the sampler's draws; None if it does not tell.
    """

    numbers: jax.Array | None
    active: jax.Array
    invited: jax.Array
    limits: jax.Array | None = None
    chances: jax.Array | None = None

    def spread(self, x: jax.Array) -> jax.Array:
        """(rows, ...) as (clients, ...), zero for clients outside the cohort."""
        return x if self.numbers is None else spread(x, self.numbers, self.invited.shape[0])


class Arrived(NamedTuple):
    """What came of the clients of a round.

    Attributes:
      sums: of what `star_turn` sums over them.
      record: what it reports of each, leaves (rows, ...), zero of those that did not take part.
      numbers: int32 (rows or more,), the clients' numbers.
    """

    sums: dict[str, Any]
    record: dict[str, Any]
    numbers: jax.Array


def close_round(
    algorithm: FederatedAlgorithm,
    state: RoundState,
    arrived: Arrived,
    answers: PyTree,
    cohort: Cohort,
    keys: RoundKeys,
) -> tuple[RoundState, jax.Array, PyTree, RoundInfo]:
    """Everything that a server does in a round once the clients' uploads are there.

    It needs nothing that stays at clients, so that it is the same in the compiled round and at a real server.

    Args:
      algorithm: the algorithm.
      state: before the round; what stays at clients and the history are left as they are.
      arrived: of the clients.
      answers: what the reducer answered them before, leaves (rows, ...).
      cohort: who they are.
      keys: of the round.

    Returns:
      (state, who was included in an applied step (rows,), answers after the round, info of the rows).
    """
    payload = algorithm.exchange.broadcast(state.exchange)
    channel_payload = channel_broadcast(algorithm.channel, state.channel)
    clients = cohort.invited.shape[0]
    server_context = Context(
        state.round, keys.server, common=keys.common, invited=cohort.invited, clients=clients
    )
    saved = saved_bytes(algorithm, state, arrived.numbers[: cohort.active.shape[0]])
    total: Any = arrived.sums.get("upload")
    reduction = Reduction(total, state.reduce, None, ())
    if algorithm.reduce is not None:
        reduction = algorithm.reduce.reduce(
            arrived.record["upload"],
            arrived.record["included"],
            state.reduce,
            server_context._replace(
                arrived=cohort.spread(arrived.record["included"]),
                rows=arrived.numbers[: arrived.record["included"].shape[0]],
                model=partition(state.variables, algorithm.share_mask)[0],
                total=total,
            ),
        )
    flagged = jnp.zeros_like(cohort.active) if reduction.flagged is None else reduction.flagged
    included = arrived.record["included"] & ~flagged
    server_context = server_context._replace(
        arrived=cohort.spread(included), participants=included.sum(dtype=jnp.int32)
    )
    gathered = Gathered(arrived.record["gathered"], arrived.numbers[: included.shape[0]], included)
    state, applied, decode_info = server_step(algorithm, state, reduction.upload, gathered, server_context)
    if algorithm.reduce is not None:
        state = state._replace(reduce=select(applied, reduction.state, state.reduce))
    kept = included & applied
    client_metrics = jax.tree.map(lambda x: jnp.where(included, x, 0), arrived.record["metrics"])
    answer = jax.tree.map(lambda x: x[0], answers)
    down = bytes_down(algorithm, state.variables, payload, channel_payload, answer)
    info = RoundInfo(
        metrics=jax.tree.map(jnp.sum, client_metrics),
        client_metrics=client_metrics,
        participated=cohort.active,
        excluded=arrived.record["excluded"] | (cohort.active & flagged),
        applied=applied,
        bytes_up=arrived.record["bytes_up"],
        bytes_down=cohort.active * (jnp.uint32(down) - saved),
        delta_norm=arrived.record["delta_norm"],
        channel=(arrived.sums["channel"], decode_info),
        reduce=reduction.info,
        validation=arrived.record["validation"],
        weight=jnp.where(included, arrived.record["weight"], 0) if "weight" in arrived.record else (),
    )
    return state, kept, answered(algorithm, reduction.answers, answers), info
