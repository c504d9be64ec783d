"""One function for every client: over devices by shard_map, within a device by scan, vmap or chunks."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fedrecon.errors import ArgumentError
from fedrecon.federated.trees import along, pack, unpack, vary_with
from fedrecon.types import Batch, PyTree, Variables

AXIS = "clients"

# Elements above which a copy costs more than a message between devices of its own.
_SMALL = 1 << 15


def client_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis, "clients", over ``devices`` (those of all processes by default)."""
    devices = jax.devices() if devices is None else list(devices)
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def default_mesh(mesh: Mesh | None) -> Mesh:
    """``mesh``, checked, or the mesh of the first device of this process alone.

    Raises:
      ValueError: if the mesh's only axis is not called "clients".
    """
    if mesh is None:
        return client_mesh(jax.local_devices()[:1])
    if mesh.axis_names != (AXIS,):
        raise ArgumentError("mesh", f"the single axis {AXIS!r}", mesh.axis_names)
    return mesh


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["examples", "valid", "validation", "public", "frozen"],
    meta_fields=["clients"],
)
@dataclass(frozen=True)
class PlacedData:
    """Client data on the devices of a mesh, padded with empty clients to a multiple of their number.

    Attributes:
      examples: dict of arrays (padded clients, examples, ...).
      valid: bool (padded clients, examples).
      clients: number of real clients, which come first.
      validation: dict of arrays (padded clients, examples, ...) with their mask under ``"valid"``; None
        without a validation split.
      public: pytree of arrays that all clients and the server know, replicated.
      frozen: `Variables` of the frozen leaves of the model (None elsewhere), replicated; None without any.
    """

    examples: Batch
    valid: jax.Array
    clients: int
    validation: Batch | None = None
    public: PyTree = ()
    frozen: Variables | None = None


class ClientRow(NamedTuple):
    """One client's data, or with a leading axis those of several: what a client's turn is given.

    Attributes:
      examples, valid, validation: of the client, as in `PlacedData`.
      public, frozen: the same for all clients, without the leading axis.
    """

    examples: Batch
    valid: jax.Array
    validation: Batch | None = None
    public: PyTree = ()
    frozen: Variables | None = None

    @property
    def own(self) -> tuple[Batch, jax.Array, Batch | None]:
        """What has a leading axis of clients."""
        return self[:3]

    @property
    def shared(self) -> tuple[PyTree, Variables | None]:
        """What all clients share."""
        return self[3:]

    def one(self, client: int | jax.Array) -> "ClientRow":
        """The row of one client."""
        examples, valid, validation = jax.tree.map(lambda x: x[client], self.own)
        return ClientRow(examples, valid, validation, *self.shared)


def client_rows(data: Any) -> ClientRow:
    """The rows of client data as from `place`, or of anything with ``examples`` and ``valid``."""
    optional = {name: getattr(data, name, default) for name, default in ClientRow._field_defaults.items()}
    return ClientRow(dict(data.examples), data.valid, **optional)


def place(
    data: Any,
    mesh: Mesh | None = None,
    *,
    validation: Any = None,
    public: PyTree = (),
    frozen: Variables | None = None,
) -> PlacedData:
    """Puts client data on a mesh once, so that rounds move nothing (they move unplaced data each time).

    With several processes each passes the data of all clients and puts those of its own devices there.

    Args:
      data: anything with ``examples`` (dict of arrays (clients, examples, ...)) and ``valid`` (clients,
        examples).
      mesh: from `client_mesh`.
      validation: the clients' validation splits, like ``data``.
      public: pytree of arrays that all clients and the server know.
      frozen: the model whose leaves the share mask calls frozen, or those leaves alone.

    Raises:
      ValueError: if ``validation`` is of another number of clients.
    """
    mesh = default_mesh(mesh)
    clients = number_of_clients(data)
    padded = _round_up(clients, mesh.size)
    sharding = NamedSharding(mesh, P(AXIS))

    def put(x):
        missing = padded - x.shape[0]
        if missing:
            x = np.pad(np.asarray(x), [(0, missing)] + [(0, 0)] * (x.ndim - 1))
        if sharding.is_fully_addressable:
            return jax.device_put(x, sharding)
        x = np.asarray(x, jax.dtypes.canonicalize_dtype(x.dtype))
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    def replicate(x):
        return jax.device_put(x, NamedSharding(mesh, P()))

    split = None
    if validation is not None:
        if number_of_clients(validation) != clients:
            raise ArgumentError("validation", f"{clients} clients as in data", number_of_clients(validation))
        split = jax.tree.map(put, {**validation.examples, "valid": validation.valid})
    public, frozen = jax.tree.map(replicate, (public, frozen))
    examples = jax.tree.map(put, dict(data.examples))
    return PlacedData(examples, put(data.valid), clients, split, public, frozen)


def number_of_clients(data: Any) -> int:
    """Number of real clients in ``data``.

    Raises:
      ValueError: if the arrays disagree on the leading axes.
    """
    expected = data.valid.shape
    if len(expected) != 2:
        raise ArgumentError("data.valid", "shape (clients, examples)", expected)
    for name, x in data.examples.items():
        if x.shape[:2] != expected:
            raise ArgumentError(f"data.examples[{name!r}]", f"leading axes {expected}", x.shape)
    return data.clients if isinstance(data, PlacedData) else expected[0]


def client_sharding(mesh: Mesh, clients: int) -> NamedSharding:
    """Sharding of stacked client state: over clients if the devices divide them, else replicated."""
    # One device always reports P(), and a state that changes its sharding would compile twice.
    return NamedSharding(mesh, P(AXIS) if mesh.size > 1 and clients % mesh.size == 0 else P())


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def check_parallel(parallel: str | int) -> None:
    """Raises ValueError unless ``parallel`` is "scan", "pmap", "vmap" or a chunk size."""
    if parallel in ("scan", "pmap", "vmap") or (isinstance(parallel, int) and parallel >= 1):
        return
    raise ArgumentError("parallel", '"scan", "pmap", "vmap" or a chunk size of at least 1', repr(parallel))


def map_clients(
    one: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree, PyTree]],
    shared: PyTree,
    states: PyTree,
    rows: PyTree,
    active: jax.Array,
    *,
    mesh: Mesh,
    parallel: str | int,
) -> tuple[PyTree, PyTree, PyTree]:
    """Applies ``one`` to every active client; only sums cross the client axis.

    Args:
      one: ``one(shared, state, row) -> (contribution, state, record)`` of one client.
      shared: pytree that every client sees.
      states: leaves (clients, ...); inactive clients keep theirs.
      rows: further per-client inputs, leaves (clients or more, ...); surplus rows are never active.
      active: bool (clients,).
      mesh: mesh with the axis "clients".
      parallel: how a device runs its clients: "scan" one after another, skipping inactive ones; "vmap" at
        once; an integer, that many at once, skipping chunks without an active client; "pmap" is "scan" by the
        name of `jax.pmap`: each device of the mesh has a shard of the clients, of one if there are as many.

    Returns:
      (sum of contributions over active clients, states (clients, ...), records (clients, ...), zero where
      inactive).
    """
    clients = active.shape[0]
    widest = max([clients] + [x.shape[0] for x in jax.tree.leaves(rows)])
    padded = _round_up(widest, mesh.size)
    states, rows, active_rows = jax.tree.map(lambda x: _pad(x, padded), (states, rows, active))

    def on_device(shared, states, rows, active):
        shared = jax.tree.map(lambda x: jax.lax.pcast(x, AXIS, to="varying"), shared)
        packing = None

        def packed_one(state, row):
            nonlocal packing
            contribution, state, record = one(shared, state, row)
            vectors, packing = pack(contribution)
            return vectors, state, record

        total, states, records = _map_local(packed_one, states, rows, active, parallel)
        return unpack(jax.lax.psum(total, AXIS), packing), states, records

    total, states, records = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(P(), P(AXIS), P(AXIS), P(AXIS)),
        out_specs=(P(), P(AXIS), P(AXIS)),
    )(shared, states, rows, active_rows)
    states, records = jax.tree.map(lambda x: x[:clients], (states, records))
    return total, states, records


def _pad(x: jax.Array, clients: int) -> jax.Array:
    missing = clients - x.shape[0]
    if not missing:
        return x
    return jnp.concatenate([x, jnp.zeros((missing, *x.shape[1:]), x.dtype)])


def _map_local(one, states, rows, active, parallel):
    local = active.shape[0]
    parallel = "scan" if parallel == "pmap" else parallel
    chunk = {"scan": 1, "vmap": local}.get(parallel, parallel)
    chunk = min(chunk, local)
    # Traced once, though it is looked at for its shapes before it runs.
    one = jax.jit(one)

    def run(state, row, flag):
        return vary_with(flag, one(state, row))

    def run_chunk(states, rows, active):
        def where_active(new, old):
            return jnp.where(along(active, new), new, old)

        def or_zero(tree):
            return jax.tree.map(lambda x: where_active(x, jnp.zeros((), x.dtype)), tree)

        contributions, trained, records = jax.vmap(one)(states, rows)
        totals = jax.tree.map(lambda x: jnp.sum(x, axis=0, dtype=x.dtype), or_zero(contributions))
        return totals, jax.tree.map(where_active, trained, states), or_zero(records)

    if parallel == "scan":
        work, leading, items = run, (), jnp.arange(local)
    elif chunk == local:
        return run_chunk(states, rows, active)
    else:
        work, leading, items = run_chunk, (chunk,), jnp.arange(_round_up(local, chunk)).reshape(-1, chunk)

    contribution, _, record = jax.eval_shape(one, *jax.tree.map(lambda x: x[0], (states, rows)))

    def zeros(tree, leading=()):
        blank = jax.tree.map(lambda x: jnp.zeros((*leading, *x.shape), x.dtype), tree)
        return vary_with(active[0], blank)

    def skip(state, row, flag):
        return zeros(contribution), state, zeros(record, leading)

    def body(total, item):
        # A chunk past the end repeats the last client, inactive.
        state, row, flag = jax.tree.map(lambda x: x[jnp.minimum(item, local - 1)], (states, rows, active))
        flag = flag & (item < local)
        part, *outputs = jax.lax.cond(flag.any(), work, skip, state, row, flag)
        return jax.tree.map(jnp.add, total, part), outputs

    total, outputs = jax.lax.scan(body, zeros(contribution), items)
    if parallel != "scan":
        outputs = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:local], outputs)
    return total, *outputs
