"""The one format of messages: a header that says what they belong to, and records of fixed size."""

import enum
import struct
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import NamedTuple

from fedrecon.secure_aggregation.errors import ProtocolError
from fedrecon.secure_aggregation.primitives import JOB, Context

SERVER = 2**32 - 1
"""The sender of a server's messages; clients are 0 to n - 1."""

VERSION = 1
_MAGIC = b"fRsa"
_HEADER = struct.Struct(f"<4sBB{JOB}sIII")
HEADER = _HEADER.size
_MOST_BYTES = 2**32 - 1
_NUMBER = struct.Struct("<I")


class Kind(enum.IntEnum):
    """What a message says."""

    KEYS = 1
    COMMITMENTS = 2
    REVEAL = 3
    ROSTER = 4
    SHARES = 5
    DELIVERY = 6
    MASKED = 7
    INCLUDED = 8
    SIGNATURE = 9
    SIGNATURES = 10
    UNMASK = 11
    CODED_ROSTER = 12
    CODED_SHARES = 13
    CODED_DELIVERY = 14
    CODED_MASKED = 15
    CODED_INCLUDED = 16
    CODED_UNMASK = 17
    CODED_KEYS = 18


class Message(NamedTuple):
    """A message whose header fits.

    Attributes:
      kind: what it says.
      sender: number of a client, or SERVER.
      body: a view of the bytes behind the header.
    """

    kind: Kind
    sender: int
    body: memoryview


def pack(context: Context, kind: Kind, sender: int, *parts: bytes | memoryview) -> bytes:
    """A message of these parts.

    Raises:
      ProtocolError: it would have 4 GiB or more.
    """
    size = sum(len(part) if isinstance(part, bytes) else part.nbytes for part in parts)
    if size > _MOST_BYTES:
        raise ProtocolError("message", "fewer than 4 GiB", f"{size} bytes")
    return b"".join((_HEADER.pack(_MAGIC, VERSION, kind, context.job, context.round, sender, size), *parts))


def parse(data: bytes, context: Context) -> Message:
    """A message of this job and round.

    Raises:
      ProtocolError: it is no such message, to the last byte.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ProtocolError("message", "bytes", type(data).__name__)
    view = memoryview(data).cast("B")
    if len(view) < HEADER:
        raise ProtocolError("message", f"a header of {HEADER} bytes", f"{len(view)} bytes in all")
    magic, version, kind, job, number, sender, size = _HEADER.unpack_from(view)
    if magic != _MAGIC:
        raise ProtocolError("message", "a message of a secure sum", "other bytes")
    if version != VERSION:
        raise ProtocolError("message: version", str(VERSION), version)
    if kind not in Kind._value2member_map_:
        raise ProtocolError("message: type", f"1 to {len(Kind)}", kind)
    if job != context.job:
        raise ProtocolError("message: job", context.job.hex(), job.hex())
    if number != context.round:
        raise ProtocolError("message: round", str(context.round), number)
    if size != len(view) - HEADER:
        raise ProtocolError("message: length", f"{size} bytes after the header", len(view) - HEADER)
    return Message(Kind(kind), sender, view[HEADER:])


def expect(message: Message, kinds: Kind | Sequence[Kind], sender: int | None = None) -> None:
    """Checks what a message says, and that it comes from the server if that is the ``sender``.

    Raises:
      ProtocolError: it is another.
    """
    kinds = (kinds,) if isinstance(kinds, Kind) else tuple(kinds)
    if message.kind not in kinds:
        wanted = " or ".join(kind.name for kind in kinds) or "nothing more in this round"
        raise ProtocolError("message: type", wanted, message.kind.name)
    if sender is not None and message.sender != sender:
        who = "the server" if sender == SERVER else f"client {sender}"
        found = "the server" if message.sender == SERVER else f"client {message.sender}"
        raise ProtocolError("message: sender", who, found)


def expect_sender(message: Message, expected: Container[int], arrived: Container[int]) -> None:
    """Checks that a message comes from a client that is still in the round, and is its first of the stage.

    Raises:
      ProtocolError: it is not.
    """
    if message.sender not in expected:
        who = "the server" if message.sender == SERVER else f"client {message.sender}"
        raise ProtocolError("message: sender", "a client that is still in the round", who)
    if message.sender in arrived:
        raise ProtocolError("message: sender", "each client once", f"client {message.sender} again")


def records(body: memoryview, size: int, name: str) -> Iterator[tuple[int, bytes]]:
    """(number, the ``size`` bytes that belong to it) of a list of such records, whose numbers rise.

    Raises:
      ProtocolError: the body is no such list; it names ``name``.
    """
    step = _NUMBER.size + size
    if len(body) % step:
        raise ProtocolError(name, f"records of {step} bytes", f"{len(body)} bytes")
    last = -1
    for start in range(0, len(body), step):
        (number,) = _NUMBER.unpack_from(body, start)
        if number <= last:
            raise ProtocolError(name, "rising numbers of clients", f"{number} after {last}")
        last = number
        yield number, bytes(body[start + _NUMBER.size : start + step])


def listed(entries: Iterable[tuple[int, bytes]]) -> bytes:
    """The body that `records` reads, of (number, bytes) in rising order."""
    return b"".join(_NUMBER.pack(number) + data for number, data in entries)
