"""The random graph of SecAgg+: who shares secrets and masks with whom (Bell et al. 2020, eprint 2020/704)."""

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from fedrecon.errors import ArgumentError
from fedrecon.secure_aggregation.primitives import Context, field_words

_INSECURE, _UNRELIABLE = Fraction(1, 2**40), Fraction(1, 2**30)
_WORDS = 2**31


def choose_degree(
    clients: int, corrupt: float, dropped: float, threshold: int | None = None, malicious: bool = False
) -> tuple[int, int]:
    """The fewest neighbors k, and the threshold t among them, that are secure and reliable.

    With hypergeometric tails, computed exactly: for all n clients together, at least t corrupt neighbors have
    a probability of at most 2^-40, and fewer than t neighbors that stay one of at most 2^-30. That the others
    fall apart into groups with sums of their own takes two gaps of k / 2 corrupt or dropped clients on the
    ring, and has a probability of at most 2^-40, too. A fraction above zero is one client at least.

    Args:
      clients: n.
      corrupt: largest fraction of clients that share what they know with the server.
      dropped: largest fraction of clients that drop out.
      threshold: t, where it is given.
      malicious: the server may lie, and t is more than two thirds of the k + 1 holders of a share, not half.

    Returns:
      (k, t), k even and below n - 1.

    Raises:
      ArgumentError: a fraction is outside [0, 1), or there are too few clients for any k below n - 1.
    """
    for name, value in (("corrupt", corrupt), ("dropped", dropped)):
        if not 0 <= value < 1:
            raise ArgumentError(name, "a fraction of clients in [0, 1)", value)
    others = clients - 1
    bad, gone = (min(others, _count(fraction, clients)) for fraction in (corrupt, dropped))
    left = min(others, clients - gone)
    for degree in range(2, others, 2):
        draws = math.comb(others, degree)
        # Of at least t corrupt neighbors, for t from k down, and of fewer than t that stay, for t from 1 up.
        insecure = itertools.accumulate(reversed(_ways(others, bad, degree)))
        unreliable = list(itertools.accumulate(_ways(others, left, degree)))
        secure = sum(clients * ways <= _INSECURE * draws for ways in insecure)
        least = max(degree + 1 - secure, least_threshold(degree + 1, malicious))
        chosen = least if threshold is None else threshold
        removed = min(bad + gone, clients)
        gaps = clients**2 * math.comb(clients - degree, removed - degree) if removed >= degree else 0
        if gaps > 2 * _INSECURE * math.comb(clients, removed):
            continue
        if least <= chosen <= degree and clients * unreliable[chosen - 1] <= _UNRELIABLE * draws:
            return degree, chosen
    given = "" if threshold is None else f" and a threshold of {threshold}"
    raise ArgumentError(
        "clients",
        f"enough for fewer than n - 1 neighbors with {corrupt:g} of them corrupt, {dropped:g} dropping out"
        f"{given}; use full SecAgg for small cohorts",
        clients,
    )


def least_threshold(holders: int, malicious: bool) -> int:
    """The least threshold at which no two sets of holders give both of a client's secrets away."""
    return (2 * holders // 3 if malicious else holders // 2) + 1


def _count(fraction: float, clients: int) -> int:
    """So many clients; decimal fractions as they are written: 0.1 is a tenth."""
    return max(int(Fraction(str(fraction)) * clients), fraction > 0)


def _ways(population: int, marked: int, drawn: int) -> list[int]:
    """In how many ways 0 to ``drawn`` of those drawn without replacement are marked."""
    return [math.comb(marked, x) * math.comb(population - marked, drawn - x) for x in range(drawn + 1)]


def commitment(context: Context, client: int, value: bytes) -> bytes:
    """SHA-256 by which a client fixes the value it will reveal."""
    return hashlib.sha256(context.info("commitment", client, client) + value).digest()


def neighborhoods(
    context: Context, revealed: Mapping[int, bytes], degree: int, only: int | None = None
) -> dict[int, tuple[int, ...]]:
    """The neighbors of every client: k of them on a ring, whose order the revealed values decide together.

    Args:
      context: of the round.
      revealed: by client, 32 bytes that nobody could choose knowing the others'.
      degree: k; all others where there are no more than k of them.
      only: a client, of whom alone neighbors are found.

    Returns:
      Neighbors by client, in rising order; j is a neighbor of i where i is one of j.

    Raises:
      ArgumentError: k and the number of clients are both odd, and k smaller than their number minus one.
    """
    members = sorted(revealed)
    count = len(members)
    asked = members if only is None else [only]
    if degree >= count - 1:
        return {i: tuple(j for j in members if j != i) for i in asked}
    if degree % 2 and count % 2:
        raise ArgumentError("neighbors", "an even number in a ring of odd length", degree)
    values = b"".join(i.to_bytes(4, "little") + revealed[i] for i in members)
    ring = shuffled(members, hashlib.sha256(context.info("graph", 0, 0) + values).digest())
    steps = [s for s in range(-(degree // 2), degree // 2 + 1) if s] + [count // 2] * (degree % 2)
    places = {member: place for place, member in enumerate(ring)}
    return {i: tuple(sorted(ring[(places[i] + step) % count] for step in steps)) for i in asked}


def shuffled(members: Sequence[int], key: bytes) -> list[int]:
    """The members in a uniform order that the key decides (Fisher-Yates, draws by rejection)."""
    ring = list(members)
    draws = iter(field_words(key, 4 * len(ring) + 64, _WORDS).tolist())
    for last in range(len(ring) - 1, 0, -1):
        fair = _WORDS - _WORDS % (last + 1)
        drawn = next(draw for draw in draws if draw < fair) % (last + 1)
        ring[last], ring[drawn] = ring[drawn], ring[last]
    return ring
