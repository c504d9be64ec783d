"""Normalization layers: moments, masking, and where their leaves are."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from fedrecon.models import (
    NORMS,
    BatchNorm,
    Conv,
    GroupNorm,
    InstanceNorm,
    UNet,
    normalization_leaves,
)

# Compiles in a fraction of the time, for programs that run once or twice.
once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def images(shape=(3, 5, 4, 8), seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(2.0, 3.0, shape))


def affine(seed=1, channels=8):
    rng = np.random.default_rng(seed)
    return {"scale": rng.normal(size=channels), "bias": rng.normal(size=channels)}


@pytest.mark.parametrize(
    ("layer", "flax_layer", "shape"),
    [
        (InstanceNorm(), nn.InstanceNorm(epsilon=1e-5, param_dtype=float), (3, 5, 4, 8)),
        (GroupNorm(groups=2), nn.GroupNorm(2, epsilon=1e-5, param_dtype=float), (3, 5, 4, 8)),
        (GroupNorm(groups=8), nn.InstanceNorm(epsilon=1e-5, param_dtype=float), (3, 5, 4, 8)),
        (GroupNorm(groups=2), nn.GroupNorm(2, epsilon=1e-5, param_dtype=float), (3, 5, 4, 2, 8)),
    ],
    ids=["instance", "group", "single", "volume"],
)
def test_instance_and_group_norm_equal_flax(x64, layer, flax_layer, shape):
    x, params = images(shape), affine()
    got, want = (once(m.apply)({"params": params}, x) for m in (layer, flax_layer))
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)
    cotangent = images(shape, seed=3)

    @partial(once, static_argnums=0)
    @partial(jax.grad, argnums=(1, 2))
    def gradients(layer, params, x):
        return jnp.vdot(cotangent, layer.apply({"params": params}, x))

    got, want = (gradients(m, params, x) for m in (layer, flax_layer))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-8), got, want)


@pytest.mark.slow
def test_normalization_has_second_derivatives(x64):
    def f(scale, x):
        return GroupNorm(groups=2).apply({"params": {"scale": scale, "bias": scale}}, x)

    check_grads(f, (affine(channels=4)["scale"], images((2, 3, 2, 4))), order=2, modes=["rev"])


def test_groups_are_the_most_that_divide_the_channels(x64):
    """36 channels: 18 groups, by flax; up to 32 channels each is a group of its own."""
    layer = NORMS["group32"]
    for channels, groups in ((36, 18), (37, 1)):
        x = jnp.asarray(np.random.default_rng(channels).normal(2.0, 3.0, (2, 3, 4, channels)))
        variables = {"params": affine(channels=channels)}
        expected = nn.GroupNorm(groups, epsilon=1e-5, param_dtype=float).apply(variables, x)
        np.testing.assert_allclose(layer().apply(variables, x), expected, atol=1e-10)


def test_group_norm_refuses_groups_that_do_not_divide():
    with pytest.raises(ValueError, match="groups: expected a divisor of the 8 channels, found 3"):
        GroupNorm(groups=3).init(jax.random.key(0), images())


def test_batch_norm_trains_and_evaluates_as_flax(x64):
    x, params = images(), affine()
    stats = {"mean": jnp.arange(8.0), "var": 1 + jnp.arange(8.0)}
    variables = {"params": params, "batch_stats": stats}
    flax_layer = nn.BatchNorm(momentum=0.9, param_dtype=float)
    got, updates = BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])
    want, flax_updates = flax_layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, flax_updates)
    want = flax_layer.apply(variables, x, use_running_average=True)
    np.testing.assert_allclose(BatchNorm().apply(variables, x), want, rtol=1e-9, atol=1e-9)


def test_batch_norm_does_not_see_padding(x64):
    x, params = images(), affine()
    padded, valid = jnp.concatenate([x, 100 * images(seed=2)[:2]]), jnp.arange(5) < 3
    layer, start = BatchNorm(), {"mean": jnp.zeros(8), "var": jnp.ones(8)}
    variables = {"params": params, "batch_stats": start}
    want = layer.apply(variables, x, True, mutable=["batch_stats"])
    got = layer.apply(variables, padded, True, valid, mutable=["batch_stats"])
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g[: len(w)], w, rtol=1e-12), got, want)
    _, unmoved = layer.apply(variables, padded, True, jnp.zeros(5, bool), mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, unmoved["batch_stats"], start)


@pytest.mark.parametrize("layer", NORMS.values(), ids=lambda layer: layer.__name__)
def test_constant_images_have_finite_gradients(layer):
    x, variables = jnp.ones((2, 4, 4, 4)), {"params": {"scale": jnp.ones(4), "bias": jnp.ones(4)}}
    if layer is BatchNorm:
        variables["batch_stats"] = {"mean": jnp.zeros(4), "var": jnp.ones(4)}

    @once
    @jax.grad
    def grad(x):
        return jnp.sum(layer().apply(variables, x, True, mutable=["batch_stats"])[0] ** 3)

    assert np.isfinite(grad(x)).all()


class Disguised(nn.Module):
    """Normalization layers under names that say nothing, and a convolution called norm."""

    @nn.compact
    def __call__(self, x, train=False):
        x = Conv(4, name="norm1")(x)
        x = BatchNorm(name="a")(x, train)
        return InstanceNorm(name="conv2")(x)


class Stacked(nn.Module):
    """The disguised layers rematerialized inside a scan over depth."""

    @nn.compact
    def __call__(self, x):
        class Step(nn.Module):
            @nn.compact
            def __call__(self, x):
                return Disguised(name="inner")(x), None

        axes = {"params": 0, "batch_stats": 0}
        step = nn.scan(nn.remat(Step), variable_axes=axes, split_rngs={"params": True}, length=2)
        return step(name="steps")(x)[0]


def test_leaves_are_found_by_type_not_by_name():
    args = jax.random.key(0), jax.ShapeDtypeStruct((1, 4, 4, 4), np.float32)
    params, stats = normalization_leaves(Disguised().init, *args)
    both = {"scale": True, "bias": True}
    assert params == {"norm1": {"kernel": False, "bias": False}, "a": both, "conv2": both}
    assert stats == {"a": {"mean": True, "var": True}}
    inside_params, inside_stats = normalization_leaves(Stacked().init, *args)
    assert inside_params == {"steps": {"inner": params}}
    assert inside_stats == {"steps": {"inner": stats}}


@pytest.mark.parametrize("layer", NORMS.values(), ids=lambda layer: layer.__name__)
def test_masks_have_the_structure_of_the_variables(layer):
    model, x = UNet(4, 1, norm=layer), jnp.ones((1, 4, 4, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    masks = normalization_leaves(model.init, jax.random.key(0), x)
    for mask, collection in zip(masks, ("params", "batch_stats"), strict=True):
        assert jax.tree.structure(mask) == jax.tree.structure(variables.get(collection, {}))
    # Two blocks of two, two of one block after the upsampling, and the upsampling's own.
    assert sum(jax.tree.leaves(masks[0])) == 2 * 7
    assert sum(jax.tree.leaves(masks[1])) == (2 * 7 if layer is BatchNorm else 0)
