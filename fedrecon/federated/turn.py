"""A client's turn: the part that every topology shares, and the turn with a server."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import Batches, Batching, ClientResult, FederatedAlgorithm
from fedrecon.federated.batching import shuffled_epochs, shuffled_steps
from fedrecon.federated.clients import ClientRow
from fedrecon.federated.keys import fold
from fedrecon.federated.messages import Channel, Context, Message, Upload
from fedrecon.federated.trees import (
    FROZEN,
    along,
    fill,
    finite_after_weighting,
    largest,
    merge,
    nbytes,
    norm,
    partition,
    scale,
    select,
)
from fedrecon.types import Metrics, PyTree, Variables


class ClientRows(NamedTuple):
    """What stays at one client between rounds."""

    client: PyTree
    channel: PyTree
    private: Variables
    answer: PyTree = ()


def choose_batching(
    own: Batching | None, batch_size: int | None, epochs: int | None, steps: int | None
) -> Batching:
    """The client update's own batching, or the one that the arguments of a round ask for.

    Raises:
      ValueError: for contradicting or missing arguments.
    """
    if own is not None:
        if (batch_size, epochs, steps) != (None, None, None):
            raise ArgumentError(
                "batch_size, epochs, steps",
                "none, since the client update samples its own batches",
                (batch_size, epochs, steps),
            )
        return own
    if batch_size is None:
        raise ArgumentError("batch_size", "a positive integer", "None")
    if epochs is not None and steps is None:
        batching = shuffled_epochs(batch_size, epochs)
    elif steps is not None and epochs is None:
        batching = shuffled_steps(batch_size, steps)
    else:
        raise ArgumentError("epochs, steps", "exactly one of them", f"epochs={epochs}, steps={steps}")
    return lambda examples, valid, key: batching(valid, key)


class Turn(NamedTuple):
    """One client's turn in a round, before anything travels.

    Attributes:
      result: what the client update returned.
      upload: the weighted `Upload`, before the channel.
      gathered: what the client sends that is not summed.
      delta_norm: float32 (), l2 norm of the shared part of the delta.
      finite: bool (), whether all of it is finite.
      included: bool (), whether it also has a weight.
    """

    result: ClientResult
    upload: Upload
    gathered: PyTree
    delta_norm: jax.Array
    finite: jax.Array
    included: jax.Array


def client_turn(
    algorithm: FederatedAlgorithm,
    batching: Batching,
    received: tuple[Variables, PyTree],
    own: ClientRows,
    row: ClientRow,
    context: Context,
) -> Turn:
    """What every topology does at a client: choose batches, train, weigh.

    Args:
      algorithm: the algorithm.
      batching: examples of the client's steps.
      received: the model (its private leaves are replaced by the client's) and the exchange's broadcast.
      own: what stays at the client.
      row: its data.
      context: ``key`` is that of all clients of the round.

    Raises:
      ValueError: if the share mask has frozen leaves and the row does not.
    """
    client = context.client
    assert client is not None, "the context of a client"
    if row.frozen is None and FROZEN in jax.tree.leaves(algorithm.share_mask):
        raise ArgumentError(
            "data", "the frozen leaves of the share mask with it, from place(data, frozen=variables)", "none"
        )
    variables, payload = received
    batch_key, update_key, _, work_key = client_keys(context)
    context = context._replace(key=work_key)
    index, mask = batching(row.examples, row.valid, batch_key)
    batches = Batches(
        row.examples,
        index,
        row.valid.sum(),
        row.valid,
        client,
        public=row.public,
        frozen=row.frozen,
        validation=row.validation,
        answer=own.answer,
    )
    if algorithm.schedule is not None:
        work = algorithm.schedule(context._replace(steps=mask.any(1).sum(dtype=jnp.int32)))
        mask &= (jnp.cumsum(mask.any(1)) <= work.steps)[:, None]
        rate = work.rate if callable(work.rate) else jnp.asarray(work.rate, jnp.float32)
        batches = batches._replace(rate=rate)
    if context.limits is not None:
        mask &= (jnp.cumsum(mask.any(1)) <= context.limits[client])[:, None]
    variables = merge(partition(variables, algorithm.share_mask)[0], own.private)
    result = algorithm.client.update(variables, payload, own.client, batches, mask, update_key)
    message = result.message if isinstance(result.message, Message) else Message(result.message)
    weight = algorithm.weighting(result.weight, context._replace(message=message, broadcast=payload))
    weight = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), weight)
    shared, private = partition(result.delta, algorithm.share_mask)
    most = largest(weight)
    upload = Upload(scale(weight, shared), Message(message.summed, scale(most, message.scalars)), weight)
    delta_norm = jnp.asarray(norm(shared), jnp.float32)
    # What is shared is finite if it is so after weighting, be the weight 0.
    finite = finite_after_weighting(delta_norm, shared, message, private, most)
    return Turn(result, upload, message.gathered, delta_norm, finite, finite & (most > 0))


def kept_rows(
    algorithm: FederatedAlgorithm, before: ClientRows, after: ClientRows, kept: jax.Array, active: jax.Array
) -> ClientRows:
    """What stays at clients, leaves (rows, ...): of a round that is kept what is new, else what there was.

    Args:
      algorithm: whose client update may say what a round that is not kept leaves.
      before, after: the round.
      kept: bool (rows,), of whom it is kept.
      active: bool (rows,), who took part.
    """

    def choose(flags, new, old):
        return jax.tree.map(lambda x, y: jnp.where(along(flags, x), x, y), new, old)

    if algorithm.client.rollback is not None and jax.tree.leaves(before.client):
        lasting = jax.vmap(algorithm.client.rollback)(before.client, after.client)
        before = before._replace(client=choose(active, lasting, before.client))
    return choose(kept, after, before)


def client_keys(context: Context) -> jax.Array:
    """A client's keys (4,): of its batches, its training, its end of the channel, its work."""
    assert context.client is not None, "the context of a client"
    return fold(fold(context.key, context.client), jnp.arange(4))


def star_turn(
    algorithm: FederatedAlgorithm,
    batching: Batching,
    validate: Callable | None,
    shared: tuple,
    own: ClientRows,
    row: tuple,
) -> tuple[PyTree, ClientRows, dict]:
    """One client's turn with a server: (what is summed, what stays at the client, what is reported)."""
    variables, payload, context, common = shared
    data, client = row
    row = ClientRow(*data, *common)
    context = context._replace(client=client)
    turn = client_turn(algorithm, batching, (variables, payload), own, row, context._replace(broadcast=()))
    encoded, channel, channel_info = algorithm.channel.encode(
        turn.upload, own.channel, context._replace(key=client_keys(context)[2])
    )
    _, private = partition(turn.result.variables, algorithm.share_mask)
    sums: dict[str, PyTree] = {"channel": channel_info}
    if algorithm.reduce is None or algorithm.reduce.sums:
        sums["upload"] = encoded
    sums = select(turn.included, sums, jax.tree.map(jnp.zeros_like, sums))
    record = {
        "metrics": turn.result.metrics,
        "included": turn.included,
        "excluded": ~turn.finite,
        "bytes_up": _sent_bytes(algorithm.channel, turn, encoded, channel_info),
        "delta_norm": turn.delta_norm,
        "gathered": turn.gathered,
        "validation": _validation(algorithm, validate, variables, own, row),
    }
    if algorithm.reduce is not None:
        record["upload"] = encoded
    if algorithm.clock is not None:
        record["weight"] = largest(turn.upload.weight)
    return sums, ClientRows(turn.result.client_state, channel, private, own.answer), record


def bytes_up(channel: Channel, turn: Turn, encoded: Upload) -> int:
    """Bytes that a client sends; 0 if it sends nothing besides its weight."""
    if not jax.tree.leaves((turn.upload.delta, turn.upload.message, turn.gathered)):
        return 0
    encoded_bytes = nbytes(encoded) if channel.payload_bytes is None else channel.payload_bytes(encoded)
    return encoded_bytes + nbytes(turn.gathered)


def _sent_bytes(channel: Channel, turn: Turn, encoded: Upload, info: PyTree) -> jax.Array:
    """uint32 (): `bytes_up` of this upload, whose length may depend on its values."""
    most = jnp.uint32(bytes_up(channel, turn, encoded))
    if channel.measured_bytes is None:
        return most - _absent(channel, turn)
    return jnp.minimum(most, channel.measured_bytes(info) + jnp.uint32(nbytes(turn.gathered)))


def _absent(channel: Channel, turn: Turn) -> jax.Array:
    """Bytes of the groups of leaves in which a client has no weight: it leaves them out where it may."""
    groups = jax.tree.leaves(turn.upload.weight)
    if len(groups) == 1 or channel.hides or channel.payload_bytes is not None:
        return jnp.uint32(0)
    sizes = jax.tree.map(
        lambda w, leaves: jnp.where(w > 0, 0, nbytes(leaves)), turn.upload.weight, turn.upload.delta
    )
    return sum(jax.tree.leaves(sizes), start=jnp.uint32(0)).astype(jnp.uint32)


def bytes_down(
    algorithm: FederatedAlgorithm,
    variables: Variables,
    payload: PyTree,
    channel_payload: PyTree,
    answer: PyTree = (),
) -> int:
    """Bytes that a client receives: the shared leaves, both broadcasts and the reducer's answer."""
    sent = nbytes((partition(variables, algorithm.share_mask)[0], payload, channel_payload, answer))
    return sent + algorithm.channel.bytes_down


def _validation(
    algorithm: FederatedAlgorithm,
    validate: Callable | None,
    variables: Variables,
    own: ClientRows,
    row: ClientRow,
) -> Metrics:
    """Metrics of the model that a client received, on its validation split."""
    if validate is None or row.validation is None:
        return {}
    model = merge(partition(variables, algorithm.share_mask)[0], own.private)
    return validate(*fill(model, row.frozen), row.validation)
