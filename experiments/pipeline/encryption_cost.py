"""What encrypted sums cost, scheme by scheme and in one table with a secure sum."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fedrecon.encryption import Backend, Encoding, ckks, collective, paillier, shared_paillier
from fedrecon.secure_aggregation import FixedPoint, SecAggSetup, least_threshold, simulate_round

COLUMNS = (
    "scheme", "holders", "values", "key_seconds", "encrypt_us_a_value", "add_us_a_value",
    "decrypt_us_a_value", "bytes_up_a_value", "bytes_of_answers_a_value", "error",
)  # fmt: skip
_BOUND = 1.0
# Shares of a 3072-bit key cost a second for each ciphertext and holder.
_MOST_HOLDERS, _MOST_SHARED = 4, 100


def measure(clients: int, size: int, repeats: int) -> list[dict[str, Any]]:
    """A row for each scheme: seconds of CPU are the least of ``repeats``, of one client's vector.

    Encoding counts as encryption. ``add`` is of all clients, over the values of one; ``decrypt`` of all
    holders together. The error is the largest between the mean and the plain one.

    Args:
      clients: whose vectors are added.
      size: values of each; of Paillier in shares at most so many as take seconds.
      repeats: of each scheme.
    """
    encoding, holders = Encoding(_BOUND, 24, clients), min(clients, _MOST_HOLDERS)
    wide = {"ring": 8192, "modulus_bits": (60, 40, 40, 60), "scale_bits": 40}
    schemes: dict[str, tuple[Callable[[], Backend], int]] = {
        "CKKS (TenSEAL), ring 4096": (lambda: ckks(encoding), size),
        "CKKS (TenSEAL), ring 8192": (lambda: ckks(encoding, **wide), size),
        "Paillier (pypaillier), 3072 bits": (lambda: paillier(encoding), size),
        "Paillier in shares, 3072 bits": (
            lambda: shared_paillier(encoding, holders),
            min(size, _MOST_SHARED),
        ),
        "collective ring-LWE, ring 8192": (lambda: collective(encoding, clients), size),
    }
    rows = []
    for name, (make, count) in schemes.items():
        scheme, numbers = make(), _numbers(clients, count)
        start = time.process_time()
        keys = scheme.keygen()
        seconds = time.process_time() - start
        found = [_once(scheme, keys, encoding, numbers) for _ in range(repeats)]
        encrypt, add, decrypt, error = (min(column) for column in zip(*found, strict=True))
        answers = scheme.partial_bytes * scheme.blocks(count) if scheme.holders > 1 else 0
        times = (1e6 * x / count for x in (encrypt / clients, add, decrypt))
        sent = float(scheme.bytes_per_value(count)), answers / count
        rows.append(_row(name, scheme.holders, count, seconds, *times, *sent, error))
    return [*rows, min((_secure_sum(clients, size) for _ in range(repeats)), key=lambda row: row[COLUMNS[4]])]


def _numbers(clients: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-_BOUND, _BOUND, (clients, size)).astype(np.float32)


def _row(name: str, holders: int, size: int, *values: float) -> dict[str, Any]:
    *times, answers, error = values
    rounded = (round(float(x), 3) for x in (*times, answers))
    return dict(zip(COLUMNS, (name, holders, size, *rounded, float(f"{error:.1e}")), strict=True))


def _once(scheme: Backend, keys: Any, encoding: Encoding, numbers: np.ndarray) -> tuple[float, ...]:
    """Seconds of all encryptions, of the sum and of decryption, and the error of the mean."""
    times = [time.process_time()]
    vectors = [scheme.encrypt(keys.public, encoding.encode(row)) for row in numbers]
    times.append(time.process_time())
    total = scheme.add(keys.public, vectors)
    times.append(time.process_time())
    mean = encoding.decode(scheme.decrypt(keys, total)) / len(numbers)
    times.append(time.process_time())
    return *np.diff(times), float(np.abs(mean - numbers.mean(0, dtype=float)).max())


def _secure_sum(clients: int, size: int) -> dict[str, Any]:
    """SecAgg with nobody missing; masks count as encryption."""
    code, numbers, rng = FixedPoint.finest(_BOUND, clients), _numbers(clients, size), np.random.default_rng(1)
    start = time.process_time()
    setup = SecAggSetup("cost", 0, clients, least_threshold(clients, False), size)
    outcome = simulate_round(setup, lambda i: code.encode(numbers[i], 1, rng), {})
    error = np.abs(code.decode(outcome.total) / clients - numbers.mean(0, dtype=float)).max()
    each = 1e6 * (time.process_time() - start) / clients / size
    return _row("SecAgg (all rounds)", 0, size, 0, each, 0, 0, max(outcome.bytes_up) / size, 0, error)
