"""Agreement of segmentations of images and volumes: Dice, Hausdorff distance, Dice of surfaces."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from fedrecon.errors import ArgumentError
from fedrecon.tasks.labels import examined, is_class
from fedrecon.tasks.network import total
from fedrecon.types import Batch, Metrics

Spacing = Sequence[float] | jax.Array


def dice(prediction: jax.Array, reference: jax.Array, ndim: int = 2) -> jax.Array:
    """Dice 2 |P & R| / (|P| + |R|) of masks; 1 where both are empty.

    Args:
      prediction: (..., [nz,] ny, nx) bool.
      reference: the same.
      ndim: how many of the last axes are pixels.

    Returns:
      (...) float.
    """
    axes = tuple(range(-ndim, 0))
    overlap = (prediction & reference).sum(axes)
    size = prediction.sum(axes) + reference.sum(axes)
    return jnp.where(size > 0, 2 * overlap / jnp.maximum(size, 1), 1.0)


def _spacing(mask: jax.Array, spacing: Spacing | None) -> Spacing:
    if spacing is None:
        return (1.0,) * mask.ndim
    if len(spacing) != mask.ndim:
        raise ArgumentError("spacing", f"{mask.ndim} distances, one for each axis of the mask", len(spacing))
    return spacing


def distance_transform(mask: jax.Array, spacing: Spacing | None = None) -> jax.Array:
    """Exact Euclidean distance of every pixel to the nearest True pixel of its image or volume.

    Separable: nearest True pixel along the first axis by running extrema, then the lower envelope of
    parabolas along each of the others by direct minimization.

    Args:
      mask: ([nz,] ny, nx) bool.
      spacing: distances of the pixels along the axes; 1 by default.

    Returns:
      float like ``mask``, in the unit of ``spacing``; infinite everywhere when the mask is empty.

    Raises:
      ValueError: ``spacing`` has another number of axes.
    """
    spacing = _spacing(mask, spacing)
    first = spacing[0] * jnp.arange(mask.shape[0], dtype=float).reshape(-1, *(1,) * (mask.ndim - 1))
    before = lax.cummax(jnp.where(mask, first, -jnp.inf), axis=0)
    after = lax.cummin(jnp.where(mask, first, jnp.inf), axis=0, reverse=True)
    squared = jnp.square(jnp.minimum(first - before, after - first))
    for axis in range(1, mask.ndim):
        place = spacing[axis] * jnp.arange(mask.shape[axis], dtype=float)
        lines = jnp.moveaxis(squared, axis, -1)[..., None, :]
        squared = jnp.moveaxis(jnp.min(lines + jnp.square(place[:, None] - place), -1), -1, axis)
    return jnp.sqrt(squared)


def _border(mask: jax.Array) -> jax.Array:
    inside = mask
    for axis in range(mask.ndim):
        edge = jnp.zeros_like(lax.slice_in_dim(mask, 0, 1, axis=axis))
        head = lax.slice_in_dim(mask, 0, mask.shape[axis] - 1, axis=axis)
        tail = lax.slice_in_dim(mask, 1, mask.shape[axis], axis=axis)
        inside &= jnp.concatenate([edge, head], axis) & jnp.concatenate([tail, edge], axis)
    return mask & ~inside


def _borders(prediction: jax.Array, reference: jax.Array, spacing: Spacing | None) -> list[tuple]:
    """(border of one mask, distances to the border of the other), for both."""
    borders = _border(prediction), _border(reference)
    return [(of, distance_transform(to, spacing)) for of, to in (borders, borders[::-1])]


def _percentile(values: jax.Array, where: jax.Array, share: float) -> jax.Array:
    """Linearly interpolated percentile of the selected values; infinite when none is selected."""
    ordered = jnp.sort(jnp.where(where, values, jnp.inf).ravel())
    position = share * jnp.maximum(where.sum() - 1, 0)
    low, high = jnp.floor(position).astype(int), jnp.ceil(position).astype(int)
    # Not ordered[low] + fraction * difference, which is undefined among infinities.
    fraction = position - low
    return jnp.where(low == high, ordered[low], (1 - fraction) * ordered[low] + fraction * ordered[high])


def hausdorff95(prediction: jax.Array, reference: jax.Array, spacing: Spacing | None = None) -> jax.Array:
    """95th percentile Hausdorff distance of two masks.

    The larger of the two directed 95th percentiles (linear interpolation) of the distances from the border
    pixels of one mask to the nearest border pixel of the other, as MONAI's ``compute_hausdorff_distance``
    defines it; borders are pixels with a direct neighbor (4 in images, 6 in volumes) in the background, as is
    the outside of the image. One empty mask: the diagonal of the image, more than any distance. Two empty
    masks: 0.

    Args:
      prediction: ([nz,] ny, nx) bool.
      reference: the same.
      spacing: distances of the pixels along the axes, in mm for instance; 1 by default.

    Returns:
      Scalar float, in the unit of ``spacing``.
    """
    return _hausdorff95(_borders(prediction, reference, spacing), _spacing(prediction, spacing))


def _hausdorff95(borders: list[tuple], spacing: Spacing) -> jax.Array:
    distances = [_percentile(distance, border, 0.95) for border, distance in borders]
    empty = [~border.any() for border, _ in borders]
    extent = [gap * float(n) for gap, n in zip(spacing, borders[0][0].shape, strict=True)]
    diagonal = jnp.sqrt(sum(jnp.square(length) for length in extent))
    distance = jnp.where(empty[0] | empty[1], diagonal, jnp.maximum(*distances))
    return jnp.where(empty[0] & empty[1], 0.0, distance)


def surface_dice(
    prediction: jax.Array, reference: jax.Array, tolerance: float, spacing: Spacing | None = None
) -> jax.Array:
    """Share of both borders that is within a tolerance of the other (Nikolov et al. 2018).

    Borders are pixels, as those of ``hausdorff95`` and of MONAI's ``compute_surface_dice``, of one
    weight. One empty mask: 0. Two empty masks: 1.

    Args:
      prediction: ([nz,] ny, nx) bool.
      reference: the same.
      tolerance: the largest distance that is no error, in the unit of ``spacing``.
      spacing: distances of the pixels along the axes, in mm for instance; 1 by default.

    Returns:
      Scalar float.
    """
    return _surface_dice(_borders(prediction, reference, spacing), tolerance)


def _surface_dice(borders: list[tuple], tolerance: float) -> jax.Array:
    near = sum((border & (distance <= tolerance)).sum() for border, distance in borders)
    size = sum(border.sum() for border, _ in borders)
    return jnp.where(size > 0, near / jnp.maximum(size, 1), 1.0)


def predicted_classes(logits: jax.Array) -> jax.Array:
    """The likeliest class, int (...), of logits (..., classes); -1, no class, where one is not finite."""
    return jnp.where(jnp.isfinite(logits).all(-1), jnp.argmax(logits, -1), -1)


def segmentation_metrics(
    labels: jax.Array,
    batch: Batch,
    classes: int = 2,
    ignore: int | None = None,
    tolerance: float | None = None,
) -> Metrics:
    """Dice, HD95 and Dice of surfaces per case, summed over the cases of one client.

    A case is one image or volume and one foreground class 1 ... classes - 1. Dice counts every case, and is 1
    where prediction and reference are both empty. The others leave out cases of that kind. Edge cases:
      - pixels whose reference is ``ignore`` belong to neither mask, and images of nothing else do not count;
      - a predicted or reference label that is no class makes the sums NaN.

    Args:
      labels: (examples, [nz,] ny, nx) predicted classes, integers or bool.
      batch: "segmentation" like ``labels``, reference classes, in any numeric dtype; "valid" (examples,);
        "spacing" (examples, 2 or 3), where there is one: distances of the pixels along the axes.
      classes: number of classes, background 0 included.
      ignore: a reference label of pixels that are not scored.
      tolerance: of ``surface_dice``, in the unit of the spacing, or else in pixels; None to leave it out.

    Returns:
      {"dice", "hd95"} and perhaps "surface_dice": (sum over cases, number of cases); hd95 in the unit of the
      spacing, or else in pixels.
      Of several foreground classes also "dice_1", ...: of the cases where prediction or reference have it.

    Raises:
      ValueError: outside of compiled functions, for a reference label of a valid example that is no class.
    """
    wrong, scored = examined(batch, "segmentation", classes, ignore)
    labels = jnp.asarray(labels)
    pixels, ndim = tuple(range(1, labels.ndim)), labels.ndim - 1
    unknown = (wrong | (~is_class(labels, classes) & scored).any(pixels))[:, None]
    foreground = jnp.arange(1, classes).reshape(-1, *(1,) * ndim)
    prediction = (labels[:, None].astype(jnp.int32) == foreground) & scored[:, None]
    reference = (batch["segmentation"][:, None].astype(jnp.int32) == foreground) & scored[:, None]
    valid = jnp.broadcast_to(scored.any(pixels)[:, None], prediction.shape[:2])
    some = [mask.any(tuple(range(2, mask.ndim))) for mask in (prediction, reference)]
    extended = valid & (some[0] | some[1] | unknown)
    pairs = [mask.reshape(-1, *mask.shape[2:]) for mask in (prediction, reference)]
    spacing = jnp.asarray(batch.get("spacing", jnp.ones((len(labels), ndim))))

    def surfaces(case: tuple) -> dict[str, jax.Array]:
        borders = _borders(*case)
        scores = {"hd95": _hausdorff95(borders, case[-1])}
        return scores if tolerance is None else scores | {"surface_dice": _surface_dice(borders, tolerance)}

    scores = lax.map(surfaces, (*pairs, jnp.repeat(spacing, classes - 1, 0)))
    overlaps = jnp.where(unknown, jnp.nan, dice(prediction, reference, ndim))
    by_class = {f"dice_{k}": total(overlaps[:, k - 1], extended[:, k - 1]) for k in range(1, classes)}
    return {
        "dice": total(overlaps, valid),
        **{
            name: total(jnp.where(unknown, jnp.nan, score.reshape(valid.shape)), extended)
            for name, score in scores.items()
        },
        **(by_class if classes > 2 else {}),
    }
