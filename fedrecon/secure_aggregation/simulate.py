"""A whole round in one process: the clients' and the server's state machines, with clients that drop out."""

import os
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.secure_aggregation.errors import AbortedError
from fedrecon.secure_aggregation.lightsecagg import LightSecAggClient, LightSecAggServer, LightSecAggSetup
from fedrecon.secure_aggregation.primitives import SECRET, Identity, Random
from fedrecon.secure_aggregation.secagg import SecAggClient
from fedrecon.secure_aggregation.secagg_server import SecAggServer
from fedrecon.secure_aggregation.setup import SecAggSetup

STAGES = ("keys", "shares", "masked", "unmask")
"""Stages at which clients may drop out: they send nothing from there on."""


class Outcome(NamedTuple):
    """What a round came to.

    Attributes:
      total: uint32 words (size,), the sum over ``included``; None if the round was aborted.
      included: the clients in the sum; none if the round was aborted.
      reason: why it was aborted; "" otherwise.
      bytes_up: sent by each client.
      bytes_down: sent to each client.
      seconds: wall time of all parties together.
      log: for each stage that was closed, its name, the clients heard, and the bytes of both directions.
    """

    total: np.ndarray | None
    included: tuple[int, ...]
    reason: str
    bytes_up: tuple[int, ...]
    bytes_down: tuple[int, ...]
    seconds: float
    log: tuple["Stage", ...]

    @property
    def aborted(self) -> bool:
        """Whether there is no sum."""
        return self.total is None


class Stage(NamedTuple):
    """A stage as the server saw it.

    Attributes:
      name: see `secagg_server.SecAggServer`.
      heard: clients whose messages came.
      up: bytes of these messages.
      down: bytes of the server's answers.
      seconds: wall time until they were ready.
    """

    name: str
    heard: tuple[int, ...]
    up: int
    down: int
    seconds: float


def simulate_round(
    setup: SecAggSetup | LightSecAggSetup,
    words: Callable[[int], np.ndarray],
    drop: Mapping[str, Collection[int]] | None = None,
    random: Random = os.urandom,
    progress: Callable[[Stage], None] | None = None,
) -> Outcome:
    """Runs a round.

    Args:
      setup: of SecAgg, SecAgg+ or LightSecAgg; with ``malicious`` every client gets an identity.
      words: of a client, uint32 (size,), asked for when they are due.
      drop: clients by the stage at which they stop to send, of `STAGES`; the first counts.
      random: of secrets; for tests alone another than the system's.
      progress: is told of each stage that was closed.

    Raises:
      ArgumentError: a stage or a client in ``drop`` is unknown, or words do not fit.
    """
    gone = _check_drop(drop or {}, setup.clients)
    start = time.perf_counter()
    clients, server = _parties(setup, words, random)
    up, down = [0] * setup.clients, [0] * setup.clients
    replies: dict[int, bytes | None] = dict.fromkeys(range(setup.clients))
    log: list[Stage] = []
    reason = ""
    while server.stage is not None:
        stage, begun = server.stage, time.perf_counter()
        heard, sent = [], 0
        for i, message in replies.items():
            if _lost(gone.get(i), stage):
                continue
            data = clients[i].start() if message is None else clients[i].answer(message)
            server.receive(data)
            up[i] += len(data)
            sent += len(data)
            heard.append(i)
        try:
            answers = server.advance()
        except AbortedError as error:
            reason, answers = str(error), {}
        replies = dict(answers)
        for i, data in answers.items():
            down[i] += len(data)
        received = sum(map(len, answers.values()))
        log.append(Stage(stage, tuple(heard), sent, received, time.perf_counter() - begun))
        if progress is not None:
            progress(log[-1])
    included = () if server.total is None else server.included
    seconds = time.perf_counter() - start
    return Outcome(server.total, included, reason, tuple(up), tuple(down), seconds, tuple(log))


def plain_sum(
    setup: SecAggSetup | LightSecAggSetup, words: Callable[[int], np.ndarray], clients: Collection[int]
) -> np.ndarray:
    """The sum of the words of these clients in the arithmetic of the protocol, uint32 (size,)."""
    total = np.zeros(setup.size, np.uint64)
    for i in clients:
        total += words(i)
    modulus = 2**32 if isinstance(setup, SecAggSetup) else 2**31 - 1
    return (total % np.uint64(modulus)).astype(np.uint32)


def _parties(
    setup: SecAggSetup | LightSecAggSetup, words: Callable[[int], np.ndarray], random: Random
) -> tuple[list[Any], Any]:
    def of(i: int) -> Callable[[], np.ndarray]:
        return lambda: words(i)

    if isinstance(setup, LightSecAggSetup):
        return [LightSecAggClient(setup, i, of(i), random) for i in range(setup.clients)], LightSecAggServer(
            setup
        )
    if not setup.malicious:
        return [SecAggClient(setup, i, of(i), random=random) for i in range(setup.clients)], SecAggServer(
            setup
        )
    identities = [Identity.from_secret(random(SECRET)) for _ in range(setup.clients)]
    publics = {i: identity.public for i, identity in enumerate(identities)}
    clients = [
        SecAggClient(setup, i, of(i), identity, publics, random) for i, identity in enumerate(identities)
    ]
    return clients, SecAggServer(setup)


def _check_drop(drop: Mapping[str, Collection[int]], clients: int) -> dict[int, str]:
    """By client, the first stage at which it drops out."""
    gone: dict[int, str] = {}
    if unknown := drop.keys() - set(STAGES):
        raise ArgumentError("drop", f"stages of {', '.join(STAGES)}", ", ".join(sorted(map(repr, unknown))))
    for stage in STAGES:
        for i in drop.get(stage, ()):
            if not 0 <= i < clients:
                raise ArgumentError("drop", f"clients from 0 to {clients - 1}", i)
            gone.setdefault(i, stage)
    return gone


# Neighbors are drawn among those whose keys came; signatures are asked for when masked words have come.
_ORDER = ("keys", "graph", "shares", "masked", "consistency", "unmask")
_LAST = {"keys": 0, "shares": 2, "masked": 3, "unmask": 4}


def _lost(stage: str | None, now: str) -> bool:
    return stage is not None and _ORDER.index(now) >= _LAST[stage]
