"""Ji: slow clients are left out by their mean times, and nobody starves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.errors import ArgumentError
from fedrecon.federated import clock as fc
from fedrecon.federated.methods.ji import Timings, fast_clients, ji
from fedrecon.federated.sampling import Observed
from fedrecon.types import Variables

KEY = jax.random.key(3)
START = Variables({"w": jnp.array([0.3, -0.7])}, {})
COUNTS = np.array([4, 4, 4, 4])
SLOW = np.array([1.0, 1.0, 1.0, 10.0], np.float32)


def run(fx, rounds, step_seconds=1.0, *, algorithm=None, **options):
    data = fx.quad_data(counts=COUNTS)
    algorithm = algorithm or ji(fx.quad, optax.sgd(0.1), **options)
    clock = fc.Clock(fc.profile(4, step_seconds=step_seconds), COUNTS, 12)
    algorithm = algorithm._replace(clock=clock)
    round = fl.make_round(algorithm, batch_size=1, epochs=1)
    return fl.run_rounds(round, rounds)(fl.init_state(algorithm, START, data), data, KEY)


def test_equal_times_are_fedavg_bit_for_bit(fx):
    state, info = run(fx, 7)
    assert info.participated.all() and not info.clock.late.any()
    expected, _ = run(fx, 7, algorithm=fl.fedavg(fx.quad, optax.sgd(0.1)))
    fx.assert_equal(state.variables, expected.variables)
    np.testing.assert_array_equal(info.bytes_up, 12)


def test_a_slow_client_is_left_out_and_rounds_are_shorter(fx):
    state, info = run(fx, 12, SLOW)
    # Timed in the first round; then left out; invited again after five, and late then: 1.3 of the mean of
    # (4, 4, 4, 40) is 13.
    slow = info.participated[:, 3]
    assert slow.tolist() == [True] + [False] * 11
    assert info.participated[:, :3].all()
    assert np.flatnonzero(info.clock.late[:, 3]).tolist() == [5, 10]
    seconds = np.asarray(info.clock.seconds)
    np.testing.assert_allclose(seconds[[0, 1, 4]], [40, 4, 4])
    np.testing.assert_allclose(seconds[[5, 10]], 13, rtol=1e-4)
    np.testing.assert_array_equal(state.history.memory.rounds, [12, 12, 12, 3])
    # Without a deadline the mean has it when it is tried again, and without trying never.
    _, info = run(fx, 12, SLOW, deadline=False)
    assert np.flatnonzero(info.participated[:, 3]).tolist() == [0, 5, 10] and not info.clock.late.any()
    _, info = run(fx, 12, SLOW, retry_rounds=0)
    assert np.flatnonzero(info.participated[:, 3]).tolist() == [0] and not info.clock.late.any()


def memory_of(seconds, rounds, last):
    return Timings(*(jnp.asarray(x) for x in (np.float32(seconds), np.int32(rounds), np.int32(last))))


def chosen(sampler, memory, round):
    clients = len(memory.rounds)
    history = fl.History(*(jnp.zeros(clients, jnp.int32),) * 3, memory)
    return np.flatnonzero(sampler(KEY, jnp.int32(round), history)).tolist(), sampler.deadline(history)


def test_the_rule_by_hand():
    # Mean seconds 2, 4, 9 and not timed: the mean is 5.
    memory = memory_of([4, 4, 27, 0], [2, 1, 3, 0], [7, 3, 6, -1])
    sampler = fast_clients(1.0, least=1, retry_rounds=0)
    found, most = chosen(sampler, memory, 8)
    assert found == [0, 1, 3] and most == pytest.approx(5, rel=1e-4)
    assert chosen(fast_clients(2.0, least=1, retry_rounds=0), memory, 8)[0] == [0, 1, 2, 3]
    # Clients that were never timed are among the least.
    assert chosen(fast_clients(0.1, least=3, retry_rounds=0), memory, 8)[0] == [0, 1, 3]
    assert chosen(fast_clients(0.1, least=1, retry_rounds=2), memory, 8)[0] == [1, 2, 3]


@pytest.mark.parametrize("seed", range(5))
def test_the_set_is_never_empty_and_the_fastest_are_waited_for(seed):
    rng = np.random.default_rng(seed)
    for ratio in (0.01, 0.5, 1.0):
        rounds = rng.integers(0, 4, 6)
        memory = memory_of(rng.exponential(size=6) * rounds, rounds, rng.integers(0, 9, 6))
        found, most = chosen(fast_clients(ratio, least=2, retry_rounds=0), memory, 10)
        assert len(found) >= 2
        means = np.sort(np.where(rounds > 0, memory.seconds / np.maximum(rounds, 1), -1))
        assert most >= means[1]


def test_times_are_those_of_everybody_invited():
    sampler = fast_clients()
    seen = Observed(
        jnp.int32(4),
        jnp.array([True, False, False]),
        {},
        jnp.array([2.0, 9.0, 5.0]),
        jnp.array([True, True, False]),
    )
    memory = sampler.observe(sampler.init(3), seen)
    assert memory.seconds.tolist() == [2, 9, 0]
    assert memory.rounds.tolist() == [1, 1, 0] and memory.last.tolist() == [4, 4, -1]


@pytest.mark.slow
def test_it_resumes_bit_for_bit(fx):
    data = fx.quad_data(counts=COUNTS)
    algorithm = ji(fx.quad, optax.sgd(0.1))
    profile = fc.profile(4, speed_spread=1.0, jitter=0.3, leave=0.2)
    algorithm = algorithm._replace(clock=fc.Clock(profile, COUNTS, 12))
    round = fl.make_round(algorithm, batch_size=1, epochs=1)
    start = fl.init_state(algorithm, START, data)
    whole, _ = fl.run_rounds(round, 6)(start, data, KEY)
    state, _ = fl.run_rounds(round, 2)(fl.init_state(algorithm, START, data), data, KEY)
    state, _ = fl.run_rounds(round, 4)(jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), state), data, KEY)
    fx.assert_equal(state, whole)


def test_it_needs_a_clock_and_sensible_numbers(fx):
    data = fx.quad_data(counts=COUNTS)
    algorithm = ji(fx.quad, optax.sgd(0.1))
    round = fl.make_round(algorithm, batch_size=1, epochs=1)
    with pytest.raises(ArgumentError, match=r"algorithm\.clock"):
        round(fl.init_state(algorithm, START, data), data, KEY)
    for options in ({"ratio": 0.0}, {"least": 0}, {"retry_rounds": -1}):
        with pytest.raises(ArgumentError, match=next(iter(options))):
            ji(fx.quad, optax.sgd(0.1), **options)
    with pytest.raises(ArgumentError, match="least"):
        run(fx, 1, least=5)
