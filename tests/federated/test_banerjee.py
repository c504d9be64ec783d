"""Banerjee: momentum of clients, and what a related start is good for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.federated.methods.banerjee import banerjee
from fedrecon.types import Task, Variables


def test_rounds_are_those_of_momentum(fx):
    """Heavy ball from w on 0.5 a |w - b|^2: anew in each round, or kept."""
    data = fx.quad_data(counts=(3,) * len(fx.a))
    a, b = np.asarray(fx.a, float)[:, None], np.asarray(fx.b, float)
    for keep in (False, True):
        algorithm = banerjee(fx.quad, 0.05, momentum=0.8, keep_momentum=keep)
        states, _ = fx.trajectory(fx.quad, algorithm, 2)(data)
        w, velocity = np.asarray([0.3, -0.7]), np.zeros_like(b)
        for _ in range(2):
            own, velocity = np.tile(w, (len(b), 1)), velocity * keep
            for _ in range(3):
                velocity = 0.8 * velocity + a * (own - b)
                own = own - 0.05 * velocity
            w = own.mean(0)
        np.testing.assert_allclose(states.variables.params["w"][-1], w, rtol=1e-5)


def test_a_momentum_of_one_is_refused(fx):
    with pytest.raises(ValueError, match=r"^momentum: expected a number in \[0, 1\), found 1"):
        banerjee(fx.quad, 0.1, momentum=1)


def loss(params, stats, batch, key):
    log_p = jax.nn.log_softmax(jnp.tanh(batch["x"] @ params["body"]) @ params["head"])
    each = -jnp.take_along_axis(log_p, batch["label"][:, None], 1)[:, 0]
    return jnp.where(batch["valid"], each, 0).sum() / jnp.maximum(batch["valid"].sum(), 1), (stats, {})


def init(key):
    body, head = jax.random.split(key)
    params = {"body": 0.2 * jax.random.normal(body, (20, 8)), "head": 0.2 * jax.random.normal(head, (8, 4))}
    return Variables(params, {})


TASK = Task(
    init=init,
    loss=loss,
    metrics=lambda params, stats, batch: {},
    predict=lambda params, stats, batch: jnp.tanh(batch["x"] @ params["body"]) @ params["head"],
    normalization=Variables({"body": False, "head": False}, {}),
)


@pytest.mark.slow
def test_a_related_start_reaches_the_target_in_no_more_rounds(fx):
    """Both tasks depend on the same three directions of twenty; means over five draws."""
    rounds = 30
    train = fx.trajectory(TASK, banerjee(TASK, 0.05), rounds, batch_size=20, epochs=1)
    needed = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        directions = np.linalg.qr(rng.normal(size=(20, 3)))[0]

        def draw(centers, count, rng=rng, directions=directions):
            x = rng.normal(size=(2, count, 20))
            label = np.argmax(x @ directions @ centers, -1)
            return x.astype(np.float32), label

        source, target = rng.normal(size=(2, 3, 4))
        data = [
            fx.clients({"x": jnp.asarray(x), "label": jnp.asarray(y)}, jnp.ones(y.shape, bool))
            for x, y in (draw(source, 200), draw(target, 200))
        ]
        x, y = draw(target, 500)
        fresh = TASK.init(jax.random.key(seed))
        learned = jax.tree.map(lambda leaf: leaf[-1], train(data[0], fresh)[0].variables)
        started = Variables({"body": learned.params["body"], "head": fresh.params["head"]}, {})
        found = []
        for start in (started, fresh):
            params = train(data[1], start)[0].variables.params
            accuracy = [
                (np.argmax(np.tanh(x @ body) @ head, -1) == y).mean()
                for body, head in zip(np.asarray(params["body"]), np.asarray(params["head"]), strict=True)
            ]
            reached = np.flatnonzero(np.asarray(accuracy) >= 0.8)
            found.append(int(reached[0]) + 1 if reached.size else rounds + 1)
        needed.append(found)
    pretrained, scratch = np.mean(needed, 0)
    assert pretrained <= scratch and pretrained <= rounds, needed
