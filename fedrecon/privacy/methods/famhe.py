"""FAMHE: averaging under a collective key that nobody has."""

from typing import Any

import optax

from fedrecon import federated as fl
from fedrecon.encryption import Encoding, collective
from fedrecon.privacy.encrypted_sum import counted, encrypted_sum
from fedrecon.types import Task


def famhe(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    clients: int,
    degree: int = 8192,
    bits: int = 24,
    bound: float = 1.0,
    largest_weight: int = 4096,
    channel: fl.Channel | None = None,
    **options: Any,
) -> fl.FederatedAlgorithm:
    """Averaging of multiparty ciphertexts (Froelicher et al. 2021, Nature Communications).

    All clients hold shares of the key, and all of them answer for each sum, which alone is decrypted. Of the
    paper's system this is the encrypted aggregation, by `fedrecon.encryption.collective` in place of CKKS:
    sums are exact.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      clients: their number; at least 2, all of them holders of the key.
      degree: of the ring.
      bits: of an entry, sign included.
      bound: entries of a client's change are clipped to it.
      largest_weight: numbers of examples up to here are exact weights.
      channel: further stages, ahead of the encryption.
      **options: as in `federated`, except ``reduce``.

    Raises:
      ValueError: arguments out of range.
    """
    encoding = Encoding(bound, bits, clients, largest_weight)
    scheme = collective(encoding, clients, degree)

    def nbytes(size):
        # A client also answers once for each sum.
        return scheme.nbytes(size) + scheme.blocks(size) * scheme.partial_bytes

    stage = counted(nbytes)
    return fl.federated(
        task,
        optimizer,
        channel=stage if channel is None else fl.chain(channel, stage),
        reduce=encrypted_sum(lambda: scheme, encoding),
        **options,
    )
