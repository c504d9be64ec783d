"""A problem where a detail decides the label that is too weak for the error of the image to keep."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon.tasks import classification_reading, joint_task
from operators import Diagonal

SIZE, LEVELS, STEPS = 8, 12.0, 150
STRIPES = np.where(np.arange(SIZE) % 2, 1, -1) / np.sqrt(SIZE)


class TwoGains(nn.Module):
    """The mean of an image and its stripes, each times a gain; all else is taken for noise."""

    @nn.compact
    def __call__(self, operators: Any, y: jax.Array, initial: None = None) -> jax.Array:
        low, high = (self.param(name, nn.initializers.constant(0.05), ()) for name in ("low", "high"))
        stripes = jnp.asarray(STRIPES, jnp.float32)
        return 10 * low * y.mean((1, 2), keepdims=True) + high * (y @ stripes)[..., None] * stripes


class Display(nn.Module):
    """A linear reader of an image shown in a few gray levels."""

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        u = image[..., 0]
        u = u + jax.lax.stop_gradient(jnp.round(u * LEVELS) / LEVELS - u)
        u = u - u.mean((1, 2), keepdims=True)
        return nn.Dense(2, kernel_init=nn.initializers.zeros)(u.reshape(len(image), -1))


def examples(count: int, seed: int) -> dict[str, jax.Array]:
    """Images of one brightness with stripes of one sign or the other, and noise that hides each stripe."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, count)
    detail = 0.3 * (2 * label - 1)[:, None, None] * np.tile(STRIPES, (SIZE, 1)) / np.sqrt(SIZE)
    target = rng.uniform(1, 3, count)[:, None, None] + detail
    arrays = {
        "target": target,
        "y": target + 0.2 * rng.normal(size=target.shape),
        "data_range": target.max((1, 2)),
        "weights": np.ones(target.shape),
    }
    batch = {name: jnp.asarray(x, jnp.float32) for name, x in arrays.items()}
    whole = {"label": label, "volume": np.arange(count)}
    return {
        **batch,
        **{k: jnp.asarray(x, jnp.int32) for k, x in whole.items()},
        "valid": jnp.ones(count, bool),
    }


def make(mode: str, strength: float) -> Any:
    example = {name: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype) for name, x in examples(1, 0).items()}
    reading = classification_reading()
    options = {"strength": strength, "reference_weight": 0.0, "ssim_weight": 0.0}

    def measure(batch):
        return jax.vmap(Diagonal)(batch["weights"]), batch["y"], None

    return joint_task(TwoGains(), Display(), measure, example, mode=mode, reading=reading, **options)


STATS: dict[str, dict] = {"reconstruction": {}, "task": {}}


def train(mode: str, strength: float, params: Any, batch: dict[str, jax.Array]) -> Any:
    groups = {"reconstruction": optax.adam(0.02), "task": optax.adam(0.05)}
    optimizer = optax.multi_transform(groups, {name: name for name in groups})
    gradient = jax.grad(make(mode, strength).loss, has_aux=True)

    def step(carry, batch):
        params, state = carry
        updates, state = optimizer.update(gradient(params, STATS, batch, jax.random.key(0))[0], state, params)
        return optax.apply_updates(params, updates), state

    def run(params, batch):
        start = (params, optimizer.init(params))
        return jax.lax.fori_loop(0, STEPS, lambda _, carry: step(carry, batch), start)[0]

    return jax.jit(run)(params, batch)


def scores(params: Any, batch: dict[str, jax.Array]) -> tuple[float, float]:
    """Area under the curve, and the residual over the data."""
    task = make("joint", 0.0)
    won, pairs = task.metrics(params, STATS, batch)["auc"]
    image = task.predict(params, STATS, batch)["image"]
    return float(won / pairs), float(jnp.linalg.norm(image - batch["y"]) / jnp.linalg.norm(batch["y"]))


@pytest.mark.slow
def test_joint_training_keeps_the_detail_that_decides_and_explains_the_data_as_well():
    known, new = examples(256, 0), examples(2000, 1)
    start = make("joint", 0.0).init(jax.random.key(0)).params
    alone = train("rec_only", 0.0, start, known)
    frozen = train("frozen", 0.0, {**start, "reconstruction": alone["reconstruction"]}, known)
    apart, residual = scores(frozen, new)
    together, with_reader = scores(train("joint", 0.1, start, known), new)
    without = train("joint", 0.0, start, known)
    assert scores(without, new)[1] == pytest.approx(residual, rel=1e-4)
    assert together > apart + 0.1
    assert with_reader == pytest.approx(residual, rel=0.05)
