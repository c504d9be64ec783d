"""U-Net and classifier: shapes, padding, batches, and carried parameters."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrecon.models import BatchNorm, Classifier, UNet, warm_start

# Compiles in a fraction of the time, for programs that run once or twice.
once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def images(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def filled(model, *args, seed=3):
    """Random variables everywhere; no initializer to compile."""
    rng, shapes = np.random.default_rng(seed), jax.eval_shape(model.init, jax.random.key(0), *args)
    return jax.tree.map(lambda s: jnp.asarray(0.3 * rng.normal(size=s.shape), jnp.float32), shapes)


@settings(max_examples=12)
@given(st.integers(1, 19), st.integers(1, 19), st.integers(0, 3), st.integers(1, 2))
def test_any_image_size_comes_back(ny, nx, pools, channels):
    model, x = UNet(2, pools, 3), jax.ShapeDtypeStruct((2, ny, nx, channels), np.float32)
    y, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
    assert y.shape == (2, ny, nx, 3)


@pytest.mark.slow
def test_odd_sizes_are_padded_and_cropped_exactly():
    model, x = UNet(2, 2), images(2, 9, 6, 1)
    params, run = filled(model, x), once(model.apply)
    by_hand = jnp.pad(x, ((0, 0), (1, 2), (1, 1), (0, 0)))
    np.testing.assert_allclose(run(params, x), run(params, by_hand)[:, 1:-2, 1:-1], atol=1e-6)


def test_volumes_of_equal_slices_give_the_slices_of_images():
    """With kernels that see no neighboring slice."""
    model, x = UNet(2, 1, norm=BatchNorm), images(2, 6, 4, 1)
    flat = filled(model, x)

    def deepen(path, leaf):
        if leaf.ndim < 4:
            return leaf
        if "up0" in jax.tree_util.keystr(path):
            return jnp.concatenate([leaf[None]] * 2, -1)
        return jnp.pad(leaf[None], [(leaf.shape[0] // 2,) * 2] + [(0, 0)] * 4)

    deep = jax.tree.map_with_path(deepen, flat)
    volume = jnp.stack([x] * 4, 1)
    assert jax.tree.map(jnp.shape, deep) == jax.tree.map(
        jnp.shape, jax.eval_shape(model.init, jax.random.key(0), volume)
    )

    def run(flat, deep, x, volume):
        apply = partial(model.apply, train=True, mutable=["batch_stats"])
        return apply(deep, volume), apply(flat, x)

    (got, stats), (want, expected) = once(run)(flat, deep, x, volume)
    for z in range(4):
        np.testing.assert_allclose(got[:, z], want, rtol=1e-4, atol=1e-4)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), stats, expected)


def test_poolings_within_slices_give_the_slices_of_images():
    net = {"norm": BatchNorm, "deep_supervision": True, "residual": True}
    factors, windows = ((1, 2, 2), (1, 2, 2)), ((1, 3, 3),) * 3
    volumes, images_of = UNet(2, factors, windows=windows, most=4, **net), UNet(2, 2, most=4, **net)
    x = images(1, 3, 9, 6, 1)
    flat = filled(images_of, x[0])
    deep = jax.tree.map(lambda leaf: leaf[None] if leaf.ndim == 4 else leaf, flat)
    assert flat["params"]["encoder"]["block2"]["conv1"]["kernel"].shape == (3, 3, 4, 4)
    shapes = jax.eval_shape(volumes.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, deep) == jax.tree.map(jnp.shape, shapes)
    got, want = once(lambda: (volumes.apply(deep, x)[0], images_of.apply(flat, x[0])))()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_poolings_of_some_axes_pad_to_their_product():
    model = UNet(
        2, ((1, 2, 2), *((2, 2, 2),) * 2), deep_supervision=True, windows=((1, 3, 3), *((3, 3, 3),) * 3)
    )
    x = jax.ShapeDtypeStruct((1, 5, 9, 6, 1), np.float32)
    init = partial(model.init_with_output, train=True)
    outputs, variables = jax.eval_shape(init, jax.random.key(0), x)
    assert [y.shape for y in outputs] == [(1, 5, 9, 6, 1)] * 2
    params = variables["params"]
    assert params["encoder"]["block0"]["conv1"]["kernel"].shape == (1, 3, 3, 1, 2)
    assert params["up0"]["conv"]["kernel"].shape[-1] == 4 * 2
    assert params["up1"]["conv"]["kernel"].shape[-1] == 8 * 4
    for pools, windows in (((1, 3, 3),), ()), (((2, 2),), ()), (1, ((3, 3, 3),)):
        with pytest.raises(ValueError, match="windows" if windows else "pools"):
            jax.eval_shape(UNet(2, pools, windows=windows).init, jax.random.key(0), x)


def test_images_of_a_batch_do_not_mix():
    model, x = UNet(2, 1), images(3, 8, 8, 1)
    params, run = filled(model, x), once(model.apply)
    separate = jnp.concatenate([run(params, x[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(run(params, x), separate, atol=1e-5)


def test_zero_init_returns_zero_and_learns():
    model, x = UNet(2, 0, zero_init=True), images(1, 8, 8, 1)

    @once
    def run(key):
        params = model.init(key, x)
        grads = jax.grad(lambda p: jnp.sum((model.apply(p, x) - x) ** 2))(params)
        return model.apply(params, x), grads

    y, grads = run(jax.random.key(0))
    assert not y.any()
    assert jnp.abs(grads["params"]["head"]["kernel"]).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("model", [UNet(2, 1), Classifier(2, 1, 3)], ids=["unet", "classifier"])
def test_every_parameter_receives_a_gradient(model):
    x = images(2, 6, 5, 1)
    grads = once(jax.grad(lambda p: jnp.sum(jnp.sin(model.apply(p, x)))))(filled(model, x))
    assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(grads))


def test_classifier_returns_logits():
    model, x = Classifier(4, 2, 5), jax.ShapeDtypeStruct((3, 11, 9, 2), np.float32)
    assert jax.eval_shape(model.init_with_output, jax.random.key(0), x)[0].shape == (3, 5)


def test_warm_start_carries_the_encoder_over():
    x = images(2, 8, 8, 1)
    unet, classifier = UNet(4, 2, 2, norm=BatchNorm), Classifier(4, 2, 2, norm=BatchNorm)
    source, target = (filled(m, x, seed=i) for i, m in enumerate((unet, classifier)))
    params, copied = warm_start(target["params"], source["params"])
    jax.tree.map(np.testing.assert_array_equal, params["encoder"], source["params"]["encoder"])
    jax.tree.map(np.testing.assert_array_equal, params["head"], target["params"]["head"])
    assert len(copied) == len(jax.tree.leaves(source["params"]["encoder"]))
    assert "encoder/block2/conv1/kernel" in copied
    stats, copied = warm_start(target["batch_stats"], source["batch_stats"])
    assert len(copied) == len(jax.tree.leaves(stats))


def test_warm_start_matches_suffixes_shapes_and_whole_layers():
    def layer(value, *shape):
        return {"kernel": np.full(shape, value, np.float32), "bias": np.full(2, value, np.float32)}

    target = {"net": {"a": layer(0, 2, 2), "b": layer(0, 2, 2)}, "head": layer(0, 3, 2)}
    source = {"a": layer(1, 2, 2), "b": layer(2, 4, 2), "head": layer(3, 5, 2)}
    params, copied = warm_start(target, source)
    assert copied == ("net/a/bias", "net/a/kernel")
    assert (params["net"]["a"]["kernel"] == 1).all()
    # The biases of b and head have equal shapes, yet belong to layers that differ.
    assert not params["net"]["b"]["bias"].any() and not params["head"]["bias"].any()
    exact, _ = warm_start({"a": layer(0, 2, 2)}, {"a": layer(1, 2, 2), "x": {"a": layer(2, 2, 2)}})
    assert (exact["a"]["bias"] == 1).all()
    with pytest.raises(ValueError, match=r"x/a.*y/a"):
        warm_start({"a": layer(0, 2, 2)}, {"x": {"a": layer(1, 2, 2)}, "y": {"a": layer(2, 2, 2)}})
