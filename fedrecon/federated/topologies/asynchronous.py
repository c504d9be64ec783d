"""Buffered asynchronous training with a simulated clock: clients train from the version they downloaded."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm, History, RoundState
from fedrecon.federated.clients import client_rows, default_mesh, number_of_clients
from fedrecon.federated.clock import durations as clock_durations
from fedrecon.federated.engine import check_clients, client_states, init_state, round_keys, with_client_states
from fedrecon.federated.keys import random_order
from fedrecon.federated.messages import Context, Gathered, Upload
from fedrecon.federated.server import server_step
from fedrecon.federated.topologies.delays import half_normal_durations, polynomial_discount
from fedrecon.federated.trees import nbytes, partition, scale, select
from fedrecon.federated.turn import choose_batching, star_turn
from fedrecon.types import Metrics, PyTree, Variables

# Rounds are int32 counts, so no round's key is folded from this.
_CLOCK = np.uint32(2**32 - 1)


class Slots(NamedTuple):
    """Clients in flight; leaves (concurrency, ...).

    Attributes:
      client: int32, who trains; -1 if the slot is idle.
      version: int32, number of server steps before the download.
      repeat: int32, how often the client had downloaded this version before.
      finish: float32, when its update arrives; infinite if idle.
      received: (shared leaves of the model, broadcast), as downloaded.
    """

    client: jax.Array
    version: jax.Array
    repeat: jax.Array
    finish: jax.Array
    received: PyTree


class AsynchronousState(NamedTuple):
    """Everything that changes; a pytree of arrays, the same between any two rounds.

    Attributes:
      federation: the state of the server and the clients, as in `make_round`; its round is the version.
      slots: who is in flight.
      clock: float32 (), simulated time of the last arrival.
      arrivals: int32 (), number of them.
      started: int32 (clients,), the last version each client downloaded; -1 before the first.
      repeats: int32 (clients,), how often it had downloaded that one before.
    """

    federation: RoundState
    slots: Slots
    clock: jax.Array
    arrivals: jax.Array
    started: jax.Array
    repeats: jax.Array


class AsynchronousInfo(NamedTuple):
    """What a server step reports of the arrivals before it, in their order; leaves (arrivals,) or ().

    Attributes:
      client: int32, who arrived; -1 if nobody was in flight.
      clock: float32, when.
      version: int32, number of server steps before its download.
      staleness: int32, number of server steps between download and arrival.
      included: bool, counted in the step.
      excluded: bool, arrived with an update that was not finite; nothing of it is in the state.
      metrics: {name: (sum, count)} over the included.
      client_metrics: {name: (sum, count)}, zero for those not included.
      applied: bool (), whether the server's model changed.
      bytes_up, bytes_down: uint32, as in `RoundInfo`; the download is counted when the update arrives.
      delta_norm: float32, global l2 norm of the shared delta before discount and channel.
      channel: (encode infos summed over the included, decode infos).
    """

    client: jax.Array
    clock: jax.Array
    version: jax.Array
    staleness: jax.Array
    included: jax.Array
    excluded: jax.Array
    metrics: Metrics
    client_metrics: Metrics
    applied: jax.Array
    bytes_up: jax.Array
    bytes_down: jax.Array
    delta_norm: jax.Array
    channel: tuple[Any, Any]


def init_asynchronous(
    algorithm: FederatedAlgorithm, variables: Variables, data: Any, *, concurrency: int
) -> AsynchronousState:
    """State before the first arrival, at time 0 with nobody in flight.

    Args:
      algorithm, variables, data: as in `init_state`.
      concurrency: how many clients train at a time, M_c.

    Raises:
      ValueError: as `init_state`, or if ``concurrency`` is not between 1 and the number of clients.
    """
    clients = number_of_clients(data)
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or not 1 <= concurrency <= clients:
        raise ArgumentError("concurrency", f"an integer from 1 to {clients} (all clients)", repr(concurrency))
    federation = init_state(algorithm, variables, data)
    shared, _ = partition(federation.variables, algorithm.share_mask)
    received = (shared, algorithm.exchange.broadcast(federation.exchange))
    slots = Slots(
        client=jnp.full(concurrency, -1, jnp.int32),
        version=jnp.zeros(concurrency, jnp.int32),
        repeat=jnp.zeros(concurrency, jnp.int32),
        finish=jnp.full(concurrency, jnp.inf, jnp.float32),
        received=jax.tree.map(lambda x: jnp.zeros((concurrency, *x.shape), x.dtype), received),
    )
    state = AsynchronousState(
        federation,
        slots,
        clock=jnp.float32(0),
        arrivals=jnp.int32(0),
        started=jnp.full(clients, -1, jnp.int32),
        repeats=jnp.zeros(clients, jnp.int32),
    )
    # A state that changes its sharding would compile twice.
    return jax.device_put(state, _one_device())


def make_asynchronous_round(
    algorithm: FederatedAlgorithm,
    *,
    buffer_size: int = 10,
    durations: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    discount: Callable[[jax.Array], jax.Array] | None = None,
    mixing: float | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    donate: bool = True,
) -> Callable[[AsynchronousState, Any, jax.Array], tuple[AsynchronousState, AsynchronousInfo]]:
    """Compiles ``round(state, data, key) -> (state, info)``: K arrivals and the server's step after them.

    FedBuff (Nguyen et al., AISTATS 2022): each arrival brings the change of the model that its client
    downloaded sigma server steps ago, and counts ``s(sigma)``; after K = ``buffer_size`` arrivals the
    algorithm's server optimizer steps along ``sum_i w_i s(sigma_i) delta_i / sum_i w_i``, w_i being the
    algorithm's weights, which the paper has `equal`. Messages are averaged without discount. With ``mixing``
    alpha and one arrival per step it is FedAsync (Xie et al., 2019): ``w <- (1 - alpha s) w + alpha s w_i``.

    Always the client in flight with the earliest finish arrives next, of several the one with the smallest
    number. Before time moves on, idle slots are filled by clients with examples that are not in flight,
    uniformly at random: updates that arrive at the same time all land before anyone downloads again. The
    algorithm's sampler has no part in it. Clients draw from the keys of the version they downloaded, as in
    `make_round`, and from other ones when they download the same version again.

    A client keeps its new state when it arrives, whether or not the server's step is applied afterwards. One
    whose update is not finite counts as arrived, but not in the step, and keeps what it had. Everything runs
    on one device, one client after another.

    Args:
      algorithm: the algorithm.
      buffer_size: arrivals per server step, K.
      durations: ``durations(key, client) -> float32 ()``, at least 0: simulated time from a client's download
        to the arrival of its update; by default those of the algorithm's clock, whose policy means nothing
        here, and without one `half_normal_durations`.
      discount: ``discount(staleness) -> s``, on int32 (); `polynomial_discount` by default.
      mixing: alpha of FedAsync, in (0, 1]; None is FedBuff.
      batch_size, epochs, steps, donate: as in `make_round`.

    Raises:
      ValueError: for arguments out of range, or an algorithm with a reducer; from the round, if data and
        state have different numbers of clients.
    """
    if isinstance(buffer_size, bool) or not isinstance(buffer_size, int) or buffer_size < 1:
        raise ArgumentError("buffer_size", "an integer of at least 1", repr(buffer_size))
    if mixing is not None and not (0 < mixing <= 1 and buffer_size == 1):
        raise ArgumentError(
            "mixing", "a number in (0, 1] with a buffer_size of 1", f"{mixing!r} with {buffer_size}"
        )
    if algorithm.reduce is not None:
        raise ArgumentError("algorithm.reduce", "None where updates arrive one by one", "a reducer")
    if algorithm.channel.hides:
        expected = "one that does not hide single updates where these arrive one by one"
        raise ArgumentError("algorithm.channel", expected, "a secure sum")
    if getattr(algorithm.sampler, "timed", False):
        expected = "one that does not go by times of rounds where updates arrive one by one"
        raise ArgumentError("algorithm.sampler", expected, "one that does")
    batching = choose_batching(algorithm.client.batching, batch_size, epochs, steps)
    discount = discount or polynomial_discount()

    @functools.partial(jax.jit, donate_argnums=(0,) if donate else ())
    def round(state, data, key):
        check_clients(state.federation, data)
        federation = state.federation
        shared, _ = partition(federation.variables, algorithm.share_mask)
        download = (shared, algorithm.exchange.broadcast(federation.exchange))
        took = durations or _durations(algorithm, nbytes(download))
        rows = client_rows(data)
        nonempty = rows.valid.any(1)[: state.started.shape[0]]

        def arrive(carry, _):
            state, total = carry
            event_key = jax.random.fold_in(jax.random.fold_in(key, _CLOCK), state.arrivals)
            state = _refill(state, download, nonempty, took, event_key)
            slots = state.slots
            first = slots.finish == slots.finish.min()
            slot = jnp.argmin(jnp.where(first & (slots.client >= 0), slots.client, jnp.iinfo(jnp.int32).max))
            client, version, repeat, clock, received = jax.tree.map(lambda x: x[slot], slots)
            staleness = federation.round - version
            scale = jnp.asarray(discount(staleness), jnp.float32)
            part, federation_now, record = _arrival(
                algorithm,
                batching,
                functools.partial(_discounted, received[0], shared, scale, mixing),
                state.federation,
                received,
                (rows, jnp.maximum(client, 0)),
                (key, version, repeat),
            )
            busy = client >= 0
            record |= {
                "client": client,
                "clock": jnp.where(busy, clock, state.clock),
                "version": version,
                "staleness": jnp.where(busy, staleness, 0),
            }
            state = state._replace(
                federation=federation_now,
                slots=slots._replace(
                    client=slots.client.at[slot].set(-1), finish=slots.finish.at[slot].set(jnp.inf)
                ),
                clock=record["clock"],
                arrivals=state.arrivals + 1,
            )
            return (state, jax.tree.map(jnp.add, total, part)), record

        parts = jax.eval_shape(lambda state: _parts(algorithm, batching, state, download, data), federation)
        total = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), parts)
        (state, total), record = jax.lax.scan(arrive, (state, total), length=buffer_size)
        context = Context(
            federation.round,
            round_keys(key, federation.round).server,
            participants=record["included"].sum(dtype=jnp.int32),
            clients=nonempty.shape[0],
        )
        gathered = Gathered(record.pop("gathered"), record["client"], record["included"])
        federation, applied, decode_info = server_step(
            algorithm, state.federation, total["upload"], gathered, context
        )
        down = jnp.uint32(nbytes(download))
        info = AsynchronousInfo(
            metrics=jax.tree.map(jnp.sum, record["metrics"]),
            client_metrics=record.pop("metrics"),
            applied=applied,
            bytes_down=jnp.where(record["client"] >= 0, down, jnp.uint32(0)),
            channel=(total["channel"], decode_info),
            **record,
        )
        state = jax.lax.with_sharding_constraint(state._replace(federation=federation), _one_device())
        return state, info

    return round


def _durations(algorithm: FederatedAlgorithm, bytes_down: int) -> Callable:
    if algorithm.clock is None:
        return half_normal_durations()
    return clock_durations(algorithm.clock, bytes_down)


def _one_device() -> NamedSharding:
    return NamedSharding(default_mesh(None), P())


def _refill(state, download, nonempty, durations, key):
    """Starts clients in idle slots, unless another update arrives at this very time."""
    slots = state.slots
    clients = state.started.shape[0]
    select_key, duration_key = jax.random.split(key)
    numbers = jnp.arange(clients)
    flying = (
        jnp.zeros(clients, bool).at[jnp.where(slots.client < 0, clients, slots.client)].set(True, mode="drop")
    )
    eligible = nonempty & ~flying
    order = random_order(select_key, numbers, last=~eligible)
    idle = slots.client < 0
    free = jnp.argsort(~idle, stable=True)
    count = jnp.where(slots.finish.min() > state.clock, jnp.minimum(idle.sum(), eligible.sum()), 0)

    def start(number, carry):
        slots, started, repeats = carry
        slot, client = free[number], order[number]
        version = state.federation.round
        repeat = jnp.where(started[client] == version, repeats[client] + 1, 0)
        took = jnp.asarray(durations(jax.random.fold_in(duration_key, client), client), jnp.float32)
        new = Slots(client, version, repeat, state.clock + took, download)
        slots = jax.tree.map(lambda x, new: x.at[slot].set(new), slots, new)
        return slots, started.at[client].set(version), repeats.at[client].set(repeat)

    # A loop over what is filled, not a selection over all slots, which would copy every model in flight.
    slots, started, repeats = jax.lax.fori_loop(0, count, start, (slots, state.started, state.repeats))
    return state._replace(slots=slots, started=started, repeats=repeats)


def _discounted(
    received: PyTree, current: PyTree, discount: jax.Array, mixing: jax.Array | float | None, upload: Upload
) -> Upload:
    delta = upload.delta
    if mixing is not None:
        # Relative to the server's model of now, which the client's replaces in part.
        discount = discount * mixing
        behind = scale(upload.weight, jax.tree.map(jnp.subtract, received, current))
        delta = jax.tree.map(jnp.add, delta, behind)
    return upload._replace(delta=jax.tree.map(lambda d: (discount * d).astype(d.dtype), delta))


def _arrival(algorithm, batching, adjust, federation, received, row, origin):
    """One client's work from what it received: (what is summed, the state afterwards, what is reported)."""
    data, client = row
    key, version, repeat = origin
    clients_key = round_keys(key, version).clients
    again = jax.random.fold_in(clients_key, repeat)
    clients_key = jax.random.wrap_key_data(
        jnp.where(repeat > 0, jax.random.key_data(again), jax.random.key_data(clients_key)),
        impl=jax.random.key_impl(clients_key),
    )
    channel = algorithm.channel
    adjusted = channel._replace(
        encode=lambda upload, state, context: channel.encode(adjust(upload), state, context)
    )
    shared, payload = received
    rows = client_states(federation)
    before = jax.tree.map(lambda x: x[client], rows)
    broadcast = () if channel.broadcast is None else channel.broadcast(federation.channel)
    sums, after, record = star_turn(
        algorithm._replace(channel=adjusted),
        batching,
        None,
        (shared, payload, Context(version, clients_key, broadcast=broadcast), data.shared),
        before,
        (data.one(client).own, client),
    )
    for name in ("validation", "weight"):
        record.pop(name, None)
    included = record["included"]
    rows = jax.tree.map(
        lambda x, new: x.at[client].set(new.astype(x.dtype)), rows, select(included, after, before)
    )
    record["metrics"] = jax.tree.map(lambda x: jnp.where(included, x, 0), record["metrics"])
    history = _remember(federation.history, client, federation.round, included, record["metrics"])
    federation = with_client_states(federation, rows)._replace(history=history)
    return sums, federation, record


def _parts(algorithm, batching, federation, download, data):
    """What one arrival adds, for its shapes."""
    row = (client_rows(data), jnp.int32(0))
    origin = (jax.random.key(0), jnp.int32(0), jnp.int32(0))
    return _arrival(algorithm, batching, lambda upload: upload, federation, download, row, origin)[0]


def _remember(
    history: History, client: jax.Array, version: jax.Array, included: jax.Array, metrics: Metrics
) -> History:
    total, count = metrics.get("loss", (jnp.float32(0), jnp.float32(0)))
    loss = jnp.where(included & (count > 0), total / jnp.where(count > 0, count, 1), history.loss[client])
    last = jnp.where(included, version, history.last_round[client])
    return history._replace(
        participations=history.participations.at[client].add(included.astype(jnp.int32)),
        last_round=history.last_round.at[client].set(last),
        loss=history.loss.at[client].set(loss),
    )
