"""The compiled round: every client's work, the sum, and the server's step as one program."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fedrecon.federated.algorithm import (
    Batches,
    Context,
    FederatedAlgorithm,
    History,
    RoundInfo,
    RoundState,
    Upload,
)
from fedrecon.federated.batching import Batching, shuffled_epochs, shuffled_steps
from fedrecon.federated.clients import (
    check_parallel,
    client_sharding,
    default_mesh,
    map_clients,
    number_of_clients,
)
from fedrecon.federated.keys import fold
from fedrecon.federated.trees import (
    all_finite,
    along,
    finite_after_weighting,
    merge,
    nbytes,
    partition,
    select,
)
from fedrecon.types import PyTree, Variables


class ClientRows(NamedTuple):
    """What stays at one client between rounds."""

    client: PyTree
    channel: PyTree
    private: Variables


def init_state(
    algorithm: FederatedAlgorithm, variables: Variables, data: Any, mesh: Mesh | None = None
) -> RoundState:
    """State before the first round, on its devices, in memory of its own (``variables`` stay usable).

    Args:
      algorithm: the algorithm.
      variables: the initial model, the same for every client.
      data: client data as for the round; only its shapes are used.
      mesh: the mesh of `make_round`.

    Raises:
      ValueError: if the share mask is not a prefix of the variables, or the arrays of ``data`` disagree.
    """
    mesh = default_mesh(mesh)
    clients = number_of_clients(data)
    variables = jax.tree.map(jnp.asarray, variables)
    row = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), (dict(data.examples), data.valid)
    )

    def build(variables):
        def stack(tree):
            return jax.tree.map(lambda x: jnp.tile(x[None], (clients,) + (1,) * jnp.ndim(x)), tree)

        state = initial_state(algorithm, variables, row, clients)
        return state._replace(
            client=stack(state.client),
            client_channel=stack(state.client_channel),
            private=stack(state.private),
        )

    return jax.jit(build, out_shardings=_state_shardings(mesh, clients))(variables)


def initial_state(
    algorithm: FederatedAlgorithm, variables: Variables, row: PyTree, clients: int
) -> RoundState:
    """The state before the first round, with what stays at a client once, without the clients' axis.

    Args:
      algorithm: the algorithm.
      variables: the initial model.
      row: ``(examples, valid)`` of one client; shapes and dtypes are enough.
      clients: number of all clients, the length of the history.
    """
    variables = jax.tree.map(jnp.copy, variables)
    shared, private = partition(variables, algorithm.share_mask)
    exchange = algorithm.exchange.init(variables)
    client = algorithm.client.init(variables)
    batching = algorithm.client.batching or shuffled_steps(1, 1)
    payload = algorithm.exchange.broadcast(exchange)
    _, upload = jax.eval_shape(
        functools.partial(train_client, algorithm, batching, variables, payload, client),
        *row,
        jax.random.split(jax.random.key(0)),
        Context(jnp.int32(0), jax.random.key(0), jnp.int32(0)),
    )
    upload = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), upload)
    client_channel, channel = algorithm.channel.init(upload)
    return RoundState(
        round=jnp.int32(0),
        variables=variables,
        server=algorithm.server_optimizer.init(shared.params),
        exchange=exchange,
        channel=channel,
        client=client,
        client_channel=client_channel,
        private=private,
        history=History(
            jnp.zeros(clients, jnp.int32),
            jnp.full(clients, -1, jnp.int32),
            jnp.full(clients, jnp.inf, jnp.float32),
        ),
    )


def make_round(
    algorithm: FederatedAlgorithm,
    *,
    batch_size: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    mesh: Mesh | None = None,
    parallel: str | int = "scan",
    donate: bool = True,
) -> Callable[[RoundState, Any, jax.Array], tuple[RoundState, RoundInfo]]:
    """Compiles ``round(state, data, key) -> (state, info)``.

    ``key`` is the key of the run: rounds fold in their number and clients their index, so results depend
    neither on the grouping of rounds into dispatches, nor on the order in which clients are simulated, nor on
    devices. The state passed in is donated: use the returned one. ``data`` has ``examples``, a dict of arrays
    (clients, examples, ...), and ``valid`` (clients, examples) bool; `place` puts it on the mesh once.

    Clients without examples take no part in the mean. A client whose update is not finite is excluded: its
    weight is 0 and what is kept of it stays as before the round. So it is with clients that the reducer
    flags, and with all of them when the server's step is not applied. Shared statistics are averaged with the
    clients' weights; integer ones take the rounded mean of their changes.

    Args:
      algorithm: the algorithm.
      batch_size: examples per local step.
      epochs: local passes per round; or
      steps: local steps per round. Exactly one of the two, and neither (nor ``batch_size``) if the
        algorithm's client brings its own batching.
      mesh: from `client_mesh`; None is the first device.
      parallel: how each device runs its clients: "scan" (one after another; those not sampled cost nothing),
        "vmap" (all at once), or an integer (that many at once).
      donate: False keeps the state passed in usable, at the price of a second copy in memory.

    Raises:
      ValueError: for contradicting or missing arguments; from the round, if ``data`` and ``state`` have
        different numbers of clients.
    """
    batching = choose_batching(algorithm.client.batching, batch_size, epochs, steps)
    check_parallel(parallel)
    mesh = default_mesh(mesh)

    @functools.partial(jax.jit, donate_argnums=(0,) if donate else ())
    def round(state, data, key):
        clients = check_clients(state, data)
        sampler_key, *keys = round_keys(key, state.round)
        sampled = algorithm.sampler(sampler_key, state.round, state.history)
        numbers = jnp.arange(data.valid.shape[0])
        state, kept, info = cohort_round(
            algorithm, batching, state, data, numbers, sampled, keys, mesh=mesh, parallel=parallel
        )
        history = remember(state.history, state.round - 1, kept, info.client_metrics)
        state = state._replace(history=history)
        return jax.lax.with_sharding_constraint(state, _state_shardings(mesh, clients)), info

    return round


def run_rounds(
    round: Callable, count: int
) -> Callable[[RoundState, Any, jax.Array], tuple[RoundState, RoundInfo]]:
    """Compiles ``count`` rounds into one dispatch; returns the last state and the infos stacked on axis 0.

    Equal to calling ``round`` as many times with the same key. The state passed in is donated.
    """

    def rounds(state, data, key):
        return jax.lax.scan(lambda state, _: round(state, data, key), state, length=count)

    return jax.jit(rounds, donate_argnums=0)


def round_keys(key: jax.Array, round: jax.Array) -> jax.Array:
    """The keys of a round: the sampler's, that which clients fold their number into, the server's."""
    return fold(fold(key, round), jnp.arange(3))


def check_clients(state: RoundState, data: Any) -> int:
    """Number of clients of the state and the data.

    Raises:
      ValueError: if these disagree.
    """
    clients = state.history.participations.shape[0]
    if number_of_clients(data) != clients:
        raise ValueError(f"data: expected {clients} clients as in the state, found {number_of_clients(data)}")
    return clients


def cohort_round(
    algorithm: FederatedAlgorithm,
    batching: Batching,
    state: RoundState,
    data: Any,
    numbers: jax.Array,
    sampled: jax.Array,
    keys: tuple[jax.Array, jax.Array],
    *,
    mesh: Mesh,
    parallel: str | int,
) -> tuple[RoundState, jax.Array, RoundInfo]:
    """A round of some clients: (state, who was included in an applied step (cohort,), info of the cohort).

    Args:
      algorithm: the algorithm.
      batching: examples of the clients' steps.
      state: what stays at clients has leaves (cohort, ...); the history is that of all, and left as it is.
      data: of the cohort, or longer.
      numbers: the numbers of the clients in ``data``, which their keys are folded from.
      sampled: bool (cohort,), who takes part.
      keys: the clients' and the server's, of `round_keys`.
      mesh: as in `make_round`.
      parallel: as in `make_round`.
    """
    clients_key, server_key = keys
    payload = algorithm.exchange.broadcast(state.exchange)
    before = ClientRows(state.client, state.client_channel, state.private)
    sums, rows, record = map_clients(
        functools.partial(client_step, algorithm, batching),
        (state.variables, payload, Context(state.round, clients_key)),
        before,
        (dict(data.examples), data.valid, numbers),
        sampled,
        mesh=mesh,
        parallel=parallel,
    )
    total, flagged = sums.get("upload"), jnp.zeros_like(sampled)
    if algorithm.reduce is not None:
        total = algorithm.reduce(record["upload"], record["included"])
        if not isinstance(total, Upload):
            total, flagged = total
    included = record["included"] & ~flagged
    state, applied, decode_info = server_step(
        algorithm, state, total, included.sum(dtype=jnp.int32), Context(state.round, server_key)
    )
    kept = included & applied
    rows = jax.tree.map(lambda new, old: jnp.where(along(kept, new), new, old), rows, before)
    state = state._replace(client=rows.client, client_channel=rows.channel, private=rows.private)
    client_metrics = jax.tree.map(lambda x: jnp.where(included, x, 0), record["metrics"])
    down = nbytes((partition(state.variables, algorithm.share_mask)[0], payload))
    info = RoundInfo(
        metrics=jax.tree.map(jnp.sum, client_metrics),
        client_metrics=client_metrics,
        participated=sampled,
        excluded=record["excluded"] | (sampled & flagged),
        applied=applied,
        bytes_up=record["bytes_up"],
        bytes_down=sampled * jnp.uint32(down),
        delta_norm=record["delta_norm"],
        channel=(sums["channel"], decode_info),
    )
    return state, kept, info


def choose_batching(own: Batching | None, batch_size, epochs, steps) -> Batching:
    """The client update's own batching, or the one that the arguments of a round ask for.

    Raises:
      ValueError: for contradicting or missing arguments.
    """
    if own is not None:
        if (batch_size, epochs, steps) != (None, None, None):
            raise ValueError(
                "batch_size, epochs, steps: expected none, since the client update samples its own batches"
            )
        return own
    if batch_size is None:
        raise ValueError("batch_size: expected a positive integer, found None")
    if (epochs is None) == (steps is None):
        raise ValueError(f"epochs, steps: expected exactly one of them, found epochs={epochs}, steps={steps}")
    return shuffled_steps(batch_size, steps) if epochs is None else shuffled_epochs(batch_size, epochs)


def _state_shardings(mesh: Mesh, clients: int) -> RoundState:
    server, stacked = NamedSharding(mesh, P()), client_sharding(mesh, clients)
    return RoundState(server, server, server, server, server, stacked, stacked, stacked, stacked)


def train_client(algorithm, batching, variables, payload, client_state, examples, valid, keys, context):
    """One client's local work: (result, upload before the channel)."""
    batch_key, update_key = keys
    index, mask = batching(valid, batch_key)
    batches = Batches(examples, index, valid.sum(), valid, context.client)
    if algorithm.schedule is not None:
        work = algorithm.schedule(context)
        mask &= (jnp.cumsum(mask.any(1)) <= work.steps)[:, None]
        batches = batches._replace(rate=jnp.asarray(work.rate, jnp.float32))
    result = algorithm.client.update(variables, payload, client_state, batches, mask, update_key)
    weight = jnp.asarray(algorithm.weighting(result.weight, context), jnp.float32)
    shared, _ = partition(result.delta, algorithm.share_mask)
    delta, message = jax.tree.map(lambda x: x * weight, (shared, result.message))
    return result, Upload(delta, message, weight)


def client_step(algorithm, batching, shared, state, row):
    """One client's round: (what is summed, what stays at the client, what is reported)."""
    variables, payload, context = shared
    examples, valid, client = row
    *train_keys, channel_key, work_key = fold(fold(context.key, client), jnp.arange(4))
    context = Context(context.round, work_key, client)
    variables = merge(partition(variables, algorithm.share_mask)[0], state.private)
    result, upload = train_client(
        algorithm, batching, variables, payload, state.client, examples, valid, train_keys, context
    )
    encoded, channel, channel_info = algorithm.channel.encode(
        upload, state.channel, context._replace(key=channel_key)
    )
    shared_delta, own_delta = partition(result.delta, algorithm.share_mask)
    delta_norm = jnp.asarray(optax.tree.norm(shared_delta), jnp.float32)
    # What is shared is finite if it is so after weighting, be the weight 0.
    finite = finite_after_weighting(delta_norm, shared_delta, result.message, own_delta, upload.weight)
    included = finite & (upload.weight > 0)

    _, private = partition(result.variables, algorithm.share_mask)
    sends = bool(jax.tree.leaves((upload.delta, upload.message)))
    sums = {"channel": channel_info}
    if algorithm.reduce is None:
        sums["upload"] = encoded
    sums = select(included, sums, jax.tree.map(jnp.zeros_like, sums))
    record = {
        "metrics": result.metrics,
        "included": included,
        "excluded": ~finite,
        "bytes_up": jnp.uint32(nbytes(encoded) if sends else 0),
        "delta_norm": delta_norm,
    }
    if algorithm.reduce is not None:
        record["upload"] = encoded
    return sums, ClientRows(result.client_state, channel, private), record


def server_step(algorithm, state, total, participants, context):
    """Decodes the total and moves the shared leaves: (state, applied, decode info)."""
    total, channel, info = algorithm.channel.decode(total, state.channel, context)
    mean_delta, mean_message = jax.tree.map(
        lambda x: x / jnp.where(total.weight > 0, total.weight, 1), (total.delta, total.message)
    )
    shared, private = partition(state.variables, algorithm.share_mask)
    pseudo_gradient = jax.tree.map(lambda d, p: (-d).astype(p.dtype), mean_delta.params, shared.params)
    clients = state.history.participations.shape[0]
    updates, server = optax.with_extra_args_support(algorithm.server_optimizer).update(
        pseudo_gradient,
        state.server,
        shared.params,
        message=mean_message,
        participants=participants,
        clients=clients,
    )
    stats = jax.tree.map(_shift, shared.stats, mean_delta.stats)
    new = Variables(optax.apply_updates(shared.params, updates), stats)
    exchange = algorithm.exchange.receive(state.exchange, mean_message, participants, clients)
    applied = (total.weight > 0) & all_finite(new)
    new, server, exchange = select(applied, (new, server, exchange), (shared, state.server, state.exchange))
    state = state._replace(
        round=state.round + 1,
        variables=merge(new, private),
        server=server,
        exchange=exchange,
        channel=channel,
    )
    return state, applied, info


def remember(history, round, joined, metrics):
    """The history after ``round``, whose metrics (clients,) count for the clients that ``joined``."""
    total, count = metrics.get("loss", (history.loss, jnp.zeros_like(history.loss)))
    seen = joined & (count > 0)
    return History(
        history.participations + joined,
        jnp.where(joined, round, history.last_round),
        jnp.where(seen, total / jnp.where(seen, count, 1), history.loss),
    )


def _shift(value, change):
    if not jnp.issubdtype(value.dtype, jnp.inexact):
        change = jnp.round(change)
    return (value + change).astype(value.dtype)
