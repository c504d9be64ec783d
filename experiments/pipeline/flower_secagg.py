"""A round of Flower's SecAgg+ in one process: its clients' stages as they are, and its server's arithmetic.

Run by an interpreter that has Flower, as a file: ``python flower_secagg.py CLIENTS SIZE THRESHOLD DROPPED``,
where the last DROPPED clients send no masked words; all others are neighbors of each. Prints one JSON object.
"""

import importlib
import json
import sys
import time

import numpy as np
from flwr.common import bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_extract,
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

# The package has a function of this name in the place of the module.
mod = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
# Defaults of Flower's workflow.
CLIP, TARGET, MODULUS, WEIGHT = 8.0, 1 << 22, 1 << 32, 1000.0


def sent_bytes(reply: dict) -> int:
    """The bytes in a reply, without what carries them."""
    total = 0
    for value in reply.values():
        for part in value if isinstance(value, list) else [value]:
            total += len(part) if isinstance(part, bytes) else 8
    return total


def run(numbers: np.ndarray, threshold: int, dropped: int) -> tuple[np.ndarray, int]:
    """The mean that the server finds of numbers (clients, size), and the most bytes that a client sent."""
    clients = len(numbers)
    nodes = list(range(1, clients + 1))
    active = nodes[: clients - dropped]
    configs = {
        Key.SAMPLE_NUMBER: clients,
        Key.SHARE_NUMBER: clients,
        Key.THRESHOLD: threshold,
        Key.CLIPPING_RANGE: CLIP,
        Key.TARGET_RANGE: TARGET,
        Key.MOD_RANGE: MODULUS,
        Key.MAX_WEIGHT: WEIGHT,
    }
    states = {i: mod.SecAggPlusState() for i in nodes}
    up = dict.fromkeys(nodes, 0)
    keys, sealed, total, shares = {}, {i: ([], []) for i in nodes}, None, {i: [] for i in nodes}
    for i in nodes:
        states[i].nid = i
        reply = mod._setup(states[i], configs)
        keys[i] = (reply[Key.PUBLIC_KEY_1], reply[Key.PUBLIC_KEY_2])
        up[i] += sent_bytes(reply)
    for i in nodes:
        reply = mod._share_keys(states[i], {str(j): keys[j] for j in nodes})
        up[i] += sent_bytes(reply)
        for j, ciphertext in zip(reply[Key.DESTINATION_LIST], reply[Key.CIPHERTEXT_LIST], strict=True):
            sealed[j][0].append(i)
            sealed[j][1].append(ciphertext)
    for i in active:
        stage = {Key.SOURCE_LIST: sealed[i][0], Key.CIPHERTEXT_LIST: sealed[i][1]}
        reply = mod._collect_masked_vectors(states[i], stage, 1000, ndarrays_to_parameters([numbers[i - 1]]))
        up[i] += sent_bytes(reply)
        masked = [bytes_to_ndarray(part) for part in reply[Key.MASKED_PARAMETERS]]
        total = masked if total is None else parameters_addition(total, masked)
    total = parameters_mod(total, MODULUS)
    for i in active:
        reply = mod._unmask(
            states[i], {Key.ACTIVE_NODE_ID_LIST: active, Key.DEAD_NODE_ID_LIST: nodes[len(active) :]}
        )
        up[i] += sent_bytes(reply)
        for j, share in zip(reply[Key.NODE_ID_LIST], reply[Key.SHARE_LIST], strict=True):
            shares[j].append(share)
    shape = get_parameters_shape(total)
    for j in nodes:
        secret = combine_shares(shares[j])
        if j in active:
            total = parameters_subtraction(total, pseudo_rand_gen(secret, MODULUS, shape))
            continue
        for k in active:
            key = generate_shared_key(bytes_to_private_key(secret), bytes_to_public_key(keys[k][0]))
            change = parameters_addition if j > k else parameters_subtraction
            total = change(total, pseudo_rand_gen(key, MODULUS, shape))
    factor, total = factor_extract(parameters_mod(total, MODULUS))
    (mean,) = dequantize(total, CLIP, TARGET)
    mean = (mean - (len(active) - 1) * CLIP) * TARGET / factor
    return mean, max(up.values())


def main() -> None:
    """Prints seconds of CPU, the most bytes that a client sent, and the largest error of the mean."""
    clients, size, threshold, dropped = map(int, sys.argv[1:])
    numbers = np.random.default_rng(0).uniform(-1, 1, (clients, size)).astype(np.float32)
    start = time.process_time()
    mean, up = run(numbers, threshold, dropped)
    cpu = time.process_time() - start
    plain = numbers[: clients - dropped].mean(0, dtype=float)
    print(json.dumps({"cpu": cpu, "bytes_up": up, "error": float(np.abs(mean - plain).max())}))


if __name__ == "__main__":
    main()
