"""Agreement of segmentations: Dice and the 95th percentile of the Hausdorff distance."""

import jax
import jax.numpy as jnp
from jax import lax

from fedrecon.tasks.network import total
from fedrecon.types import Batch, Metrics


def dice(prediction: jax.Array, reference: jax.Array) -> jax.Array:
    """Dice 2 |P & R| / (|P| + |R|) of masks (..., ny, nx) bool -> (...) float; 1 where both are empty."""
    overlap = (prediction & reference).sum((-2, -1))
    size = prediction.sum((-2, -1)) + reference.sum((-2, -1))
    return jnp.where(size > 0, 2 * overlap / jnp.maximum(size, 1), 1.0)


def distance_transform(mask: jax.Array) -> jax.Array:
    """Exact Euclidean distance, in pixels, of every pixel to the nearest True pixel of its image.

    Separable: nearest True pixel along y by running extrema, then the lower envelope of parabolas along x
    by direct minimization.

    Args:
      mask: (ny, nx) bool.

    Returns:
      (ny, nx) float; infinite everywhere when the mask is empty.
    """
    ny, nx = mask.shape
    y = jnp.arange(ny, dtype=float)[:, None]
    above = lax.cummax(jnp.where(mask, y, -jnp.inf), axis=0)
    below = lax.cummin(jnp.where(mask, y, jnp.inf), axis=0, reverse=True)
    along_y = jnp.minimum(y - above, below - y)
    x = jnp.arange(nx, dtype=float)
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


def hausdorff95(prediction: jax.Array, reference: jax.Array) -> jax.Array:
    """95th percentile Hausdorff distance of two masks, in pixels.

    The larger of the two directed 95th percentiles (linear interpolation) of the distances from the border
    pixels of one mask to the nearest border pixel of the other; borders in the 4-neighborhood, where the
    outside of the image is background. One empty mask: the diagonal of the image, sqrt(ny^2 + nx^2), more
    than any distance. Two empty masks: 0.

    Args:
      prediction: (ny, nx) bool.
      reference: (ny, nx) bool.

    Returns:
      Scalar float.
    """
    borders = _border(prediction), _border(reference)
    distances = [_percentile(distance_transform(to), of, 0.95) for of, to in (borders, borders[::-1])]
    ny, nx = prediction.shape
    empty = ~prediction.any(), ~reference.any()
    distance = jnp.where(empty[0] | empty[1], jnp.hypot(float(ny), float(nx)), jnp.maximum(*distances))
    return jnp.where(empty[0] & empty[1], 0.0, distance)


def segmentation_metrics(labels: jax.Array, batch: Batch, classes: int = 2) -> Metrics:
    """Dice and HD95 per case, summed over the cases of one client.

    A case is one image and one foreground class 1 ... classes - 1. Dice counts every case, and is 1 where
    prediction and reference are both empty. HD95 leaves out cases where both are empty.

    Args:
      labels: (examples, ny, nx) predicted classes, integers or bool.
      batch: "segmentation" (examples, ny, nx) reference classes, in any numeric dtype; "valid" (examples,).
      classes: number of classes, background 0 included.

    Returns:
      {"dice", "hd95"}: (sum over cases, number of cases); hd95 in pixels.
    """
    foreground = jnp.arange(1, classes)[:, None, None]
    prediction = labels[:, None].astype(jnp.int32) == foreground
    reference = batch["segmentation"][:, None].astype(jnp.int32) == foreground
    valid = jnp.broadcast_to(batch["valid"][:, None], prediction.shape[:2])
    extended = valid & (prediction.any((2, 3)) | reference.any((2, 3)))
    pairs = [mask.reshape(-1, *mask.shape[2:]) for mask in (prediction, reference)]
    distance = lax.map(lambda pair: hausdorff95(*pair), tuple(pairs)).reshape(valid.shape)
    return {
        "dice": total(dice(prediction, reference), valid),
        "hd95": total(distance, extended),
    }
