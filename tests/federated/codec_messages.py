"""What one codec or channel makes of vectors that stand for a model's leaves."""

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon import communication as cm
from fedrecon import federated as fl
from fedrecon.types import Variables

SHAPES = ((3, 5), (7,), (), (2, 2, 9))
SIZE = 59
VECTOR = np.random.default_rng(0).normal(size=SIZE) * np.repeat([1e-3, 1.0, 100.0], [20, 20, 19])


def leaves_of(vector, shapes=SHAPES):
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    return [
        jnp.asarray(x.reshape(s), jnp.float32)
        for x, s in zip(np.split(vector, ends[:-1]), shapes, strict=True)
    ]


def flat(leaves):
    return np.concatenate([np.ravel(np.asarray(x)) for x in leaves])


def keys(number=0):
    return cm.Keys(jax.random.key(number), jax.random.key(77))


def sent(codec, vector, number=0, shapes=SHAPES):
    k = keys(number)
    return flat(codec.decompress(codec.compress(leaves_of(vector, shapes), k), shapes, k.common))


def context(round=0, client=0, broadcast=()):
    common = jax.random.key(round)
    return fl.Context(
        jnp.int32(round),
        jax.random.fold_in(common, client),
        jnp.int32(client),
        common=common,
        broadcast=broadcast,
    )


def upload_of(vector, weight=1.0, shapes=SHAPES):
    params = {f"{n}": x * weight for n, x in enumerate(leaves_of(vector, shapes))}
    return fl.Upload(Variables(params, {"count": jnp.float32(3) * weight}), fl.Message(), jnp.float32(weight))


def exchange(channel, changes, weights, states=None):
    """One round of clients through a channel: (mean change of the parameters, states)."""
    uploads = [upload_of(c, w) for c, w in zip(changes, weights, strict=True)]
    if states is None:
        client, server = channel.init(uploads[0])
        states = [client] * len(uploads), server, 0
    clients, server, round = states
    broadcast = () if channel.broadcast is None else channel.broadcast(server)
    encoded = [
        channel.encode(u, c, context(round, n, broadcast))
        for n, (u, c) in enumerate(zip(uploads, clients, strict=True))
    ]
    total = jax.tree.map(lambda *x: sum(x), *[e[0] for e in encoded])
    total, server, _ = channel.decode(total, server, context(round, 0, broadcast))
    assert jax.tree.structure(total) == jax.tree.structure(uploads[0])
    mean = flat(jax.tree.leaves(total.delta.params)) / float(total.weight)
    np.testing.assert_allclose(total.delta.stats["count"] / total.weight, 3, rtol=1e-6)
    return mean, ([e[1] for e in encoded], server, round + 1)
