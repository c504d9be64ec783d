"""A U-Net with a decoder of each structure: scales, merging, and losses that do not meet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.models import SEGMENTERS
from fedrecon.tasks import segmentation_loss
from fedrecon.training import named_task

RNG = np.random.default_rng(1)
IMAGE = RNG.normal(size=(2, 12, 8, 1)).astype(np.float32)
LABELS = RNG.integers(0, 3, (2, 12, 8))
EXAMPLE = {"image": jnp.asarray(IMAGE), "segmentation": jnp.asarray(LABELS)}


@pytest.fixture(scope="module")
def model():
    return SEGMENTERS["separated-unet"](channels=2, pools=2, out_channels=3)


@pytest.fixture(scope="module")
def params(model):
    return jax.jit(model.init)(jax.random.key(0), IMAGE)["params"]


@pytest.fixture(scope="module")
def outputs(model, params):
    return jax.jit(lambda p, x: model.apply({"params": p}, x, train=True))(params, IMAGE)


def test_outputs_of_scales_have_one_decoder_each(model, params, outputs):
    assert set(params) == {"encoder", "decoder0", "decoder1"}
    assert [x.shape for x in outputs] == [(2, 12, 8, 3)] * 2
    for level, logits in enumerate(outputs):
        blocks = np.asarray(logits)[:, :: 2**level, :: 2**level].repeat(2**level, 1).repeat(2**level, 2)
        assert not np.any(logits[..., 0])
        np.testing.assert_array_equal(blocks, logits)
    found = jax.jit(lambda p, x: model.apply({"params": p}, x))(params, IMAGE)
    np.testing.assert_allclose(found, outputs[0], atol=1e-6)


def test_masks_are_disjoint_after_the_likeliest_has_won(outputs):
    """The class is that of the largest sigmoid of all decoders, or the background where none is above 1/2."""
    p = 1 / (1 + np.exp(-np.asarray(outputs[0][..., 1:], float)))
    merged = np.argmax(np.asarray(jax.nn.softmax(outputs[0])), -1)
    claimed = (p > 0.5).sum(-1)
    assert (claimed == 2).any() and (claimed == 0).any()
    expected = np.where(p.max(-1) > 0.5, 1 + p.argmax(-1), 0)
    np.testing.assert_array_equal(merged, expected)
    masks = [merged == k for k in (1, 2)]
    assert not (masks[0] & masks[1]).any()


def test_the_loss_is_dice_and_binary_cross_entropy_of_each_structure():
    z = RNG.normal(size=(2, 12, 8, 3)).astype(np.float32)
    scored = np.ones((2, 12, 8), bool)
    scored[1, :3] = False
    loss = segmentation_loss(cross_entropy=1.0, overlap=1.0, separate=True)
    found = loss(jnp.asarray(z), jnp.asarray(LABELS), jnp.asarray(scored), None)
    total = 0.0
    for k in (1, 2):
        p = 1 / (1 + np.exp(-(z[..., k] - z[..., 0]).astype(float)))
        y = k == LABELS
        entropy = -np.where(y, np.log(p), np.log(1 - p))
        total += np.mean([entropy[i][scored[i]].mean() for i in (0, 1)]) / 2
        overlap, size = (p * y)[scored].sum(), (p[scored].sum() + y[scored].sum())
        total += (1 - (2 * overlap + 1) / (size + 1)) / 2
    np.testing.assert_allclose(found, total, rtol=1e-5)
    with pytest.raises(ValueError, match="separate: expected no class_weights and no focus"):
        segmentation_loss(separate=True, focus=2.0)


@pytest.mark.slow
def test_a_decoder_learns_of_its_own_structure_alone():
    """Labels of the first structure that become background leave the other's gradient as it is."""
    task = named_task("segmentation", EXAMPLE, network="separated-unet", channels=2, pools=3, classes=3)
    variables = task.init(jax.random.key(0))
    gradients = []
    for labels in (LABELS, np.where(LABELS == 1, 0, LABELS)):
        batch = {**EXAMPLE, "segmentation": jnp.asarray(labels), "valid": jnp.ones(2, bool)}
        value = jax.jit(jax.grad(lambda p, b: task.loss(p, {}, b, jax.random.key(2))[0]))
        gradients.append(value(variables.params, batch))
    same, other = (
        [np.allclose(a, b, atol=1e-7) for a, b in zip(*map(jax.tree.leaves, pair), strict=True)]
        for pair in zip(*((g["decoder1"], g["decoder0"]) for g in gradients), strict=True)
    )
    assert all(same) and not all(other)


def test_one_structure_has_one_logit_and_poolings_are_needed():
    network = SEGMENTERS["separated-unet"](channels=2, pools=1)
    shape = jax.eval_shape(network.init_with_output, jax.random.key(0), IMAGE)[0].shape
    assert shape == (2, 12, 8, 1)
    deep = SEGMENTERS["separated-unet"](channels=2, pools=4, out_channels=3)
    scales = jax.eval_shape(lambda key: deep.init_with_output(key, IMAGE, train=True)[0], jax.random.key(0))
    assert [x.shape for x in scales] == [(2, 12, 8, 3)] * 3
    with pytest.raises(ValueError, match="pools: expected a number of at least 1"):
        jax.eval_shape(SEGMENTERS["separated-unet"](channels=2, pools=0).init, jax.random.key(0), IMAGE)
