"""Faulty clients are left out by name; honest ones are kept."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.types import Variables

CLIENTS, CULPRIT = 5, 2
FAULTS = {"honest": 1.0, "flipped": -10.0, "reversed": -1.0, "exploding": 1e4, "nan": np.nan}


def faulty(algorithm):
    """Every client sends its change times its own factor."""

    def update(variables, broadcast, state, batches, valid, key):
        result = algorithm.client.update(variables, broadcast, state, batches, valid, key)
        factor = batches.examples["factor"][0]
        return result._replace(delta=jax.tree.map(lambda x: (x * factor).astype(x.dtype), result.delta))

    return algorithm._replace(client=algorithm.client._replace(update=update))


def with_fault(data, fault):
    """Client 2 has the fault; a crashed one has nothing."""
    if fault == "crashed":
        data = data._replace(valid=data.valid.at[CULPRIT].set(False))
    factor = jnp.ones(data.valid.shape).at[CULPRIT].set(FAULTS.get(fault, 1.0))
    return data._replace(examples={**data.examples, "factor": factor})


@functools.cache
def program(fx, parallel="scan", devices=1):
    """Three rounds of SCAFFOLD with private normalization."""
    algorithm = fl.scaffold(fx.regression, 0.02, reduce=fl.reducers.screen(norm_factor=5.0, min_cosine=0.0))
    shared = jax.tree.map(lambda own: not own, fx.regression.normalization)
    algorithm = faulty(algorithm._replace(share_mask=shared))
    mesh = fl.client_mesh(jax.devices()[:devices])
    return fx.trajectory(fx.regression, algorithm, 3, mesh=mesh, parallel=parallel, batch_size=4, epochs=1)


def rounds(fx, fault, *where):
    return program(fx, *where)(with_fault(fx.regression_data([12] * CLIENTS, shift=False), fault))


@pytest.mark.parametrize("where", [(), pytest.param(("vmap", 4), marks=pytest.mark.slow)])
@pytest.mark.parametrize("fault", ["flipped", "exploding", "reversed", "nan"])
def test_a_faulty_client_is_named_and_leaves_no_trace(fx, fault, where):
    """As if it had crashed: the model, the control variates, the history and the metrics of all others."""
    states, infos = rounds(fx, fault, *where)
    expected, crashed = rounds(fx, "crashed")
    culprit = np.arange(CLIENTS) == CULPRIT
    np.testing.assert_array_equal(infos.excluded, np.tile(culprit, (3, 1)))
    np.testing.assert_array_equal(infos.participated, True)
    assert not crashed.excluded.any() and infos.applied.all()
    fx.assert_close(states, expected, 1e-5)
    np.testing.assert_array_equal(states.history.participations[-1], 3 * ~culprit)
    fx.assert_close((infos.metrics, infos.client_metrics), (crashed.metrics, crashed.client_metrics), 1e-4)
    own = jax.tree.map(lambda x: x.mean(1), states.client.method)
    fx.assert_close(states.exchange, own, 1e-5)


def test_honest_clients_are_never_flagged(fx):
    _, infos = rounds(fx, "honest")
    assert not infos.excluded.any()


@pytest.mark.slow
def test_unlike_clients_are_screened_by_norm(fx):
    """Different objectives and 1 to 8 steps: nobody is flagged until one explodes; the rest is FedAvg."""
    algorithm = faulty(fl.fedavg(fx.quad, optax.sgd(0.05), reduce=fl.reducers.screen()))
    run = fx.trajectory(fx.quad, algorithm, 100)
    variables = Variables({"w": jnp.array([0.3, -0.7])}, {})
    states, infos = run(with_fault(fx.quad_data(), "honest"), variables)
    assert not infos.excluded.any()
    w, rho = np.array([0.3, -0.7]), (1 - 0.05 * fx.a[:, None]) ** fx.tau[:, None]
    for found in states.variables.params["w"]:
        w = (fx.tau[:, None] * (fx.b + rho * (w - fx.b))).sum(0) / fx.tau.sum()
        np.testing.assert_allclose(found, w, rtol=1e-4, atol=1e-5)
    _, infos = run(with_fault(fx.quad_data(), "exploding"), variables)
    np.testing.assert_array_equal(infos.excluded, np.tile(np.arange(4) == CULPRIT, (100, 1)))


@functools.cache
def compiled(reduce, norm_factor, min_cosine):
    screen = fl.reducers.screen(reduce, norm_factor=norm_factor, min_cosine=min_cosine)

    def both(uploads, included):
        reduction = screen.reduce(uploads, included, (), None)
        return reduction.upload, reduction.flagged

    return jax.jit(both)


def screened(updates, weights=None, reduce=None, norm_factor=10.0, min_cosine=None):
    """Screens up to nine clients; three more that are not included have large values."""
    updates, count = np.asarray(updates, np.float32), len(updates)
    weights = np.ones(count, np.float32) if weights is None else np.asarray(weights, np.float32)
    updates = np.concatenate([updates * weights[:, None], np.full((12 - count, 2), 1e6, np.float32)])
    upload = fl.Upload(Variables({"w": updates}, {}), fl.Message(), np.pad(weights, (0, 12 - count)))
    total, flagged = compiled(reduce, norm_factor, min_cosine)(upload, np.arange(12) < count)
    assert not flagged[count:].any()
    return total, flagged[:count].tolist()


def test_who_is_flagged():
    base = np.array([[1.0, 1.0], [1.2, 0.9], [0.8, 1.1], [1.0, 0.9]])
    total, flagged = screened(base, weights=[1, 2, 3, 4], min_cosine=0.5)
    assert not any(flagged)
    np.testing.assert_allclose(total.delta.params["w"], np.array([1, 2, 3, 4]) @ base, rtol=1e-6)
    assert float(total.weight) == 10
    # The bound is exactly the factor; weights do not matter to it.
    grown = np.array([[1.0, 0.0], [1.0, 0.0], [9.9, 0.0], [10.1, 0.0]])
    assert screened(grown, weights=[1, 1, 9, 1])[1] == [False, False, False, True]
    assert not any(screened(grown, norm_factor=None, min_cosine=0.0)[1])
    # Clients that stand still do not move the median of the norms.
    still = np.concatenate([np.zeros((4, 2)), base, [[100.0, 100.0]]])
    assert screened(still)[1] == [False] * 8 + [True]
    # Directions are compared with the median of those who did not explode.
    opposed = [[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [-1e3, 0.0], [-1e3, 0.0]]
    assert screened(opposed, min_cosine=0.0)[1] == [False, False, True, True, True]
    # The larger one of two; none of one; none of none.
    assert screened([[1.0, 0.0], [1e4, 0.0]])[1] == [False, True]
    assert screened([[1e4, 0.0]], min_cosine=0.5)[1] == [False]
    total, flagged = screened(np.zeros((0, 2)), min_cosine=0.5)
    assert float(total.weight) == 0


def test_screening_comes_before_another_reducer():
    base = np.array([[1.0, 1.0], [1.2, 0.9], [0.8, 1.1], [-1.0, -1.0], [1e30, 1e30]])
    total, flagged = screened(base, reduce=fl.reducers.median(), min_cosine=0.0)
    assert flagged == [False] * 3 + [True] * 2
    np.testing.assert_allclose(total.delta.params["w"], np.median(base[:3], 0), rtol=1e-6)
    # Two screens flag together.
    total, flagged = screened(base, reduce=fl.reducers.screen(norm_factor=None, min_cosine=0.0))
    assert flagged == [False] * 3 + [True] * 2
    np.testing.assert_allclose(total.delta.params["w"], base[:3].sum(0), rtol=1e-6)


def test_errors_name_the_argument():
    for match, options in (
        ("norm_factor", {"norm_factor": 0.5}),
        ("min_cosine", {"min_cosine": -1.0}),
        ("min_cosine", {"min_cosine": 1.5}),
    ):
        with pytest.raises(ValueError, match=match):
            fl.reducers.screen(**options)
