"""Examples without labels: which they are, clients that have no others, and what a model says of them."""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from fedrecon.errors import ArgumentError
from fedrecon.federated.messages import Message
from fedrecon.federated.method import Method
from fedrecon.types import Batch

_LEAST = 1e-12


def drawn_by_pixels(image: jax.Array, part: float) -> jax.Array:
    """A ``part`` of images (examples, ...), bool (examples,), by their pixels: the same for each image."""
    bits = lax.bitcast_convert_type(image.astype(jnp.float32), jnp.uint32).reshape(len(image), -1)
    odd = 2 * jnp.arange(bits.shape[1], dtype=jnp.uint32) * jnp.uint32(2654435761) + 1
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), (bits * odd).sum(1, dtype=jnp.uint32))
    return jax.vmap(jax.random.uniform)(keys) < part


def hidden_labels(
    clients: int, labeled: float = 1.0, unlabeled_clients: int = 0, weight: float = 0.5
) -> Method:
    """Tells a task's loss of labeled examples alone, and marks the others.

    An example has a label where its "labeled", if there is one, is true, and none is hidden. Batches get
    "unlabeled", bool (examples,); these are not "valid" for the task.

    Args:
      clients: their number.
      labeled: part of the images whose label is kept, in [0, 1], see `drawn_by_pixels`.
      unlabeled_clients: number of clients, the last ones, that keep no label.
      weight: factor of the weight of a client without a labeled example, at least 0.

    Raises:
      ValueError: arguments out of range.
    """
    if not 0 <= labeled <= 1:
        raise ArgumentError("labeled", "a number in [0, 1]", repr(labeled))
    if not 0 <= unlabeled_clients <= clients:
        raise ArgumentError("unlabeled_clients", f"0 to {clients}", unlabeled_clients)
    if not weight >= 0:
        raise ArgumentError("unlabeled_weight", "a number of at least 0", repr(weight))

    def known(examples: Batch, client: jax.Array) -> jax.Array:
        kept = drawn_by_pixels(examples["image"], labeled)
        if "labeled" in examples:
            kept &= examples["labeled"].astype(bool)
        return kept & (client < clients - unlabeled_clients)

    def prepare(batch, memory, context, key):
        kept = known(batch, context.batches.client)
        return {**batch, "valid": batch["valid"] & kept, "unlabeled": batch["valid"] & ~kept}

    def finish(result, memory, context):
        batches = context.batches
        some = (known(batches.examples, batches.client) & batches.present).any()
        return result._replace(weight=jnp.where(some, 1, weight) * result.weight), Message(), memory

    return Method(prepare=prepare, finish=finish)


def ramp(round: jax.Array, rounds: int) -> jax.Array:
    """``exp(-5 (1 - t / T)^2)`` of round t, 1 from round T on."""
    return jnp.exp(-5 * jnp.square(1 - jnp.minimum(round / rounds, 1)))


def against_background(probabilities: jax.Array) -> jax.Array:
    """Logits of structures against the background (..., classes - 1), of probabilities (..., classes)."""
    log_p = jnp.log(jnp.maximum(probabilities, _LEAST))
    return log_p[..., 1:] - log_p[..., :1]


def pseudo_loss(logits: jax.Array, received: jax.Array, unlabeled: jax.Array, confidence: float) -> jax.Array:
    """Dice and binary cross-entropy with what the received model says, at pixels where it is sure.

    Args:
      logits: of structures (examples, pixels..., structures), of the client's model.
      received: the same of the received model: labels are its signs, and it is sure where the larger of p and
        1 - p reaches ``confidence``.
      unlabeled: bool (examples,).
      confidence: in [0.5, 1].

    Returns:
      Float (), the mean over structures; 0 without a pixel.
    """
    p = jax.nn.sigmoid(received)
    label = (p > 0.5).astype(logits.dtype)
    sure = jnp.maximum(p, 1 - p) >= confidence
    seen = (sure & unlabeled.reshape(-1, *(1,) * (p.ndim - 1))).astype(logits.dtype)
    axes = tuple(range(p.ndim - 1))
    entropy = (seen * optax.sigmoid_binary_cross_entropy(logits, label)).sum(axes)
    own = seen * jax.nn.sigmoid(logits)
    dice = (2 * (own * label).sum(axes) + 1) / (own.sum(axes) + (seen * label).sum(axes) + 1)
    return (entropy / jnp.maximum(seen.sum(axes), 1) + 1 - dice).mean()
