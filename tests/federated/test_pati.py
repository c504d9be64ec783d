"""Pati: institutions that join, and the consensus model that is kept."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods.pati import pati
from fedrecon.federated.sampling import joining_clients
from fedrecon.types import Variables

RATE = 0.05
START = Variables({"w": jnp.array([0.3, -0.7])}, {})
AIMS = np.array([[0.6, 0.5], [0.9, 1.2], [0.3, -0.7]], np.float32)
REGIONS = ("whole", "core", "rim")


def one_score(params, stats, batch):
    """Higher the nearer to where the validation split is."""
    away = ((params["w"] - batch["b"]) ** 2).sum(-1)
    return jnp.exp(-jnp.where(batch["valid"], away, 0).sum() / jnp.maximum(batch["valid"].sum(), 1))


def region_scores(params, stats, batch):
    return jnp.exp(-((params["w"] - AIMS) ** 2).sum(-1))


@functools.cache
def program(fx, name):
    own = {
        "all": lambda: pati(fx.quad, optax.sgd(RATE), clients=4, score=one_score),
        "growing": lambda: pati(
            fx.quad, optax.sgd(RATE), clients=4, score=one_score, founders=2, join_every=3,
            method=fl.proximal(0.0),
        ),
        "regions": lambda: pati(fx.quad, optax.sgd(RATE), clients=4, score=region_scores, regions=REGIONS),
        "fedavg": lambda: fl.fedavg(fx.quad, optax.sgd(RATE)),
    }[name]()  # fmt: skip
    return own, fl.make_round(own, batch_size=1, epochs=1, donate=False)


def rounds(fx, name, count, validation=None):
    own, round = program(fx, name)
    placed = fl.place(fx.quad_data(), validation=validation)
    state, states, infos = fl.init_state(own, START, placed), [], []
    for _ in range(count):
        state, info = round(state, placed, jax.random.key(3))
        states.append(state)
        infos.append(info)
    return own, states, infos


def consensus(states):
    """The models that institutions were sent, (rounds, 2), the last one apart."""
    return np.stack([START.params["w"], *(state.variables.params["w"] for state in states)])[:-1]


def test_weights_are_sizes_among_those_present(fx):
    """Two from the first round on, the third from the fourth and the last from the seventh."""
    _, states, infos = rounds(fx, "growing", 7)
    models = [*consensus(states), np.asarray(states[-1].variables.params["w"])]
    for t, info in enumerate(infos):
        there = np.arange(4) < 2 + t // 3
        np.testing.assert_array_equal(info.participated, there)
        trained = fx.b + ((1 - RATE * fx.a) ** fx.tau)[:, None] * (models[t] - fx.b)
        share = fx.tau * there / (fx.tau * there).sum()
        np.testing.assert_allclose(models[t + 1], share @ trained, rtol=1e-4, atol=1e-6)


def test_a_later_and_worse_round_is_not_kept(fx):
    """Validation is where the model passes by."""
    _, passed, _ = rounds(fx, "all", 12)
    aim = consensus(passed)[4]
    own, states, infos = rounds(fx, "all", 12, fx.quad_data(b=np.tile(aim, (4, 1))))
    kept = states[-1].exchange["mean"]
    assert kept.round == 4 and kept.score == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(own.release(states[-1]).params["w"], aim, rtol=1e-6)
    assert np.linalg.norm(np.asarray(states[-1].variables.params["w"]) - aim) > 0.1
    # While it still gets better, the newest that was scored.
    np.testing.assert_array_equal(own.release(states[2]).params["w"], consensus(states)[2])
    # The model, its weight and the score; the model.
    np.testing.assert_array_equal(infos[0].bytes_up, 4 * (2 + 1 + 1))
    np.testing.assert_array_equal(infos[0].bytes_down, 4 * 2)


def test_the_score_is_the_mean_by_weights_of_those_of_sites(fx):
    _, states, _ = rounds(fx, "all", 1, fx.quad_data(b=fx.b / 4))
    each = np.exp(-((np.asarray(START.params["w"]) - fx.b / 4) ** 2).sum(1))
    found = states[0].exchange["mean"]
    np.testing.assert_allclose(found.score, np.average(each, weights=fx.tau), rtol=1e-5)
    assert found.round == 0


def test_every_region_keeps_its_own_best_model(fx):
    own, states, infos = rounds(fx, "regions", 12)
    models, kept = consensus(states), states[-1].exchange
    scores = np.exp(-((models[:, None] - AIMS) ** 2).sum(-1))
    for number, name in enumerate(REGIONS):
        best = scores[:, number].argmax()
        assert kept[name].round == best
        np.testing.assert_allclose(kept[name].model.params["w"], models[best], rtol=1e-6)
    best = scores.mean(1).argmax()
    np.testing.assert_allclose(own.release(states[-1]).params["w"], models[best], rtol=1e-6)
    np.testing.assert_allclose(kept["mean"].score, scores.mean(1)[best], rtol=1e-5)
    assert len({int(kept[name].round) for name in REGIONS}) > 1
    np.testing.assert_array_equal(infos[0].bytes_up, 4 * (2 + 1 + 3))


def test_the_rounds_are_those_of_fedavg_bit_for_bit(fx):
    (_, ours, _), (_, theirs, _) = rounds(fx, "all", 3), rounds(fx, "fedavg", 3)
    fx.assert_equal(ours[-1].variables, theirs[-1].variables)


def test_the_choice_is_of_the_state_before_and_others_go_along(fx):
    """With a further method the exchange is one of several."""
    own, states, _ = rounds(fx, "growing", 7)
    np.testing.assert_array_equal(own.release(states[0]).params["w"], START.params["w"])
    assert states[-1].exchange[0]["mean"].score > 0


def test_numbers_out_of_range_are_refused():
    for joins in ([1, 2], [[0]], [0.5, 0], [-1, 0], []):
        with pytest.raises(ValueError, match=r"^joins: expected integers of 0 or more, one a client"):
            joining_clients(joins)
    history = fl.History(jnp.zeros(3, jnp.int32), jnp.zeros(3, jnp.int32), jnp.zeros(3))
    with pytest.raises(ValueError, match=r"^joins: expected one for each of 3 clients"):
        joining_clients([0, 0])(None, jnp.int32(0), history)
    for wrong in ({"founders": -1}, {"join_every": 0}):
        with pytest.raises(ValueError, match=rf"^{next(iter(wrong))}: expected an integer of at least"):
            pati(None, None, clients=2, score=one_score, **wrong)
