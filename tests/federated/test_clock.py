"""The simulated clock: times by hand, policies, availability, and that it is FedAvg where nobody is slow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.errors import ArgumentError
from fedrecon.federated import clock as fc
from fedrecon.federated import sampling
from fedrecon.types import Variables

KEY = jax.random.key(3)
START = Variables({"w": jnp.array([0.3, -0.7])}, {})
COUNTS = np.array([1, 5, 3, 8])
STEPS = np.array([1, 5, 3, 8])
# Of the quadratic: two floats of the model and one weight, up; two floats down.
UP, DOWN = 12, 8
# Twice as slow as the one before it.
SLOWER = np.array([1.0, 2.0, 4.0, 8.0], np.float32)


def clocked(fx, policy=None, *, sampler=None, schedule=None, **profile):
    algorithm = fl.fedavg(fx.quad, optax.sgd(0.1), sampler=sampler, schedule=schedule)
    policy = policy or fc.wait_for_all()
    return algorithm._replace(clock=fc.Clock(fc.profile(4, **profile), STEPS, UP, policy))


def run(algorithm, data, rounds, *, parallel="scan", split=None):
    """(state, infos stacked); with ``split``, in two dispatches, the state saved and read between them."""
    round = fl.make_round(algorithm, batch_size=1, epochs=1, parallel=parallel)
    state, infos = fl.init_state(algorithm, START, data), []
    for count in (rounds,) if split is None else (split, rounds - split):
        state = jax.tree.map(jnp.asarray, jax.tree.map(np.asarray, state))
        state, info = fl.run_rounds(round, count)(state, data, KEY)
        infos.append(info)
    return state, jax.tree.map(lambda *x: np.concatenate(x), *infos)


@pytest.mark.parametrize("parallel", ["scan", pytest.param("vmap", marks=pytest.mark.slow)])
@pytest.mark.parametrize("sampler", [None, fl.uniform_clients(2)])
@pytest.mark.slow
def test_equal_clients_that_are_always_there_are_fedavg_bit_for_bit(fx, parallel, sampler):
    algorithm = clocked(fx, sampler=sampler)
    state, info = run(algorithm, fx.quad_data(), 3, parallel=parallel)
    expected, plain = run(algorithm._replace(clock=None), fx.quad_data(), 3, parallel=parallel)
    fx.assert_equal(state._replace(history=state.history._replace(clock=())), expected)
    fx.assert_equal(info._replace(clock=(), weight=()), plain)


def test_times_are_those_computed_by_hand(fx):
    algorithm = clocked(fx, step_seconds=SLOWER, fixed_seconds=0.5, downlink=4.0, uplink=6.0, latency=0.25)
    state, info = run(algorithm, fx.quad_data(), 2)
    took = (0.25 + 8 / 4) + (0.5 + STEPS * SLOWER) + (0.25 + 12 / 6)
    np.testing.assert_allclose(info.clock.seconds, took.max())
    np.testing.assert_allclose(info.clock.now, took.max() * np.array([1, 2]))
    np.testing.assert_allclose(state.history.clock.seconds, took)
    assert not info.clock.late.any() and not info.clock.away.any()
    np.testing.assert_array_equal(info.bytes_up, UP)
    np.testing.assert_array_equal(info.bytes_down, DOWN)
    np.testing.assert_array_equal(info.client_metrics["steps"][0], [STEPS, STEPS])


def test_a_deadline_leaves_out_who_is_late_and_ends_the_round(fx):
    data, took = fx.quad_data(), STEPS * SLOWER
    state, info = run(clocked(fx, fc.deadline(12.0), step_seconds=SLOWER), data, 1)
    late = took > 12
    assert late.tolist() == [False, False, False, True]
    np.testing.assert_array_equal(info.clock.late[0], late)
    np.testing.assert_array_equal(info.participated[0], ~late)
    assert info.clock.seconds[0] == 12
    # Who is late has got the model and sent nothing.
    np.testing.assert_array_equal(info.bytes_up[0], UP * ~late)
    np.testing.assert_array_equal(info.bytes_down[0], DOWN)
    np.testing.assert_array_equal(state.history.clock.seconds, took)
    without = data._replace(valid=data.valid & ~late[:, None])
    expected, _ = run(clocked(fx), without, 1)
    fx.assert_equal(state.variables, expected.variables)
    # Where all are there in time, the round ends with the last of them.
    _, info = run(clocked(fx, fc.deadline(100.0), step_seconds=SLOWER), data, 1)
    assert info.clock.seconds[0] == took.max()


def test_partial_work_is_the_steps_that_fit_before_the_deadline(fx):
    policy = fc.deadline(12.5, partial=True)
    algorithm = clocked(fx, policy, step_seconds=SLOWER, latency=0.5)
    state, info = run(algorithm, fx.quad_data(), 1)
    fit = np.minimum(STEPS, (12.5 - 1) // SLOWER)
    assert fit.tolist() == [1, 5, 2, 1]
    np.testing.assert_array_equal(info.client_metrics["steps"][0][0], fit)
    np.testing.assert_allclose(state.history.clock.seconds, 1 + fit * SLOWER)
    assert info.clock.seconds[0] == 11 and not info.clock.late.any()
    # Nobody has time for a step: the round is over at its deadline, and nothing has changed.
    state, info = run(clocked(fx, fc.deadline(0.5, partial=True)), fx.quad_data(), 1)
    assert info.clock.late.all() and info.clock.seconds[0] == 0.5 and not info.applied[0]
    fx.assert_equal(state.variables, START)
    np.testing.assert_array_equal(state.history.clock.share, 0)


@pytest.mark.slow
def test_normalized_averaging_of_partial_work_keeps_the_objective(fx):
    data = fx.quad_data(counts=STEPS)

    def gap(recipe):
        algorithm = recipe(fx.quad, 0.01, sampler=None)
        clock = fc.Clock(fc.profile(4, step_seconds=SLOWER), STEPS, UP, fc.deadline(11.0, partial=True))
        state, _ = run(algorithm._replace(clock=clock), data, 1500)
        p = COUNTS / COUNTS.sum()
        best = (p[:, None] * fx.a[:, None] * fx.b).sum(0) / (p * fx.a).sum()
        return np.linalg.norm(np.asarray(state.variables.params["w"]) - best)

    plain = gap(lambda task, rate, **options: fl.fedavg(task, optax.sgd(rate), **options))
    assert gap(fl.fednova) < 0.2 * plain


def test_the_first_arrivals_end_the_round_and_ties_go_by_number(fx):
    policy = fc.first_arrivals(2)
    _, info = run(clocked(fx, policy, step_seconds=SLOWER), fx.quad_data(), 1)
    took = STEPS * SLOWER
    assert took.tolist() == [1, 10, 12, 64]
    np.testing.assert_array_equal(info.participated[0], [True, True, False, False])
    assert info.clock.seconds[0] == 10
    cut = policy(
        fc.Times(*(jnp.zeros(4),) * 4, jnp.zeros(4, jnp.int32)), jnp.array([False, True, True, True])
    )
    np.testing.assert_array_equal(cut.arriving, [False, True, True, False])


def test_availability_is_the_markov_chain_of_its_probabilities(fx):
    data, leave, back = fx.quad_data(), 0.2, 0.4
    _, info = run(clocked(fx, leave=leave, back=back), data, 600)
    away = info.clock.away
    assert not away[0].any()
    np.testing.assert_array_equal(info.participated, ~away)
    # Five standard errors of the share of a chain whose correlation is 1 - leave - back.
    expected = leave / (leave + back)
    error = np.sqrt(expected * (1 - expected) / away.size * (1.4 / 0.6))
    assert abs(away.mean() - expected) < 5 * error
    returned = (away[:-1] & ~away[1:]).sum() / away[:-1].sum()
    assert abs(returned - back) < 5 * np.sqrt(back * (1 - back) / away[:-1].sum())
    # Rounds without anybody change nothing and take no time.
    alone = ~info.participated.any(1)
    assert (info.clock.seconds[alone] == 0).all() and not info.applied[alone].any()


@pytest.mark.slow
def test_it_resumes_and_runs_on_devices_alike(fx):
    options = {"speed_spread": 1.0, "leave": 0.3, "back": 0.5, "jitter": 0.2, "uplink": 10.0}
    algorithm = clocked(fx, fc.deadline(6.0, partial=True), sampler=fl.uniform_clients(3), **options)
    whole, parts = (run(algorithm, fx.quad_data(), 5, split=split) for split in (None, 2))
    fx.assert_equal(whole, parts)
    assert whole[1].clock.now[-1] == whole[0].history.clock.now
    mesh = fl.client_mesh(jax.devices()[:2])
    data = fl.place(fx.quad_data(), mesh)
    state = fl.init_state(algorithm, START, data, mesh)
    round = fl.make_round(algorithm, batch_size=1, epochs=1, mesh=mesh)
    for _ in range(5):
        state, _ = round(state, data, KEY)
    fx.assert_close(state, whole[0], 1e-6)


def test_steps_that_a_schedule_takes_away_take_no_time(fx):
    def schedule(context):
        most = jax.random.randint(context.key, (), 1, 4)
        return fl.Work(jnp.float32(1), most)

    state, info = run(clocked(fx, schedule=schedule), fx.quad_data(), 4)
    np.testing.assert_array_equal(info.clock.seconds, info.client_metrics["steps"][0].max(1))
    np.testing.assert_array_equal(state.history.clock.seconds, info.client_metrics["steps"][0][-1])


def test_shares_are_the_weights_of_the_means(fx):
    state, _ = run(clocked(fx), fx.quad_data(), 3)
    np.testing.assert_allclose(fc.participation_bias(state.history.clock.share, COUNTS), 1, rtol=1e-6)
    np.testing.assert_allclose(state.history.clock.share.sum(), 3, rtol=1e-6)
    # Whom the deadline leaves out has no part, and the others have more than theirs.
    state, _ = run(clocked(fx, fc.deadline(12.0), step_seconds=SLOWER), fx.quad_data(), 3)
    bias = fc.participation_bias(state.history.clock.share, COUNTS)
    np.testing.assert_allclose(bias, [17 / 9, 17 / 9, 17 / 9, 0], rtol=1e-6)


def test_speeds_are_log_normal_and_least_seconds_hold(fx):
    many = fc.profile(4000, speed_spread=0.5)
    logs = -np.log(many.step_seconds)
    assert abs(logs.mean()) < 4 * 0.5 / np.sqrt(4000) and abs(logs.std() - 0.5) < 0.03
    np.testing.assert_array_equal(fc.profile(3).step_seconds, 1)
    profile = fc.profile(2000, step_seconds=2.0, jitter=0.3, least_seconds=1.0, latency=0.5)
    steps, size = jnp.full(2000, 3), jnp.zeros(2000)
    times = fc.times_of(profile, KEY, steps, size, size)
    # Floors hold for every part; the work is normal around 6 with 0.3 of it.
    np.testing.assert_array_equal(times.download, 1)
    np.testing.assert_allclose((times.fixed + 3 * times.step).mean(), 6, atol=5 * 1.8 / np.sqrt(2000))
    assert times.total.min() >= 3


@pytest.mark.slow
def test_tiers_are_drawn_alone_and_fast_ones_do_not_wait(fx):
    tier = sampling.tiers_of(STEPS * SLOWER, 2)
    assert tier.tolist() == [0, 0, 1, 1]
    for count in (None, 1):
        sampler = sampling.tiered_clients(tier, count)
        _, info = run(clocked(fx, sampler=sampler, step_seconds=SLOWER), fx.quad_data(), 40)
        assert ((info.participated @ (tier == 0) == 0) | (info.participated @ (tier == 1) == 0)).all()
        assert (info.participated.sum(1) == (count or 2)).all()
        fast = info.participated[:, :2].any(1)
        assert 8 < fast.sum() < 32
        assert (info.clock.seconds[fast] <= 10).all() and (info.clock.seconds[~fast] >= 12).all()


def test_late_messages_are_told_by_the_longest_and_timed_by_what_was_sent(fx):
    algorithm = clocked(fx, uplink=2.0)
    algorithm = algorithm._replace(clock=algorithm.clock._replace(bytes_up=100, steps=STEPS))
    _, info = run(algorithm, fx.quad_data(), 1)
    assert info.clock.seconds[0] == 8 + UP / 2
    policy = fc.deadline(20.0)
    algorithm = algorithm._replace(clock=algorithm.clock._replace(policy=policy))
    assert run(algorithm, fx.quad_data(), 1)[1].clock.late.all()


@pytest.mark.slow
def test_asynchronous_updates_take_the_times_of_the_clock(fx):
    algorithm = clocked(fx, step_seconds=SLOWER, downlink=4.0, latency=0.25)
    state = fl.topologies.init_asynchronous(algorithm, START, fx.quad_data(), concurrency=4)
    round = fl.topologies.make_asynchronous_round(algorithm, buffer_size=3, batch_size=1, epochs=1)
    state, info = round(state, fx.quad_data(), KEY)
    took = 0.5 + DOWN / 4 + STEPS * SLOWER
    assert took.tolist() == [3.5, 12.5, 14.5, 66.5]
    np.testing.assert_array_equal(info.client, [0, 0, 0])
    np.testing.assert_allclose(info.clock, took[0] * np.arange(1, 4))


def test_what_makes_no_sense_is_refused(fx):
    for name, bad in [("step_seconds", 0), ("leave", 1.5), ("uplink", -1), ("speed_spread", np.inf),
                      ("jitter", -0.1), ("latency", [1, 2])]:  # fmt: skip
        with pytest.raises(ArgumentError, match=name):
            fc.profile(4, **{name: bad})
    for call in (lambda: fc.deadline(0.0), lambda: fc.first_arrivals(0), lambda: sampling.tiers_of([1], 2),
                 lambda: sampling.tiered_clients([0, 2])):  # fmt: skip
        with pytest.raises(ArgumentError):
            call()
    with pytest.raises(ArgumentError, match="share"):
        fc.participation_bias([0, 0], [1, 1])
    algorithm = clocked(fx)
    short = algorithm._replace(clock=algorithm.clock._replace(steps=STEPS[:3]))
    with pytest.raises(ArgumentError, match=r"clock\.steps"):
        run(short, fx.quad_data(), 1)
    timed = algorithm._replace(clock=None, sampler=sampling.Sampler(fl.all_clients(), timed=True))
    with pytest.raises(ArgumentError, match=r"algorithm\.clock"):
        run(timed, fx.quad_data(), 1)
    round = fl.topologies.make_ring_round(algorithm, batch_size=1, epochs=1)
    with pytest.raises(ArgumentError, match=r"algorithm\.clock"):
        round(fl.init_state(algorithm, START, fx.quad_data()), fx.quad_data(), KEY)
