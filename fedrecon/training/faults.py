"""Faults of clients: made on purpose, to see what a training does about them, and named in its log."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon import federated as fl
from fedrecon.federated import FederatedAlgorithm, RoundInfo
from fedrecon.training.options import FlagError

# Number of a client -> what goes wrong there, in every round.
Faults = Mapping[int, str]

# What an update is multiplied by.
_FACTORS = {"nan": np.nan, "inf": np.inf, "exploding": 1e6, "flipped": -1.0}
KINDS = (*_FACTORS, "crashed", "empty", "straggler")


def parse_faults(text: str, names: Sequence[str]) -> dict[int, str]:
    """Reads ``KIND:CLIENT,...``.

    Args:
      text: of the flag --fault.
      names: of the clients.

    Raises:
      FlagError: a kind or a client is unknown, or a client is named twice.
    """
    faults: dict[int, str] = {}
    for item in filter(None, text.split(",")):
        kind, colon, name = item.strip().partition(":")
        if not colon or kind not in KINDS:
            raise FlagError("fault", f"KIND:CLIENT with one of {', '.join(KINDS)}", repr(item))
        if name not in names:
            listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise FlagError("fault", f"one of the clients {listed}", repr(name))
        if names.index(name) in faults:
            raise FlagError("fault", "one fault a client", f"{name!r} twice")
        faults[names.index(name)] = kind
    return faults


def inject(algorithm: FederatedAlgorithm, faults: Faults) -> FederatedAlgorithm:
    """The algorithm with these faults; without any it is the same object.

    ``nan`` and ``inf`` send nothing finite, ``exploding`` a million times their change, ``flipped`` minus
    their change, ``crashed`` trains and sends nothing, ``empty`` has no examples. What ``straggler`` does is
    the schedule's. Clients without a fault compute as before, bit for bit.
    """
    kinds = set(faults.values()) - {"straggler"}
    if not kinds:
        return algorithm
    clients = max(faults) + 1

    def of(client, table, otherwise):
        values = np.asarray([table.get(faults.get(i), otherwise) for i in range(clients)])
        # Clients behind the last faulty one have the last, harmless entry.
        return jnp.asarray(np.append(values, otherwise))[jnp.minimum(client, clients)]

    def update(variables, broadcast, state, batches, valid, key):
        empty = of(batches.client, {"empty": True}, False)
        crashed = of(batches.client, {"crashed": True}, False)
        factor = of(batches.client, _FACTORS, 1.0).astype(jnp.float32)
        batches = batches._replace(count=jnp.where(empty, 0, batches.count), present=batches.present & ~empty)
        result = algorithm.client.update(variables, broadcast, state, batches, valid & ~empty, key)
        delta = jax.tree.map(lambda x: jnp.where(factor == 1, x, (x * factor).astype(x.dtype)), result.delta)
        return result._replace(
            delta=delta, weight=jax.tree.map(lambda w: jnp.where(crashed, 0, w), result.weight)
        )

    return algorithm._replace(client=algorithm.client._replace(update=update))


def round_record(info: RoundInfo, names: tuple[str, ...]) -> dict[str, Any]:
    """One round as a JSON-able dict."""
    record: dict[str, Any] = {}
    for name, (total, count) in info.metrics.items():
        if name not in ("steps", "examples"):
            record[name] = float(total / count) if count > 0 else None
    record["clients"] = int(info.participated.sum())
    excluded = [names[i] for i in np.flatnonzero(info.excluded)]
    if excluded:
        record["excluded"] = excluded
    record["bytes_up"] = int(info.bytes_up.sum(dtype=np.int64))
    record["bytes_down"] = int(info.bytes_down.sum(dtype=np.int64))
    return record


def full_record(
    info: RoundInfo, names: tuple[str, ...], expected: np.ndarray, weights: np.ndarray | None
) -> dict[str, Any]:
    """One round as a JSON-able dict, with the names of clients that something was wrong with.

    In addition to `round_record`: ``missing`` are sampled clients of which nothing arrived, though it would
    have been finite (crashed, or without examples); ``stragglers`` took fewer steps than they have; ``steps``
    are those of the shared model: the mean of the clients', by their weights; ``coefficients`` are those that
    a reducer found for the clients.

    Args:
      info: of the round, on the host.
      names: of its clients.
      expected: their steps without stragglers, (clients,).
      weights: of their steps, (clients,); None where the model takes the steps of all.
    """
    record = round_record(info, names)
    counted = np.max([count for _, count in info.client_metrics.values()], axis=0) > 0
    steps = info.client_metrics["steps"][0]
    groups = {
        "missing": info.participated & ~info.excluded & ~counted,
        "stragglers": counted & (steps < expected),
    }
    record |= {group: [names[i] for i in np.flatnonzero(who)] for group, who in groups.items() if who.any()}
    taken = steps[counted]
    if counted.any():
        mean = taken.sum() if weights is None else np.average(taken, weights=weights[counted])
        record["steps"] = round(float(mean), 3)
    if not info.applied:
        record["applied"] = False
    record |= _sum_record(info)
    record |= _riders_record(info, names)
    if isinstance(info.reduce, dict) and "coefficient" in info.reduce:
        shares = zip(names, info.reduce["coefficient"], strict=True)
        record["coefficients"] = {name: round(float(share), 4) for name, share in shares}
    return record


def _riders_record(info: RoundInfo, names: tuple[str, ...]) -> dict[str, Any]:
    """Whom the watch for riders suspects: name -> score, sign and action; empty without."""
    if not isinstance(info.reduce, dict) or "riders" not in info.reduce:
        return {}
    found = info.reduce["riders"]
    signs = list(fl.reducers.SIGNS)
    riders = {
        names[i]: {
            "score": round(float(found["score"][i]), 3),
            "sign": signs[int(found["sign"][i])],
            "action": fl.reducers.ACTIONS[int(found["action"][i])],
        }
        for i in np.flatnonzero(found["action"])
    }
    return {"riders": riders} if riders else {}


def _sum_record(info: RoundInfo) -> dict[str, Any]:
    """Why a secure sum was not applied, for the record of a round; empty otherwise."""
    stages = info.channel[1] if isinstance(info.channel[1], tuple) else (info.channel[1],)
    for stage in stages:
        if isinstance(stage, dict) and "beyond" in stage:
            found = {"beyond_bound": int(stage["beyond"])} if stage["beyond"] else {}
            return found if stage["enough"] else {**found, "below_threshold": True}
    return {}
