"""FedNorm: normalized tensors, slow clients left out, entropies that fall at test time."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.errors import ArgumentError
from fedrecon.evaluation import convergence_score
from fedrecon.federated import clock as fc
from fedrecon.federated.methods.entropy_descent import adapted_to, mean_entropy
from fedrecon.federated.methods.fednorm import fednorm, without_slow
from fedrecon.tasks import classification_task
from fedrecon.types import Variables
from tests.federated.conftest import Clients

KEY = jax.random.key(3)
START = Variables({"w": jnp.array([0.3, -0.7])}, {})
COUNTS = np.array([1, 5, 3, 8])
RATE = 0.05


def run(fx, algorithm, rounds=1, *, data=None, variables=START):
    data = data or fx.quad_data()
    steps = np.asarray(data.valid).sum(1).astype(np.int32)
    algorithm = algorithm._replace(clock=fc.Clock(fc.profile(4), steps, 16))
    round = fl.make_round(algorithm, batch_size=1, epochs=1)
    return fl.run_rounds(round, rounds)(fl.init_state(algorithm, variables, data), data, KEY)


def test_the_update_is_the_normalized_sum_of_gradients(fx):
    state, info = run(fx, fednorm(fx.linear, RATE))
    p = COUNTS / COUNTS.sum()
    effective = (p * COUNTS).sum()
    expected = np.array([0.3, -0.7]) - RATE * effective * (p[:, None] * fx.b).sum(0)
    np.testing.assert_allclose(state.variables.params["w"], expected, rtol=1e-5)
    plain, _ = run(fx, fl.fedavg(fx.linear, optax.sgd(RATE)))
    assert np.abs(plain.variables.params["w"] - expected).max() > 0.01
    # The model, its weight and tau.
    np.testing.assert_array_equal(info.bytes_up, 4 * (2 + 1 + 1))


@pytest.mark.slow
def test_without_pruning_it_is_fednova_and_with_equal_steps_fedavg(fx):
    state, _ = run(fx, fednorm(fx.quad, RATE, prune=False), 3)
    nova, _ = run(fx, fl.fednova(fx.quad, RATE), 3)
    fx.assert_equal(state.variables, nova.variables)
    equal = fx.quad_data(counts=np.full(4, 3))
    state, _ = run(fx, fednorm(fx.quad, RATE), 3, data=equal)
    plain, _ = run(fx, fl.fedavg(fx.quad, optax.sgd(RATE)), 3, data=equal)
    fx.assert_close(state.variables, plain.variables, 1e-6)


def test_tensors_of_unit_length_have_the_mean_length(fx):
    variables = fx.pair.init(KEY)
    state, info = run(fx, fednorm(fx.pair, RATE, normalize="l2"), variables=variables)
    w, h = (np.tile(np.asarray(variables.params[name], np.float64), (4, 1)) for name in "wh")
    for i, count in enumerate(COUNTS):
        for _ in range(count):
            away = w[i] + h[i] - fx.b[i]
            w[i], h[i] = w[i] - RATE * fx.a[i] * away, h[i] - RATE * fx.a[i] * (away + h[i])
    p = COUNTS / COUNTS.sum()
    for name, local in (("w", w), ("h", h)):
        start = np.asarray(variables.params[name], np.float64)
        change = local - start
        lengths = np.linalg.norm(change, axis=1)
        expected = start + (p * lengths).sum() * (p[:, None] * change / lengths[:, None]).sum(0)
        np.testing.assert_allclose(state.variables.params[name], expected, rtol=1e-5)
    # Two tensors of two numbers, the weight, and a length for each.
    np.testing.assert_array_equal(info.bytes_up, 4 * (4 + 1 + 2))


def chosen(sampler, seconds, round=3):
    clients = len(seconds)
    state = fc.first_state(fc.Clock(fc.profile(clients), np.ones(clients, np.int32), 0))
    state = state._replace(seconds=jnp.asarray(seconds, jnp.float32))
    history = fl.History(*(jnp.zeros(clients, jnp.int32),) * 3, clock=state)
    return np.flatnonzero(sampler(KEY, jnp.int32(round), history)).tolist()


def test_slow_clients_are_left_out_by_the_median_and_come_back():
    seconds = [2.0, 4.0, 5.9, 6.1, 4.0]
    assert chosen(without_slow(1.5), seconds) == [0, 1, 2, 4]
    assert chosen(without_slow(1.5), seconds, round=10) == [0, 1, 2, 3, 4]
    assert chosen(without_slow(1.5, readmit_rounds=3), seconds) == [0, 1, 2, 3, 4]
    # Nobody was timed yet, or one was not.
    assert chosen(without_slow(1.5), [-1.0] * 3) == [0, 1, 2]
    assert chosen(without_slow(1.5), [-1.0, 1.0, 1.0, 9.0]) == [0, 1, 2]
    # Of those who were timed the median is 3.5.
    assert chosen(without_slow(1.5), [-1.0, -1.0, -1.0, 2.0, 3.5, 4.0]) == [0, 1, 2, 3, 4, 5]
    # .4 of the median would leave one of five, .4 x 1.1^k rises until three are left: those up to the median.
    assert chosen(without_slow(0.4), [2.0, 3.9, 4.0, 6.1, 7.0]) == [0, 1, 2]


def test_pruning_raises_the_convergence_score(fx):
    """Of four alike clients one is twenty times slower; scores are those of the model after each round."""
    counts = np.full(4, 4)
    data = fx.quad_data(np.ones(4, np.float32), np.tile(np.float32([[1, 2]]), (4, 1)), counts)
    slow = np.array([1.0, 1.0, 20.0, 1.0], np.float32)

    def score(**options):
        algorithm = fednorm(fx.quad, RATE, **options)
        clock = fc.Clock(fc.profile(4, step_seconds=slow), counts, 16)
        algorithm = algorithm._replace(clock=clock)
        round = fl.make_round(algorithm, batch_size=1, epochs=1)
        state, clocks, scores = fl.init_state(algorithm, START, data), [], []
        for _ in range(8):
            state, info = round(state, data, KEY)
            clocks.append(float(info.clock.now))
            scores.append(float(np.exp(-np.linalg.norm(np.asarray(state.variables.params["w"]) - [1, 2]))))
        return convergence_score(clocks, scores, 2000.0), info.participated

    with_all, everybody = score(prune=False)
    pruned, some = score()
    assert everybody.all() and np.asarray(some).tolist() == [True, True, False, True]
    assert pruned > with_all


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.LayerNorm(name="norm")(nn.Dense(4, name="body")(x.reshape(len(x), -1)))
        return nn.Dense(3, name="head")(x)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    batch = {"image": rng.normal(size=(6, 2, 2, 1)).astype(np.float32), "label": np.zeros(6, np.int32)}
    task = classification_task(Net(), {name: x[:1] for name, x in batch.items()})
    batch["valid"] = np.arange(6) < 5
    return task, task.init(KEY), batch


def test_entropy_falls_at_test_time_and_other_leaves_stay(images):
    task, model, batch = images
    p = np.asarray(task.predict(*model, batch), np.float64)[:5]
    assert float(mean_entropy(task, model, batch)) == pytest.approx(-(p * np.log(p)).sum(-1).mean(), rel=1e-5)
    own = fednorm(task, RATE, adaptation_steps=8, adaptation_rate=0.1)
    adapted = own.personalize(model, own.client.init(model), batch)
    assert mean_entropy(task, adapted, batch) < mean_entropy(task, model, batch) - 0.01
    for layer, leaves in model.params.items():
        for name, x in leaves.items():
            same = np.array_equal(x, adapted.params[layer][name])
            assert same == (layer != "norm"), (layer, name)
    # One step is the gradient's; labels and padding mean nothing; without images the model is the same.
    one = adapted_to(task, model, batch, steps=1, rate=0.1)
    gradient = jax.grad(lambda s: mean_entropy(task, model._replace(
        params={**model.params, "norm": {**model.params["norm"], "scale": s}}), batch)
    )(model.params["norm"]["scale"])  # fmt: skip
    np.testing.assert_allclose(
        one.params["norm"]["scale"], model.params["norm"]["scale"] - 0.1 * gradient, rtol=1e-5
    )
    other = {
        **batch,
        "label": batch["label"] + 1,
        "image": np.where(np.arange(6) < 5, batch["image"].T, 9.0).T,
    }
    np.testing.assert_array_equal(
        own.personalize(model, own.client.init(model), other).params["norm"]["scale"],
        adapted.params["norm"]["scale"],
    )
    for steps, given in ((0, batch), (5, None)):
        same = fednorm(task, RATE, adaptation_steps=steps)
        found = same.personalize(model, same.client.init(model), given)
        jax.tree.map(np.testing.assert_array_equal, found, model)


def test_evaluation_adapts_to_the_images_of_each_client(images):
    task, model, batch = images
    valid = np.stack([batch["valid"]] * 2)
    image = np.stack([batch["image"], batch["image"] * 3 + 1])
    data = fl.place(Clients({"image": image, "label": np.stack([batch["label"]] * 2)}, valid))

    def entropy(params, stats, batch):
        return {"entropy": (mean_entropy(task, Variables(params, stats), batch), jnp.float32(1))}

    algorithm = fednorm(task, RATE, adaptation_steps=8, adaptation_rate=0.1, prune=False)
    state = fl.init_state(algorithm, model, data)
    evaluate = fl.make_evaluate(algorithm, entropy)
    own, plain = evaluate(state, data)["entropy"][0], evaluate(model, data)["entropy"][0]
    assert (own < plain - 0.01).all()


def test_what_makes_no_sense_is_refused(fx):
    for options in ({"normalize": "max"}, {"ratio": 0.0}, {"readmit_rounds": 0}, {"adaptation_steps": -1}):
        with pytest.raises(ArgumentError, match=next(iter(options))):
            fednorm(fx.quad, RATE, **options)
    algorithm = fednorm(fx.quad, RATE)
    round = fl.make_round(algorithm, batch_size=1, epochs=1)
    with pytest.raises(ArgumentError, match=r"algorithm\.clock"):
        round(fl.init_state(algorithm, START, fx.quad_data()), fx.quad_data(), KEY)
