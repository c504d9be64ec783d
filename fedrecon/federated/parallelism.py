"""Choice by measurement of how each device runs its clients."""

import hashlib
import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm, RoundState
from fedrecon.federated.clients import check_parallel, default_mesh, number_of_clients
from fedrecon.federated.engine import make_round

_CHOICES: dict[Hashable, str | int] = {}


class SavedChoices(MutableMapping[Hashable, str | int]):
    """Choices in a JSON file, for the ``cache`` of `choose_parallel`: a machine measures each program once.

    Another version of JAX, or another number of processors, has choices of its own. A file that is missing
    or does not hold choices counts as empty; one that cannot be written is left as it is.

    Args:
      path: of the file; by default ``parallel.json`` in ``$FEDRECON_CACHE`` (``~/.cache/fedrecon``).
    """

    def __init__(self, path: str | os.PathLike | None = None) -> None:
        self.path = pathlib.Path(path) if path else _cache_folder() / "parallel.json"

    def __getitem__(self, key: Hashable) -> str | int:
        return self._read()[_digest(key)]

    def __setitem__(self, key: Hashable, value: str | int) -> None:
        self._write({**self._read(), _digest(key): value})

    def __delitem__(self, key: Hashable) -> None:
        choices = self._read()
        del choices[_digest(key)]
        self._write(choices)

    def __contains__(self, key: object) -> bool:
        return _digest(key) in self._read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def _read(self) -> dict[str, str | int]:
        try:
            found = json.loads(self.path.read_bytes())
            for choice in found.values():
                check_parallel(choice)
        except (OSError, ValueError, AttributeError):
            return {}
        return found

    def _write(self, choices: dict[str, str | int]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.path.parent, delete=False) as file:
                json.dump(choices, file, indent=1)
            Path(file.name).replace(self.path)
        except OSError:
            return


def _cache_folder() -> pathlib.Path:
    if folder := os.environ.get("FEDRECON_CACHE"):
        return pathlib.Path(folder)
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "fedrecon"


def _digest(key: object) -> str:
    return hashlib.sha256(repr((jax.__version__, os.cpu_count(), key)).encode()).hexdigest()[:32]


def choose_parallel(
    algorithm: FederatedAlgorithm,
    state: RoundState,
    data: Any,
    *,
    batch_size: int | None = None,
    candidates: Sequence[str | int] | None = None,
    mesh: Mesh | None = None,
    override: str | int | None = None,
    cache: MutableMapping[Hashable, str | int] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> str | int:
    """The fastest ``parallel`` for `make_round` among the candidates, by `measure_parallel`.

    Results of rounds agree between candidates to rounding only, so a run that is to be repeated bit for bit
    states the choice by ``override``. With several processes that of the first one holds for all.

    Args:
      algorithm, state, data: of the run; nothing is donated.
      batch_size: as in `make_round`.
      candidates: tried in this order, the first winning ties; chunks of at least as many clients as a device
        has are left out, being "vmap". None is `default_candidates`; one alone is not measured.
      mesh: as in `make_round`.
      override: is checked and returned, without measuring.
      cache: choices by backend, devices, candidates, batch size and the shapes of state and data; one of this
        process by default, `SavedChoices` outlasts it. Other parts of the algorithm are not part of the key.
      clock: what tells the time in seconds.

    Raises:
      ValueError: for an unknown candidate or override, or no candidate.
    """
    if override is not None:
        check_parallel(override)
        return override
    mesh = default_mesh(mesh)
    cache = _CHOICES if cache is None else cache
    if candidates is None:
        candidates = default_candidates(state, mesh)
    candidates = _distinct(candidates, -(-number_of_clients(data) // mesh.size))
    if len(candidates) == 1:
        return candidates[0]
    key = _describe(state, data, mesh, candidates, batch_size)
    # All processes measure, or none: the first one's cache decides.
    known = _agree(candidates, cache.get(key))
    if known is not None:
        return known
    seconds = measure_parallel(
        algorithm, state, data, batch_size=batch_size, candidates=candidates, mesh=mesh, clock=clock
    )
    fastest = _agree(candidates, min(candidates, key=lambda c: seconds.get(c, float("inf"))))
    assert fastest is not None, "it is one of the candidates"
    cache[key] = fastest
    return fastest


def default_candidates(state: RoundState, mesh: Mesh) -> tuple[str | int, ...]:
    """Ways worth measuring.

    On CPU, networks with convolutions have "scan" alone: convolutions of several clients at once are grouped
    ones, which are slow there, and take long to compile.
    """
    if mesh.devices.flat[0].platform != "cpu":
        return ("vmap", "scan", 2, 8, 32)
    convolutions = any(x.ndim >= 4 for x in jax.tree.leaves(state.variables.params))
    return ("scan",) if convolutions else ("scan", "vmap")


def _agree(candidates: Sequence[str | int], chosen: str | int | None) -> str | int | None:
    """The first process's choice, in all of them."""
    if jax.process_count() == 1:
        return chosen
    from jax.experimental import multihost_utils

    options = [None, *candidates]
    place = options.index(chosen) if chosen in options else 0
    return options[int(multihost_utils.broadcast_one_to_all(np.int32(place)))]


def measure_parallel(
    algorithm: FederatedAlgorithm,
    state: RoundState,
    data: Any,
    *,
    batch_size: int | None = None,
    candidates: Sequence[str | int] = ("scan", "vmap", 2, 4, 8),
    mesh: Mesh | None = None,
    repeats: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str | int, float]:
    """Seconds of a round of one local step (of the client's own steps, if it brings its own batching).

    Compiling is left out, then the median over ``repeats`` taken; a candidate that is twice as slow at first
    as the fastest before it is not repeated. One that does not fit into the device's memory is missing from
    the answer.

    Args: as in `choose_parallel`.

    Raises:
      ValueError: for an unknown candidate, no candidate, or contradicting arguments.
      jax.errors.JaxRuntimeError: if no candidate fits into memory, or for any other failure.
    """
    if not candidates:
        raise ArgumentError("candidates", "at least one", "none")
    for candidate in candidates:
        check_parallel(candidate)
    if algorithm.reduce is not None and algorithm.reduce.linear and algorithm.reduce.answer is None:
        # Sums of another make (encrypted ones) cost the same however clients run.
        algorithm = algorithm._replace(reduce=None)
    steps = None if algorithm.client.batching else 1
    key = jax.random.key(0)
    seconds: dict[str | int, float] = {}
    failure: jax.errors.JaxRuntimeError | None = None
    for candidate in candidates:
        round: Any = make_round(
            algorithm, batch_size=batch_size, steps=steps, mesh=mesh, parallel=candidate, donate=False
        )
        try:
            compiled = round.lower(state, data, key).compile()
            times = []
            for _ in range(repeats):
                start = clock()
                jax.block_until_ready(compiled(state, data, key))
                times.append(clock() - start)
                if times[0] > 2 * min(seconds.values(), default=float("inf")):
                    break
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            failure = error
            continue
        seconds[candidate] = statistics.median(times)
    if failure is not None and not seconds:
        raise failure
    return seconds


def _distinct(candidates: Sequence[str | int], clients: int) -> list[str | int]:
    for candidate in candidates:
        check_parallel(candidate)
    kept = [
        c for c in dict.fromkeys(candidates) if isinstance(c, str) or c < clients or "vmap" not in candidates
    ]
    if not kept:
        raise ArgumentError("candidates", "at least one", "none")
    return kept


def _describe(
    state: RoundState, data: Any, mesh: Mesh, candidates: Sequence[str | int], batch_size: int | None
) -> Hashable:
    device = mesh.devices.flat[0]
    shapes = [
        (jax.tree_util.keystr(path), x.shape, str(x.dtype))
        for path, x in jax.tree_util.tree_leaves_with_path((state, {"valid": data.valid, **data.examples}))
    ]
    return (device.platform, device.device_kind, mesh.size, tuple(candidates), batch_size, tuple(shapes))
