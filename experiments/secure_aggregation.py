"""Runs a round of a secure sum with clients that drop out: whether the sum is right, and its bytes.

Clients are numbered from 0; each has SIZE numbers drawn from --seed, as 32-bit words. All secrets are fresh
from the system's generator. --drop names clients by the stage at which they stop to send, of keys, shares,
masked and unmask: those who drop out at unmask are in the sum. Several clients of a stage are joined by + or
by commas, and - is a range, so that these are the same:

  --drop=masked:1+2+3,unmask:5   --drop=masked:1,2,3,unmask:5   --drop=masked:1-3,unmask:5

A round with too few clients left is aborted, which is no error. With --json it prints one object: aborted,
exact (the sum is that of the included clients' words, to the bit), included, bytes_up of each client,
seconds, and more.

  python -m experiments.secure_aggregation --protocol=secagg --clients=5 --threshold=3 --drop=masked:1
  python -m experiments.secure_aggregation --protocol=secagg+ --clients=100 --size=1000
  python -m experiments.secure_aggregation --protocol=lightsecagg --clients=10 --threshold=7 --json
"""

import json
import re
from typing import Any

import numpy as np
from absl import flags

from fedrecon.errors import ArgumentError
from fedrecon.runtime import ending, run_program
from fedrecon.secure_aggregation import (
    FIELD,
    HEADER,
    STAGES,
    FixedPoint,
    LightSecAggSetup,
    Outcome,
    SecAggSetup,
    Stage,
    choose_degree,
    least_threshold,
    plain_sum,
    simulate_round,
)

AnySetup = SecAggSetup | LightSecAggSetup
PROTOCOLS = ("secagg", "secagg+", "lightsecagg")
_CLIP = 1.0
_MOST_WORDS, _MOST_BYTES = 2**29, 2**31


def parse_drop(text: str, clients: int) -> dict[str, list[int]]:
    """Clients by stage, of the value of --drop, with this number of clients.

    Raises:
      ArgumentError: it is no list of stages and clients.
    """
    dropped: dict[str, list[int]] = {}
    stage = ""
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, colon, numbers = part.rpartition(":")
        if colon:
            stage = name.strip()
        if stage not in STAGES:
            raise ArgumentError("--drop", f"STAGE:ids with stages of {', '.join(STAGES)}", repr(part))
        for named in (_range(word, part) for word in numbers.split("+")):
            if named[-1] >= clients:
                raise ArgumentError("--drop", f"clients from 0 to {clients - 1}", named[-1])
            dropped.setdefault(stage, []).extend(named)
    return dropped


def _range(word: str, part: str) -> range:
    match = re.fullmatch(r"\s*(?:client)?(\d{1,9})\s*(?:-\s*(?:client)?(\d{1,9})\s*)?", word)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise ArgumentError("--drop", "STAGE:ids, as masked:1+4 or masked:1-3,unmask:2", repr(part))
    return range(int(match[1]), int(match[2] or match[1]) + 1)


def make_setup(values: Any) -> AnySetup:
    """The setup of the flags.

    Raises:
      ArgumentError: a flag does not fit.
    """
    protocol, clients, size = values.protocol, values.clients, values.size
    sparse, light = protocol == "secagg+", protocol == "lightsecagg"
    for name, fits in (("neighbors", sparse), ("colluders", light)):
        if values[name].present and not fits:
            raise ArgumentError(
                f"--{name}", f"--protocol={'secagg+' if name == 'neighbors' else 'lightsecagg'}", protocol
            )
    for name in ("corrupt", "dropped"):
        if values[name].present and not (sparse and values.neighbors is None):
            raise ArgumentError(f"--{name}", "--protocol=secagg+ without --neighbors", protocol)
    if light and values.malicious:
        raise ArgumentError("--malicious", "secagg or secagg+, which sign what the server says", protocol)
    job = f"experiments.secure_aggregation {values.seed}"
    if light:
        threshold = clients - clients // 3 if values.threshold is None else values.threshold
        colluders = max(1, min(clients // 2, threshold - 1)) if values.colluders is None else values.colluders
        return LightSecAggSetup(job, 0, clients, threshold, size, colluders)
    threshold, neighbors, malicious = values.threshold, values.neighbors, values.malicious
    if sparse and neighbors is None and (threshold is None or threshold <= clients // 2):
        neighbors, threshold = choose_degree(clients, values.corrupt, values.dropped, threshold, malicious)
    if threshold is None:
        threshold = least_threshold(clients if neighbors is None else neighbors + 1, malicious)
    return SecAggSetup(job, 0, clients, threshold, size, neighbors, malicious)


def run(setup: AnySetup, drop: dict[str, list[int]], seed: int, report: bool) -> tuple[Outcome, bool]:
    """Runs a round, ``report`` prints a line for each stage; what came of it, and whether it is exact."""
    light = isinstance(setup, LightSecAggSetup)
    code = FixedPoint.finest(_CLIP, setup.clients, modulus=FIELD if light else 2**32)
    rng = np.random.default_rng(seed)
    words = np.empty((setup.clients, setup.size), np.uint32)
    for row in words:
        row[:] = code.encode(2 * rng.random(setup.size, np.float32) - 1)

    def show(stage: Stage) -> None:
        print(
            f"  {stage.name:<12} {len(stage.heard):>5} of {setup.clients} clients heard"
            f"  {_bytes(stage.up):>9} up  {_bytes(stage.down):>9} down  {stage.seconds:8.3f} s",
            flush=True,
        )

    outcome = simulate_round(setup, words.__getitem__, drop, progress=show if report else None)
    exact = outcome.total is not None and np.array_equal(
        outcome.total, plain_sum(setup, words.__getitem__, outcome.included)
    )
    return outcome, exact


def document(protocol: str, setup: AnySetup, outcome: Outcome, exact: bool) -> dict[str, Any]:
    """What --json prints."""
    return {
        "aborted": outcome.aborted,
        "exact": exact,
        "included": list(outcome.included),
        "bytes_up": list(outcome.bytes_up),
        "seconds": outcome.seconds,
        "reason": outcome.reason,
        "protocol": protocol,
        "clients": setup.clients,
        "threshold": setup.threshold,
        "neighbors": setup.degree if isinstance(setup, SecAggSetup) else None,
        "colluders": None if isinstance(setup, SecAggSetup) else setup.colluders,
        "size": setup.size,
        "bytes_down": list(outcome.bytes_down),
        "bytes_by_formula": setup.bytes_up() | {"headers": HEADER * setup.messages_up()},
        "stages": [stage._asdict() for stage in outcome.log],
    }


def _print_end(setup: AnySetup, outcome: Outcome, exact: bool) -> None:
    if outcome.aborted:
        print(f"aborted, nothing was unmasked: {outcome.reason}")
    else:
        verdict = "equal to the bit to" if exact else "DIFFERENT FROM"
        print(
            f"sum over {len(outcome.included)} clients, {verdict} the plain sum: {_listed(outcome.included)}"
        )
    parts = setup.bytes_up() | {"headers": HEADER * setup.messages_up()}
    print(
        f"a client sent {_bytes(min(outcome.bytes_up))} to {_bytes(max(outcome.bytes_up))} and got at most "
        f"{_bytes(max(outcome.bytes_down))}; without dropouts it sends {sum(parts.values())} bytes: "
        + ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in parts.items() if count)
    )
    print(f"{outcome.seconds:.3f} s for all parties together")


def _listed(numbers: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, numbers[:40]))
    return shown if len(numbers) <= 40 else f"{shown}, ..."


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} GB"


def _describe(protocol: str, setup: AnySetup) -> str:
    if isinstance(setup, LightSecAggSetup):
        return (
            f"{protocol}: {setup.clients} clients, {setup.threshold} must stay, {setup.colluders} may "
            f"collude, {setup.size} words"
        )
    return (
        f"{protocol}: {setup.clients} clients with {setup.degree} neighbors each, threshold "
        f"{setup.threshold}, {setup.size} words" + (", signed" if setup.malicious else "")
    )


def check_memory(setup: AnySetup) -> None:
    """Refuses rounds that are too large for one process.

    Raises:
      ArgumentError: words or messages take too much memory.
    """
    if setup.clients * setup.size > _MOST_WORDS:
        most = _MOST_WORDS // setup.clients
        raise ArgumentError(
            "--size", f"at most {most} with {setup.clients} clients in one process", setup.size
        )
    exchanged = setup.clients * (sum(setup.bytes_up().values()) - 4 * setup.size)
    if exchanged > _MOST_BYTES:
        raise ArgumentError(
            "--clients",
            f"key and share messages of at most {_bytes(_MOST_BYTES)} in one process; secagg+ needs fewer",
            f"{_bytes(exchanged)} for {setup.clients} clients",
        )


def main(_: list[str]) -> None:
    values = flags.FLAGS
    with ending("no sum was unmasked"):
        drop = parse_drop(values.drop, values.clients)
        setup = make_setup(values)
        check_memory(setup)
        if not values.json:
            print(_describe(values.protocol, setup), flush=True)
        outcome, exact = run(setup, drop, values.seed, not values.json)
        if values.json:
            print(json.dumps(document(values.protocol, setup, outcome, exact)))
        else:
            _print_end(setup, outcome, exact)


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_enum("protocol", "secagg", PROTOCOLS, "What the parties do.")
    flags.DEFINE_integer("clients", 5, "Clients, numbered from 0.", lower_bound=2)
    flags.DEFINE_integer(
        "threshold",
        None,
        "Clients that must stay: secagg, more than half of all (two thirds with --malicious), by default"
        " the fewest; lightsecagg, by default two thirds. Of secagg+: holders of shares of a client that"
        " must stay, itself and its neighbors; above half of the clients all are neighbors.",
    )
    flags.DEFINE_integer("size", 1000, "Words of each client.", lower_bound=1)
    flags.DEFINE_string("drop", "", "STAGE:ids[,STAGE:ids], clients that drop out.")
    flags.DEFINE_integer("seed", 0, "Of the clients' numbers.", lower_bound=0)
    flags.DEFINE_bool("json", False, "Print one JSON object.")
    flags.DEFINE_bool("malicious", False, "The server may lie: keys and the list of summands are signed.")
    flags.DEFINE_integer(
        "neighbors",
        None,
        "secagg+: clients with which each shares secrets; by default the fewest that are safe.",
    )
    flags.DEFINE_float("corrupt", 0.2, "secagg+: fraction of clients that may collude with the server.")
    flags.DEFINE_float("dropped", 0.1, "secagg+: fraction of clients that may drop out.")
    flags.DEFINE_integer(
        "colluders",
        None,
        "lightsecagg: clients that may collude, fewer than the threshold; by default half of all.",
    )


if __name__ == "__main__":
    define_flags()
    run_program(main)
