"""The moving average of the server's models: a closed form, and nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrecon import federated as fl
from fedrecon.federated.methods.averaging import averaged
from fedrecon.types import Variables
from tests.federated.conftest import QUAD, quad_data

DATA = quad_data()
KEY = jax.random.key(3)
START = Variables({"w": jnp.asarray([4.0, -2.0])}, {})


def rounds(algorithm, count, start=START):
    """States after 0, 1, ..., ``count`` rounds."""
    state = fl.init_state(algorithm, start, DATA)
    step = fl.make_round(algorithm, batch_size=1, epochs=1, donate=False)
    states = [state]
    for _ in range(count):
        states.append(step(states[-1], DATA, KEY)[0])
    return states


@pytest.fixture(scope="module")
def plain():
    return rounds(fl.fedavg(QUAD, optax.sgd(0.1)), 5)


@settings(max_examples=4)
@given(st.floats(0.05, 0.99))
def test_the_released_model_is_the_normalized_sum_of_powers(plain, decay):
    states = rounds(averaged(fl.fedavg(QUAD, optax.sgd(0.1)), decay), 5)
    algorithm = averaged(fl.fedavg(QUAD, optax.sgd(0.1)), decay)
    models = np.asarray([state.variables.params["w"] for state in plain[1:]], np.float64)
    for count in range(1, 6):
        weights = decay ** np.arange(count)[::-1]
        expected = (weights[:, None] * models[:count]).sum(0) / weights.sum()
        found = algorithm.release(states[count]).params["w"]
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
        np.testing.assert_array_equal(states[count].variables.params["w"], plain[count].variables.params["w"])
    np.testing.assert_array_equal(algorithm.release(states[0]).params["w"], START.params["w"])


def test_without_decay_the_algorithm_is_the_same_object():
    algorithm = fl.fedavg(QUAD, optax.sgd(0.1))
    assert averaged(algorithm, 0.0) is algorithm


def test_rounds_that_are_not_applied_are_not_in_the_average():
    algorithm = averaged(fl.fedavg(QUAD, optax.sgd(0.1)), 0.5)
    one = rounds(algorithm, 1)[-1]
    nobody = DATA._replace(valid=jnp.zeros_like(DATA.valid))
    step = fl.make_round(algorithm, batch_size=1, epochs=1, donate=False)
    after, info = step(one, nobody, KEY)
    assert not info.applied
    jax.tree.map(np.testing.assert_array_equal, after.server, one.server)


def test_private_leaves_stay_out_of_the_average():
    mask = Variables({"w": True, "own": False}, True)
    start = Variables({"w": jnp.zeros(2), "own": jnp.ones(2)}, {})
    task = QUAD._replace(init=lambda key: start)
    algorithm = averaged(fl.federated(task, optax.sgd(0.1), share_mask=mask), 0.9)
    state = rounds(algorithm, 1, start)[-1]
    assert state.server.mean["own"] is None
    found = algorithm.release(state)
    np.testing.assert_array_equal(found.params["own"], jnp.ones(2))
    assert jnp.abs(found.params["w"]).min() > 0


def test_what_cannot_be_averaged_is_refused():
    algorithm = fl.fedavg(QUAD, optax.sgd(0.1))
    for decay in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"average: expected a number in \[0, 1\)"):
            averaged(algorithm, decay)
    with pytest.raises(ValueError, match="average: expected 0 with a method that hands out a model"):
        averaged(algorithm._replace(release=lambda state: state.variables), 0.5)
