"""One-off exchanges, and algorithms that follow each other on one state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.phases import continue_with, make_exchange
from fedrecon.types import Variables

KEY = jax.random.key(8)
START = Variables({"w": jnp.array([0.3, -0.7])}, {})


@pytest.mark.parametrize(("devices", "parallel"), [(1, "scan"), (4, "vmap")])
def test_an_exchange_sums_means_and_gathers(fx, devices, parallel):
    """Moments of the data, of clients with examples only; with the bytes they cost."""
    data = fx.regression_data([5, 3, 1, 4], shift=True)
    data = data._replace(valid=data.valid.at[2].set(False))

    def compute(payload, row, client, key):
        x = jnp.where(row.valid[:, None], row.examples["x"], 0)
        count = row.valid.sum().astype(jnp.float32)
        return fl.Message(
            summed={"total": x.sum(0) * payload, "count": count},
            scalars={"mean": x.sum() / jnp.maximum(count, 1)},
            gathered={"first": x[0], "client": client, "draw": jax.random.uniform(key)},
        )

    mesh = fl.client_mesh(jax.devices()[:devices])
    found = make_exchange(compute, mesh=mesh, parallel=parallel)(jnp.float32(2), data, KEY)
    x, valid = np.asarray(data.examples["x"]), np.asarray(data.valid)
    np.testing.assert_allclose(found.message.summed["total"], 2 * x[valid].sum(0), rtol=1e-5)
    assert float(found.message.summed["count"]) == 12 and int(found.participants) == 3
    means = [x[i][valid[i]].sum() / valid[i].sum() for i in (0, 1, 3)]
    np.testing.assert_allclose(found.message.scalars["mean"], np.mean(means), rtol=1e-5)
    gathered = found.message.gathered
    np.testing.assert_array_equal(gathered.present, [True, True, False, True])
    np.testing.assert_array_equal(np.asarray(gathered.values["first"])[[0, 1, 3]], x[[0, 1, 3], 0])
    np.testing.assert_array_equal(np.asarray(gathered.values["client"])[[0, 1, 3]], [0, 1, 3])
    assert len(set(np.asarray(gathered.values["draw"])[[0, 1, 3]].tolist())) == 3
    size = 4 * (3 + 1 + 1 + 3 + 1 + 1)
    np.testing.assert_array_equal(found.bytes_up, [size, size, 0, size])
    np.testing.assert_array_equal(found.bytes_down, [4, 4, 0, 4])


def rounds(algorithm, state, data, count):
    round = fl.make_round(algorithm, batch_size=1, epochs=1, donate=False)
    for _ in range(count):
        state, _ = round(state, data, KEY)
    return state


@pytest.mark.slow
def test_the_same_algorithm_goes_on_as_if_nothing_had_happened(fx):
    """The number of the round is kept, so that clients, batches and keys are those of one long run."""
    data = fx.quad_data()
    algorithm = fl.fedavg(fx.quad, optax.sgd(0.05), sampler=fl.uniform_clients(2))
    first = rounds(algorithm, fl.init_state(algorithm, START, data), data, 2)
    again = continue_with(algorithm, algorithm, first, data)
    fx.assert_equal(rounds(algorithm, again, data, 2), rounds(algorithm, first, data, 2))


@pytest.mark.slow
def test_private_leaves_are_kept_averaged_or_started_from_the_shared_ones(fx):
    data = fx.regression_data([5, 3, 4])
    shared, private = fl.fedavg(fx.regression, optax.sgd(0.05)), fl.fedbn(fx.regression, optax.sgd(0.05))
    state = fl.init_state(shared, fx.regression.init(KEY), data)
    state = rounds(shared, state, data, 1)
    local = continue_with(private, shared, state, data)
    for i in range(3):
        fx.assert_equal(fl.client_variables(private, local, i), state.variables)
    trained = rounds(private, local, data, 1)
    kept = continue_with(private, private, trained, data)
    fx.assert_equal(kept.private, trained.private)
    assert int(kept.round) == 2
    together = continue_with(shared, private, trained, data)
    fx.assert_close(together.variables, fl.average_variables(private, trained), 1e-6)
    assert not jax.tree.leaves(together.private)
    np.testing.assert_array_equal(together.history.participations, [2, 2, 2])
