"""Tuladhar: work and rates by round, and weights from several scores."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.errors import ArgumentError
from fedrecon.federated.methods.tuladhar import ensemble, falling_work, tuladhar
from fedrecon.training.components import both_schedules
from fedrecon.types import Variables
from tests.federated.conftest import Clients

KEY = jax.random.key(3)
START = Variables({"w": jnp.array([0.3, -0.7])}, {})
COUNTS = np.array([1, 5, 3, 8])
PLAIN = {"scores": "examples", "decay": 1.0, "work": "constant"}


def score(params, stats, batch):
    """1 / (1 + the mean squared distance from the batch's targets)."""
    away = ((params["w"] - batch["b"]) ** 2).sum(-1)
    return 1 / (1 + jnp.where(batch["valid"], away, 0).sum() / batch["valid"].sum())


def run(fx, algorithm, rounds=3, *, task="quad", data=None, **options):
    data = data or fx.quad_data()
    round = fl.make_round(algorithm, **{"batch_size": 1, "epochs": 2, **options})
    return fl.run_rounds(round, rounds)(fl.init_state(algorithm, START, data), data, KEY)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["scan", pytest.param("vmap", marks=pytest.mark.slow)])
def test_of_examples_alone_it_is_fedavg_bit_for_bit(fx, parallel):
    own = tuladhar(fx.quad, optax.sgd(0.05), score=score, **PLAIN)
    state, info = run(fx, own, parallel=parallel)
    expected, plain = run(fx, fl.fedavg(fx.quad, optax.sgd(0.05)), parallel=parallel)
    fx.assert_equal(state.variables, expected.variables)
    np.testing.assert_array_equal(info.bytes_up, plain.bytes_up)


@pytest.mark.parametrize("work", ["decreasing", "increasing"])
def test_steps_are_those_of_the_table(fx, work):
    """E_t = max(1/2, 2 x .9^min(t, 10)) passes, or the reverse, of two examples a step."""
    own = tuladhar(fx.quad, optax.sgd(0.05), score=score, work=work)
    _, info = run(fx, own, 13, batch_size=2)
    t = np.arange(13)
    power = np.minimum(t, 10) if work == "decreasing" else np.maximum(10 - t, 0)
    passes = np.maximum(0.5, 2 * 0.9**power)
    expected = np.ceil(passes[:, None] * np.ceil(COUNTS / 2) - 1e-6)
    np.testing.assert_array_equal(info.client_metrics["steps"][0], expected)


def test_no_work_is_less_than_its_least_part_and_clients_may_have_their_own():
    def steps(schedule, round, full, client=0):
        context = fl.Context(jnp.int32(round), KEY, jnp.int32(client), steps=jnp.int32(full))
        return int(schedule(context).steps)

    assert steps(falling_work(least_part=0.5), 9, 10) == 5
    own = falling_work(part=lambda round, client: jnp.array([0.1, 1.0])[client])
    assert (steps(own, 0, 10, 0), steps(own, 7, 10, 1), steps(own, 0, 11, 0)) == (1, 10, 2)


def test_the_optimizer_sees_the_rate_of_the_round(fx):
    """Of linear losses a step is minus the rate times b."""
    rates = []
    own = tuladhar(fx.linear, optax.sgd(0.05), score=score, scores="examples", work="constant", decay=0.8)
    data = fx.quad_data()
    round = fl.make_round(own, batch_size=1, epochs=1)
    state = fl.init_state(own, START, data)
    direction = ((COUNTS**2 / COUNTS.sum())[:, None] * fx.b).sum(0)
    for _ in range(4):
        before = np.asarray(state.variables.params["w"])
        state, _ = round(state, data, KEY)
        rates.append((before - np.asarray(state.variables.params["w"]))[0] / direction[0])
    np.testing.assert_allclose(rates, 0.05 * 0.8 ** np.arange(4), rtol=1e-4)


def alpha_of(scores, deltas, weights, told, included):
    """The reducer's weights and mean of what clients sent."""
    weights = np.asarray(weights, np.float32)
    upload = fl.Upload(
        Variables({"w": jnp.asarray(deltas, jnp.float32) * weights[:, None]}, {}),
        fl.Message(scalars={"score": jnp.asarray(told, jnp.float32) * weights}),
        jnp.asarray(weights),
    )
    reducer = ensemble(scores, lambda scalars: scalars)
    found = reducer.reduce(upload, jnp.asarray(included), (), None)
    return (
        np.asarray(found.info["alpha"]),
        np.asarray(found.upload.delta.params["w"]),
        float(found.upload.weight),
    )


def test_weights_are_means_of_shares():
    deltas = np.array([[1.0, 0], [0, 2], [3, 3], [9, 9]])
    included = np.array([True, True, True, False])
    alpha, mean, weight = alpha_of(
        ("examples", "score", "distance"), deltas, [1, 5, 4, 7], [0.2, 0.6, 0.2, 1], included
    )
    away = 1 / (np.linalg.norm(deltas[:3] - deltas[:3].mean(0), axis=1) + 1e-5)
    shares = [np.array([1, 5, 4]) / 10, np.array([0.2, 0.6, 0.2]), away / away.sum()]
    expected = np.mean(shares, 0)
    np.testing.assert_allclose(alpha, [*expected, 0], rtol=1e-5)
    assert alpha.sum() == pytest.approx(1) and weight == 1
    np.testing.assert_allclose(mean, (expected[:, None] * deltas[:3]).sum(0), rtol=1e-5)
    # Scores that are zero everywhere are equal; nobody is no round.
    alpha, _, _ = alpha_of(("score",), deltas, [1, 5, 4, 7], np.zeros(4), included)
    np.testing.assert_allclose(alpha, [1 / 3, 1 / 3, 1 / 3, 0], rtol=1e-6)
    assert alpha_of(("score",), deltas, [1, 5, 4, 7], np.ones(4), np.zeros(4, bool))[2] == 0


def test_an_outlier_weighs_less_by_its_distance():
    near = np.array([[1.0, 0], [1.1, 0], [0.9, 0.1], [1.0, 0.2]])
    far = near.copy()
    far[3] = [30, -20]
    everybody = np.ones(4, bool)
    weights = [
        alpha_of(("examples", "distance"), x, np.ones(4), np.ones(4), everybody)[0][3] for x in (near, far)
    ]
    assert weights[1] < weights[0] and weights[1] < 0.25


def test_a_round_is_that_of_the_equations(fx):
    own = tuladhar(fx.quad, optax.sgd(0.05), score=score, work="constant")
    state, info = run(fx, own, 1, epochs=1)
    start = np.array([0.3, -0.7])
    models = fx.b + ((1 - 0.05 * fx.a) ** COUNTS)[:, None] * (start - fx.b)
    u = [
        COUNTS,
        1 / (1 + ((models - fx.b) ** 2).sum(1)),
        1 / (np.linalg.norm(models - models.mean(0), axis=1) + 1e-5),
    ]
    alpha = np.mean([x / x.sum() for x in u], 0)
    np.testing.assert_allclose(state.variables.params["w"], alpha @ models, rtol=1e-5)
    np.testing.assert_allclose(info.reduce["alpha"][0], alpha, rtol=1e-5)
    # The model, its weight and the score.
    np.testing.assert_array_equal(info.bytes_up, 4 * (2 + 1 + 1))


def test_scores_are_those_of_the_validation_split(fx):
    data = fx.quad_data()
    own_split = Clients(
        {"a": jnp.ones((4, 1)), "b": jnp.asarray(fx.b)[:, None] + 3.0}, jnp.ones((4, 1), bool)
    )
    split = fl.place(data, validation=own_split)
    own = tuladhar(fx.quad, optax.sgd(0.05), score=score, scores="score", work="constant")
    _, info = run(fx, own, 1, data=split, epochs=1)
    models = fx.b + ((1 - 0.05 * fx.a) ** COUNTS)[:, None] * (np.array([0.3, -0.7]) - fx.b)
    u = 1 / (1 + ((models - fx.b - 3) ** 2).sum(1))
    np.testing.assert_allclose(info.reduce["alpha"][0], u / u.sum(), rtol=1e-5)


def test_schedules_of_two_go_together():
    context = fl.Context(jnp.int32(3), KEY, jnp.int32(0), steps=jnp.int32(10))

    def halves(context):
        return fl.Work(jnp.float32(0.5), context.steps // 2)

    def by_part(context):
        return fl.Work(lambda part: 1 - part, context.steps - 1)

    assert both_schedules(halves, None) is halves and both_schedules(None, halves) is halves
    assert both_schedules(None, None) is None
    found = both_schedules(halves, halves)(context)
    assert (float(found.rate), int(found.steps)) == (0.25, 5)
    assert int(both_schedules(halves, by_part)(context).steps) == 5
    found = both_schedules(by_part, halves)(context)
    assert int(found.steps) == 5
    np.testing.assert_allclose(found.rate(jnp.array([0.0, 0.5])), [0.5, 0.25])


@pytest.mark.slow
def test_it_resumes_bit_for_bit(fx):
    own = tuladhar(fx.quad, optax.adam(0.05), score=score, keep_optimizer=True)
    whole, _ = run(fx, own, 4)
    state, _ = run(fx, own, 2)
    round = fl.make_round(own, batch_size=1, epochs=2)
    state, _ = fl.run_rounds(round, 2)(
        jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), state), fx.quad_data(), KEY
    )
    fx.assert_equal(state, whole)


def test_what_makes_no_sense_is_refused(fx):
    for options in ({"scores": "examples,luck"}, {"scores": "score,score"}, {"decay": 0.0}, {"work": "none"},
                    {"least_part": 0.0}):  # fmt: skip
        with pytest.raises(ArgumentError, match=next(iter(options))):
            tuladhar(fx.quad, optax.sgd(0.05), score=score, **options)
