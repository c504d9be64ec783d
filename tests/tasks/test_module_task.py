"""Any flax module as a task: closed forms, padding, the arguments of modules, and what is refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.tasks import lower_is_better, metric_names, module_task


def batch_of(examples, padding=0, seed=0):
    rng = np.random.default_rng(seed)
    batch = {
        "image": rng.normal(size=(examples, 4)).astype(np.float32),
        "label": rng.integers(0, 3, examples).astype(np.int32),
        "valid": np.ones(examples, bool),
    }
    return {name: np.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1)) for name, x in batch.items()}


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x)


class Normalized(nn.Module):
    """Takes its mode by one of flax's names, and draws dropout."""

    @nn.compact
    def __call__(self, x, training: bool):
        x = nn.BatchNorm(use_running_average=not training, momentum=0.5)(nn.Dense(5)(x))
        x = nn.Dropout(0.5, deterministic=not training)(nn.relu(x))
        return nn.Dense(3)(nn.LayerNorm()(x))


@pytest.mark.slow
def test_a_linear_model_has_the_loss_and_the_gradient_of_its_formulas():
    batch = batch_of(5, padding=2)
    task = module_task(Linear(), "cross_entropy", batch, metrics={"accuracy": right})
    variables = task.init(jax.random.key(1))
    (loss, (_, metrics)), gradient = jax.jit(jax.value_and_grad(task.loss, has_aux=True))(
        *variables, batch, jax.random.key(0)
    )
    x, y = batch["image"][:5].astype(float), np.eye(3)[batch["label"][:5]]
    kernel, bias = (np.asarray(variables.params["Dense_0"][name], float) for name in ("kernel", "bias"))
    logits = x @ kernel + bias
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(loss, -np.log((p * y).sum(1)).mean(), rtol=1e-5)
    np.testing.assert_allclose(gradient["Dense_0"]["kernel"], x.T @ (p - y) / 5, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], loss, rtol=1e-6)
    found = task.metrics(*variables, batch)
    assert found["accuracy"] == (sum(logits.argmax(1) == batch["label"][:5]), 5)
    np.testing.assert_allclose(task.predict(*variables, batch)[:5], p, atol=1e-6)
    assert metric_names(task, batch) == ("accuracy", "loss")


def right(output, batch):
    return (output.argmax(-1) == batch["label"]).astype(float)


def test_padding_changes_nothing_for_batch_normalization_and_dropout():
    task = module_task(Normalized(), "cross_entropy", batch_of(1), chunk=4)
    variables, key = task.init(jax.random.key(0)), jax.random.key(3)

    @jax.jit
    def step(batch):
        return jax.value_and_grad(task.loss, has_aux=True)(*variables, batch, key)

    full, padded = step(batch_of(6)), step(batch_of(6, padding=4))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), full, padded)
    # The moments are those of the valid examples.
    params = variables.params["Dense_0"]
    x = batch_of(6)["image"] @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
    stats = padded[0][1][0]["BatchNorm_0"]
    np.testing.assert_allclose(stats["mean"], 0.5 * x.mean(0), atol=1e-6)
    np.testing.assert_allclose(stats["var"], 0.5 + 0.5 * x.var(0), atol=1e-6)
    empty = {**batch_of(6), "valid": np.zeros(6, bool)}
    (loss, (kept, metrics)), gradient = step(empty)
    assert loss == 0 and metrics["loss"][1] == 0
    jax.tree.map(np.testing.assert_array_equal, kept, variables.stats)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))
    metrics = jax.jit(task.metrics)
    evaluated = [metrics(*variables, b) for b in (batch_of(6), batch_of(6, padding=4))]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *evaluated)


def test_dropout_draws_in_training_alone_and_normalization_is_found():
    task = module_task(Normalized(), "cross_entropy", batch_of(1))
    variables, batch = task.init(jax.random.key(0)), batch_of(6)
    losses = [float(task.loss(*variables, batch, jax.random.key(n))[0]) for n in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    names = {name: all(jax.tree.leaves(mask)) for name, mask in task.normalization.params.items()}
    assert names == {"BatchNorm_0": True, "Dense_0": False, "Dense_1": False, "LayerNorm_0": True}
    assert all(jax.tree.leaves(task.normalization.stats))


def test_a_loss_that_divides_by_the_example_has_a_finite_gradient_beside_padding():
    def relative(output, batch):
        return jnp.square(output).mean(-1) / jnp.square(batch["image"]).mean(-1)

    task = module_task(Linear(), relative, batch_of(1))
    variables = task.init(jax.random.key(0))
    slope = jax.jit(jax.grad(task.loss, has_aux=True))
    gradient = slope(*variables, batch_of(3, padding=2), jax.random.key(0))[0]
    expected = slope(*variables, batch_of(3), jax.random.key(0))[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), gradient, expected)


def test_undefined_metrics_are_left_out_and_those_of_a_diverged_network_are_not():
    def parity(output, batch):
        return jnp.where(batch["label"] == 0, jnp.nan, output[:, 0] * 0 + 2)

    task = module_task(Linear(), "cross_entropy", batch_of(1), metrics={"parity": parity})
    variables, batch = task.init(jax.random.key(0)), batch_of(9)
    known = int((batch["label"] != 0).sum())
    assert task.metrics(*variables, batch)["parity"] == (2 * known, known)
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), variables)
    total, count = task.metrics(*broken, batch)["parity"]
    assert np.isnan(total) and count == 9
    assert lower_is_better("calibration_error") and not lower_is_better("dice")


class Cached(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.variable("cache", "last", jnp.zeros, 3)
        return nn.Dense(3)(x)


class Transposed(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(3)(nn.BatchNorm(not train)(x.T).T)


REFUSED = {
    "scalar": (Linear(), lambda z, b: z.mean(), {}, r"^loss: expected one value for each of .* a scalar"),
    "named": (Linear(), "dice", {}, r"^loss: expected a function, or one of cross_entropy, .*'dice'"),
    "key": (Linear(), "cross_entropy", {"target": "grade"}, r"^example: expected the keys .*'grade'"),
    "input": (Linear(), "cross_entropy", {"inputs": ("scan",)}, r"^example: expected the keys .*'scan'"),
    "metric": (
        *(Linear(), "cross_entropy", {"metrics": {"width": lambda z, b: z}}),
        r"^metrics\['width'\]: .* found the shape \(13, 3\)",
    ),
    "class": (Linear, "cross_entropy", {}, r"^model: expected a flax.linen.Module, found the class Linear"),
    "cache": (Cached(), "cross_entropy", {}, r"^model: expected variables in params and .* found cache"),
    "axis": (Transposed(), "cross_entropy", {}, r"^model: expected batch normalization \(BatchNorm_0\)"),
    "shape": (Linear(), "squared_error", {}, r"^module: expected an output of the shape .* \(13, 3\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name(case):
    module, loss, options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        module_task(module, loss, batch_of(1), **options)
