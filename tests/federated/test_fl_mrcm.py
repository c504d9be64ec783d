"""FL-MRCM against its published equations in numpy, what it sends, and what alignment does to latents."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods.fl_mrcm import fl_mrcm
from fedrecon.federated.methods.latents import drawn_latents
from fedrecon.tasks import bottleneck, module_task, mri_measure, reconstruction_task
from fedrecon.tasks.features import pooled
from fedrecon.tasks.image_quality import reconstruction_metrics
from fedrecon.types import Task, Variables
from operators import CartesianFourier
from operators.mri import random_mask
from tests.federated.payloads import sent, shows

PIXELS, WIDTH = 6, 4
EXAMPLE = {"x": jax.ShapeDtypeStruct((1, PIXELS), jnp.float32)}


def represent(params, stats, batch):
    return jnp.tanh(batch["x"] @ params["encoder"])


def predict(params, stats, batch):
    return represent(params, stats, batch) @ params["decoder"]


def loss(params, stats, batch, key):
    each = jnp.abs(predict(params, stats, batch) - batch["y"]).mean(-1)
    return jnp.where(batch["valid"], each, 0).sum() / jnp.maximum(batch["valid"].sum(), 1), (stats, {})


def init(key):
    first, second = jax.random.split(key)
    params = {
        "encoder": jax.random.normal(first, (PIXELS, WIDTH)) / 2,
        "decoder": jax.random.normal(second, (WIDTH, PIXELS)) / 2,
    }
    return Variables(params, {})


TASK = Task(init, loss, lambda p, s, b: {}, predict, Variables({"encoder": False, "decoder": False}, {}))
START = TASK.init(jax.random.key(1))


class Clients(NamedTuple):
    examples: dict
    valid: jax.Array


def data(counts=(1, 4, 3), size=4, shift=1.0, seed=0):
    """Of the target (0) a single example by default, so that what it draws is known."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(len(counts), size, PIXELS)).astype(np.float32)
    x[1:] += shift
    y = np.roll(x, 1, -1) / 2
    valid = np.arange(size) < np.asarray(counts)[:, None]
    x[~valid] = 1e3
    return Clients({"x": jnp.asarray(x), "y": jnp.asarray(y)}, jnp.asarray(valid))


def algorithm(rate=0.1, **options):
    given = {"clients": 3, "represent": represent, "example": EXAMPLE, "latents": 1, "hidden": 5}
    return fl_mrcm(TASK, optax.sgd(rate), **{**given, **options})


def rounds(algorithm, clients, count, batch_size=4, start=START):
    round = fl.make_round(algorithm, batch_size=batch_size, epochs=1, donate=False)
    state, states = fl.init_state(algorithm, start, clients), []
    for _ in range(count):
        state, info = round(state, clients, jax.random.key(0))
        assert info.applied
        states.append(state)
    return states


def same(a, b):
    return all(
        (np.asarray(x) == np.asarray(y)).all()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.slow
def test_without_strength_it_is_averaging_bit_for_bit():
    plain = fl.fedavg(TASK, optax.sgd(0.1), weighting=fl.equal)
    found, expected = (rounds(a, data(), 3)[-1] for a in (algorithm(strength=0.0), plain))
    assert same(found.variables, expected.variables)
    assert not jax.tree.leaves((found.exchange, found.client))


# The equations in numpy, without anything of the package: one step a round, a target with one example.


def l1_gradients(p, x, y):
    z = np.tanh(x @ p["encoder"])
    out = np.sign(z @ p["decoder"] - y) / y.size
    return z, {"encoder": x.T @ (out @ p["decoder"].T * (1 - z**2)), "decoder": z.T @ out}


def discriminator_by_hand(d, z, label):
    """(gradients in the parameters, gradient in z) of the mean cross-entropy of two logits."""
    a = z @ d[0]["kernel"] + d[0]["bias"]
    h = np.where(a > 0, a, 0.2 * a)
    out = (1 / (1 + np.exp(-(h @ d[1]["kernel"] + d[1]["bias"]))) - np.asarray(label)) / (2 * len(z))
    inner = (out @ d[1]["kernel"].T) * np.where(a > 0, 1, 0.2)
    own = [
        {"kernel": z.T @ inner, "bias": inner.sum(0)},
        {"kernel": h.T @ out, "bias": out.sum(0)},
    ]
    return own, inner @ d[0]["kernel"].T


def second_round_by_hand(clients, player, rate, strength):
    p0 = {name: np.asarray(x, float) for name, x in START.params.items()}
    x, y = (np.asarray(clients.examples[name], float) for name in ("x", "y"))
    own = [(x[k, :n], y[k, :n]) for k, n in enumerate((1, 4, 3))]

    def stepped(p, g):
        return {name: p[name] - rate * g[name] for name in p}

    locals_ = [stepped(p0, l1_gradients(p0, *pair)[1]) for pair in own]
    p1 = {name: np.mean([p[name] for p in locals_], 0) for name in p0}
    z_t = np.tanh(own[0][0] @ locals_[0]["encoder"])
    after, players = [stepped(p1, l1_gradients(p1, *own[0])[1])], []
    for pair in own[1:]:
        z, gradient = l1_gradients(p1, *pair)
        d = [{name: np.asarray(leaf, float) for name, leaf in layer.items()} for layer in player]
        # Every one of the batch of four is drawn to be the target's only latent; padding does not count.
        g_s, g_t = (
            discriminator_by_hand(d, *both)[0] for both in ((z, (0, 1)), (np.repeat(z_t, 4, 0), (1, 0)))
        )
        for layer, s, t in zip(d, g_s, g_t, strict=True):
            for name in layer:
                g = (s[name] + t[name]) / 2
                layer[name] = layer[name] - 1e-3 * g / (np.sqrt(0.01 * g**2) + 1e-8)
        back = strength / 2 * discriminator_by_hand(d, z, (1, 0))[1]
        gradient["encoder"] = gradient["encoder"] + pair[0].T @ (back * (1 - z**2))
        after.append(stepped(p1, gradient))
        players.append(d)
    return {name: np.mean([p[name] for p in after], 0) for name in p0}, players


def test_a_step_is_that_of_the_published_equations():
    clients = data()
    chosen = algorithm(strength=0.7)
    states = rounds(chosen, clients, 2)
    start = fl.init_state(chosen, START, clients).client.method.params
    initial = jax.tree.map(lambda x: x[1], start)
    # Nothing is known of the target in the first round.
    assert same(states[0].client.method.params, start)
    expected, players = second_round_by_hand(clients, initial, 0.1, 0.7)
    for name, x in states[1].variables.params.items():
        np.testing.assert_allclose(x, expected[name], atol=1e-5)
    for client, by_hand in zip((1, 2), players, strict=True):
        found = jax.tree.map(lambda x, i=client: x[i], states[1].client.method.params)
        for layer, other in zip(found, by_hand, strict=True):
            for name in layer:
                np.testing.assert_allclose(layer[name], other[name], atol=1e-5)


@pytest.mark.slow
def test_steps_of_one_side_leave_the_other_as_it_was():
    """At the rate 0 the network stays bit for bit while discriminators move, and these do not see lambda."""
    one, five = (rounds(algorithm(0.0, strength=s), data(), 2)[-1] for s in (1.0, 5.0))
    assert same(one.variables, START)
    assert same(one.client, five.client)
    first = fl.init_state(algorithm(0.0), START, data()).client
    kernels = (state.method.params[0]["kernel"] for state in (one.client, first))
    moved = np.abs(np.subtract(*kernels)).max((1, 2))
    assert moved[0] == 0 < moved[1:].min()


@pytest.mark.slow
def test_the_target_trains_on_the_loss_alone():
    def only(client):
        return lambda key, round, history: jnp.arange(3) == client

    own = algorithm(sampler=only(0))
    plain = fl.fedavg(TASK, optax.sgd(0.1), sampler=only(0), weighting=fl.equal)
    found, expected = (rounds(a, data((4, 4, 3)), 3, 2)[-1].variables for a in (own, plain))
    np.testing.assert_array_equal(found.params["encoder"], expected.params["encoder"])
    np.testing.assert_array_equal(found.params["decoder"], expected.params["decoder"])


def test_no_image_is_in_a_message():
    """A marker among the target's images, in front of them and alone, is in nothing that is sent."""
    clients = data((4, 4, 3))
    mark = np.array([7.0, -3.0, 11.0, 2.0, -5.0, 13.0], np.float32)
    x = clients.examples["x"].at[:, 0].set(mark)
    clients = Clients({**clients.examples, "x": x}, clients.valid)
    chosen = algorithm(0.01, latents=8)
    state, payloads = sent(chosen, START, clients, 2, batch_size=2)
    assert shows(payloads, mark) == []
    assert shows({**payloads, "leak": np.concatenate([np.ones(3), 2 * mark + 1])}, mark) == ["leak"]
    gathered = {path: x for path, x in payloads.items() if "latents" in path and "up" in path}
    # Eight latents of the target, zeros of the others.
    assert [x.shape for x in gathered.values()] == [(3, 8, WIDTH)] * 2
    assert all(x[0].any() and not x[1:].any() for x in gathered.values())
    assert not any("method" in path or "kernel" in path for path in payloads)
    assert np.isfinite(state.exchange["latents"]).all()


def test_latents_are_of_present_examples_and_noise_has_its_size():
    clients = data((3, 4, 3))
    row = {name: x[0] for name, x in clients.examples.items()}
    batches = fl.Batches(row, jnp.arange(4)[None], jnp.int32(3), clients.valid[0], jnp.int32(0))
    found = drawn_latents(represent, START, batches, jax.random.key(3), 3)
    expected = np.tanh(np.asarray(row["x"][:3]) @ np.asarray(START.params["encoder"]))
    np.testing.assert_allclose(np.sort(found, 0), np.sort(expected, 0), atol=1e-6)
    more, noisy = (drawn_latents(represent, START, batches, jax.random.key(3), 6000, s) for s in (0, 0.1))
    np.testing.assert_allclose((noisy - more).std(0), 0.1 * np.asarray(more).std(0), rtol=0.05)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"target": 3}, "^target: expected the number of one of the 3 clients, found 3"),
        ({"strength": -1.0}, "^strength: expected a number of at least 0, found -1.0"),
        ({"latents": 0}, "^latents: expected a positive number, found 0"),
        ({"noise": -1.0}, "^noise: expected a number of at least 0"),
    ],
)
def test_options_out_of_range_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        algorithm(**option)


def probed(a, b):
    """Accuracy of a linear probe of two domains, fitted to the first halves, on the second ones."""
    n = len(a) // 2
    x = np.c_[np.concatenate([a[:n], b[:n], a[n:], b[n:]]), np.ones(4 * n)]
    label = np.tile(np.repeat([1.0, -1.0], n), 2)
    weights = np.linalg.lstsq(x[: 2 * n], label[: 2 * n], rcond=1e-6)[0]
    return (np.sign(x[2 * n :] @ weights) == label[2 * n :]).mean()


@pytest.mark.slow
def test_a_fresh_probe_tells_the_sites_apart_less_well():
    clients = data((128, 128), 128, 0.7)
    options = {"clients": 2, "represent": represent, "example": EXAMPLE, "latents": 64, "hidden": 16}
    found = []
    for strength in (0.0, 3.0):
        chosen = fl_mrcm(TASK, optax.adam(3e-3), strength=strength, discriminator_rate=3e-3, **options)
        round = fl.make_round(chosen, batch_size=16, epochs=1, donate=False)
        state = fl.init_state(chosen, START, clients)
        state, _ = fl.run_rounds(round, 60)(state, clients, jax.random.key(0))
        latents = np.asarray(represent(*state.variables, clients.examples))
        found.append(probed(*latents))
    assert found[0] > 0.65 and found[1] < 0.55


# What the recipe of the publication rests on.


@pytest.mark.slow
def test_measurements_and_scores_are_as_published():
    """Expected acceleration 4 with the center kept, an exact transform, perfect scores of equal images."""
    keys = jax.random.split(jax.random.key(0), 400)
    masks = np.asarray(jax.vmap(lambda key: random_mask(key, 320, 4.0, 0.08))(keys)).reshape(400, -1)
    assert abs(masks.mean() - 0.25) < 0.01
    low = (masks.shape[1] - round(0.08 * 320) + 1) // 2
    assert (masks[:, low : low + round(0.08 * 320)] == 1).all()
    x = np.random.default_rng(0).normal(size=(2, 12, 10)) + 0j
    A = CartesianFourier((12, 10), jnp.ones((12, 10)))
    np.testing.assert_allclose(A.H(A(x)), x, atol=1e-5)
    image = jnp.abs(x).astype(jnp.float32)
    batch = {"target": image, "data_range": image.max((1, 2)), "volume": jnp.arange(2)}
    batch["valid"] = jnp.ones(2, bool)
    found = reconstruction_metrics(image, batch)
    assert np.isposinf(found["psnr"][0]) and np.allclose(found["ssim"][0] / found["ssim"][1], 1)


def reconstruction(cascades=2, channels=2):
    from fedrecon.models import VarNet

    rng = np.random.default_rng(0)
    batch = {
        "mask": np.ones((2, 10, 8), np.float32),
        "coil_maps": np.ones((2, 1, 10, 8), np.complex64),
        "kspace": rng.normal(size=(2, 1, 10, 8)).astype(np.complex64),
        "target": np.ones((2, 10, 8), np.float32),
        "data_range": np.ones(2, np.float32),
        "volume": np.zeros(2, np.int32),
        "valid": np.ones(2, bool),
    }
    model = VarNet(cascades=cascades, channels=channels, pools=1, zero_init=False)
    return reconstruction_task(model, mri_measure, batch), batch


def test_the_bottleneck_is_of_the_first_cascade():
    """Its latents do not see later cascades nor the decoder, and have four windows of the coarsest level."""
    task, batch = reconstruction()
    variables = task.init(jax.random.key(0))

    @jax.jit
    def look(variables):
        latents = bottleneck(task)
        gradient = jax.grad(lambda params: (latents(params, {}, batch) ** 2).sum())(variables.params)
        return latents(*variables, batch), gradient["cascades"]

    found, gradient = look(variables)
    assert found.shape == (2, 4 * 4) and np.ptp(found) > 0
    network = gradient["regulariser"]["unet"]
    first, later = (
        max(float(jnp.abs(x[part]).max()) for x in jax.tree.leaves(network["encoder"]))
        for part in (slice(0, 1), slice(1, None))
    )
    assert first > 0 == later
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(network["up_block0"]))


def test_other_networks_have_no_bottleneck():
    import flax.linen as nn

    batch = {"image": np.ones((2, 3), np.float32), "label": np.zeros(2, np.int32)}
    task = module_task(nn.Dense(2), "cross_entropy", batch)
    with pytest.raises(ValueError, match=r"^task: expected one VarNet, whose cascades"):
        bottleneck(task)(*task.init(jax.random.key(0)), {**batch, "valid": np.ones(2, bool)})


def test_windows_are_those_of_adaptive_pooling():
    x = np.arange(15.0).reshape(1, 5, 3, 1)
    expected = [[x[0, :3, :2].mean(), x[0, :3, 1:].mean()], [x[0, 2:, :2].mean(), x[0, 2:, 1:].mean()]]
    np.testing.assert_allclose(pooled(jnp.asarray(x), 2)[0, ..., 0], expected)
