"""Momentum contrast at a client: a slow encoder and a bank of keys, which methods fill up from elsewhere."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.alignment import Bank, Contrast, empty_bank, info_nce, momentum, pushed, unit
from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import Batches, ClientResult
from fedrecon.federated.messages import Exchange, Message
from fedrecon.federated.method import LocalContext, Method
from fedrecon.types import Batch, PyTree, Task, Variables

# What the key of a client's round is folded with for draws of the round; steps are numbered from 0.
AT_ROUND = 1 << 30


class Slow(NamedTuple):
    """What stays at a client between rounds.

    Attributes:
      encoder: `Variables` of the momentum encoder; its leaves never leave the client.
      bank: its last keys.
      rounds: int32 (), in how many the client has taken part.
    """

    encoder: Variables
    bank: Bank
    rounds: jax.Array


class Remote(NamedTuple):
    """Features from elsewhere.

    Attributes:
      features: (count, features).
      tags: int32 (count,); -1 where there is none.
    """

    features: jax.Array
    tags: jax.Array


class Given(NamedTuple):
    """What the queries of a step are compared with.

    Attributes:
      query: the batch of the first views.
      keys: (examples, features), the momentum encoder's of the second views, of length 1.
      tags: int32 (examples,), of the examples.
      bank: before the step.
      remote: of the round.
      rounds: as in `Slow`.
      stats: the momentum encoder's statistics afterwards.
      key: typed, of the step.
    """

    query: Batch
    keys: jax.Array
    tags: jax.Array
    bank: Bank
    remote: Remote
    rounds: jax.Array
    stats: PyTree
    key: jax.Array


class _Memory(NamedTuple):
    slow: Slow
    remote: Remote


# ``value(queries, valid, given) -> (examples,)``: the loss of every query, of length 1.
Value = Callable[[jax.Array, jax.Array, Given], jax.Array]


def contrasted(task: Task, contrast: Contrast, value: Value) -> Task:
    """The task with the mean of ``value`` over valid examples as its loss, for `momentum_contrast`."""

    def loss(params, stats, batch, key):
        given, valid = batch["contrast"], batch["valid"]
        queries, stats = contrast.train(params, stats, given.query, key)
        each = jnp.where(valid, value(unit(queries), valid, given), 0)
        return each.sum() / jnp.maximum(valid.sum(), 1), (stats, {})

    return task._replace(loss=loss)


def one_positive(temperature: float) -> Value:
    """InfoNCE of the other view against the bank and all remote features."""

    def value(queries, valid, given):
        keys, tags = beside(given, given.remote)
        positive = jnp.eye(len(queries), len(keys), dtype=bool)
        negative = jnp.broadcast_to(tags >= 0, positive.shape)
        return info_nce(queries, keys, positive, negative, temperature)

    return value


def beside(given: Given, remote: Remote) -> tuple[jax.Array, jax.Array]:
    """The keys of a step, those of the bank, and remote features: (them, tags, of the step's keys -1)."""
    keys = jnp.concatenate([given.keys, given.bank.features, remote.features])
    return keys, jnp.concatenate([jnp.full(len(given.keys), -1), given.bank.tags, remote.tags])


def momentum_contrast(
    contrast: Contrast,
    *,
    queue: int,
    rate: float,
    fetch: Callable[[PyTree, LocalContext], Remote] | None = None,
    report: Callable[[ClientResult, Slow, LocalContext], Message] | None = None,
    server: Exchange | None = None,
    tag: Callable[[Batch], jax.Array] | None = None,
) -> Method:
    """MoCo at a client (He et al. 2020, arXiv:1911.05722), for a task of `contrasted`.

    Before a step both views are made and the second one's keys are computed with the momentum encoder
    theta_k, without a gradient. After it theta_k <- m theta_k + (1 - m) theta_q, and the keys enter the bank,
    first in, first out. The bank starts empty; queries without a negative have no loss.

    Args:
      contrast: views and network.
      queue: size of the bank.
      rate: m.
      fetch: ``fetch(broadcast, context) -> Remote`` once a round; nothing by default.
      report: ``report(result, slow, context) -> Message`` after the last step.
      server: of the messages.
      tag: ``tag(batch) -> int32 (examples,)``, not negative; 0 by default.

    Raises:
      ValueError: an argument is out of range.
    """
    if not (isinstance(queue, int) and queue >= 1):
        raise ArgumentError("queue", "a positive integer", repr(queue))
    if not 0 <= rate <= 1:
        raise ArgumentError("momentum", "a number in [0, 1]", repr(rate))

    def init(variables):
        # Copies: the state's leaves are donated apart from each other.
        encoder = jax.tree.map(jnp.copy, variables)
        return Slow(encoder, empty_bank(queue, contrast.features), jnp.int32(0))

    def begin(slow, context):
        nothing = Remote(jnp.zeros((0, contrast.features)), jnp.zeros(0, jnp.int32))
        return _Memory(slow, nothing if fetch is None else fetch(context.broadcast, context))

    def prepare(batch, memory, context, key):
        keys = jax.random.split(jax.random.fold_in(key, 7), 3)
        first, second = contrast.views(batch, keys[0])
        encoder = context.complete(memory.slow.encoder)
        features, stats = contrast.train(*encoder, second, keys[1])
        tags = jnp.zeros(len(batch["valid"]), jnp.int32) if tag is None else tag(batch)
        slow = memory.slow
        given = Given(first, unit(features), tags, slow.bank, memory.remote, slow.rounds, stats, keys[2])
        return {**batch, "contrast": jax.lax.stop_gradient(given)}

    def step(memory, params, batch, evaluation, context, key):
        given, slow = batch["contrast"], memory.slow
        bank = pushed(slow.bank, given.keys, given.tags, batch["valid"])
        encoder = Variables(momentum(slow.encoder.params, params, rate), given.stats)
        return memory._replace(slow=slow._replace(encoder=encoder, bank=bank))

    def finish(result, memory, context):
        slow = memory.slow._replace(rounds=memory.slow.rounds + 1)
        return result, Message() if report is None else report(result, slow, context), slow

    return Method(
        init=init,
        begin=begin,
        prepare=prepare,
        step=step,
        finish=finish,
        server=server,
        discloses="" if report is None else "features of its examples",
    )


def relayed(empty: PyTree, clients: int) -> Exchange:
    """The server keeps what each client sent last and sends all of it to everybody.

    Args:
      empty: what stands for a client that has not sent anything: a pytree as of `Message.gathered`.
      clients: their number.
    """

    def init(variables):
        return jax.tree.map(lambda x: jnp.tile(x[None], (clients, *(1,) * x.ndim)), empty)

    def receive(kept, message, context):
        sent = message.gathered
        place = jnp.where(sent.present, sent.client, clients)
        return jax.tree.map(lambda old, new: old.at[place].set(new, mode="drop"), kept, sent.values)

    return Exchange(init, lambda kept: kept, receive)


def drawn(key: jax.Array, remote: Remote, count: int) -> Remote:
    """``count`` of those that there are, without replacement, or all of fewer (and tags -1)."""
    score = jnp.where(remote.tags >= 0, jax.random.uniform(key, remote.tags.shape), -1)
    chosen = jnp.argsort(-score)[:count]
    return Remote(remote.features[chosen], remote.tags[chosen])


def encoded(contrast: Contrast, variables: Variables, batches: Batches, index: jax.Array) -> jax.Array:
    """Features of a client's examples at ``index`` (count,), of length 1, by batches as large as a step's."""
    size, count = batches.index.shape[1], len(index)
    places = jnp.pad(index, (0, -count % size)).reshape(-1, size)

    def one(place):
        return contrast.evaluate(*variables, batches.take(place, batches.present[place]))

    return unit(jax.lax.map(one, places).reshape(-1, contrast.features)[:count])
