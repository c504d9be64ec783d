"""Sinograms of CT as volumes, and few of their views as examples of reconstruction."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.data.clients import common_entries
from fedrecon.data.folders.files import Item
from fedrecon.data.folders.manifest import Manifest
from fedrecon.data.folders.masks import segmentation_of
from fedrecon.data.folders.volume import Rays, Volume, labels_of, volume_of
from fedrecon.data.formats import CTMeasurement, DataError, read_ct_measurement
from operators import FanBeam, ParallelBeam, fbp

# Largest gap between views, in gaps of as many even ones; golden angles have 2.6.
_EVEN = 3.0


def read_ct(item: Item, manifest: Manifest) -> Iterator[Volume]:
    """The slices of a planar geometry: their images by filtered back-projection, and their parallel rays.

    Raises:
      DataError: it is damaged, or of a cone beam.
    """
    measurement = read_ct_measurement(item.path, group=item.group)
    if len(measurement.image_shape) == 3:
        expected = "fan or parallel beams; reconstruct cones first (experiments.reconstruct)"
        raise DataError(item.path, None, expected, "a cone beam")
    ny, nx = measurement.image_shape
    values = jnp.asarray(measurement.values)
    image = np.asarray(fbp(values, measurement.geometry, (ny, nx), measurement.pixel_size), np.float32)
    image = image[..., None]
    spacing = (measurement.slice_distance, measurement.pixel_size, measurement.pixel_size)
    fan = isinstance(measurement.geometry, FanBeam)
    gap = _widest_gap(measurement.geometry, fan)
    yield volume_of(
        item,
        image=image,
        segmentation=segmentation_of(item, manifest, image.shape[:3], None),
        labels=labels_of(item, len(image)),
        spacing=spacing if measurement.unit == "mm" else None,
        unit=f"attenuation, 1/{measurement.unit}",
        gridded="fan, rebinned" if fan else "",
        rays=None if gap else (_rebinned(measurement) if fan else _parallel(measurement)),
        lacks=gap,
    )


def few_views(
    volume: Volume,
    key: jax.Array,
    matrix: tuple[int, int],
    views: int,
    acceleration: float,
    segmentation: np.ndarray | None = None,
) -> dict[str, Any]:
    """Examples of the slices of a volume, measured in every n-th of its views.

    Lengths are in pixels, which are as wide as a detector element, or as several where ``matrix`` is smaller
    than the detector. The first view is random. The reference is the filtered back-projection of all views,
    not below zero; what the measurement says at once, that of the few, gives the scale.

    Args:
      volume: with rays.
      key: of the first view.
      matrix: (ny, nx) of the cohort.
      views: number of the result, those beyond the measured ones being padding.
      acceleration: views of the volume over those kept.
      segmentation: ``(slices, *matrix)`` of 0 and 1.

    Returns:
      The entries of `simulate_ct_patient`, and ``axis_offset`` (), the place of the rotation axis on the
      detector.
    """
    rays = volume.rays
    assert rays is not None, "the caller's test"
    rays = _binned(rays, math.ceil(max(volume.matrix) / min(matrix)))
    count = len(rays.angles)
    kept = kept_views(rays, acceleration)
    first = float(jax.random.uniform(key))
    order = np.argsort(np.mod(rays.angles, 2 * np.pi), kind="stable")
    chosen = order[np.floor((np.arange(kept) + first) * count / kept).astype(int) % count]

    def image(some: np.ndarray) -> np.ndarray:
        geometry = ParallelBeam(
            rays.angles[some], rays.values.shape[-1], axis_offset=jnp.asarray(rays.axis_offset)
        )
        return np.asarray(fbp(jnp.asarray(rays.values[:, some]), geometry, matrix))

    target, seen = np.maximum(image(order), 0), np.abs(image(chosen))
    scale = np.float32(np.percentile(seen, 99))
    if not scale > 0:
        raise DataError(volume.path, "sinogram", "line integrals of an object", "zeros")
    slices = len(target)
    padding = [(0, views - kept)]
    sinogram = np.pad(rays.values[:, chosen] / scale, [(0, 0), *padding, (0, 0)])
    target = np.asarray(target / scale, np.float32)

    def alike(value: np.ndarray) -> np.ndarray:
        return np.repeat(np.asarray(value, np.float32)[None], slices, 0)

    return {
        "sinogram": sinogram.astype(np.float32),
        "angles": alike(np.pad(rays.angles[chosen], padding)),
        "view_mask": alike(np.arange(views) < kept),
        "axis_offset": np.full(slices, rays.axis_offset, np.float32),
        "target": target,
        "scale": np.full(slices, scale / rays.pixel_size),
        "pixel_size": np.full(slices, rays.pixel_size, np.float32),
    } | common_entries(target, segmentation)


def kept_views(rays: Rays, acceleration: float) -> int:
    """Number of views that few of them are."""
    return max(round(len(rays.angles) / acceleration), 1)


def _parallel(measurement: CTMeasurement) -> Rays:
    geometry = measurement.geometry
    spacing = float(geometry.detector_spacing)
    offset = (float(geometry.axis_offset) - float(geometry.detector_offset)) / spacing
    angles = np.asarray(geometry.angles, np.float64)
    return Rays(np.asarray(measurement.values, np.float32), angles, offset, spacing)


def _rebinned(measurement: CTMeasurement) -> Rays:
    """Parallel rays over half a turn by interpolation between those of a fan, each the mean of both ways."""
    geometry, values = measurement.geometry, measurement.values
    count, source = geometry.detector_count, float(geometry.source_distance)
    distance = source + float(geometry.detector_distance)
    element = float(geometry.detector_spacing) * source / distance
    s = (np.arange(count) - (count - 1) / 2) * element
    inside = np.abs(s) < 0.999 * source
    angle = np.arcsin(np.where(inside, s, 0) / source)
    theta = np.pi * np.arange(len(values[0]) // 2) / (len(values[0]) // 2)
    stored = np.mod(np.asarray(geometry.angles, np.float64), 2 * np.pi)
    order = np.argsort(stored)
    total = np.zeros((len(values), len(theta), count))
    for turn, sign in ((0.0, 1.0), (np.pi, -1.0)):
        place = distance * np.tan(sign * angle) / float(geometry.detector_spacing) + (count - 1) / 2
        view = np.mod(theta[:, None] + turn + sign * angle, 2 * np.pi)
        total += _interpolated(values[:, order], stored[order], view, np.broadcast_to(place, view.shape)) / 2
    return Rays((total * inside).astype(np.float32), theta, 0.0, element)


def _interpolated(values: np.ndarray, angles: np.ndarray, view: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Values ``(slices, views, elements)`` at angles, periodic, and elements, zero beyond the detector."""
    padded = np.append(angles, angles[0] + 2 * np.pi)
    low = np.searchsorted(padded, np.where(view < angles[0], view + 2 * np.pi, view), "right") - 1
    low = np.clip(low, 0, len(angles) - 1)
    part = np.mod(view - angles[low], 2 * np.pi) / (padded[low + 1] - padded[low])
    high, column = (low + 1) % len(angles), np.floor(place).astype(int)
    across = place - column
    result = np.zeros((len(values), *view.shape))
    for step, weight in ((0, 1 - across), (1, across)):
        at = column + step
        known = (at >= 0) & (at < values.shape[-1])
        at = np.clip(at, 0, values.shape[-1] - 1)
        result += known * weight * ((1 - part) * values[:, low, at] + part * values[:, high, at])
    return result


def _binned(rays: Rays, factor: int) -> Rays:
    """Means over so many neighboring elements."""
    if factor == 1:
        return rays
    count = rays.values.shape[-1]
    kept = count // factor * factor
    values = rays.values[..., :kept].reshape(*rays.values.shape[:-1], -1, factor).mean(-1)
    offset = (rays.axis_offset + (count - kept) / 2) / factor
    return Rays(values, rays.angles, offset, rays.pixel_size * factor)


def _widest_gap(geometry: Any, fan: bool) -> tuple[str, str] | None:
    """What is wrong with the arc of the views, as expected and found; None where they see from all sides."""
    turn = 2 * np.pi if fan else np.pi
    angles = np.sort(np.mod(np.asarray(geometry.angles, np.float64), turn))
    gap = float(np.diff(np.append(angles, angles[0] + turn)).max())
    if gap <= _EVEN * turn / len(angles):
        return None
    whole = "360 degrees of a fan" if fan else "180 degrees of parallel beams"
    return (
        f"views over {whole}, to reconstruct from few of them",
        f"none within {math.degrees(gap):.0f} degrees",
    )
