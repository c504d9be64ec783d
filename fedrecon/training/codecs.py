"""Compression of updates, as settings name it."""

import jax
import jax.numpy as jnp

from fedrecon import catalog, communication
from fedrecon import federated as fl
from fedrecon.errors import ArgumentError
from fedrecon.training.dotted import parse_options
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.options import FlagError
from fedrecon.types import PyTree, Task


def make_codec(settings: FederationSettings) -> communication.NamedCodec | None:
    """The codec of ``--codec``, or None.

    Raises:
      FlagError: an option is unknown or out of range; or the settings ask for what does not go with it.
    """
    name = settings.codec
    codec = _named("codec", name, settings.codec_options)
    if codec is None:
        return None
    if settings.dp_epsilon and settings.dp_unit == "site":
        raise FlagError("codec", "none with --dp.unit=site, whose noise is for the numbers themselves", name)
    if settings.secure_aggregation != "none":
        if not codec.sums:
            adding = [other for other, make in communication.CODECS.items() if make().sums]
            expected = f"one whose messages add over clients, {', '.join(adding)}, with --secure_aggregation"
            raise FlagError("codec", expected, name)
        if "groups" in dict(settings.secure_aggregation_options):
            raise FlagError("codec", "none with --secure_aggregation.groups", name)
    return codec


def make_downlink(settings: FederationSettings) -> communication.Codec | None:
    """The codec of ``--downlink``, or None.

    Raises:
      FlagError: an option is unknown or out of range.
    """
    if "error_feedback" in dict(settings.downlink_options):
        expected = "none of it: the server always keeps what it leaves out"
        raise FlagError("downlink.error_feedback", expected, "an option")
    named = _named("downlink", settings.downlink, settings.downlink_options)
    if named is not None and named.channel.measured_bytes is not None:
        raise FlagError("downlink.coding", "fixed: bytes down are those of every round alike", "rice")
    return None if named is None else named.codec


def downlinked(algorithm: fl.FederatedAlgorithm, settings: FederationSettings) -> fl.FederatedAlgorithm:
    """The algorithm with ``--downlink``; without it the same object.

    Raises:
      FlagError: the algorithm hands out a model of its own.
    """
    codec = make_downlink(settings)
    if codec is None:
        return algorithm
    try:
        return communication.with_downlink(algorithm, codec)
    except ArgumentError as error:
        expected = f"none with --algorithm={settings.algorithm}, which hands out a model of its own"
        raise FlagError("downlink", expected, settings.downlink) from error


def _named(flag: str, name: str, given: tuple[tuple[str, str], ...]) -> communication.NamedCodec | None:
    texts = dict(given)
    if name == "none":
        if texts:
            raise FlagError(flag, "a codec for its options", name)
        return None
    known = catalog.options_of(communication.CODECS[name])
    try:
        return communication.named_codec(name, **parse_options(flag, known, texts, name))
    except FlagError:
        raise
    except ArgumentError as error:
        raise FlagError(f"{flag}.{error.name}", error.expected, error.found) from error


def encoded_size(codec: communication.NamedCodec | None, share_mask: PyTree, task: Task) -> int:
    """Numbers of a client's encoded change of the shared leaves."""

    def encode():
        variables = task.init(jax.random.key(0))
        mask = jax.tree.map(lambda share, part: jax.tree.map(lambda _: share, part), share_mask, variables)
        shared = jax.tree.map(lambda share, x: x if share is True else None, mask, variables)
        if codec is None:
            return shared
        upload = fl.Upload(shared, fl.Message(), jnp.float32(1))
        context = fl.Context(jnp.int32(0), jax.random.key(0), jnp.int32(0), common=jax.random.key(0))
        client, server = codec.channel.init(upload)
        if codec.channel.broadcast is not None:
            context = context._replace(broadcast=codec.channel.broadcast(server))
        return codec.channel.encode(upload, client, context)[0].delta

    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(encode)))
