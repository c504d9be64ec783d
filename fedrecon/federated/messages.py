"""Messages and uploads between clients and server, and the stages they pass through."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from fedrecon.types import PyTree, Variables


class Context(NamedTuple):
    """What a hook may know besides its own arguments. Fields that have no meaning for it are None.

    Attributes:
      round: int32 (), the number of rounds completed before this one.
      key: typed PRNG key of this hook, this round and (at a client) this client.
      client: int32 (), the client's number; None on the server.
      common: typed PRNG key that all clients and the server share in this round. It exists in simulation
        only: at real sites a key agreement takes its place.
      invited: bool (clients,), who was sampled; at the channel and the reducer.
      arrived: bool (clients,), whose updates are in the total; at the server's end of the channel, the
        reducer and the exchange.
      broadcast: at `Channel.encode`, what the channel's server end broadcast; at the weighting, what the
        exchange broadcast.
      message: at the weighting, the client's `Message`.
      participants: int32 (), number of clients in the total; on the server.
      clients: static number of all clients; on the server.
      steps: int32 (), real steps of the client's full round; at the schedule.
      rows: int32 (rows,), the numbers of the clients whose uploads a reducer sees, beyond all clients for
        padding; at the reducer.
      model: the shared leaves of the server's model before the round; at the reducer and the exchange.
      chances: float32 (clients,), of the sampler's draws, where it tells them; at the weighting.
      limits: int32 (clients,), the most steps that the simulated clock leaves clients; at their training.
      total: the `Upload` that is the sum of all that arrived; at a reducer with ``sums``.
    """

    round: jax.Array
    key: jax.Array
    client: jax.Array | None = None
    common: jax.Array | None = None
    invited: jax.Array | None = None
    arrived: jax.Array | None = None
    broadcast: PyTree = ()
    message: PyTree = ()
    participants: jax.Array | None = None
    clients: int | None = None
    steps: jax.Array | None = None
    rows: jax.Array | None = None
    model: Variables | None = None
    total: "Upload | None" = None
    chances: jax.Array | None = None
    limits: jax.Array | None = None


class Message(NamedTuple):
    """What a client sends besides its change of the model, by the way in which the server receives it.

    Attributes:
      summed: pytree of arrays that are added over clients, each client counting once whatever its weight
        (control variates, sums and counts).
      scalars: pytree of float32 () that are averaged with the clients' aggregation weights (normalizers).
      gathered: pytree of arrays that arrive one by one (banks, prototypes, one style image of each client),
        as a `Gathered`. They are no sums, so secure sums refuse them.
    """

    summed: PyTree = ()
    scalars: PyTree = ()
    gathered: PyTree = ()


class Gathered(NamedTuple):
    """`Message.gathered` at the server.

    Attributes:
      values: leaves (rows, ...), one row per client of the cohort; zero where not present.
      client: int32 (rows,), the clients' numbers.
      present: bool (rows,), whose row counts.
    """

    values: PyTree
    client: jax.Array
    present: jax.Array


class Upload(NamedTuple):
    """What goes through the channel and is summed over clients.

    The weight is multiplied in before the channel, so that every later stage is purely additive and the
    weight itself can be masked or encrypted like the rest.

    Attributes:
      delta: Variables of the shared leaves (None elsewhere), times weight.
      message: the client's `Message`: ``scalars`` times weight, ``summed`` as it is, and ``gathered`` empty,
        since it is not summed.
      weight: float32 (), or a pytree of them that is a prefix of ``delta``: groups of leaves with weights of
        their own.
    """

    delta: PyTree
    message: Message
    weight: PyTree


class Channel(NamedTuple):
    """A two-ended stage between client and server.

    Attributes:
      init: ``init(upload) -> (client_state, server_state)``; ``upload`` has the shapes and dtypes of a
        message.
      encode: ``encode(upload, client_state, context) -> (upload, client_state, info)`` at each client;
        ``info`` is a dict of scalars that is summed over clients for the report (it is not part of the
        message).
      decode: ``decode(total, server_state, context) -> (total, server_state, info)`` on the sum over clients.
      broadcast: ``broadcast(server_state) -> payload``, which every `encode` of the round finds in
        ``context.broadcast``; None sends nothing. Its bytes count as sent down.
      payload_bytes: ``payload_bytes(upload) -> int``, bytes of an encoded upload on the wire; None counts its
        arrays.
      rollback: ``rollback(before, after) -> server_state`` when the round is not applied; None restores the
        state before the round, as clients do. Noise that must never repeat keeps ``after``.
      linear: whether encoded uploads are themselves updates, so that a reducer may compare them.
      hides: whether the server can read nothing but sums; what needs single updates is then refused.
      bytes_down: bytes sent to each client of a round besides the broadcast.
      measured_bytes: ``measured_bytes(info) -> uint32 ()``, bytes of an encoded upload by its encode info,
        where they depend on its values; ``payload_bytes`` is then the most there can be.
    """

    init: Callable[[Upload], tuple[PyTree, PyTree]]
    encode: Callable[[Upload, PyTree, Context], tuple[Upload, PyTree, dict[str, jax.Array]]]
    decode: Callable[[Upload, PyTree, Context], tuple[Upload, PyTree, dict[str, jax.Array]]]
    broadcast: Callable[[PyTree], PyTree] | None = None
    payload_bytes: Callable[[Upload], int] | None = None
    rollback: Callable[[PyTree, PyTree], PyTree] | None = None
    linear: bool = True
    hides: bool = False
    bytes_down: int = 0
    measured_bytes: Callable[[PyTree], jax.Array] | None = None


class Exchange(NamedTuple):
    """The server's half of a method: what it sends besides the model and what it does with what returns.

    Attributes:
      init: ``init(variables) -> state``.
      broadcast: ``broadcast(state) -> payload`` that every participating client receives.
      receive: ``receive(state, message, context) -> state``, with a `Message` of sums (``summed``), means
        (``scalars``) and a `Gathered`. A state that would not be finite undoes the round.
    """

    init: Callable[[Variables], PyTree]
    broadcast: Callable[[PyTree], PyTree]
    receive: Callable[[PyTree, Message, Context], PyTree]


def no_exchange() -> Exchange:
    """Nothing but the model travels."""
    return Exchange(lambda variables: (), lambda state: (), lambda state, message, context: state)


class Reduction(NamedTuple):
    """What a reducer returns.

    Attributes:
      upload: the reduced `Upload`, read as a sum over clients: its quotient by its weight is applied.
      state: the reducer's state after the round.
      flagged: bool (rows,), clients that it leaves out altogether; None for nobody. They count as excluded.
      info: pytree of arrays for the report, such as a dict.
      answers: with `Reducer.answer`, a pytree of leaves (rows, ...): what each client is answered.
    """

    upload: Upload
    state: PyTree = ()
    flagged: jax.Array | None = None
    info: PyTree = {}  # noqa: RUF012
    answers: PyTree = ()


class Reducer(NamedTuple):
    """What the server does with the encoded uploads instead of adding them.

    Attributes:
      init: ``init(upload) -> state``; shapes and dtypes of one encoded upload.
      reduce: ``reduce(uploads, included, state, context) -> Reduction``, with leaves (rows, ...) times weight
        and ``included`` (rows,) bool.
      linear: whether it is a function of sums over clients, so that a secure sum can feed it.
      answer: ``answer(variables) -> answer``, what a client finds in `Batches.answer` until the reducer has
        answered it; None for a reducer without ``Reduction.answers``. A client keeps its answer until the
        next one, which comes of an applied round that it took part in and is finite.
      sums: whether it wants the plain sum of the round, too, in ``context.total``.
    """

    init: Callable[[Upload], PyTree]
    reduce: Callable[[Upload, jax.Array, PyTree, Context], Reduction]
    linear: bool = False
    answer: Callable[[Variables], PyTree] | None = None
    sums: bool = False


def stateless(function: Callable[[Upload, jax.Array], Any]) -> Reducer:
    """A `Reducer` of ``function(uploads, included) -> Upload`` or ``-> (Upload, flagged)``."""

    def reduce(uploads, included, state, context):
        del context
        result = function(uploads, included)
        if isinstance(result, Upload):
            return Reduction(result, state)
        return Reduction(result[0], state, result[1])

    return Reducer(lambda upload: (), reduce)
