"""Who sends models to whom: one way of doing rounds for each --topology, on the device or streamed."""

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.pipeline.federated_faults import full_record, parse_faults
from experiments.pipeline.federated_methods import full_steps, make_optimizer, method
from experiments.pipeline.federated_settings import TrainSettings
from experiments.pipeline.federated_streaming import streamed_plan
from experiments.pipeline.federation import choose_parallel
from fedrecon import Task, Variables
from fedrecon import federated as fl
from fedrecon.data import ClientData, select_clients
from fedrecon.federated import FederatedAlgorithm, RoundState
from fedrecon.files import write_atomically
from fedrecon.runtime import agreed, is_lead

PyTree = Any


class Plan(NamedTuple):
    """How the rounds of one training are done.

    Attributes:
      algorithm: whose models the state holds, for evaluation and fine-tuning.
      state: before the first round.
      data: what the rounds are given.
      compile: ``compile(rounds, key) -> dispatch``, with ``dispatch(state, data, key) -> (state, infos)``.
      records: ``records(infos) -> [record]``, one JSON-able dict a round.
      federation: ``federation(state) -> RoundState``.
      average: ``average(RoundState) -> Variables``, the model of all.
      evaluator: ``evaluator(metrics, test) -> evaluate``, with ``evaluate(RoundState | Variables)`` giving
        {name: (sum, count)}, each (clients,).
    """

    algorithm: FederatedAlgorithm
    state: PyTree
    data: PyTree
    compile: Callable[[int, jax.Array], Callable]
    records: Callable[[PyTree], list[dict[str, Any]]]
    federation: Callable[[PyTree], RoundState]
    average: Callable[[RoundState], Variables]
    evaluator: Callable[[Callable, ClientData], Callable]


def plan_mesh(settings: TrainSettings) -> Mesh:
    """The devices of a training: rings and asynchronous clients take turns on one.

    Raises:
      ValueError: for one device of several processes.
    """
    alone = settings.topology in ("ring", "single_pass", "asynchronous")
    if alone and jax.process_count() > 1:
        raise ValueError(
            f"--topology: expected star or gossip with several processes, found {settings.topology}"
        )
    return fl.client_mesh(jax.devices()[:1] if alone else None)


@contextlib.contextmanager
def open_plan(
    settings: TrainSettings,
    algorithm: FederatedAlgorithm,
    variables: Variables,
    clients: ClientData,
    folder: Path,
    *,
    mesh: Mesh,
    parallel: str | int,
    **work: int,
) -> Iterator[Plan]:
    """The rounds that the settings ask for; a context, since streaming keeps a thread and a file open.

    Args:
      settings: of the training.
      algorithm: from `make_algorithm`.
      variables: the initial model.
      clients: the training data, on the host.
      folder: of the run.
      mesh: of `plan_mesh`.
      parallel: as in `make_round`.
      **work: ``epochs`` or ``steps`` of a round.

    Raises:
      ValueError: the algorithm or the data do not go together with the topology; names the flag. Some of
        these come from ``compile``.
    """
    work |= {"batch_size": settings.batch_size}
    if settings.stream:
        with streamed_plan(
            settings, algorithm, variables, clients, folder, mesh=mesh, parallel=parallel, **work
        ) as stream:
            yield Plan(algorithm, *stream)
        return
    build = {"star": _star, "gossip": _gossip, "asynchronous": _asynchronous}.get(settings.topology, _ring)
    try:
        algorithm, state, round_ = build(settings, algorithm, variables, clients, mesh, parallel, work)
    except ValueError as error:
        raise _named(settings, error) from error
    placed = fl.place(clients, mesh)

    def compile(rounds, key):
        try:
            return fl.run_rounds(round_, rounds).lower(state, placed, key).compile()
        except ValueError as error:
            raise _named(settings, error) from error

    def records(infos):
        record = _asynchronous_record if settings.topology == "asynchronous" else full_record
        expected = _expected_steps(settings, clients)
        return [
            record(jax.tree.map(lambda x, i=i: x[i], infos), clients.names, expected)
            for i in range(len(infos.applied))
        ]

    def evaluator(metrics, test):
        evaluate, data = fl.make_evaluate(algorithm, metrics, mesh=mesh), fl.place(test, mesh)
        return lambda model: evaluate(model, data)

    yield Plan(
        algorithm,
        state,
        placed,
        compile,
        records,
        lambda state: state.federation if settings.topology == "asynchronous" else state,
        lambda state: fl.average_variables(algorithm, state),
        evaluator,
    )


def fine_tuned(
    settings: TrainSettings,
    task: Task,
    algorithm: FederatedAlgorithm,
    state: RoundState,
    train: ClientData,
    key: jax.Array,
    **way,
) -> tuple[FederatedAlgorithm, RoundState]:
    """What `fine_tune` makes of a state, by the flags --fine_tune and --fine_tune_head.

    Raises:
      ValueError: the network has no such part, or the clients are streamed.
    """
    if settings.stream:
        raise ValueError(f"--fine_tune: expected 0 with --stream, found {settings.fine_tune}")
    head = None
    if settings.fine_tune_head:
        shapes = jax.eval_shape(task.init, jax.random.key(0))
        try:
            head = fl.leaves_under(shapes, (settings.fine_tune_head,))
        except ValueError as error:
            raise ValueError(f"--fine_tune_head: {str(error)[:300]}") from error
    return fl.fine_tune(
        algorithm,
        state,
        task,
        make_optimizer(settings),
        train,
        key,
        batch_size=settings.batch_size,
        epochs=settings.fine_tune,
        head=head,
        **way,
    )


def resolve_parallel(
    flag: str,
    settings: TrainSettings,
    algorithm: FederatedAlgorithm,
    variables: Variables,
    clients: ClientData,
    folder: Path,
    mesh: Mesh,
) -> str | int:
    """The ``parallel`` of `make_round` that --parallel names; for "auto" the fastest, by a measured step.

    A choice is kept in ``parallel.json`` of the run, so that it resumes bit for bit, and in the user's cache
    (`fedrecon.federated.SavedChoices`): a machine measures each backend, model and shapes once.

    Raises:
      ValueError: the flag names nothing.
    """
    if flag != "auto":
        return choose_parallel(flag)
    file = folder / "parallel.json"
    if agreed(file.exists()):
        return json.loads(file.read_text())["parallel"]
    if settings.topology in ("ring", "single_pass", "asynchronous") or clients.clients <= mesh.size:
        return "scan"
    if settings.stream:
        clients = select_clients(clients, clients.names[: settings.stream])
        algorithm = algorithm._replace(sampler=fl.all_clients())
    chosen = fl.choose_parallel(
        algorithm,
        fl.init_state(algorithm, variables, clients, mesh),
        fl.place(clients, mesh),
        batch_size=settings.batch_size,
        mesh=mesh,
        cache=fl.parallelism.SavedChoices(),
    )
    if is_lead():
        write_atomically(file, json.dumps({"parallel": chosen}).encode())
    return chosen


def _expected_steps(settings, clients) -> np.ndarray:
    # The pooled client of a centralized training may be given fewer steps than its epochs have.
    return np.zeros(1) if method(settings.algorithm).pooled else full_steps(settings, clients)


def _star(settings, algorithm, variables, clients, mesh, parallel, work):
    state = fl.init_state(algorithm, variables, clients, mesh)
    return algorithm, state, fl.make_round(algorithm, mesh=mesh, parallel=parallel, **work)


def _ring(settings, algorithm, variables, clients, mesh, parallel, work):
    state = fl.init_state(algorithm, variables, clients, mesh)
    carry = settings.handover == "optimizer"
    round_ = fl.topologies.make_ring_round(algorithm, order=settings.visits, carry_optimizer=carry, **work)
    return algorithm, state, round_


def _gossip(settings, algorithm, variables, clients, mesh, parallel, work):
    state = fl.init_state(fl.topologies.peer_to_peer(algorithm), variables, clients, mesh)
    round_ = fl.topologies.make_gossip_round(algorithm, settings.mixing, mesh=mesh, parallel=parallel, **work)
    return fl.topologies.peer_to_peer(algorithm), state, round_


def _asynchronous(settings, algorithm, variables, clients, mesh, parallel, work):
    concurrency = settings.concurrency or math.ceil(clients.clients / 2)
    faults = parse_faults(settings.fault, clients.names)
    scale = [10.0 if faults.get(i) == "straggler" else 1.0 for i in range(clients.clients)]
    durations = {
        "half_normal": fl.topologies.half_normal_durations,
        "constant": fl.topologies.constant_durations,
    }[settings.delay]
    round_ = fl.topologies.make_asynchronous_round(
        algorithm,
        buffer_size=settings.buffer_size,
        durations=durations(scale),
        discount=fl.topologies.polynomial_discount(settings.discount),
        mixing=settings.asynchronous_mixing or None,
        **work,
    )
    return (
        algorithm,
        fl.topologies.init_asynchronous(algorithm, variables, clients, concurrency=concurrency),
        round_,
    )


def _asynchronous_record(info: fl.topologies.AsynchronousInfo, names, expected) -> dict[str, Any]:
    arrived = info.client >= 0
    everybody = info._replace(client=np.where(arrived, info.client, 0))
    names = tuple(names[i] for i in everybody.client)
    record = full_record(
        fl.RoundInfo(
            info.metrics,
            info.client_metrics,
            participated=arrived,
            excluded=info.excluded & arrived,
            applied=info.applied,
            bytes_up=info.bytes_up,
            bytes_down=info.bytes_down,
            delta_norm=info.delta_norm,
            channel=info.channel,
        ),
        names,
        expected[everybody.client],
    )
    return record | {"clock": float(info.clock[-1]), "staleness": float(np.mean(info.staleness))}


def _named(settings: TrainSettings, error: ValueError) -> ValueError:
    text = str(error)
    if text.startswith("concurrency"):
        return ValueError(f"--{text}")
    if settings.topology == "star":
        return error
    return ValueError(f"--topology={settings.topology} with --algorithm={settings.algorithm}: {text}")
