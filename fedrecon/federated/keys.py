"""Keys folded with numbers, and random orders drawn from them.

The bits are those of `jax.random.fold_in`. On CPU JAX compiles each of its calls to a loop of many small
operations, which take longer than the training of a small model; here the hash is written out, so that it
becomes part of what surrounds it.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
# Items up to which comparing all pairs takes less time than sorting.
FEW = 16

Words = tuple[jax.Array, jax.Array]


def fold(key: jax.Array, numbers: jax.Array) -> jax.Array:
    """Keys, of the shape of ``numbers``: what `jax.random.fold_in` makes of ``key`` () and each number."""
    if not _is_threefry(key):
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers.ravel())
        return keys.reshape(numbers.shape)
    return jax.random.wrap_key_data(jnp.stack(_words(key, numbers), -1), impl=jax.random.key_impl(key))


def random_order(key: jax.Array, numbers: jax.Array, last: jax.Array | None = None) -> jax.Array:
    """A uniformly random permutation as int32 indices, places marked by ``last`` coming last.

    An item's place in the order depends on the key and its own number only, however many items there are, so
    leaving items out leaves the order of the others.
    """
    # The words of a folded key are themselves a hash of the number: no further draw is needed.
    if _is_threefry(key):
        words = _words(key, numbers)
    else:
        data = jax.random.key_data(fold(key, numbers))
        words = (data[:, 0], data[:, 1])
    criteria = words if last is None else (last, *words)
    if not 0 < numbers.shape[0] <= FEW:
        return jnp.lexsort(criteria[::-1]).astype(jnp.int32)
    return _order_of_few(criteria)


def first_in_random_order(key: jax.Array, items: int, count: int) -> jax.Array:
    """bool (items,): the first ``count`` of `random_order` of all numbers, without sorting them."""
    if items <= FEW or not _is_threefry(key):
        order = random_order(key, jnp.arange(items))
        return jnp.zeros(items, bool).at[order[:count]].set(True)
    # No two numbers of one key have the same words, so that two thresholds decide.
    first, second = _words(key, jnp.arange(items))
    most = _smallest(first, count)
    below, level = first < most, first == most
    left = _smallest(jnp.where(level, second, jnp.uint32(0xFFFFFFFF)), count - below.sum())
    return below | (level & (second <= left))


def _smallest(words: jax.Array, count: int | jax.Array) -> jax.Array:
    """The ``count``-th smallest of uint32 (items,), bit by bit: counting takes less time than sorting."""

    def add_bit(number, threshold):
        candidate = threshold | (jnp.uint32(1) << (31 - number).astype(jnp.uint32))
        return jnp.where((words < candidate).sum() < count, candidate, threshold)

    return lax.fori_loop(0, 32, add_bit, jnp.uint32(0))


def _is_threefry(key: jax.Array) -> bool:
    return str(jax.random.key_impl(key)) == "threefry2x32"


def _words(key: jax.Array, numbers: jax.Array) -> Words:
    data = jax.random.key_data(key)
    return _threefry(data[0], data[1], numbers.astype(jnp.uint32))


# Compiled on their own, they are traced once per shape, and by functions of lax, which takes less time.
@jax.jit
def _threefry(first: jax.Array, second: jax.Array, numbers: jax.Array) -> Words:
    """`jax.random.fold_in`: Threefry-2x32 of (0, number), in 20 rounds (Salmon et al., SC 2011)."""

    def spread(word):
        return lax.broadcast(word, numbers.shape)

    schedule = [first, second, lax.bitwise_xor(lax.bitwise_xor(first, second), jnp.uint32(_PARITY))]
    x, y = spread(schedule[0]), lax.add(numbers, spread(schedule[1]))
    for block in range(5):
        for bits in _ROTATIONS[block % 2]:
            x = lax.add(x, y)
            left = lax.shift_left(y, lax.full_like(y, bits))
            right = lax.shift_right_logical(y, lax.full_like(y, 32 - bits))
            y = lax.bitwise_xor(x, lax.bitwise_or(left, right))
        x = lax.add(x, spread(schedule[(block + 1) % 3]))
        y = lax.add(y, spread(lax.add(schedule[(block + 2) % 3], jnp.uint32(block + 1))))
    return x, y


@jax.jit
def _order_of_few(criteria: tuple[jax.Array, ...]) -> jax.Array:
    """What sorting by the criteria gives, the first being the most important."""
    # Not computed again for every pair.
    criteria = lax.optimization_barrier(criteria)
    count = criteria[0].shape[0]
    places = lax.iota(jnp.int32, count)

    def item(values, number):
        return lax.broadcast_in_dim(lax.slice(values, (number,), (number + 1,)), (count,), (0,))

    # Sums over items written out, since reductions of so few are not vectorised.
    ranks = []
    for number in range(count):
        # The item comes before others by the first criterion that tells them apart, or else as given.
        before = lax.gt(places, lax.full_like(places, number))
        for values in reversed(criteria):
            own = item(values, number)
            before = lax.bitwise_or(lax.lt(own, values), lax.bitwise_and(lax.eq(own, values), before))
        ranks.append(before.astype(jnp.int32))
    rank = lax.optimization_barrier(functools.reduce(lax.add, ranks))
    order = places
    for number in range(count):
        here = lax.eq(item(rank, number), places)
        order = lax.select(here, lax.full_like(places, number), order)
    return order
