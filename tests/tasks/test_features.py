"""What layers see, of modules of this package and of flax, and of networks that surgery changed."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.models import MoDL
from fedrecon.tasks import layer_features, module_task, without_batch_normalization
from operators import Diagonal


class Two(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.BatchNorm(use_running_average=not train, name="first")(nn.Dense(3, name="a")(x))
        return nn.Dense(2, name="head")(nn.relu(x))


def test_layers_are_found_by_kind_and_by_choice():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)), jnp.float32)
    batch = {"image": x, "label": jnp.zeros(4, jnp.int32)}
    for task in (plain := module_task(Two(), "cross_entropy", batch), without_batch_normalization(plain)[0]):
        variables = task.init(jax.random.key(0))
        seen = jax.jit(layer_features(task))(*variables, {**batch, "valid": jnp.ones(4, bool)})
        assert list(seen) == ["first"]
        a = variables.params["a"]
        np.testing.assert_allclose(seen["first"], x @ a["kernel"] + a["bias"], atol=1e-5)
    chosen = layer_features(plain, lambda module: module.path == ("head",))
    assert list(chosen(*plain.init(jax.random.key(0)), {**batch, "valid": jnp.ones(4, bool)})) == ["head"]
    assert layer_features(plain._replace(predict=lambda *a: 0))(None, None, batch) == {}


def test_layers_of_cascades_are_left_out():
    """They see values of a loop, which do not outlive it."""
    network = MoDL(2, 2, 1)
    operators = jax.vmap(Diagonal)(jnp.ones((1, 4, 4)))
    y = jnp.ones((1, 4, 4))
    params = jax.jit(network.init)(jax.random.key(0), operators, y)
    task = module_task(Two(), "cross_entropy", {"image": y[0], "label": jnp.zeros(4, jnp.int32)})
    task = task._replace(predict=lambda *_: network.apply(params, operators, y))
    assert jax.jit(layer_features(task))(None, None, {}) == {}
