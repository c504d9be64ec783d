"""Agreement of segmentations: Dice and the 95th percentile of the Hausdorff distance."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from fedrecon.tasks.labels import examined, is_class
from fedrecon.tasks.network import total
from fedrecon.types import Batch, Metrics

Spacing = Sequence[float] | jax.Array


def dice(prediction: jax.Array, reference: jax.Array) -> jax.Array:
    """Dice 2 |P & R| / (|P| + |R|) of masks (..., ny, nx) bool -> (...) float; 1 where both are empty."""
    overlap = (prediction & reference).sum((-2, -1))
    size = prediction.sum((-2, -1)) + reference.sum((-2, -1))
    return jnp.where(size > 0, 2 * overlap / jnp.maximum(size, 1), 1.0)


def distance_transform(mask: jax.Array, spacing: Spacing = (1.0, 1.0)) -> jax.Array:
    """Exact Euclidean distance of every pixel to the nearest True pixel of its image.

    Separable: nearest True pixel along y by running extrema, then the lower envelope of parabolas along x
    by direct minimization.

    Args:
      mask: (ny, nx) bool.
      spacing: (2,), distances of the pixels along y and x.

    Returns:
      (ny, nx) float, in the unit of ``spacing``; infinite everywhere when the mask is empty.
    """
    ny, nx = mask.shape
    y = spacing[0] * jnp.arange(ny, dtype=float)[:, None]
    above = lax.cummax(jnp.where(mask, y, -jnp.inf), axis=0)
    below = lax.cummin(jnp.where(mask, y, jnp.inf), axis=0, reverse=True)
    along_y = jnp.minimum(y - above, below - y)
    x = spacing[1] * jnp.arange(nx, dtype=float)
    squared = jnp.min(jnp.square(along_y)[:, None, :] + jnp.square(x[:, None] - x), axis=-1)
    return jnp.sqrt(squared)


def _border(mask: jax.Array) -> jax.Array:
    padded = jnp.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def _percentile(values: jax.Array, where: jax.Array, share: float) -> jax.Array:
    """Linearly interpolated percentile of the selected values; infinite when none is selected."""
    ordered = jnp.sort(jnp.where(where, values, jnp.inf).ravel())
    position = share * jnp.maximum(where.sum() - 1, 0)
    low, high = jnp.floor(position).astype(int), jnp.ceil(position).astype(int)
    # Not ordered[low] + fraction * difference, which is undefined among infinities.
    fraction = position - low
    return jnp.where(low == high, ordered[low], (1 - fraction) * ordered[low] + fraction * ordered[high])


def hausdorff95(prediction: jax.Array, reference: jax.Array, spacing: Spacing = (1.0, 1.0)) -> jax.Array:
    """95th percentile Hausdorff distance of two masks.

    The larger of the two directed 95th percentiles (linear interpolation) of the distances from the border
    pixels of one mask to the nearest border pixel of the other, as MONAI's ``compute_hausdorff_distance``
    defines it; borders in the 4-neighborhood, where the outside of the image is background. One empty mask:
    the diagonal of the image, more than any distance. Two empty masks: 0.

    Args:
      prediction: (ny, nx) bool.
      reference: (ny, nx) bool.
      spacing: (2,), distances of the pixels along y and x, in mm for instance.

    Returns:
      Scalar float, in the unit of ``spacing``.
    """
    borders = _border(prediction), _border(reference)
    distances = [
        _percentile(distance_transform(to, spacing), of, 0.95) for of, to in (borders, borders[::-1])
    ]
    ny, nx = prediction.shape
    empty = ~prediction.any(), ~reference.any()
    diagonal = jnp.hypot(spacing[0] * float(ny), spacing[1] * float(nx))
    distance = jnp.where(empty[0] | empty[1], diagonal, jnp.maximum(*distances))
    return jnp.where(empty[0] & empty[1], 0.0, distance)


def predicted_classes(logits: jax.Array) -> jax.Array:
    """The likeliest class, int (...), of logits (..., classes); -1, no class, where one is not finite."""
    return jnp.where(jnp.isfinite(logits).all(-1), jnp.argmax(logits, -1), -1)


def segmentation_metrics(
    labels: jax.Array, batch: Batch, classes: int = 2, ignore: int | None = None
) -> Metrics:
    """Dice and HD95 per case, summed over the cases of one client.

    A case is one image and one foreground class 1 ... classes - 1. Dice counts every case, and is 1 where
    prediction and reference are both empty. HD95 leaves out cases where both are empty. Edge cases:
      - pixels whose reference is ``ignore`` belong to neither mask, and images of nothing else do not count;
      - a predicted or reference label that is no class makes the sums NaN.

    Args:
      labels: (examples, ny, nx) predicted classes, integers or bool.
      batch: "segmentation" (examples, ny, nx) reference classes, in any numeric dtype; "valid" (examples,);
        "spacing" (examples, 2), where there is one: distances of the pixels along y and x.
      classes: number of classes, background 0 included.
      ignore: a reference label of pixels that are not scored.

    Returns:
      {"dice", "hd95"}: (sum over cases, number of cases); hd95 in the unit of the spacing, or else in pixels.

    Raises:
      ValueError: outside of compiled functions, for a reference label of a valid example that is no class.
    """
    wrong, scored = examined(batch, "segmentation", classes, ignore)
    labels = jnp.asarray(labels)
    unknown = (wrong | (~is_class(labels, classes) & scored).any((1, 2)))[:, None]
    foreground = jnp.arange(1, classes)[:, None, None]
    prediction = (labels[:, None].astype(jnp.int32) == foreground) & scored[:, None]
    reference = (batch["segmentation"][:, None].astype(jnp.int32) == foreground) & scored[:, None]
    valid = jnp.broadcast_to(scored.any((1, 2))[:, None], prediction.shape[:2])
    extended = valid & (prediction.any((2, 3)) | reference.any((2, 3)) | unknown)
    pairs = [mask.reshape(-1, *mask.shape[2:]) for mask in (prediction, reference)]
    spacing = jnp.repeat(jnp.asarray(batch.get("spacing", jnp.ones((len(labels), 2)))), classes - 1, 0)
    distance = lax.map(lambda case: hausdorff95(*case), (*pairs, spacing)).reshape(valid.shape)
    return {
        "dice": total(jnp.where(unknown, jnp.nan, dice(prediction, reference)), valid),
        "hd95": total(jnp.where(unknown, jnp.nan, distance), extended),
    }
