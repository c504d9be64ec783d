"""Cox's partial likelihood and Harrell's index against their definitions, pair by pair."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.tasks import concordance, cox_task
from fedrecon.tasks.survival import cox_loss


def patients(seed, count=9, ties=False):
    rng = np.random.default_rng(seed)
    time = rng.permutation(count).astype(np.float32) + 1
    if ties:
        time = np.round(time / 3)
    return rng.normal(size=count).astype(np.float32), rng.random(count) < 0.6, time


@pytest.mark.parametrize("ties", [False, True])
def test_the_loss_is_the_partial_likelihood_one_patient_at_a_time(ties):
    risk, event, time = patients(1, ties=ties)
    expected = 0.0
    for i in np.flatnonzero(event):
        at_risk = [j for j in range(len(time)) if time[j] > time[i] or (time[j] == time[i] and j <= i)]
        expected += np.log(np.exp(np.float64(risk[at_risk])).sum()) - risk[i]
    valid = np.ones(len(time), bool)
    np.testing.assert_allclose(cox_loss(risk, event, time, valid), expected / len(time), rtol=1e-5)


@pytest.mark.slow
def test_padding_changes_nothing_and_gradients_are_finite():
    risk, event, time = patients(2)
    some = np.concatenate([risk, [50.0, -3.0]]), np.concatenate([event, [True, True]])
    later = np.concatenate([time, [100.0, 0.0]])
    valid = np.arange(11) < 9
    alone = cox_loss(risk, event, time, np.ones(9, bool))
    np.testing.assert_allclose(cox_loss(*map(jnp.asarray, (*some, later, valid))), alone, rtol=1e-6)
    gradient = jax.jit(jax.grad(cox_loss))(jnp.asarray(some[0], jnp.float32), some[1], later, valid)
    assert np.isfinite(gradient).all() and (np.asarray(gradient)[9:] == 0).all()
    np.testing.assert_allclose(np.sum(gradient), 0, atol=1e-6)  # risks have no origin
    assert float(cox_loss(jnp.ones(3), jnp.ones(3), jnp.ones(3), jnp.zeros(3, bool))) == 0
    pairs = concordance(*map(jnp.asarray, (*some, later, valid)))
    np.testing.assert_allclose(pairs, concordance(risk, event, time, np.ones(9, bool)))


@pytest.mark.parametrize("ties", [False, True])
def test_concordance_counts_pairs_as_defined(ties):
    risk, event, time = patients(3, 12, ties)
    risk[4] = risk[7]
    right = count = 0.0
    for i in range(12):
        for j in range(12):
            if i != j and event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                count += 1
                right += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    found = concordance(*map(jnp.asarray, (risk, event, time)), jnp.ones(12, bool))
    assert [float(x) for x in found] == [right, count]


def test_a_batch_without_times_is_named():
    with pytest.raises(ValueError, match="example: expected the keys"):
        cox_task(nn.Dense(1), {"x": np.zeros((1, 2)), "event": np.zeros(1)})


@pytest.mark.slow
def test_a_linear_model_descends_to_the_hazards_that_drew_the_times():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2)).astype(np.float32)
    time = rng.exponential(np.exp(-(x @ [1.0, -0.5]))).astype(np.float32)
    batch = {
        "x": x,
        "event": np.ones(400, np.float32),
        "time": time,
        "valid": np.ones(400, bool),
    }
    batch = {name: jnp.asarray(value) for name, value in batch.items()}
    task = cox_task(nn.Dense(1, use_bias=False), batch)
    variables = task.init(jax.random.key(0))

    @jax.jit
    def descend(params):
        def step(_, params):
            gradient = jax.grad(lambda p: task.loss(p, {}, batch, jax.random.key(0))[0])(params)
            return jax.tree.map(lambda p, g: p - g, params, gradient)

        return jax.lax.fori_loop(0, 60, step, params)

    params = descend(variables.params)
    np.testing.assert_allclose(np.ravel(params["kernel"]), [1.0, -0.5], atol=0.15)
    right, pairs = task.metrics(params, {}, batch)["concordance"]
    assert 0.7 < float(right / pairs) < 0.85
