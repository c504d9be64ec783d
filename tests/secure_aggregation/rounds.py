"""Rounds step by step, with messages that a test may change, and seeded secrets."""

import numpy as np

from fedrecon.secure_aggregation import (
    Identity,
    LightSecAggClient,
    LightSecAggServer,
    LightSecAggSetup,
    SecAggClient,
    SecAggServer,
    SecAggSetup,
)


def seeded(seed):
    """Bytes like those of os.urandom, the same again for the same seed."""
    return np.random.default_rng(seed).bytes


def drawn_words(clients, size, seed=0, modulus=2**32):
    return np.random.default_rng(seed).integers(0, modulus, (clients, size), np.uint32)


def summed(words, clients, modulus=2**32):
    return (words[sorted(clients)].astype(object).sum(0) % modulus).astype(np.uint32)


def parties(setup, words, seed=0):
    """(clients, server), with identities where the setup asks for them."""
    random = seeded(seed)
    if isinstance(setup, LightSecAggSetup):
        clients = [
            LightSecAggClient(setup, i, lambda i=i: words[i], random=random) for i in range(setup.clients)
        ]
        return clients, LightSecAggServer(setup)
    identities = [Identity.from_secret(random(32)) for _ in range(setup.clients)]
    known = {i: identity.public for i, identity in enumerate(identities)}
    clients = [
        SecAggClient(setup, i, lambda i=i: words[i], identities[i], known, random)
        for i in range(setup.clients)
    ]
    return clients, SecAggServer(setup)


class Round:
    """All parties, and in ``messages`` what the server sent last, by client; None before the start."""

    def __init__(self, setup: SecAggSetup, words, seed=0):
        self.clients, self.server = parties(setup, words, seed)
        self.messages = dict.fromkeys(range(setup.clients))
        self.sent: dict[str, dict[int, bytes]] = {}
        self.got: dict[str, dict[int, bytes]] = {}

    def reply(self, client):
        message = self.messages[client]
        return self.clients[client].start() if message is None else self.clients[client].answer(message)

    def step(self, without=()):
        """One stage with all clients but some."""
        stage = self.server.stage
        sent = {i: self.reply(i) for i in self.messages if i not in without}
        for message in sent.values():
            self.server.receive(message)
        self.sent[stage] = sent
        self.messages = self.got[stage] = self.server.advance()
        return self

    def until(self, stage, drop=None):
        """All stages before this one."""
        while self.server.stage != stage:
            self.step((drop or {}).get(self.server.stage, ()))
        return self


def changed(message, place, by=1):
    """A message with one byte changed."""
    data = bytearray(message)
    data[place] ^= by
    return bytes(data)
