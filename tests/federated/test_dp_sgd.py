"""Example-level DP-SGD: what is sampled, clipped and noised, and what must not come out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from fedrecon import federated as fl
from fedrecon.federated.local import LocalState
from fedrecon.federated.mechanism import Mechanism
from fedrecon.federated.methods.dp_fedavg import dp_sgd
from fedrecon.federated.methods.moon import model_contrast
from fedrecon.types import Variables

KEY = jax.random.key(13)
N, DIMENSION = 30, 50


def linear_loss(params, stats, batch, key):
    """The gradient of one example is the example itself."""
    value = jnp.where(batch["valid"], batch["x"] @ params["w"], 0).sum() / jnp.maximum(
        batch["valid"].sum(), 1
    )
    return value, (stats, {"secret": (value, jnp.float32(1))})


def client(**changes):
    options = {
        "clipping_norm": 1.0,
        "noise_multiplier": 0.0,
        "expected_batch_size": 6.0,
        "padded_batch_size": N,
        "steps": 4,
    }
    return dp_sgd(linear_loss, optax.sgd(1.0), Mechanism(**(options | changes)))


@functools.partial(jax.jit, static_argnums=0)
def run(update, x, valid, key, variables):
    """(what left the client, index, mask)."""
    index, mask = update.batching({"x": x}, valid, key)
    batches = fl.Batches({"x": x}, index, valid.sum(), valid, jnp.int32(0))
    return update.update(variables, (), LocalState(), batches, mask, jax.random.fold_in(key, 1)), index, mask


def train(update, x, key=KEY, stats=None):
    variables = Variables({"w": jnp.zeros(x.shape[1])}, stats or {})
    return run(update, x, jnp.ones(len(x), bool), key, variables)


def examples(scale=1.0):
    return scale * jax.random.normal(jax.random.key(0), (N, DIMENSION))


def test_without_noise_and_clipping_it_is_sgd_on_the_poisson_batches():
    x = examples()
    result, index, mask = train(client(clipping_norm=1e6), x)
    batches = np.where(np.asarray(mask)[..., None], np.asarray(x)[np.asarray(index)], 0)
    np.testing.assert_allclose(result.delta.params["w"], -batches.sum((0, 1)) / 6.0, rtol=1e-5, atol=1e-5)
    assert len({int(m.sum()) for m in mask}) > 1


def test_poisson_sampling_takes_each_example_independently():
    """Frequencies, batch sizes and pairs against the binomial law; padding is never taken."""
    valid = jnp.arange(N + 10) % 4 != 3
    n, steps = int(valid.sum()), 4000
    index, mask = jax.jit(fl.batching.poisson_steps(6.0, N + 10, steps))(valid, KEY)
    taken = np.zeros((steps, N + 10), int)
    np.add.at(taken, (np.repeat(np.arange(steps), N + 10), np.ravel(index)), np.ravel(mask).astype(int))
    assert taken.max() == 1 and not taken[:, ~np.asarray(valid)].any()
    taken, q = taken[:, np.asarray(valid)], 6.0 / n
    np.testing.assert_allclose(taken.mean(0), q, atol=5 * np.sqrt(q / steps))
    sizes = np.bincount(taken.sum(1), minlength=n + 1)
    expected = steps * scipy.stats.binom.pmf(np.arange(n + 1), n, q)
    keep = expected > 5
    chi_square = ((sizes - expected)[keep] ** 2 / expected[keep]).sum()
    assert chi_square < scipy.stats.chi2.ppf(1 - 1e-5, keep.sum())
    correlation = np.corrcoef(taken.T) - np.eye(n)
    assert np.abs(correlation).max() < 6 / np.sqrt(steps)


def test_truncation_keeps_a_uniform_subset():
    steps = 4000
    index, mask = jax.jit(fl.batching.poisson_steps(6.0, 4, steps))(jnp.ones(N, bool), KEY)
    sizes = np.asarray(mask.sum(1))
    assert sizes.max() == 4
    np.testing.assert_allclose((sizes == 4).mean(), scipy.stats.binom.sf(3, N, 0.2), atol=0.03)
    counts = np.bincount(np.asarray(index)[np.asarray(mask)], minlength=N)
    assert scipy.stats.chisquare(counts).pvalue > 1e-5


@pytest.mark.parametrize("microbatch", [None, 5])
def test_one_example_moves_the_sum_by_at_most_the_clipping_norm(microbatch):
    """Zeroing an example, however large or broken, moves one step's update by at most C / expected batch."""
    update = client(steps=1, clipping_norm=0.5, expected_batch_size=N, microbatch_size=microbatch)
    for value in (1e-3, 1e6, np.inf, np.nan):
        x = examples().at[3].set(value)
        with_it, _, mask = train(update, x)
        without, _, _ = train(update, x.at[3].set(0.0))
        assert mask.all()
        moved = np.linalg.norm(with_it.delta.params["w"] - without.delta.params["w"])
        assert moved <= 0.5 / N * (1 + 1e-4)
        if value == 1e6:
            np.testing.assert_allclose(moved, 0.5 / N, rtol=1e-3)


def test_noise_is_gaussian_of_the_stated_size_in_every_step():
    """Examples of zero leave only noise: std z C / expected batch, also in steps whose batch is empty."""
    z, bound, expected = 1.7, 0.3, 6.0
    for steps in (1, 4):
        update = client(noise_multiplier=z, clipping_norm=bound, steps=steps)
        result, _, _ = train(update, jnp.zeros((N, 4000)), key=jax.random.key(steps))
        noise = np.asarray(result.delta.params["w"]) / (z * bound / expected) / np.sqrt(steps)
        assert scipy.stats.kstest(noise, "norm").pvalue > 1e-3
        np.testing.assert_allclose(noise.std(), 1.0, atol=0.06)
    few = client(noise_multiplier=z, clipping_norm=bound, steps=1, expected_batch_size=1e-6)
    result, _, mask = train(few, examples())
    assert not mask.any()
    np.testing.assert_allclose(np.std(result.delta.params["w"]) / (z * bound / 1e-6), 1.0, atol=0.4)


def test_noise_differs_between_steps_clients_and_rounds(fx):
    algorithm = fl.fedavg(fx.quad, optax.sgd(1.0))
    algorithm = algorithm._replace(
        client=client(noise_multiplier=1.0, steps=2), share_mask=Variables(False, True)
    )
    data = fx.clients({"x": jnp.zeros((3, N, 200))}, jnp.ones((3, N), bool))
    mesh = fl.client_mesh(jax.devices()[:2])
    state = fl.init_state(algorithm, Variables({"w": jnp.zeros(200)}, {}), data, mesh)
    round = fl.make_round(algorithm, mesh=mesh, donate=False)
    first, info = round(state, data, KEY)
    second, _ = round(first, data, KEY)
    draws = [*first.private.params["w"], *(second.private.params["w"] - first.private.params["w"])]
    correlation = np.corrcoef(np.array(draws)) - np.eye(6)
    assert np.abs(correlation).max() < 0.35
    # Two steps add independently, not twice the same.
    np.testing.assert_allclose(np.std(draws), np.sqrt(2) / 6.0, rtol=0.1)
    assert set(info.metrics) == {"steps"}
    np.testing.assert_array_equal(info.client_metrics["steps"][0], 2)


@pytest.mark.slow
def test_with_a_contrastive_penalty_the_bound_and_the_noise_are_the_same():
    """MOON next to DP-SGD: the penalty is clipped with the loss of its example, and adds no noise."""

    def represent(params, stats, batch):
        return batch["x"] * params["w"]

    def moved(noise):
        options = {"clipping_norm": 0.5, "noise_multiplier": noise, "expected_batch_size": float(N)}
        method = fl.combine(
            model_contrast(represent, strength=50.0, start_with_initial=True),
            fl.private_gradients(Mechanism(**options, padded_batch_size=N, steps=1)),
        )
        update = fl.local_training(linear_loss, optax.sgd(1.0), method)
        variables = Variables({"w": jnp.linspace(-1.0, 1.0, DIMENSION)}, {})
        states = update.init(Variables({"w": jnp.cos(7 * variables.params["w"])}, {}))

        @jax.jit
        def one(x):
            valid = jnp.ones(N, bool)
            index, mask = update.batching({"x": x}, valid, KEY)
            batches = fl.Batches({"x": x}, index, jnp.int32(N), valid, jnp.int32(0))
            result = update.update(variables, (), states, batches, mask, jax.random.fold_in(KEY, 1))
            assert set(result.metrics) == {"steps"}
            return result.delta.params["w"]

        return one

    x, silent = examples(), moved(0.0)
    change = silent(x.at[3].set(1e6)) - silent(x.at[3].set(0.0))
    np.testing.assert_allclose(np.linalg.norm(change), 0.5 / N, rtol=1e-3)
    # Small examples have small losses, but contrasts as large as before.
    assert np.linalg.norm(silent(1e-3 * x)) > 10 * np.linalg.norm(1e-3 * x.sum(0) / N)
    noise = moved(2.0)(x) - silent(x)
    np.testing.assert_allclose(np.std(noise) / (2.0 * 0.5 / N), 1.0, atol=0.3)


@pytest.mark.slow
def test_recipe_equals_sgd_on_full_batches_when_nothing_is_hidden(fx):
    """q = 1, no noise, a loose bound: one DP step is FedAvg's full-batch step, on several devices."""
    counts = [8, 8, 8]
    data = fx.quad_data(fx.a[:3], fx.b[:3], np.array(counts))
    variables = Variables({"w": jnp.array([0.3, -0.7])}, {})
    mesh = fl.client_mesh(jax.devices()[:2])
    private = fl.dp_fedavg(
        fx.quad,
        optax.sgd(0.05),
        clipping_norm=1e6,
        noise_multiplier=0.0,
        expected_batch_size=8,
        padded_batch_size=8,
        steps=3,
        microbatch_size=4,
    )
    state = fl.init_state(private, variables, data, mesh)
    found, _ = fl.make_round(private, mesh=mesh)(state, data, KEY)
    plain = fl.fedavg(fx.quad, optax.sgd(0.05))
    state = fl.init_state(plain, variables, data)
    expected, _ = fl.make_round(plain, batch_size=8, steps=3)(state, data, KEY)
    fx.assert_close(found.variables, expected.variables, 1e-6)


def test_refusals(fx):
    with pytest.raises(ValueError, match="batch statistics"):
        train(client(), examples(), stats={"mean": jnp.zeros(1)})
    with pytest.raises(ValueError, match="clipping_norm"):
        client(clipping_norm=0.0)
    with pytest.raises(ValueError, match="noise_multiplier"):
        client(noise_multiplier=-1.0)
    with pytest.raises(ValueError, match="expected_batch_size"):
        client(expected_batch_size=0)
    with pytest.raises(ValueError, match="padded_batch_size"):
        client(padded_batch_size=0)
    algorithm = fl.fedavg(fx.quad, optax.sgd(1.0))._replace(client=client())
    with pytest.raises(ValueError, match="samples its own batches"):
        fl.make_round(algorithm, batch_size=4, epochs=1)
