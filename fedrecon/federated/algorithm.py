"""A federated algorithm and the state and report of its rounds.

Everything is a pair or triple of pure functions on pytrees. Functions hold hyper-parameters only; whatever
changes from round to round is in one `RoundState`, so a checkpoint is one pytree and resuming is exact.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from fedrecon.federated.clock import Clock, ClockInfo, ClockState
from fedrecon.federated.messages import Channel, Context, Exchange, Message, Reducer
from fedrecon.types import Batch, Metrics, PyTree, Variables

# Examples of a client's steps: ``batching(examples, valid, key) -> (index, mask)``.
Batching = Callable[[Batch, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


class Batches(NamedTuple):
    """One client's examples and the order in which its steps visit them; batches are gathered step by step.

    Attributes:
      examples: dict of arrays (examples, ...), padded.
      index: int32 (steps, batch), which example fills each place of each step's batch.
      count: int32 (), number of valid examples of the client.
      present: bool (examples,), which examples are valid.
      client: int32 (), the client's number.
      rate: what the schedule multiplies the local learning rate by, as in `Work`; None without a schedule.
      public: pytree of arrays that all clients and the server know.
      frozen: `Variables` of the leaves that are never trained (None elsewhere); None if there are none.
      validation: the client's validation split, a dict of arrays (examples, ...) with its mask under
        ``"valid"``; None without one.
      answer: what the reducer has answered this client, as in `Reducer.answer`.
    """

    examples: Batch
    index: jax.Array  # type: ignore[assignment]  # hides a method of tuples that nobody calls
    count: jax.Array  # type: ignore[assignment]  # hides a method of tuples that nobody calls
    present: jax.Array
    client: jax.Array
    rate: jax.Array | Callable[[jax.Array], jax.Array] | None = None
    public: PyTree = ()
    frozen: Variables | None = None
    validation: Batch | None = None
    answer: PyTree = ()

    def take(self, index: jax.Array, valid: jax.Array) -> Batch:
        """Returns the batch at ``index`` (batch,) with its mask under the key ``"valid"``."""
        # Indices are places of examples: none is negative or beyond the last.
        rows = {
            name: x.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)
            for name, x in self.examples.items()
        }
        return {**rows, "valid": valid}

    @property
    def judged(self) -> Batch:
        """What the client judges models by: its validation split, or without one its training examples."""
        return self.validation or {**self.examples, "valid": self.present}


class Work(NamedTuple):
    """How much a client works in one round.

    Attributes:
      rate: float32 (), factor on its local learning rate; or ``rate(part) -> factor``, elementwise, of the
        part of the round's real steps that lies before the middle of a step, in (0, 1).
      steps: int32 (), the most real steps it takes.
    """

    rate: jax.Array | Callable[[jax.Array], jax.Array]
    steps: jax.Array


class History(NamedTuple):
    """What the server remembers of each client, for samplers.

    Attributes:
      participations: int32 (clients,), rounds each client has joined: in which it was included and the
        server's step was applied.
      last_round: int32 (clients,), the last of them; -1 before the first.
      loss: float32 (clients,), mean of the metric "loss" in that round; infinite before the first, so that
        clients that were never seen count as the worst.
      memory: of a sampler that has one, see `sampling.Sampler.init`.
      clock: what the simulated clock has shown; () without one.
    """

    participations: jax.Array
    last_round: jax.Array
    loss: jax.Array
    memory: PyTree = ()
    clock: ClockState | tuple[()] = ()


class ClientResult(NamedTuple):
    """What a client update returns.

    Attributes:
      delta: Variables, what is sent to be averaged: for most methods trained minus received. The engine sends
        the shared leaves only.
      weight: float32 (), the client's natural aggregation weight (number of its valid examples); 0 excludes
        it. A prefix tree of them weighs groups of leaves apart, as the weighting may.
      client_state: pytree that stays at the client until its next participation.
      message: `Message` sent besides the delta.
      metrics: {name: (sum, count)} of scalars over the client's real steps.
      variables: Variables after training. The private leaves are kept from here and not as received plus
        delta, which would round.
    """

    delta: Variables
    weight: jax.Array
    client_state: PyTree
    message: Message
    metrics: Metrics
    variables: Variables


class ClientUpdate(NamedTuple):
    """Local work of a client in one round.

    Attributes:
      init: ``init(variables) -> client_state``.
      update: ``update(variables, broadcast, client_state, batches, valid, key) -> ClientResult``; ``batches``
        is a `Batches` and ``valid`` (steps, batch) bool masks it: a step without a valid place is padding. It
        runs the same in the compiled simulation and at a real site: no mesh axis names, and loop carries
        built from its inputs (``jnp.zeros_like(x)``), since constants do not vary over the clients' axis of a
        shard_map.
      batching: ``batching(examples, valid, key) -> (index, mask)`` when the method needs its own batches
        (Poisson sampling of DP-SGD); None leaves them to `make_round`.
      rollback: as in `Method`, of the whole client state; None restores it.
    """

    init: Callable[[Variables], PyTree]
    update: Callable[[Variables, PyTree, PyTree, Batches, jax.Array, jax.Array], ClientResult]
    batching: Batching | None = None
    rollback: Callable[[PyTree, PyTree], PyTree] | None = None


class FederatedAlgorithm(NamedTuple):
    """A federated algorithm, complete.

    Attributes:
      client: the local work.
      channel: what an update passes through on its way to the sum and back.
      sampler: ``sampler(key, round, history) -> (clients,) bool``: who takes part. One with an attribute
        ``count`` never chooses more clients than that, and rounds then compute no others.
      weighting: ``weighting(weight, context) -> weight``: aggregation weight from the client's natural one;
        ``context.message`` and ``context.broadcast`` tell what the client sends and received. A pytree of
        weights that is a prefix of the shared leaves weighs groups of leaves apart.
      reduce: None sums, the only thing that may cross the client axis if secure aggregation or central
        privacy is to compose; otherwise a `Reducer`.
      server_optimizer: optax transformation of the shared parameters, fed minus the mean delta as gradient.
        ``optax.sgd(1.0)`` gives averaging. One that takes extra arguments (an
        ``optax.GradientTransformationExtraArgs``) is given ``message``, the received `Message`,
        ``participants``, int32 (), the clients in the means, and ``clients``, the static number of all.
        Shared statistics are averaged, whatever the optimizer.
      share_mask: `Variables` or a prefix of it with leaves True (shared), False (kept at each client and
        never sent) or `FROZEN` (never trained, the same everywhere, given to the round with the data).
      personalize: ``personalize(variables, client_state, batch) -> variables``: the model a client evaluates
        with, given shared and private leaves together, its state, and the unlabeled batch that is to be
        evaluated (None where there is none).
      exchange: extra broadcast and message.
      schedule: ``schedule(context) -> Work`` of a client in a round; None lets all clients work fully.
      release: ``release(state) -> Variables``: the server's model that is evaluated and handed out, where
        that is not the one that clients train from.
      update_bytes: ``update_bytes(shared parameters) -> int``, bytes by which a client that took part in the
        round before gets the new ones; None sends them whole to everybody.
      clock: simulates how long rounds take, and leaves out whose updates come late; None waits for all, in
        no time.
    """

    client: ClientUpdate
    channel: Channel
    sampler: Callable[[jax.Array, jax.Array, History], jax.Array]
    weighting: Callable[[jax.Array, Context], PyTree]
    reduce: Reducer | None
    server_optimizer: optax.GradientTransformation
    share_mask: PyTree
    personalize: Callable[[Variables, PyTree, Batch | None], Variables]
    exchange: Exchange
    schedule: Callable[[Context], Work] | None = None
    release: Callable[["RoundState"], Variables] = lambda state: state.variables
    update_bytes: Callable[[PyTree], int] | None = None
    clock: Clock | None = None


class RoundState(NamedTuple):
    """Everything that changes; a pytree of arrays.

    Attributes:
      round: int32 (), rounds completed.
      variables: the server's model. Its private leaves keep their initial values; frozen ones are None.
      server: state of the server optimizer (shared parameters).
      exchange: server state of the exchange.
      channel: server state of the channel.
      reduce: state of the reducer.
      client: states of the client updates, leaves (clients, ...).
      client_channel: client states of the channel, leaves (clients, ...).
      private: `Variables` of the private leaves (None elsewhere), leaves (clients, ...).
      history: what the server remembers of each client, leaves (clients,).
      answers: what the reducer has answered each client, leaves (clients, ...).
    """

    round: jax.Array
    variables: Variables
    server: PyTree
    exchange: PyTree
    channel: PyTree
    reduce: PyTree
    client: PyTree
    client_channel: PyTree
    private: Variables
    history: History
    answers: PyTree = ()


class RoundInfo(NamedTuple):
    """What a round reports. Nothing in it feeds back into training.

    Attributes:
      metrics: {name: (sum, count)} over included clients: sampled, with examples, and not excluded.
      client_metrics: {name: (sum, count)}, each (clients,); zero for clients that were not included.
      participated: bool (clients,), sampled by the sampler, and with a clock neither away nor late.
      excluded: bool (clients,), sampled but with an update that was not finite or that the reducer
        flagged; nothing of it is in the state.
      applied: bool (), whether the server's model changed: False if nobody was included, or if the new model,
        the server optimizer's or the exchange's state would not have been finite. Then clients, too, keep
        what they had before the round.
      bytes_up: uint32 (clients,), bytes sent: the encoded shared leaves, message and weight.
      bytes_down: uint32 (clients,), bytes received: the shared leaves and the broadcasts.
      delta_norm: float32 (clients,), global l2 norm of each client's shared delta before the channel.
      channel: (encode infos summed over clients with finite updates, decode infos).
      reduce: info of the reducer.
      validation: {name: (sum, count)}, each (clients,): of the models that clients received, on their
        validation splits; empty unless `make_round` was given metrics.
      weight: float32 (clients,), in the mean, of included clients; () without a clock.
      clock: what the simulated clock shows; () without one.
    """

    metrics: Metrics
    client_metrics: Metrics
    participated: jax.Array
    excluded: jax.Array
    applied: jax.Array
    bytes_up: jax.Array
    bytes_down: jax.Array
    delta_norm: jax.Array
    channel: tuple[Any, Any]
    reduce: Any = ()
    validation: Metrics = {}  # noqa: RUF012
    weight: Any = ()
    clock: ClockInfo | tuple[()] = ()
