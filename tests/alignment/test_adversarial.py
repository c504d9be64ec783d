"""Two players: cross-entropies and steps by hand, frozen sides, and the penalty of a linear critic."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon.alignment import (
    Domain,
    critic_loss,
    discriminated,
    domain_loss,
    gradient_penalty,
    misled,
    moved,
    new_perceptron,
    new_player,
    perceptron,
)

DISCRIMINATE = perceptron(0.2)


def features(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def logits_by_hand(params, x):
    layers = [{name: np.asarray(leaf, float) for name, leaf in layer.items()} for layer in params]
    hidden = x @ layers[0]["kernel"] + layers[0]["bias"]
    return np.where(hidden > 0, hidden, 0.2 * hidden) @ layers[1]["kernel"] + layers[1]["bias"]


@pytest.mark.parametrize("targets", [((1.0,), (0.0,)), ((0.0, 1.0), (1.0, 0.0))])
def test_the_loss_is_the_cross_entropy_of_every_logit(targets):
    own, other, valid = features(0, 5, 3), features(1, 4, 3), np.array([True, True, False, True])
    params = new_perceptron(jax.random.key(0), (3, 4, len(targets[0])))
    expected = 0.0
    for x, target in ((own, targets[0]), (other[valid], targets[1])):
        says = 1 / (1 + np.exp(-logits_by_hand(params, x)))
        expected += np.mean(np.where(np.array(target) == 1, -np.log(says), -np.log(1 - says)))
    domains = [Domain(own, targets[0]), Domain(other, targets[1], valid)]
    np.testing.assert_allclose(domain_loss(DISCRIMINATE, params, domains), expected, rtol=1e-5)
    nobody = [Domain(other, targets[1], np.zeros(4, bool))]
    assert float(domain_loss(DISCRIMINATE, params, nobody)) == 0


def test_a_step_is_of_one_side_and_leaves_the_other_bit_for_bit():
    """The representation is ``x w``: discriminators do not move w, and what misleads them moves w alone."""
    optimizer = optax.rmsprop(1e-2)
    player = new_player(new_perceptron(jax.random.key(0), (2, 4, 1)), optimizer)
    x, weights = features(0, 6, 3), features(1, 3, 2)

    def after(weights):
        stepped = discriminated(
            player, optimizer, DISCRIMINATE, [Domain(x @ weights, (1.0,)), Domain(-x @ weights, (0.0,))]
        )
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(stepped.params))

    def fooled(params, weights):
        return misled(DISCRIMINATE, player._replace(params=params), [Domain(x @ weights, (0.0,))])

    np.testing.assert_array_equal(jax.grad(after)(weights), np.zeros((3, 2)))
    frozen, own = jax.grad(fooled, argnums=(0, 1))(player.params, weights)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(frozen))
    assert np.abs(own).min() > 0


def test_a_step_of_a_discriminator_is_one_of_its_optimizer_and_tells_domains_apart():
    optimizer = optax.sgd(0.5)
    params = new_perceptron(jax.random.key(3), (2, 1))
    player = new_player(params, optimizer)
    own, other = features(0, 64, 2) + 2, features(1, 64, 2) - 2
    domains = [Domain(own, (1.0,)), Domain(other, (0.0,))]
    stepped = discriminated(player, optimizer, DISCRIMINATE, domains, 0.3)
    # The gradient of a logistic regression.
    says = [
        1 / (1 + np.exp(-(x @ np.asarray(params[0]["kernel"]) + np.asarray(params[0]["bias"]))))
        for x in (own, other)
    ]
    gradient = own.T @ (says[0] - 1) / 64 + other.T @ says[1] / 64
    expected = np.asarray(params[0]["kernel"]) - 0.5 * 0.3 * gradient
    np.testing.assert_allclose(stepped.params[0]["kernel"], expected, rtol=1e-5)
    for _ in range(50):
        stepped = discriminated(stepped, optimizer, DISCRIMINATE, domains)
    assert float(domain_loss(DISCRIMINATE, stepped.params, domains)) < 0.2


def test_players_keep_their_own_optimizers():
    slow, fast = optax.sgd(0.1, 0.9), optax.adam(0.1)
    players = [new_player({"w": jnp.ones(2)}, optimizer) for optimizer in (slow, fast)]
    for _ in range(2):
        players = [
            moved(player, optimizer, lambda params: (params["w"] ** 2).sum())[0]
            for player, optimizer in zip(players, (slow, fast), strict=True)
        ]
    # By hand: 1 - .2 = .8, momentum 2 * .9 + 1.6; and two steps of Adam in a constant direction.
    np.testing.assert_allclose(players[0].params["w"], 0.8 - 0.1 * (1.6 + 1.8), rtol=1e-6)
    np.testing.assert_allclose(players[1].params["w"], 0.8, atol=2e-3)


def test_the_penalty_of_a_linear_critic_is_known():
    slope = np.array([3.0, 4.0], np.float32)

    def critic(x):
        return x.reshape(len(x), -1)[:, :2] @ slope

    real, made = features(0, 5, 2, 1), features(1, 5, 2, 1)
    found = gradient_penalty(critic, real, made, jnp.linspace(0, 1, 5))
    np.testing.assert_allclose(found, np.full(5, 16.0), rtol=1e-5)
    np.testing.assert_allclose(critic_loss(critic, real, made), (made - real)[..., 0] @ slope, rtol=1e-5)


def test_the_penalty_is_taken_between_the_two_and_differentiated_where_the_critic_is_flat():
    real, made, mix = features(0, 4, 3), features(1, 4, 3), np.array([0.0, 1.0, 0.25, 0.5], np.float32)
    found = gradient_penalty(lambda x: (x**2).sum(-1) / 2, real, made, mix)
    between = mix[:, None] * real + (1 - mix[:, None]) * made
    np.testing.assert_allclose(found, (np.linalg.norm(between, axis=-1) - 1) ** 2, rtol=1e-5)
    gradient = jax.grad(lambda a: gradient_penalty(lambda x: a * x.sum(-1), real, made, mix).sum())(0.0)
    assert np.isfinite(gradient)


@pytest.mark.parametrize("widths", [(3,), (3, 0)])
def test_perceptrons_have_widths(widths):
    with pytest.raises(ValueError, match=r"^widths: expected two positive numbers or more, found"):
        new_perceptron(jax.random.key(0), widths)
