"""InfoNCE, banks and momentum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.alignment import empty_bank, info_nce, momentum, pushed


def unit(seed, *shape):
    x = np.random.default_rng(seed).normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(queries, keys, positive, negative, temperature):
    found = []
    for q, own, others in zip(queries, positive, negative, strict=True):
        e = np.exp(keys @ q / temperature)
        terms = [
            -np.log(e[p] / (e[p] + sum(e[n] for n in np.flatnonzero(others) if n != p)))
            for p in np.flatnonzero(own)
        ]
        found.append(np.mean(terms) if terms and others.any() else 0.0)
    return np.array(found)


def test_it_is_the_formula_with_several_positives():
    queries, keys = unit(0, 5, 4), unit(1, 9, 4)
    rng = np.random.default_rng(2)
    positive, negative = rng.random((5, 9)) < 0.3, rng.random((5, 9)) < 0.5
    positive[0], negative[1], positive[2, 3], negative[2, 3] = False, False, True, True
    found = info_nce(3 * queries, keys, positive, negative, 0.4)
    np.testing.assert_allclose(found, reference(queries, keys, positive, negative, 0.4), rtol=1e-5, atol=1e-6)


def test_of_random_vectors_at_a_high_temperature_it_counts_the_negatives():
    queries, keys = unit(0, 200, 16), unit(1, 33, 16)
    positive = np.zeros((200, 33), bool)
    positive[:, 0] = True
    found = info_nce(queries, keys, positive, ~positive, 50.0)
    np.testing.assert_allclose(found.mean(), np.log(33), rtol=1e-3)


def test_the_order_of_the_keys_changes_nothing_and_gradients_are_finite():
    queries, keys = unit(0, 4, 3), unit(1, 6, 3)
    positive = np.zeros((4, 6), bool)
    positive[:3, 1] = True
    order = np.random.default_rng(0).permutation(6)
    np.testing.assert_allclose(
        info_nce(queries, keys, positive, ~positive),
        info_nce(queries, keys[order], positive[:, order], ~positive[:, order]),
        rtol=1e-5,
    )
    gradient = jax.grad(lambda q: info_nce(q, keys, positive, np.zeros((4, 6), bool)).sum())(
        jnp.zeros((4, 3))
    )
    assert np.isfinite(gradient).all()


def test_banks_keep_the_last_in_their_order():
    bank = empty_bank(4, 1)
    kept: list[float] = []
    for number, count in enumerate([3, 0, 2, 6, 1]):
        values = np.arange(6.0) + 10 * number
        valid = np.arange(6) < count
        bank = jax.jit(pushed)(bank, values[:, None], np.full(6, number, np.int32), valid)
        kept = (kept + list(values[:count]))[-4:]
        found = np.roll(np.asarray(bank.features)[:, 0], -int(bank.place))
        np.testing.assert_array_equal(found[4 - len(kept) :], kept)
    np.testing.assert_array_equal(np.roll(bank.tags, -int(bank.place)), [3, 3, 3, 4])


def test_momentum_is_the_weighted_mean():
    slow, fast = {"w": jnp.float32(2.0)}, {"w": jnp.float32(4.0)}
    np.testing.assert_allclose(momentum(slow, fast, 0.75)["w"], 2.5)


def test_sizes_and_temperatures_are_checked():
    with pytest.raises(ValueError, match="size: expected a positive integer, found 0"):
        empty_bank(0, 3)
    with pytest.raises(ValueError, match=r"rate: expected a number in \[0, 1\]"):
        momentum({}, {}, 1.5)
    with pytest.raises(ValueError, match="temperature: expected a positive number"):
        info_nce(jnp.ones((1, 2)), jnp.ones((1, 2)), jnp.ones((1, 1), bool), jnp.ones((1, 1), bool), 0.0)
