"""Low amplitudes of images of every client, exchanged once, and images that get those of others."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fedrecon.alignment import amplitude, frequency_window, with_amplitude
from fedrecon.errors import ArgumentError
from fedrecon.federated.clients import place
from fedrecon.federated.messages import Message
from fedrecon.federated.methods.prepared import image_shape
from fedrecon.federated.phases import Beforehand, make_exchange
from fedrecon.types import Task, Variables


class Spectra(NamedTuple):
    """The distribution bank A: low amplitudes of some images of every client.

    Attributes:
      amplitudes: (clients, spectra, 2b + 1, 2b + 1, channels), frequencies as of `jnp.fft.fftfreq`.
      count: int32 (clients,), how many of them there are.
    """

    amplitudes: jax.Array
    count: jax.Array  # type: ignore[assignment]  # hides a method of tuples that nobody calls


def low_frequencies(shape: tuple[int, ...], part: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the frequencies within b = floor(part min(ny, nx)), zero first."""
    inside = frequency_window(shape, part)
    return np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))


def exchange_spectra(
    task: Task,
    variables: Variables,
    clients: Any,
    key: jax.Array,
    mesh: Mesh | None = None,
    *,
    part: float = 0.01,
    spectra: int = 16,
) -> Beforehand:
    """The exchange before the rounds: every client gets low amplitudes of images of all others.

    Only the window that is used is sent: 4 (2b + 1)^2 channels bytes a spectrum. A client sends those of
    ``spectra`` of its images, drawn at random, or of all where it has fewer (room for ``spectra`` counts).

    Args:
      task: not used.
      variables: of the task.
      clients: training data, with "image" (clients, examples, ny, nx, channels).
      key: of the drawing.
      mesh: of the rounds.
      part: L, in [0, 1/2], see `frequency_window`; 0 is the mean intensity alone.
      spectra: images of a client, positive.

    Raises:
      ValueError: arguments out of range, or no such images.
    """
    del task
    example = {name: jax.ShapeDtypeStruct((1, *x.shape[2:]), x.dtype) for name, x in clients.examples.items()}
    rows, columns = low_frequencies(image_shape(example)[:2], part)
    if spectra < 1:
        raise ArgumentError("spectra", "a positive integer", repr(spectra))

    def compute(payload, row, client, key):
        del payload, client
        # Valid examples in random order come first.
        order = jnp.argsort(_random_order(key, row.valid))[:spectra]
        found = amplitude(row.examples["image"][order].astype(jnp.float32))[:, rows][:, :, columns]
        missing = [(0, spectra - len(order))] + [(0, 0)] * 3
        return Message(
            gathered=Spectra(jnp.pad(found, missing), jnp.minimum(row.valid.sum(dtype=jnp.int32), spectra))
        )

    found = make_exchange(compute, mesh=mesh)((), place(clients, mesh), key)
    bank = found.message.gathered.values
    bank = bank._replace(count=jnp.where(found.message.gathered.present, bank.count, 0))
    total = found.bytes_up.sum(dtype=jnp.uint32)
    down = jnp.where(found.bytes_up > 0, total - found.bytes_up, 0)
    return Beforehand(variables, bank, found.bytes_up, down)


def _random_order(key: jax.Array, valid: jax.Array) -> jax.Array:
    """Random numbers (examples,) that put valid examples first."""
    return jax.random.uniform(key, valid.shape) + jnp.where(valid, 0, 2)


def interpolated(
    images: jax.Array, bank: Spectra, client: jax.Array, key: jax.Array, part: float, least: float = 0.0
) -> jax.Array:
    """x_t: images with low amplitudes ``(1 - lambda) A_x + lambda A`` of another client (equation 1).

    The client, its spectrum and lambda in U(least, 1) are drawn anew for each image; the result is clipped to
    the range of the image. Where no other client has spectra, the images stay as they are.

    Args:
      images: (examples, ny, nx, channels).
      bank: of all clients; in rounds host arrays, which have no place on a mesh of their own.
      client: int32 (), whose images they are.
      key: of the drawing.
      part: L, as in `exchange_spectra`.
      least: lower end of lambda, in [0, 1].
    """
    bank, shape = jax.tree.map(jnp.asarray, bank), images.shape[1:3]
    rows, columns = low_frequencies(shape, part)
    keys = jax.random.split(key, 3)
    allowed = jnp.where((jnp.arange(len(bank.count)) != client) & (bank.count > 0), 0.0, -jnp.inf)
    some = jnp.isfinite(allowed).any()
    other = jax.random.categorical(keys[0], jnp.where(some, allowed, 0.0), shape=(len(images),))
    place = jax.random.randint(keys[1], (len(images),), 0, jnp.maximum(bank.count[other], 1))
    crop = bank.amplitudes[other, place]
    whole = jnp.zeros(images.shape).at[:, rows[:, None], columns].set(crop)
    mix = jax.random.uniform(keys[2], (len(images), 1, 1, 1), minval=least, maxval=1.0)
    changed = with_amplitude(images, whole, frequency_window(shape, part), mix if least < 1 else 1.0)
    axes = (1, 2, 3)
    kept = jnp.clip(changed, images.min(axes, keepdims=True), images.max(axes, keepdims=True))
    return jnp.where(some, kept, images)
