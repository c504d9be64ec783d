"""Streaming: the same numbers with clients in host memory, and little on the device."""

import threading

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.topologies.streaming import StreamingRound, init_streaming, load_from
from fedrecon.types import Variables

KEY = jax.random.key(3)
COUNTS = [5, 3, 1, 4, 2, 5, 3]


def on_host(data):
    return jax.tree.map(np.asarray, data)


def algorithm_of(fx, sampler):
    return fl.fedbn(
        fx.regression,
        optax.adam(0.05),
        keep_optimizer=True,
        sampler=sampler,
        channel=fl.chain(fl.clip(0.3)),
    )


@pytest.mark.parametrize(
    ("tiny", "sampler", "cohort", "prefetched"),
    [
        pytest.param(False, fl.uniform_clients(3), 4, [False, True, True], marks=pytest.mark.slow),
        # Who is next depends on the losses of this round.
        (True, fl.sampling.highest_loss(2, 4), 2, [False, False, False]),
    ],
)
def test_rounds_equal_those_in_memory_bit_for_bit(fx, tiny, sampler, cohort, prefetched):
    data, algorithm = fx.regression_data(COUNTS), algorithm_of(fx, sampler)
    variables, work = fx.regression.init(jax.random.key(0)), {"batch_size": 2, "epochs": 2}
    if tiny:
        data, algorithm = fx.quad_data(), fl.local_only(fx.quad, optax.adam(0.05), sampler=sampler)
        variables = Variables({"w": jnp.ones(2)}, {})
    clients = len(data.valid)
    round = fl.make_round(algorithm, **work)
    expected = fl.init_state(algorithm, variables, data)
    load = load_from(on_host(data))
    state = init_streaming(algorithm, variables, load, clients)
    fx.assert_equal(state, expected)
    found = []
    with StreamingRound(algorithm, load, cohort=cohort, **work) as stream:
        for _ in range(3):
            expected, full = round(expected, data, KEY)
            state, info = stream(state, KEY)
            fx.assert_equal(state, expected)
            np.testing.assert_array_equal(info.clients, np.flatnonzero(full.participated))
            per_client = ("client_metrics", "excluded", "bytes_up", "bytes_down", "delta_norm")
            for name in per_client:
                picked = jax.tree.map(lambda x, at=info.clients: x[at], getattr(full, name))
                fx.assert_equal(getattr(info.round, name), picked)
            fx.assert_close(info.round.metrics, full.metrics)
            found.append(info.prefetched)
    assert found == prefetched
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves((state.client, state.private)))


@pytest.mark.slow
def test_an_empty_round_changes_nothing(fx):
    data = fx.quad_data()
    algorithm = fl.fedavg(
        fx.quad, optax.sgd(0.05), sampler=lambda key, round, history: jnp.zeros(4, bool).at[0].set(round > 0)
    )
    load, start = load_from(on_host(data)), Variables({"w": jnp.ones(2)}, {})
    with StreamingRound(algorithm, load, cohort=2, batch_size=1, epochs=1) as stream:
        state, info = stream(init_streaming(algorithm, start, load, 4), KEY)
        fx.assert_equal(state.variables, start)
        assert info.clients.shape == (0,) and not info.round.applied
        state, info = stream(state, KEY)
    np.testing.assert_array_equal(info.clients, [0])
    np.testing.assert_allclose(state.variables.params["w"], fx.b[0] + 0.95 * (1 - fx.b[0]), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["memory", pytest.param("hdf5", marks=pytest.mark.slow)])
def test_evaluation_is_that_on_the_device(fx, tmp_path, source):
    """Clients' own models and one model, two of seven clients at a time, the last cohort padded."""
    data = fx.regression_data(COUNTS)
    algorithm = algorithm_of(fx, fl.all_clients())
    state = fl.init_state(algorithm, fx.regression.init(jax.random.key(0)), data)
    rng = np.random.default_rng(0)
    private = jax.tree.map(lambda x: np.asarray(x + rng.integers(1, 3, x.shape), x.dtype), state.private)
    history = state.history._replace(participations=jnp.array([1, 0, 2, 0, 0, 1, 1]))
    state = state._replace(private=private, history=history)
    load = load_from(on_host(data))
    if source == "hdf5":
        with h5py.File(tmp_path / "clients.h5", "w") as file:
            for name, x in {**data.examples, "valid": data.valid}.items():
                file[name] = np.asarray(x)
        file = h5py.File(tmp_path / "clients.h5")
        load = load_from(fx.clients({"x": file["x"], "y": file["y"]}, file["valid"]))
    streamed = fl.topologies.make_streaming_evaluate(
        algorithm, fx.regression.metrics, load, clients=7, cohort=2
    )
    full = fl.make_evaluate(algorithm, fx.regression.metrics)
    for model in (state, state.variables):
        fx.assert_close(streamed(model), full(model, data), 1e-6)
    fx.assert_close(
        fl.topologies.streaming_average(algorithm, state), fl.average_variables(algorithm, state), 1e-6
    )
    nobody = state._replace(history=history._replace(participations=jnp.zeros(7, jnp.int32)))
    fx.assert_equal(fl.topologies.streaming_average(algorithm, nobody), state.variables)


class Clock:
    """A second passes with each look at it."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        self.now += 1
        return self.now


def test_loading_goes_on_during_the_computation_and_time_is_told(fx):
    data, threads = on_host(fx.quad_data()), []

    def load(clients):
        threads.append((threading.current_thread(), clients.tolist()))
        return load_from(data)(clients)

    algorithm = fl.fedavg(fx.quad, optax.sgd(0.05), sampler=fl.uniform_clients(2))
    state = init_streaming(algorithm, Variables({"w": jnp.ones(2)}, {}), load, 4)
    del threads[:]
    with StreamingRound(algorithm, load, cohort=2, batch_size=1, epochs=1, clock=Clock()) as stream:
        state, first = stream(state, KEY)
        state, second = stream(state, KEY)
    assert [info.prefetched for info in (first, second)] == [False, True]
    # The first cohort is waited for, the others are loaded aside, the last of them without use.
    assert len({thread for thread, _ in threads} | {threading.main_thread()}) == 2
    assert [numbers for _, numbers in threads[:2]] == [first.clients.tolist(), second.clients.tolist()]
    assert (first.compile_seconds, first.data_seconds, first.compute_seconds) == (2, 2, 2)
    assert first.clients_per_second == 0.5


@pytest.mark.parametrize("fault", ["cohort", "rows", pytest.param("shapes", marks=pytest.mark.slow)])
def test_faults_are_named(fx, fault):
    data = on_host(fx.quad_data())

    def load(clients):
        examples, valid = load_from(data)(clients)
        if fault == "rows" and len(clients) > 1:
            examples["a"] = examples["a"][1:]
        if fault == "shapes" and len(clients) > 1 and 0 not in clients:
            examples, valid = jax.tree.map(lambda x: x[:, :3], (examples, valid))
        return examples, valid

    def sampler(key, round, history):
        return jnp.where(round > 0, jnp.arange(4) >= 2, jnp.arange(4) < 2)

    algorithm = fl.fedavg(fx.quad, optax.sgd(0.05), sampler=sampler)
    cohort = 1 if fault == "cohort" else 2
    state = init_streaming(algorithm, Variables({"w": jnp.ones(2)}, {}), load, 4)
    expected = "cohort:" if fault == "cohort" else "load: expected"
    with (
        StreamingRound(algorithm, load, cohort=cohort, batch_size=1, epochs=1) as stream,
        pytest.raises(ValueError, match=expected),
    ):
        for _ in range(2):
            state, _ = stream(state, KEY)


def test_arguments_are_checked(fx):
    with pytest.raises(ValueError, match="cohort"):
        StreamingRound(fx.averaging, None, cohort=0, batch_size=1, epochs=1)
    with pytest.raises(ValueError, match="clients"):
        init_streaming(fx.averaging, Variables({"w": jnp.ones(2)}, {}), None, 0)
    with pytest.raises(ValueError, match="cohort"):
        fl.topologies.make_streaming_evaluate(fx.averaging, fx.quad.metrics, None, clients=3, cohort=0)


@pytest.mark.slow
def test_ten_thousand_clients_leave_the_device_almost_empty(fx):
    """Only the three arrays of the history are of all clients' length; compiled once."""
    clients, cohort = 10_000, 20

    def load(numbers):
        rng = np.random.default_rng(int(numbers[0]))
        x = rng.normal(size=(len(numbers), 8, 3)).astype(np.float32)
        return {"x": x, "y": x.sum(-1)}, np.ones((len(numbers), 8), bool)

    algorithm = algorithm_of(fx, fl.uniform_clients(cohort))
    state = init_streaming(algorithm, fx.regression.init(jax.random.key(0)), load, clients)
    seen = np.zeros(clients, int)
    with StreamingRound(algorithm, load, cohort=cohort, batch_size=4, epochs=1) as stream:
        for number in range(30):
            state, info = stream(state, KEY)
            seen[info.clients] += 1
            assert (info.compile_seconds > 0.01) == (number == 0)
            assert len(info.clients) == cohort and info.clients_per_second > 0
            long = [x for x in jax.live_arrays() if x.ndim and x.shape[0] == clients]
            assert sorted(str(x.dtype) for x in long) == ["float32", "int32", "int32"]
    np.testing.assert_array_equal(state.history.participations, seen)
    assert state.private.params["norm"]["scale"].shape == (clients, 3)
    untouched = state.private.params["norm"]["scale"][seen == 0]
    assert (untouched == 1).all() and (state.private.params["norm"]["scale"][seen > 0] != 1).any(1).all()
