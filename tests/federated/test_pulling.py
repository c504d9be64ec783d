"""BrainTorrent: who is newer is pulled, once, and weighs by its examples."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.topologies.gossip import peer_to_peer
from fedrecon.federated.topologies.pulling import init_pulling, make_pulling_round, merge_newer
from fedrecon.types import Variables

START = Variables({"w": jnp.array([0.3, -0.7])}, {})
RATE, SIZE = 0.05, 8


def rounds(fx, algorithm, data, count, **work):
    work = work or {"batch_size": 1, "epochs": 1}
    run = make_pulling_round(algorithm, donate=False, **work)
    state = init_pulling(algorithm, START, data)
    found = []
    for _ in range(count):
        state, info = run(state, data, jax.random.key(5))
        found.append((state, info))
    return found


def averaging(fx, **options):
    return fl.fedavg(fx.quad, optax.sgd(RATE), **options)


def turns_of(fx, number, clients=4, there=None):
    """Who was drawn in a round, as the round draws."""
    keys = fl.engine.round_keys(jax.random.key(5), jnp.int32(number))
    shares = jnp.ones(clients) if there is None else jnp.asarray(there, jnp.float32)
    draws = jax.random.split(keys.server, clients)
    return [int(jax.random.choice(k, clients, p=shares / shares.sum())) for k in draws]


def replay(fx, count, data):
    """The same turns in double precision, with dictionaries."""
    n = np.asarray(data.valid.sum(1), float)
    models, versions = [np.array([0.3, -0.7]) for _ in range(4)], [0] * 4
    merged = [[0] * 4 for _ in range(4)]
    up, down = np.zeros((count, 4)), np.zeros((count, 4))
    for r in range(count):
        for i in turns_of(fx, r):
            newer = [j for j in range(4) if j != i and versions[j] > merged[i][j]]
            for j in newer:
                merged[i][j] = versions[j]
                up[r, j] += SIZE
                down[r, i] += SIZE
            for j in range(4):
                if j != i:
                    up[r, i] += 8
                    down[r, j] += 8
                    up[r, j] += 8
                    down[r, i] += 8
            total = n[i] + sum(n[j] for j in newer)
            w = (n[i] * models[i] + sum(n[j] * models[j] for j in newer)) / total
            shrink = (1 - RATE * float(fx.a[i])) ** fx.tau[i]
            models[i] = fx.b[i] + shrink * (w - fx.b[i])
            versions[i] += 1
    return np.array(models), versions, merged, up, down


def test_turns_are_those_of_the_algorithm(fx):
    data = fx.quad_data()
    found = rounds(fx, averaging(fx), data, 3)
    models, versions, merged, up, down = replay(fx, 3, data)
    state = found[-1][0]
    np.testing.assert_allclose(state.federation.private.params["w"], models, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(state.versions, versions)
    np.testing.assert_array_equal(state.merged, merged)
    assert sum(versions) == 12 and min(versions) < max(versions)
    for r, (_, info) in enumerate(found):
        np.testing.assert_array_equal(info.bytes_up, up[r])
        np.testing.assert_array_equal(info.bytes_down, down[r])
        drawn = turns_of(fx, r)
        np.testing.assert_array_equal(info.participated, [i in drawn for i in range(4)])
        steps = [drawn.count(i) * fx.tau[i] for i in range(4)]
        np.testing.assert_array_equal(info.client_metrics["steps"][0], steps)
    # Pings of each turn and the models: 16 (n - 1) and 4 d for each that is pulled.
    assert up.sum() == down.sum() and (up.sum() - 12 * 3 * 16) % SIZE == 0


def test_with_all_newer_the_merge_is_the_weighted_mean(fx):
    models = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)}
    counts = jnp.array([5, 3, 1, 4])
    newer = jnp.array([True, False, True, True])
    found = merge_newer(models, counts, newer, jnp.int32(1))["w"]
    np.testing.assert_allclose(found, np.average(models["w"], axis=0, weights=counts), atol=1e-6)
    # The own share is n_i / (n_i + sum of the newer).
    spikes = {"w": jnp.eye(4)}
    some = merge_newer(spikes, counts, jnp.array([False, False, True, False]), jnp.int32(1))["w"]
    np.testing.assert_allclose(some, [0, 3 / 4, 1 / 4, 0], atol=1e-6)


def test_with_nobody_newer_the_model_stays_bit_for_bit():
    models = {"w": jnp.array([[0.1, 1 / 3], [1.0, 2.0]]), "n": jnp.array([3, 4])}
    found = merge_newer(models, jnp.array([3, 7]), jnp.zeros(2, bool), jnp.int32(0))
    np.testing.assert_array_equal(found["w"], models["w"][0])
    assert found["n"] == 3


def test_who_is_away_stops_nobody(fx):
    """Peer 2 is gone from the second round on."""

    def there(key, round, history):
        return (jnp.arange(4) != 2) | (round == 0)

    found = rounds(fx, averaging(fx, sampler=there), fx.quad_data(), 3)
    first, last = found[0][0], found[-1][0]
    first_model, last_model = (s.federation.private.params["w"] for s in (first, last))
    np.testing.assert_array_equal(first_model[2], last_model[2])
    assert last.versions[2] == first.versions[2] and last.versions.sum() == 12
    for _, info in found[1:]:
        assert not info.participated[2] and info.bytes_up[2] == info.bytes_down[2] == 0
        assert info.applied


@pytest.mark.slow
def test_training_that_diverges_is_undone_and_nobody_pulls_it(fx):
    data = fx.quad_data(b=np.where(np.arange(4)[:, None] == 1, np.nan, fx.b).astype(np.float32))
    state, info = rounds(fx, averaging(fx), data, 3)[-1]
    assert state.versions[1] == 0 and np.isfinite(state.federation.private.params["w"]).all()
    assert info.excluded[1] == info.participated[1]


@pytest.mark.slow
def test_private_leaves_are_not_merged_and_scores_are_of_own_models(fx):
    algorithm = fl.fedper(fx.pair, optax.sgd(RATE), head=Variables({"w": False, "h": True}, {}))
    data = fx.quad_data()
    run = make_pulling_round(algorithm, batch_size=1, epochs=1, donate=False)
    state = init_pulling(algorithm, fx.pair.init(jax.random.key(0)), data)
    for _ in range(2):
        state, info = run(state, data, jax.random.key(5))
    model = fl.client_variables(peer_to_peer(algorithm), state.federation, 3)
    np.testing.assert_array_equal(model.params["h"], state.federation.private.params["h"][3])
    assert (np.asarray(info.bytes_up) % SIZE == 0).all()


def test_what_needs_a_server_is_refused(fx):
    with pytest.raises(ValueError, match=r"^algorithm.exchange: expected nothing but the model to travel"):
        rounds(fx, fl.scaffold(fx.quad, RATE), fx.quad_data(), 1)
