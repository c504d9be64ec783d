"""Routing at test time: mixtures of experts, and terms of the loss against direct sums."""

import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.models import BatchNorm, Conv, UNet
from fedrecon.tasks import routed_adaptation, segmentation_task
from fedrecon.tasks.routing import boundary_length, consistency, entropy, routed_predict, sigmoid_route

IMAGE = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
EXAMPLE = {
    "image": jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32),
    "segmentation": jax.ShapeDtypeStruct((1, 8, 8), jnp.int32),
}
BATCH = {"image": IMAGE, "valid": jnp.ones(3, bool)}


def experts_of(task, count=3):
    models = [task.init(jax.random.key(k)) for k in range(count)]
    return models, jax.tree.map(lambda *x: jnp.stack(x), *models)


@pytest.fixture(scope="module")
def unet():
    task = segmentation_task(UNet(channels=2, pools=1), EXAMPLE)
    return task, *experts_of(task)


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.slow
def test_one_expert_alone_is_that_network(unet, number):
    task, models, experts = unet
    layers = []

    def route(path, mean):
        layers.append(path)
        return jnp.tile(jax.nn.one_hot(number, 3), (len(mean), 1))

    own = models[number]
    found = jax.jit(routed_predict(task, experts, route))(own.params, BATCH)
    np.testing.assert_allclose(found, task.predict(*own, BATCH), atol=1e-5)
    assert len(layers) > 4


class Tiny(nn.Module):
    @nn.compact
    def __call__(self, x, train=False, valid=None):
        x = BatchNorm(name="norm")(x, train, valid)
        return Conv(2, 3, name="conv")(x)


def test_each_example_has_its_own_kernel():
    """The paper's W = sum_e r_e W_e, r = sigmoid(fc2(fc1(mean))), by loops over pixels."""
    task = segmentation_task(Tiny(), EXAMPLE)
    models, experts = experts_of(task)
    rng = np.random.default_rng(0)
    shapes = {"w1": (1, 2), "b1": (2,), "w2": (2, 3), "b2": (3,)}
    own = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    layers = {"conv": {name: jnp.asarray(x, jnp.float32) for name, x in own.items()}}
    found = routed_predict(task, experts, sigmoid_route(layers))(models[-1].params, BATCH)
    x = np.asarray(IMAGE, np.float64)
    x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    kernels, biases = (np.asarray(experts.params["conv"][name], np.float64) for name in ("kernel", "bias"))
    for i, image in enumerate(x):
        r = 1 / (1 + np.exp(-((image.mean((0, 1)) @ own["w1"] + own["b1"]) @ own["w2"] + own["b2"])))
        kernel, bias = np.tensordot(r, kernels, 1), r @ biases
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
        logits = np.array(
            [
                [np.tensordot(padded[y : y + 3, z : z + 3], kernel, 3) + bias for z in range(8)]
                for y in range(8)
            ]
        )
        expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        np.testing.assert_allclose(found[i], expected, atol=1e-5)


def test_entropy_is_over_classes_and_between_none_and_one():
    p = np.random.default_rng(1).dirichlet(np.ones(3), (2, 4, 4))
    expected = -(p * np.log(p)).sum(-1).mean() / np.log(3)
    np.testing.assert_allclose(entropy(jnp.asarray(p)), expected, atol=1e-5)
    np.testing.assert_allclose(entropy(jnp.full((1, 2, 2, 4), 0.25)), 1, atol=1e-4)


def test_the_shape_term_is_zero_of_constants_and_grows_with_boundaries():
    def of(mask):
        return float(boundary_length(jnp.stack([1 - mask, mask], -1)[None]))

    def square(size):
        return jnp.zeros((96, 96)).at[30 : 30 + size, 30 : 30 + size].set(1.0)

    assert of(jnp.full((96, 96), 0.3)) == 0 < of(square(5)) < of(square(30))
    mask = np.asarray(square(5))
    near = np.zeros((96, 96))
    for y in range(96):
        for x in range(96):
            part = mask[max(y - 10, 0) : y + 11, max(x - 10, 0) : x + 11]
            near[y, x] = part.max() - part.min()
    np.testing.assert_allclose(of(square(5)), 1e-6 * np.sqrt((near**2).sum()), rtol=1e-5)
    gradient = jax.grad(lambda p: boundary_length(p))(jnp.full((1, 4, 4, 2), 0.5))
    assert np.isfinite(gradient).all()


def test_turns_are_undone():
    """Of the identity only the noise is left, of variance 1/4, whatever the turn."""
    for image in (100 * jax.random.normal(jax.random.key(1), (2, 32, 32, 1)), jnp.ones((2, 32, 16, 1))):
        for seed in range(6):
            found = float(consistency(lambda x: x, image, jax.random.key(seed)))
            assert abs(found - 0.25) < 0.05


@pytest.mark.slow
def test_adapting_reads_images_alone_and_lowers_the_entropy(unet):
    task, _, experts = unet
    assert not {"label", "labels", "segmentation"} & set(inspect.signature(routed_adaptation).parameters)
    images = jax.random.normal(jax.random.key(4), (6, 8, 8, 1))

    def after(passes):
        predict = routed_adaptation(
            task, experts, images, jax.random.key(2), batch_size=3, passes=passes, learning_rate=1e-2
        )
        return float(entropy(predict(images)))

    assert after(10) < after(0)


def test_a_network_without_convolutions_is_refused():
    class Dense(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(x)

    task = segmentation_task(Dense(), EXAMPLE)
    with pytest.raises(ValueError, match=r"^task: expected a network of convolutions"):
        routed_adaptation(task, experts_of(task)[1], IMAGE, jax.random.key(0))
