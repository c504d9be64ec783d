"""Traced bytes are those that a round reports."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.traffic import round_bytes

RATE = 0.05


def banks():
    """A method whose clients send seven numbers each that are not summed."""

    def finish(result, memory, context):
        return result, fl.Message(gathered=jnp.zeros(7)), memory

    return fl.Method(finish=finish)


def hidden_noise():
    """A channel that sends a bound down and two bytes for every number up."""
    plain = fl.chain()
    return plain._replace(
        broadcast=lambda state: jnp.zeros(3),
        payload_bytes=lambda upload: 2 * sum(x.size for x in jax.tree.leaves(upload)),
    )


def everything(task):
    """Control variates, single messages and such a channel together, with private leaves."""
    method = fl.combine(fl.control_variates(RATE), banks())
    return fl.fedbn(task, optax.sgd(RATE), method=method, channel=hidden_noise())


ALGORITHMS = {
    "everything": everything,
    "fedavg": lambda task: fl.fedavg(task, optax.sgd(RATE)),
    "scaffold": lambda task: fl.scaffold(task, RATE, channel=fl.chain(fl.clip(1.0))),
    "fedbn": lambda task: fl.fedbn(task, optax.sgd(RATE)),
    "local_only": lambda task: fl.local_only(task, optax.sgd(RATE)),
}


@pytest.mark.parametrize(
    "name", [n if n == "everything" else pytest.param(n, marks=pytest.mark.slow) for n in ALGORITHMS]
)
def test_bytes_are_those_of_a_round(fx, name):
    algorithm = ALGORITHMS[name](fx.regression)
    data, variables = fx.regression_data([3, 2]), fx.regression.init(jax.random.key(0))
    found = round_bytes(algorithm, variables, data)
    state = fl.init_state(algorithm, variables, data)
    round = fl.make_round(algorithm, batch_size=2, steps=1)
    _, info = round(state, data, jax.random.key(1))
    np.testing.assert_array_equal(info.bytes_up, found.up)
    np.testing.assert_array_equal(info.bytes_down, found.down)
    assert found.gathered == (28 if name == "everything" else 0)


def test_frozen_leaves_are_not_sent(fx):
    variables = fx.regression.init(jax.random.key(0))
    mask = jax.tree.map(lambda x: True, variables)
    frozen = mask._replace(params={**mask.params, "dense": fl.FROZEN})
    data = fx.regression_data([3, 2])
    whole, part = (
        round_bytes(fl.fedavg(fx.regression, optax.sgd(RATE), share_mask=m), variables, data)
        for m in (mask, frozen)
    )
    assert (whole.up - part.up, whole.down - part.down) == (12, 12)
