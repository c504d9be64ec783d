"""FedCL: contrast with the previous global model."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods.fedcl import fedcl
from fedrecon.federated.methods.moon import model_contrast

COUNTS = [5, 3, 1, 4]


def hidden(params, stats, batch):
    return jnp.tanh(batch["x"] * params["norm"]["scale"] + params["norm"]["bias"])


@pytest.fixture(scope="module")
def rounds(fx):
    algorithm = fedcl(fx.regression, optax.sgd(0.1), represent=hidden)
    return fx.trajectory(fx.regression, algorithm, 3, batch_size=2, epochs=1)(fx.regression_data(COUNTS))


def test_the_negative_is_the_model_received_in_the_round_before(fx, rounds):
    states, infos = rounds
    kept = states.client.method.models.params["dense"]
    start = fx.regression.init(jax.random.key(0)).params["dense"]
    received = np.stack([start, *states.variables.params["dense"][:2]])
    for client in range(len(COUNTS)):
        np.testing.assert_array_equal(kept[:, client, 0], received)
    assert infos.applied.all()


def test_nothing_is_sent_but_the_model(fx, rounds):
    parameters = sum(x.size for x in jax.tree.leaves(fx.regression.init(jax.random.key(0))))
    np.testing.assert_array_equal(rounds[1].bytes_down, 4 * parameters)


@pytest.mark.slow
def test_equal_models_give_log_two_and_no_gradient(fx):
    variables = fx.regression.init(jax.random.key(0))
    own = model_contrast(hidden, strength=1.0, start_with_initial=True, against="received")
    batch = {"x": jnp.arange(12.0).reshape(4, 3) / 7, "valid": jnp.array([True, True, True, False])}

    class Context:
        received = variables
        complete = staticmethod(lambda x: x)

    def value(params):
        return own.penalty(params, variables.stats, batch, own.init(variables), Context, None)[0]

    loss, gradient = jax.value_and_grad(value)(variables.params)
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient)) < 1e-6


def test_other_models_to_contrast_with_are_refused():
    with pytest.raises(ValueError, match="against: expected trained or received, found 'others'"):
        model_contrast(hidden, against="others")


@pytest.mark.slow
def test_the_second_round_differs_from_averaging(fx, rounds):
    states, _ = rounds
    plain, _ = fx.trajectory(
        fx.regression,
        fl.fedavg(fx.regression, optax.sgd(0.1), keep_optimizer=True),
        3,
        batch_size=2,
        epochs=1,
    )(fx.regression_data(COUNTS))
    gap = np.abs(states.variables.params["norm"]["bias"] - plain.variables.params["norm"]["bias"])
    assert gap[0].max() < 1e-4 < gap[2].max()
