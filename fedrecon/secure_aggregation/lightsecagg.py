"""LightSecAgg (So et al. 2022): one mask for each client, of whose sum the clients hold coded pieces.

A client draws a mask of uniform elements of the field, cuts it into U - T blocks, adds T random ones, and
sends each other client the value of the polynomial through them at a point of its own. Any T pieces of a mask
are uniform. After the masked words each client sends the sum of the pieces of all summands: any U such sums
give the sum of the masks, however many clients dropped out. No mask is shared by two clients.
"""

import dataclasses
import os
import struct
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.secure_aggregation import primitives, wire
from fedrecon.secure_aggregation.errors import AbortedError, ProtocolError
from fedrecon.secure_aggregation.primitives import Context, HybridKeys, Random, job_bytes
from fedrecon.secure_aggregation.setup import check_counts, check_words
from fedrecon.secure_aggregation.shamir import lagrange_weights
from fedrecon.secure_aggregation.wire import SERVER, Kind, Message

FIELD = 2**31 - 1
"""The prime below which words and masks are: products of two elements fit into 64 bits."""

# Products that are held at a time.
_CHUNK = 1 << 16
# Beside each piece: the number of one party, that of the other, nonce, tag, ciphertext of ML-KEM.
_ENVELOPE = 4 + 4 + primitives.NONCE + primitives.TAG + primitives.ML_KEM_CIPHERTEXT


@dataclasses.dataclass(frozen=True)
class LightSecAggSetup:
    """One round of LightSecAgg.

    Attributes:
      job: name of the training.
      round: of the job, below 2^32.
      clients: N, numbered from 0.
      threshold: U, clients that must stay to the end.
      size: d, words of a client, each below 2^31 - 1.
      colluders: T < U, clients that may share what they know with the server.

    Raises:
      ArgumentError: an attribute is out of range.
    """

    job: str
    round: int
    clients: int
    threshold: int
    size: int
    colluders: int

    def __post_init__(self) -> None:
        check_counts(self.round, self.clients, self.size)
        for name, value, least, most in (
            ("threshold", self.threshold, 2, self.clients),
            ("colluders", self.colluders, 1, self.threshold - 1),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise ArgumentError(name, f"an integer from {least} to {most}", value)

    @property
    def context(self) -> Context:
        return Context(job_bytes(self.job), self.round)

    @property
    def block(self) -> int:
        """Words of a piece: d / (U - T), rounded up."""
        return -(-self.size // (self.threshold - self.colluders))

    def bytes_up(self) -> dict[str, int]:
        """Bytes that a client sends when nobody drops out, by what they are for; headers not counted.

        "protocol" is (N - 1) 4 d / (U - T) for pieces, 4 d + 4 d / (U - T) online; "sealing" the X25519 key,
        and for each piece two numbers, nonce and tag; "post_quantum" key and ciphertexts of ML-KEM-768.
        """
        others, piece = self.clients - 1, 4 * self.block
        return {
            "protocol": others * piece + 4 * self.size + piece,
            "sealing": primitives.X25519_PUBLIC + others * (8 + primitives.NONCE + primitives.TAG),
            "post_quantum": primitives.ML_KEM_PUBLIC + others * primitives.ML_KEM_CIPHERTEXT,
        }

    def messages_up(self) -> int:
        """Messages that a client sends."""
        return 4


def coded_pieces(blocks: np.ndarray, points: Sequence[int]) -> np.ndarray:
    """Values at other points of the polynomial whose values at 1 and on are the rows of ``blocks``.

    Args:
      blocks: uint32 elements of the field, (count, size).
      points: distinct, above count.

    Returns:
      uint32 elements (points, size).
    """
    count = len(blocks)
    return _interpolated(blocks, tuple(range(1, count + 1)), points)


def piece_point(setup: LightSecAggSetup, client: int) -> int:
    """Where the piece of a client is evaluated: behind the points of the blocks."""
    return setup.threshold + 1 + client


def _interpolated(values: np.ndarray, at: tuple[int, ...], points: Sequence[int]) -> np.ndarray:
    """Values at ``points`` of the polynomial with rows of ``values`` at ``at``."""
    weights = np.array([lagrange_weights(point, at, FIELD) for point in points], np.uint64)
    found = np.empty((len(points), values.shape[1]), np.uint32)
    step = max(1, _CHUNK // len(points))
    for start in range(0, values.shape[1], step):
        part = values[:, start : start + step].astype(np.uint64)
        total = np.zeros((len(points), part.shape[1]), np.uint64)
        for value, weight in zip(part, weights.T, strict=True):
            total += _folded(weight[:, None] * value)
        found[:, start : start + step] = total % np.uint64(FIELD)
    return found


def _folded(products: np.ndarray) -> np.ndarray:
    """Below 2^32 and the same mod 2^31 - 1, as 2^31 is 1 there; in place."""
    high = products >> np.uint64(31)
    products &= np.uint64(FIELD)
    products += high
    return products


class LightSecAggClient:
    """A client in one round, as `secagg.SecAggClient`; its words are elements of the field, see `FIELD`."""

    def __init__(
        self,
        setup: LightSecAggSetup,
        number: int,
        words: Callable[[], np.ndarray],
        random: Random = os.urandom,
    ) -> None:
        if not 0 <= number < setup.clients:
            raise ArgumentError("number", f"0 to {setup.clients - 1}", number)
        self._setup, self._context, self._number = setup, setup.context, number
        self._words, self._random = words, random
        self._awaits: Kind | None = None
        self._started = False
        self._pieces: dict[int, np.ndarray] = {}

    def start(self) -> bytes:
        """The client's first message: its keys of this round.

        Raises:
          ProtocolError: it has been sent.
        """
        if self._started:
            raise ProtocolError("start", "one start in a round", "a second one")
        self._started = True
        self._keys = HybridKeys.from_secret(self._random(primitives.SECRET))
        self._awaits = Kind.CODED_ROSTER
        return self._pack(Kind.CODED_KEYS, self._keys.public)

    def answer(self, data: bytes) -> bytes:
        """The answer to a message of the server; errors are those of `secagg.SecAggClient.answer`."""
        message = wire.parse(data, self._context)
        wire.expect(message, () if self._awaits is None else self._awaits, SERVER)
        self._awaits = None
        handlers = {
            Kind.CODED_ROSTER: self._roster,
            Kind.CODED_DELIVERY: self._delivery,
            Kind.CODED_INCLUDED: self._included,
        }
        return handlers[message.kind](message.body)

    def _pack(self, kind: Kind, *parts: bytes | memoryview) -> bytes:
        return wire.pack(self._context, kind, self._number, *parts)

    def _roster(self, body: memoryview) -> bytes:
        keys = dict(wire.records(body, primitives.PUBLIC, "keys"))
        if keys.get(self._number) != self._keys.public:
            raise ProtocolError("keys", f"those of client {self._number} unaltered", "others or none")
        if max(keys) >= self._setup.clients:
            raise ProtocolError("keys", f"clients below {self._setup.clients}", max(keys))
        if len({key[: primitives.X25519_PUBLIC] for key in keys.values()}) < len(keys):
            raise ProtocolError("keys", "distinct keys", "one of them twice")
        _check_left("keys", len(keys), self._setup.threshold)
        self._publics = keys
        self._awaits = Kind.CODED_DELIVERY
        return self._share()

    def _share(self) -> bytes:
        setup, me = self._setup, self._number
        needed = setup.threshold * setup.block
        blocks = primitives.field_words(self._random(primitives.SECRET), needed, FIELD)
        self._mask = blocks[: setup.size].copy()
        members = tuple(self._publics)
        points = [piece_point(setup, j) for j in members]
        pieces = coded_pieces(blocks.reshape(setup.threshold, setup.block), points)
        envelopes = []
        for j, piece in zip(members, pieces, strict=True):
            if j == me:
                self._pieces[me] = piece
                continue
            secret, ciphertext = primitives.encapsulate(self._publics[j])
            key = self._key(me, j, self._keys.public + self._publics[j], secret, ciphertext)
            nonce = self._random(primitives.NONCE)
            plain = piece.astype("<u4", copy=False).tobytes()
            sealed = primitives.seal(key, nonce, plain, self._associated(me, j, ciphertext))
            envelopes.append((j, struct.pack("<I", me) + nonce + ciphertext + sealed))
        return self._pack(Kind.CODED_SHARES, wire.listed(envelopes))

    def _key(self, sender: int, recipient: int, publics: bytes, secret: bytes, ciphertext: bytes) -> bytes:
        other = recipient if sender == self._number else sender
        info = self._context.info("piece", sender, recipient)
        return self._keys.agree(self._publics[other], secret, info, publics + ciphertext)

    def _associated(self, sender: int, recipient: int, ciphertext: bytes) -> bytes:
        return self._context.info("sealed piece", sender, recipient) + ciphertext

    def _delivery(self, body: memoryview) -> bytes:
        received = dict(wire.records(body, envelope_size(self._setup) - 4, "pieces"))
        _check_left("pieces", len(received) + 1, self._setup.threshold)
        for j, envelope in received.items():
            self._pieces[j] = self._open(j, envelope)
        words = self._words()
        check_words(words, self._setup.size, FIELD)
        masked = ((words.astype(np.uint64) + self._mask) % np.uint64(FIELD)).astype("<u4")
        del self._mask
        self._awaits = Kind.CODED_INCLUDED
        return self._pack(Kind.CODED_MASKED, masked.data)

    def _open(self, j: int, envelope: bytes) -> np.ndarray:
        me, name = self._number, f"piece of client {j}"
        if j not in self._publics or j == me or int.from_bytes(envelope[:4], "little") != me:
            raise ProtocolError(name, f"one of another client for client {me}", "another")
        nonce, rest = envelope[4 : 4 + primitives.NONCE], envelope[4 + primitives.NONCE :]
        ciphertext, sealed = rest[: primitives.ML_KEM_CIPHERTEXT], rest[primitives.ML_KEM_CIPHERTEXT :]
        secret = self._keys.decapsulate(ciphertext)
        key = self._key(j, me, self._publics[j] + self._keys.public, secret, ciphertext)
        plain = primitives.open_sealed(key, nonce, sealed, self._associated(j, me, ciphertext), name)
        piece = np.frombuffer(plain, "<u4").astype(np.uint32)
        if piece.max() >= FIELD:
            raise ProtocolError(name, "elements of the field", "others")
        return piece

    def _included(self, body: memoryview) -> bytes:
        summands = [j for j, _ in wire.records(body, 0, "summands")]
        if self._number not in summands:
            raise ProtocolError("summands", f"client {self._number} among them", "a list without it")
        if set(summands) - self._pieces.keys():
            raise ProtocolError("summands", "clients that sent pieces", "others, too")
        _check_left("summands", len(summands), self._setup.threshold)
        total = sum((self._pieces[j].astype(np.uint64) for j in summands), np.uint64(0)) % np.uint64(FIELD)
        # Nothing is left that a second answer could be made of.
        self._pieces = {}
        return self._pack(Kind.CODED_UNMASK, total.astype("<u4").data)


class LightSecAggServer:
    """The server in one round, as `secagg_server.SecAggServer`; ``total`` is mod 2^31 - 1."""

    def __init__(self, setup: LightSecAggSetup) -> None:
        self._setup, self._context = setup, setup.context
        self.stage: str | None = "keys"
        self.total: np.ndarray | None = None
        self.included: tuple[int, ...] = ()
        self._sum = np.zeros(setup.size, np.uint64)
        self._expected: set[int] = set(range(setup.clients))
        self._arrived: dict[int, bytes] = {}
        self._members: tuple[int, ...] = ()

    def receive(self, data: bytes) -> None:
        """Takes a message of a client; errors are those of `secagg_server.SecAggServer.receive`."""
        message = wire.parse(data, self._context)
        kinds = {
            "keys": Kind.CODED_KEYS,
            "shares": Kind.CODED_SHARES,
            "masked": Kind.CODED_MASKED,
            "unmask": Kind.CODED_UNMASK,
        }
        wire.expect(message, () if self.stage is None else kinds[self.stage])
        wire.expect_sender(message, self._expected, self._arrived)
        self._check(message)
        if message.kind == Kind.CODED_MASKED:
            self._sum += np.frombuffer(message.body, "<u4")
            self._arrived[message.sender] = b""
        else:
            self._arrived[message.sender] = bytes(message.body)

    def _check(self, message: Message) -> None:
        body, setup, name = message.body, self._setup, f"message of client {message.sender}"
        if message.kind == Kind.CODED_SHARES:
            recipients = tuple(j for j, _ in wire.records(body, envelope_size(setup) - 4, name))
            if recipients != tuple(j for j in self._members if j != message.sender):
                raise ProtocolError(name, "pieces for all others", f"pieces for {recipients}")
            return
        size = {
            Kind.CODED_KEYS: primitives.PUBLIC,
            Kind.CODED_MASKED: 4 * setup.size,
            Kind.CODED_UNMASK: 4 * setup.block,
        }[message.kind]
        if len(body) != size:
            raise ProtocolError(name, f"{size} bytes", len(body))
        if message.kind != Kind.CODED_KEYS and np.frombuffer(body, "<u4").max() >= FIELD:
            raise ProtocolError(name, f"words below {FIELD}", "others")

    def advance(self) -> dict[int, bytes]:
        """Closes the stage; errors are those of `secagg_server.SecAggServer.advance`."""
        if self.stage is None:
            raise ProtocolError("advance", "a round that goes on", "one that has ended")
        stage, self.stage = self.stage, None
        arrived, self._arrived = self._arrived, {}
        if len(arrived) < self._setup.threshold:
            raise AbortedError(f"stage {stage}", f"at least {self._setup.threshold} clients", len(arrived))
        self._expected = set(arrived)
        if stage == "keys":
            self._members = tuple(sorted(arrived))
            body = wire.listed(sorted(arrived.items()))
            return self._send(Kind.CODED_ROSTER, dict.fromkeys(arrived, body), "shares")
        if stage == "shares":
            return self._send(Kind.CODED_DELIVERY, self._delivered(arrived), "masked")
        if stage == "masked":
            self.included = tuple(sorted(arrived))
            body = wire.listed((i, b"") for i in self.included)
            return self._send(Kind.CODED_INCLUDED, dict.fromkeys(arrived, body), "unmask")
        self._recover(arrived)
        return {}

    def _send(self, kind: Kind, bodies: Mapping[int, bytes], stage: str) -> dict[int, bytes]:
        self.stage = stage
        return {i: wire.pack(self._context, kind, SERVER, body) for i, body in bodies.items()}

    def _delivered(self, arrived: Mapping[int, bytes]) -> dict[int, bytes]:
        delivered: dict[int, list[tuple[int, bytes]]] = {i: [] for i in arrived}
        for i in sorted(arrived):
            for j, envelope in wire.records(memoryview(arrived[i]), envelope_size(self._setup) - 4, "pieces"):
                if j in delivered:
                    delivered[j].append((i, j.to_bytes(4, "little") + envelope[4:]))
        return {i: wire.listed(envelopes) for i, envelopes in delivered.items()}

    def _recover(self, arrived: Mapping[int, bytes]) -> None:
        setup = self._setup
        used = sorted(arrived)[: setup.threshold]
        sums = np.stack([np.frombuffer(arrived[i], "<u4").astype(np.uint32) for i in used])
        at = tuple(piece_point(setup, i) for i in used)
        blocks = _interpolated(sums, at, range(1, setup.threshold - setup.colluders + 1))
        mask = blocks.reshape(-1)[: setup.size].astype(np.uint64)
        # Fewer than 2^32 summands below 2^31 each do not overflow.
        total = (self._sum % np.uint64(FIELD) + np.uint64(FIELD) - mask) % np.uint64(FIELD)
        self.total = total.astype(np.uint32)


def envelope_size(setup: LightSecAggSetup) -> int:
    """Bytes of a sealed piece with all that goes with it."""
    return _ENVELOPE + 4 * setup.block


def _check_left(name: str, found: int, least: int) -> None:
    if found < least:
        raise ProtocolError(name, f"at least {least} clients", found)
