"""Private leaves: FedBN, training alone, personal and cross evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.types import Variables

KEY = jax.random.key(11)
COUNTS = [12, 9, 6]


def train(fx, task, algorithm, data, rounds=5, variables=None, **options):
    variables = task.init(jax.random.key(0)) if variables is None else variables
    state = fl.init_state(algorithm, variables, data, options.get("mesh"))
    round = fl.make_round(algorithm, **({"batch_size": 3, "epochs": 1} | options))
    return fl.run_rounds(round, rounds)(state, data, KEY)


@pytest.mark.slow
def test_fedbn_without_normalization_is_fedavg(fx):
    variables = Variables({"w": jnp.array([0.3, -0.7])}, {})
    results = [
        train(fx, fx.quad, recipe(fx.quad, optax.sgd(0.05)), fx.quad_data(), variables=variables)
        for recipe in (fl.fedavg, fl.fedbn)
    ]
    fx.assert_equal(*results)


@pytest.mark.slow
def test_fedbn_shares_all_but_normalization(fx):
    data = fx.regression_data(COUNTS)
    algorithm = fl.fedbn(fx.regression, optax.sgd(0.1))
    state, _ = train(fx, fx.regression, algorithm, data, rounds=1)
    models = [fl.client_variables(algorithm, state, i) for i in range(3)]
    for model in models:
        fx.assert_equal(model.params["dense"], state.variables.params["dense"])
    for pick in (lambda m: m.params["norm"]["bias"], lambda m: m.stats["mean"], lambda m: m.stats["var"]):
        assert np.abs(pick(models[0]) - pick(models[1])).max() > 1e-4
    np.testing.assert_array_equal([m.stats["count"] for m in models], [4, 3, 2])
    initial = fx.regression.init(jax.random.key(0))
    fx.assert_equal(state.variables.params["norm"], initial.params["norm"])
    average = fl.average_variables(algorithm, state)
    bias = np.mean([m.params["norm"]["bias"] for m in models], axis=0)
    np.testing.assert_allclose(average.params["norm"]["bias"], bias, rtol=1e-6)
    fx.assert_equal(average.params["dense"], state.variables.params["dense"])
    assert int(average.stats["count"]) == 3


@pytest.mark.slow
def test_unseen_clients_average_only_those_that_trained(fx):
    data = fx.regression_data(COUNTS)
    data = data._replace(valid=data.valid.at[1].set(False))
    algorithm = fl.fedbn(fx.regression, optax.sgd(0.1))
    state = fl.init_state(algorithm, fx.regression.init(jax.random.key(0)), data)
    fx.assert_close(fl.average_variables(algorithm, state), state.variables, 1e-7)
    state, _ = train(fx, fx.regression, algorithm, data, rounds=1)
    means = state.private.stats["mean"]
    expected = (means[0] + means[2]) / 2
    np.testing.assert_allclose(fl.average_variables(algorithm, state).stats["mean"], expected, rtol=1e-6)


@pytest.mark.slow
def test_fedbn_beats_fedavg_under_feature_shift(fx):
    """Two clients with inputs x and 5 x + 3: each with its own normalization fits both better."""
    data = fx.regression_data([32, 32], shift=False)
    x = data.examples["x"]
    data = data._replace(examples={**data.examples, "x": x.at[1].set(5 * x[1] + 3)})
    losses = []
    for recipe in (fl.fedavg, fl.fedbn):
        algorithm = recipe(fx.regression, optax.sgd(0.05))
        state, _ = train(fx, fx.regression, algorithm, data, rounds=60, batch_size=8)
        total, count = fl.make_evaluate(algorithm, fx.regression.metrics)(state, data)["mse"]
        losses.append(float((total / count).mean()))
    assert losses[1] < 0.5 * losses[0], losses


@pytest.mark.slow
def test_local_only_is_bitwise_independent_training(fx):
    """The engine, keyed as it keys, against each client's own plain loop over its examples."""
    data = fx.regression_data(COUNTS)
    rounds, batch_size = 3, 3
    algorithm = fl.local_only(fx.regression, optax.adam(0.05))
    state, info = train(fx, fx.regression, algorithm, data, rounds=rounds, batch_size=batch_size)
    optimizer = optax.adam(0.05)

    @jax.jit
    def step(params, stats, opt_state, batch, key):
        gradient, (stats, _) = jax.grad(fx.regression.loss, has_aux=True)(params, stats, batch, key)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), stats, opt_state

    for i, n in enumerate(COUNTS):
        params, stats = fx.regression.init(jax.random.key(0))
        opt_state = optimizer.init(params)
        for number in range(rounds):
            clients_key = jax.random.split(jax.random.fold_in(KEY, number), 3)[1]
            batch_key, update_key, _ = jax.random.split(jax.random.fold_in(clients_key, i), 3)
            order, _ = fl.batching.shuffled_epochs(batch_size, 1)(jnp.ones(n, bool), batch_key)
            for s, index in enumerate(order):
                batch = {name: x[i][index] for name, x in data.examples.items()}
                batch["valid"] = jnp.ones(batch_size, bool)
                key = jax.random.fold_in(update_key, s)
                params, stats, opt_state = step(params, stats, opt_state, batch, key)
        fx.assert_equal(fl.client_variables(algorithm, state, i), Variables(params, stats))
    fx.assert_equal(state.variables, fx.regression.init(jax.random.key(0)))
    assert float(info.metrics["examples"][0][-1]) == sum(COUNTS)


@pytest.mark.parametrize(("devices", "parallel"), [(1, "vmap"), (4, "scan")])
@pytest.mark.slow
def test_evaluation_uses_each_clients_own_model(fx, devices, parallel):
    data = fx.regression_data(COUNTS)
    mesh = fl.client_mesh(jax.devices()[:devices])
    algorithm = fl.fedbn(fx.regression, optax.sgd(0.1))
    state, _ = train(fx, fx.regression, algorithm, data, rounds=2, mesh=mesh)
    evaluate = fl.make_evaluate(algorithm, fx.regression.metrics, mesh=mesh, parallel=parallel)
    cross = fl.make_cross_evaluate(algorithm, fx.regression.metrics, mesh=mesh)(state, data)
    own = evaluate(state, fl.place(data, mesh))
    average = evaluate(fl.average_variables(algorithm, state), data)

    def expected(model, j):
        batch = {name: x[j] for name, x in data.examples.items()} | {"valid": data.valid[j]}
        return fx.regression.metrics(*model, batch)["mse"]

    models = [fl.client_variables(algorithm, state, i) for i in range(3)]
    table = [[expected(model, j)[0] for j in range(3)] for model in models]
    np.testing.assert_allclose(cross["mse"][0], table, rtol=1e-4)
    np.testing.assert_array_equal(cross["mse"][1], np.tile(COUNTS, (3, 1)))
    np.testing.assert_allclose(own["mse"][0], np.diag(table), rtol=1e-4)
    np.testing.assert_array_equal(own["mse"][1], COUNTS)
    unseen = fl.average_variables(algorithm, state)
    np.testing.assert_allclose(average["mse"][0], [expected(unseen, j)[0] for j in range(3)], rtol=1e-4)


def test_evaluation_of_other_clients_and_of_empty_ones(fx):
    data, others = fx.regression_data(COUNTS), fx.regression_data([4, 5], seed=1)
    others = others._replace(valid=others.valid.at[1].set(False))
    algorithm = fl.local_only(fx.regression, optax.sgd(0.1))
    state, _ = train(fx, fx.regression, algorithm, data, rounds=1)
    total, count = fl.make_cross_evaluate(algorithm, fx.regression.metrics)(state, others)["mse"]
    assert total.shape == (3, 2) and not total[:, 1].any()
    np.testing.assert_array_equal(count, [[4, 0]] * 3)
    with pytest.raises(ValueError, match="expected 3 clients"):
        fl.make_evaluate(algorithm, fx.regression.metrics)(state, others)


def test_personalize_sees_the_client_state(fx):
    algorithm = fl.fedavg(fx.quad, optax.sgd(0.05, momentum=0.5), keep_optimizer=True)
    algorithm = algorithm._replace(
        personalize=lambda variables, client_state, batch: Variables(
            client_state.optimizer[0].trace, variables.stats
        )
    )
    variables = Variables({"w": jnp.zeros(2)}, {})
    state, _ = train(fx, fx.quad, algorithm, fx.quad_data(), rounds=1, variables=variables, batch_size=1)
    for i in range(4):
        fx.assert_equal(
            fl.client_variables(algorithm, state, i).params["w"], state.client.optimizer[0].trace["w"][i]
        )
    total, _ = fl.make_evaluate(algorithm, fx.quad.metrics)(state, fx.quad_data())["objective"]
    expected = 0.5 * fx.a * ((np.asarray(state.client.optimizer[0].trace["w"]) - fx.b) ** 2).sum(1) * fx.tau
    np.testing.assert_allclose(total, expected, rtol=1e-5)
