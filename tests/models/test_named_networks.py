"""Networks beside torchvision's with the same weights, and their attention beside definitions."""

import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.models import (
    CBAM,
    CLASSIFIERS,
    VGG,
    BatchNorm,
    DenseNet,
    InstanceNorm,
    ResNet,
    SwinUNet,
    VisionTransformer,
    windows,
)
from fedrecon.models.windows import WindowBlock
from tests.models.reference.torchvision_networks import REFERENCE, image, weights

RECORDED = json.loads(REFERENCE.read_text())
once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
_TINY = {
    "basic": ResNet(3, (1, 1), 4, norm=BatchNorm),
    "bottleneck": ResNet(3, (1, 1), 4, bottleneck=True, norm=BatchNorm),
    "dense": DenseNet(3, (2, 1), 4, 4, norm=BatchNorm),
    "plain": VGG(3, ((4,), (6, 6)), 3, (7, 5), norm=BatchNorm),
    "transformer": VisionTransformer(3, 4, 8, 2, 2),
    "window": WindowBlock(2, 4),
    "shifted window": WindowBlock(2, 4, shifted=True),
}
_FULL = {
    "resnet18": CLASSIFIERS["resnet18"](classes=1000, norm=BatchNorm),
    "resnet50": CLASSIFIERS["resnet50"](classes=1000, norm=BatchNorm),
    "densenet121": CLASSIFIERS["densenet121"](classes=1000, norm=BatchNorm),
    "vit_b_16": CLASSIFIERS["vit"](classes=1000, patch=16, channels=768, depth=12, heads=12),
}
# Ours -> torchvision's, in this order.
_NAMES = (
    (r"(.*)_norm(\d)$", lambda m: f"{m[1]}.norm{int(m[2]) + 1}"),
    (r"(.*)_conv(\d)$", lambda m: f"{m[1]}.conv{int(m[2]) + 1}"),
    (r"^block(\d+)_layer(\d+)", lambda m: f"features.denseblock{int(m[1]) + 1}.denselayer{int(m[2]) + 1}"),
    (r"^transition(\d)_", lambda m: f"features.transition{int(m[1]) + 1}."),
    (r"^stage(\d)_block(\d+)", lambda m: f"layer{int(m[1]) + 1}.{m[2]}"),
    (r"^block(\d+)$", lambda m: f"encoder.layers.encoder_layer_{m[1]}"),
    (r"^conv(\d)$", lambda m: f"conv{int(m[1]) + 1}"),
)
_BY_KIND = {
    "residual": {
        "stem": "conv1", "stem_norm": "bn1", "norm0": "bn1", "norm1": "bn2", "norm2": "bn3",
        "shortcut": "downsample.0", "shortcut_norm": "downsample.1", "head": "fc",
    },
    "dense": {
        "stem": "features.conv0", "stem_norm": "features.norm0", "last_norm": "features.norm5",
        "head": "classifier",
    },
    # With the places of its layers in a sequence, of the two stages above.
    "plain": {
        **{f"{part}{i}": f"features.{place + (part == 'norm')}" for i, place in enumerate((0, 4, 7))
           for part in ("conv", "norm")},
        "hidden0": "classifier.0", "hidden1": "classifier.3", "head": "classifier.6",
    },
    "transformer": {
        "embedding": "conv_proj", "positions": "encoder.pos_embedding", "norm0": "ln_1", "norm1": "ln_2",
        "attention": "self_attention", "output": "out_proj", "perceptron": "mlp", "last_norm": "encoder.ln",
        "head": "heads.head",
    },
    "window": {
        "norm0": "norm1", "norm1": "norm2", "attention": "attn", "output": "proj", "perceptron": "mlp",
        "position_bias": "attn.relative_position_bias_table",
    },
}  # fmt: skip
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def kind_of(model):
    kinds = {
        ResNet: "residual",
        DenseNet: "dense",
        VGG: "plain",
        VisionTransformer: "transformer",
        WindowBlock: "window",
    }
    return kinds[type(model)]


def torch_name(kind, path):
    names = _BY_KIND[kind]
    parts = []
    for i, part in enumerate(path):
        if i and path[i - 1] == "perceptron":
            parts.append({"hidden": "0", "output": "3"}[part])
        elif part in names:
            parts.append(names[part])
        elif part in _LEAVES and len(path) > 1:
            parts.append(_LEAVES[part])
        else:
            for pattern, name in _NAMES:
                part = re.sub(pattern, name, part)
            parts.append(part)
    name = ".".join(parts)
    return name.replace("self_attention.qkv.", "self_attention.in_proj_")


def leaf(kind, path, shape):
    """A leaf of ours, in the layout that torchvision has for it."""
    *_, last = path
    if last == "kernel":
        order = (3, 2, 0, 1) if len(shape) == 4 else (1, 0)
        value = weights(torch_name(kind, path), tuple(shape[i] for i in order))
        return value.transpose(np.argsort(order))
    if last == "positions":
        return weights(torch_name(kind, path), (1, *shape))[0]
    return weights(torch_name(kind, path), shape)


def filled(model, x):
    """(variables with the weights of the formula, number of parameters)."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    count = sum(np.prod(s.shape, dtype=int) for s in jax.tree.leaves(shapes["params"]))

    def fill(path, s):
        return jnp.asarray(leaf(kind_of(model), [key.key for key in path][1:], s.shape))

    return jax.tree_util.tree_map_with_path(fill, shapes), count


def check(name, model):
    recorded = RECORDED[name]
    x = jnp.asarray(image(*recorded["shape"]).transpose(0, 2, 3, 1))
    variables, count = filled(model, x)
    assert count == recorded["parameters"]
    found = np.asarray(once(model.apply)(variables, x)).ravel()
    found = found[:: max(1, len(found) // 12)]
    np.testing.assert_allclose(found, recorded["output"], rtol=1e-8, atol=1e-10)
    if "trained" in recorded:
        run = once(partial(model.apply, train=True, mutable=["batch_stats"]))
        np.testing.assert_allclose(np.ravel(run(variables, x)[0]), recorded["trained"], rtol=1e-8)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in ("bottleneck", "window") else n for n in _TINY]
)
def test_outputs_are_those_of_torchvision(name, x64):
    check(name, _TINY[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", _FULL)
def test_published_networks_are_those_of_torchvision(name, x64):
    check(name, _FULL[name])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parameters"), [("resnet34", 21_797_672), ("vgg11", 132_868_840)])
def test_published_networks_have_their_number_of_parameters(name, parameters):
    model = CLASSIFIERS[name](classes=1000)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32))
    assert sum(np.prod(s.shape, dtype=int) for s in jax.tree.leaves(shapes)) == parameters


def test_cbam_weighs_channels_and_then_pixels():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 4, 6)).astype(np.float32)
    squeeze, excite = rng.normal(size=(6, 3)), rng.normal(size=(3, 6))
    kernel = rng.normal(size=(3, 3, 2, 1))
    params = {
        "squeeze": {"kernel": squeeze, "bias": np.full(3, 0.1)},
        "excite": {"kernel": excite, "bias": np.full(6, -0.2)},
        "pixels": {"kernel": kernel},
    }
    found = once(CBAM(reduction=2, window=3).apply)({"params": params}, x)

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    def perceptron(v):
        return np.maximum(v @ squeeze + 0.1, 0) @ excite - 0.2

    y = x * sigmoid(perceptron(x.mean((1, 2))) + perceptron(x.max((1, 2))))[:, None, None]
    moments = np.pad(np.stack([y.mean(-1), y.max(-1)], -1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    logits = sum(moments[:, i : i + 5, j : j + 4] @ kernel[i, j] for i in range(3) for j in range(3))
    np.testing.assert_allclose(found, y * sigmoid(logits), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_gates_of_cbam():
    """Between 0 and 1; a quarter passes where all weights are zero; channels may be renamed."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4, 6)), jnp.float32)
    block = CBAM(reduction=2, window=3)
    params = block.init(jax.random.key(0), x)["params"]
    found = once(block.apply)({"params": params}, x)
    gates = found / x
    assert found.shape == x.shape and (gates > 0).all() and (gates < 1).all()
    zeros = jax.tree.map(jnp.zeros_like, params)
    np.testing.assert_allclose(once(block.apply)({"params": zeros}, x), x / 4, rtol=1e-6)
    order = np.array([3, 0, 5, 1, 2, 4])
    squeeze, excite = params["squeeze"], params["excite"]
    renamed = {
        **params,
        "squeeze": {**squeeze, "kernel": squeeze["kernel"][order]},
        "excite": {"kernel": excite["kernel"][:, order], "bias": excite["bias"][order]},
    }
    np.testing.assert_allclose(
        once(block.apply)({"params": renamed}, x[..., order]), found[..., order], rtol=1e-5, atol=1e-6
    )


@pytest.mark.slow
def test_padding_of_windows_reaches_no_pixel():
    """Windows of 4 over 6 pixels: the last window has two columns, and sees nothing else."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(1, 4, 6, 4)), jnp.float32)
    block = WindowBlock(2, 4)
    shapes = jax.eval_shape(block.init, jax.random.key(0), x)
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), jnp.float32), shapes)
    other = x.at[:, :, :4].add(1)
    found, attended = once(jax.vmap(jax.value_and_grad(lambda x: block.apply(params, x)[0, 0, 5].sum())))(
        jnp.stack([x, other])
    )
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    attended = attended[0]
    assert (attended[:, :, :4] == 0).all() and (attended[:, :, 4:] != 0).all()
    assert jnp.isfinite(attended).all()


@pytest.mark.slow
def test_shapes_of_the_networks_for_any_image():
    for model, out in ((SwinUNet(4, 0, 3), (2, 9, 14, 3)), (ResNet(3, (1,), 4, attention=True), (2, 3))):
        x = jax.ShapeDtypeStruct((2, 9, 14, 1), np.float32)
        assert jax.eval_shape(model.init_with_output, jax.random.key(0), x)[0].shape == out
    volume = jax.ShapeDtypeStruct((2, 9, 14, 8, 1), np.float32)
    for model in (ResNet(3, (1, 1), 4), DenseNet(3, (1, 1), 4, 4), VisionTransformer(3, 4, 8, 1, 2)):
        assert jax.eval_shape(model.init_with_output, jax.random.key(0), volume)[0].shape == (2, 3)


def test_refusals():
    x = jax.ShapeDtypeStruct((1, 16, 16, 1), np.float32)
    for model, message in (
        (ResNet(2, (1, 1, 1), 4, norm=InstanceNorm), "norm: expected group or batch normalization"),
        (DenseNet(2, (1, 1, 1, 1), 4, 4), "image: expected 2 pixels or more after block 2"),
        (VisionTransformer(2, 8, 6, 1, 4), "heads: expected a divisor of the 6 channels"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(model.init, jax.random.key(0), x)


@pytest.mark.slow
def test_dropout_is_drawn_in_training_alone():
    model = VisionTransformer(3, 4, 8, 1, 2, dropout=0.5)
    x = jnp.asarray(image(1, 8, 8, 1), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    params = jax.tree.map(lambda s: jnp.linspace(-1, 1, s.size).reshape(s.shape), shapes)
    quiet = model.apply(params, x)
    drawn = [model.apply(params, x, train=True, rngs={"dropout": jax.random.key(k)}) for k in (0, 0, 1)]
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any() and (drawn[0] != quiet).any()


@pytest.mark.slow
def test_attention_in_volumes_stays_within_windows():
    """Where windows that begin at half their size meet, and at the edges, nothing is shared."""
    model, sizes = WindowBlock(1, 2, shifted=True), (4, 6, 3)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, *sizes, 4)), jnp.float32)
    params = jax.tree.map(
        lambda s: jnp.asarray(0.3 * np.random.default_rng(1).normal(size=s.shape), s.dtype),
        jax.eval_shape(model.init, jax.random.key(0), x),
    )

    def outputs(moved):
        changed = x.reshape(-1, 4).at[moved, 0].add(1.0, mode="drop").reshape(x.shape)
        return model.apply(params, changed).reshape(-1, 4)

    # The last one moves none.
    *moved, still = once(jax.vmap(outputs))(jnp.arange(73))
    changes = np.asarray(jnp.abs(jnp.stack(moved) - still).max(-1) > 1e-5)
    window = [(np.indices(sizes)[axis].ravel() + 1) // 2 for axis in range(3)]
    together = np.all([a[:, None] == a for a in window], 0)
    np.testing.assert_array_equal(changes, together)
    places = windows._relative_places(2, 3)
    # The bias belongs to the difference of places, each from -1 to 1.
    for i, a in enumerate(np.ndindex(2, 2, 2)):
        for j, b in enumerate(np.ndindex(2, 2, 2)):
            z, y, x = (p - q + 1 for p, q in zip(a, b, strict=True))
            assert places[i, j] == 9 * z + 3 * y + x
