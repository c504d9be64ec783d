"""What a secure sum costs: all parties of a round in one process, beside Flower's SecAgg+ where it is."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.secure_aggregation import (
    FIELD,
    FixedPoint,
    LightSecAggSetup,
    SecAggSetup,
    choose_degree,
    least_threshold,
    simulate_round,
)

COLUMNS = ("protocol", "dropouts", "cpu_seconds", "cpu_a_client", "megabytes_up", "bytes_a_value", "error")
_CLIP = 8.0
_FLOWER = Path(__file__).with_name("flower_secagg.py")
_LIMIT = 600


def measure(clients: int, size: int, repeats: int, flower: str | None) -> list[dict[str, Any]]:
    """A row for each protocol and number of dropouts: seconds are the least of ``repeats`` rounds.

    Numbers become words within the time, as they do in Flower, and sums numbers again; error is the largest
    between these and the plain sum over the number of clients. Dropouts send no masked words.

    Args:
      clients: of the round.
      size: numbers of each.
      repeats: rounds of each row.
      flower: an interpreter that has Flower.

    Raises:
      ArgumentError: the interpreter cannot run Flower.
    """
    threshold, dropped = least_threshold(clients, False), max(1, clients // 4)
    setups = {
        "SecAgg": SecAggSetup("cost", 0, clients, threshold, size),
        "SecAgg, signed": SecAggSetup(
            "cost", 0, clients, min(least_threshold(clients, True), clients - dropped), size, malicious=True
        ),
        "LightSecAgg": LightSecAggSetup("cost", 0, clients, clients - dropped, size, clients // 3),
    }
    try:
        degree, of_neighbors = choose_degree(clients, 0.2, 0.1)
        setups["SecAgg+"] = SecAggSetup("cost", 0, clients, of_neighbors, size, degree)
    except ArgumentError:
        pass
    rows = []
    for name, setup in setups.items():
        for gone in (0, dropped) if name != "SecAgg+" else (0, 1):
            found = [_ours(setup, gone) for _ in range(repeats)]
            rows.append(_row(name, gone, clients, size, min(found, key=lambda one: one["cpu"])))
    for gone in (0, dropped) if flower is not None else ():
        found = [_flowers(str(flower), clients, size, threshold, gone) for _ in range(repeats)]
        rows.append(_row("Flower SecAgg+", gone, clients, size, min(found, key=lambda one: one["cpu"])))
    return rows


def _row(name: str, gone: int, clients: int, size: int, found: dict[str, Any]) -> dict[str, Any]:
    values = (
        name,
        gone,
        round(found["cpu"], 3),
        round(found["cpu"] / clients, 4),
        round(found["bytes_up"] / 1e6, 3),
        round(found["bytes_up"] / size, 2),
        float(f"{found['error']:.1e}"),
    )
    return dict(zip(COLUMNS, values, strict=True))


def _ours(setup: SecAggSetup | LightSecAggSetup, gone: int) -> dict[str, Any]:
    light = isinstance(setup, LightSecAggSetup)
    code = FixedPoint.finest(_CLIP, setup.clients, modulus=FIELD if light else 2**32)
    rng = np.random.default_rng(0)
    numbers = rng.uniform(-1, 1, (setup.clients, setup.size)).astype(np.float32)
    drop = {"masked": range(setup.clients - gone, setup.clients)}
    start = time.process_time()
    outcome = simulate_round(setup, lambda i: code.encode(numbers[i], 1, rng), drop)
    if outcome.total is None:
        raise ArgumentError("clients", "enough for the dropouts", outcome.reason)
    mean = code.decode(outcome.total) / len(outcome.included)
    cpu = time.process_time() - start
    plain = numbers[list(outcome.included)].mean(0, dtype=float)
    return {"cpu": cpu, "bytes_up": max(outcome.bytes_up), "error": np.abs(mean - plain).max()}


def _flowers(python: str, clients: int, size: int, threshold: int, gone: int) -> dict[str, Any]:
    command = [python, str(_FLOWER), *map(str, (clients, size, threshold, gone))]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=True)
        return json.loads(result.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        lines = str(getattr(error, "stderr", "") or error).strip().splitlines()
        raise ArgumentError("--flower_python", "an interpreter with flwr 1.42", lines[-1]) from None
