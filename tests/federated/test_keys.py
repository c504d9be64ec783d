"""Keys, orders and checks that are computed in a quicker way than by definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrecon.federated.keys import FEW, first_in_random_order, fold, random_order
from fedrecon.federated.trees import finite_after_weighting

SIZES = (1, 6, FEW, FEW + 3)
ORDERS = {size: jax.jit(random_order) for size in SIZES}


def folded(key, numbers):
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_folded_keys_are_those_of_jax(implementation):
    key = jax.random.key(5, impl=implementation)
    numbers = jnp.array([0, 1, 77, 2**31 - 1, -1], jnp.int32)
    np.testing.assert_array_equal(*map(jax.random.key_data, (fold(key, numbers), folded(key, numbers))))
    assert fold(key, numbers).dtype == key.dtype
    np.testing.assert_array_equal(
        *map(jax.random.key_data, (fold(key, numbers[2]), jax.random.fold_in(key, 77)))
    )


def test_keys_of_the_first_numbers_are_those_of_a_split():
    key = jax.random.key(6)
    np.testing.assert_array_equal(
        *map(jax.random.key_data, (fold(key, jnp.arange(4)), jax.random.split(key, 4)))
    )


@given(size=st.sampled_from(SIZES), seed=st.integers(0, 2**31 - 1), data=st.data())
def test_an_order_is_that_of_sorting_the_keys(size, seed, data):
    """Also where numbers, and with them keys, are equal: these come as given."""
    key = jax.random.key(seed)
    numbers = np.array(data.draw(st.lists(st.integers(0, 2 * size), min_size=size, max_size=size)), np.int32)
    last = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    words = np.asarray(jax.random.key_data(folded(key, jnp.asarray(numbers))))
    np.testing.assert_array_equal(
        ORDERS[size](key, numbers, last), np.lexsort((words[:, 1], words[:, 0], last))
    )


VALUES = st.sampled_from([0.0, -1.0, 3e4, 1e-40, 1e20, 3e38, -3e38, np.inf, -np.inf, np.nan])
WEIGHTS = st.sampled_from([0.0, 1.0, 40.0, 1e30, np.inf, np.nan])
CLIENTS = st.lists(st.tuples(VALUES, VALUES, VALUES, VALUES, WEIGHTS), min_size=3, max_size=3)


def judged(one, other, message, own, weight):
    delta = {"a": jnp.stack([one, other]), "b": jnp.int32(3)}
    norm = jnp.sqrt(one**2 + other**2)
    return finite_after_weighting(norm, delta, (message,), {"own": own}, weight)


ALONE, TOGETHER = jax.jit(judged), jax.jit(jax.vmap(judged))


@given(CLIENTS)
def test_what_is_finite_after_weighting_is_found_with_and_without_looking(clients):
    """One client after another and all at once; weights may overflow what is finite, or hide what is not."""
    columns = np.array(clients, np.float32).T
    with np.errstate(all="ignore"):
        one, other, message, own, weight = columns
        expected = np.isfinite([one * weight, other * weight, message * weight, own, weight, 3 * weight]).all(
            0
        )
    np.testing.assert_array_equal(TOGETHER(*columns), expected)
    np.testing.assert_array_equal([ALONE(*client) for client in columns.T], expected)


@pytest.mark.parametrize(("items", "count"), [(1, 1), (FEW, 3), (FEW + 1, FEW + 1), (500, 7), (500, 499)])
def test_the_first_in_random_order_are_those_of_the_whole_order(items, count):
    for seed in range(5):
        key = jax.random.key(seed)
        expected = np.zeros(items, bool)
        expected[np.asarray(random_order(key, jnp.arange(items)))[:count]] = True
        np.testing.assert_array_equal(first_in_random_order(key, items, count), expected)
