"""HarmoFL: images with one amplitude, and gradients of perturbed weights."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from fedrecon.alignment import amplitude, frequency_window, with_amplitude
from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.clients import place
from fedrecon.federated.messages import Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.methods.prepared import image_shape, prepared
from fedrecon.federated.phases import Beforehand, make_exchange
from fedrecon.federated.recipe import federated
from fedrecon.federated.sampling import by_examples, equal
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


def perturbed(strength: float) -> Method:
    """Gradients at perturbed weights (equation 4): ``g' = grad L(w + alpha g / (|g| + 1e-12))``.

    g is the gradient of the same batch at w, over all leaves; loss, metrics and statistics are those at w.

    Raises:
      ValueError: the strength is negative.
    """
    if not strength >= 0:
        raise ArgumentError("strength", "a number of at least 0", repr(strength))
    if strength == 0:
        return Method()

    def oracle(value_and_grad):
        def at_perturbed(params, stats, batch, memory, key):
            evaluation, gradient = value_and_grad(params, stats, batch, memory, key)
            scale = strength / (optax.tree.norm(gradient) + 1e-12)
            ahead = jax.tree.map(lambda w, g: (w + scale * g).astype(w.dtype), params, gradient)
            return evaluation, value_and_grad(ahead, stats, batch, memory, key)[1]

        return at_perturbed

    return Method(oracle=oracle)


def harmofl(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    strength: float = 0.05,
    by_size: bool = False,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """HarmoFL (Jiang, Wang and Dou 2022, AAAI, arXiv:2112.10775): FedAvg on harmonized images.

    Two drifts are removed: that of local features by `normalized_task` with the amplitude of
    `mean_amplitude`, and that of the global optimum by `perturbed` gradients. Without both and ``by_size`` it
    is FedAvg, bit for bit.

    Deviations: the amplitude is the mean of all batches (the code keeps the first by an integer 0.1; the
    window 0 and the decay 0 are the code's); networks keep the normalization that they have, where the
    publication normalizes by statistics of batches.

    Args:
      task: of `normalized_task`, its amplitude set.
      optimizer: each client's optimizer (in the publication Adam at 1e-4 with weight decay 1e-4).
      strength: alpha, at least 0.
      by_size: clients weigh by their examples, not equally.
      method: further methods.
      **options: as in `federated`, except ``weighting``.

    Raises:
      ValueError: arguments out of range.
    """
    if "weighting" in options:
        raise TypeError("harmofl() takes no argument 'weighting': it brings its own")
    weighting = by_examples if by_size else equal
    return federated(
        task, optimizer, method=combine(perturbed(strength), method), weighting=weighting, **options
    )
