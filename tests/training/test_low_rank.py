"""Low-rank fine-tuning: begins at the base, freezes it, and averages exactly where it says so."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.data import ClientData
from fedrecon.tasks import module_task
from fedrecon.training import low_rank as lr
from fedrecon.types import Variables


class Network(nn.Module):
    @nn.compact
    def __call__(self, image):
        x = nn.relu(nn.Conv(6, (3, 3), strides=2, name="conv")(image))
        x = nn.Conv(5, (3, 3), kernel_dilation=2, name="dilated")(x)
        return nn.Dense(2, name="head")(x.mean((1, 2)))


def hospital(seed, count=4):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.normal(size=(count, 8, 8, 1)).astype(np.float32),
        "label": rng.integers(0, 2, count).astype(np.int32),
        "valid": np.ones(count, bool),
    }


@pytest.fixture(scope="module")
def setting():
    example = hospital(0)
    task = module_task(Network(), "cross_entropy", example)
    return task, task.init(jax.random.key(1)), example


def test_training_begins_at_the_base_bit_for_bit(setting):
    task, base, batch = setting
    adapted = lr.low_rank(task, base, rank=2)
    variables = adapted.task.init(jax.random.key(0))
    np.testing.assert_array_equal(adapted.task.predict(*variables, batch), task.predict(*base, batch))
    shapes = {name: x.shape for name, x in variables.params["A"].items()}
    assert shapes == {"conv/kernel": (9, 2), "dilated/kernel": (54, 2), "head/kernel": (5, 2)}
    assert jax.tree.structure(adapted.task.normalization) == jax.tree.structure(variables)


def test_a_convolution_is_changed_by_two_convolutions(setting):
    """W + A B is the layer and a convolution by A followed by a 1 x 1 convolution by B."""
    _, base, _ = setting
    rng = np.random.default_rng(2)
    for name, options in (("conv", {"strides": 2}), ("dilated", {"kernel_dilation": 2})):
        kernel = base.params[name]["kernel"]
        a = jnp.asarray(rng.normal(size=(int(np.prod(kernel.shape[:-1])), 2)), jnp.float32)
        b = jnp.asarray(rng.normal(size=(2, kernel.shape[-1])), jnp.float32)
        params = {name: {"kernel": kernel}}
        merged = lr.add_products(params, {f"{name}/kernel": a}, {f"{name}/kernel": b}, 0.5)[name]["kernel"]
        x = jnp.asarray(rng.normal(size=(2, 7, 9, kernel.shape[2])), jnp.float32)
        layer = nn.Conv(kernel.shape[-1], (3, 3), use_bias=False, **options)
        narrow = nn.Conv(2, (3, 3), use_bias=False, **options)
        through = narrow.apply({"params": {"kernel": a.reshape(*kernel.shape[:-1], 2)}}, x) @ b
        expected = layer.apply({"params": {"kernel": kernel}}, x) + 0.5 * through
        np.testing.assert_allclose(
            layer.apply({"params": {"kernel": merged}}, x), expected, rtol=1e-4, atol=1e-5
        )


@pytest.mark.slow
@pytest.mark.parametrize("train_a", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_round_averages_the_merged_models_where_a_is_frozen(setting, train_a):
    task, base, _ = setting
    adapted = lr.low_rank(task, base, rank=2, train_a=train_a)
    variables = adapted.task.init(jax.random.key(0))
    sites = [hospital(1), hospital(2)]
    examples = {key: jnp.stack([site[key] for site in sites]) for key in ("image", "label")}
    algorithm = fl.fedavg(adapted.task, optax.sgd(0.5), share_mask=adapted.share_mask)
    round = fl.make_round(algorithm, batch_size=2, epochs=2)

    def after(*present):
        """The merged model of a round of some clients: the others have no examples."""
        there = jnp.asarray([[client in present] * 4 for client in range(2)])
        placed = fl.place(ClientData(examples, there, ("a", "b")), frozen=variables)
        state, info = round(fl.init_state(algorithm, variables, placed), placed, jax.random.key(3))
        assert state.variables.params["base"] == jax.tree.map(lambda _: None, base.params)
        params = {**variables.params, **{k: state.variables.params[k] for k in trained}}
        return adapted.merge(params), info

    trained = "AB" if train_a else "B"
    both, info = after(0, 1)
    sent = sum(x.size * 4 for x in jax.tree.leaves({k: variables.params[k] for k in trained}))
    assert int(info.bytes_up[0]) == sent + 4
    mean = jax.tree.map(lambda x, y: (x + y) / 2, after(0)[0], after(1)[0])
    gap = max(
        float(jnp.abs(x - y).max()) for x, y in zip(jax.tree.leaves(mean), jax.tree.leaves(both), strict=True)
    )
    moved = max(
        float(jnp.abs(x - y).max())
        for x, y in zip(jax.tree.leaves(mean), jax.tree.leaves(base.params), strict=True)
    )
    assert moved > 1e-2
    assert (gap > 1e-5) if train_a else (gap < 1e-6)


def test_stacked_factors_are_the_mean_and_reduced_ones_its_best_approximation():
    rng = np.random.default_rng(4)
    a = [{"w": jnp.asarray(rng.normal(size=(9, 2)), jnp.float32)} for _ in range(3)]
    b = [{"w": jnp.asarray(rng.normal(size=(2, 7)), jnp.float32)} for _ in range(3)]
    weights = [1.0, 2.0, 5.0]
    products = [np.asarray(x["w"] @ y["w"]) for x, y in zip(a, b, strict=True)]
    mean = np.average(products, axis=0, weights=weights)
    left, right = lr.stack(a, b, weights)
    np.testing.assert_allclose(left["w"] @ right["w"], mean, rtol=1e-5, atol=1e-5)
    naive = np.average([x["w"] for x in a], axis=0, weights=weights) @ np.average(
        [y["w"] for y in b], axis=0, weights=weights
    )
    assert np.abs(naive - mean).max() > 0.1
    left, right, residual = lr.reduce_rank(left, right, 3)
    u, s, v = np.linalg.svd(mean)
    best = (u[:, :3] * s[:3]) @ v[:3]
    np.testing.assert_allclose(left["w"] @ right["w"], best, atol=1e-4)
    np.testing.assert_allclose(residual["w"], (s[3:] ** 2).sum() / (s**2).sum(), rtol=1e-4)
    assert left["w"].shape == (9, 3)


def test_full_rank_reaches_every_change_and_attention_splits_evenly():
    shapes = {"q": (8, 2, 4), "o": (2, 4, 8)}
    base = Variables({n: {"kernel": jnp.ones(s)} for n, s in shapes.items()}, {})
    task = module_task(Network(), "cross_entropy", hospital(0))._replace(
        normalization=Variables({n: {"kernel": False} for n in shapes}, {})
    )
    params = lr.low_rank(task, base, rank=99).task.init(jax.random.key(0)).params
    assert params["A"]["q/kernel"].shape == (8, 8) and params["A"]["o/kernel"].shape == (8, 8)
    target = np.random.default_rng(5).normal(size=(8, 2, 4))
    b = jnp.asarray(np.linalg.solve(np.asarray(params["A"]["q/kernel"], float), target.reshape(8, 8)))
    found = lr.add_products(base.params, {"q/kernel": params["A"]["q/kernel"]}, {"q/kernel": b}, 1.0)
    np.testing.assert_allclose(found["q"]["kernel"], 1 + target, atol=1e-3)


def test_some_leaves_are_trained_and_wrong_names_are_said(setting):
    task, base, _ = setting
    mask = lr.some_leaves(base)
    assert mask.params["head"] == {"kernel": fl.FROZEN, "bias": True}
    assert lr.some_leaves(base, "^head/").params["conv"] == {"kernel": fl.FROZEN, "bias": fl.FROZEN}
    with pytest.raises(ValueError, match="leaves: expected an expression found in one of"):
        lr.some_leaves(base, "nothing")
    with pytest.raises(ValueError, match="leaves: expected"):
        lr.low_rank(task, base, leaves="bias")
    with pytest.raises(ValueError, match="rank: expected a positive integer"):
        lr.low_rank(task, base, rank=0)
