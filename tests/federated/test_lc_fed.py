"""LC-Fed: functions against numpy, phases of a round, and what travels."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods.lc_fed import lc_fed
from fedrecon.models import UNet
from fedrecon.tasks import segmentation_task, site_task
from fedrecon.tasks.site_heads import blurred, calibrated_logits, channel_weights, disagreement
from fedrecon.types import Variables

EXAMPLE = {
    "image": jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32),
    "segmentation": jax.ShapeDtypeStruct((1, 8, 8), jnp.int32),
}
PLAIN = segmentation_task(UNet(channels=2, pools=1), EXAMPLE)
TASK = site_task(PLAIN, EXAMPLE, sites=4)


class Clients(NamedTuple):
    examples: dict
    valid: jax.Array


def data():
    image = jax.random.normal(jax.random.key(0), (3, 4, 8, 8, 1))
    return Clients(
        {"image": image, "segmentation": (image[..., 0] > 0.3).astype(jnp.int32)}, jnp.ones((3, 4), bool)
    )


@functools.cache
def first():
    return jax.jit(TASK.init)(jax.random.key(1))


def start(task=TASK):
    return first() if task is TASK else jax.tree.map(jnp.asarray, task.init(jax.random.key(1)))


def recipe(task=TASK, rate=0.1, **options):
    given = {"clients": 3, "head_steps": 1, "rounds": 4, "sites": 4} | options
    return lc_fed(task, optax.sgd(rate), **given)


def rounds(algorithm, task=TASK, count=1, **options):
    clients = data()
    run = fl.make_round(algorithm, batch_size=2, epochs=1, donate=False, **options)
    state = fl.init_state(algorithm, start(task), clients)
    for _ in range(count):
        state, info = run(state, clients, jax.random.key(0))
    return state, info


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_channels_are_selected_by_the_equations():
    rng = np.random.default_rng(0)
    sizes = {"w1": (4, 32), "w2": (32, 32), "v1": (64, 2), "v2": (2, 32)}
    w = {name: rng.normal(size=size) for name, size in sizes.items()}
    x = rng.normal(size=(3, 5, 6, 32))
    z = np.maximum(w["w1"][2], 0) @ w["w2"]
    expected = []
    for image in x:
        parts = [
            np.maximum(np.concatenate([pooled, z]) @ w["v1"], 0) @ w["v2"]
            for pooled in (image.mean((0, 1)), image.max((0, 1)))
        ]
        expected.append(sigmoid(sum(parts)))
    found = channel_weights(
        {name: jnp.asarray(a, jnp.float32) for name, a in w.items()},
        jnp.asarray(x, jnp.float32),
        jnp.eye(4)[2],
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_heads_are_calibrated_by_the_equations():
    rng = np.random.default_rng(1)
    n, size, classes, width = 3, 40, 2, 3
    p = rng.uniform(size=(n, 1, size, size, classes)) ** 3
    # Far from all that is large, a largest value below a fifth is no peak.
    p[..., 20:, :] *= 0.05
    f = rng.normal(size=(1, size, size, width))
    kernel = rng.normal(size=(3, 3, 2 * classes * width, 2))
    known = jnp.array([0.0, 1.0, 1.0])
    where = disagreement(*(jnp.asarray(a, jnp.float32) for a in (p[0], p)), known)
    line = np.exp(-((np.arange(31) - 15) ** 2) / 72)
    parts = []
    for c in range(classes):
        u = np.sqrt(((p - p[0]) ** 2)[1:, 0, ..., c].sum(0) / 2)
        u = u / u.max()
        peaks = np.zeros_like(u)
        for y in range(size):
            for x in range(size):
                near = u[max(y - 15, 0) : y + 16, max(x - 15, 0) : x + 16]
                peaks[y, x] = u[y, x] > 0.2 and u[y, x] == near.max()
        np.testing.assert_array_equal(where[0, ..., c], peaks)
        assert 0 < peaks.sum() < 20
        for m in (peaks, p[0, 0, ..., c]):
            padded = np.pad(m, 15)
            g = np.array(
                [
                    [(padded[y : y + 31, x : x + 31] * line[:, None] * line).sum() for x in range(size)]
                    for y in range(size)
                ]
            )
            parts.append(f[0] * g[..., None] + f[0])
    stacked = np.pad(np.concatenate(parts, -1), ((1, 1), (1, 1), (0, 0)))
    expected = np.array(
        [
            [np.tensordot(stacked[y : y + 3, x : x + 3], kernel, 3) + 0.5 for x in range(size)]
            for y in range(size)
        ]
    )
    weights = {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.full(2, 0.5)}
    found = calibrated_logits(weights, *(jnp.asarray(a, jnp.float32) for a in (f, p[0])), where)
    np.testing.assert_allclose(
        found[0] / np.abs(expected).max(), expected / np.abs(expected).max(), atol=1e-5
    )


def test_equal_heads_do_not_disagree():
    p = jax.random.uniform(jax.random.key(0), (2, 8, 8, 1))
    assert not disagreement(p, jnp.stack([p] * 3), jnp.ones(3)).any()
    np.testing.assert_allclose(blurred(jnp.zeros((1, 40, 40, 1)).at[0, 20, 20].set(1))[0, 20, 20], 1)


@pytest.mark.slow
def test_the_loss_has_the_terms_that_are_told():
    """Selection off and on, contrast with the other sites, and calibration."""
    variables = start()
    batch = {name: x[0] for name, x in data().examples.items()} | {"valid": jnp.ones(4, bool)}
    own = variables.stats["site"] | {"site": jnp.eye(4)[0], "known": jnp.array([1.0, 1, 1, 0])}
    head = jax.tree.map(lambda x: jnp.stack([x, 1.5 * x, -x, 0 * x]), variables.params["head"])

    def value(params=variables.params, task=TASK, **changes):
        stats = {"site": own | {"heads": head} | changes}
        return task.loss(params, stats, batch, jax.random.key(0))[0]

    without = site_task(PLAIN, EXAMPLE, sites=4, contrast=0.0)
    assert value() < value(task=without)
    assert value(task=without, calibrated=jnp.float32(1)) > value(task=without)
    gradient = jax.grad(lambda p: value(p, calibrated=jnp.float32(1)))(variables.params)
    for name in ("channel_selection", "head_calibration", "head", "encoder"):
        assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(gradient[name])), name
    # Calibration alone moves no feature: what the body gets of it is nothing.
    apart = [
        jax.grad(lambda p, c=c: value(p, task=without, calibrated=jnp.float32(c)))(variables.params)
        for c in (0, 1)
    ]
    for x, y in zip(*(jax.tree.leaves({k: g[k] for k in ("encoder", "head")}) for g in apart), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)


@pytest.fixture(scope="module")
def trained():
    return rounds(recipe(), count=3)


def test_heads_are_published_and_calibrations_stay(trained):
    state, info = trained
    head = sum(x.size for x in jax.tree.leaves(PLAIN.init(jax.random.key(0)).params["head"]))
    body = sum(
        x.size
        for name, group in start().params.items()
        if name not in ("head", "head_calibration")
        for x in jax.tree.leaves(group)
    )
    np.testing.assert_array_equal(info.bytes_up, 4 * (body + head + 1))
    np.testing.assert_array_equal(info.bytes_down, 4 * (body + 3 * head + 3 + 1))
    table = state.exchange[0]
    for x, y in zip(
        jax.tree.leaves(table["heads"]), jax.tree.leaves(state.private.params["head"]), strict=True
    ):
        np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(table["known"], 1)
    site = state.private.stats["site"]
    np.testing.assert_array_equal(site["site"], np.eye(4)[:3])
    # The third of four rounds calibrates.
    np.testing.assert_array_equal(site["calibrated"], 1)
    # Calibrations are apart, and in no message.
    kernels = np.asarray(state.private.params["head_calibration"]["kernel"])
    assert not np.array_equal(kernels[0], kernels[1])
    assert not jax.tree.leaves(state.private.params["encoder"])


def test_the_body_is_frozen_while_heads_train(trained):
    state, _ = rounds(recipe(head_steps=2))
    for name in ("encoder", "channel_selection"):
        for x, y in zip(
            jax.tree.leaves(state.variables.params[name]), jax.tree.leaves(start().params[name]), strict=True
        ):
            np.testing.assert_array_equal(x, y)
    assert not np.array_equal(state.private.params["head"]["kernel"][0], start().params["head"]["kernel"])
    # After the single step of the head, it moves.
    moved = trained[0].variables.params["channel_selection"]["v2"]
    assert not np.array_equal(moved, start().params["channel_selection"]["v2"])


@pytest.mark.slow
def test_without_its_parts_it_is_fedavg_bit_for_bit(fx):
    off = {"select": False, "calibrate": False}
    plain = site_task(PLAIN, EXAMPLE, sites=4, **off)
    assert plain is PLAIN
    ours, theirs = (
        rounds(algorithm, PLAIN, 2)[0].variables
        for algorithm in (
            recipe(PLAIN, private_heads=False, **off),
            fl.fedavg(PLAIN, optax.sgd(0.1), weighting=fl.equal),
        )
    )
    fx.assert_equal(ours, theirs)


@pytest.mark.slow
def test_all_clients_at_once_give_the_same(fx, trained):
    fx.assert_close(rounds(recipe(), count=3, parallel="vmap")[0], trained[0], 1e-5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"^sites: expected at least the 9 clients, found 4"):
        recipe(clients=9)
    with pytest.raises(ValueError, match=r"^private_heads: expected True with the calibration"):
        recipe(private_heads=False)
    nothing = PLAIN._replace(init=lambda key: Variables({"head": {"kernel": jnp.ones((2, 2))}}, {}))
    with pytest.raises(ValueError, match=r"^task: expected a segmentation of images by unet"):
        site_task(nothing, EXAMPLE)
