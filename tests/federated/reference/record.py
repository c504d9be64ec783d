"""Numbers of every named algorithm on quadratics: partial participation, unequal numbers of local steps.

`python -m tests.federated.reference.record` writes algorithms.json, which test_reference.py compares with.
"""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedrecon import federated as fl
from fedrecon.types import Variables
from tests.federated.conftest import QUAD, quad_data

FILE = Path(__file__).with_name("algorithms.json")
RATE, ROUNDS = 0.05, 4
KEY = jax.random.key(5)


def _distances(params, stats, batch):
    return params["w"] - batch["b"]


def algorithms() -> dict[str, fl.FederatedAlgorithm]:
    """Every named algorithm; three of four clients take part, except where all of them must."""
    some = {"sampler": fl.uniform_clients(3)}
    sgd = optax.sgd(RATE)
    adam = optax.adam(RATE)
    return {
        "fedavg": fl.fedavg(QUAD, sgd, **some),
        "fedavg_adam_kept": fl.fedavg(QUAD, adam, keep_optimizer=True, **some),
        "fedavg_clip": fl.fedavg(QUAD, sgd, channel=fl.chain(fl.clip(0.4)), **some),
        "fedavg_server_adam": fl.fedavg(QUAD, sgd, server_optimizer=optax.adam(0.1), **some),
        "fedavg_scheduled": fl.fedavg(QUAD, sgd, **some)._replace(schedule=_schedule),
        "fedbn": fl.fedbn(QUAD, sgd, **some),
        "fedprox": fl.fedprox(QUAD, sgd, strength=0.5, **some),
        "scaffold": fl.scaffold(QUAD, RATE, **some),
        "scaffold_1": fl.scaffold(QUAD, RATE, option=1, **some),
        "feddyn": fl.feddyn(QUAD, sgd, strength=0.1, **some),
        "fednova": fl.fednova(QUAD, RATE, **some),
        "fednova_momentum": fl.fednova(QUAD, RATE, momentum=0.5, server_momentum=0.3, **some),
        "fednova_proximal": fl.fednova(QUAD, RATE, strength=0.5, **some)._replace(schedule=_schedule),
        "fedavgm": fl.fedavgm(QUAD, sgd, dampening=0.2, **some),
        "fedadagrad": fl.fedadagrad(QUAD, sgd, **some),
        "fedyogi": fl.fedyogi(QUAD, sgd, **some),
        "fedadam": fl.fedadam(QUAD, sgd, bias_correction=True, **some),
        "ditto": fl.ditto(QUAD, sgd, strength=0.3, **some),
        "pfedme": fl.pfedme(QUAD, RATE, inner_steps=3, strength=2.0, weight_decay=0.01, **some),
        "fedper": fl.fedper(QUAD, sgd, head=Variables(False, False), **some),
        "fedrep": fl.fedrep(QUAD, adam, head=Variables(True, False), head_steps=2, **some),
        "moon": fl.moon(QUAD, sgd, represent=_distances, pool=2, **some),
        "qfedavg": fl.qfedavg(QUAD, sgd, learning_rate=RATE, fairness=2.0, **some),
        "afl": fl.afl(QUAD, sgd, clients=4),
        "local_only": fl.local_only(QUAD, adam, **some),
        "median": fl.fedavg(QUAD, sgd, reduce=fl.reducers.median(), **some),
        "trimmed_mean": fl.fedavg(QUAD, sgd, reduce=fl.reducers.trimmed_mean(0.34), **some),
        "krum": fl.fedavg(QUAD, sgd, reduce=fl.reducers.krum(0), **some),
        "geometric_median": fl.fedavg(QUAD, sgd, reduce=fl.reducers.geometric_median(), **some),
        "screen": fl.fedavg(QUAD, sgd, reduce=fl.reducers.screen(norm_factor=1.5), **some),
    }


def _schedule(context):
    steps = jnp.where(context.client == 1, 2, 100)
    return fl.Work(1.0 / (1.0 + context.round), steps)


def start() -> Variables:
    """The initial model."""
    return Variables({"w": jnp.array([0.3, -0.7])}, {})


def numbers(algorithm: fl.FederatedAlgorithm, data, state, infos) -> dict:
    """What an algorithm leaves, whatever its state looks like inside."""
    clients = range(len(data.valid))
    return {
        "released": _list(algorithm.release(state).params["w"]),
        "own": [_list(fl.client_variables(algorithm, state, i).params["w"]) for i in clients],
        "average": _list(fl.average_variables(algorithm, state).params["w"]),
        "participations": _list(state.history.participations),
        "losses": _list(jnp.where(jnp.isinf(state.history.loss), -1.0, state.history.loss)),
        "delta_norms": [_list(info.delta_norm) for info in infos],
        "bytes_up": [_list(info.bytes_up) for info in infos],
        "bytes_down": [_list(info.bytes_down) for info in infos],
        "excluded": [_list(info.excluded) for info in infos],
    }


def train(algorithm: fl.FederatedAlgorithm, topology: str = "star") -> dict:
    """`numbers` after four rounds."""
    data, work = quad_data(), {"batch_size": 1, "epochs": 1}
    if topology == "asynchronous":
        round = fl.topologies.make_asynchronous_round(algorithm, buffer_size=2, **work)
        state = fl.topologies.init_asynchronous(algorithm, start(), data, concurrency=3)
        for _ in range(ROUNDS):
            state, info = round(state, data, KEY)
        return {
            "released": _list(algorithm.release(state.federation).params["w"]),
            "clock": float(state.clock),
            "participations": _list(state.federation.history.participations),
            "delta_norm": _list(info.delta_norm),
        }
    if topology == "streamed":
        load = functools.partial(_load, data)
        state, infos = fl.topologies.init_streaming(algorithm, start(), load, 4), []
        with fl.topologies.StreamingRound(algorithm, load, cohort=3, **work) as round:
            for _ in range(ROUNDS):
                state, info = round(state, KEY)
                infos.append(info.round)
        return numbers(algorithm, data, jax.tree.map(jnp.asarray, state), infos)
    if topology == "ring":
        round = fl.topologies.make_ring_round(algorithm, order="shuffled", **work)
    elif topology == "gossip":
        round = fl.topologies.make_gossip_round(algorithm, "ring", **work)
        algorithm = fl.topologies.peer_to_peer(algorithm)
    else:
        round = fl.make_round(algorithm, **work)
    state, infos = fl.init_state(algorithm, start(), data), []
    for _ in range(ROUNDS):
        state, info = round(state, data, KEY)
        infos.append(info)
    return numbers(algorithm, data, state, infos)


def _load(data, clients):
    return {name: np.asarray(x)[clients] for name, x in data.examples.items()}, np.asarray(data.valid)[
        clients
    ]


# Other topologies, with what they take.
TOPOLOGIES = {
    "ring": ("fedavg", "fedprox", "ditto", "fedrep"),
    "gossip": ("fedavg", "fedprox", "pfedme", "fedavg_scheduled"),
    "asynchronous": ("fedavg", "scaffold", "fednova", "fedadam"),
    "streamed": ("fedavg_adam_kept", "scaffold", "moon", "local_only"),
}


def cases() -> list[tuple[str, str]]:
    """(topology, algorithm) of every recorded training."""
    star = [("star", name) for name in algorithms()]
    return star + [(topology, name) for topology, names in TOPOLOGIES.items() for name in names]


def _list(x):
    return np.asarray(x).tolist()


if __name__ == "__main__":
    made = algorithms()
    found = {f"{topology}/{name}": train(made[name], topology) for topology, name in cases()}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(values)}" for name, values in found.items())
    FILE.write_text("{\n" + lines + "\n}\n")
