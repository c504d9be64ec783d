"""Private set intersection with each party in a process of its own, timed."""

import hashlib
import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from fedrecon.vertical import Party, new_session

# Seconds after which a party that does not answer is given up.
_LIMIT = 3600


def identifiers(size: int, seed: int) -> tuple[list[str], list[str]]:
    """Those of two parties, of which half are in common, in orders of their own."""
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(10 * size)[: size + size - size // 2]
    own, other = numbers[:size], rng.permutation(numbers[size - size // 2 :])
    return [f"patient-{n:012d}" for n in own], [f"patient-{n:012d}" for n in other]


def measure(size: int, seed: int) -> dict[str, Any]:
    """An intersection of two lists of ``size``.

    Returns:
      "exact" (what both found is the intersection, in one order), "sizes" (of each list, and in common),
      "seconds" from when both processes have their lists to when both have the result, "cpu_seconds" of each
      party, "bytes" that either sends.
    """
    own, other = identifiers(size, seed)
    session, context = new_session(), multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_second, args=(theirs, size, seed, session), daemon=True)
    process.start()
    theirs.close()
    try:
        _received(ours)
        begun, used = time.perf_counter(), time.process_time()
        ours.send_bytes(b"go")
        party = Party(own, session)
        first = party.start()
        ours.send_bytes(first)
        answer = party.answer(_received(ours))
        ours.send_bytes(answer)
        common = party.finish(_received(ours))
        found = [own[row] for row in common.rows]
        used = time.process_time() - used
        digest = _received(ours)
        seconds = time.perf_counter() - begun
        others = float(_received(ours).decode())
    finally:
        ours.close()
        process.join(10)
        if process.is_alive():
            process.terminate()
    exact = set(found) == set(own) & set(other) and digest == _digest(found) and len(found) == len(set(found))
    return {
        "exact": exact,
        "sizes": [len(own), common.others, len(found)],
        "seconds": seconds,
        "cpu_seconds": [used, others],
        "bytes": len(first) + len(answer),
    }


def _second(link: Connection, size: int, seed: int, session: bytes) -> None:
    own = identifiers(size, seed)[1]
    link.send_bytes(b"ready")
    _received(link)
    used = time.process_time()
    party = Party(own, session)
    first = party.start()
    # What is sent waits until it is read: one party sends while the other reads.
    answer = party.answer(_first_then(link, first))
    given = _first_then(link, answer)
    found = [own[row] for row in party.finish(given).rows]
    used = time.process_time() - used
    link.send_bytes(_digest(found))
    link.send_bytes(str(used).encode())


def _first_then(link: Connection, message: bytes) -> bytes:
    received = _received(link)
    link.send_bytes(message)
    return received


def _received(link: Connection) -> bytes:
    if not link.poll(_LIMIT):
        raise TimeoutError("the other party of the intersection does not answer")
    return link.recv_bytes()


def _digest(found: list[str]) -> bytes:
    return hashlib.sha256("\n".join(found).encode()).digest()
