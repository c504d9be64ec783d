"""Cyclic weight transfer: one model, many hops, no averaging."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.topologies.ring import make_ring_round
from fedrecon.types import Task, Variables

KEY = jax.random.key(3)
COUNTS = [5, 3, 1, 4]
START = Variables({"w": jnp.array([0.3, -0.7])}, {})


def varied(fx, counts):
    """Quadratic clients whose examples differ, so that the order of batches shows."""
    data = fx.quad_data(counts=counts)
    data.examples["b"] = data.examples["b"] + jnp.arange(max(counts))[:, None]
    return data


def pooled_batches(data, rounds, batch_size, epochs):
    """The batches of all visits one after the other, as places in the clients' data laid end to end."""
    size, indices, masks = data.valid.shape[1], [], []
    batching = jax.jit(fl.batching.shuffled_epochs(batch_size, epochs))
    for number, i in itertools.product(range(rounds), range(len(data.valid))):
        clients_key = jax.random.split(jax.random.fold_in(KEY, number), 3)[1]
        batch_key = jax.random.split(jax.random.fold_in(clients_key, i), 4)[0]
        index, mask = batching(data.valid[i], batch_key)
        indices.append(index + i * size)
        masks.append(mask)
    return jnp.concatenate(indices), jnp.concatenate(masks)


def test_equals_centralized_training_over_the_concatenated_batches(fx, compiled):
    """Bit for bit, when the optimizer's state travels: two cycles are one run of Adam on pooled data."""
    task, data, optimizer, variables = fx.quad, varied(fx, COUNTS), optax.adam(0.05), START
    algorithm = fl.fedavg(task, optimizer, keep_optimizer=True)
    round = make_ring_round(algorithm, batch_size=2, epochs=2, carry_optimizer=True)
    state = fl.init_state(algorithm, variables, data)
    for _ in range(2):
        state, info = round(state, data, KEY)

    assert compiled("round") == 1

    index, mask = pooled_batches(data, 2, 2, 2)
    pooled = jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), data)
    central = fl.local_only(task, optimizer)
    central = central._replace(
        client=central.client._replace(batching=lambda examples, valid, key: (index, mask & valid.any()))
    )
    expected, _ = fl.make_round(central)(fl.init_state(central, variables, pooled), pooled, KEY)
    fx.assert_equal(state.variables, jax.tree.map(lambda x: x[0], expected.private))
    for i in range(len(COUNTS)):
        fx.assert_equal(
            jax.tree.map(lambda x, i=i: x[i], state.client), jax.tree.map(lambda x: x[0], expected.client)
        )
    # A hop moves the model, and Adam's two moments of the parameters and its count with it.
    moments = 2 * sum(x.nbytes for x in jax.tree.leaves(variables.params)) + 4
    hop = sum(x.nbytes for x in jax.tree.leaves(variables)) + moments
    np.testing.assert_array_equal(info.bytes_up, [hop] * 4)
    np.testing.assert_array_equal(info.bytes_down, [hop] * 4)
    np.testing.assert_array_equal(info.client_metrics["steps"][0], [2 * -(-n // 2) for n in COUNTS])
    np.testing.assert_array_equal(state.history.participations, [2] * 4)


@pytest.mark.slow
def test_one_client_is_local_training(fx, compiled):
    data, variables = jax.tree.map(lambda x: x[:1], varied(fx, COUNTS)), START
    ring = fl.fedavg(fx.quad, optax.adam(0.05), keep_optimizer=True)
    alone = fl.local_only(fx.quad, optax.adam(0.05))
    cycle = make_ring_round(ring, batch_size=2, epochs=1)
    round = fl.make_round(alone, batch_size=2, epochs=1)
    state, local = fl.init_state(ring, variables, data), fl.init_state(alone, variables, data)
    for _ in range(2):
        state, _ = cycle(state, data, KEY)
        local, _ = round(local, data, KEY)
    fx.assert_equal(state.variables, jax.tree.map(lambda x: x[0], local.private))
    fx.assert_equal(state.client, local.client)
    assert compiled("round") == 2


def _logits(params, batch):
    return batch["x"] @ params["w"]


def _classify(params, stats, batch, key):
    losses = optax.softmax_cross_entropy_with_integer_labels(_logits(params, batch), batch["y"])
    return jnp.where(batch["valid"], losses, 0).sum() / jnp.maximum(batch["valid"].sum(), 1), (stats, {})


CLASSIFICATION = Task(
    init=lambda key: Variables({"w": jnp.zeros((5, 4))}, {}),
    loss=_classify,
    metrics=lambda params, stats, batch: {},
    predict=lambda params, stats, batch: _logits(params, batch),
    normalization=Variables({"w": False}, {}),
)


@pytest.mark.slow
def test_the_first_clients_classes_are_forgotten(fx):
    """Clients with two classes each: after the last hop FedAvg is better on those of the first."""
    rng = np.random.default_rng(0)
    y = np.stack([np.arange(20) % 2, 2 + np.arange(20) % 2]).astype(np.int32)
    x = np.eye(4)[y] + 0.3 * rng.normal(size=(2, 20, 4))
    x = np.concatenate([x, np.full((2, 20, 1), 2.0)], -1).astype(np.float32)
    data = fx.clients({"x": jnp.asarray(x), "y": jnp.asarray(y)}, jnp.ones((2, 20), bool))
    algorithm = fl.fedavg(CLASSIFICATION, optax.sgd(1.0))
    accuracy = []
    for make in (fl.make_round, make_ring_round):
        round = make(algorithm, batch_size=5, epochs=5)
        state = fl.init_state(algorithm, CLASSIFICATION.init(KEY), data)
        for _ in range(3):
            state, _ = round(state, data, KEY)
        w = np.asarray(state.variables.params["w"])
        accuracy.append(((x @ w).argmax(-1) == y).mean(1))
    assert accuracy[1][0] < accuracy[0][0] - 0.3
    assert accuracy[1][1] >= accuracy[0][1]


@pytest.mark.slow
def test_shuffled_cycles_visit_everybody_once_in_changing_order(fx):
    data = fx.quad_data(counts=[1, 1, 1, 1])
    round = make_ring_round(fx.averaging, batch_size=1, epochs=1, order="shuffled")
    state, found = fl.init_state(fx.averaging, START, data), []
    for _ in range(4):
        results, before = {}, np.asarray(state.variables.params["w"], np.float64)
        for order in itertools.permutations(range(4)):
            w = before
            for i in order:
                w = w - 0.05 * fx.a[i] * (w - fx.b[i])
            results[order] = w
        state, info = round(state, data, KEY)
        w = np.asarray(state.variables.params["w"])
        order = min(results, key=lambda o: np.abs(results[o] - w).max())
        np.testing.assert_allclose(w, results[order], rtol=1e-5, atol=1e-6)
        # Each client reports the step it made from the model it was handed.
        w = before
        for i in order:
            step = 0.05 * fx.a[i] * (w - fx.b[i])
            np.testing.assert_allclose(info.delta_norm[i], np.linalg.norm(step), rtol=1e-4)
            w = w - step
        found.append(order)
    assert len(set(found)) > 1


def test_who_is_empty_absent_or_fails_is_passed_over(fx):
    """Client 1 diverges to NaN, client 2 is empty, client 3 is absent: only client 0 counts."""
    data = fx.quad_data(counts=[2, 2, 0, 2])
    data.examples["b"] = data.examples["b"].at[1].set(jnp.nan)
    algorithm = fx.averaging._replace(sampler=lambda key, round, history: jnp.arange(4) != 3)
    round = make_ring_round(algorithm, batch_size=1, epochs=1)
    state, info = round(fl.init_state(algorithm, START, data), data, KEY)
    expected = fx.b[0] + 0.95**2 * (np.asarray(START.params["w"]) - fx.b[0])
    np.testing.assert_allclose(state.variables.params["w"], expected, rtol=1e-6)
    np.testing.assert_array_equal(info.excluded, [False, True, False, False])
    np.testing.assert_array_equal(info.bytes_up, [8, 8, 8, 0])
    np.testing.assert_array_equal(state.history.participations, [1, 0, 0, 0])
    np.testing.assert_array_equal(info.client_metrics["steps"][0], [2, 0, 0, 0])
    assert bool(info.applied)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"channel": fl.chain(fl.clip(1.0))}, {}, "algorithm.channel"),
        ({"reduce": fl.reducers.median()}, {}, "algorithm.reduce"),
        ({"control": True}, {}, "algorithm.exchange"),
        ({}, {"carry_optimizer": True}, "carry_optimizer"),
        ({}, {"order": "sorted"}, "order"),
    ],
)
def test_what_needs_a_server_is_refused(fx, change, options, message):
    algorithm = fl.scaffold(fx.quad, 0.1) if change.pop("control", False) else fx.averaging
    algorithm, data = algorithm._replace(**change), fx.quad_data()
    with pytest.raises(ValueError, match=message):
        round = make_ring_round(algorithm, batch_size=1, epochs=1, **options)
        round(fl.init_state(algorithm, START, data), data, KEY)
