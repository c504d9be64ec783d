"""Asynchronous rounds: the clock, staleness, and that every update counts once."""

import heapq

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.topologies.asynchronous import init_asynchronous, make_asynchronous_round
from fedrecon.federated.topologies.delays import (
    constant_durations,
    half_normal_durations,
    polynomial_discount,
    threshold_discount,
)
from fedrecon.types import Variables

KEY = jax.random.key(3)
START = Variables({"w": jnp.array([0.3, -0.7])}, {})


def simulate(algorithm, data, variables, rounds, *, concurrency, **options):
    """(states, infos) after every server step, stacked."""
    options = {"batch_size": 1, "epochs": 1} | options
    round = make_asynchronous_round(algorithm, **options)

    @jax.jit
    def run(variables, data):
        def body(state, _):
            state, info = round(state, data, KEY)
            return state, (state, info)

        state = init_asynchronous(algorithm, variables, data, concurrency=concurrency)
        return jax.lax.scan(body, state, length=rounds)[1]

    return run(variables, data)


@pytest.mark.slow
@pytest.mark.parametrize("regression", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_equal_durations_are_federated_averaging_bit_for_bit(fx, regression):
    data, variables = fx.quad_data(), START
    data.examples["b"] = data.examples["b"] + jnp.arange(8.0)[:, None]
    if regression:
        data, variables = fx.regression_data([5, 3, 1, 4]), fx.regression.init(jax.random.key(0))
    task = fx.regression if regression else fx.quad
    algorithm = fl.fedavg(task, optax.adam(0.05), weighting=fl.equal, keep_optimizer=True)
    work = {"batch_size": 2, "epochs": 2}
    round = fl.make_round(algorithm, **work)
    asynchronous = make_asynchronous_round(
        algorithm, buffer_size=4, durations=constant_durations(0.1), **work
    )
    expected = fl.init_state(algorithm, variables, data)
    state = init_asynchronous(algorithm, variables, data, concurrency=4)
    for number in range(3):
        expected, expected_info = round(expected, data, KEY)
        state, info = asynchronous(state, data, KEY)
        fx.assert_equal(state.federation, expected)
        np.testing.assert_array_equal(info.staleness, [0] * 4)
        np.testing.assert_array_equal(info.client, range(4))
        np.testing.assert_allclose(info.clock, 0.1 * (number + 1), rtol=1e-6)
        fx.assert_equal(info.client_metrics, expected_info.client_metrics)
        fx.assert_equal((info.bytes_up, info.bytes_down), (expected_info.bytes_up, expected_info.bytes_down))


def by_hand(scales, buffer_size, arrivals):
    """Plain event simulation with everybody in flight: (client, clock, version at download, staleness)."""
    version, clock, idle, flying, log = 0, 0.0, list(range(len(scales))), [], []
    downloaded = {}
    for arrival in range(arrivals):
        if not flying or flying[0][0] > clock:
            for client in idle:
                downloaded[client] = version
                heapq.heappush(flying, (clock + scales[client], client))
            idle = []
        clock, client = heapq.heappop(flying)
        idle.append(client)
        log.append((client, clock, downloaded[client], version - downloaded[client]))
        if (arrival + 1) % buffer_size == 0:
            version += 1
    return [np.array(column) for column in zip(*log, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("scales", [(1.0, 2.0, 3.0, 0.5), (1.0, 1.0, 10.0, 1.0)])
def test_staleness_equals_a_plain_event_simulation(fx, scales):
    """Durations with many ties."""
    _, info = simulate(
        fx.averaging,
        fx.quad_data(),
        START,
        12,
        concurrency=4,
        buffer_size=3,
        durations=constant_durations(scales),
    )
    client, clock, version, staleness = by_hand(scales, 3, 36)
    np.testing.assert_array_equal(info.client.reshape(-1), client)
    np.testing.assert_array_equal(info.clock.reshape(-1), clock)
    np.testing.assert_array_equal(info.version.reshape(-1), version)
    np.testing.assert_array_equal(info.staleness.reshape(-1), staleness)
    assert staleness.max() > 1


@pytest.mark.slow
def test_the_clock_of_three_clients_by_hand(fx):
    """Updates of 2, 3 and 5 units, two of which make a step; who has arrived starts from the newest model.

    The first leaves again at 2 with version 0, the second at 3 with the version 1 that it has just completed.
    """
    data = fx.quad_data(fx.a[:3], fx.b[:3], fx.tau[:3])
    options = {"concurrency": 3, "buffer_size": 2, "durations": constant_durations([2.0, 3.0, 5.0])}
    _, info = simulate(fx.averaging, data, START, 3, **options)
    np.testing.assert_array_equal(info.client, [[0, 1], [0, 2], [0, 1]])
    np.testing.assert_array_equal(info.clock, [[2, 3], [4, 5], [6, 6]])
    np.testing.assert_array_equal(info.version, [[0, 0], [0, 0], [1, 1]])
    np.testing.assert_array_equal(info.staleness, [[0, 0], [1, 1], [1, 1]])


@pytest.mark.parametrize(
    ("discount", "weigh"),
    [
        (polynomial_discount(), lambda s: (1.0 + s) ** -0.5),
        pytest.param(threshold_discount(1), lambda s: np.where(s <= 1, 1.0, 0.0), marks=pytest.mark.slow),
    ],
)
def test_every_update_counts_once_with_its_discount(fx, discount, weigh):
    """On linear losses an update is -rate steps g wherever it starts; three of four are in flight."""
    data, rounds = fx.quad_data(), 10
    algorithm = fl.fedavg(fx.linear, optax.sgd(0.05), weighting=fl.equal)
    durations = half_normal_durations([1.0, 1.0, 1.0, 8.0])
    states, info = simulate(
        algorithm, data, START, rounds, concurrency=3, buffer_size=2, durations=durations, discount=discount
    )
    deltas = -0.05 * fx.tau[:, None] * fx.b
    steps = (weigh(np.asarray(info.staleness))[..., None] * deltas[np.asarray(info.client)]).sum(1) / 2
    expected = np.asarray(START.params["w"]) + np.cumsum(steps, 0)
    np.testing.assert_allclose(states.federation.variables.params["w"], expected, rtol=1e-4, atol=1e-5)
    arrived = np.bincount(np.asarray(info.client).reshape(-1), minlength=4)
    np.testing.assert_array_equal(states.federation.history.participations[-1], arrived)
    np.testing.assert_array_equal(info.version + info.staleness, np.arange(rounds)[:, None] + np.zeros(2))
    assert (np.diff(np.asarray(info.clock).reshape(-1)) >= 0).all()
    for flying in np.asarray(states.slots.client):
        busy = flying[flying >= 0]
        assert len(set(busy)) == len(busy)
    assert int(states.arrivals[-1]) == 2 * rounds
    assert np.asarray(info.staleness).max() > 1


def test_fedasync_mixes_the_clients_model_into_the_servers(fx):
    """w <- (1 - 0.6 s) w + 0.6 s w_i, w_i being trained from the version that was downloaded.

    Weights of groups of leaves cancel like those of whole models.
    """
    groups = fx.averaging._replace(weighting=lambda weight, context: Variables({"w": weight}, 1.0))
    states, info = simulate(
        groups,
        fx.quad_data(),
        START,
        9,
        concurrency=3,
        buffer_size=1,
        mixing=0.6,
        durations=constant_durations([1.0, 1.5, 0.7, 2.2]),
    )
    models = [np.asarray(START.params["w"], np.float64)]
    for client, version, staleness in zip(
        *(np.asarray(x)[:, 0] for x in (info.client, info.version, info.staleness)), strict=True
    ):
        b, shrink = fx.b[client], (1 - 0.05 * fx.a[client]) ** fx.tau[client]
        own = b + shrink * (models[version] - b)
        part = 0.6 * (1 + staleness) ** -0.5
        models.append((1 - part) * models[-1] + part * own)
    np.testing.assert_allclose(states.federation.variables.params["w"], models[1:], rtol=1e-4, atol=1e-5)
    assert np.asarray(info.staleness).max() > 0


def test_a_slow_client_does_not_hold_up_the_others(fx):
    """One client is ten times slower: simulated time to a loss is below that of synchronous rounds.

    The optima are close together: the slow client counts less often, which moves the limit away from it.
    """
    b = fx.b[0] + 0.1 * fx.b
    data = fx.quad_data(np.ones(4, np.float32), b, [2, 2, 2, 2])
    scales = np.array([1.0, 1.0, 1.0, 10.0])
    algorithm = fl.fedavg(fx.quad, optax.sgd(0.05), weighting=fl.equal)

    def time_to_target(models, clock):
        loss = 0.5 * ((np.asarray(models)[:, None] - b) ** 2).sum(-1).mean(-1)
        best = 0.5 * ((b.mean(0) - b) ** 2).sum(-1).mean()
        reached = loss < best + 0.05
        assert reached.any()
        return np.asarray(clock)[reached.argmax()]

    synchronous = [np.asarray(START.params["w"])]
    for _ in range(30):
        synchronous.append(np.mean(b + 0.95**2 * (synchronous[-1] - b), 0))
    states, info = simulate(
        algorithm, data, START, 60, concurrency=4, buffer_size=4, durations=constant_durations(scales)
    )
    found = [np.asarray(x).reshape(-1) for x in (info.client, info.clock, info.version, info.staleness)]
    fx.assert_equal(found, by_hand(scales, 4, 240))
    ours = time_to_target(states.federation.variables.params["w"], states.clock)
    theirs = time_to_target(synchronous, 10.0 * np.arange(31))
    assert ours < theirs


@pytest.mark.slow
def test_downloading_a_version_again_draws_new_batches(fx):
    """A fast client returns three times before the server steps; each time it shuffles anew."""
    data = fx.quad_data(np.arange(1.0, 3.0), fx.b[:2], [6, 6])
    data.examples["b"] = data.examples["b"] + jnp.arange(6.0)[:, None] ** 2
    _, info = simulate(
        fx.averaging,
        data,
        START,
        1,
        concurrency=2,
        buffer_size=3,
        durations=constant_durations([1.0, 10.0]),
        batch_size=2,
    )
    np.testing.assert_array_equal(info.client[0], [0, 0, 0])
    assert len(np.unique(np.asarray(info.delta_norm[0]))) == 3


def test_who_fails_or_is_empty_leaves_no_trace_and_a_state_resumes(fx, compiled):
    """Client 0 sends NaN, client 3 has no data and is never started; the run goes on from a copy on disk."""
    data = fx.quad_data(counts=[2, 2, 2, 0])
    data.examples["b"] = data.examples["b"].at[0].set(jnp.nan)
    # Without momentum, though clients keep their last gradient.
    sgd = optax.sgd(0.05, momentum=0.0)
    algorithm = fl.fedavg(fx.quad, sgd, weighting=fl.equal, keep_optimizer=True)
    round = make_asynchronous_round(
        algorithm, buffer_size=3, batch_size=1, epochs=1, durations=constant_durations(), donate=False
    )
    state = init_asynchronous(algorithm, START, data, concurrency=4)
    state, info = round(state, data, KEY)
    np.testing.assert_array_equal(info.client, [0, 1, 2])
    np.testing.assert_array_equal(info.excluded, [True, False, False])
    np.testing.assert_array_equal(info.included, [False, True, True])
    w = np.asarray(START.params["w"])
    deltas = [(1 - 0.05 * fx.a[i]) ** 2 * (w - fx.b[i]) + fx.b[i] - w for i in (1, 2)]
    np.testing.assert_allclose(state.federation.variables.params["w"], w + np.mean(deltas, 0), rtol=1e-5)
    np.testing.assert_array_equal(state.federation.history.participations, [0, 1, 1, 0])
    kept = jax.tree.leaves(state.federation.client)
    assert all(np.isfinite(x).all() for x in (*kept, *jax.tree.leaves(info.client_metrics)))
    assert max(float(jnp.abs(x[1]).max()) for x in kept) > 0
    copied = jax.tree.map(lambda x: jax.device_put(np.array(x), x.sharding), state)
    fx.assert_equal(round(state, data, KEY), round(copied, data, KEY))

    nobody = data._replace(valid=jnp.zeros_like(data.valid))
    state, info = round(init_asynchronous(algorithm, START, nobody, concurrency=4), nobody, KEY)
    np.testing.assert_array_equal(info.client, [-1] * 3)
    assert not bool(info.applied) and float(state.clock) == 0
    fx.assert_equal(state.federation.variables, START)
    assert compiled("round") == 1


def test_arguments_are_checked(fx):
    data, work = fx.quad_data(), {"batch_size": 1, "epochs": 1}
    with pytest.raises(ValueError, match="concurrency: expected an integer from 1 to 4"):
        init_asynchronous(fx.averaging, START, data, concurrency=5)
    with pytest.raises(ValueError, match="buffer_size"):
        make_asynchronous_round(fx.averaging, buffer_size=0, **work)
    with pytest.raises(ValueError, match="mixing"):
        make_asynchronous_round(fx.averaging, buffer_size=2, mixing=0.6, **work)
    with pytest.raises(ValueError, match="reduce"):
        make_asynchronous_round(fx.averaging._replace(reduce=fl.reducers.median()), **work)
    with pytest.raises(ValueError, match="scale"):
        constant_durations([1.0, 0.0])
    with pytest.raises(ValueError, match="power"):
        polynomial_discount(-1.0)
    with pytest.raises(ValueError, match="most"):
        threshold_discount(-1)
