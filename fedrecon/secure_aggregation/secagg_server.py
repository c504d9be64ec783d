"""SecAgg (Bonawitz et al. 2017) and SecAgg+ (Bell et al. 2020): the server, which learns the sum alone.

`SecAggServer.receive` takes the clients' messages, `SecAggServer.advance` closes a stage with those that
have come and gives the messages for the next, until there is a sum. The server sees public keys, ciphertexts,
masked words, and one kind of shares of each client.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from fedrecon.secure_aggregation import primitives, shamir, wire
from fedrecon.secure_aggregation.errors import AbortedError, ProtocolError
from fedrecon.secure_aggregation.graph import neighborhoods
from fedrecon.secure_aggregation.primitives import HybridKeys
from fedrecon.secure_aggregation.secagg import ENVELOPE, KEYS, key_record, mask_key, recovery_key
from fedrecon.secure_aggregation.setup import COMMITMENT, QUANTUM_RECORD, SecAggSetup
from fedrecon.secure_aggregation.wire import SERVER, Kind, Message

_KEM = primitives.ML_KEM_CIPHERTEXT
_STAGES = {
    "keys": Kind.KEYS,
    "graph": Kind.REVEAL,
    "shares": Kind.SHARES,
    "masked": Kind.MASKED,
    "consistency": Kind.SIGNATURE,
    "unmask": Kind.UNMASK,
}


class SecAggServer:
    """The server in one round.

    Attributes:
      stage: that of the messages that are due: keys, graph (with fewer neighbors), shares, masked,
        consistency (with ``malicious``) and unmask; None when the round has ended.
      total: the sum of the words of the clients in ``included``, mod 2^32; None before the end.
      included: the clients in the sum.
    """

    def __init__(self, setup: SecAggSetup) -> None:
        self._setup, self._context = setup, setup.context
        self.stage: str | None = "keys"
        self.total: np.ndarray | None = None
        self.included: tuple[int, ...] = ()
        self._sum = np.zeros(setup.size, np.uint32)
        # Clients whose messages may come in this stage, and those that have come.
        self._expected: set[int] = set(range(setup.clients))
        self._arrived: dict[int, bytes] = {}
        self._keys: dict[int, bytes] = {}
        self._commitments: dict[int, bytes] = {}
        self._graph: dict[int, tuple[int, ...]] = {}
        # What client i encapsulated for the mask with j, and sealed for its recovery, by (i, j).
        self._quantum: dict[tuple[int, int], bytes] = {}
        self._senders: set[int] = set()

    def receive(self, data: bytes) -> None:
        """Takes a message of a client.

        Raises:
          ProtocolError: it is no message that is due from a client that is still in the round, or its second;
            nothing has changed.
        """
        message = wire.parse(data, self._context)
        wire.expect(message, () if self.stage is None else _STAGES[self.stage])
        wire.expect_sender(message, self._expected, self._arrived)
        self._check(message)
        if message.kind == Kind.MASKED:
            self._sum += np.frombuffer(message.body, "<u4")
            self._arrived[message.sender] = b""
        else:
            self._arrived[message.sender] = bytes(message.body)

    def advance(self) -> dict[int, bytes]:
        """Closes the stage: messages by client for the next, or none when the sum is there.

        Raises:
          AbortedError: too few clients are left; the round has ended without a sum.
          ProtocolError: what clients sent does not belong together; so has it then.
        """
        if self.stage is None:
            raise ProtocolError("advance", "a round that goes on", "one that has ended")
        stage, self.stage = self.stage, None
        self._check_left(stage)
        arrived, self._arrived = self._arrived, {}
        self._expected = set(arrived)
        close = {
            "keys": self._after_keys,
            "graph": self._after_reveals,
            "shares": self._after_shares,
            "masked": self._after_masked,
            "consistency": self._after_signatures,
            "unmask": self._recover,
        }
        return close[stage](arrived)

    def _check(self, message: Message) -> None:
        """Checks the form of a message's body."""
        body, name = message.body, f"message of client {message.sender}"
        if message.kind == Kind.SHARES:
            recipients = tuple(j for j, _ in wire.records(body, ENVELOPE, name))
            if recipients != self._graph[message.sender]:
                raise ProtocolError(name, "shares for each of its neighbors", f"shares for {recipients}")
            return
        if message.kind == Kind.UNMASK:
            found = tuple(j for j, _ in wire.records(body, shamir.SHARE, name))
            if found != self._holders(message.sender):
                raise ProtocolError(name, f"one share of each of {self._holders(message.sender)}", found)
            return
        size = {
            Kind.KEYS: key_record(self._setup) + COMMITMENT * self._setup.sparse,
            Kind.REVEAL: COMMITMENT,
            Kind.MASKED: 4 * self._setup.size,
            Kind.SIGNATURE: primitives.SIGNATURE,
        }[message.kind]
        if len(body) != size:
            raise ProtocolError(name, f"{size} bytes", len(body))

    def _check_left(self, stage: str) -> None:
        """Whether enough clients are left, of all and around each of them."""
        left, setup = set(self._arrived), self._setup
        least = max(setup.threshold, setup.smallest_sum if stage == "masked" else 0)
        if len(left) < least:
            raise AbortedError(f"stage {stage}", f"at least {least} clients", len(left))
        if stage == "graph" and setup.malicious and left < self._expected:
            raise AbortedError(
                "stage graph", f"values of all {len(self._expected)} clients that committed", len(left)
            )
        if stage in ("keys", "graph"):
            return
        # Secrets of dropped clients matter only when their shares have been sent.
        owners = self._senders if stage == "unmask" else left
        for i in owners:
            holders = len(left & {i, *self._graph[i]})
            if holders < setup.threshold:
                raise AbortedError(
                    f"stage {stage}", f"at least {setup.threshold} holders of shares of client {i}", holders
                )

    def _holders(self, client: int) -> tuple[int, ...]:
        """The clients of whose secrets a client holds shares."""
        return tuple(sorted(self._senders & {client, *self._graph[client]}))

    def _send(self, kind: Kind, bodies: Mapping[int, tuple[bytes, ...]], stage: str) -> dict[int, bytes]:
        self.stage = stage
        return {i: wire.pack(self._context, kind, SERVER, *parts) for i, parts in bodies.items()}

    def _after_keys(self, arrived: Mapping[int, bytes]) -> dict[int, bytes]:
        size = key_record(self._setup)
        self._keys = {i: body[:size] for i, body in arrived.items()}
        if self._setup.sparse:
            committed = wire.listed((i, arrived[i][size:]) for i in sorted(arrived))
            return self._send(Kind.COMMITMENTS, dict.fromkeys(arrived, (committed,)), "graph")
        self._graph = neighborhoods(self._context, dict.fromkeys(arrived, b""), self._setup.degree)
        keys = self._listed_keys(arrived)
        return self._send(Kind.ROSTER, dict.fromkeys(arrived, (keys,)), "shares")

    def _after_reveals(self, revealed: Mapping[int, bytes]) -> dict[int, bytes]:
        self._graph = neighborhoods(self._context, revealed, self._setup.degree)
        values = len(revealed).to_bytes(4, "little") + wire.listed((i, revealed[i]) for i in sorted(revealed))
        rosters = {i: (values, self._listed_keys((i, *self._graph[i]))) for i in revealed}
        return self._send(Kind.ROSTER, rosters, "shares")

    def _listed_keys(self, clients: Iterable[int]) -> bytes:
        return wire.listed((i, self._keys[i]) for i in sorted(clients))

    def _after_shares(self, arrived: Mapping[int, bytes]) -> dict[int, bytes]:
        self._senders = set(arrived)
        delivered: dict[int, list[tuple[int, bytes]]] = {i: [] for i in arrived}
        for i in sorted(arrived):
            for j, envelope in wire.records(memoryview(arrived[i]), ENVELOPE, "shares"):
                self._quantum[i, j] = envelope[-QUANTUM_RECORD + _KEM :]
                if j in delivered:
                    # The number of the recipient takes the place of the sender's.
                    delivered[j].append((i, j.to_bytes(4, "little") + envelope[4:]))
        bodies = {i: (wire.listed(envelopes),) for i, envelopes in delivered.items()}
        return self._send(Kind.DELIVERY, bodies, "masked")

    def _after_masked(self, arrived: Mapping[int, bytes]) -> dict[int, bytes]:
        self.included = tuple(sorted(arrived))
        body = wire.listed((i, b"") for i in self.included)
        stage = "consistency" if self._setup.malicious else "unmask"
        return self._send(Kind.INCLUDED, dict.fromkeys(arrived, (body,)), stage)

    def _after_signatures(self, arrived: Mapping[int, bytes]) -> dict[int, bytes]:
        body = wire.listed(sorted(arrived.items()))
        return self._send(Kind.SIGNATURES, dict.fromkeys(arrived, (body,)), "unmask")

    def _recover(self, arrived: Mapping[int, bytes]) -> dict[int, bytes]:
        """Takes all masks off the sum."""
        shares: dict[int, dict[int, bytes]] = {j: {} for j in self._senders}
        for i, body in arrived.items():
            for j, share in wire.records(memoryview(body), shamir.SHARE, "shares"):
                shares[j][i + 1] = share
        total = self._sum
        for j in sorted(self._senders):
            secret = shamir.recover(shares[j], self._setup.threshold, f"shares of client {j}")
            if j in self.included:
                primitives.add_mask(total, secret, subtract=True)
                continue
            keys = HybridKeys.from_secret(secret)
            if keys.public != self._keys[j][primitives.PUBLIC : KEYS]:
                raise ProtocolError(f"shares of client {j}", "the secret of its keys", "another")
            for k in self._graph[j]:
                if k in self.included:
                    primitives.add_mask(total, self._common_key(keys, secret, j, k), subtract=j > k)
        self.total = total
        return {}

    def _common_key(self, keys: HybridKeys, secret: bytes, j: int, k: int) -> bytes:
        """The key of the mask of a client j that dropped out, whose secret is known, and client k."""
        sealed = self._quantum[j, k][_KEM:]
        name = f"recovery of the mask of clients {j} and {k}"
        sent = primitives.open_sealed(
            recovery_key(self._setup, secret, j, k), bytes(primitives.NONCE), sealed, b"", name
        )
        got = keys.decapsulate(self._quantum[k, j][:_KEM])
        return mask_key(self._setup, keys, j, k, self._keys[k][primitives.PUBLIC : KEYS], sent, got)
