"""Batch normalization replaced in any task, and the check that examples are looked at one by one."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.models import NORMS, VGG, Classifier, DenseNet, ResNet, UNet
from fedrecon.privacy.model_check import check_examples_apart, mixing
from fedrecon.tasks import classification_task, module_task, segmentation_task, without_batch_normalization
from fedrecon.tasks.surgery import groups_of
from fedrecon.types import Variables

KEY = jax.random.key(0)
leaves_of = jax.tree_util.tree_leaves_with_path


class Small(nn.Module):
    """Flax's own batch normalization, of images and of vectors, and dropout."""

    features: int = 6

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Conv(self.features, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="images")(x))
        x = nn.Dense(8)(x.mean((1, 2)))
        x = nn.BatchNorm(use_running_average=not train, use_scale=False, name="vectors")(x)
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(x))


def batch(count=2, size=8):
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.normal(size=(count, size, size, 1)), jnp.float32),
        "label": jnp.asarray(np.arange(count) % 2, jnp.int32),
    }


def small_task():
    return module_task(Small(), "cross_entropy", batch())


@pytest.fixture(scope="module")
def operated():
    return without_batch_normalization(small_task())


def test_layers_of_flax_are_replaced_and_parameters_stay(operated):
    task, replaced = operated
    assert replaced == {"images": "6 groups of 6 channels", "vectors": "1 groups of 8 channels"}
    variables, before = task.init(KEY), small_task().init(KEY)
    assert variables.stats == {} and before.stats
    assert jax.tree.structure(variables.params) == jax.tree.structure(before.params)
    for new, old in zip(*map(jax.tree.leaves, (variables.params, before.params)), strict=True):
        np.testing.assert_array_equal(new, old)
    assert task.normalization.params == small_task().normalization.params


@pytest.mark.slow
def test_predictions_are_those_of_group_normalization_of_single_examples(operated):
    """In training, in evaluation, and in numpy; whatever else is in the batch."""
    task, _ = operated
    variables, several = task.init(KEY), batch(3)
    whole = task.predict(*variables, several)
    for i in range(3):
        one = {name: x[i : i + 1] for name, x in several.items()}
        np.testing.assert_allclose(task.predict(*variables, one)[0], whole[i], atol=1e-6)
    p = jax.tree.map(np.asarray, variables.params)
    x = np.asarray(nn.Conv(6, (3, 3)).apply({"params": p["Conv_0"]}, several["image"]))
    x = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
    x = np.maximum(x * p["images"]["scale"] + p["images"]["bias"], 0).mean((1, 2))
    x = x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"]
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) + p["vectors"]["bias"]
    logits = x @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"]
    np.testing.assert_allclose(whole, jax.nn.softmax(logits), atol=1e-4)


def test_what_mixes_examples_is_found_also_beside_dropout(operated):
    task, _ = operated
    variables = task.init(KEY)
    assert mixing(task, variables, batch(), KEY) < 1e-4
    check_examples_apart(task, variables, batch(), KEY)
    plain = small_task()
    assert mixing(plain, plain.init(KEY), batch(), KEY) > 0.1
    with pytest.raises(
        ValueError, match=r"^task: expected none with running statistics, .* found \['images'\]"
    ):
        check_examples_apart(plain, plain.init(KEY), batch(), KEY)


def test_a_contrast_within_the_batch_is_found_without_statistics():
    """What no check by names of layers sees."""

    def loss(params, stats, batch, key):
        z = batch["image"].reshape(len(batch["image"]), -1) @ params["w"]
        return ((z[0] - z[1]) ** 2).sum() + (z**2).sum(), (stats, {})

    task = small_task()._replace(loss=loss)
    variables = Variables({"w": jnp.ones((64, 2))}, {})
    with pytest.raises(ValueError, match=r"^task: expected a model that looks at examples one by one"):
        check_examples_apart(task, variables, batch(), KEY)


def test_groups_divide_channels():
    for channels in (1, 6, 30, 33, 48, 64, 97):
        groups = groups_of(channels)
        assert channels % groups == 0 and groups <= 32
        assert not any(channels % more == 0 for more in range(groups + 1, min(32, channels) + 1))
    assert (groups_of(48), groups_of(33), groups_of(97)) == (24, 11, 1)
    assert (groups_of(48, "instance"), groups_of(48, "layer")) == (48, 1)
    with pytest.raises(ValueError, match=r"^kind: expected one of group, instance, layer, found 'batch'"):
        without_batch_normalization(small_task(), "batch")


class Counting(nn.Module):
    """Running statistics of a layer of one's own."""

    @nn.compact
    def __call__(self, x):
        mean = self.variable("batch_stats", "mean", jnp.zeros, ())
        return nn.Dense(2)(x.reshape(len(x), -1) - mean.value)


def test_statistics_of_other_layers_are_not_hidden():
    with pytest.raises(
        ValueError, match=r"^task: expected running statistics of batch normalization alone, found"
    ):
        without_batch_normalization(module_task(Counting(), "cross_entropy", batch()))


ZOO = {
    "classifier": lambda norm: Classifier(4, 2, norm=norm),
    "resnet": lambda norm: ResNet(2, (1, 1), 4, norm=norm),
    "densenet": lambda norm: DenseNet(2, (2, 1), 4, 4, small_images=True, norm=norm),
    "vgg": lambda norm: VGG(2, ((4,), (6, 6)), 2, (5,), norm=norm),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("classifier", "layer"),
        ("unet", "instance"),
        ("resnet", "group"),
        *(
            pytest.param(name, "group", marks=pytest.mark.nightly)
            for name in ("classifier", "densenet", "vgg", "unet")
        ),
    ],
)
def test_networks_of_the_package_pass_after_surgery(name, kind):
    example = batch(2, 16) | {"segmentation": jnp.zeros((2, 16, 16), jnp.int32).at[:, 4:9].set(1)}
    if name == "unet":
        task = segmentation_task(UNet(4, 2, norm=NORMS["batch"]), example, flip=True)
    else:
        task = classification_task(ZOO[name](NORMS["batch"]), example)
    made, replaced = without_batch_normalization(task, kind)
    variables, before = made.init(KEY), task.init(KEY)
    assert len(replaced) == sum("mean" in str(path) for path, _ in leaves_of(before.stats)) >= 3
    check_examples_apart(made, variables, example, KEY)
    # Scales and shifts, like all parameters, are those of the network before, whose statistics are gone.
    assert mixing(task, before, example, KEY) > 0.01 and variables.stats == {}
    affine = {path: x for path, x in leaves_of(before.params) if "'scale'" in str(path)}
    assert len(affine) == len(replaced)
    assert [path for path, _ in leaves_of(variables.params)] == [path for path, _ in leaves_of(before.params)]
    for (_, new), (_, old) in zip(leaves_of(variables.params), leaves_of(before.params), strict=True):
        np.testing.assert_array_equal(new, old)
    # A trained scale takes effect.
    louder = jax.tree_util.tree_map_with_path(lambda p, x: 3 * x if "'scale'" in str(p) else x, before.params)
    several = {**example, "valid": jnp.ones(2, bool)}
    assert np.abs(made.predict(louder, {}, several) - made.predict(before.params, {}, several)).max() > 1e-3
    # Gradients of single examples by vmap are those of a loop.
    loss = jax.grad(lambda p, b: made.loss(p, {}, b, KEY)[0])
    ones = {name: x[:, None] for name, x in example.items()} | {"valid": jnp.ones((2, 1), bool)}
    each = jax.vmap(loss, (None, 0))(variables.params, ones)
    for i in range(2):
        one = loss(variables.params, jax.tree.map(lambda x, i=i: x[i], ones))
        for a, b in zip(*map(jax.tree.leaves, (each, one)), strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-5)
