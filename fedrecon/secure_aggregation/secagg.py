"""SecAgg (Bonawitz et al. 2017) and SecAgg+ (Bell et al. 2020): double masks with recovery, for one client.

A client's words are sent under a mask of its own and masks shared with its neighbors, which cancel in the
sum. Its neighbors hold shares of the secrets behind both, and give away those of its own mask if its words
are in the sum, those of its shared masks if not, and never both. Transport is elsewhere: a client takes the
bytes of the server's messages and gives those of its answers, as does `secagg_server.SecAggServer`.

Shared masks come from X25519 and ML-KEM-768 together. Each of two neighbors encapsulates a secret for the
other's key of the round, and seals it under a key of its own, so that the secret of either party recovers
their mask.
"""

import hashlib
import os
import struct
from collections.abc import Callable, Mapping

import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.secure_aggregation import primitives, shamir, wire
from fedrecon.secure_aggregation.errors import ProtocolError
from fedrecon.secure_aggregation.graph import commitment, neighborhoods
from fedrecon.secure_aggregation.primitives import HybridKeys, Identity, Random
from fedrecon.secure_aggregation.setup import COMMITMENT, QUANTUM_RECORD, SecAggSetup, check_words
from fedrecon.secure_aggregation.wire import SERVER, Kind

KEYS = 2 * primitives.PUBLIC
PLAIN = struct.Struct(f"<III{shamir.SHARE}sI{shamir.SHARE}s")
SEALED = PLAIN.size + primitives.TAG
# Behind the number of one party: that of the other, nonce, sealed shares, ciphertexts of ML-KEM.
ENVELOPE = 4 + primitives.NONCE + SEALED + QUANTUM_RECORD


def key_record(setup: SecAggSetup) -> int:
    """Bytes of a client in the list of keys: two public keys, and with ``malicious`` a signature."""
    return KEYS + primitives.SIGNATURE * setup.malicious


def signed_keys(setup: SecAggSetup, client: int, keys: bytes) -> bytes:
    """What a client signs of its keys."""
    return setup.context.info("keys", client, client) + keys


def signed_included(setup: SecAggSetup, body: bytes) -> bytes:
    """What a client signs of the list of summands."""
    return setup.context.info("included", 0, 0) + body


def mask_key(
    setup: SecAggSetup, own: HybridKeys, me: int, other: int, public: bytes, sent: bytes, got: bytes
) -> bytes:
    """The key of the mask of two clients, from the keys of one of them.

    Args:
      setup: of the round.
      own: keys of client ``me`` for masks.
      me: client.
      other: client.
      public: of the other.
      sent: what ``me`` encapsulated for the other.
      got: what the other encapsulated for ``me``.
    """
    low, high = min(me, other), max(me, other)
    first = me == low
    encapsulated = sent + got if first else got + sent
    transcript = own.public + public if first else public + own.public
    return own.agree(public, encapsulated, setup.context.info("mask", low, high), transcript)


def recovery_key(setup: SecAggSetup, secret: bytes, me: int, other: int) -> bytes:
    """The key under which ``me`` seals what it encapsulates for the other, from the secret of its masks."""
    return primitives.derive(secret, setup.context.info("recover", me, other))


class SecAggClient:
    """A client in one round: `start`, and then `answer` to each message of the server.

    Args:
      setup: what all agreed on.
      number: of the client, from 0.
      words: gives the client's uint32 words (size,) when they are due.
      identity: signs for the client, with ``setup.malicious``.
      identities: public key of every client's identity, from elsewhere than the server.
      random: of secrets; for tests alone another than the system's.

    Raises:
      ArgumentError: the number is out of range, or identities are missing.
    """

    def __init__(
        self,
        setup: SecAggSetup,
        number: int,
        words: Callable[[], np.ndarray],
        identity: Identity | None = None,
        identities: Mapping[int, bytes] | None = None,
        random: Random = os.urandom,
    ) -> None:
        if not 0 <= number < setup.clients:
            raise ArgumentError("number", f"0 to {setup.clients - 1}", number)
        if setup.malicious and (identity is None or identities is None):
            raise ArgumentError("identity", "one for every client, as the server may lie", "none")
        self._setup, self._context, self._number = setup, setup.context, number
        self._words, self._random = words, random
        self._identity, self._identities = identity, identities or {}
        self._awaits: Kind | None = None
        self._started = False
        # Shares that this client holds, of the secrets of masks and of own masks, by client.
        self._held: dict[int, tuple[bytes, bytes]] = {}
        # What this client encapsulated for the mask with each neighbor.
        self._sent: dict[int, bytes] = {}

    def start(self) -> bytes:
        """The client's first message: its keys of this round.

        Raises:
          ProtocolError: it has been sent.
        """
        if self._started:
            raise ProtocolError("start", "one start in a round", "a second one")
        self._started = True
        self._seal_keys = HybridKeys.from_secret(self._random(primitives.SECRET))
        self._mask_secret = self._random(primitives.SECRET)
        self._mask_keys = HybridKeys.from_secret(self._mask_secret)
        self._own_mask = self._random(primitives.SECRET)
        self._reveal = self._random(COMMITMENT) if self._setup.sparse else b""
        keys = self._seal_keys.public + self._mask_keys.public
        if self._identity is not None and self._setup.malicious:
            keys += self._identity.sign(signed_keys(self._setup, self._number, keys))
        self._own_record = keys
        self._awaits = Kind.COMMITMENTS if self._setup.sparse else Kind.ROSTER
        committed = commitment(self._context, self._number, self._reveal) if self._setup.sparse else b""
        return self._pack(Kind.KEYS, keys, committed)

    def answer(self, data: bytes) -> bytes:
        """The answer to a message of the server.

        Raises:
          ProtocolError: it is no message that is due now, and nothing has happened; or it is one and does not
            hold what it should, and the client takes no further part in this round.
        """
        message = wire.parse(data, self._context)
        wire.expect(message, () if self._awaits is None else self._awaits, SERVER)
        self._awaits = None
        handlers = {
            Kind.COMMITMENTS: self._commitments,
            Kind.ROSTER: self._roster,
            Kind.DELIVERY: self._delivery,
            Kind.INCLUDED: self._included,
            Kind.SIGNATURES: self._signatures,
        }
        return handlers[message.kind](message.body)

    def _pack(self, kind: Kind, *parts: bytes | memoryview) -> bytes:
        return wire.pack(self._context, kind, self._number, *parts)

    def _commitments(self, body: memoryview) -> bytes:
        self._committed = dict(wire.records(body, COMMITMENT, "commitments"))
        mine = commitment(self._context, self._number, self._reveal)
        if self._committed.get(self._number) != mine:
            raise ProtocolError("commitments", f"that of client {self._number} unaltered", "another or none")
        if max(self._committed) >= self._setup.clients:
            raise ProtocolError("commitments", f"clients below {self._setup.clients}", max(self._committed))
        self._awaits = Kind.ROSTER
        return self._pack(Kind.REVEAL, self._reveal)

    def _roster(self, body: memoryview) -> bytes:
        neighbors = None
        if self._setup.sparse:
            body, neighbors = self._drawn(body)
        keys = dict(wire.records(body, key_record(self._setup), "keys"))
        others = tuple(j for j in keys if j != self._number)
        if neighbors is None:
            self._members = set(keys)
        elif others != neighbors:
            raise ProtocolError("keys", f"those of the neighbors {neighbors}", f"those of {others}")
        self._check_keys(keys)
        holders = len(others) + 1
        _check_left("keys", holders, self._setup.threshold)
        self._publics = {j: (keys[j][: primitives.PUBLIC], keys[j][primitives.PUBLIC : KEYS]) for j in others}
        self._awaits = Kind.DELIVERY
        return self._share(others)

    def _drawn(self, body: memoryview) -> tuple[memoryview, tuple[int, ...]]:
        """The list of keys behind that of revealed values, and the neighbors that these decide."""
        if len(body) < 4:
            raise ProtocolError("roster", "a count", f"{len(body)} bytes")
        end = 4 + (4 + COMMITMENT) * int.from_bytes(body[:4], "little")
        revealed = dict(wire.records(body[4:end], COMMITMENT, "revealed values"))
        for j, value in revealed.items():
            if self._committed.get(j) != commitment(self._context, j, value):
                raise ProtocolError("revealed values", f"that which client {j} committed to", "another")
        if revealed.get(self._number) != self._reveal:
            raise ProtocolError("revealed values", f"that of client {self._number}", "none")
        # Whoever knows all values and may leave out some chooses the graph.
        if self._setup.malicious and len(revealed) < len(self._committed):
            expected = f"those of all {len(self._committed)} clients that committed, as the server may lie"
            raise ProtocolError("revealed values", expected, len(revealed))
        self._members = set(revealed)
        graph = neighborhoods(self._context, revealed, self._setup.degree, self._number)
        return body[end:], graph[self._number]

    def _check_keys(self, keys: Mapping[int, bytes]) -> None:
        if keys.get(self._number) != self._own_record:
            raise ProtocolError("keys", f"those of client {self._number} unaltered", "others or none")
        if max(keys) >= self._setup.clients:
            raise ProtocolError("keys", f"clients below {self._setup.clients}", max(keys))
        size = primitives.PUBLIC
        publics = [part for record in keys.values() for part in (record[:size], record[size:KEYS])]
        if len({p[: primitives.X25519_PUBLIC] for p in publics}) < len(publics):
            raise ProtocolError("keys", "distinct keys", "one of them twice")
        if self._setup.malicious:
            for j, record in keys.items():
                name = f"signature of the keys of client {j}"
                signed = signed_keys(self._setup, j, record[:KEYS])
                primitives.verify(self._identities.get(j, b""), record[KEYS:], signed, name)

    def _share(self, others: tuple[int, ...]) -> bytes:
        holders = [j + 1 for j in sorted((*others, self._number))]
        threshold, random, context = self._setup.threshold, self._random, self._context
        of_masks = shamir.split(self._mask_secret, threshold, holders, random)
        of_own = shamir.split(self._own_mask, threshold, holders, random)
        me = self._number
        self._held[me] = (of_masks[me + 1], of_own[me + 1])
        envelopes = []
        for j in others:
            to_seal, to_mask = self._publics[j]
            sealing, for_seal = primitives.encapsulate(to_seal)
            self._sent[j], for_mask = primitives.encapsulate(to_mask)
            kept = primitives.seal(
                recovery_key(self._setup, self._mask_secret, me, j),
                bytes(primitives.NONCE),
                self._sent[j],
                b"",
            )
            opened = for_seal + for_mask + kept
            key = self._seal_keys.agree(
                to_seal, sealing, context.info("share", me, j), self._seal_keys.public + to_seal + for_seal
            )
            nonce = random(primitives.NONCE)
            plain = PLAIN.pack(me, j, j + 1, of_masks[j + 1], j + 1, of_own[j + 1])
            sealed = primitives.seal(key, nonce, plain, _associated(self._setup, me, j, opened))
            envelopes.append((j, struct.pack("<I", me) + nonce + sealed + opened))
        return self._pack(Kind.SHARES, wire.listed(envelopes))

    def _delivery(self, body: memoryview) -> bytes:
        me = self._number
        received = dict(wire.records(body, ENVELOPE, "shares"))
        _check_left("shares", len(received) + 1, self._setup.threshold)
        keys = {j: self._open(j, envelope) for j, envelope in received.items()}
        words = self._words()
        check_words(words, self._setup.size)
        masked = words.copy()
        primitives.add_mask(masked, self._own_mask)
        for j, key in keys.items():
            primitives.add_mask(masked, key, subtract=j < me)
        self._awaits = Kind.INCLUDED
        return self._pack(Kind.MASKED, masked.astype("<u4", copy=False).data)

    def _open(self, j: int, envelope: bytes) -> bytes:
        """Keeps the shares of client j; returns the key of the common mask."""
        me, name = self._number, f"shares of client {j}"
        if j not in self._publics or int.from_bytes(envelope[:4], "little") != me:
            raise ProtocolError(name, f"those of a neighbor for client {me}", "others")
        nonce, rest = envelope[4 : 4 + primitives.NONCE], envelope[4 + primitives.NONCE :]
        sealed, opened = rest[:SEALED], rest[SEALED:]
        for_seal = opened[: primitives.ML_KEM_CIPHERTEXT]
        for_mask = opened[primitives.ML_KEM_CIPHERTEXT :][: primitives.ML_KEM_CIPHERTEXT]
        of_seal, of_mask = self._publics[j]
        key = self._seal_keys.agree(
            of_seal,
            self._seal_keys.decapsulate(for_seal),
            self._context.info("share", j, me),
            of_seal + self._seal_keys.public + for_seal,
        )
        plain = primitives.open_sealed(key, nonce, sealed, _associated(self._setup, j, me, opened), name)
        sender, recipient, first, of_masks, second, of_own = PLAIN.unpack(plain)
        if (sender, recipient, first, second) != (j, me, me + 1, me + 1):
            raise ProtocolError(name, f"sender {j} and recipient {me}", f"{sender} and {recipient}")
        self._held[j] = (of_masks, of_own)
        got = self._mask_keys.decapsulate(for_mask)
        return mask_key(self._setup, self._mask_keys, me, j, of_mask, self._sent[j], got)

    def _included(self, body: memoryview) -> bytes:
        self._summands = {j for j, _ in wire.records(body, 0, "summands")}
        self._summands_body = bytes(body)
        if self._number not in self._summands:
            raise ProtocolError("summands", f"client {self._number} among them", "a list without it")
        silent = self._publics.keys() - self._held.keys()
        if self._summands - self._members or self._summands & silent:
            raise ProtocolError("summands", "clients that sent keys and shares", "others, too")
        _check_left("summands", len(self._summands), self._setup.smallest_sum)
        _check_left("summands", len(self._summands & self._held.keys()), self._setup.threshold)
        if not self._setup.malicious:
            return self._unmask()
        self._awaits = Kind.SIGNATURES
        assert self._identity is not None
        return self._pack(
            Kind.SIGNATURE, self._identity.sign(signed_included(self._setup, self._summands_body))
        )

    def _signatures(self, body: memoryview) -> bytes:
        signatures = dict(wire.records(body, primitives.SIGNATURE, "signatures"))
        if signatures.keys() - self._summands:
            raise ProtocolError("signatures", "those of summands", "others, too")
        signed = signed_included(self._setup, self._summands_body)
        for j, signature in signatures.items():
            name = f"signature of the summands by client {j}"
            primitives.verify(self._identities.get(j, b""), signature, signed, name)
        _check_left("signatures", len(signatures.keys() & self._held.keys()), self._setup.threshold)
        return self._unmask()

    def _unmask(self) -> bytes:
        """One share of each client: of its own mask if its words are in the sum, else of its other masks."""
        given = [(j, self._held[j][j in self._summands]) for j in sorted(self._held)]
        # Nothing is left that a second answer could be made of.
        self._held = {}
        return self._pack(Kind.UNMASK, wire.listed(given))


def _associated(setup: SecAggSetup, sender: int, recipient: int, opened: bytes) -> bytes:
    """What a sealed share is bound to besides its key: round, sender, recipient, and the bytes beside it."""
    return setup.context.info("sealed", sender, recipient) + hashlib.sha256(opened).digest()


def _check_left(name: str, found: int, least: int) -> None:
    if found < least:
        raise ProtocolError(name, f"at least {least} clients", found)
