"""Singh et al.: federated averaging of devices with a tamper-evident, append-only ledger of the rounds."""

import time
from typing import Any

import jax
import optax

from fedrecon import federated as fl
from fedrecon.errors import ArgumentError
from fedrecon.privacy import chain
from fedrecon.privacy.recording import Record, new_file, recorded
from fedrecon.privacy.witness import Witness
from fedrecon.types import Task

# Weights are recorded in units of 2^-16.
_WEIGHT_UNIT = 2**16


def singh(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    clients: int,
    ledger: str = "",
    gateways: int = 0,
    checkpoint: int = 10,
    reduce: fl.Reducer | None = None,
    **options: Any,
) -> fl.FederatedAlgorithm:
    """FedAvg of devices, gateways and a coordinator that keep a ledger of hashes and signatures.

    An entry of a round holds the digest of the model theta^r that clients received, of each device's upload a
    leaf that the device signs, the Merkle root over all leaves, weights, bytes and the time; it is signed by
    the coordinator, and names the hash of the entry before. Every ``checkpoint`` rounds all devices co-sign
    (more than two thirds are needed). With gateways each signs the root of its devices, and the round's root
    is over theirs. No number of the training changes: without a name no ledger is kept, and the rounds are
    those of FedAvg bit for bit.

    Deviations: the publication is an architecture (no coin or mining is kept of its blockchain). All parties
    are in one process and their keys are fresh for each, so that the ledger shows what is written and what
    tampering changes, and vouches for nobody. Devices are added up in one sum, not gateway by gateway. The
    model after the last round has no entry of its own. Of a private training the ledger has no budget;
    ``ledger.jsonl`` of the run has. Device i is at gateway i mod ``gateways``.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      clients: their number.
      ledger: a file for the record of this process's rounds; a number is added to the name of one that
        exists, whose head the new one names. None is kept without a name.
      gateways: number of edge gateways, at most ``clients``; 0 for none.
      checkpoint: rounds between co-signed checkpoints, at least 1.
      reduce: as in `federated`; uploads are recorded on their way to it.
      **options: as in `federated`.

    Raises:
      ValueError: arguments out of range.
    """
    if not 0 <= gateways <= clients:
        raise ArgumentError("gateways", f"a number from 0 to {clients}", gateways)
    if checkpoint < 1:
        raise ArgumentError("checkpoint", "at least 1 round", checkpoint)
    if gateways and not ledger:
        raise ArgumentError("gateways", "0 without a ledger, in which alone they are seen", gateways)
    if ledger:
        reduce = recorded(_recorder(ledger, clients, gateways, checkpoint), reduce)
    return fl.federated(task, optimizer, reduce=reduce, **options)


def _recorder(path: str, clients: int, gateways: int, checkpoint: int) -> Record:
    server = chain.new_party("coordinator", chain.AGGREGATOR)
    devices = {name: chain.new_party(name, chain.CLIENT) for name in map(_device, range(clients))}
    edges = {name: chain.new_party(name, chain.GATEWAY) for name in map(_gateway, range(gateways))}
    witnesses = {name: Witness(device) for name, device in devices.items()}
    at = {_device(i): _gateway(i % gateways) for i in range(clients)} if gateways else None
    opened: list[chain.Chain] = []

    def record(round, uploads, model):
        if not opened:
            file, before = new_file(path)
            opened.append(chain.Chain(file))
            members = [server, *edges.values(), *devices.values()]
            about = {"method": "singh", "continues": before}
            opened[0].begin(server, members, about, every=checkpoint, gateways=at, sums=False)
        about = {
            "model": chain.digest_of_tree(model).hex(),
            "weights": {_device(i): _weight(upload) for i, upload in uploads.items()},
            "bytes": sum(x.nbytes for x in jax.tree.leaves(list(uploads.values()))),
            "time": int(time.time()),
        }
        digests = {_device(i): chain.digest_of_tree(upload) for i, upload in uploads.items()}
        opened[0].round(server, round, digests, devices | edges, about)
        if opened[0].due:
            signed = {name: witness.cosign(opened[0].entries) for name, witness in witnesses.items()}
            opened[0].checkpoint(server, signed)

    return record


def _device(number: int) -> str:
    return f"device{number}"


def _gateway(number: int) -> str:
    return f"gateway{number}"


def _weight(upload: fl.Upload) -> int:
    """The sum of a client's weights in units of 2^-16; masked ones are words."""
    return round(sum(float(x) for x in jax.tree.leaves(upload.weight)) * _WEIGHT_UNIT)
