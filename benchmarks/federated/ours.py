"""fedrecon's round, and the same SGD steps by the same layers without any federation.

``PROBLEM FOLDER JOB`` with JOB ``{"engine": "round" or "sgd", "devices": host devices, "parallel": "scan",
"vmap", a chunk size, or null to choose}``.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.federated.files import FederatedProblem, Recorder
from benchmarks.federated.models import SEED, WORKLOADS, Workload, flatten, task_of, unflatten
from fedrecon.data import ClientData
from fedrecon.errors import ArgumentError
from fedrecon.federated import (
    choose_parallel,
    client_mesh,
    fedavg,
    init_state,
    make_round,
    place,
    run_rounds,
)
from fedrecon.runtime import compiled, release_memory, set_cpu_devices
from fedrecon.types import Variables


def main(path: str, folder: str, job: str) -> None:
    job = json.loads(job)
    set_cpu_devices(job["devices"])
    measure(FederatedProblem.load(path), folder, job)


def measure(problem: FederatedProblem, folder: str | Path, job: Mapping[str, Any]) -> None:
    """Runs a job on the first of the devices there are, and writes its results.

    Raises:
      ValueError: if the rounds that are compiled into one call do not divide those of the problem.
    """
    workload = WORKLOADS[problem.workload]
    if problem.rounds % workload.dispatch:
        raise ArgumentError("rounds", f"a multiple of {workload.dispatch}", problem.rounds)
    mesh = client_mesh(jax.devices()[: job["devices"]])
    run = {"round": _run_round, "sgd": _run_sgd}[job["engine"]]
    run(problem, workload, mesh, job["parallel"], Recorder(folder, workload.dispatch))


def _run_round(
    problem: FederatedProblem, workload: Workload, mesh: Mesh, parallel: Any, recorder: Recorder
) -> None:
    task = task_of(workload)
    algorithm = fedavg(task, optax.sgd(problem.learning_rate))
    valid = np.ones(problem.x.shape[:2], bool)
    names = tuple(map(str, range(problem.clients)))
    data = place(ClientData({"image": problem.x, "label": problem.y}, valid, names), mesh)
    state = init_state(algorithm, Variables(unflatten(problem.weights), {}), data, mesh)
    start = time.monotonic()
    if parallel is None:
        parallel = choose_parallel(algorithm, state, data, batch_size=problem.batch_size, mesh=mesh)
    chosen = time.monotonic() - start
    round = make_round(algorithm, batch_size=problem.batch_size, epochs=1, mesh=mesh, parallel=parallel)
    key = jax.random.key(SEED)
    release_memory()
    recorder.stamp()
    round = compiled(run_rounds(round, workload.dispatch).lower(state, data, key))
    for _ in range(problem.rounds // workload.dispatch):
        state, info = jax.block_until_ready(round(state, data, key))
        recorder.stamp()
    if not bool(jnp.all(info.applied)):
        raise RuntimeError("round: expected finite updates, found none applied")
    weights = flatten(state.variables.params)
    while recorder.wants_more():
        state, _ = jax.block_until_ready(round(state, data, key))
        recorder.stamp()
    recorder.write(weights, parallel=parallel, devices=mesh.size, choose_s=chosen)


def make_sgd(
    problem: FederatedProblem, workload: Workload, mesh: Mesh, parallel: str | int
) -> tuple[Callable[[Any, Any], Any], Any, Any]:
    """The SGD steps of ``workload.dispatch`` rounds as a compiled scan: (steps, initial weights, batches).

    ``parallel`` weights per device are trained next to each other (one for "scan", as many as it has clients
    for "vmap"), each going on where its last step ended.
    """
    loss, clients = task_of(workload).loss, problem.clients
    local = clients // mesh.size
    lanes = {"scan": 1, "vmap": local}.get(parallel, parallel)
    if clients % mesh.size or local % lanes:
        raise ArgumentError("parallel", f"a divisor of {local} clients of a device", repr(parallel))
    sharding = NamedSharding(mesh, P("clients"))
    steps = problem.x.shape[1] // problem.batch_size

    def arrange(a):
        # Lanes first, then the clients that each works through.
        per_step = (steps, problem.batch_size, *a.shape[2:])
        a = a.reshape(mesh.size, local // lanes, lanes, *per_step).swapaxes(1, 2)
        return jax.device_put(a.reshape(mesh.size * lanes, -1, *per_step[1:]), sharding)

    batches = {"image": arrange(problem.x), "label": arrange(problem.y)}
    start = jax.tree.map(
        lambda p: jax.device_put(jnp.tile(p[None], (mesh.size * lanes,) + (1,) * p.ndim), sharding),
        unflatten(problem.weights),
    )

    def lane(params, batches):
        def step(params, batch):
            batch = {**batch, "valid": jnp.ones(problem.batch_size, bool)}
            gradient = jax.grad(lambda p: loss(p, {}, batch, jax.random.key(SEED))[0])(params)
            return jax.tree.map(lambda p, g: p - problem.learning_rate * g, params, gradient), None

        return jax.lax.scan(step, params, batches)[0]

    def on_device(params, batches):
        def once(params, _):
            if lanes > 1:
                return jax.vmap(lane)(params, batches), None
            first = jax.tree.map(lambda a: a[0], (params, batches))
            return jax.tree.map(lambda a: a[None], lane(*first)), None

        return jax.lax.scan(once, params, length=workload.dispatch)[0]

    spread = partial(jax.shard_map, mesh=mesh, in_specs=P("clients"), out_specs=P("clients"))
    return jax.jit(spread(on_device), donate_argnums=0), start, batches


def _run_sgd(
    problem: FederatedProblem, workload: Workload, mesh: Mesh, parallel: Any, recorder: Recorder
) -> None:
    steps, params, batches = make_sgd(problem, workload, mesh, parallel)
    recorder.stamp()
    for _ in range(problem.rounds // workload.dispatch):
        params = jax.block_until_ready(steps(params, batches))
        recorder.stamp()
    while recorder.wants_more():
        params = jax.block_until_ready(steps(params, batches))
        recorder.stamp()
    # Without averaging there are no weights to compare.
    recorder.write({}, parallel=parallel, devices=mesh.size)


if __name__ == "__main__":
    main(*sys.argv[1:])
