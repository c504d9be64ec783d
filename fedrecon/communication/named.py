"""Codecs by name, with options of plain types, and whole messages of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fedrecon.communication.codec import (
    Codec,
    Keys,
    Remembered,
    common_key,
    compressed,
    floats,
    forgetting,
)
from fedrecon.communication.low_rank import power_sgd, sent_factors
from fedrecon.communication.quantization import bfloat16, dense, qsgd, rotated, stochastic
from fedrecon.communication.signs import majority_vote, scaled_signs
from fedrecon.communication.sketches import count_sketch
from fedrecon.communication.sparsification import random_k, random_mask, shared_top_k, top_k
from fedrecon.communication.wire import Envelope, Section, serialize
from fedrecon.errors import ArgumentError
from fedrecon.federated import Channel, Context, Upload
from fedrecon.types import PyTree


class NamedCodec(NamedTuple):
    """A channel made by name.

    Attributes:
      channel: of the round.
      codec: what messages of parameters are made by; None where encoded parameters are.
      sums: whether encoded uploads are terms of a sum, so that a secure sum may carry them.
      parts: ``parts(encoded parameters, context) -> {name: array}`` that travel; all of them by default.
      name: of a codec that adds, with what both ends must have alike, such as the seed of hashes.
      idle_rounds: after which a client drops what it kept; 0 keeps it.
    """

    channel: Channel
    codec: Codec | None
    sums: bool
    parts: Callable[[PyTree, Context], dict[str, np.ndarray]] | None = None
    name: str = "sums"
    idle_rounds: int = 0


def _own(codec: Codec, error_feedback: bool, idle_rounds: int = 0) -> NamedCodec:
    return _forgetting(
        NamedCodec(compressed(codec, error_feedback=error_feedback), codec, False), idle_rounds
    )


def _forgetting(named: NamedCodec, idle_rounds: int) -> NamedCodec:
    if not idle_rounds:
        return named
    return named._replace(channel=forgetting(named.channel, idle_rounds), idle_rounds=idle_rounds)


def _bfloat16(error_feedback: bool = False) -> NamedCodec:
    return _own(bfloat16(), error_feedback)


def _stochastic(
    bits: int = 8, bucket: int = 512, rotate: bool = False, error_feedback: bool = False
) -> NamedCodec:
    levels = stochastic(bits, bucket)
    return _own(rotated(levels) if rotate else levels, error_feedback)


def _qsgd(
    levels: int = 7, bucket: int = 512, coding: str = "fixed", error_feedback: bool = False
) -> NamedCodec:
    return _own(qsgd(levels, bucket, coding=coding), error_feedback)


def _signs(error_feedback: bool = True, idle_rounds: int = 0) -> NamedCodec:
    return _own(scaled_signs(), error_feedback, idle_rounds)


def _top_k(
    fraction: float = 0.01,
    bits: int = 32,
    coding: str = "fixed",
    error_feedback: bool = True,
    idle_rounds: int = 0,
) -> NamedCodec:
    values = None if bits == 32 else stochastic(bits)
    return _own(top_k(fraction, values, coding=coding), error_feedback, idle_rounds)


def _random_k(fraction: float = 0.1, error_feedback: bool = True, idle_rounds: int = 0) -> NamedCodec:
    def parts(encoded: PyTree, context: Context) -> dict[str, np.ndarray]:
        return {"values": encoded.values, "seed": _seed(common_key(context))}

    named = NamedCodec(random_k(fraction, error_feedback=error_feedback), None, True, parts)
    return _forgetting(named, idle_rounds)


def _shared_top_k(fraction: float = 0.01, explored: float = 0.1, idle_rounds: int = 0) -> NamedCodec:
    def parts(encoded: PyTree, context: Context) -> dict[str, np.ndarray]:
        return {"values": encoded.values}

    named = NamedCodec(shared_top_k(fraction, explored=explored), None, True, parts)
    return _forgetting(named, idle_rounds)


def _random_mask(fraction: float = 0.5) -> NamedCodec:
    def parts(encoded: PyTree, context: Context) -> dict[str, np.ndarray]:
        sent = np.asarray(encoded.values["weights"]) > 0
        return {"values": np.asarray(encoded.values["values"])[sent], "seed": _seed(context.key)}

    return NamedCodec(random_mask(fraction), None, False, parts)


def _count_sketch(
    rows: int = 5, columns: int = 10_000, fraction: float = 0.01, momentum: float = 0.9, seed: int = 0
) -> NamedCodec:
    channel = count_sketch(rows, columns, fraction=fraction, momentum=momentum, seed=seed)
    return NamedCodec(channel, None, True, name=f"sketch-{rows}-{columns}-{seed}")


def _power_sgd(rank: int = 2, alternate: bool = False, seed: int = 0) -> NamedCodec:
    def parts(encoded: PyTree, context: Context) -> dict[str, np.ndarray]:
        return sent_factors(encoded, int(context.broadcast["turn"]))

    channel = power_sgd(rank, alternate=alternate, seed=seed)
    return NamedCodec(channel, None, True, parts if alternate else None)


def _majority_vote(step: float = 1e-3) -> NamedCodec:
    def parts(encoded: PyTree, context: Context) -> dict[str, np.ndarray]:
        return {"votes": np.concatenate([np.ravel(leaf) > 0 for leaf in jax.tree.leaves(encoded)])}

    return NamedCodec(majority_vote(step), None, True, parts)


CODECS: dict[str, Callable[..., NamedCodec]] = {
    "dense": lambda: _own(dense(), False),
    "bfloat16": _bfloat16,
    "stochastic": _stochastic,
    "qsgd": _qsgd,
    "signs": _signs,
    "top_k": _top_k,
    "random_k": _random_k,
    "shared_top_k": _shared_top_k,
    "random_mask": _random_mask,
    "count_sketch": _count_sketch,
    "power_sgd": _power_sgd,
    "majority_vote": _majority_vote,
}


def named_codec(name: str, **options: Any) -> NamedCodec:
    """The codec of a name.

    Raises:
      ArgumentError: an unknown name, or options out of range.
    """
    if name not in CODECS:
        raise ArgumentError("codec", f"one of {', '.join(CODECS)}", repr(name))
    return CODECS[name](**options)


def upload_message(
    named: NamedCodec, upload: Upload, state: PyTree, context: Context, envelope: Envelope
) -> bytes:
    """One client's message as bytes, of the length that the round counts.

    Args:
      named: the codec.
      upload: before the codec, of arrays that are there.
      state: the client's state of the channel.
      context: of the client in the round, with the channel's broadcast.
      envelope: whose message it is.

    Raises:
      ArgumentError: a value is not finite.
    """
    sent = jax.tree.leaves((upload.delta, upload.message, upload.weight))
    if not all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in sent):
        raise ArgumentError("upload", "finite values", "NaN or infinity")
    encoded = named.channel.encode(upload, state, context)[0]
    sections: tuple[Section, ...] = ()
    payload: dict[str, Any] = {}
    rest = (encoded.delta.stats, encoded.message, encoded.weight)
    if named.codec is not None:
        wanted = floats(upload.delta.params)
        if isinstance(state, Remembered):
            state = state.now(context, named.idle_rounds)
        if jax.tree.leaves(state):
            wanted = jax.tree.map(np.add, wanted, state)
        leaves = jax.tree.leaves(wanted)
        sections = named.codec.sections(tuple(leaf.shape for leaf in leaves))
        payload = dict(named.codec.compress(leaves, Keys(context.key, common_key(context))))
    elif named.parts is not None:
        payload = named.parts(encoded.delta.params, context)
        sections = tuple(_section(name, np.asarray(values)) for name, values in payload.items())
    else:
        rest = (encoded.delta.params, *rest)
    for number, leaf in enumerate(jax.tree.leaves(rest)):
        payload[f"rest/{number:04}"] = leaf
        sections += (_section(f"rest/{number:04}", np.asarray(leaf)),)
    name = named.codec.name if named.codec is not None else named.name
    bits = {key: _words(np.asarray(value)) for key, value in payload.items()}
    return serialize(name, sections, bits, envelope)


def _section(name: str, values: np.ndarray) -> Section:
    if values.dtype == bool:
        return Section(name, values.size, 1)
    if values.dtype.itemsize != 4:
        raise ArgumentError("upload", "values of 32 bits besides the parameters", values.dtype)
    return Section(name, values.size, 32, "float" if values.dtype == np.float32 else "unsigned")


def _words(values: np.ndarray) -> np.ndarray:
    return values.view(np.uint32) if values.dtype == np.int32 else values


def _seed(key: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(key), np.uint32).reshape(-1)[-2:]
