"""Grad-CAM: the class activation map of a linear layer, and derivatives by differences."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.tasks import classification_task, grad_cam


class Pooled(nn.Module):
    """Convolutions, the mean over pixels, and a linear layer or two."""

    hidden: int = 0

    @nn.compact
    def __call__(self, image):
        x = nn.relu(nn.Conv(3, (3, 3), name="first")(image))
        x = nn.Conv(4, (3, 3), name="last")(x).mean((1, 2))
        x = nn.tanh(nn.Dense(self.hidden, name="hidden")(x)) if self.hidden else x
        return nn.Dense(3, name="head")(x)


IMAGE = jax.random.normal(jax.random.key(0), (5, 6, 7, 1))
BATCH = {"image": IMAGE, "label": jnp.zeros(5, int), "valid": jnp.ones(5, bool)}
LABEL = jnp.asarray([0, 1, 2, 1, 0])


def started(**options):
    task = classification_task(Pooled(**options), BATCH)
    return task, task.init(jax.random.key(1))


def test_of_a_linear_layer_it_is_the_class_activation_map():
    task, (params, stats) = started()
    found = grad_cam(task)(params, stats, BATCH, LABEL)
    _, seen = Pooled().apply({"params": params}, IMAGE, capture_intermediates=True)
    channels = np.asarray(seen["intermediates"]["last"]["__call__"][0])
    weight = np.asarray(params["head"]["kernel"])[:, LABEL].T
    expected = np.maximum(np.einsum("nyxk,nk->nyx", channels, weight), 0)
    assert found.shape == (5, 6, 7) and expected.any()
    np.testing.assert_allclose(6 * 7 * found, expected, rtol=1e-4, atol=1e-5)


def test_an_earlier_layer_has_maps_of_its_own_and_another_is_refused():
    task, (params, stats) = started(hidden=4)
    one, other = (grad_cam(task, name)(params, stats, BATCH, LABEL) for name in ("first", "last"))
    assert one.shape == other.shape == (5, 6, 7) and (one >= 0).all() and jnp.abs(one - other).max() > 1e-4
    with pytest.raises(ValueError, match=r"^layer: expected one of first, last, found 'middle'$"):
        grad_cam(task, "middle")(params, stats, BATCH, LABEL)
