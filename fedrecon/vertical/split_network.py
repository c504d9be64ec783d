"""One network divided between institutions: activations go up, their gradients come down, examples stay.

Guests know something of each example, such as an image; the host knows the labels, and perhaps a table. A
guest's network ends at the cut. Its activations (examples, width) are a message to the host, whose network
goes on from those of all guests and from what the host knows itself; the host answers with the gradient of
each example's loss with respect to them. Every step is that of the undivided network (`undivided_loss`), up
to rounding: nothing is approximated (Gupta and Raskar 2018; Vepakomma et al. 2018).

What messages tell: activations tell the host about a guest's inputs; gradients tell guests about labels, of
one logit even their signs, and of the host's own inputs. `fedrecon.vertical.cut_privacy` bounds both.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.mechanism import Mechanism
from fedrecon.types import PyTree


class Guest(NamedTuple):
    """The network of an institution without labels.

    Attributes:
      init: ``init(key) -> params``.
      apply: ``apply(params, inputs (examples, ...)) -> (examples, width)``, each example for itself.
    """

    init: Callable[[jax.Array], PyTree]
    apply: Callable[[PyTree, jax.Array], jax.Array]


class Host(NamedTuple):
    """The network of the institution that has the labels.

    Attributes:
      init: ``init(key) -> params``.
      apply: ``apply(params, activations of the guests, own inputs) -> logits (examples, ...)``.
      loss: ``loss(logits, labels) -> (examples,)``.
    """

    init: Callable[[jax.Array], PyTree]
    apply: Callable[[PyTree, tuple[jax.Array, ...], jax.Array], jax.Array]
    loss: Callable[[jax.Array, jax.Array], jax.Array]


class SplitNetwork(NamedTuple):
    """A network and where it is divided.

    Attributes:
      guests: their networks.
      host: that of the host.
    """

    guests: tuple[Guest, ...]
    host: Host


class SplitParams(NamedTuple):
    """Parameters, or gradients, each of which stays at its institution.

    Attributes:
      guests: of each guest.
      host: of the host.
    """

    guests: tuple[PyTree, ...]
    host: PyTree


class SplitBatch(NamedTuple):
    """The same examples in the same order at all institutions.

    Attributes:
      guests: inputs of each guest (examples, ...).
      host: the host's own inputs (examples, features); of no features where it has none.
      labels: (examples, ...), known to the host.
      valid: bool (examples,); False is padding, known to all.
    """

    guests: tuple[jax.Array, ...]
    host: jax.Array
    labels: jax.Array
    valid: jax.Array


class Protection(NamedTuple):
    """What is clipped and noised, each by a mechanism of fixed batches; None sends it as it is.

    Attributes:
      activations: of each example and guest, clipped to the norm; noise is added to each of them.
      guests: gradients of each example with respect to a guest's parameters, clipped, summed and noised.
      gradients: of each example with respect to a guest's activations, clipped; noise is added to each.
      host: gradients of each example with respect to the host's parameters, clipped, summed and noised.
    """

    activations: Mechanism | None = None
    guests: Mechanism | None = None
    gradients: Mechanism | None = None
    host: Mechanism | None = None


class HostStep(NamedTuple):
    """What a host computes from the activations of a batch.

    Attributes:
      loss: mean over valid examples; it stays at the host.
      gradient: with respect to the host's parameters.
      cut: the messages: of each guest the gradients of every example's own loss (examples, width).
    """

    loss: jax.Array
    gradient: PyTree
    cut: tuple[jax.Array, ...]


def init(network: SplitNetwork, key: jax.Array) -> SplitParams:
    """First parameters, each drawn by its institution from a key of its own.

    Raises:
      ValueError: there is no guest.
    """
    if not network.guests:
        raise ArgumentError("network", "at least one guest", "none")
    keys = jax.random.split(key, len(network.guests) + 1)
    guests = tuple(guest.init(k) for guest, k in zip(network.guests, keys[1:], strict=True))
    return SplitParams(guests, network.host.init(keys[0]))


def activations(
    guest: Guest,
    params: PyTree,
    inputs: jax.Array,
    valid: jax.Array,
    mechanism: Mechanism | None = None,
    key: jax.Array | None = None,
) -> jax.Array:
    """A guest's message (examples, width): of padding 0, without noise, or only noise.

    Args:
      guest: its network.
      params: of it.
      inputs: (examples, ...).
      valid: bool (examples,).
      mechanism: clips and noises each example.
      key: of the noise.

    Raises:
      ValueError: a mechanism without a key.
    """
    found = _clipped_cut(guest, params, inputs, mechanism)
    return _noised(jnp.where(valid[:, None], found, 0), mechanism, key)


def host_step(
    network: SplitNetwork,
    params: PyTree,
    received: tuple[jax.Array, ...],
    batch: SplitBatch,
    protection: Protection = Protection(),  # noqa: B008
    key: jax.Array | None = None,
) -> HostStep:
    """The host's part of a step.

    Args:
      network: all of it, of which the host's part is used.
      params: of the host.
      received: activations of each guest.
      batch: of which the host sees all but the guests' inputs.
      protection: of the host's data.
      key: of its noise.

    Raises:
      ValueError: a mechanism without a key.
    """
    host = network.host

    def of_one(params, cut, inputs, label):
        logits = host.apply(params, jax.tree.map(lambda x: x[None], cut), inputs[None])
        return host.loss(logits, label[None])[0]

    if protection.host is None:

        def mean(params, cut):
            each = host.loss(host.apply(params, cut, batch.host), batch.labels)
            each = jnp.where(batch.valid, each, 0)
            return each.sum() / _count(batch.valid), each

        # Of the sum, so that each example's gradient is that of its own loss.
        (loss, _), gradient = jax.value_and_grad(mean, has_aux=True)(params, received)
        cut = jax.grad(lambda cut: mean(params, cut)[1].sum())(received)
    else:
        each, (own, cut) = jax.vmap(jax.value_and_grad(of_one, argnums=(0, 1)), in_axes=(None, 0, 0, 0))(
            params, received, batch.host, batch.labels
        )
        loss = jnp.where(batch.valid, each, 0).sum() / _count(batch.valid)
        gradient = _private_mean(own, batch.valid, protection.host, _folded(key, 0))
        cut = jax.tree.map(lambda x: jnp.where(batch.valid[:, None], x, 0), cut)
    if protection.gradients is not None:
        bound = protection.gradients.sensitivity
        # The message of an example is that to all guests, and is clipped as one.
        lengths = jnp.sqrt(sum(jnp.square(x).sum(1) for x in cut))
        factor = _factor(lengths, bound)[:, None]
        cut = tuple(
            _noised(factor * x, protection.gradients, _folded(key, 1 + number))
            for number, x in enumerate(cut)
        )
    return HostStep(loss, gradient, cut)


def guest_gradient(
    guest: Guest,
    params: PyTree,
    inputs: jax.Array,
    valid: jax.Array,
    received: jax.Array,
    protection: Protection = Protection(),  # noqa: B008
    key: jax.Array | None = None,
) -> PyTree:
    """A guest's part of a step: the gradient of the mean loss with respect to its parameters.

    Args:
      guest: its network.
      params: of it.
      inputs: (examples, ...).
      valid: bool (examples,).
      received: gradients of each example's loss (examples, width).
      protection: of the guest's data.
      key: of its noise.

    Raises:
      ValueError: a mechanism without a key.
    """
    received = jnp.where(valid[:, None], received, 0)
    if protection.guests is None:
        _, pull = jax.vjp(lambda p: _clipped_cut(guest, p, inputs, protection.activations), params)
        return jax.tree.map(lambda x: x / _count(valid), pull(received)[0])

    def of_one(inputs, received):
        _, pull = jax.vjp(lambda p: _clipped_cut(guest, p, inputs[None], protection.activations), params)
        return pull(received[None])[0]

    each = jax.vmap(of_one)(inputs, received)
    return _private_mean(each, valid, protection.guests, key)


def split_gradient(
    network: SplitNetwork,
    params: SplitParams,
    batch: SplitBatch,
    protection: Protection = Protection(),  # noqa: B008
    key: jax.Array | None = None,
) -> tuple[jax.Array, SplitParams]:
    """A step of all institutions: (mean loss, the gradients of all parameters).

    Args:
      network: all of it.
      params: of all.
      batch: what they know of the same examples.
      protection: of either side.
      key: of all noise; each institution's own is folded from it.

    Raises:
      ValueError: a mechanism without a key; activations or gradients at the cut that are protected without
        the gradients of the network that they come from, which would promise nothing.
    """
    for own, other in (("activations", "guests"), ("gradients", "host")):
        if getattr(protection, own) is not None and getattr(protection, other) is None:
            raise ArgumentError(f"protection.{other}", f"a mechanism, as of protection.{own}", "none")
    guests = list(zip(network.guests, params.guests, batch.guests, strict=True))
    sent = tuple(
        activations(guest, own, inputs, batch.valid, protection.activations, _folded(key, 2 * number + 1))
        for number, (guest, own, inputs) in enumerate(guests)
    )
    answer = host_step(network, params.host, sent, batch, protection, _folded(key, 0))
    gradients = tuple(
        guest_gradient(guest, own, inputs, batch.valid, cut, protection, _folded(key, 2 * number + 2))
        for number, ((guest, own, inputs), cut) in enumerate(zip(guests, answer.cut, strict=True))
    )
    return answer.loss, SplitParams(gradients, answer.gradient)


def undivided_loss(
    network: SplitNetwork, params: SplitParams, batch: SplitBatch, clipping: Mechanism | None = None
) -> jax.Array:
    """Mean loss over valid examples of the same network in one place; ``clipping`` bounds activations."""
    cut = tuple(
        _clipped_cut(guest, own, inputs, clipping)
        for guest, own, inputs in zip(network.guests, params.guests, batch.guests, strict=True)
    )
    each = network.host.loss(network.host.apply(params.host, cut, batch.host), batch.labels)
    return jnp.where(batch.valid, each, 0).sum() / _count(batch.valid)


def _count(valid: jax.Array) -> jax.Array:
    return jnp.maximum(valid.sum(), 1)


def _clipped_cut(guest: Guest, params: PyTree, inputs: jax.Array, mechanism: Mechanism | None) -> jax.Array:
    found = guest.apply(params, inputs)
    if mechanism is None:
        return found
    squared = jnp.square(found).sum(1, keepdims=True)
    # The root's gradient at 0 is not finite.
    lengths = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)
    return found * _factor(lengths, mechanism.sensitivity)


def _factor(lengths: jax.Array, bound: float) -> jax.Array:
    return jnp.where(lengths > bound, bound / jnp.where(lengths > bound, lengths, 1), 1)


def _folded(key: jax.Array | None, number: int) -> jax.Array | None:
    return None if key is None else jax.random.fold_in(key, number)


def _noised(x: jax.Array, mechanism: Mechanism | None, key: jax.Array | None) -> jax.Array:
    if mechanism is None:
        return x
    if key is None:
        raise ArgumentError("key", "a key of the noise", "none")
    return x + mechanism.stddev * jax.random.normal(key, x.shape, x.dtype)


def _private_mean(each: PyTree, valid: jax.Array, mechanism: Mechanism, key: jax.Array | None) -> PyTree:
    """The noised sum of clipped gradients (examples, ...) over the batch size that is fixed."""
    if key is None:
        raise ArgumentError("key", "a key of the noise", "none")
    lengths = jax.vmap(optax.tree.norm)(each)
    factor = jnp.where(valid, _factor(lengths, mechanism.sensitivity), 0)
    total = jax.tree.map(lambda x: jnp.tensordot(factor, x, 1), each)
    noise = optax.tree.random_like(key, total, jax.random.normal)
    size = mechanism.expected_batch_size
    return jax.tree.map(lambda x, n: (x + mechanism.stddev * n) / size, total, noise)
