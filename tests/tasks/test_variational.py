"""The evidence lower bound: its closed forms, padding, and federated training next to pooled training."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods.fedbiomed import fedbiomed
from fedrecon.tasks import lower_is_better, variational_autoencoding_task

EXAMPLE = {"image": jax.ShapeDtypeStruct((1, 10, 7, 1), np.float32)}


def batch(count=4):
    image = jnp.asarray(np.random.default_rng(0).normal(size=(count, 10, 7, 1)), jnp.float32)
    return {"image": image, "valid": jnp.arange(count) < 3}


@pytest.fixture(scope="module")
def task():
    return variational_autoencoding_task(EXAMPLE, latent=3, channels=2, weight=0.7)


@pytest.fixture(scope="module")
def variables(task):
    return task.init(jax.random.key(1))


def constant(variables, mean, log_variance):
    """A network whose z does not depend on images."""
    params = jax.tree.map(jnp.zeros_like, variables.params)
    params["mean"]["bias"] = jnp.asarray(mean)
    params["log_variance"]["bias"] = jnp.asarray(log_variance)
    return variables._replace(params=params)


def test_error_and_divergence_are_those_of_the_definition(task, variables):
    """Of a network that decodes to zero, from a normal distribution with a known divergence."""
    mean, deviation = np.array([0.5, -1.0, 0.0]), np.array([1.0, 2.0, 0.5])
    still = constant(variables, mean, 2 * np.log(deviation))
    found = {name: float(total) for name, (total, _) in task.metrics(*still, batch()).items()}
    divergence = 3 * (np.log(1 / deviation) + (deviation**2 + mean**2) / 2 - 0.5).sum()
    error = np.square(np.asarray(batch()["image"])[:3]).sum()
    np.testing.assert_allclose(found["reconstruction_error"], error, rtol=1e-5)
    np.testing.assert_allclose(found["kl_loss"], divergence, rtol=1e-5)
    np.testing.assert_allclose(found["loss"], error + 0.7 * divergence, rtol=1e-5)
    value, (_, metrics) = task.loss(*still, batch(), jax.random.key(5))
    np.testing.assert_allclose(value, (error + 0.7 * divergence) / 3, rtol=1e-5)
    assert float(metrics["loss"][1]) == 3
    assert lower_is_better("reconstruction_error") and lower_is_better("loss")


def test_padding_changes_nothing_and_noise_is_drawn_in_training_alone(task, variables):
    far = {**batch(), "image": batch()["image"].at[3].mul(1e4)}
    one, other = (jax.tree.leaves(task.metrics(*variables, data)) for data in (far, batch()))
    np.testing.assert_array_equal(one, other)
    cases = ((far, 1), (batch(), 1), (far, 2))
    values = [task.loss(*variables, data, jax.random.key(key))[0] for data, key in cases]
    assert values[0] == values[1] != values[2]
    predicted = task.predict(*variables, batch())
    assert predicted.shape == (4, 10, 7, 1)
    np.testing.assert_array_equal(predicted, task.predict(*variables, batch()))


@pytest.mark.parametrize("options", [{"latent": 0}, {"channels": 0}, {"weight": -1.0}])
def test_arguments_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: expected at least"):
        variational_autoencoding_task(EXAMPLE, **options)


class Clients(NamedTuple):
    examples: dict
    valid: jax.Array


def phantoms(count, seed):
    """Ellipses of random places, sizes and brightness on 16 x 16 pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:16j, -1:1:16j]
    center, axes = rng.uniform(-0.3, 0.3, (2, count, 1, 1)), rng.uniform(0.3, 0.6, (2, count, 1, 1))
    inside = ((x - center[0]) / axes[0]) ** 2 + ((y - center[1]) / axes[1]) ** 2 < 1
    return (inside * rng.uniform(0.5, 1, (count, 1, 1)))[..., None].astype(np.float32)


@pytest.mark.slow
def test_federated_bounds_are_those_of_pooled_data():
    """Within 5 %, on held-out images, of four sites with phantoms of one distribution."""
    images, test = phantoms(256, 0), {"image": jnp.asarray(phantoms(128, 1)), "valid": jnp.ones(128, bool)}
    task = variational_autoencoding_task({"image": images[:1]}, latent=4, channels=4)
    bounds = []
    for sites in (4, 1):
        parts = jnp.asarray(images.reshape(sites, 256 // sites, 16, 16, 1))
        data = Clients({"image": parts}, jnp.ones(parts.shape[:2], bool))
        algorithm = fedbiomed(task, optax.adam(0.003), keep_optimizer=True)
        # As many steps for each model: four times the batch where the data are pooled.
        round = fl.make_round(algorithm, batch_size=16 * 4 // sites, epochs=1)
        state = fl.init_state(algorithm, task.init(jax.random.key(0)), data)
        state, infos = fl.run_rounds(round, 100)(state, data, jax.random.key(2))
        assert infos.applied.all()
        total, count = task.metrics(*state.variables, test)["loss"]
        bounds.append(float(total / count))
    untrained = task.metrics(*task.init(jax.random.key(0)), test)["loss"][0] / 128
    assert bounds[1] < 0.5 * float(untrained)
    assert abs(bounds[0] / bounds[1] - 1) < 0.05, (bounds, float(untrained))
