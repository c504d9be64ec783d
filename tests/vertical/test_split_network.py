"""Divided networks: each step is that of the undivided one, and the noise at the cut is what is accounted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import ndtr

from fedrecon.errors import ArgumentError
from fedrecon.vertical import (
    Guest,
    Host,
    Protection,
    SplitBatch,
    SplitNetwork,
    activations,
    calibrated,
    fixed_mechanism,
    guest_epsilon,
    guest_gradient,
    host_epsilon,
    host_step,
    init,
    split_gradient,
    undivided_loss,
)

EXAMPLES, WIDTHS = 6, (4, 3)


def dense(key, inputs, outputs):
    return {"kernel": jax.random.normal(key, (inputs, outputs)), "bias": jnp.zeros(outputs)}


def guest(inputs, width):
    return Guest(lambda key: dense(key, inputs, width), lambda p, x: jnp.tanh(x @ p["kernel"] + p["bias"]))


def host_apply(params, cut, inputs):
    hidden = jnp.concatenate([*cut, inputs], 1)
    return (jnp.tanh(hidden @ params[0]["kernel"] + params[0]["bias"]) @ params[1]["kernel"])[:, 0]


def host_init(key):
    first, second = jax.random.split(key)
    return [dense(first, sum(WIDTHS) + 2, 5), dense(second, 5, 1)]


NETWORK = SplitNetwork(
    (guest(5, WIDTHS[0]), guest(2, WIDTHS[1])),
    Host(host_init, host_apply, optax.sigmoid_binary_cross_entropy),
)


def drawn(seed=0, valid=(1, 1, 1, 1, 1, 0)):
    rng = np.random.default_rng(seed)
    inputs = [rng.standard_normal((EXAMPLES, n)).astype(np.float32) for n in (5, 2, 2)]
    labels = (rng.random(EXAMPLES) < 0.5).astype(np.float32)
    return SplitBatch((inputs[0], inputs[1]), inputs[2], labels, np.asarray(valid, bool))


def mechanism(norm=1.0, noise=0.0, passes=1):
    return fixed_mechanism(norm, noise, examples=EXAMPLES, passes=passes)


BATCH, PARAMS = drawn(), init(NETWORK, jax.random.key(1))
UNDIVIDED = jax.jit(jax.value_and_grad(lambda p, b, c: undivided_loss(NETWORK, p, b, c)), static_argnums=2)
STEP = jax.jit(functools.partial(split_gradient, NETWORK), static_argnums=2)


@jax.jit
def messages(params, batch):
    """Activations of the guests, and what the host answers."""
    sent = tuple(
        activations(guest, own, inputs, batch.valid)
        for guest, own, inputs in zip(NETWORK.guests, params.guests, batch.guests, strict=True)
    )
    return sent, host_step(NETWORK, params.host, sent, batch)


def close(one, other, tolerance=1e-6):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("valid", [(1,) * 6, (1, 1, 1, 1, 1, 0), (0, 0, 1, 0, 0, 0)])
def test_a_step_is_that_of_the_undivided_network(valid):
    batch = drawn(3, valid)
    close(STEP(PARAMS, batch, Protection()), UNDIVIDED(PARAMS, batch, None))


def test_a_training_is_that_of_the_undivided_network():
    optimizer = optax.adam(0.05)

    def train(gradient):
        def step(carry, number):
            params, state = carry
            updates, state = optimizer.update(gradient(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), jnp.arange(30))[0][0])(PARAMS)

    split = train(lambda p: split_gradient(NETWORK, p, BATCH)[1])
    whole = train(lambda p: jax.grad(undivided_loss, argnums=1)(NETWORK, p, BATCH))
    close(split, whole, 2e-5)
    assert not np.allclose(split.host[0]["kernel"], PARAMS.host[0]["kernel"], atol=0.1)


def test_padding_changes_nothing():
    other = drawn(9)
    keep = BATCH.valid[:, None]
    mixed = SplitBatch(
        tuple(np.where(keep, a, b) for a, b in zip(BATCH.guests, other.guests, strict=True)),
        np.where(keep, BATCH.host, other.host),
        np.where(BATCH.valid, BATCH.labels, 1 - BATCH.labels),
        BATCH.valid,
    )
    close(STEP(PARAMS, mixed, Protection()), STEP(PARAMS, BATCH, Protection()), 0)
    sent = messages(PARAMS, mixed)[0][0]
    assert not np.asarray(sent[5]).any() and np.asarray(sent[:5]).all()


def test_messages_are_activations_and_gradients_of_each_example_s_own_loss():
    sent, answer = messages(PARAMS, BATCH)
    assert [x.shape for x in sent] == [(EXAMPLES, width) for width in WIDTHS]

    def losses(cut):
        return NETWORK.host.loss(host_apply(PARAMS.host, cut, BATCH.host), BATCH.labels)

    expected = jax.jit(jax.jacrev(losses))(sent)
    for number in range(2):
        close(answer.cut[number][:5], jnp.stack([expected[number][row, row] for row in range(5)]))
        assert not np.asarray(answer.cut[number][5]).any()
    # Another label, the same inputs: the sign of one logit's gradient is the label, which the page says.
    turned = messages(PARAMS, BATCH._replace(labels=1 - BATCH.labels))[1]
    assert (np.sign(turned.cut[0][:5]) == -np.sign(answer.cut[0][:5])).all()


def test_clipping_without_noise_is_the_undivided_network_with_clipped_activations():
    clip, wide = mechanism(0.3), mechanism(1e6)
    batch = drawn(4, (1,) * 6)
    found = STEP(PARAMS, batch, Protection(clip, wide, wide, wide), jax.random.key(0))
    close(found, UNDIVIDED(PARAMS, batch, clip), 1e-5)


NORMS = (0.5, 0.25, 0.125, 0.75)
LINEAR = Guest(NETWORK.guests[0].init, lambda p, x: x @ p["kernel"] + p["bias"])


@jax.jit
def releases(batch, there):
    """What is sent of examples, and of gradients that grow with the inputs, of those that are there."""
    network, key = NETWORK._replace(guests=(LINEAR, NETWORK.guests[1])), jax.random.key(0)
    protection = Protection(*(mechanism(norm) for norm in NORMS))

    def sent_of(valid):
        return tuple(
            activations(guest, own, inputs, valid, protection.activations, key)
            for guest, own, inputs in zip(network.guests, PARAMS.guests, batch.guests, strict=True)
        )

    # The host gets the same in both runs: what it computes of the example is apart.
    answer = host_step(
        network, PARAMS.host, sent_of(batch.valid), batch._replace(valid=there), protection, key
    )
    large = 1e3 * jnp.abs(batch.guests[0]).max()
    gradients = [
        guest_gradient(guest, own, inputs, there, jnp.full_like(cut, large), protection, key)
        for guest, own, inputs, cut in zip(
            network.guests, PARAMS.guests, batch.guests, answer.cut, strict=True
        )
    ]
    return sent_of(there), gradients, answer.cut, answer.gradient


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_one_example_moves_each_release_by_at_most_its_sensitivity(scale):
    """Without noise: what is sent of it is within the norm, and its part of the gradients, too."""
    batch = drawn(7, (1,) * 6)
    batch = batch._replace(guests=(scale * batch.guests[0], batch.guests[1]), host=scale * batch.host)
    there, gone = releases(batch, batch.valid), releases(batch, batch.valid & (np.arange(EXAMPLES) != 2))

    def length(tree):
        return np.sqrt(sum(np.square(np.asarray(x, float)).sum() for x in jax.tree.leaves(tree)))

    moved = jax.tree.map(lambda a, b: a - b, there, gone)
    for each in moved[0]:
        assert length(each) <= NORMS[0] * (1 + 1e-5)
    for each in moved[1]:
        assert length(each) * EXAMPLES <= NORMS[1] * (1 + 1e-4)
    assert length(moved[2]) <= NORMS[2] * (1 + 1e-5)
    assert length(moved[3]) * EXAMPLES <= NORMS[3] * (1 + 1e-4)
    if scale < 1e3:
        assert min(length(kind) for kind in moved) > 0
    else:
        assert length(moved[0][0]) > 0.99 * NORMS[0] and length(moved[1][1]) * EXAMPLES > 0.99 * NORMS[1]


@jax.jit
def noisy(key):
    """A guest's and a host's messages and gradients, of which all is noise."""
    batch = SplitBatch(
        (jnp.zeros((300, 1)), jnp.zeros((300, 1))), jnp.zeros((300, 2)), jnp.zeros(300), jnp.ones(300, bool)
    )
    protection = Protection(
        *(fixed_mechanism(norm, 2.0, examples=300, passes=1) for norm in (1.0, 3.0, 5.0, 7.0))
    )
    flat = Guest(lambda key: jnp.zeros(1000), lambda p, x: jnp.zeros((len(x), 4)) + 0 * p.sum())
    host = Host(flat.init, lambda p, cut, x: 0 * (cut[0].sum(1) + p.sum()), NETWORK.host.loss)
    network = SplitNetwork((flat, flat), host)
    own = flat.init(key)
    sent = activations(flat, own, batch.guests[0], batch.valid, protection.activations, key)
    answer = host_step(network, own, (sent, sent), batch, protection, key)
    return sent, *answer.cut, split_gradient(network, init(network, key), batch, protection, key)[1]


def test_noise_has_the_deviation_that_is_accounted():
    sent, first, second, gradients = noisy(jax.random.key(3))
    assert np.std(sent) == pytest.approx(2.0, rel=0.08)
    assert np.std(first) == pytest.approx(10.0, rel=0.08) == np.std(second)
    for own, deviation in zip((*gradients.guests, gradients.host), (6.0, 6.0, 14.0), strict=True):
        assert np.std(own) * 300 == pytest.approx(deviation, rel=0.08)
    # Institutions, kinds of messages and steps draw noise of their own.
    drawn_noise = [sent[:50], first[:50], second[:50]]
    drawn_noise += [own[:200].reshape(50, 4) for own in (*gradients.guests, gradients.host)]
    drawn_noise.append(noisy(jax.random.key(4))[0][:50])
    correlations = np.corrcoef([np.ravel(x) for x in drawn_noise]) - np.eye(7)
    assert np.abs(correlations).max() < 0.3


def gaussian_delta(epsilon, noise):
    """Of the Gaussian mechanism of sensitivity 1 (Balle and Wang 2018)."""
    return ndtr(0.5 / noise - epsilon * noise) - np.exp(epsilon) * ndtr(-0.5 / noise - epsilon * noise)


@pytest.mark.parametrize("noise, passes", [(6.0, 4), (20.0, 25)])
def test_epsilon_is_that_of_two_gaussian_releases_in_every_pass(noise, passes):
    protection = Protection(
        fixed_mechanism(2.0, noise, examples=40, passes=passes, batch_size=16),
        fixed_mechanism(0.1, noise, examples=40, passes=passes, batch_size=16),
    )
    epsilon = guest_epsilon(protection, 40, 1e-4)
    # All of them are one with the noise divided by the root of their number.
    assert gaussian_delta(epsilon, noise / np.sqrt(2 * passes)) == pytest.approx(1e-4, rel=0.02)
    labels = Protection(gradients=protection.activations, host=protection.guests)
    assert host_epsilon(labels, 40, 1e-4) == epsilon
    assert guest_epsilon(labels, 40) == float("inf") == host_epsilon(protection, 40)


def test_what_is_sent_once_is_one_release():
    cut, none = calibrated(2.0, 1e-4, examples=50, passes=30, clipping=(1.0, 1.0), trained=False)
    assert none is None and cut.epochs == 1
    assert gaussian_delta(2.0, cut.noise_multiplier) == pytest.approx(1e-4, rel=0.05)
    assert guest_epsilon(Protection(cut), 50, 1e-4) <= 2.0


def test_noise_is_calibrated_for_the_budget_and_no_more():
    for passes in (1, 10):
        cut, own = calibrated(3.0, 1e-4, examples=50, passes=passes, clipping=(1.0, 0.2), batch_size=10)
        assert 2.98 < guest_epsilon(Protection(cut, own), 50, 1e-4) <= 3.0
        assert (cut.clipping_norm, own.clipping_norm, own.steps) == (1.0, 0.2, 5 * passes)


@pytest.mark.parametrize(
    "call, named",
    [
        (lambda: split_gradient(NETWORK, PARAMS, BATCH, Protection(mechanism())), "protection.guests"),
        (lambda: split_gradient(NETWORK, PARAMS, BATCH, Protection(None, None, mechanism())), "host"),
        (lambda: split_gradient(NETWORK, PARAMS, BATCH, Protection(mechanism(), mechanism())), "key"),
        (lambda: guest_epsilon(Protection(None, mechanism()), 6), "protection.activations"),
        (lambda: host_epsilon(Protection(None, None, mechanism()), 6), "protection.host"),
        (lambda: host_epsilon(Protection(host=mechanism()), 6), "protection.gradients"),
        (lambda: init(SplitNetwork((), NETWORK.host), jax.random.key(0)), "network"),
        (lambda: fixed_mechanism(1.0, 1.0, examples=3, passes=1, batch_size=4), "batch_size"),
    ],
)
def test_what_promises_nothing_is_refused(call, named):
    with pytest.raises(ArgumentError, match=named):
        call()
