"""Masks on words that cancel in the sum over the clients of a round."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.federated.messages import Channel, Context
from fedrecon.federated.trees import pack, unpack


def masked(clients: int, neighbors: int | None = None) -> Channel:
    """Masks on ``uint32`` words that cancel in the sum of all clients of a round.

    Each client adds a mask of its own, and one with each neighbor that the one adds and the other subtracts.
    Neighbors are those on a ring of all clients of the round in a random order. At the server's end masks of
    the clients that arrived are taken off, as are those that they have with neighbors that did not arrive.

    Args:
      clients: the most clients of a round.
      neighbors: as in `secure_sum`.
    """
    if neighbors is not None and (neighbors < 0 or neighbors % 2):
        raise ArgumentError("neighbors", "an even number of at least 0, or None for all", neighbors)
    reach = clients // 2 if neighbors is None else min(neighbors, clients) // 2

    def encode(words, state, context):
        # Without a cohort there is nothing but shapes to find out.
        if context.invited is None:
            return words, state, {}
        ring = _Ring.of(context, clients)
        vectors, packing = pack(words)
        return unpack(ring.add(vectors, context.client, reach), packing), state, {}

    def decode(total, state, context):
        ring = _Ring.of(context, clients)
        vectors, packing = pack(total)
        return unpack(ring.remove(vectors, context.arrived, reach), packing), state, {}

    return Channel(lambda upload: ((), ()), encode, decode, linear=False, hides=True)


class _Ring(NamedTuple):
    """The clients of a round in a random order: their numbers, how many, and the key of their masks."""

    members: jax.Array
    size: jax.Array
    key: jax.Array

    @staticmethod
    def of(context: Context, most: int) -> "_Ring":
        assert context.common is not None and context.invited is not None
        order_key, key = jax.random.split(context.common)
        places = jax.random.uniform(order_key, context.invited.shape)
        order = jnp.argsort(jnp.where(context.invited, places, 2.0))
        most = min(most, len(order))
        return _Ring(order[:most].astype(jnp.int32), context.invited.sum(dtype=jnp.int32), key)

    def add(self, vectors: dict[str, jax.Array], client: jax.Array, reach: int) -> dict[str, jax.Array]:
        """What one client sends: its words, with its own mask and those it shares."""
        place = jnp.argmax(self.members == client)
        total = _plus(vectors, self.own(vectors, client), jnp.uint32(1))

        def step(k, total):
            other, shared = self.partner(place, k)
            return self.shared_mask(total, client, other, shared, 1)

        return jax.lax.fori_loop(0, 2 * reach, step, total)

    def remove(self, vectors: dict[str, jax.Array], arrived: jax.Array, reach: int) -> dict[str, jax.Array]:
        """The sum without the masks of those who arrived that nobody else's cancel."""

        def of_client(place, total):
            client = self.members[place]
            here = arrived[client] & (place < self.size)

            def pair(k, total):
                other, shared = self.partner(place, k)
                return self.shared_mask(total, client, other, shared & here & ~arrived[other], -1)

            total = jax.lax.cond(
                here, lambda t: _plus(t, self.own(t, client), _minus_one()), lambda t: dict(t), total
            )
            return jax.lax.fori_loop(0, 2 * reach, pair, total)

        return jax.lax.fori_loop(0, len(self.members), of_client, vectors)

    def partner(self, place: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The k-th neighbor of a place on the ring, and whether it is one: nobody is so twice."""
        ahead, distance = k % 2 == 0, k // 2 + 1
        size = jnp.maximum(self.size, 1)
        other = self.members[(place + jnp.where(ahead, distance, size - distance)) % size]
        return other, (2 * distance < size) | ((2 * distance == size) & ahead)

    def own(self, like: dict[str, jax.Array], client: jax.Array) -> dict[str, jax.Array]:
        return _bits(like, jax.random.fold_in(jax.random.fold_in(self.key, 0), client))

    def shared_mask(self, total, client, other, wanted, sign):
        """``total`` with the mask of two clients, which the one of the lower number adds."""
        low, high = jnp.minimum(client, other), jnp.maximum(client, other)
        factor = jnp.where((client < other) == (sign > 0), jnp.uint32(1), _minus_one())

        def one(total):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(self.key, 1), low), high)
            return _plus(total, _bits(total, key), factor)

        return jax.lax.cond(wanted, one, lambda total: dict(total), total)


def _bits(like: dict[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
    return {
        name: jax.random.bits(jax.random.fold_in(key, number), x.shape, jnp.uint32)
        for number, (name, x) in enumerate(sorted(like.items()))
    }


def _plus(
    vectors: dict[str, jax.Array], others: dict[str, jax.Array], factor: jax.Array
) -> dict[str, jax.Array]:
    return {name: x + factor * others[name] for name, x in vectors.items()}


def _minus_one() -> jax.Array:
    return jnp.uint32(2**32 - 1)
