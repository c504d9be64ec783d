"""Rounds over more clients than the device holds: only the sampled cohort's data and states go there."""

import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm, History, RoundInfo, RoundState
from fedrecon.federated.clients import ClientRow, check_parallel, client_sharding, default_mesh
from fedrecon.federated.cohorts import PER_CLIENT_INFO
from fedrecon.federated.engine import (
    Cohort,
    client_states,
    cohort_round,
    initial_state,
    round_keys,
    with_client_states,
)
from fedrecon.federated.server import chances_of, remember
from fedrecon.federated.topologies.serverless import check_no_clock
from fedrecon.federated.turn import ClientRows, choose_batching
from fedrecon.types import Batch, PyTree, Variables

Load = Callable[[np.ndarray], tuple[Batch, np.ndarray]]


class Loaded(NamedTuple):
    """The clients of one round on the device, padded to a fixed number; leaves (cohort, ...)."""

    numbers: np.ndarray
    examples: Batch
    valid: jax.Array


class StreamingInfo(NamedTuple):
    """What a streamed round reports.

    Attributes:
      clients: int32 (sampled,), numbers of the sampled clients, ascending.
      round: the `RoundInfo` of these clients in this order: leaves (sampled,) where it says (clients,).
      data_seconds: time spent waiting for data and client states.
      compute_seconds: time spent in the compiled round and in sampling.
      compile_seconds: time spent compiling, only in the first round.
      clients_per_second: sampled clients per second, without compiling.
      prefetched: whether the data were already loaded or being loaded when the round began.
    """

    clients: np.ndarray
    round: RoundInfo
    data_seconds: float
    compute_seconds: float
    compile_seconds: float
    clients_per_second: float
    prefetched: bool


def load_from(data: Any) -> Load:
    """``load`` of `StreamingRound` for data in host memory.

    Args:
      data: anything with ``examples``, a dict of NumPy arrays (clients, examples, ...), and ``valid``, bool
        (clients, examples); or of arrays that are read when they are indexed, as those of HDF5 files.
    """

    def load(clients):
        return {name: x[clients] for name, x in data.examples.items()}, data.valid[clients]

    return load


def init_streaming(
    algorithm: FederatedAlgorithm,
    variables: Variables,
    load: Load,
    clients: int,
    mesh: Mesh | None = None,
    *,
    public: PyTree = (),
) -> RoundState:
    """State before the first round: as in `init_state`, but what stays at clients is in NumPy arrays.

    Args:
      algorithm: the algorithm.
      variables: the initial model.
      load: as in `StreamingRound`; one client is loaded, for its shapes.
      clients: number of all clients.
      mesh: the mesh of the rounds.
      public: as in `StreamingRound`; only its shapes are used.
    """
    check_integer(clients, "clients")
    mesh = mesh_of_this_process(mesh)
    examples, valid = load(np.zeros(1, np.int32))
    examples, valid = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], jax.dtypes.canonicalize_dtype(x.dtype)),
        (dict(examples), valid),
    )
    row = ClientRow(examples, valid, None, public)
    build = jax.jit(
        lambda variables: initial_state(algorithm, variables, row, clients),
        out_shardings=NamedSharding(mesh, P()),
    )
    state = build(jax.tree.map(jnp.asarray, variables))

    def stack(x):
        return np.tile(np.asarray(x)[None], (clients,) + (1,) * x.ndim)

    return with_client_states(state, jax.tree.map(stack, client_states(state)))


class StreamingRound:
    """``round(state, key) -> (state, StreamingInfo)``: rounds as in `make_round`, clients in host memory.

    The same numbers: clients draw from the same keys, and on one device the sampled clients' updates are
    summed in the same order, so that the next state is the same bit for bit. On the device are the server's
    part of the state, the sampler's history, the cohort of this round and the data of the next, which a
    background thread loads during the computation. Which clients these will be is found by asking the sampler
    before the history of this round is known; if it answers otherwise afterwards, they are loaded anew.

    The state passed in is used up, its NumPy arrays are changed in place (JAX arrays, of a state that was
    restored, are copied). It is compiled once, and runs in one process. Use it as a context manager, or call
    ``close()``, to end the thread.
    """

    def __init__(
        self,
        algorithm: FederatedAlgorithm,
        load: Load,
        *,
        cohort: int,
        batch_size: int | None = None,
        epochs: int | None = None,
        steps: int | None = None,
        mesh: Mesh | None = None,
        parallel: str | int = "scan",
        public: PyTree = (),
        frozen: Variables | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Prepares the rounds.

        Args:
          algorithm: the algorithm, with its sampler over all clients.
          load: ``load(numbers) -> (examples, valid)``: the data of the clients with these numbers (int32,
            ascending), dict of arrays (numbers, examples, ...) and bool (numbers, examples), of the same
            shapes per client in each call. It is called in one other thread, never twice at a time.
            `load_from` makes one.
          cohort: the most clients that a round may sample; memory and time on the device are of that many.
          batch_size, epochs, steps, mesh, parallel: as in `make_round`.
          public, frozen: as in `place`; they are put on the devices once.
          clock: what tells the time in seconds.

        Raises:
          ValueError: for contradicting arguments, or devices of other processes; from the round, if the
            sampler chooses more clients than ``cohort`` or ``load`` returns other shapes than described.
        """
        check_integer(cohort, "cohort")
        check_parallel(parallel)
        check_no_clock(algorithm)
        self._load, self._cohort, self._clock = load, cohort, clock
        self._mesh = mesh_of_this_process(mesh)
        self._thread = ThreadPoolExecutor(1, "fedrecon-load")
        self._next: tuple[np.ndarray, Any] | None = None
        self._shapes = None
        self._compiled: Any = None
        self._shared = jax.device_put((public, frozen), NamedSharding(self._mesh, P()))
        batching = choose_batching(algorithm.client.batching, batch_size, epochs, steps)

        def sample(key, round, history):
            return algorithm.sampler(round_keys(key, round).sampler, round, history)

        def step(state, loaded, active, key, shared):
            clients = state.history.participations.shape[0]
            keys = round_keys(key, state.round)
            invited = jnp.zeros(clients, bool).at[loaded.numbers].set(active, mode="drop")
            chances = chances_of(algorithm.sampler, state.round, state.history)
            chosen = Cohort(loaded.numbers, active, invited, chances=chances)
            state, kept, info = cohort_round(
                algorithm,
                batching,
                state,
                ClientRow(loaded.examples, loaded.valid, None, *shared),
                chosen,
                keys,
                mesh=self._mesh,
                parallel=parallel,
            )
            metrics = jax.tree.map(chosen.spread, info.client_metrics)
            history = remember(
                state.history, algorithm.sampler, state.round - 1, chosen.spread(kept), metrics
            )
            server = with_client_states(state._replace(history=history), ClientRows((), (), ()))
            everywhere = NamedSharding(self._mesh, P())
            return jax.lax.with_sharding_constraint(server, everywhere), client_states(state), info

        self._sample: Any = jax.jit(sample)
        self._step = jax.jit(step, donate_argnums=0)

    def __enter__(self) -> "StreamingRound":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends the background thread; further rounds raise RuntimeError."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __call__(self, state: RoundState, key: jax.Array) -> tuple[RoundState, StreamingInfo]:
        """One round."""
        begin = self._clock()
        state = with_client_states(state, jax.tree.map(_writable, client_states(state)))
        if self._compiled is None:
            self._sample = self._sample.lower(key, state.round, state.history).compile()
        start = self._clock()
        numbers = self._sampled(key, state.round, state.history)
        sampled_at = self._clock()
        cohort, prefetched = self._take(numbers)
        rows = self._put(gather_rows(client_states(state), numbers, self._cohort))
        ready_at = self._clock()
        active = np.arange(self._cohort) < len(numbers)
        arguments = (with_client_states(state, rows), cohort, active, key, self._shared)
        if self._compiled is None:
            self._compiled = self._step.lower(*arguments).compile()
        compiled_at = self._clock()
        upcoming = self._sampled(key, state.round + 1, state.history)
        self._next = (upcoming, self._thread.submit(self._prepare, upcoming))
        server, new, info = jax.block_until_ready(self._compiled(*arguments))
        done_at = self._clock()
        host = client_states(state)
        jax.tree.map(functools.partial(_scatter, numbers), host, new)
        info = jax.tree.map(np.asarray, info)
        end = self._clock()
        data = (ready_at - sampled_at) + (end - done_at)
        compute = (sampled_at - start) + (done_at - compiled_at)
        return with_client_states(server, host), StreamingInfo(
            clients=numbers,
            round=_first_of(info, len(numbers)),
            data_seconds=data,
            compute_seconds=compute,
            compile_seconds=(start - begin) + (compiled_at - ready_at),
            clients_per_second=len(numbers) / max(data + compute, 1e-9),
            prefetched=prefetched,
        )

    def _sampled(self, key: jax.Array, round: jax.Array, history: History) -> np.ndarray:
        return np.flatnonzero(np.asarray(self._sample(key, round, history))).astype(np.int32)

    def _take(self, numbers: np.ndarray) -> tuple[Loaded, bool]:
        if len(numbers) > self._cohort:
            raise ArgumentError("cohort", f"at least the {len(numbers)} sampled clients", self._cohort)
        following, self._next = self._next, None
        prefetched = following is not None and np.array_equal(following[0], numbers)
        if following is None or not prefetched:
            if following is not None:
                following[1].cancel()
            following = numbers, self._thread.submit(self._prepare, numbers)
        loaded = following[1].result()
        assert loaded is not None, "it fits"
        return loaded, prefetched

    def _prepare(self, numbers: np.ndarray) -> Loaded | None:
        """Loads a cohort, pads it and puts it on the device."""
        if len(numbers) > self._cohort:
            return None
        if len(numbers):
            examples, valid = self._load(numbers)
        else:
            examples, valid = jax.tree.map(lambda x: x[:0], self._load(np.zeros(1, np.int32)))
        arrays = jax.tree.map(np.asarray, (dict(examples), valid))
        shapes = jax.tree.map(lambda x: (x.shape[1:], x.dtype), arrays)
        for name, x in [("valid", arrays[1]), *arrays[0].items()]:
            if x.shape[:2] != (len(numbers), *arrays[1].shape[1:]):
                raise ArgumentError(
                    "load", f"{name} with leading axes {(len(numbers), *arrays[1].shape[1:2])}", x.shape
                )
        if self._shapes is None:
            self._shapes = shapes
        if shapes != self._shapes:
            raise ArgumentError("load", f"the shapes of the first cohort {self._shapes}", shapes)
        missing = self._cohort - len(numbers)
        padded = jax.tree.map(lambda x: np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)), arrays)
        numbers = np.pad(numbers, (0, missing), constant_values=np.iinfo(np.int32).max)
        return Loaded(numbers, *self._put(padded))

    def _put(self, tree):
        return jax.device_put(tree, client_sharding(self._mesh, self._cohort))


def _writable(x: ArrayLike) -> np.ndarray:
    return x if isinstance(x, np.ndarray) and x.flags.writeable else np.array(x)


def mesh_of_this_process(mesh: Mesh | None) -> Mesh:
    """The mesh, or the default one; a ValueError where another process has a part of it."""
    mesh = default_mesh(mesh)
    if any(device.process_index != jax.process_index() for device in mesh.devices.flat):
        raise ArgumentError("mesh", "devices of this process, where clients are kept", "those of several")
    return mesh


def check_integer(value: Any, name: str) -> None:
    """A ValueError where the value is no positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ArgumentError(name, "an integer of at least 1", repr(value))


def gather_rows(rows: PyTree, numbers: np.ndarray, cohort: int) -> PyTree:
    """Rows of these clients out of (clients, ...), zeros after them up to ``cohort``."""

    def one(x):
        picked = np.zeros((cohort, *x.shape[1:]), x.dtype)
        picked[: len(numbers)] = x[numbers]
        return picked

    return jax.tree.map(one, rows)


def _scatter(numbers, host, new):
    host[numbers] = np.asarray(new)[: len(numbers)]


def _first_of(info: RoundInfo, count: int) -> RoundInfo:
    def cut(tree):
        return jax.tree.map(lambda x: x[:count], tree)

    return info._replace(**{name: cut(getattr(info, name)) for name in PER_CLIENT_INFO})
