"""Rounds and evaluation of clients in host memory, or an HDF5 file, that visit the device in turn."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import jax
import numpy as np
from jax.sharding import Mesh

from fedrecon.data import ClientData
from fedrecon.federated import FederatedAlgorithm
from fedrecon.federated.topologies import (
    StreamingInfo,
    StreamingRound,
    init_streaming,
    load_from,
    make_streaming_evaluate,
    streaming_average,
)
from fedrecon.files import replacing
from fedrecon.training.execution import Dispatch
from fedrecon.training.faults import full_record
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.options import FlagError, as_flag_error
from fedrecon.types import Variables


class Stored(NamedTuple):
    """Client data in an open HDF5 file: arrays that are read when they are indexed."""

    examples: dict[str, Any]
    valid: Any


def store_clients(path: Path, data: ClientData) -> None:
    """Writes client data to an HDF5 file, a chunk for each client; a crash leaves no part of it."""
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        arrays = {f"examples/{name}": x for name, x in data.examples.items()}
        for name, x in [*arrays.items(), ("valid", data.valid)]:
            x = np.asarray(x)
            file.create_dataset(name, data=x, chunks=(1, *x.shape[1:]) if x.size else None)


@contextlib.contextmanager
def open_clients(path: Path) -> Iterator[Stored]:
    """Opens what `store_clients` wrote."""
    with h5py.File(path, "r") as file:
        yield Stored(dict(file["examples"]), file["valid"])


@contextlib.contextmanager
def streamed_rounds(
    settings: FederationSettings,
    algorithm: FederatedAlgorithm,
    variables: Variables,
    clients: ClientData,
    folder: Path,
    expected: np.ndarray,
    weights: np.ndarray | None,
    *,
    mesh: Mesh,
    parallel: str | int,
    **work: Any,
) -> Iterator[tuple]:
    """The fields of `Rounds` except for the algorithm, at most ``settings.stream`` clients on the device.

    Raises:
      FlagError: several processes, or more clients in a round than --stream allows.
    """
    count, cohort = clients.clients, settings.stream
    if jax.process_count() > 1:
        raise FlagError("stream", "0 with several processes", cohort)
    if settings.sampler == "all" and cohort < count:
        raise FlagError("stream", f"the {count} clients of --sampler=all", cohort)
    with contextlib.ExitStack() as stack:
        load = stack.enter_context(_source(settings, clients, folder / "clients.h5"))
        state = init_streaming(algorithm, variables, load, count, mesh)
        stream = stack.enter_context(
            StreamingRound(algorithm, load, cohort=cohort, mesh=mesh, parallel=parallel, **work)
        )

        def compile(rounds, key):
            def dispatch(state, data, key):
                infos = []
                for _ in range(rounds):
                    try:
                        state, info = stream(state, key)
                    except ValueError as error:
                        raise as_flag_error(error, {"cohort": "stream"}) from error
                    infos.append(info)
                return state, infos

            # What a round occupies is known in the first one, which compiles it.
            return Dispatch(dispatch)

        def record(info: StreamingInfo) -> dict[str, Any]:
            names = tuple(clients.names[i] for i in info.clients)
            figures = ("clients_per_second", "compute_seconds", "data_seconds", "compile_seconds")
            times = {name: round(float(getattr(info, name)), 4) for name in figures}
            theirs = None if weights is None else weights[info.clients]
            return full_record(info.round, names, expected[info.clients], theirs) | times

        def evaluate(metrics, model, test):
            with _source(settings, test, folder / "test-clients.h5") as source:
                run = make_streaming_evaluate(
                    algorithm, metrics, source, clients=count, cohort=cohort, mesh=mesh
                )
                return run(model)

        yield (
            state,
            (),
            compile,
            lambda infos: [record(info) for info in infos],
            lambda state: state,
            lambda state: streaming_average(algorithm, state),
            evaluate,
        )


@contextlib.contextmanager
def _source(settings: FederationSettings, data: ClientData, path: Path) -> Iterator:
    if settings.stream_from == "memory":
        yield load_from(data)
        return
    store_clients(path, data)
    with open_clients(path) as stored:
        yield load_from(stored)
