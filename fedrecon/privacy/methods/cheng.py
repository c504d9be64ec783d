"""Cheng et al.: averaging under Paillier encryption, with a tamper-evident record of the rounds."""

from typing import Any

import numpy as np
import optax

from fedrecon import federated as fl
from fedrecon.encryption import Encoding, paillier
from fedrecon.privacy import chain
from fedrecon.privacy.encrypted_sum import Record, counted, encrypted_sum
from fedrecon.privacy.recording import new_file
from fedrecon.privacy.witness import Witness
from fedrecon.types import Task


def cheng(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    clients: int,
    key_bits: int = 3072,
    bits: int = 24,
    bound: float = 1.0,
    largest_weight: int = 4096,
    ledger: str = "",
    channel: fl.Channel | None = None,
    **options: Any,
) -> fl.FederatedAlgorithm:
    """Averaging of Paillier ciphertexts by a server that cannot read them (Cheng et al., ECG diagnosis).

    An office that is not the aggregator holds the key and decrypts sums alone; a ledger keeps digests of what
    every client sent and of every sum, see `fedrecon.privacy.chain`. The paper's architecture, filled in:
    integers lie in slots, and weights are encrypted with the updates.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      clients: their number, at most so many terms of a sum.
      key_bits: of the key, at least 2048.
      bits: of an entry, sign included.
      bound: entries of a client's change are clipped to it.
      largest_weight: numbers of examples up to here are exact weights.
      ledger: a file for the record of this process's rounds; a number is added to the name of one that
        exists, whose head the new one names. None is kept without a name.
      channel: further stages, ahead of the encryption.
      **options: as in `federated`, except ``reduce``.

    Raises:
      ValueError: arguments out of range.
    """
    encoding = Encoding(bound, bits, clients, largest_weight).check()
    scheme = paillier(encoding, key_bits)
    record = _recorder(ledger, clients, key_bits) if ledger else None
    return fl.federated(
        task,
        optimizer,
        channel=_last(channel, scheme.nbytes),
        reduce=encrypted_sum(lambda: scheme, encoding, record),
        **options,
    )


def _last(channel: fl.Channel | None, nbytes: Any) -> fl.Channel:
    return counted(nbytes) if channel is None else fl.chain(channel, counted(nbytes))


def _recorder(path: str, clients: int, key_bits: int) -> Record:
    """Writes the record of a process; keys of its parties are fresh, so that it is one of its own."""
    server = chain.new_party("server", chain.AGGREGATOR)
    office = chain.new_party("office", chain.KEY_HOLDER)
    members = {
        f"client{number}": chain.new_party(f"client{number}", chain.CLIENT) for number in range(clients)
    }
    witnesses = {name: Witness(member) for name, member in members.items()}
    opened: list[chain.Chain] = []

    def record(round, numbers, vectors, total, found):
        if not opened:
            file, before = new_file(path)
            opened.append(chain.Chain(file))
            about = {"scheme": "paillier", "key_bits": key_bits, "continues": before}
            opened[0].begin(server, [server, office, *members.values()], about)
        digests = {
            f"client{number}": chain.digest_of_blocks(vector.blocks)
            for number, vector in zip(numbers, vectors, strict=True)
        }
        opened[0].round(server, round, digests, members)
        decrypted = chain.digest_of_blocks([np.asarray(found, "<i8").tobytes()])
        opened[0].sum(office, round, chain.digest_of_blocks(total.blocks), decrypted)
        if opened[0].due:
            signed = {name: witness.cosign(opened[0].entries) for name, witness in witnesses.items()}
            opened[0].checkpoint(server, signed)

    return record
