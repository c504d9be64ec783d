"""The compiled round: every client's work, the sum, and the server's step as one program."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import (
    Batching,
    FederatedAlgorithm,
    History,
    RoundInfo,
    RoundState,
)
from fedrecon.federated.clients import (
    ClientRow,
    check_parallel,
    client_rows,
    client_sharding,
    default_mesh,
    map_clients,
    number_of_clients,
)
from fedrecon.federated.clocked import clock_round, plan_round, sampled_clients
from fedrecon.federated.closing import Arrived, Cohort, RoundKeys, close_round, round_keys
from fedrecon.federated.cohorts import gather, largest_cohort, numbers_of, scatter, spread_info
from fedrecon.federated.messages import Context
from fedrecon.federated.secure_sum import check_hidden
from fedrecon.federated.server import (
    chances_of,
    channel_broadcast,
    first_answer,
    first_history,
    remember,
)
from fedrecon.federated.trees import (
    partition,
    split_frozen,
)
from fedrecon.federated.turn import ClientRows, choose_batching, client_turn, kept_rows, star_turn
from fedrecon.types import Variables


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
    row = jax.eval_shape(lambda: client_rows(data).one(0))

    def build(variables):
        def stack(tree):
            return jax.tree.map(lambda x: jnp.tile(x[None], (clients,) + (1,) * jnp.ndim(x)), tree)

        state = initial_state(algorithm, variables, row, clients)
        return state._replace(
            client=stack(state.client),
            client_channel=stack(state.client_channel),
            private=stack(state.private),
            answers=stack(state.answers),
        )

    history = jax.eval_shape(lambda: first_history(algorithm, clients))
    return jax.jit(build, out_shardings=_state_shardings(mesh, clients, history))(variables)


def initial_state(
    algorithm: FederatedAlgorithm, variables: Variables, row: ClientRow, clients: int
) -> RoundState:
    """The state before the first round, with what stays at a client once, without the clients' axis.

    Args:
      algorithm: the algorithm.
      variables: the initial model, frozen leaves included.
      row: the data of one client; shapes and dtypes are enough.
      clients: number of all clients, the length of the history.
    """
    variables, frozen = split_frozen(jax.tree.map(jnp.copy, variables), algorithm.share_mask)
    shared, private = partition(variables, algorithm.share_mask)
    exchange = algorithm.exchange.init(variables)
    client = algorithm.client.init(variables)
    answers = first_answer(algorithm, variables)
    batching = algorithm.client.batching or choose_batching(None, 1, None, 1)
    received = (variables, algorithm.exchange.broadcast(exchange))
    key = jax.random.key(0)
    history = first_history(algorithm, clients)
    chances = chances_of(algorithm.sampler, jnp.int32(0), history)
    context = Context(jnp.int32(0), key, jnp.int32(0), clients=clients, chances=chances)

    def probe(row, frozen):
        if frozen is not None and row.frozen is None:
            row = row._replace(frozen=frozen)
        turn = client_turn(
            algorithm, batching, received, ClientRows(client, (), private, answers), row, context
        )
        return turn.upload, turn.gathered

    upload, gathered = jax.eval_shape(probe, row, frozen)
    check_hidden(algorithm.channel, algorithm.reduce, algorithm.sampler, gathered)
    upload = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), upload)
    client_channel, channel = algorithm.channel.init(upload)
    return RoundState(
        round=jnp.int32(0),
        variables=variables,
        server=algorithm.server_optimizer.init(shared.params),
        exchange=exchange,
        channel=channel,
        reduce=() if algorithm.reduce is None else algorithm.reduce.init(upload),
        client=client,
        client_channel=client_channel,
        private=private,
        history=history,
        answers=answers,
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
    validate: Callable | None = None,
) -> Callable[[RoundState, Any, jax.Array], tuple[RoundState, RoundInfo]]:
    """Compiles ``round(state, data, key) -> (state, info)``.

    ``key`` is the key of the run: rounds fold in their number and clients their index, so results depend
    neither on the grouping of rounds into dispatches, nor on the order in which clients are simulated, nor on
    devices. The state passed in is donated: use the returned one. ``data`` has ``examples``, a dict of arrays
    (clients, examples, ...), and ``valid`` (clients, examples) bool; `place` puts it on the mesh once, with
    frozen leaves, public arrays and validation splits.

    Guarantees and edge cases:
      - Clients without examples take no part in the mean.
      - A client whose update is not finite is excluded: its weight is 0 and what is kept of it stays as
        before the round. The same holds for clients that the reducer flags, and for all of them when the
        server's step is not applied.
      - A step is applied only if the new model, the server optimizer's state and the exchange's state are
        finite; otherwise all three, the reducer's state and the channel's (by its rollback) stay as before.
      - Shared statistics are averaged with the clients' weights; integer ones take the rounded mean of their
        changes.
      - If the sampler has a ``count``, time and memory of a round are those of that many clients, however
        many there are.

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
      validate: ``validate(params, stats, batch) -> {name: (sum, count)}``, as `Task.metrics`: reported of the
        models that clients receive, before they train, on their validation splits.

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
        keys = round_keys(key, state.round)
        sampled = sampled_clients(algorithm, keys.sampler, state)
        context = Context(state.round, keys.clients, common=keys.common, invited=sampled)
        planned, first = plan_round(algorithm, state, sampled, context, keys.server), state
        taking, limits = (sampled, None) if planned is None else (planned.cut.arriving, planned.cut.steps)
        chances = chances_of(algorithm.sampler, state.round, state.history)
        size = largest_cohort(algorithm.sampler, clients, mesh)
        rows, before = client_rows(data), client_states(state)
        if size is None:
            cohort, placed = Cohort(None, taking, sampled, limits, chances), before
        else:
            numbers, active = numbers_of(taking, size, mesh)
            rows, placed = gather((rows, before), numbers, clients, mesh)
            cohort = Cohort(numbers, active, sampled, limits, chances)
        state, kept, info = cohort_round(
            algorithm,
            batching,
            with_client_states(state, placed),
            rows,
            cohort,
            keys,
            mesh=mesh,
            parallel=parallel,
            validate=validate,
        )
        if size is not None:
            after = scatter(client_states(state), before, numbers, mesh)
            state = with_client_states(state, after)
            kept, info = spread_info(kept, info, numbers, clients)
        state, info = clock_round(algorithm, first, state, planned, info, keys.server)
        history = remember(state.history, algorithm.sampler, state.round - 1, kept, info.client_metrics)
        state = state._replace(history=history)
        return jax.lax.with_sharding_constraint(state, _state_shardings(mesh, clients, history)), info

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


def check_clients(state: RoundState, data: Any) -> int:
    """Number of clients of the state and the data.

    Raises:
      ValueError: if these disagree.
    """
    clients = state.history.participations.shape[0]
    if number_of_clients(data) != clients:
        raise ArgumentError("data", f"{clients} clients as in the state", number_of_clients(data))
    return clients


def client_states(state: RoundState) -> ClientRows:
    """What stays at clients, of a state."""
    return ClientRows(state.client, state.client_channel, state.private, state.answers)


def with_client_states(state: RoundState, rows: ClientRows) -> RoundState:
    """The state with other rows of what stays at clients."""
    return state._replace(
        client=rows.client, client_channel=rows.channel, private=rows.private, answers=rows.answer
    )


def cohort_round(
    algorithm: FederatedAlgorithm,
    batching: Batching,
    state: RoundState,
    data: Any,
    cohort: Cohort,
    keys: RoundKeys,
    *,
    mesh: Mesh,
    parallel: str | int,
    validate: Callable | None = None,
) -> tuple[RoundState, jax.Array, RoundInfo]:
    """A round of some clients: (state, who was included in an applied step (rows,), info of the rows).

    Args:
      algorithm: the algorithm.
      batching: examples of the clients' steps.
      state: what stays at clients has leaves (rows, ...); the history is that of all, and left as it is.
      data: `ClientRow` of the cohort, leaves (rows, ...), or more rows.
      cohort: who they are.
      keys: of the round.
      mesh, parallel, validate: as in `make_round`.
    """
    payload = algorithm.exchange.broadcast(state.exchange)
    channel_payload = channel_broadcast(algorithm.channel, state.channel)
    before = client_states(state)
    context = Context(
        state.round, keys.clients, common=keys.common, invited=cohort.invited, broadcast=channel_payload
    )._replace(limits=cohort.limits, chances=cohort.chances)
    numbers = cohort.numbers
    numbers = jnp.arange(data.valid.shape[0]) if numbers is None else numbers
    sums, rows, record = map_clients(
        functools.partial(star_turn, algorithm, batching, validate),
        (state.variables, payload, context, data.shared),
        before,
        (data.own, numbers),
        cohort.active,
        mesh=mesh,
        parallel=parallel,
    )
    total = Arrived(sums, record, numbers)
    state, kept, answers, info = close_round(algorithm, state, total, before.answer, cohort, keys)
    rows = kept_rows(algorithm, before, rows._replace(answer=answers), kept, cohort.active)
    return with_client_states(state, rows), kept, info


def _state_shardings(mesh: Mesh, clients: int, history: History) -> RoundState:
    server: Any = NamedSharding(mesh, P())
    stacked: Any = client_sharding(mesh, clients)
    own = jax.tree.map(lambda x: stacked if x.shape[:1] == (clients,) else server, history)
    return RoundState(*(server,) * 6, stacked, stacked, stacked, own, stacked)
