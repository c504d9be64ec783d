"""What the engine computes on several processes, saved by each of them for `test_distributed` to compare.

python -m tests.runtime.two_processes OUTPUT COORDINATOR PROCESSES PROCESS_ID WHICH
"""

import sys

import jax
import numpy as np
import optax

from fedrecon import federated as fl
from fedrecon.runtime import host_copy, set_cpu_devices, start
from tests.federated.conftest import Fixtures
from tests.federated.test_algorithms import RECIPES, clients, make

# Here the structure of the model matters, or what is kept at clients; a simpler model will do for others.
STRUCTURED = ("fedavg", "fedbn", "scaffold", "ditto", "fedper", "fedrep", "median", "screen")
VECTORIZED = ("scaffold", "screen")
# Of these the simpler ones that differ in what is summed, chosen or kept.
FEW = (*STRUCTURED, "afl", "fedadam", "fednova", "local_only")
WORK = {"batch_size": 2, "epochs": 2}


def rounds(fx, meshes, names):
    """Name -> states and infos after every round, on the meshes "all" and "two"."""
    found = {}
    for name in names:
        task = "regression" if name in STRUCTURED else "quad"
        data = clients(fx) if task == "regression" else fx.quad_data()
        algorithm = make(fx, name, task)
        run = fx.trajectory(getattr(fx, task), algorithm, 3, mesh=meshes["all"], **WORK)
        found[name] = run(data)
        if name in VECTORIZED:
            run = fx.trajectory(fx.regression, algorithm, 3, mesh=meshes["two"], parallel="vmap", **WORK)
            found[f"{name}, vectorised"] = run(data)
    five = fx.quad_data(np.append(fx.a, 1.0), np.append(fx.b, [[1.0, 1.0]], 0), [1, 5, 3, 8, 2])
    for name, options in {
        "krum": {"reduce": fl.reducers.krum(byzantine=1)},
        "sampled": {"sampler": fl.sampling.highest_loss(2, 3)},
    }.items():
        algorithm = fl.fedavg(fx.quad, optax.sgd(0.05), **options)
        found[f"{name}, five clients"] = fx.trajectory(fx.quad, algorithm, 3, mesh=meshes["all"], **WORK)(
            five
        )
    return found


def topologies(fx, mesh):
    """Name -> state after two rounds; without a mesh of their own, on each process's first device."""
    algorithm, key = fl.fedavg(fx.quad, optax.sgd(0.05)), jax.random.key(3)
    variables, data = fx.quad.init(jax.random.key(0)), fx.quad_data()
    found = {}

    def twice(round, state, data):
        for _ in range(2):
            state, _ = round(state, data, key)
        return state

    peers = fl.init_state(fl.topologies.peer_to_peer(algorithm), variables, data, mesh)
    found["gossip"] = twice(
        fl.topologies.make_gossip_round(algorithm, mesh=mesh, **WORK), peers, fl.place(data, mesh)
    )
    ring = fl.topologies.make_ring_round(algorithm, **WORK)
    found["ring"] = twice(ring, fl.init_state(algorithm, variables, data), fl.place(data))
    buffered = fl.topologies.make_asynchronous_round(algorithm, buffer_size=2, **WORK)
    started = fl.topologies.init_asynchronous(algorithm, variables, data, concurrency=3)
    found["asynchronous"] = twice(buffered, started, fl.place(data))
    load = fl.topologies.load_from(jax.tree.map(np.asarray, data))
    with fl.topologies.StreamingRound(algorithm, load, cohort=4, **WORK) as streamed:
        found["streaming"], _ = streamed(fl.topologies.init_streaming(algorithm, variables, load, 4), key)
    return found


def scores(fx, mesh):
    """Name -> what evaluation finds of clients that keep their own normalization."""
    algorithm, data = make(fx, "fedbn"), clients(fx)
    placed = fl.place(data, mesh)
    state = fl.init_state(algorithm, fx.regression.init(jax.random.key(0)), data, mesh)
    state, _ = fl.make_round(algorithm, mesh=mesh, **WORK)(state, placed, jax.random.key(3))
    average = fl.average_variables(algorithm, state)
    evaluate = fl.make_evaluate(algorithm, fx.regression.metrics, mesh=mesh)
    own = evaluate(state, placed)
    # The same through the copy that experiments take.
    return {
        "own": own,
        "copied": host_copy(own),
        "average": average,
        "one": fl.client_variables(algorithm, state, 2),
    }


def own_part(x):
    """(array with what this process holds of ``x``, where that is)."""
    values, held = np.zeros(x.shape, x.dtype), np.zeros(x.shape, bool)
    for index, data in (
        [(s.index, s.data) for s in x.addressable_shards] if isinstance(x, jax.Array) else [((), x)]
    ):
        values[index], held[index] = data, True
    return values, held


def main(output, coordinator, processes, process_id, which):
    """Computes on four devices in all."""
    processes, process_id = int(processes), int(process_id)
    jax.config.update("jax_platforms", "cpu")
    # Compiling is nearly all of the time.
    jax.config.update("jax_disable_most_optimizations", True)
    set_cpu_devices(4 // processes)
    if processes > 1:
        start(coordinator, processes, process_id)
    assert jax.device_count() == 4 and jax.process_count() == processes
    meshes = {"all": fl.client_mesh(), "two": fl.client_mesh(jax.devices()[::2])}
    fx, arrays = Fixtures(), {}
    names = [name for name in RECIPES if which == "all" or name in FEW]
    for found in (rounds(fx, meshes, names), topologies(fx, meshes["all"]), scores(fx, meshes["all"])):
        for name, tree in found.items():
            for number, leaf in enumerate(jax.tree.leaves(tree)):
                arrays[f"{name}:{number}"], arrays[f"{name}:{number}:held"] = own_part(leaf)
    np.savez(f"{output}.{process_id}.npz", **arrays)
    if processes > 1:
        jax.distributed.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
