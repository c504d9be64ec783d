"""Losses of segmentation: cross-entropy, also weighted and focal, overlap, distance of boundaries."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.tasks.network import mean
from fedrecon.tasks.overlap import distance_transform

# ``loss(logits, labels, scored, spacing) -> scalar`` of a batch: logits (examples, [nz,] ny, nx, classes)
# with background first, labels (examples, [nz,] ny, nx) of any numeric dtype, scored like them, bool, False
# at padding and at what is ignored, spacing (examples, 2 or 3) or None. Where examples have "distance", see
# ``boundary_distances``, it is a fifth argument.
SegmentationLoss = Callable[..., jax.Array]


def segmentation_loss(
    *,
    cross_entropy: float = 0.5,
    overlap: float = 0.5,
    boundary: float = 0.0,
    class_weights: Sequence[float] | None = None,
    focus: float = 0.0,
    separate: bool = False,
) -> SegmentationLoss:
    """A weighted sum of three losses; by default the mean of cross-entropy and soft Dice loss.

    Each leaves out padding and ignored pixels, has finite gradients, also where no class is in sight, and is
    constant without a valid example.

      - Cross-entropy ``-w_y (1 - p_y)^focus log p_y``, as the mean over the scored pixels of an example and
        then over valid examples: focal loss (Lin et al. 2017) with ``focus``, whose weights are alpha. Means
        are not divided by the weights, unlike torch's, so that an image of one class keeps its weight.
      - Soft Dice loss ``1 - (2 sum p s + 1) / (sum p + sum s + 1)`` as the mean over foreground classes. The
        sums run over the whole batch, as in nnU-Net: one by one, the many images without a lesion would
        outweigh the others.
      - Boundary loss (Kervadec et al. 2019): the mean of ``p d`` over scored pixels and foreground classes, d
        being `signed_distance` of the reference. It may be negative, and belongs next to one of the others.

    Args:
      cross_entropy: weight of the first.
      overlap: weight of the second.
      boundary: weight of the third, small against the inverse of distances in the unit of the spacing.
      class_weights: (classes,) not negative; all 1 by default.
      focus: 0, or 1 and more: how much less pixels count that are right already.
      separate: structures are found one by one: with p the sigmoid of a class's logit minus the background's,
        the first is the mean of their binary cross-entropies, without weights of classes and focus.

    Raises:
      ValueError: no weight above 0, a negative one, a focus between 0 and 1, with infinite gradients, or
        weights of classes or a focus with ``separate``.
    """
    shares = {"cross_entropy": cross_entropy, "overlap": overlap, "boundary": boundary}
    for name, share in shares.items():
        if not share >= 0:
            raise ArgumentError(name, "a weight of 0 or more", share)
    if not any(shares.values()):
        raise ArgumentError("boundary", "a weight above 0 where all others are 0", boundary)
    check_weights(class_weights, focus)
    if separate and (class_weights is not None or focus):
        raise ArgumentError("separate", "no class_weights and no focus with it", (class_weights, focus))

    def loss(
        logits: jax.Array,
        labels: jax.Array,
        scored: jax.Array,
        spacing: jax.Array | None,
        distances: jax.Array | None = None,
    ) -> jax.Array:
        reference = jax.nn.one_hot(labels.astype(jnp.int32), logits.shape[-1], dtype=logits.dtype)
        if separate:
            against = logits[..., 1:] - logits[..., :1]
            entropies = optax.sigmoid_binary_cross_entropy(against, reference[..., 1:]).mean(-1)
            probabilities = jax.nn.sigmoid(against)
        else:
            log_probabilities = jax.nn.log_softmax(logits, -1)
            entropies = focal(log_probabilities, reference, class_weights, focus)
            probabilities = jnp.exp(log_probabilities[..., 1:])
        value = jnp.zeros((), probabilities.dtype)
        if cross_entropy:
            value += cross_entropy * _mean_over_pixels(entropies, scored)
        weight = scored[..., None].astype(logits.dtype)
        if overlap:
            value += overlap * _soft_dice_loss(weight * probabilities, weight * reference[..., 1:])
        if boundary:
            if distances is None:
                distances = _distances((reference[..., 1:] > 0) & scored[..., None], spacing)
            each = (probabilities * distances).mean(-1)
            value += boundary * _mean_over_pixels(each, scored)
        return value

    return loss


def check_weights(class_weights: Sequence[float] | None, focus: float) -> None:
    """Raises ValueError for arguments that ``focal`` cannot take."""
    if focus != 0 and not focus >= 1:
        raise ArgumentError("focus", "0, or a number of 1 or more", focus)
    if class_weights is not None and (min(class_weights) < 0 or max(class_weights) == 0):
        raise ArgumentError("class_weights", "numbers of 0 or more, one above 0", tuple(class_weights))


def focal(
    log_probabilities: jax.Array, reference: jax.Array, class_weights: Sequence[float] | None, focus: float
) -> jax.Array:
    """``-w_y (1 - p_y)^focus log p_y`` (...) of log probabilities and one-hot classes (..., classes)."""
    if class_weights is not None:
        if len(class_weights) != reference.shape[-1]:
            raise ArgumentError("class_weights", f"{reference.shape[-1]} numbers", len(class_weights))
        reference = reference * jnp.asarray(class_weights, reference.dtype)
    if focus:
        # 1 - p without the cancellation; never below 0.
        reference = reference * jnp.maximum(-jnp.expm1(log_probabilities), 0) ** focus
    # Not 0 * -inf where a class that is not the reference is impossible.
    return -jnp.where(reference == 0, 0, reference * log_probabilities).sum(-1)


def _mean_over_pixels(values: jax.Array, scored: jax.Array) -> jax.Array:
    """The mean over the scored pixels of each example, and then over the examples that have some."""
    pixels = tuple(range(1, values.ndim))
    count = scored.sum(pixels)
    return mean(jnp.where(scored, values, 0).sum(pixels) / jnp.maximum(count, 1), count > 0)


def _soft_dice_loss(p: jax.Array, s: jax.Array) -> jax.Array:
    axes = tuple(range(p.ndim - 1))
    overlap, size = (p * s).sum(axes), p.sum(axes) + s.sum(axes)
    return 1 - ((2 * overlap + 1) / (size + 1)).mean()


def signed_distance(mask: jax.Array, spacing: Sequence[float] | jax.Array | None = None) -> jax.Array:
    """Distance to the nearest pixel on the other side of a mask's boundary, negative inside.

    Zero everywhere for a mask without a boundary, of all pixels or none.

    Args:
      mask: ([nz,] ny, nx) bool.
      spacing: distances of the pixels along the axes; 1 by default.

    Returns:
      float like ``mask``, in the unit of ``spacing``.
    """
    signed = distance_transform(mask, spacing) - distance_transform(~mask, spacing)
    return jnp.where(mask.any() & ~mask.all(), signed, 0.0)


def boundary_distances(
    labels: jax.Array, classes: int, spacing: jax.Array | None = None, ignore: int | None = None
) -> jax.Array:
    """What the boundary loss multiplies probabilities by: once for an example instead of in every step.

    Examples of a task that have it as "distance" are mirrored and cut into patches with it. The distances of
    a patch are then those of its whole image, where a step would take only boundaries inside the patch.

    Args:
      labels: (examples, [nz,] ny, nx), the class of each pixel.
      classes: their number, with the background.
      spacing: (examples, 2 or 3), distances of the pixels; 1 by default.
      ignore: a label of pixels that are of no class.

    Returns:
      (examples, [nz,] ny, nx, classes - 1) float32.
    """
    labels = jnp.asarray(labels)
    scored = jnp.ones(labels.shape, bool) if ignore is None else labels != ignore

    @jax.jit
    def each(labels: jax.Array, scored: jax.Array, spacing: jax.Array) -> jax.Array:
        masks = jnp.stack([(labels == number) & scored for number in range(1, classes)], -1)
        return _distances(masks[None], spacing[None])[0].astype(jnp.float32)

    if spacing is None:
        spacing = jnp.ones((len(labels), labels.ndim - 1))
    return jax.lax.map(lambda case: each(*case), (labels, scored, jnp.asarray(spacing)))


def _distances(masks: jax.Array, spacing: jax.Array | None) -> jax.Array:
    """``signed_distance`` of masks (examples, [nz,] ny, nx, classes - 1)."""
    if spacing is None:
        spacing = jnp.ones((len(masks), masks.ndim - 2))
    of_classes = jax.vmap(signed_distance, (-1, None), -1)
    return jax.vmap(of_classes)(masks, spacing)
