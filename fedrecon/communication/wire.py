"""Compressed updates as bytes: one strict format for every codec.

A message is a header of 64 bytes and the sections of its codec, each packed to its own number of bits and
ending on a full byte. All numbers are little-endian.

| bytes | holds |
|---|---|
| 0-3 | ``FRCM`` |
| 4, 5 | version of the format; number of sections |
| 6-7 | zero |
| 8-15 | job |
| 16-23 | round, client |
| 24-31 | length of the sections in bytes, CRC-32 of everything else |
| 32-63 | SHA-256 of the codec's name and sections, which both ends know |
"""

import hashlib
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.communication import rice
from fedrecon.errors import ArgumentError

HEADER_BYTES = 64
_MAGIC, _VERSION = b"FRCM", 1
_FRONT = struct.Struct("<4sBBHQII")
_END = struct.Struct("<II")
# Values whose bits are spread at once: 32 bytes each.
_BLOCK = 1 << 20


class Section(NamedTuple):
    """One array of a message.

    Attributes:
      name: key of the array in the payload.
      count: its number of values.
      bits: of each value on the wire: 1 to 32 of unsigned integers, 32 of floats, 16 of bfloat16; the most
        that a value needs, of Rice codes.
      kind: ``"unsigned"``, ``"float"``, ``"bfloat"``, or ``"rice"`` of unsigned integers that are mostly
        small (`fedrecon.communication.rice`).
    """

    name: str
    count: int  # type: ignore[assignment]  # hides a method of tuples that nobody calls
    bits: int
    kind: str = "unsigned"

    @property
    def nbytes(self) -> int:
        """Bytes on the wire; of Rice codes the most there can be."""
        return -(-self.count * self.bits // 8) + (self.kind == "rice")


class Envelope(NamedTuple):
    """Whose message it is: unsigned integers of 64, 32 and 32 bits."""

    job: int = 0
    round: int = 0
    client: int = 0


def message_bytes(sections: Sequence[Section]) -> int:
    """Length of a message in bytes; with Rice codes the most there can be."""
    return HEADER_BYTES + sum(section.nbytes for section in sections)


def measured_bytes(sections: Sequence[Section], payload: Mapping[str, jax.Array]) -> jax.Array:
    """uint32 (): length in bytes of the message of this payload, for use in compiled code."""
    length = jnp.uint32(message_bytes([section for section in sections if section.kind != "rice"]))
    for section in sections:
        if section.kind == "rice":
            length = length + rice.rice_bytes(payload[section.name], section.bits)
    return length


def serialize(
    name: str, sections: Sequence[Section], payload: Mapping[str, np.ndarray], envelope: Envelope
) -> bytes:
    """The message of a payload.

    Args:
      name: of the codec.
      sections: what the payload holds, as the codec says for the shapes of the model.
      payload: arrays by name, of any shape with the section's number of values.
      envelope: whose message it is.

    Raises:
      ArgumentError: an array is missing, has another size, is not finite, or a value needs more bits.
    """
    if set(payload) != {section.name for section in sections}:
        raise ArgumentError("payload", f"{[section.name for section in sections]}", sorted(payload))
    body = b"".join(_packed(section, np.asarray(payload[section.name])) for section in sections)
    front = _FRONT.pack(_MAGIC, _VERSION, len(sections), 0, envelope.job, envelope.round, envelope.client)
    table = _table(name, sections)
    length = struct.pack("<I", len(body))
    check = zlib.crc32(body, zlib.crc32(front + length + table))
    return front + _END.pack(len(body), check) + table + body


def deserialize(
    name: str, sections: Sequence[Section], message: bytes
) -> tuple[dict[str, np.ndarray], Envelope]:
    """The payload of a message, and whose it is.

    Raises:
      ArgumentError: the message is cut, damaged, of another version, or of another codec or model.
    """
    if len(message) < HEADER_BYTES:
        raise ArgumentError("message", f"at least {HEADER_BYTES} bytes", len(message))
    magic, version, count, reserved, *envelope = _FRONT.unpack_from(message)
    length, check = _END.unpack_from(message, _FRONT.size)
    table, body = message[_FRONT.size + _END.size : HEADER_BYTES], message[HEADER_BYTES:]
    if (magic, version, reserved) != (_MAGIC, _VERSION, 0):
        raise ArgumentError("message", f"{_MAGIC!r} of version {_VERSION}", f"{magic!r}, {version}")
    if table != _table(name, sections) or count != len(sections):
        raise ArgumentError("message", f"one of the codec {name!r} for this model", "another")
    most, coded = message_bytes(sections) - HEADER_BYTES, any(s.kind == "rice" for s in sections)
    if len(body) != length or length > most or (length < most and not coded):
        raise ArgumentError("message", f"{message_bytes(sections)} bytes", len(message))
    front = message[: _FRONT.size] + struct.pack("<I", length) + table
    if zlib.crc32(body, zlib.crc32(front)) != check:
        raise ArgumentError("message", "the checksum of its content", "another; the message is damaged")
    payload, start = {}, 0
    for section in sections:
        if section.kind == "rice":
            payload[section.name], end = rice.decoded(body[start:], section.count, section.bits)
        else:
            payload[section.name], end = (
                _unpacked(section, body[start : start + section.nbytes]),
                section.nbytes,
            )
        start += end
    if start != len(body):
        raise ArgumentError("message", f"{start + HEADER_BYTES} bytes", len(message))
    return payload, Envelope(*envelope)


def _table(name: str, sections: Sequence[Section]) -> bytes:
    return hashlib.sha256(repr((name, [tuple(section) for section in sections])).encode()).digest()


def _packed(section: Section, values: np.ndarray) -> bytes:
    values = values.reshape(-1)
    if values.size != section.count:
        raise ArgumentError(section.name, f"{section.count} values", values.size)
    if section.kind in ("float", "bfloat"):
        if not np.isfinite(values.astype(np.float32)).all():
            raise ArgumentError(section.name, "finite values", "NaN or infinity")
        if section.kind == "bfloat":
            return values.view(np.uint16).astype("<u2").tobytes()
        return values.astype("<f4").tobytes()
    if section.count and (int(values.min()) < 0 or int(values.max()) >> section.bits):
        raise ArgumentError(section.name, f"integers of {section.bits} bits", int(values.max()))
    if section.kind == "rice":
        return rice.encoded(values, section.bits)
    blocks = [_pack_bits(values[i : i + _BLOCK], section.bits) for i in range(0, section.count, _BLOCK)]
    return b"".join(blocks)


def _pack_bits(values: np.ndarray, bits: int) -> bytes:
    if bits in (8, 16, 32):
        return values.astype(f"<u{bits // 8}").tobytes()
    spread = np.unpackbits(values.astype("<u4").view(np.uint8), bitorder="little").reshape(-1, 32)
    return np.packbits(spread[:, :bits], bitorder="little").tobytes()


def _unpacked(section: Section, body: bytes) -> np.ndarray:
    if section.kind == "bfloat":
        return np.frombuffer(body, "<u2").astype(np.uint16).view(jnp.bfloat16)
    if section.kind == "float":
        return np.frombuffer(body, "<f4")
    if section.bits in (8, 16, 32):
        return np.frombuffer(body, f"<u{section.bits // 8}").astype(np.uint32)
    if not section.count:
        return np.zeros(0, np.uint32)
    # A block begins on a full byte, as it did when it was packed.
    step = _BLOCK * section.bits // 8
    blocks = [
        _unpack_bits(body[start : start + step], min(_BLOCK, section.count - number * _BLOCK), section.bits)
        for number, start in enumerate(range(0, len(body), step))
    ]
    return np.concatenate(blocks)


def _unpack_bits(body: bytes, count: int, bits: int) -> np.ndarray:
    spread = np.unpackbits(np.frombuffer(body, np.uint8), bitorder="little", count=count * bits)
    wide = np.zeros((count, 32), np.uint8)
    wide[:, :bits] = spread.reshape(count, bits)
    return np.packbits(wide, axis=1, bitorder="little").view("<u4")[:, 0].astype(np.uint32)


def bits_for(largest: int) -> int:
    """Bits of an unsigned integer up to ``largest``."""
    return max(1, math.ceil(math.log2(largest + 1))) if largest < 2**52 else largest.bit_length()
