"""The simulated clock around a compiled round: whose update will arrive, and what the clock shows then."""

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm, RoundInfo, RoundState
from fedrecon.federated.clock import Clock, ClockState, Plan, advance, plan
from fedrecon.federated.messages import Context
from fedrecon.federated.server import channel_broadcast, saved_bytes
from fedrecon.federated.turn import bytes_down, client_keys

# Folded into the server's key of a round, of which nobody else makes keys by numbers this high.
_CLOCK = np.uint32(2**32 - 1)


def sampled_clients(algorithm: FederatedAlgorithm, key: jax.Array, state: RoundState) -> jax.Array:
    """Whom the sampler chooses, bool (clients,).

    Raises:
      ValueError: it goes by times, and there is no clock.
    """
    if algorithm.clock is None and getattr(algorithm.sampler, "timed", False):
        raise ArgumentError("algorithm.clock", "a simulated clock, whose times the sampler goes by", None)
    return algorithm.sampler(key, state.round, state.history)


def plan_round(
    algorithm: FederatedAlgorithm,
    state: RoundState,
    sampled: jax.Array,
    context: Context,
    server_key: jax.Array,
) -> Plan | None:
    """Whose updates the round has; None without a clock.

    Args:
      algorithm: with its clock.
      state: before the round, leaves of clients (clients, ...).
      sampled: bool (clients,).
      context: of the clients' training, without a client.
      server_key: of the round.

    Raises:
      ValueError: the clock is of another number of clients.
    """
    clock = algorithm.clock
    if clock is None:
        return None
    assert isinstance(state.history.clock, ClockState), "a state of init_state with the clock"
    clients = sampled.shape[0]
    for name, array in (("steps", clock.steps), ("profile", clock.profile.step_seconds)):
        if array.shape != (clients,):
            raise ArgumentError(f"algorithm.clock.{name}", f"{clients}, one of each client", array.shape)
    numbers = jnp.arange(clients)
    down = _downloads(algorithm, state, numbers)
    deadline = getattr(algorithm.sampler, "deadline", None)
    return plan(
        clock,
        state.history.clock,
        clock_key(server_key),
        sampled,
        planned_steps(algorithm, clock, context, numbers),
        down,
        None if deadline is None else deadline(state.history),
    )


def planned_steps(
    algorithm: FederatedAlgorithm, clock: Clock, context: Context, numbers: jax.Array
) -> jax.Array:
    """int32 (clients,): steps of everybody's round, which the algorithm's schedule may shorten."""
    steps = jnp.asarray(clock.steps, jnp.int32)
    if algorithm.schedule is None:
        return steps
    schedule = algorithm.schedule

    def most(client):
        own = context._replace(client=client, steps=steps[client])
        return jnp.asarray(schedule(own._replace(key=client_keys(own)[3])).steps, jnp.int32)

    return jnp.minimum(steps, jax.vmap(most)(numbers))


def clock_round(
    algorithm: FederatedAlgorithm, before: RoundState, state: RoundState, plan: Plan | None, info: RoundInfo,
    server_key: jax.Array,
) -> tuple[RoundState, RoundInfo]:  # fmt: skip
    """The state and the report of a round with what its clock shows; without a plan as they are.

    Late clients have got the model: their bytes count as received.

    Args:
      algorithm: with its clock.
      before: the state before the round, of which the server's part is used.
      state: after it.
      plan: from `plan_round`.
      info: of all clients.
      server_key: of the round.
    """
    if plan is None or algorithm.clock is None:
        return state, info
    assert isinstance(state.history.clock, ClockState), "a state of init_state with the clock"
    weights = jnp.where(info.applied, info.weight, 0)
    shown, report = advance(
        algorithm.clock, state.history.clock, clock_key(server_key), plan, info.bytes_up, weights
    )
    down = _downloads(algorithm, before, jnp.arange(report.late.shape[0]))
    info = info._replace(clock=report, bytes_down=info.bytes_down + jnp.where(report.late, down, 0))
    return state._replace(history=state.history._replace(clock=shown)), info


def clock_key(server_key: jax.Array) -> jax.Array:
    """The clock's key of a round."""
    return jax.random.fold_in(server_key, _CLOCK)


def _downloads(algorithm: FederatedAlgorithm, state: RoundState, numbers: jax.Array) -> jax.Array:
    """uint32 (clients,): bytes that each would get."""
    payload = algorithm.exchange.broadcast(state.exchange)
    answer = jax.tree.map(lambda x: x[0], state.answers)
    most = bytes_down(
        algorithm, state.variables, payload, channel_broadcast(algorithm.channel, state.channel), answer
    )
    return jnp.uint32(most) - saved_bytes(algorithm, state, numbers)
