"""Rounds for each --topology, on the device or streamed."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from fedrecon import federated as fl
from fedrecon.data import ClientData
from fedrecon.errors import ArgumentError
from fedrecon.federated import FederatedAlgorithm, RoundState
from fedrecon.runtime import compiled, memory_estimate
from fedrecon.training.budgets import Budget
from fedrecon.training.catalog_algorithms import method
from fedrecon.training.clocks import clock_record
from fedrecon.training.components import full_steps
from fedrecon.training.execution import Dispatch
from fedrecon.training.faults import full_record, parse_faults
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.options import FlagError, as_flag_error
from fedrecon.training.streaming import streamed_rounds
from fedrecon.types import Variables

PyTree = Any


class Rounds(NamedTuple):
    """The rounds of one training.

    Attributes:
      algorithm: whose models the state holds, for evaluation and fine-tuning.
      state: before the first round.
      data: what the rounds are given.
      compile: ``compile(rounds, key) -> Dispatch``.
      records: ``records(infos) -> [record]``, one JSON-able dict a round.
      federation: ``federation(state) -> RoundState``.
      average: ``average(RoundState) -> Variables``, the model of all.
      evaluate: ``evaluate(metrics, model, test) -> {name: (sum, count)}``, each (clients,), of a `RoundState`
        or of `Variables`.
      finished: ``finished(state)``, whether the training ends before its last round.
    """

    algorithm: FederatedAlgorithm
    state: PyTree
    data: PyTree
    compile: Callable[[int, jax.Array], Dispatch]
    records: Callable[[PyTree], list[dict[str, Any]]]
    federation: Callable[[PyTree], RoundState]
    average: Callable[[RoundState], Variables]
    evaluate: Callable[[Callable, RoundState | Variables, ClientData], PyTree]
    finished: Callable[[PyTree], bool] = lambda state: False


def mesh_of(settings: FederationSettings) -> Mesh:
    """The devices of a training: rings and asynchronous clients take turns on one.

    Raises:
      FlagError: for one device of several processes.
    """
    alone = settings.topology in ("ring", "single_pass", "braintorrent", "asynchronous")
    if alone and jax.process_count() > 1:
        raise FlagError("topology", "star or gossip with several processes", settings.topology)
    return fl.client_mesh(jax.devices()[:1] if alone else None)


@contextlib.contextmanager
def open_rounds(
    settings: FederationSettings,
    budget: Budget,
    algorithm: FederatedAlgorithm,
    variables: Variables,
    clients: ClientData,
    folder: Path,
    *,
    mesh: Mesh,
    parallel: str | int,
    validation: ClientData | None = None,
    frozen: Variables | None = None,
    **work: Any,
) -> Iterator[Rounds]:
    """The rounds that the settings ask for; a context, since streaming keeps a thread and a file open.

    Args:
      settings: of the federation.
      budget: of the training.
      algorithm: from `make_algorithm`.
      variables: the initial model.
      clients: the training data, on the host.
      folder: of the run.
      mesh: of `mesh_of`.
      parallel: as in `make_round`.
      validation: split of the clients that methods use in training; not of streamed ones.
      frozen: leaves of the model that are never trained, None in other places; not of streamed clients.
      **work: ``batch_size`` and ``epochs`` or ``steps`` of a round; nothing if the algorithm has batches of
        its own.

    Raises:
      ValueError: the algorithm or the data do not go together with the topology; names the flag. Some of
        these come from ``compile``.
    """
    expected = _expected_steps(settings, budget, clients, algorithm)
    weights = _weights(settings, algorithm, clients)
    if settings.stream:
        with streamed_rounds(
            settings,
            algorithm,
            variables,
            clients,
            folder,
            expected,
            weights,
            mesh=mesh,
            parallel=parallel,
            **work,
        ) as stream:
            yield Rounds(algorithm, *stream)
        return
    build = _BUILD.get(settings.topology, _ring)
    try:
        algorithm, state, round_ = build(settings, algorithm, variables, clients, mesh, parallel, work)
    except ValueError as error:
        raise _named(settings, error) from error
    placed = fl.place(clients, mesh, validation=validation, frozen=frozen)

    def compile(rounds, key):
        try:
            program = compiled(fl.run_rounds(round_, rounds).lower(state, placed, key))
        except ValueError as error:
            raise _named(settings, error) from error
        return Dispatch(program, memory_estimate(program))

    def records(infos):
        record = _asynchronous_record if settings.topology == "asynchronous" else _star_record
        return [
            record(jax.tree.map(lambda x, i=i: x[i], infos), clients.names, expected, weights)
            for i in range(len(infos.applied))
        ]

    yield Rounds(
        algorithm,
        state,
        placed,
        compile,
        records,
        lambda state: state if isinstance(state, RoundState) else state.federation,
        lambda state: fl.average_variables(algorithm, state),
        evaluation(algorithm, mesh, frozen),
    )


def evaluation(algorithm: FederatedAlgorithm, mesh: Mesh, frozen: Variables | None = None) -> Callable:
    """``evaluate`` of `Rounds` on the device; of models that lack the frozen leaves these are filled in."""
    make = functools.cache(lambda metrics: fl.make_evaluate(algorithm, metrics, mesh=mesh))

    def evaluate(metrics: Callable, model: RoundState | Variables, test: ClientData) -> PyTree:
        variables = model.variables if isinstance(model, RoundState) else model
        lacks = any(x is None for x in jax.tree.leaves(variables, is_leaf=lambda x: x is None))
        return make(metrics)(model, fl.place(test, mesh, frozen=frozen if lacks else None))

    return evaluate


def _expected_steps(
    settings: FederationSettings, budget: Budget, clients: ClientData, algorithm: FederatedAlgorithm
) -> np.ndarray:
    # A pooled client may be given fewer steps than its epochs have; private steps are the same everywhere.
    if method(settings.algorithm).pooled or algorithm.client.batching is not None:
        return np.zeros(clients.clients)
    return full_steps(budget, clients)


def _weights(
    settings: FederationSettings, algorithm: FederatedAlgorithm, clients: ClientData
) -> np.ndarray | None:
    """What the steps of clients count in those of the shared model; None where it takes all of them."""
    if settings.topology in ("ring", "single_pass"):
        return None
    counts = np.asarray(clients.counts, float)
    return np.ones_like(counts) if algorithm.weighting is fl.equal else counts


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


def _pulling(settings, algorithm, variables, clients, mesh, parallel, work):
    state = fl.topologies.init_pulling(algorithm, variables, clients)
    return fl.topologies.peer_to_peer(algorithm), state, fl.topologies.make_pulling_round(algorithm, **work)


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
        durations=None if algorithm.clock is not None else durations(scale),
        discount=fl.topologies.polynomial_discount(settings.discount),
        mixing=settings.asynchronous_mixing or None,
        **work,
    )
    return (
        algorithm,
        fl.topologies.init_asynchronous(algorithm, variables, clients, concurrency=concurrency),
        round_,
    )


_BUILD = {"star": _star, "gossip": _gossip, "braintorrent": _pulling, "asynchronous": _asynchronous}


def _star_record(
    info: fl.RoundInfo, names: tuple[str, ...], expected: np.ndarray, weights: np.ndarray | None
) -> dict[str, Any]:
    return full_record(info, names, expected, weights) | clock_record(info.clock, names)


def _asynchronous_record(
    info: fl.topologies.AsynchronousInfo, names: tuple[str, ...], expected: np.ndarray, weights: np.ndarray
) -> dict[str, Any]:
    arrived = info.client >= 0
    client = np.where(arrived, info.client, 0)
    names = tuple(names[i] for i in client)
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
        expected[client],
        weights[client],
    )
    counts = np.bincount(np.asarray(info.staleness)[arrived])
    return record | {
        "clock": float(info.clock[-1]),
        "staleness": float(np.mean(info.staleness)),
        # Server steps that an update missed -> how many updates.
        "staleness_counts": {str(steps): int(number) for steps, number in enumerate(counts) if number},
    }


def _named(settings: FederationSettings, error: ValueError) -> ValueError:
    if settings.topology == "star":
        return error
    named = as_flag_error(error, {"concurrency": "concurrency"})
    if isinstance(named, FlagError):
        return named
    both = f"topology={settings.topology} with --algorithm={settings.algorithm}"
    if isinstance(error, ArgumentError):
        return FlagError(f"{both}: {error.name}", error.expected, error.found)
    return ValueError(f"--{both}: {error}")
