"""The compiled round: the same numbers however it is run, and no effect of padding, absence or failure."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.local import LocalState
from fedrecon.training import choose_parallel
from fedrecon.types import Variables

KEY = jax.random.key(3)
COUNTS = [5, 3, 1, 4, 2]


def algorithm_of(fx, **options):
    return fl.fedbn(fx.regression, optax.adam(0.05), keep_optimizer=True, **options)


def simulator(fx, algorithm, *, rounds=2, devices=1, parallel="scan", place=False, **options):
    """``run(data) -> (state, infos)``, compiled once for data of one shape."""
    options = {"batch_size": 2, "epochs": 2} | options
    mesh = fl.client_mesh(jax.devices()[:devices])
    together = fl.run_rounds(fl.make_round(algorithm, mesh=mesh, parallel=parallel, **options), rounds)

    def run(data):
        state = fl.init_state(algorithm, fx.regression.init(jax.random.key(0)), data, mesh)
        return together(state, fl.place(data, mesh) if place else data, KEY)

    return run


def simulate(fx, algorithm, data, **options):
    return simulator(fx, algorithm, **options)(data)


@functools.cache
def reference(fx, count):
    """Two rounds on one device, one client after another; ``count`` of them take part."""
    return simulate(fx, clipped(fx, count), fx.regression_data(COUNTS))


def clipped(fx, count):
    return algorithm_of(fx, sampler=fl.uniform_clients(count), channel=fl.chain(fl.clip(0.3)))


@pytest.mark.parametrize(
    ("count", "devices", "parallel", "place"),
    [
        pytest.param(5, 1, "vmap", False, marks=pytest.mark.slow),
        pytest.param(3, 1, 2, False, marks=pytest.mark.slow),
        pytest.param(3, 2, "scan", True, marks=pytest.mark.slow),
        pytest.param(5, 4, "scan", False, marks=pytest.mark.slow),
        (3, 4, "vmap", True),
    ],
)
def test_results_do_not_depend_on_parallelism(fx, count, devices, parallel, place):
    """Five clients divide neither two nor four devices, and one of the four has none."""
    data = fx.regression_data(COUNTS)
    state, info = simulate(fx, clipped(fx, count), data, devices=devices, parallel=parallel, place=place)
    fx.assert_close((state, info), reference(fx, count))
    per_client = (state.client, state.client_channel, state.private)
    assert {x.shape[0] for x in jax.tree.leaves(per_client)} == {len(COUNTS)}
    assert info.participated.shape == info.bytes_up.shape == info.delta_norm.shape == (2, len(COUNTS))


def test_pmap_is_a_shard_of_the_clients_for_each_device(fx):
    """The program is that of "scan", and so are its numbers, bit for bit."""
    data, mesh = fx.quad_data(), fl.client_mesh(jax.devices()[:2])
    state = fl.init_state(fx.averaging, Variables({"w": jnp.ones(2)}, {}), data, mesh)

    def program(parallel):
        round = fl.make_round(fx.averaging, batch_size=1, epochs=1, parallel=parallel, mesh=mesh)
        return round.lower(state, data, KEY).as_text()

    assert program("pmap") == program("scan") != program("vmap")
    assert choose_parallel("pmap") == choose_parallel("scan") == "scan"


def test_a_last_chunk_that_is_not_full(fx):
    """Four clients, three at once: nobody counts twice in the second chunk."""
    data, found = fx.quad_data(), []
    for parallel in (3, "scan"):
        round = fl.make_round(fx.averaging, batch_size=1, epochs=1, parallel=parallel)
        state = fl.init_state(fx.averaging, Variables({"w": jnp.ones(2)}, {}), data)
        found.append(round(state, data, KEY))
    fx.assert_close(*found)


def one_by_one(fx, algorithm, variables, states, data, epochs, batch_size, round_number):
    """Every client alone, unpadded, in plain Python: what the engine must reproduce."""

    @jax.jit
    def alone(variables, own, examples, valid, batch_key, update_key):
        index, mask = fl.batching.shuffled_epochs(batch_size, epochs)(valid, batch_key)
        batches = fl.Batches(examples, index, valid.sum(), valid, jnp.int32(0))
        return algorithm.client.update(variables, (), own, batches, mask, update_key)

    weights, results = [], []
    key = jax.random.split(jax.random.fold_in(KEY, round_number), 3)[1]
    for i, own in enumerate(states):
        keep = np.asarray(data.valid[i])
        examples = {name: x[i][keep] for name, x in data.examples.items()}
        valid = jnp.ones(keep.sum(), bool)
        batch_key, update_key, _ = jax.random.split(jax.random.fold_in(key, i), 3)
        results.append(alone(variables, own, examples, valid, batch_key, update_key))
        weights.append(keep.sum())
    p = np.array(weights) / np.sum(weights)
    shared_delta = jax.tree.map(
        lambda *d: sum(pi * di for pi, di in zip(p, d, strict=True)), *[r.delta for r in results]
    )
    return jax.tree.map(jnp.add, variables.params, shared_delta.params), results


@pytest.mark.slow
def test_ragged_clients_equal_unpadded_ones_simulated_one_by_one(fx):
    data = fx.regression_data(COUNTS, padding=4)
    algorithm = fl.fedavg(fx.regression, optax.adam(0.05))
    variables = fx.regression.init(jax.random.key(0))
    expected, results = one_by_one(fx, algorithm, variables, [LocalState()] * len(COUNTS), data, 2, 2, 0)
    state, info = simulate(fx, algorithm, data, rounds=1)
    fx.assert_close(state.variables.params, expected)
    steps = [int(r.metrics["steps"][0]) for r in results]
    assert steps == [2 * -(-n // 2) for n in COUNTS]
    np.testing.assert_array_equal(info.client_metrics["steps"][0][0], steps)
    np.testing.assert_array_equal(info.client_metrics["examples"][0][0], 2 * np.array(COUNTS))
    assert float(info.metrics["steps"][0][0]) == sum(steps)
    fx.assert_close(info.metrics["mse"][0][0], sum(r.metrics["mse"][0] for r in results))


@pytest.mark.slow
def test_padding_may_stand_anywhere(fx):
    """Moving padding from the end to the front changes nothing but the places of the examples."""
    data = fx.regression_data(COUNTS, padding=2)
    mirrored = jax.tree.map(
        lambda x: jnp.stack([jnp.roll(r, -n, axis=0) for r, n in zip(x, COUNTS, strict=True)]), data
    )
    assert not mirrored.valid[:, 0].any()
    algorithm = fl.fedavg(fx.regression, optax.sgd(0.05))
    run = simulator(fx, algorithm)
    fx.assert_equal(run(data)[0].variables, run(mirrored)[0].variables)


def test_fixed_number_of_steps(fx):
    state, info = simulate(fx, algorithm_of(fx), fx.regression_data(COUNTS), rounds=1, epochs=None, steps=5)
    np.testing.assert_array_equal(info.client_metrics["steps"][0][0], 5)
    # Five batches of two: passes over n examples, each with a partly filled last batch if n is odd.
    full = {n: [min(2, n - 2 * (s % -(-n // 2))) for s in range(5)] for n in COUNTS}
    np.testing.assert_array_equal(info.client_metrics["examples"][0][0], [sum(full[n]) for n in COUNTS])
    assert np.isfinite(np.concatenate([np.ravel(x) for x in jax.tree.leaves(state.variables)])).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "parallel"), [(1, "scan"), pytest.param(2, "vmap", marks=pytest.mark.slow)]
)
def test_many_rounds_in_one_dispatch_are_bitwise_one_by_one(fx, parallel, devices):
    data = fx.regression_data(COUNTS)
    algorithm = algorithm_of(fx, sampler=fl.uniform_clients(3))
    mesh = fl.client_mesh(jax.devices()[:devices])
    # Without optimizations, as tests are usually compiled, a loop's body may round otherwise.
    compile = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 3})
    round = fl.make_round(algorithm, batch_size=2, epochs=1, parallel=parallel, mesh=mesh)
    variables = fx.regression.init(jax.random.key(0))
    state = fl.init_state(algorithm, variables, data, mesh)
    infos, single = [], compile(round)
    for _ in range(4):
        state, info = single(state, data, KEY)
        infos.append(info)
    together, stacked = compile(fl.run_rounds(round, 4))(
        fl.init_state(algorithm, variables, data, mesh), data, KEY
    )
    fx.assert_equal(together, state)
    fx.assert_equal(stacked, jax.tree.map(lambda *x: jnp.stack(x), *infos))
    assert int(state.round) == 4


@pytest.mark.parametrize(
    ("devices", "clients"),
    [(1, 5), pytest.param(4, 5, marks=pytest.mark.slow), pytest.param(4, 8, marks=pytest.mark.slow)],
)
def test_second_round_neither_compiles_nor_transfers(fx, compiled, devices, clients):
    mesh = fl.client_mesh(jax.devices()[:devices])
    data = fl.place(fx.regression_data((COUNTS * 2)[:clients]), mesh)
    algorithm = algorithm_of(fx, sampler=fl.uniform_clients(3), channel=fl.chain(fl.clip(1.0)))
    state = fl.init_state(algorithm, fx.regression.init(jax.random.key(0)), data, mesh)
    round = fl.make_round(algorithm, batch_size=2, epochs=1, mesh=mesh)
    key = jax.device_put(KEY, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    state, _ = round(state, data, key)
    with jax.transfer_guard("disallow"):
        for _ in range(3):
            state, _ = round(state, data, key)
    assert compiled("round") == 1
    together = fl.run_rounds(round, 2)
    for _ in range(2):
        state, _ = together(state, data, key)
    assert compiled("rounds") == 1


@pytest.mark.slow
def test_initial_variables_survive_donation(fx):
    data = fx.regression_data(COUNTS)
    variables = fx.regression.init(jax.random.key(0))
    before = jax.tree.map(np.array, variables)
    algorithm = algorithm_of(fx)
    state = fl.init_state(algorithm, variables, data)
    fl.make_round(algorithm, batch_size=2, epochs=1)(state, data, KEY)
    fx.assert_equal(variables, before)
    kept = fl.init_state(algorithm, variables, data)
    round = fl.make_round(algorithm, batch_size=2, epochs=1, donate=False)
    fx.assert_equal(round(kept, data, KEY), round(kept, data, KEY))


@pytest.mark.slow
def test_absent_clients_keep_their_state(fx):
    data = fx.regression_data(COUNTS)
    algorithm = algorithm_of(fx, sampler=fl.uniform_clients(3))
    state = fl.init_state(algorithm, fx.regression.init(jax.random.key(0)), data)
    round = fl.make_round(algorithm, batch_size=2, epochs=1, donate=False)
    joined = np.zeros(len(COUNTS), int)
    for _ in range(3):
        new, info = round(state, data, KEY)
        present = np.asarray(info.participated)
        assert present.sum() == 3
        joined += present
        for old_leaf, new_leaf in zip(
            jax.tree.leaves((state.client, state.private)),
            jax.tree.leaves((new.client, new.private)),
            strict=True,
        ):
            np.testing.assert_array_equal(new_leaf[~present], old_leaf[~present])
        assert (np.asarray(new.private.params["norm"]["bias"])[present] != 0).any(1).all()
        assert (np.asarray(info.client_metrics["steps"][0]) > 0).tolist() == present.tolist()
        state = new
    np.testing.assert_array_equal(state.history.participations, joined)


def test_uniform_sampling_is_uniform():
    history = fl.History(jnp.zeros(10, int), jnp.full(10, -1), jnp.full(10, jnp.inf))
    draws = jax.vmap(lambda k: fl.uniform_clients(3)(k, 0, history))(jax.random.split(KEY, 4000))
    np.testing.assert_array_equal(draws.sum(1), 3)
    # Four standard errors of a proportion of 0.3 in 4000 draws.
    np.testing.assert_allclose(draws.mean(0), 0.3, atol=4 * np.sqrt(0.21 / 4000))


@pytest.mark.parametrize(("bad", "parallel"), [(np.nan, "scan"), (np.inf, "vmap")])
def test_a_client_that_is_not_finite_is_excluded_and_leaves_no_trace(fx, bad, parallel):
    data = fx.regression_data(COUNTS)
    broken = data._replace(examples={**data.examples, "y": data.examples["y"].at[2, 0].set(bad)})
    without = data._replace(valid=data.valid.at[2].set(False))
    algorithm = algorithm_of(fx, channel=fl.chain(fl.clip(0.5)))
    run = simulator(fx, algorithm, parallel=parallel)
    state, info = run(broken)
    expected, _ = run(without)
    fx.assert_close(state, expected, 1e-6)
    culprit = np.arange(len(COUNTS)) == 2
    np.testing.assert_array_equal(info.excluded, np.tile(culprit, (2, 1)))
    assert np.isfinite(info.metrics["mse"][0]).all() and info.applied.all()


@pytest.mark.slow
def test_nobody_included_leaves_the_model_alone(fx):
    data = fx.regression_data(COUNTS)
    broken = data._replace(examples={**data.examples, "x": jnp.full_like(data.examples["x"], jnp.nan)})
    algorithm = algorithm_of(fx, server_optimizer=optax.adam(0.1))
    variables = fx.regression.init(jax.random.key(0))
    initial = fl.init_state(algorithm, variables, data)
    state, info = simulate(fx, algorithm, broken)
    assert not info.applied.any() and info.excluded.all()
    fx.assert_equal(state._replace(round=jnp.int32(0)), initial)


@pytest.mark.slow
def test_bytes_count_the_shared_leaves_and_the_weight(fx):
    data = fx.regression_data(COUNTS)
    sampler = fl.uniform_clients(3)
    dense, norm, stats = 3 * 4, 6 * 4, 6 * 4 + 4
    for algorithm, shared in (
        (fl.fedavg(fx.regression, optax.sgd(0.1), sampler=sampler), dense + norm + stats),
        (fl.fedbn(fx.regression, optax.sgd(0.1), sampler=sampler), dense),
    ):
        _, info = simulate(fx, algorithm, data, rounds=1)
        present = np.asarray(info.participated[0])
        np.testing.assert_array_equal(info.bytes_up[0], present * (shared + 4))
        np.testing.assert_array_equal(info.bytes_down[0], present * shared)
    _, info = simulate(fx, fl.local_only(fx.regression, optax.sgd(0.1)), data, rounds=1)
    assert not info.bytes_up.any() and not info.bytes_down.any()


def test_padded_steps_touch_nothing(fx):
    """Steps without a valid example leave parameters, statistics and Adam's state bitwise alone."""
    data = fx.regression_data([3])
    examples = {name: x[0] for name, x in data.examples.items()}
    update = fl.local_training(fx.regression.loss, optax.adam(0.1), keep_optimizer=True)
    variables = fx.regression.init(jax.random.key(0))
    index = jnp.array([[0, 1], [2, 0]])
    mask = jnp.array([[True, True], [True, False]])
    blank = jnp.zeros((1, 2), bool)
    longer_index = jnp.concatenate([blank, index[:1], blank, index[1:], blank]).astype(int)
    longer_mask = jnp.concatenate([blank, mask[:1], blank, mask[1:], blank])
    results = [
        jax.jit(update.update)(
            variables,
            (),
            update.init(variables),
            fl.Batches(examples, i, jnp.int32(3), jnp.ones(3, bool), jnp.int32(0)),
            m,
            KEY,
        )
        for i, m in ((index, mask), (longer_index, longer_mask))
    ]
    fx.assert_equal(*results)
    assert int(results[1].client_state.optimizer[0].count) == 2


def test_every_step_has_a_key_of_its_own(fx):
    """Folded from the number of real steps before it: the loss is w times what the key draws."""

    def loss(params, stats, batch, key):
        return (params["w"] * jax.random.normal(key, (2,))).sum(), (stats, {})

    keys = []
    for limit in (1, 2, 3):
        client = fl.local_training(loss, optax.sgd(1.0))
        examples, valid = {"b": jnp.zeros((3, 1))}, jnp.ones(3, bool)
        batches = fl.Batches(examples, jnp.arange(3)[:, None], jnp.int32(3), valid, jnp.int32(0))
        mask = (jnp.arange(3) >= 3 - limit)[:, None]
        result = client.update(Variables({"w": jnp.zeros(2)}, {}), (), LocalState(), batches, mask, KEY)
        keys.append(result.delta.params["w"])
    draws = [-jax.random.normal(jax.random.fold_in(KEY, step), (2,)) for step in range(3)]
    np.testing.assert_allclose(keys, np.cumsum(draws, 0), rtol=1e-5)


def test_errors_name_the_argument(fx):
    data = fx.regression_data(COUNTS)
    algorithm = algorithm_of(fx)
    variables = fx.regression.init(jax.random.key(0))
    with pytest.raises(ValueError, match="batch_size"):
        fl.make_round(algorithm, epochs=1)
    with pytest.raises(ValueError, match="exactly one"):
        fl.make_round(algorithm, batch_size=2, epochs=1, steps=1)
    with pytest.raises(ValueError, match="parallel"):
        fl.make_round(algorithm, batch_size=2, epochs=1, parallel="threads")
    with pytest.raises(ValueError, match="epochs"):
        fl.make_round(algorithm, batch_size=2, epochs=0)
    with pytest.raises(ValueError, match="max_norm"):
        fl.clip(0.0)
    with pytest.raises(ValueError, match="axis"):
        fl.make_round(algorithm, batch_size=2, epochs=1, mesh=jax.make_mesh((1,), ("data",)))
    with pytest.raises(ValueError, match="expected 5 clients"):
        state = fl.init_state(algorithm, variables, data)
        fl.make_round(algorithm, batch_size=2, epochs=1)(state, jax.tree.map(lambda x: x[:3], data), KEY)
    with pytest.raises(ValueError, match="leading axes"):
        short = data._replace(examples={**data.examples, "x": data.examples["x"][:3]})
        fl.init_state(algorithm, variables, short)
    with pytest.raises(ValueError, match="share_mask"):
        fl.init_state(algorithm._replace(share_mask=Variables(1.0, True)), variables, data)
    with pytest.raises(ValueError, match="at most the number of clients 5"):
        simulate(fx, algorithm_of(fx, sampler=fl.uniform_clients(8)), data)
