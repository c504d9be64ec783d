"""Images of measured CT slices by a trained network, with signs of whether it is at home with them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.data import CTMeasurement
from fedrecon.errors import ArgumentError
from fedrecon.learned import CheckedNetwork, Signs, half_widths, make_reconstruct, start_images
from fedrecon.types import Batch
from operators import ParallelBeam
from operators.ct import filtered_radon


def reconstruct_tomography(
    network: CheckedNetwork,
    measurement: CTMeasurement,
    water_attenuation: float | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[np.ndarray, Signs, np.ndarray | None]:
    """Images of measured slices of parallel beams by a network of CT, their signs, and half widths.

    Networks see attenuation relative to water. Where that of water is not known, the median of what is
    brighter than half of the brightest percent of the filtered back-projection counts as water; the images
    are in the unit of the measurement in both cases.

    Args:
      network: from `load_network`.
      measurement: from `read_ct_measurement`.
      water_attenuation: in 1/unit of the measurement, positive; None: not known.
      progress: called with the number of slices finished since the last call.

    Returns:
      Images (slices, ny, nx) float32 in 1/unit of the measurement, signs (slices,), and half widths of the
      network's intervals in the unit of the images, (slices, ny, nx) or None.

    Raises:
      ValueError: the network is not one of CT, the beams are not parallel in a plane, or the image has
        nothing bright.
    """
    if network.physics != "ct":
        raise ArgumentError("network", "one of CT", f"one of {network.physics.upper()}: {network.origin}")
    if not isinstance(measurement.geometry, ParallelBeam):
        found = type(measurement.geometry).__name__
        raise ArgumentError("measurement", "parallel beams, which networks are for", found)
    ny, nx = measurement.image_shape
    operator = filtered_radon(measurement.geometry, (ny, nx), measurement.pixel_size)
    stacked = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], operator)

    def measure(batch: Batch) -> tuple[Any, jax.Array, None]:
        return stacked, operator.prepare(batch["sinogram"]), None

    reconstruct, start = make_reconstruct(network.architecture.build(), measure), start_images(measure)
    images, signs, widths = [], [], []
    for values in measurement.values:
        batch = {"sinogram": jnp.asarray(values)[None]}
        scale = water_attenuation or _brightness(np.asarray(start(batch))[0])
        batch = {"sinogram": batch["sinogram"] / scale}
        image, sign = reconstruct(network.variables, batch)
        images.append(np.asarray(image[0], np.float32) * np.float32(scale))
        signs.append(sign)
        if network.interval is not None:
            widths.append(half_widths(network.interval, image, start(batch))[0] * np.float32(scale))
        progress(1)
    together = Signs(*(np.concatenate(values) for values in zip(*signs, strict=True)))
    return np.stack(images), together, np.stack(widths) if widths else None


def _brightness(image: np.ndarray) -> float:
    """Median of what is brighter than half of the 99th percentile."""
    bright = image[image > np.percentile(image, 99) / 2]
    if not len(bright) or not np.isfinite(bright).all() or np.median(bright) <= 0:
        raise ArgumentError("measurement", "a slice with something that attenuates", "none")
    return float(np.median(bright))
