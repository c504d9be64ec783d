"""IOP-FL at sites that train: averaging, and personal models that follow the local ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods.iop_fl import iop_fl
from fedrecon.types import Variables

RATE = 0.05


def rounds(fx, algorithm, count, **options):
    data = fx.quad_data()
    run = fl.make_round(algorithm, batch_size=1, epochs=1, donate=False, **options)
    state = fl.init_state(algorithm, Variables({"w": jnp.array([0.3, -0.7])}, {}), data)
    found = []
    for _ in range(count):
        state, info = run(state, data, jax.random.key(3))
        found.append((state, info))
    return found


def test_personal_models_are_those_of_the_equation(fx):
    found = rounds(fx, iop_fl(fx.quad, optax.sgd(RATE), mixing=0.3), 3)
    w, p = np.array([0.3, -0.7]), None
    for state, info in found:
        shrink = (1 - RATE * fx.a.astype(float)) ** fx.tau
        local = fx.b + shrink[:, None] * (w - fx.b)
        w = np.average(local, axis=0, weights=fx.tau)
        p = local if p is None else 0.3 * p + 0.7 * local
        np.testing.assert_allclose(state.client.method["model"].params["w"], p, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(state.variables.params["w"], w, rtol=1e-5, atol=1e-5)
        # Nothing but the local model and its weight travels.
        np.testing.assert_array_equal(info.bytes_up, 4 * 2 + 4)
        np.testing.assert_array_equal(info.bytes_down, 4 * 2)
    algorithm = iop_fl(fx.quad, optax.sgd(RATE), mixing=0.3)
    np.testing.assert_array_equal(
        fl.client_variables(algorithm, state, 2).params["w"], state.client.method["model"].params["w"][2]
    )


@pytest.mark.slow
def test_the_shared_model_is_that_of_averaging_bit_for_bit(fx):
    ours, theirs = (
        rounds(fx, algorithm, 2)[-1][0]
        for algorithm in (iop_fl(fx.quad, optax.sgd(RATE)), fl.fedavg(fx.quad, optax.sgd(RATE)))
    )
    fx.assert_equal(ours.variables, theirs.variables)


@pytest.mark.slow
def test_without_mixing_the_personal_model_is_the_last_local_one(fx):
    algorithm = iop_fl(fx.quad, optax.sgd(RATE), mixing=0.0)
    kept = fl.local_only(fx.quad, optax.sgd(RATE), keep_optimizer=False)
    (before, _), (state, _) = rounds(fx, algorithm, 2)
    data = fx.quad_data()
    # Training alone from the model of the first round, with the keys of the second.
    alone = fl.init_state(kept, before.variables, data)._replace(round=before.round)
    alone = fl.make_round(kept, batch_size=1, epochs=1, donate=False)(alone, data, jax.random.key(3))[0]
    np.testing.assert_array_equal(state.client.method["model"].params["w"], alone.private.params["w"])


@pytest.mark.slow
def test_all_clients_at_once_give_the_same(fx):
    algorithm = iop_fl(fx.quad, optax.sgd(RATE))
    ours, theirs = (rounds(fx, algorithm, 2, parallel=p)[-1][0] for p in ("scan", "vmap"))
    fx.assert_close(ours, theirs, 1e-6)


def test_options_out_of_range_are_refused(fx):
    with pytest.raises(ValueError, match=r"^mixing: expected a number in \[0, 1\), found 1"):
        iop_fl(fx.quad, optax.sgd(RATE), mixing=1)


def test_on_fedbn_the_shared_model_is_that_of_fedbn_and_normalization_stays(fx):
    data = fx.regression_data([5, 3, 1])
    found = []
    for algorithm in (
        iop_fl(fx.regression, optax.sgd(RATE), private_normalization=True),
        fl.fedbn(fx.regression, optax.sgd(RATE)),
    ):
        run = fl.make_round(algorithm, batch_size=1, epochs=1, donate=False)
        state = fl.init_state(algorithm, fx.regression.init(jax.random.key(1)), data)
        found.append(run(state, data, jax.random.key(3)))
    (ours, info), (theirs, expected) = found
    fx.assert_equal(ours.variables, theirs.variables)
    np.testing.assert_array_equal(info.bytes_up, expected.bytes_up)
    # After the first round the personal model is the local one, normalization too.
    algorithm = iop_fl(fx.regression, optax.sgd(RATE), private_normalization=True)
    kept = fl.client_variables(fl.fedbn(fx.regression, optax.sgd(RATE)), theirs, 1)
    own = fl.client_variables(algorithm, ours, 1)
    marks = jax.tree.leaves(fx.regression.normalization)
    for private, mine, of_fedbn in zip(marks, jax.tree.leaves(own), jax.tree.leaves(kept), strict=True):
        if private:
            np.testing.assert_array_equal(mine, of_fedbn)
    assert any(marks)
