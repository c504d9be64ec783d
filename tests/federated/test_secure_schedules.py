"""Sums inside the round are those of the protocols' parties, bit for bit, whoever drops out when."""

import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon import federated as fl
from fedrecon.federated.masks import masked
from fedrecon.federated.secure_sum import fixed_point_words
from fedrecon.secure_aggregation import (
    FIELD,
    STAGES,
    FixedPoint,
    LightSecAggSetup,
    SecAggSetup,
    simulate_round,
)

pytestmark = pytest.mark.slow

SIZE = 30
CLIENTS = {"secagg": (3, 6), "secagg+": (6, 8), "lightsecagg": (4, 7)}


def setup_of(protocol, clients, number):
    stay = clients - clients // 3
    if protocol == "lightsecagg":
        return LightSecAggSetup("schedules", number, clients, stay, SIZE + 2, max(1, stay // 2))
    if protocol == "secagg+":
        return SecAggSetup("schedules", number, clients, 3, SIZE + 2, 4)
    return SecAggSetup("schedules", number, clients, stay, SIZE + 2)


@functools.cache
def program(protocol, clients):
    """``run(x, key, arrived) -> (words of each client, words of the sum without masks)``."""
    modulus = FIELD if protocol == "lightsecagg" else 2**32
    words = fixed_point_words(FixedPoint.finest(2.0, clients, modulus=modulus))
    masks = masked(clients, {"secagg": None, "secagg+": 4, "lightsecagg": 0}[protocol])

    @jax.jit
    def run(x, key, arrived):
        invited = jnp.ones(clients, bool)

        def context(**fields):
            return fl.Context(
                jnp.int32(0), key, common=jax.random.fold_in(key, 99), invited=invited, **fields
            )

        def one(x, client):
            here = context(client=client)._replace(key=jax.random.fold_in(key, client))
            upload = fl.Upload({"w": x}, fl.Message(), jnp.float32(1))
            encoded = words.encode(upload, (), here)[0]
            return encoded, masks.encode(encoded, (), here)[0]

        plain, sent = jax.vmap(one)(x, jnp.arange(clients))
        here = arrived[:, None]
        total = jax.tree.map(lambda s: jnp.where(here, s.reshape(clients, -1), 0).sum(0, dtype=s.dtype), sent)
        total = masks.decode(total, (), context(arrived=arrived))[0]
        return plain, sent, total

    return run


def flat(tree, clients=None):
    return np.concatenate([np.asarray(x).reshape(clients or 1, -1) for x in jax.tree.leaves(tree)], 1)


@pytest.mark.parametrize("protocol", CLIENTS)
def test_sixty_schedules_of_dropouts(protocol):
    exact = 0
    for number in range(20):
        rng = random.Random(f"{protocol} {number}")
        clients = CLIENTS[protocol][number % 2]
        most = clients // 3 if number % 5 else clients - 1
        gone = rng.sample(range(clients), rng.randint(0, most))
        drop: dict[str, list[int]] = {}
        for i in gone:
            drop.setdefault(rng.choice(STAGES), []).append(i)
        setup = setup_of(protocol, clients, number)
        x = np.random.default_rng(number).uniform(-2, 2, (clients, SIZE)).astype(np.float32)
        late = {*drop.get("unmask", ())}
        arrived = np.asarray([i not in gone or i in late for i in range(clients)])
        plain, sent, total = program(protocol, clients)(x, jax.random.key(number), arrived)
        # Two's complement becomes the residue in the protocol's field.
        modulus = FIELD if protocol == "lightsecagg" else 2**32
        words = flat(plain, clients).astype(np.int32).astype(np.int64) % modulus
        outcome = simulate_round(setup, lambda i, words=words: words[i].astype(np.uint32), drop)
        if outcome.aborted:
            assert clients - len(gone) < setup.threshold or protocol == "secagg+"
            continue
        assert outcome.included == tuple(np.flatnonzero(arrived))
        found = flat(total)[0].astype(np.int32).astype(np.int64) % modulus
        np.testing.assert_array_equal(found, outcome.total)
        assert (flat(sent, clients) != flat(plain, clients)).mean() > 0.99
        exact += 1
    assert exact >= 12
