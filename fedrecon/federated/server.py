"""The server's step after the sum: decode, average, move the model, receive messages."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm, History, RoundState
from fedrecon.federated.clock import ClockState, first_state
from fedrecon.federated.messages import Channel, Context, Message, Upload
from fedrecon.federated.sampling import Observed
from fedrecon.federated.trees import (
    all_finite,
    divide,
    finite_rows,
    largest,
    merge,
    nbytes,
    partition,
    select,
)
from fedrecon.types import Metrics, PyTree, Variables


def server_step(
    algorithm: FederatedAlgorithm, state: RoundState, total: Upload, gathered: PyTree, context: Context
) -> tuple[RoundState, jax.Array, PyTree]:
    """Decodes the total and moves the shared leaves: (state, applied, decode info)."""
    total, channel, info = algorithm.channel.decode(
        total, state.channel, context._replace(broadcast=channel_broadcast(algorithm.channel, state.channel))
    )
    mean_delta = divide(total.delta, total.weight)
    most = largest(total.weight)
    message = Message(total.message.summed, divide(total.message.scalars, most), gathered)
    shared, private = partition(state.variables, algorithm.share_mask)
    pseudo_gradient = jax.tree.map(lambda d, p: (-d).astype(p.dtype), mean_delta.params, shared.params)
    updates, server = optax.with_extra_args_support(algorithm.server_optimizer).update(
        pseudo_gradient,
        state.server,
        shared.params,
        message=message,
        participants=context.participants,
        clients=context.clients,
    )
    stats = jax.tree.map(_shift, shared.stats, mean_delta.stats)
    new = Variables(optax.apply_updates(shared.params, updates), stats)
    exchange = algorithm.exchange.receive(state.exchange, message, context._replace(model=shared))
    applied = (most > 0) & all_finite((new, server, exchange))
    new, server, exchange = select(applied, (new, server, exchange), (shared, state.server, state.exchange))
    undone = state.channel
    if algorithm.channel.rollback is not None:
        undone = algorithm.channel.rollback(state.channel, channel)
    state = state._replace(
        round=state.round + 1,
        variables=merge(new, private),
        server=server,
        exchange=exchange,
        channel=select(applied, channel, undone),
    )
    return state, applied, info


def first_answer(algorithm: FederatedAlgorithm, variables: Variables) -> PyTree:
    """What a client finds in place of the reducer's answer before there is one; () without answers."""
    if algorithm.reduce is None or algorithm.reduce.answer is None:
        return ()
    return algorithm.reduce.answer(variables)


def answered(algorithm: FederatedAlgorithm, answers: PyTree, before: PyTree) -> PyTree:
    """The reducer's answers to clients, those before in place of what is not finite.

    Raises:
      ArgumentError: the reducer answers, and says nothing of what clients find before.
    """
    if algorithm.reduce is None or algorithm.reduce.answer is None:
        if jax.tree.leaves(answers):
            raise ArgumentError("reduce.answer", "a first answer of a reducer that answers clients", None)
        return before
    return finite_rows(answers, before)


def channel_broadcast(channel: Channel, state: PyTree) -> PyTree:
    """What the channel's server end sends to the clients; () where it sends nothing."""
    return () if channel.broadcast is None else channel.broadcast(state)


def saved_bytes(algorithm: FederatedAlgorithm, state: RoundState, numbers: jax.Array) -> jax.Array:
    """uint32 (rows,): bytes by which an update is shorter than the parameters, of clients that get updates.

    Args:
      algorithm: the algorithm.
      state: before the round.
      numbers: int32 (rows,), the clients.
    """
    if algorithm.update_bytes is None:
        return jnp.zeros(numbers.shape, jnp.uint32)
    params = partition(state.variables, algorithm.share_mask)[0].params
    less = max(0, nbytes(params) - algorithm.update_bytes(params))
    recent = (state.history.last_round[numbers] == state.round - 1) & (state.round > 0)
    return recent * jnp.uint32(less)


def first_history(algorithm: FederatedAlgorithm, clients: int) -> History:
    """The history before the first round."""
    remembers = getattr(algorithm.sampler, "init", None)
    return History(
        jnp.zeros(clients, jnp.int32),
        jnp.full(clients, -1, jnp.int32),
        jnp.full(clients, jnp.inf, jnp.float32),
        memory=() if remembers is None else remembers(clients),
        clock=() if algorithm.clock is None else first_state(algorithm.clock),
    )


def chances_of(sampler: Callable, round: jax.Array, history: History) -> jax.Array | None:
    """float32 (clients,), chances of the sampler's single draws; None if it does not tell them."""
    tell = getattr(sampler, "chances", None)
    return None if tell is None else tell(round, history)


def remember(
    history: History, sampler: Callable, round: jax.Array, joined: jax.Array, metrics: Metrics
) -> History:
    """The history after ``round``, whose metrics (clients,) count for the clients that ``joined``."""
    total, count = metrics.get("loss", (history.loss, jnp.zeros_like(history.loss)))
    seen = joined & (count > 0)
    memory, observe = history.memory, getattr(sampler, "observe", None)
    if observe is not None:
        told = Observed(round, joined, metrics)
        if isinstance(history.clock, ClockState):
            told = told._replace(seconds=history.clock.seconds, invited=history.clock.invited)
        memory = observe(memory, told)
    return history._replace(
        participations=history.participations + joined,
        last_round=jnp.where(joined, round, history.last_round),
        loss=jnp.where(seen, total / jnp.where(seen, count, 1), history.loss),
        memory=memory,
    )


def _shift(value, change):
    if not jnp.issubdtype(value.dtype, jnp.inexact):
        change = jnp.round(change)
    return (value + change).astype(value.dtype)
