"""How trainings are carried out: clients side by side or in turn, and rounds compiled ahead."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from fedrecon import federated as fl
from fedrecon.data import ClientData, select_clients
from fedrecon.federated import FederatedAlgorithm
from fedrecon.files import write_atomically
from fedrecon.runtime import MemoryEstimate, agreed, is_lead, release_memory
from fedrecon.training.budgets import Budget
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.options import FlagError
from fedrecon.training.spending import fresh_key
from fedrecon.types import Variables


def _no_report(stage: str) -> None:
    del stage


@dataclasses.dataclass(frozen=True)
class Execution:
    """How trainings are carried out; it changes results by rounding at most.

    Attributes:
      parallel: how clients run on a device: "scan", "vmap", a chunk size, or "auto", the fastest by a
        measured step.
      rounds_per_dispatch: rounds compiled into one call.
      report_stage: called with the name of each stage that begins, as in `Watchdog`.
      announce: called with a sentence that a user should read before the first round.
    """

    parallel: str = "auto"
    rounds_per_dispatch: int = 1
    report_stage: Callable[[str], None] = _no_report
    announce: Callable[[str], None] = _no_report


class Dispatch(NamedTuple):
    """Some rounds that were compiled into one call.

    Attributes:
      run: ``run(state, data, key) -> (state, infos)``.
      memory: what a call occupies on each device; None where that is not known.
    """

    run: Callable[[Any, Any, jax.Array], tuple[Any, Any]]
    memory: MemoryEstimate | None = None


class CompiledRounds:
    """``dispatch(count)`` for `fedrecon.runtime.train`: each number of rounds is compiled once.

    With ``fresh`` every dispatch has a key of its own from the operating system.

    Attributes:
      seconds: spent compiling.
    """

    def __init__(
        self, compile: Callable[[int, jax.Array], Dispatch], key: jax.Array, *, fresh: bool = False
    ) -> None:
        self._compile, self._key, self._fresh = compile, key, fresh
        self._compiled: dict[int, Dispatch] = {}
        self.seconds = 0.0

    def __call__(self, count: int) -> Callable:
        run = self.compiled(count).run
        return (lambda state, data, key: run(state, data, fresh_key())) if self._fresh else run

    def compiled(self, count: int) -> Dispatch:
        """So many rounds, compiled now unless they were before."""
        if count not in self._compiled:
            start = time.perf_counter()
            # What was compiled before leaves memory that this compilation would add to.
            release_memory()
            self._compiled[count] = self._compile(count, self._key)
            release_memory()
            self.seconds += time.perf_counter() - start
        return self._compiled[count]


def resolve_parallel(
    execution: Execution,
    settings: FederationSettings,
    budget: Budget,
    algorithm: FederatedAlgorithm,
    variables: Variables,
    clients: ClientData,
    folder: Path,
    mesh: Mesh,
    frozen: Variables | None = None,
) -> str | int:
    """The ``parallel`` of `make_round` that --parallel names.

    A measured choice is kept in ``parallel.json`` of the run, so that it resumes bit for bit, and in the
    user's cache (`fedrecon.federated.SavedChoices`): a machine measures each backend, model and shapes once.

    Raises:
      FlagError: the flag names nothing.
    """
    if execution.parallel != "auto":
        return choose_parallel(execution.parallel)
    file = folder / "parallel.json"
    if agreed(file.exists()):
        return json.loads(file.read_text())["parallel"]
    if (
        settings.topology in ("ring", "single_pass", "braintorrent", "asynchronous")
        or clients.clients <= mesh.size
    ):
        return "scan"
    if settings.stream:
        clients = select_clients(clients, clients.names[: settings.stream])
        algorithm = algorithm._replace(sampler=fl.all_clients())
    chosen = fl.choose_parallel(
        algorithm,
        fl.init_state(algorithm, variables, clients, mesh),
        fl.place(clients, mesh, frozen=frozen),
        batch_size=None if algorithm.client.batching is not None else budget.batch_size,
        mesh=mesh,
        cache=fl.parallelism.SavedChoices(),
    )
    if is_lead():
        write_atomically(file, json.dumps({"parallel": chosen}).encode())
    return chosen


def choose_parallel(parallel: str) -> str | int:
    """The ``parallel`` of `make_round` that a flag names.

    "auto" is the backend's usual best: scan on CPU, where convolutions of stacked clients are slow, vmap
    elsewhere. "pmap" is scan, on each device of the mesh.

    Raises:
      FlagError: the flag names nothing.
    """
    if parallel == "auto":
        return "scan" if jax.default_backend() == "cpu" else "vmap"
    if parallel in ("scan", "vmap"):
        return parallel
    if parallel == "pmap":
        return "scan"
    if parallel.isdigit() and int(parallel) > 0:
        return int(parallel)
    raise FlagError("parallel", "auto, scan, pmap, vmap or a chunk size", repr(parallel))
