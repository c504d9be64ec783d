"""Which identifiers two institutions have in common, by Diffie-Hellman with blinded points (Meadows 1986).

Each party draws a key, and sends its identifiers as points of Curve25519 times that key, in an order of its
own. It multiplies what it gets by its key and sends that back in the order in which it came. Multiples of
both keys are the same for the same identifier, whoever multiplied first, so that each finds which of its own
the other has:

  A -> B   a H(x), shuffled        B -> A   b H(y), shuffled
  A -> B   a b H(y)                B -> A   b a H(x)

Each multiplication is X25519 (RFC 7748) of the library ``cryptography`` (the extra ``secure``), whose
clamping clears the cofactor; H is `hash_to_points`, salted by the session.

What is learned, by parties that follow the protocol and take the hash for a random oracle and the decisional
Diffie-Hellman problem for hard: the identifiers in common, and the other's number of identifiers, or what it
was padded to. An observer of the bytes learns both numbers and that of the identifiers in common. Without the
keys nothing can be tried against the messages, however few identifiers there may be.

What is not prevented: a party may put in identifiers that it does not have, and so ask for them; nor is it
shown that a party used one key throughout. The transport has to authenticate both.
"""

import os
import struct
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fedrecon.errors import ArgumentError
from fedrecon.secure_aggregation import ProtocolError
from fedrecon.vertical.curve25519 import POINT, PRIME, hash_to_points

SESSION = 16
"""Bytes of a session's name, drawn anew for each run by one party and told the other."""

Identifier = str | bytes
Random = Callable[[int], bytes]

_MAGIC, _VERSION = b"fRpi", 1
_HEADER = struct.Struct(f"<4sBBB{SESSION}sI")
_BLINDED, _DOUBLED = 1, 2
_ENCODINGS = {str: 1, bytes: 2}
_NAMES = {1: "text", 2: "bytes"}
_DOMAIN = b"fedrecon/psi/v1/"


class Common(NamedTuple):
    """What a party learns.

    Attributes:
      rows: where the common identifiers are among the party's own, in an order that is the same for both
        parties and says nothing else.
      others: the other's number of identifiers, or what it was padded to.
    """

    rows: tuple[int, ...]
    others: int


class Party:
    """One of two parties: `start`, then `answer` to the other's first message, then `finish` with its second.

    Both do the same. Work is one multiplication for each identifier of either party.

    Args:
      identifiers: distinct ones, all text or all bytes, the same kind at both parties. Text is compared in
        Unicode's normal form C, and has no space at either end.
      session: 16 bytes, the same at both parties and never used before.
      padded: number of points that are sent, at least that of the identifiers; the rest are of random bytes
        and in no intersection. 0 sends the identifiers alone.
      random: of the key, the order and what pads; for tests alone another than the system's.

    Raises:
      ArgumentError: identifiers that are doubled, empty, of mixed kinds or with spaces at an end, which are
        named; a session of another length; padding to fewer than there are.
      ImportError: the library cryptography is not installed.
    """

    def __init__(
        self,
        identifiers: Sequence[Identifier],
        session: bytes,
        padded: int = 0,
        random: Random = os.urandom,
    ) -> None:
        self._encoding, encoded = _encoded(identifiers)
        if len(session) != SESSION:
            raise ArgumentError("session", f"{SESSION} bytes", f"{len(session)} bytes")
        if padded and padded < len(encoded):
            raise ArgumentError("padded", f"0, or at least the {len(encoded)} identifiers", padded)
        self._session, self._count, self._key = session, len(encoded), _new_key(random(POINT))
        dummies = [random(64) for _ in range(max(0, padded - len(encoded)))]
        points = hash_to_points(_DOMAIN + b"identifier/" + session, encoded)
        points += hash_to_points(_DOMAIN + b"padding/" + session, dummies)
        # A key for each place; the order of random keys is a random order.
        self._order = sorted(range(len(points)), key=[random(16) for _ in points].__getitem__)
        self._points = [points[i] for i in self._order]
        self._doubled: list[bytes] | None = None
        self._sent = self._finished = False

    def start(self) -> bytes:
        """The first message: the party's points, blinded.

        Raises:
          ProtocolError: it has been sent; the key serves once.
        """
        if self._sent:
            raise ProtocolError("start", "one start of a party", "a second one")
        self._sent = True
        return self._pack(_BLINDED, _multiplied(self._key, self._points))

    def answer(self, data: bytes) -> bytes:
        """The other's points times this party's key too, in the order in which they came.

        Raises:
          ProtocolError: the message is none of this session and kind of identifiers, or holds a point twice,
            one of low order or a number that is none; or another was answered.
        """
        if self._doubled is not None:
            raise ProtocolError("answer", "one list of the other party", "a second one")
        points = self._parse(data, _BLINDED)
        if any(int.from_bytes(point, "little") >= PRIME for point in points):
            raise ProtocolError("message: points", "numbers below 2^255 - 19", "a larger one")
        if len(set(points)) < len(points):
            raise ProtocolError("message: points", "distinct ones", f"{len(points) - len(set(points))} again")
        self._doubled = _multiplied(self._key, points)
        return self._pack(_DOUBLED, self._doubled)

    def finish(self, data: bytes) -> Common:
        """What is in common, from the other's answer.

        Raises:
          ProtocolError: the message is no answer of this session to as many points; or nothing was answered
            yet, or this was called before.
        """
        if self._doubled is None or self._finished:
            raise ProtocolError("finish", "one finish, after an answer", "another call")
        own = self._parse(data, _DOUBLED)
        if len(own) != len(self._points):
            raise ProtocolError("message: points", f"{len(self._points)}, those that were sent", len(own))
        self._finished = True
        common = set(own) & set(self._doubled)
        found = sorted((point, self._order[place]) for place, point in enumerate(own) if point in common)
        # A random point is that of an identifier with a probability of 2^-250.
        return Common(tuple(row for _, row in found if row < self._count), len(self._doubled))

    def _pack(self, kind: int, points: Sequence[bytes]) -> bytes:
        header = _HEADER.pack(_MAGIC, _VERSION, kind, self._encoding, self._session, len(points))
        return b"".join((header, *points))

    def _parse(self, data: bytes, expected: int) -> list[bytes]:
        if len(data) < _HEADER.size:
            raise ProtocolError("message", f"a header of {_HEADER.size} bytes", f"{len(data)} bytes in all")
        magic, version, kind, encoding, session, count = _HEADER.unpack_from(data)
        if (magic, version) != (_MAGIC, _VERSION):
            raise ProtocolError("message", f"one of an intersection, version {_VERSION}", "other bytes")
        if kind != expected:
            wanted, found = ("blinded points" if k == _BLINDED else "answers" for k in (expected, kind))
            raise ProtocolError("message: type", wanted, found)
        if session != self._session:
            raise ProtocolError("message: session", self._session.hex(), session.hex())
        if encoding != self._encoding:
            raise ProtocolError(
                "message: identifiers",
                f"{_NAMES[self._encoding]}, as this party's",
                _NAMES.get(encoding, encoding),
            )
        if len(data) != _HEADER.size + POINT * count:
            raise ProtocolError("message: length", f"{count} points of {POINT} bytes", f"{len(data)} bytes")
        return [bytes(data[start : start + POINT]) for start in range(_HEADER.size, len(data), POINT)]


def new_session() -> bytes:
    """A session of random bytes."""
    return os.urandom(SESSION)


def intersect(first: Party, second: Party) -> tuple[Common, Common]:
    """Both parties of a session in one process, and what each learns."""
    one, two = first.start(), second.start()
    to_second, to_first = first.answer(two), second.answer(one)
    return first.finish(to_first), second.finish(to_second)


def _encoded(identifiers: Sequence[Identifier]) -> tuple[int, list[bytes]]:
    # NumPy's text and bytes are Python's.
    kinds = {next((kind for kind in _ENCODINGS if isinstance(one, kind)), type(one)) for one in identifiers}
    if len(kinds) > 1 or not kinds <= set(_ENCODINGS):
        names = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise ArgumentError("identifiers", "all text or all bytes", names)
    found: dict[bytes, Identifier] = {}
    for one in identifiers:
        if isinstance(one, str):
            if one != one.strip():
                raise ArgumentError("identifiers", "no space at either end", repr(one))
            data = unicodedata.normalize("NFC", one).encode()
        else:
            data = one
        if not data:
            raise ArgumentError("identifiers", "none that is empty", repr(one))
        if data in found:
            raise ArgumentError("identifiers", "distinct ones", f"{one!r} again")
        found[data] = one
    return _ENCODINGS[kinds.pop() if kinds else str], list(found)


def _new_key(secret: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import x25519
    except ImportError as error:
        raise ImportError(
            "private set intersection needs the library cryptography: pip install 'fedrecon[secure]'"
        ) from error
    return x25519.X25519PrivateKey.from_private_bytes(secret)


def _multiplied(key: Any, points: Sequence[bytes]) -> list[bytes]:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    read, multiply = X25519PublicKey.from_public_bytes, key.exchange
    try:
        return [multiply(read(point)) for point in points]
    except ValueError:
        raise ProtocolError("message: points", "points of full order", "one of low order") from None
