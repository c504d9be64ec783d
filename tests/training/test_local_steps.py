"""Local steps: how many there are, in parts of their batch, and in another precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.pipeline.federated_settings import check_settings
from fedrecon.models import UNROLLED
from fedrecon.training import FlagError
from fedrecon.training.budgets import Budget
from fedrecon.training.local_steps import accumulated, in_precision
from fedrecon.training.named_tasks import named_task
from fedrecon.training.options import changed
from tests.experiments import quadratics
from tests.federated.conftest import QUAD, TAU, A, B

KEY = jax.random.key(1)
PARAMS = {"w": jnp.asarray([0.3, -0.7])}


def batch_of(count, valid):
    rng = np.random.default_rng(count)
    return {
        "a": jnp.asarray(rng.uniform(1, 2, count), jnp.float32),
        "b": jnp.asarray(rng.normal(size=(count, 2)), jnp.float32),
        "valid": jnp.arange(count) < valid,
    }


def gradient(task, params, stats, batch):
    return jax.jit(jax.value_and_grad(lambda p: task.loss(p, stats, batch, KEY), has_aux=True))(params)


@pytest.mark.parametrize(("parts", "valid"), [(2, 6), (3, 5), (6, 2), (4, 6), (5, 6), (2, 0)])
def test_parts_of_a_batch_have_the_gradient_of_the_whole(parts, valid):
    """Of parts that are padded, too, and where their number does not divide the batch."""
    batch = batch_of(6, valid)
    (value, _), whole = gradient(QUAD, PARAMS, {}, batch)
    (again, _), summed = gradient(accumulated(QUAD, parts), PARAMS, {}, batch)
    np.testing.assert_allclose(again, value, rtol=1e-6)
    np.testing.assert_allclose(summed["w"], whole["w"], rtol=1e-5, atol=1e-7)


def test_one_part_is_the_same_task():
    assert accumulated(QUAD, 1) is QUAD and in_precision(QUAD, "float32") is QUAD


def test_parts_are_weighted_by_what_their_loss_is_a_mean_of():
    """Of four examples the first does not count, as images of a blank volume."""

    def loss(params, stats, batch, key):
        counts = batch["valid"] & (batch["a"] > 0)
        total = jnp.where(counts, batch["a"] * params["w"], 0).sum()
        number = counts.sum().astype(jnp.float32)
        return total / jnp.maximum(number, 1), (stats, {"loss": (total, number)})

    task = QUAD._replace(loss=loss)
    batch = {"a": jnp.asarray([0.0, 3.0, 5.0, 10.0]), "valid": jnp.ones(4, bool)}
    (_, (_, metrics)), slope = gradient(accumulated(task, 2), {"w": jnp.float32(1)}, {}, batch)
    np.testing.assert_allclose(slope["w"], 6)
    np.testing.assert_allclose(metrics["loss"], (18, 3))


def test_statistics_see_the_parts_in_turn_and_keys_differ():
    seen = []

    def loss(params, stats, batch, key):
        seen.append(key)
        shift = jax.random.uniform(key)
        total = (params["w"] * (batch["a"] + shift)).mean()
        return total, ({"count": stats["count"] + 1, "shift": stats["shift"] + shift}, {})

    task = QUAD._replace(loss=loss)
    batch = {"a": jnp.ones(4), "valid": jnp.ones(4, bool)}
    stats = {"count": jnp.int32(0), "shift": jnp.float32(0)}
    (_, (after, _)), slope = gradient(accumulated(task, 4), {"w": jnp.float32(1)}, stats, batch)
    draws = [jax.random.uniform(jax.random.fold_in(KEY, number)) for number in range(4)]
    assert after["count"] == 4
    np.testing.assert_allclose(after["shift"], sum(draws), rtol=1e-6)
    np.testing.assert_allclose(slope["w"], 1 + after["shift"] / 4, rtol=1e-6)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="parts: expected a positive number"):
        accumulated(QUAD, 0)
    with pytest.raises(ValueError, match="precision: expected one of float32, bfloat16"):
        in_precision(QUAD, "float16")
    with pytest.raises(ValueError, match="remat: expected a network among"):
        named_task("reconstruction", reconstruction(), network="fbpconvnet", remat=True)


def reconstruction():
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=(2, *shape)).astype(np.float32)

    return {
        "kspace": normal(1, 8, 8) + 1j * normal(1, 8, 8),
        "coil_maps": np.ones((2, 1, 8, 8), np.complex64),
        "mask": np.ones((2, 8, 8), np.float32),
        "target": np.abs(normal(8, 8)) + 1,
        "data_range": np.full(2, 3, np.float32),
        "volume": np.arange(2, dtype=np.int32),
        "valid": np.ones(2, bool),
    }


def test_convolutions_are_rounded_and_nothing_else():
    """The gradient has the parameters' precision and is near that of float32; evaluation is the same."""
    batch = jax.tree.map(jnp.asarray, reconstruction())
    task = named_task("reconstruction", batch, network="varnet", channels=2, pools=0, cascades=1, loss="l1")
    params, stats = jax.jit(task.init)(jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(jax.random.key(x.size), x.shape), params)
    rounded = in_precision(task, "bfloat16")
    assert rounded._replace(loss=task.loss) == task
    text = jax.jit(lambda p: rounded.loss(p, stats, batch, KEY)[0]).lower(params).as_text()
    assert "bf16" in text and not [x for x in text.splitlines() if "fft" in x and "bf16" in x]
    (value, _), exact = gradient(task, params, stats, batch)
    (near, _), found = gradient(rounded, params, stats, batch)
    assert value != near and abs(near / value - 1) < 0.02
    assert jax.tree.map(lambda x: x.dtype, found) == jax.tree.map(lambda x: x.dtype, exact)
    wrong, whole = (
        np.sqrt(sum(float(jnp.square(x).sum()) for x in jax.tree.leaves(tree)))
        for tree in (jax.tree.map(jnp.subtract, found, exact), exact)
    )
    assert wrong < 0.1 * whole


@pytest.mark.slow
def test_every_unrolled_network_can_compute_its_cascades_again():
    for network in UNROLLED:
        sizes = {"cascades": 2, "channels": 4, "pools": 1}
        named_task("reconstruction", reconstruction(), network=network, remat=True, **sizes)


def test_steps_replace_passes():
    passes, steps = Budget(4, 2, 3, 0.1), Budget(4, 2, 3, 0.1, 5)
    assert passes.work == {"batch_size": 3, "epochs": 2} and steps.work == {"batch_size": 3, "steps": 5}
    np.testing.assert_array_equal(passes.full_steps([0, 3, 4]), [0, 2, 4])
    np.testing.assert_array_equal(steps.full_steps([0, 3, 4]), [0, 5, 5])
    with pytest.raises(FlagError, match="dp"):
        check_settings(changed(quadratics.SETTINGS, local_steps=5, dp_epsilon=8.0))


@pytest.mark.slow
def test_every_client_and_pooled_data_take_the_steps_of_a_round(monkeypatch, tmp_path):
    """In closed form: as many steps of gradient descent at all clients, whatever examples they have."""
    settings = changed(quadratics.SETTINGS, rounds=2, local_steps=3)
    results, _, log = quadratics.run(monkeypatch, tmp_path / "federated", settings)
    w = np.broadcast_to(quadratics.START, B.shape)
    for _ in range(2):
        w = np.average(B + (1 - 0.05 * A[:, None]) ** 3 * (w - B), axis=0, weights=TAU)
    for name, a, b in zip("abcd", A, B, strict=True):
        assert results.released[name]["objective"] == pytest.approx(a / 2 * ((w - b) ** 2).sum(), rel=1e-4)
    assert [record["steps"] for record in log] == pytest.approx([3, 3])
    pooled = changed(settings, algorithm="centralized")
    _, _, log = quadratics.run(monkeypatch, tmp_path / "pooled", pooled)
    assert [record["steps"] for record in log] == pytest.approx([3, 3])
