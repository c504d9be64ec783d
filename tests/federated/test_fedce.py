"""FedCE: coefficients by the equations of the paper, minus models by what the others sent."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods.fedce import fedce, without
from fedrecon.federated.reducers.contributions import by_contribution, coefficients
from fedrecon.types import Variables

RATE = 0.05


def score(params, stats, batch):
    """Higher the nearer to the client's target."""
    away = ((params["w"] - batch["b"]) ** 2).sum(-1)
    return jnp.exp(-jnp.where(batch["valid"], away, 0).sum() / jnp.maximum(batch["valid"].sum(), 1) / 10)


def algorithm(fx, clients=4, **options):
    return fedce(fx.quad, optax.sgd(RATE), clients=clients, score=score, **options)


def rounds(fx, method, data, count, start=(0.3, -0.7), **work):
    run = fl.make_round(method, batch_size=1, epochs=1, donate=False, **work)
    state = fl.init_state(method, Variables({"w": jnp.asarray(start)}, {}), data)
    found = []
    for _ in range(count):
        state, info = run(state, data, jax.random.key(3))
        found.append((state, info))
    return found


def by_hand(fx, count, combination="plus"):
    """Three rounds in double precision, client by client: models and coefficients."""
    w, n = np.array([0.3, -0.7]), len(fx.a)
    c, s_sum, m_sum, last = np.full(n, 1 / n), np.zeros(n), np.zeros(n), None
    found = []
    for r in range(count):
        if r:
            for i in range(n):
                minus = (w - c[i] * last[i]) / (1 - c[i])
                m_sum[i] += np.exp(-((minus - fx.b[i]) ** 2).sum() / 10)
        shrink = (1 - RATE * fx.a.astype(float)) ** fx.tau
        local = fx.b + shrink[:, None] * (w - fx.b)
        delta = local - w
        g = c @ delta
        for i in range(n):
            rest = g - c[i] * delta[i]
            s_sum[i] += delta[i] @ rest / np.linalg.norm(delta[i]) / np.linalg.norm(rest)
        a, e = 1 - s_sum / (r + 1), 1 - m_sum / (r + 1)
        a, e = np.maximum(a / a.sum(), 1e-3), np.maximum(e / e.sum(), 1e-3)
        c = a + e if combination == "plus" else a * e
        c = np.maximum(c / c.sum(), 1e-3)
        c = c / c.sum()
        w, last = w + c @ delta, local
        found.append((w, c))
    return found


@pytest.mark.parametrize("combination", ["plus", pytest.param("times", marks=pytest.mark.slow)])
def test_rounds_are_those_of_the_equations(fx, combination):
    found = rounds(fx, algorithm(fx, combination=combination), fx.quad_data(), 3)
    for (state, info), (w, c) in zip(found, by_hand(fx, 3, combination), strict=True):
        np.testing.assert_allclose(state.variables.params["w"], w, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(state.reduce.coefficient, c, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(state.answers, c, rtol=1e-5, atol=1e-5)
        # The model, the error and the weight; the model, the coefficient and the number of the round.
        np.testing.assert_array_equal(info.bytes_up, 4 * 2 + 4 + 4)
        np.testing.assert_array_equal(info.bytes_down, 4 * 2 + 4 + 4)


def test_the_minus_model_is_the_mean_of_the_others(fx):
    state = rounds(fx, algorithm(fx), fx.quad_data(), 2)[-1][0]
    c, sent = np.asarray(state.answers), np.asarray(state.client.method["model"].params["w"])
    for i in range(4):
        others = [j for j in range(4) if j != i]
        expected = c[others] @ sent[others] / c[others].sum()
        model = Variables({"w": state.client.method["model"].params["w"][i]}, {})
        found = without(state.variables, model, state.answers[i])
        np.testing.assert_allclose(found.params["w"], expected, atol=1e-6)


def test_equal_clients_stay_uniform(fx):
    data = fx.quad_data(np.full(4, 2.0, np.float32), np.tile(fx.b[1], (4, 1)), np.full(4, 5))
    for state, _ in rounds(fx, algorithm(fx), data, 3):
        np.testing.assert_allclose(state.reduce.coefficient, 0.25, atol=1e-6)


def test_the_one_that_is_orthogonal_to_two_equal_ones_contributes_most():
    reducer, upload = by_contribution(3), fl.Upload
    delta = Variables({"w": jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])}, {})
    sent = upload(delta, fl.Message(scalars={"error": jnp.ones(3)}), jnp.ones(3))
    context = fl.Context(jnp.int32(0), jax.random.key(0), rows=jnp.arange(3))
    found = reducer.reduce(sent, jnp.ones(3, bool), reducer.init(sent), context)
    cosine = np.asarray(found.state.cosines)
    assert cosine[2] < cosine[0] == cosine[1] and found.answers[2] > found.answers[0]
    np.testing.assert_allclose(cosine, [1 / np.sqrt(2), 1 / np.sqrt(2), 0], atol=1e-6)


def test_the_first_round_does_not_depend_on_scores(fx):
    def blind(params, stats, batch):
        return jnp.float32(0.9) * (batch["b"][0, 0] > 0)

    other = fedce(fx.quad, optax.sgd(RATE), clients=4, score=blind)
    ours, theirs = (rounds(fx, method, fx.quad_data(), 2) for method in (algorithm(fx), other))
    fx.assert_equal(ours[0][0].variables, theirs[0][0].variables)
    assert not np.array_equal(ours[1][0].reduce.coefficient, theirs[1][0].reduce.coefficient)


def test_shares_have_a_floor_and_add_to_one():
    included = jnp.array([True, True, True, False])
    c = np.asarray(coefficients(jnp.array([1.0, 1.0, -1.0, 0.0]), jnp.array([0, 0, 1.0, 1.0]), included))
    assert c[3] == 0 and c[0] == c[1] > 9e-4
    np.testing.assert_allclose(c.sum(), 1, atol=1e-6)
    # Nobody has a share: all have the same.
    np.testing.assert_allclose(coefficients(jnp.ones(4), jnp.zeros(4), included)[:3], 1 / 3, atol=1e-6)


@pytest.mark.slow
def test_who_missed_a_round_scores_the_model_as_it_is(fx):
    """Client 0 sits out the second of three rounds."""

    def alternate(key, round, history):
        return jnp.arange(4) != jnp.where(round == 1, 0, 4)

    found = rounds(fx, algorithm(fx, sampler=alternate), fx.quad_data(), 3)
    state, after = found[1][0], found[2][0]
    b = fx.b[0]
    expected = np.exp(-((np.asarray(state.variables.params["w"]) - b) ** 2).sum() / 10)
    np.testing.assert_allclose(after.client.method["scores"][0], expected, rtol=1e-5)
    np.testing.assert_array_equal(after.client.method["count"], [2, 3, 3, 3])
    assert state.reduce.coefficient[0] == found[0][0].reduce.coefficient[0]
    np.testing.assert_array_equal(state.reduce.rounds, [1, 2, 2, 2])


@pytest.mark.slow
def test_scores_are_of_the_validation_split(fx):
    data = fx.quad_data()
    split = fx.quad_data(b=fx.b + 1.0)
    method = algorithm(fx)
    run = fl.make_round(method, batch_size=1, epochs=1, donate=False)
    placed = fl.place(data, validation=split)
    state = fl.init_state(method, Variables({"w": jnp.array([0.3, -0.7])}, {}), placed)
    for _ in range(2):
        before, state = state, run(state, placed, jax.random.key(3))[0]
    c, sent = before.answers[0], before.client.method["model"].params["w"][0]
    minus = without(before.variables, Variables({"w": sent}, {}), c).params["w"]
    expected = np.exp(-((np.asarray(minus) - fx.b[0] - 1) ** 2).sum() / 10)
    np.testing.assert_allclose(state.client.method["scores"][0], expected, rtol=1e-5)


@pytest.mark.slow
def test_all_clients_at_once_give_the_same(fx):
    ours, theirs = (rounds(fx, algorithm(fx), fx.quad_data(), 3, parallel=p) for p in ("scan", "vmap"))
    fx.assert_close(ours[-1][0], theirs[-1][0], 1e-6)


@pytest.mark.slow
def test_further_methods_go_along(fx):
    together = algorithm(fx, method=fl.proximal(0.0))
    found, expected = (rounds(fx, method, fx.quad_data(), 2)[-1][0] for method in (together, algorithm(fx)))
    fx.assert_close(found.variables, expected.variables, 1e-6)
    with pytest.raises(ValueError, match=r"^combination: expected one of plus, times, found 'minus'"):
        algorithm(fx, combination="minus")
