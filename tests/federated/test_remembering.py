"""What is remembered of earlier blocks: the Fisher diagonal, and the penalties of EWC and LwF."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.data import ClientData
from fedrecon.federated.methods.ewc import ewc
from fedrecon.federated.methods.lwf import lwf
from fedrecon.federated.methods.remembering import Memory, fisher_diagonal, remembered
from fedrecon.types import Task, Variables

RATE, COUNTS = 0.1, (4, 2, 3)


def task_of():
    """A linear classification of two numbers in three classes."""

    def logits(params, batch):
        return batch["x"] @ params["w"]

    def loss(params, stats, batch, key):
        each = optax.softmax_cross_entropy_with_integer_labels(logits(params, batch), batch["y"])
        return jnp.where(batch["valid"], each, 0).sum() / jnp.maximum(batch["valid"].sum(), 1), (stats, {})

    start = Variables({"w": jnp.zeros((2, 3))}, {})
    predict = lambda params, stats, batch: jax.nn.softmax(logits(params, batch))  # noqa: E731
    return Task(lambda key: start, loss, lambda p, s, b: {}, predict, Variables({"w": False}, {}))


def clients():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4, 2)).astype(np.float32)
    y = rng.integers(3, size=(3, 4)).astype(np.int32)
    valid = np.arange(4) < np.array(COUNTS)[:, None]
    # Padding holds what would show.
    return ClientData({"x": np.where(valid[..., None], x, 1e3), "y": y}, valid, ("a", "b", "c"))


def variables(seed):
    return Variables({"w": jnp.asarray(np.random.default_rng(seed).normal(size=(2, 3)), jnp.float32)}, {})


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gradients(w, x, y):
    """Of single examples, (examples, 2, 3)."""
    wrong = softmax(x @ w) - np.eye(3)[y]
    return x[:, :, None] * wrong[:, None]


def round_of(recipe, start, rounds=1, **options):
    """The weights after a step of each client on all of its examples, and the mean."""
    algorithm = recipe(task_of(), optax.sgd(RATE), **options)
    state = fl.init_state(algorithm, start, clients())
    run = fl.make_round(algorithm, batch_size=4, steps=1, donate=False)
    for _ in range(rounds):
        state, _ = run(state, clients(), jax.random.key(1))
    return np.asarray(state.variables.params["w"])


def test_the_fisher_diagonal_is_the_mean_over_all_examples():
    model, data = variables(1), clients()
    found = fisher_diagonal(task_of(), model, data, jax.random.key(0))
    x, y = (data.examples[name][data.valid] for name in "xy")
    expected = (gradients(np.asarray(model.params["w"]), x, y) ** 2).mean(0)
    np.testing.assert_allclose(found["w"], expected, rtol=1e-5)
    # Of two blocks the sum, with the newer model.
    memory = remembered(remembered(Memory(), model, found), variables(2), found)
    np.testing.assert_allclose(memory.importance["w"], 2 * expected, rtol=1e-5)
    np.testing.assert_array_equal(memory.model.params["w"], variables(2).params["w"])


def test_a_step_of_ewc_is_that_of_the_quadratic_penalty():
    start, anchor = variables(3), variables(4)
    importance = {"w": jnp.asarray(np.random.default_rng(5).uniform(size=(2, 3)), jnp.float32)}
    found = round_of(ewc, start, strength=2.0, memory=Memory(anchor, importance))
    w, v, data = (np.asarray(start.params["w"], float), np.asarray(anchor.params["w"], float), clients())
    # The derivative of F (w - v)^2 (strength / 2 times), by differences.
    slope = np.asarray(importance["w"]) * ((w + 1e-4 - v) ** 2 - (w - 1e-4 - v) ** 2) / 2e-4
    new = [w - RATE * (gradients(w, x[m], y[m]).mean(0) + slope) for x, y, m in zip(
        data.examples["x"], data.examples["y"], data.valid, strict=True)]  # fmt: skip
    np.testing.assert_allclose(found, np.average(new, 0, COUNTS), rtol=1e-4)


def test_lwf_adds_the_divergence_from_the_last_model():
    start, before, temperature, strength = variables(6), variables(7), 2.0, 0.5
    found = round_of(lwf, start, strength=strength, temperature=temperature, memory=Memory(before))
    w, v, data = np.asarray(start.params["w"]), np.asarray(before.params["w"]), clients()
    new = []
    for x, y, m in zip(data.examples["x"], data.examples["y"], data.valid, strict=True):
        x, y = x[m], y[m]
        # T^2 times the derivative of KL(p || q(z / T)) in z is T (q - p).
        away = softmax(x @ w / temperature) - softmax(x @ v / temperature)
        slope = strength * temperature * (x[:, :, None] * away[:, None]).mean(0)
        new.append(w - RATE * (gradients(w, x, y).mean(0) + slope))
    np.testing.assert_allclose(found, np.average(new, 0, COUNTS), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [ewc, lwf])
def test_strength_zero_and_an_empty_memory_are_averaging_bit_for_bit(recipe):
    start, expected = variables(8), round_of(fl.fedavg, variables(8), 2)
    memory = Memory(variables(9), {"w": jnp.ones((2, 3))})
    np.testing.assert_array_equal(round_of(recipe, start, 2, strength=0.0, memory=memory), expected)
    np.testing.assert_array_equal(round_of(recipe, start, 2), expected)
    assert np.abs(round_of(recipe, start, 2, memory=memory) - expected).max() > 1e-3


def test_arguments_out_of_range_are_named():
    for make, message in (
        (lambda: ewc(task_of(), optax.sgd(1), strength=-1.0), "strength: expected a number of at least 0"),
        (lambda: ewc(task_of(), optax.sgd(1), memory=Memory(variables(0))), "memory: expected a model with"),
        (lambda: lwf(task_of(), optax.sgd(1), strength=float("nan")), "strength: expected a number"),
        (lambda: lwf(task_of(), optax.sgd(1), temperature=0.0), "temperature: expected a positive number"),
    ):
        with pytest.raises(ValueError, match="^" + message):
            make()
