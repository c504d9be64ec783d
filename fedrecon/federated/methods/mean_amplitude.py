"""The mean amplitude of the images of all clients, exchanged once, and tasks on images that have it."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fedrecon.alignment import amplitude, frequency_window, with_amplitude
from fedrecon.errors import ArgumentError
from fedrecon.federated.clients import place
from fedrecon.federated.messages import Message
from fedrecon.federated.methods.prepared import image_shape, prepared
from fedrecon.federated.phases import Beforehand, make_exchange
from fedrecon.types import Task, Variables

# Where the statistics of the task have the mean amplitude.
AMPLITUDE = "amplitude"


def normalized_task(
    task: Task, example: Mapping[str, Any], *, window: float = 0.5, normalize: bool = True
) -> Task:
    """The task on images whose amplitude is the sites' mean one (section "Amplitude normalization").

    ``x <- F^-1(A-bar e^(j phi))``, with phi the phase of F(x), inside the window, x's own amplitude outside.
    The mean amplitude, float32 (ny, nx, channels), is a statistic of the model.

    Args:
      task: of batches with "image" (examples, ny, nx, channels).
      example: shapes and dtypes of a batch.
      window: as ``part`` of `frequency_window`: 1/2 is everything (the publication), 0 the mean intensity
        alone (the authors' code).
      normalize: False leaves the task as it is.

    Raises:
      ValueError: there are no such images, or the window is out of range.
    """
    shape = image_shape(example)
    inside = frequency_window(shape[:2], window)
    if not normalize:
        return task

    def prepare(mean, batch):
        return {**batch, "image": with_amplitude(batch["image"], mean, inside)}

    return prepared(task, AMPLITUDE, lambda: jnp.zeros(shape), prepare)


def mean_amplitude(
    task: Task,
    variables: Variables,
    clients: Any,
    key: jax.Array,
    mesh: Mesh | None = None,
    *,
    decay: float = 0.1,
    amplitude_batch: int = 16,
    normalize: bool = True,
) -> Beforehand:
    """The exchange before the rounds: every client sends its mean amplitude, the server their mean.

    A client's is ``A <- (1 - nu) A + nu mean_b |F(x_b)|`` over its batches in the order of its examples,
    begun with that of the first; the server's the plain mean over clients. 4 bytes a value each way.

    Args:
      task, variables: of `normalized_task`.
      clients: training data, with "image" (clients, examples, ny, nx, channels).
      key: not used.
      mesh: of the rounds.
      decay: nu, in [0, 1]; 0 keeps the first batch, as the authors' code does.
      amplitude_batch: examples of a batch, positive.
      normalize: as in `normalized_task`; False exchanges nothing.

    Raises:
      ValueError: arguments out of range.
    """
    del task
    if not 0 <= decay <= 1:
        raise ArgumentError("decay", "a number in [0, 1]", repr(decay))
    if amplitude_batch < 1:
        raise ArgumentError("amplitude_batch", "a positive integer", repr(amplitude_batch))
    if not normalize:
        nothing = jnp.zeros(len(clients.valid), jnp.uint32)
        return Beforehand(variables, None, nothing, nothing)

    def compute(payload, row, client, key):
        del payload, client, key
        # Valid examples first, in their order.
        order = jnp.argsort(~row.valid, stable=True)
        count = -(-len(order) // amplitude_batch)
        missing = count * amplitude_batch - len(order)
        batches = jnp.pad(order, (0, missing)).reshape(count, amplitude_batch)
        valid = jnp.pad(row.valid[order], (0, missing)).reshape(count, amplitude_batch)

        def step(mean, batch):
            index, own, first = batch
            found = amplitude(row.examples["image"][index].astype(jnp.float32))
            part = (found * own[:, None, None, None]).sum(0) / jnp.maximum(own.sum(), 1)
            rate = jnp.where(first, 1.0, decay) * own.any()
            return mean + rate * (part - mean), None

        start = jnp.zeros_like(row.examples["image"][0], jnp.float32)
        mean = jax.lax.scan(step, start, (batches, valid, jnp.arange(count) == 0))[0]
        return Message(summed=mean)

    found = make_exchange(compute, mesh=mesh)((), place(clients, mesh), key)
    mean = found.message.summed / jnp.maximum(found.participants, 1)
    stats = {**variables.stats, AMPLITUDE: mean}
    down = jnp.uint32(4 * mean.size) * (found.bytes_up > 0)
    start = Variables(variables.params, stats)
    return Beforehand(start, None, found.bytes_up, down, frozen=(AMPLITUDE,))
