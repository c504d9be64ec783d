"""Robust reducers against direct computation, under attack, and inside a round."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from fedrecon import federated as fl
from fedrecon.types import Variables

CLIENTS, HONEST = 11, 9
REDUCERS = {
    "median": fl.reducers.median(),
    "trimmed_mean": fl.reducers.trimmed_mean(0.2),
    "krum": fl.reducers.krum(2),
    "multi_krum": fl.reducers.krum(2, keep=3),
    "bulyan": fl.reducers.bulyan(2),
    "geometric_median": fl.reducers.geometric_median(),
}


def of(reducer):
    """``reduce(uploads, included) -> Upload`` of a reducer without a state."""
    return lambda uploads, included: reducer.reduce(uploads, included, (), None).upload


@functools.cache
def compiled(name):
    return jax.jit(of(REDUCERS[name]))


def uploads_of(updates, weights=None):
    """Stacked updates (clients, 5) as two leaves and a message, times weight."""
    updates = np.asarray(updates, np.float32)
    weights = np.ones(len(updates), np.float32) if weights is None else np.asarray(weights, np.float32)
    times = lambda x: jnp.asarray(x * weights.reshape(-1, *(1,) * (x.ndim - 1)))  # noqa: E731
    delta = Variables({"a": times(updates[:, :2]), "b": times(updates[:, 2:, None])}, {})
    message = fl.Message(scalars={"loss": times(np.arange(len(updates), dtype=np.float32))})
    return fl.Upload(delta, message, jnp.asarray(weights))


def reduced(name, updates, included=None, weights=None):
    included = np.ones(len(updates), bool) if included is None else np.asarray(included)
    reduce = compiled(name) if isinstance(name, str) else of(name)
    result = reduce(uploads_of(updates, weights), jnp.asarray(included))
    return np.concatenate([result.delta.params["a"], result.delta.params["b"][:, 0]]), result


def updates_of(seed=0, clients=CLIENTS):
    return 1 + 0.3 * np.random.default_rng(seed).normal(size=(clients, 5)).astype(np.float32)


def krum_order(updates, f):
    """By score, and where that is the same by the sum of all distances."""
    distance = ((updates[:, None] - updates[None]) ** 2).sum(-1)
    ordered = np.sort(distance, axis=1)[:, 1:]
    scores = ordered[:, : max(len(updates) - f - 2, 1)].sum(1)
    return sorted(range(len(updates)), key=lambda i: (scores[i], ordered[i].sum()))


def bulyan_directly(updates, f):
    left, chosen = list(range(len(updates))), []
    for _ in range(len(updates) - 2 * f):
        chosen.append(left.pop(krum_order(updates[left], f)[0]))
    values = updates[chosen]
    near = np.argsort(np.abs(values - np.median(values, 0)), axis=0)[: len(updates) - 4 * f]
    return np.take_along_axis(values, near, 0).mean(0)


def directly(name, updates):
    if name == "median":
        return np.median(updates, axis=0)
    if name == "trimmed_mean":
        return stats.trim_mean(updates, 0.2, axis=0)
    if name == "bulyan":
        return bulyan_directly(updates, 2)
    return updates[krum_order(updates, 2)[: 3 if name == "multi_krum" else 1]].mean(0)


@pytest.mark.parametrize("name", [name for name in REDUCERS if name != "geometric_median"])
def test_reducers_are_those_of_the_papers(name):
    """With any weights, and without those that are left out, however large their values."""
    updates, weights = updates_of().astype(np.float64), np.arange(1, CLIENTS + 1)
    found, result = reduced(name, updates, weights=weights)
    np.testing.assert_allclose(found, directly(name, updates), rtol=1e-5)
    assert float(result.weight) == 1
    # What comes with the updates is reduced as they are: 0, 1, ... are the clients' scalars.
    if name in ("median", "trimmed_mean"):
        np.testing.assert_allclose(result.message.scalars["loss"], 5.0)
    elif name != "bulyan":
        chosen = krum_order(updates, 2)[: 3 if name == "multi_krum" else 1]
        np.testing.assert_allclose(result.message.scalars["loss"], np.mean(chosen), rtol=1e-6)
    # An even number of clients, unless that is too few.
    included = np.arange(CLIENTS) != (CLIENTS if name == "bulyan" else 3)
    hidden = np.where(included[:, None], updates, 1e20)
    found, _ = reduced(name, hidden, included)
    np.testing.assert_allclose(found, directly(name, updates[included]), rtol=1e-5)


@pytest.mark.parametrize("name", REDUCERS)
def test_generic_properties_of_reducers(name):
    updates = updates_of(1)
    # The geometric median is as exact as its stopping rule.
    exact = 1e-3 if name == "geometric_median" else 1e-5
    found, _ = reduced(name, updates)
    order = np.random.default_rng(2).permutation(CLIENTS)
    np.testing.assert_allclose(reduced(name, updates[order])[0], found, rtol=exact)
    shift = np.array([3.0, -2.0, 0.5, 1.0, 7.0], np.float32)
    np.testing.assert_allclose(reduced(name, updates + shift)[0], found + shift, rtol=exact, atol=exact)
    same = np.tile(updates[:1], (CLIENTS, 1))
    np.testing.assert_allclose(reduced(name, same)[0], updates[0], rtol=1e-6)
    np.testing.assert_allclose(reduced(name, updates, weights=np.full(CLIENTS, 7.0))[0], found, rtol=exact)
    if name in ("median", "trimmed_mean", "geometric_median"):
        only = np.arange(CLIENTS) == 4
        np.testing.assert_allclose(reduced(name, updates, only)[0], updates[4], rtol=1e-6)
    _, nobody = reduced(name, updates, np.zeros(CLIENTS, bool))
    assert float(nobody.weight) == 0


@pytest.mark.parametrize("name", REDUCERS)
@pytest.mark.parametrize("attack", ["noise", "flip"])
def test_attacks_do_not_carry_the_result_away(name, attack):
    """Two of eleven; the mean's error grows with the attack."""
    updates = updates_of(3)
    honest, attacked = updates[:HONEST].mean(0), updates.copy()
    noise = 1e4 * np.random.default_rng(4).normal(size=(2, 5)).astype(np.float32)
    attacked[HONEST:] = noise if attack == "noise" else -10 * updates[HONEST:]
    found, _ = reduced(name, attacked)
    spread = np.linalg.norm(updates[:HONEST] - honest, axis=1).max()
    assert np.linalg.norm(found - honest) < 1.5 * spread
    assert np.linalg.norm(attacked.mean(0) - honest) > 2 * spread
    if name == "krum":
        assert (found == updates[:HONEST]).all(1).any()


@pytest.mark.parametrize(("name", "least"), [("krum", 7), ("multi_krum", 7), ("bulyan", 11)])
def test_too_few_clients_reduce_to_nothing(name, least):
    """Krum against f of them needs 2 f + 3, Bulyan 4 f + 3."""
    for count in (least - 1, least):
        _, result = reduced(name, updates_of(), np.arange(CLIENTS) < count)
        assert float(result.weight) == (count == least)


@pytest.mark.parametrize("name", ["median", "trimmed_mean"])
def test_who_has_no_weight_in_a_group_of_leaves_has_no_part_in_it(name):
    """Only the first five clients count in leaf b, and in the end none."""
    updates, inside = updates_of(8), np.arange(CLIENTS) < 5
    for part, expected in ((inside, directly(name, updates[:5])), (0 * inside, np.zeros(5))):
        whole = uploads_of(np.where(np.arange(5) < 2, updates, updates * part[:, None]))
        weight = Variables({"a": whole.weight, "b": jnp.asarray(part, jnp.float32)}, whole.weight)
        found = compiled(name)(whole._replace(weight=weight), jnp.ones(CLIENTS, bool))
        np.testing.assert_allclose(found.delta.params["a"], directly(name, updates)[:2], rtol=1e-5)
        np.testing.assert_allclose(found.delta.params["b"][:, 0], expected[2:], rtol=1e-5)


def test_nothing_trimmed_is_the_plain_mean():
    updates = updates_of(5)
    found, _ = reduced(fl.reducers.trimmed_mean(0.0), updates)
    np.testing.assert_allclose(found, updates.mean(0), rtol=1e-5)


def test_geometric_median():
    """The middle of three collinear points; weights as numbers of copies; an objective that never grows."""
    line = np.zeros((CLIENTS, 5))
    line[:3] = np.array([[0.0], [1.0], [5.0]])
    found, _ = reduced("geometric_median", line, np.arange(CLIENTS) < 3)
    np.testing.assert_allclose(found, line[1], atol=1e-3)
    copies = updates_of(6)
    copies[4:] = copies[[1, 1, 2, 2, 2, 3, 3]]
    weights = np.array([1, 3, 4, 3, *[1] * 7])
    found, _ = reduced("geometric_median", copies, np.arange(CLIENTS) < 4, weights)
    np.testing.assert_allclose(found, reduced("geometric_median", copies)[0], rtol=1e-3)
    updates = updates_of(7)
    updates[:3] += 20
    values = [np.linalg.norm(updates - updates.mean(0), axis=1).sum()]
    for iterations in (2, 100):
        found, _ = reduced(fl.reducers.geometric_median(iterations), updates)
        values.append(np.linalg.norm(updates - found, axis=1).sum())
    assert (np.diff(values) <= 1e-4).all() and values[-1] < 0.9 * values[0], values
    nearby = np.concatenate([found + 0.05 * np.eye(5), found - 0.05 * np.eye(5)])
    assert values[-1] < min(np.linalg.norm(updates - x, axis=1).sum() for x in nearby)


@pytest.mark.slow
def test_a_round_without_enough_clients_leaves_no_trace(fx):
    """Krum against one needs five clients; nothing moves, neither at the server nor at the clients."""
    sgd = optax.sgd(0.1, momentum=0.9)
    algorithm = fl.fedavg(fx.quad, sgd, keep_optimizer=True, reduce=fl.reducers.krum(1))
    data = fx.quad_data(np.ones(5, np.float32), np.arange(10, dtype=np.float32).reshape(5, 2), np.full(5, 2))
    variables = Variables({"w": jnp.zeros(2)}, {})
    run = fx.trajectory(fx.quad, algorithm, 2)
    states, infos = run(data, variables)
    assert infos.applied.all() and (states.history.participations[-1] == 2).all()
    assert (states.client.optimizer[0].trace["w"] != 0).any()
    states, infos = run(data._replace(valid=data.valid.at[2].set(False)), variables)
    assert not infos.applied.any() and not infos.excluded.any()
    initial = fl.init_state(algorithm, variables, data)
    last = jax.tree.map(lambda x: x[-1], states)
    assert int(last.round) == 2
    fx.assert_equal(last._replace(round=initial.round), initial)


@pytest.mark.slow
def test_robust_rounds_withstand_a_malicious_client(fx):
    """The geometric median of clients alike stays with them, on four devices, too."""
    data = fx.quad_data(np.full(4, 2.0, np.float32), np.tile(fx.b[1], (4, 1)), np.full(4, 3))
    data.examples["b"] = data.examples["b"].at[3].set(1e4)
    algorithm = fl.fedavg(fx.quad, optax.sgd(0.05), reduce=fl.reducers.geometric_median())
    states, _ = fx.trajectory(fx.quad, algorithm, 3, mesh=fl.client_mesh())(data)
    w = np.array([0.3, -0.7])
    for _ in range(3):
        w = fx.b[1] + 0.9**3 * (w - fx.b[1])
    np.testing.assert_allclose(states.variables.params["w"][-1], w, atol=1e-2)


def test_errors_name_the_argument():
    for match, make in (
        ("fraction", lambda: fl.reducers.trimmed_mean(0.5)),
        ("byzantine", lambda: fl.reducers.krum(-1)),
        ("keep", lambda: fl.reducers.krum(1, keep=0)),
        ("byzantine", lambda: fl.reducers.bulyan(1.5)),
        ("iterations", lambda: fl.reducers.geometric_median(0)),
        ("floor", lambda: fl.reducers.geometric_median(floor=0.0)),
        ("tolerance", lambda: fl.reducers.geometric_median(tolerance=-1.0)),
    ):
        with pytest.raises(ValueError, match=match):
            make()
